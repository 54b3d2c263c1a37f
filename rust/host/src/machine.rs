//! The machine: the façade that runs operations to their end.
//!
//! **Models** the system-call boundary: arguments are checked here, then the path runs. KVM's ioctls are in
//! [`crate::ioctl`], the memory limit in [`crate::memcg`], the accesses of a replay in [`crate::checked`].
//!
//! **Keeps**: an operation that is refused changes nothing; after each one no task is under way, so the ledger may look.

use tagvisor_arch::{GRANULE_SIZE, GRANULES_PER_PAGE, PAGE_SIZE, PageTags, Pfn, Tag, Tcf, Va};

use crate::config::{Config, ConfigError};
use crate::errno::{Errno, Signal};
use crate::file::{FileId, FileKind};
use crate::hugetlb::{HPAGE_SIZE, compound_head, in_huge_pages};
use crate::ids::{Actor, MmId};
use crate::log::{Origin, StepLine};
use crate::madvise::Advice;
use crate::mm::{Backing, Mm, Prot, Pte};
use crate::ops::{MapSpec, Op, OpResult, UserOp};
use crate::page::PageFlags;
use crate::part::Tracked;
use crate::policy::{Kpageflags, Policy};
use crate::state::{Host, Stats};
use crate::task::Task;
use crate::verdict::Violation;

/// What `/proc/self/pagemap` and `/proc/kpageflags` tell of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PagemapEntry {
    /// A frame is mapped.
    pub present: bool,
    /// The PTE is a swap entry.
    pub swap: bool,
    /// The frame.
    pub pfn: Option<Pfn>,
    /// The swap entry: its slot.
    pub entry: Option<u64>,
    /// The swap entry: its device.
    pub device: Option<u8>,
    /// `PG_mte_tagged` of the frame.
    pub mte_tagged: bool,
}

/// A machine and the one task that runs on it.
#[derive(Clone, Debug)]
pub struct Machine {
    pub(crate) host: Host,
    pub(crate) task: Task,
    /// Pages that may be resident; `u64::MAX` for no limit.
    pub(crate) limit: u64,
}

/// Pages of one mapping or memslot: 8 TiB, past any machine that can be built.
pub(crate) const MAX_PAGES: u64 = 1 << 31;

impl Machine {
    /// Boots a machine.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let host = Host::new(config)?;
        Ok(Self {
            host,
            task: Task::new(Op::Nothing),
            limit: u64::MAX,
        })
    }

    /// The state, for the explorer.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The state, for a scripted schedule; no operation is under way.
    pub fn host_mut(&mut self) -> &mut Host {
        &mut self.host
    }

    /// The decisions it runs under.
    pub fn policy(&self) -> &Policy {
        &self.host.policy
    }

    /// Runs one operation to its end.
    pub fn run(&mut self, op: Op) -> OpResult {
        self.task.restart(op);
        self.task.run(&mut self.host);
        let result = std::mem::replace(&mut self.task.io.result, OpResult::None);
        self.host.ledger_quiesce();
        self.enforce_limit();
        self.zswap_shrink_worker();
        result
    }

    pub(crate) fn syscall(&mut self, op: Op) -> Result<u64, Errno> {
        match self.run(op) {
            OpResult::Value(value) => Ok(value),
            OpResult::Errno(errno) => Err(errno),
            other => unreachable!("a system call answers a value or an errno, not {other:?}"),
        }
    }

    pub(crate) fn origin(&mut self, actor: Actor, path: &'static str) {
        self.host.log.origin = Origin { actor, path, step: "" };
        self.host.call_begins(path);
    }

    /// A new process.
    pub fn create_process(&mut self, name: &str) -> MmId {
        self.host.mms.push(Tracked::new(Mm::new(name)));
        MmId(self.host.mms.len() as u32 - 1)
    }

    /// `fork`: a child with the same memory, copied when either writes.
    pub fn fork(&mut self, mm: MmId, name: &str) -> MmId {
        let child = self.host.mm(mm).dup(name);
        self.host.mms.push(Tracked::new(child));
        let child = MmId(self.host.mms.len() as u32 - 1);
        self.run(Op::Fork(mm, child));
        child
    }

    /// A process ends: all it has mapped goes.
    pub fn exit(&mut self, mm: MmId) {
        self.run(Op::Exit(mm));
    }

    /// A file to map (memfd, a file on tmpfs or ramfs), of so many pages.
    pub fn create_file(&mut self, kind: FileKind, pages: u64) -> FileId {
        self.host.create_file(kind, pages, true)
    }

    /// `ftruncate` to so many pages; a `guest_memfd` keeps its size.
    pub fn truncate(&mut self, file: FileId, pages: u64) {
        if self.host.file(file).kind == FileKind::GuestMemfd {
            return;
        }
        let old = std::mem::replace(&mut self.host.file_mut(file).pages, pages);
        if pages < old {
            self.run(Op::Truncate(file, pages, u64::MAX));
        }
    }

    /// `mmap`, with `MAP_FIXED` at an address: -EINVAL for a length of 0, an unaligned address, a private mapping of a
    /// `guest_memfd`, or `PROT_MTE` where tags are not allowed; -ENOMEM for more than there are addresses, and when the device region is used up.
    pub fn mmap(&mut self, mm: MmId, spec: MapSpec, fixed: Option<Va>) -> Result<Va, Errno> {
        if spec.pages > MAX_PAGES {
            return Err(Errno::Enomem);
        }
        if spec.pages == 0 || fixed.is_some_and(|va| va.page_offset() != 0) {
            return Err(Errno::Einval);
        }
        if let Backing::File(file) = spec.backing
            && self.host.file(file).kind == FileKind::GuestMemfd
            && !spec.shared
        {
            return Err(Errno::Einval);
        }
        // Refused before anything is unmapped: an error changes nothing.
        let (spec, align) = match spec.backing {
            Backing::Hugetlb => (in_huge_pages(spec), HPAGE_SIZE),
            _ => (spec, PAGE_SIZE),
        };
        if fixed.is_some_and(|va| !va.0.is_multiple_of(align)) {
            return Err(Errno::Einval);
        }
        if spec.prot.contains(Prot::MTE) && !self.host.mte_allowed(spec.backing) {
            return Err(Errno::Einval);
        }
        if spec.pages > self.host.frames_left(spec.backing) {
            return Err(Errno::Enomem);
        }
        if let Some(va) = fixed {
            self.syscall(Op::Replace(mm, va, spec))?;
            return Ok(va);
        }
        let va = self.host.mm_mut(mm).unmapped_area(spec.pages, align);
        self.origin(Actor::Process(mm), "mmap");
        self.host.mmap_region(mm, va, spec)?;
        Ok(va)
    }

    pub(crate) fn range_ok(va: Va, pages: u64) -> Result<(), Errno> {
        let ok = va.page_offset() == 0 && (1..=MAX_PAGES).contains(&pages) && va.0 < 1 << 56;
        if ok { Ok(()) } else { Err(Errno::Einval) }
    }

    /// `hugetlb_vm_op_split`: -EINVAL for a mapping that would end inside a huge page.
    fn splits_no_huge_page(&self, mm: MmId, va: Va, pages: u64) -> Result<(), Errno> {
        let ends = [va, va + pages * PAGE_SIZE];
        let inside = |at: Va| {
            let huge = self
                .host
                .mm(mm)
                .vma(at)
                .is_some_and(|(_, vma)| self.host.is_hugetlb(vma));
            huge && !at.0.is_multiple_of(HPAGE_SIZE)
        };
        if ends.into_iter().any(inside) {
            Err(Errno::Einval)
        } else {
            Ok(())
        }
    }

    /// `munmap`.
    pub fn munmap(&mut self, mm: MmId, va: Va, pages: u64) -> Result<(), Errno> {
        Self::range_ok(va, pages)?;
        self.splits_no_huge_page(mm, va, pages)?;
        self.syscall(Op::Munmap(mm, va, pages)).map(drop)
    }

    /// `mprotect`: -ENOMEM for a hole, -EINVAL for `PROT_MTE` where it is not allowed.
    pub fn mprotect(&mut self, mm: MmId, va: Va, pages: u64, prot: Prot) -> Result<(), Errno> {
        Self::range_ok(va, pages)?;
        self.splits_no_huge_page(mm, va, pages)?;
        self.syscall(Op::Mprotect(mm, va, pages, prot)).map(drop)
    }

    fn user(&mut self, mm: MmId, op: UserOp) -> Result<u64, Signal> {
        match self.run(Op::User(mm, op)) {
            OpResult::Value(value) => Ok(value),
            OpResult::Signal(signal) => Err(signal),
            other => unreachable!("a user access answers a value or a signal, not {other:?}"),
        }
    }

    /// A load of 1, 2, 4 or 8 bytes by the process.
    pub fn user_load(&mut self, mm: MmId, ptr: Va, size: u8) -> Result<u64, Signal> {
        self.user(mm, UserOp::Load { ptr, size })
    }

    /// A store of 1, 2, 4 or 8 bytes by the process.
    pub fn user_store(&mut self, mm: MmId, ptr: Va, size: u8, value: u64) -> Result<(), Signal> {
        self.user(mm, UserOp::Store { ptr, size, value }).map(drop)
    }

    /// LDG by the process: 0 where the mapping has no tags.
    pub fn user_ldg(&mut self, mm: MmId, ptr: Va) -> Result<Tag, Signal> {
        self.user(mm, UserOp::Ldg { ptr }).map(|v| Tag::new(v as u8))
    }

    /// STG by the process: ignored where the mapping has no tags.
    pub fn user_stg(&mut self, mm: MmId, ptr: Va, tag: Tag) -> Result<(), Signal> {
        self.user(mm, UserOp::Stg { ptr, tag }).map(drop)
    }

    /// `prctl(PR_SET_TAGGED_ADDR_CTRL)`: how failed tag checks of the process are reported.
    pub fn set_tagged_addr_ctrl(&mut self, mm: MmId, tcf: Tcf) {
        let mm = self.host.mm_mut(mm);
        // The kernel is entered for it, and looks at TFSRE0_EL1 then.
        mm.check_mte_tfsr();
        mm.tcf = tcf;
    }

    /// How many `SEGV_MTEAERR` the process got since this was asked last. Asking is a system call: what the kernel finds in
    /// `TFSRE0_EL1` when it is entered for it counts the next time.
    pub fn take_async_tag_faults(&mut self, mm: MmId) -> u32 {
        let mm = self.host.mm_mut(mm);
        let delivered = std::mem::take(&mut mm.async_signals);
        mm.check_mte_tfsr();
        delivered
    }

    /// Did a `SIGBUS` for a poisoned page come that no access of the process itself has met, since this was asked last?
    pub fn take_sigbus(&mut self, mm: MmId) -> bool {
        std::mem::take(&mut self.host.mm_mut(mm).sigbus)
    }

    /// The kernel reads user memory for the process (`write(2)` from it): checked like an access of its own, and -EFAULT
    /// where that would be a signal.
    pub fn syscall_read(&mut self, mm: MmId, ptr: Va, size: u64) -> Result<u64, Errno> {
        for at in 0..size {
            self.user_load(mm, ptr + at, 1).map_err(|_| Errno::Efault)?;
        }
        Ok(size)
    }

    /// `PTRACE_PEEKMTETAGS`: up to `count` tags from a granule on; -EIO when none could be read.
    pub fn ptrace_peek_tags(&mut self, mm: MmId, va: Va, count: u32) -> Result<Vec<u8>, Errno> {
        match self.run(Op::PeekTags { mm, va, count }) {
            OpResult::Tags { tags, .. } => Ok(tags),
            OpResult::Errno(errno) => Err(errno),
            _ => Ok(Vec::new()),
        }
    }

    /// `PTRACE_POKEMTETAGS`: how many tags were written; -EIO when none could be.
    pub fn ptrace_poke_tags(&mut self, mm: MmId, va: Va, tags: Vec<u8>) -> Result<u64, Errno> {
        self.syscall(Op::PokeTags { mm, va, tags })
    }

    /// LDG of every granule of a page.
    pub fn user_tags(&mut self, mm: MmId, page: Va) -> Result<PageTags, Signal> {
        let mut tags = PageTags::ZERO;
        for granule in 0..GRANULES_PER_PAGE {
            tags.set(granule, self.user_ldg(mm, page + granule as u64 * GRANULE_SIZE)?);
        }
        Ok(tags)
    }

    /// STG of every granule of a page.
    pub fn user_fill_tags(&mut self, mm: MmId, page: Va, tags: &PageTags) -> Result<(), Signal> {
        for granule in 0..GRANULES_PER_PAGE {
            self.user_stg(mm, page + granule as u64 * GRANULE_SIZE, tags.get(granule))?;
        }
        Ok(())
    }

    /// The page table entry of an address, as `/proc/self/pagemap` shows it.
    pub fn pagemap(&self, mm: MmId, va: Va) -> PagemapEntry {
        match self.host.mm(mm).pte(va.untagged()) {
            Some(Pte::Present { pfn, .. }) => {
                let of_head = self.host.policy.kpageflags == Kpageflags::Folio && self.host.is_thp(pfn);
                let shown = if of_head { compound_head(pfn) } else { pfn };
                let mte_tagged = self.host.has_flag(shown, PageFlags::MTE_TAGGED);
                PagemapEntry {
                    present: true,
                    swap: false,
                    pfn: Some(pfn),
                    entry: None,
                    device: None,
                    mte_tagged,
                }
            }
            Some(Pte::Migration { .. } | Pte::Hwpoison(_)) => PagemapEntry {
                present: false,
                swap: true,
                pfn: None,
                entry: None,
                device: None,
                mte_tagged: false,
            },
            Some(Pte::Swap(entry)) => PagemapEntry {
                present: false,
                swap: true,
                pfn: None,
                entry: Some(entry.offset.into()),
                device: Some(entry.device),
                mte_tagged: false,
            },
            None => PagemapEntry {
                present: false,
                swap: false,
                pfn: None,
                entry: None,
                device: None,
                mte_tagged: false,
            },
        }
    }

    /// `MADV_PAGEOUT`, and when that unmapped the page, reclaim until it has left the swap cache. What `madvise` refuses is an
    /// error; a page that cannot go (the zero page, one that is mapped twice, no swap slot left) stays, as the answer shows.
    pub fn evict(&mut self, mm: MmId, va: Va) -> Result<PagemapEntry, Errno> {
        let va = va.untagged();
        // A page that was referenced lately may need a second call.
        for _ in 0..8 {
            self.madvise(mm, va.page(), 1, Advice::Pageout)?;
            if !self.pagemap(mm, va).present {
                break;
            }
        }
        if !self.pagemap(mm, va).present {
            self.run(Op::Evict(mm, va));
        }
        Ok(self.pagemap(mm, va))
    }

    /// `move_pages` of one page, as compaction would: -ENOENT where nothing is mapped, -EFAULT for the zero page and for
    /// memory that does not move, -EAGAIN for a page that somebody holds.
    pub fn migrate_page(&mut self, mm: MmId, va: Va) -> Result<(), Errno> {
        self.syscall(Op::Migrate(mm, va)).map(drop)
    }

    /// `/sys/kernel/mm/ksm/use_zero_pages`: ksmd replaces pages of zeros by the zero page.
    pub fn set_ksm_use_zero_pages(&mut self, on: bool) {
        self.host.ksm_use_zero_pages = on;
    }

    /// `ksmd` runs until nothing is left to merge; how many pages were.
    pub fn ksm_run(&mut self) -> u64 {
        match self.run(Op::KsmScan) {
            OpResult::Value(merged) => merged,
            other => unreachable!("a scan answers how many pages, not {other:?}"),
        }
    }

    /// Looks at everything and returns the first violation noticed so far.
    pub fn check(&mut self) -> Result<(), Violation> {
        self.host.audit();
        self.host.violations.first().cloned().map_or(Ok(()), Err)
    }

    /// Violations in the order they were noticed.
    pub fn violations(&self) -> &[Violation] {
        self.host.violations()
    }

    /// Every line of the log.
    pub fn log(&self) -> &[StepLine] {
        self.host.log()
    }

    /// Counters.
    pub fn stats(&self) -> Stats {
        self.host.stats()
    }
}
