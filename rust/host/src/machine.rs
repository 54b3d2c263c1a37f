//! The machine: the façade that runs operations to their end.
//!
//! **Models** the system-call and ioctl boundary: arguments are checked here, then the path runs. Between operations the
//! control group's limit is enforced by reclaim, oldest page first with a second chance for pages used since.
//!
//! **Keeps**: an operation that is refused changes nothing; after each one no task is under way, so the ledger may look.

use tagvisor_arch::{
    Cpu, Fault, GRANULE_SIZE, GRANULES_PER_PAGE, GcrEl1, Ipa, PAGE_SIZE, PageTags, Pfn, RgsrEl1, Tag, Tcf, Va,
};
use tagvisor_mem::{Tlb, TlbFlags};

use crate::config::{Config, ConfigError};
use crate::errno::{Errno, Signal};
use crate::ids::{Actor, MmId, VcpuId, VmId};
use crate::kvm::{Kvm, Memslot, SLOT_DIRTY_LOG, Vcpu};
use crate::log::{Key, Origin, StepLine, note};
use crate::mm::{Backing, Mm, Prot, Pte};
use crate::ops::{GuestOp, Op, OpResult, UserOp};
use crate::page::PageFlags;
use crate::policy::Policy;
use crate::state::{Host, Stats};
use crate::step::Task;
use crate::verdict::Violation;

/// Arguments of [`Machine::mmap`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MmapArgs {
    /// Length in pages, at least 1.
    pub pages: u64,
    /// What stands behind it.
    pub backing: Backing,
    /// `MAP_SHARED`?
    pub shared: bool,
    /// Protection; [`Prot::MTE`] for tags.
    pub prot: Prot,
    /// `MAP_FIXED` at this address, over whatever is there.
    pub fixed: Option<Va>,
}

/// Arguments of [`Machine::set_user_memory_region`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotArgs {
    /// Slot number.
    pub id: u32,
    /// Guest address.
    pub ipa: Ipa,
    /// Address in the VMM.
    pub userspace_addr: Va,
    /// Length in pages; 0 deletes.
    pub pages: u64,
    /// 1 dirty log, 2 read-only.
    pub flags: u32,
}

/// `struct kvm_arm_copy_mte_tags` without the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyTags {
    /// Guest address, page aligned.
    pub ipa: u64,
    /// Bytes of guest memory, page aligned.
    pub length: u64,
    /// 1: from the guest, 0: to it.
    pub flags: u64,
    /// Must be 0.
    pub reserved: [u64; 2],
}

/// What `/proc/self/pagemap` and `/proc/kpageflags` tell of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PagemapEntry {
    /// A frame is mapped.
    pub present: bool,
    /// The PTE is a swap entry.
    pub swap: bool,
    /// The frame.
    pub pfn: Option<Pfn>,
    /// The swap entry.
    pub entry: Option<u64>,
    /// `PG_mte_tagged` of the frame.
    pub mte_tagged: bool,
}

/// Why a guest stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestExit {
    /// It took an exception to EL1.
    Exception(Fault),
    /// `KVM_RUN` failed.
    Errno(Errno),
    /// `KVM_EXIT_MMIO`.
    Mmio {
        /// A store?
        write: bool,
        /// Where.
        ipa: Ipa,
        /// Bytes.
        len: u8,
        /// What was stored.
        value: u64,
    },
}

/// The answer of the replay hot path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checked {
    /// The access passes.
    Ok,
    /// Logical and allocation tag differ.
    TagMismatch {
        /// Start of the first failing part, tag included (FAR).
        far: Va,
    },
    /// The guest stopped for another reason.
    Exit(GuestExit),
}

/// A machine and the one task that runs on it.
#[derive(Clone, Debug)]
pub struct Machine {
    host: Host,
    task: Task,
    /// Pages that may be resident; `u64::MAX` for no limit.
    limit: u64,
}

/// Pages of one mapping or memslot: 8 TiB, past any machine that can be built.
const MAX_PAGES: u64 = 1 << 31;

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
        result
    }

    fn syscall(&mut self, op: Op) -> Result<u64, Errno> {
        match self.run(op) {
            OpResult::Value(value) => Ok(value),
            OpResult::Errno(errno) => Err(errno),
            other => unreachable!("a system call answers a value or an errno, not {other:?}"),
        }
    }

    fn origin(&mut self, actor: Actor, path: &'static str) {
        self.host.log.origin = Origin { actor, path, step: "" };
    }

    /// A new process.
    pub fn create_process(&mut self, name: &str) -> MmId {
        self.host.mms.push(Mm::new(name));
        MmId(self.host.mms.len() as u32 - 1)
    }

    /// `mmap`: -EINVAL for a length of 0, an unaligned address, or `PROT_MTE` where tags are not allowed; -ENOMEM when the
    /// device region is used up.
    pub fn mmap(&mut self, mm: MmId, args: MmapArgs) -> Result<Va, Errno> {
        let MmapArgs {
            pages,
            backing,
            shared,
            prot,
            fixed,
        } = args;
        if pages == 0 || pages > MAX_PAGES || fixed.is_some_and(|va| va.page_offset() != 0) {
            return Err(Errno::Einval);
        }
        // Refused before anything is unmapped: an error changes nothing.
        if prot.contains(Prot::MTE) && backing != Backing::Anon {
            return Err(Errno::Einval);
        }
        if let Some(va) = fixed {
            self.syscall(Op::Replace(mm, va, pages, backing, prot, shared))?;
            return Ok(va);
        }
        let va = self.host.mm_mut(mm).unmapped_area(pages);
        self.origin(Actor::Process(mm), "mmap");
        self.host.mmap_region(mm, va, pages, backing, prot, shared)?;
        Ok(va)
    }

    fn range_ok(va: Va, pages: u64) -> Result<(), Errno> {
        let ok = va.page_offset() == 0 && (1..=MAX_PAGES).contains(&pages) && va.0 < 1 << 56;
        if ok { Ok(()) } else { Err(Errno::Einval) }
    }

    /// `munmap`.
    pub fn munmap(&mut self, mm: MmId, va: Va, pages: u64) -> Result<(), Errno> {
        Self::range_ok(va, pages)?;
        self.syscall(Op::Munmap(mm, va, pages)).map(drop)
    }

    /// `mprotect`: -ENOMEM for a hole, -EINVAL for `PROT_MTE` where it is not allowed.
    pub fn mprotect(&mut self, mm: MmId, va: Va, pages: u64, prot: Prot) -> Result<(), Errno> {
        Self::range_ok(va, pages)?;
        self.syscall(Op::Mprotect(mm, va, pages, prot)).map(drop)
    }

    /// `madvise(MADV_DONTNEED)`: -ENOMEM for a hole.
    pub fn madvise_dontneed(&mut self, mm: MmId, va: Va, pages: u64) -> Result<(), Errno> {
        Self::range_ok(va, pages)?;
        if !self.host.mm(mm).fully_mapped(va, pages) {
            return Err(Errno::Enomem);
        }
        self.syscall(Op::DontNeed(mm, va, pages)).map(drop)
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
                let mte_tagged = self.host.has_flag(pfn, PageFlags::MTE_TAGGED);
                PagemapEntry {
                    present: true,
                    swap: false,
                    pfn: Some(pfn),
                    entry: None,
                    mte_tagged,
                }
            }
            Some(Pte::Swap(entry)) => PagemapEntry {
                present: false,
                swap: true,
                pfn: None,
                entry: Some(entry.0.into()),
                mte_tagged: false,
            },
            None => PagemapEntry {
                present: false,
                swap: false,
                pfn: None,
                entry: None,
                mte_tagged: false,
            },
        }
    }

    /// `MADV_PAGEOUT` until the page is swapped out, then reclaim until it has left the swap cache. -ENOMEM for an address
    /// outside every mapping; a page that cannot go (the zero page, device memory, no swap slot left) stays, as the answer
    /// shows.
    pub fn evict(&mut self, mm: MmId, va: Va) -> Result<PagemapEntry, Errno> {
        if self.host.mm(mm).vma(va.untagged()).is_none() {
            return Err(Errno::Enomem);
        }
        self.run(Op::Evict(mm, va));
        Ok(self.pagemap(mm, va))
    }

    /// `swapoff`: -ENOMEM when memory cannot take what is swapped out.
    pub fn swapoff(&mut self) -> Result<(), Errno> {
        self.syscall(Op::Swapoff).map(drop)
    }

    /// `KVM_CREATE_VM`: -ENOMEM when there is no memory for its root table.
    pub fn create_vm(&mut self, mm: MmId) -> Result<VmId, Errno> {
        let kvm = Kvm::new(mm, &mut self.host.buddy, &mut self.host.mem).ok_or(Errno::Enomem)?;
        self.host.vms.push(kvm);
        Ok(VmId(self.host.vms.len() as u32 - 1))
    }

    /// Closes a VM: its memslots and stage-2 tables go. -EBADF if that was done before.
    pub fn destroy_vm(&mut self, vm: VmId) -> Result<(), Errno> {
        self.open_vm(vm)?;
        self.host.kvm_destroy_vm(vm);
        Ok(())
    }

    /// An ioctl needs an open file descriptor: -EBADF once the VM was destroyed.
    fn open_vm(&self, vm: VmId) -> Result<(), Errno> {
        if self.host.vm(vm).alive {
            Ok(())
        } else {
            Err(Errno::Ebadf)
        }
    }

    /// `KVM_CHECK_EXTENSION(KVM_CAP_ARM_MTE)`.
    pub fn check_extension_arm_mte(&self) -> bool {
        true
    }

    /// `KVM_ENABLE_CAP(KVM_CAP_ARM_MTE)`: -EINVAL once a vCPU exists.
    pub fn enable_cap_arm_mte(&mut self, vm: VmId) -> Result<(), Errno> {
        self.open_vm(vm)?;
        if !self.host.vm(vm).vcpus.is_empty() {
            return Err(Errno::Einval);
        }
        self.host.vm_mut(vm).mte = true;
        self.origin(Actor::Process(self.host.vm(vm).mm), "KVM_ENABLE_CAP");
        note!(self.host, [Key::Always], "KVM_CAP_ARM_MTE enabled for VM {}", vm.0);
        Ok(())
    }

    /// `KVM_CREATE_VCPU`: a vCPU at EL1 with synchronous tag checks and TBI; tags are reachable iff the VM has MTE
    /// (`HCR_EL2.ATA`).
    pub fn create_vcpu(&mut self, vm: VmId) -> Result<VcpuId, Errno> {
        self.open_vm(vm)?;
        let (tlb_bits, seed) = (self.host.tlb_bits, self.host.seed);
        let kvm = self.host.vm_mut(vm);
        let index = kvm.vcpus.len() as u32;
        let rgsr = RgsrEl1::new().with_seed((seed + u64::from(index)) as u16);
        let cpu = Cpu {
            gcr: GcrEl1::new(),
            rgsr,
            tco: false,
            tcf: Tcf::Sync,
            tbi: true,
            ata: kvm.mte,
            el: 1,
        };
        kvm.vcpus.push(Vcpu {
            cpu,
            tlb: Tlb::new(tlb_bits),
        });
        Ok(VcpuId { vm, index })
    }

    /// `GCR_EL1.Exclude` of a vCPU.
    pub fn set_gcr_exclude(&mut self, vcpu: VcpuId, exclude: u16) {
        let cpu = &mut self.host.vcpu_mut(vcpu).cpu;
        cpu.gcr = cpu.gcr.with_exclude(exclude);
    }

    /// `PSTATE.TCO` of a vCPU.
    pub fn set_tco(&mut self, vcpu: VcpuId, tco: bool) {
        self.host.vcpu_mut(vcpu).cpu.tco = tco;
    }

    /// `KVM_SET_USER_MEMORY_REGION`. -EINVAL: unaligned, too large, a policy that refuses the memory, a slot that does not
    /// exist deleted; -EEXIST: overlaps another slot.
    pub fn set_user_memory_region(&mut self, vm: VmId, args: SlotArgs) -> Result<(), Errno> {
        let SlotArgs {
            id,
            ipa,
            userspace_addr,
            pages,
            flags,
        } = args;
        self.open_vm(vm)?;
        if ipa.page_offset() != 0 || pages > MAX_PAGES {
            return Err(Errno::Einval);
        }
        self.origin(Actor::Process(self.host.vm(vm).mm), "KVM_SET_USER_MEMORY_REGION");
        let slot = Memslot {
            base_gfn: ipa.gfn(),
            pages,
            userspace_addr,
            flags,
            device: false,
        };
        self.host.kvm_set_memory_region(vm, id, slot)
    }

    /// `KVM_ARM_MTE_COPY_TAGS`; `buf` holds one tag a byte and may be shorter than the length asks for. Returns the bytes of
    /// guest memory covered. Checks in the kernel's order (6.12).
    pub fn mte_copy_tags(&mut self, vm: VmId, args: CopyTags, buf: &mut [u8]) -> Result<u64, Errno> {
        const FROM_GUEST: u64 = 1;
        self.open_vm(vm)?;
        let CopyTags {
            ipa,
            length,
            flags,
            reserved,
        } = args;
        let aligned = ipa.is_multiple_of(PAGE_SIZE) && length.is_multiple_of(PAGE_SIZE);
        if !self.host.vm(vm).mte || reserved != [0, 0] || flags > FROM_GUEST || !aligned || length > i32::MAX as u64 {
            return Err(Errno::Einval);
        }
        let (ipa, pages) = (Ipa(ipa), u32::try_from(length / PAGE_SIZE).map_err(|_| Errno::Einval)?);
        if flags == FROM_GUEST {
            let room = u32::try_from(buf.len()).unwrap_or(u32::MAX);
            return match self.run(Op::CopyTagsFrom { vm, ipa, pages, room }) {
                OpResult::Tags { tags, covered } => {
                    buf[..tags.len()].copy_from_slice(&tags);
                    Ok(covered)
                }
                OpResult::Errno(errno) => Err(errno),
                other => unreachable!("tags or an errno, not {other:?}"),
            };
        }
        if self.host.vm(vm).slots.values().any(|s| s.flags & SLOT_DIRTY_LOG != 0) {
            return Err(Errno::Ebusy);
        }
        self.syscall(Op::CopyTagsTo {
            vm,
            ipa,
            pages,
            tags: buf.to_vec(),
        })
    }

    /// One guest instruction, run until it completes or the guest stops.
    pub fn guest(&mut self, vcpu: VcpuId, op: GuestOp) -> Result<u64, GuestExit> {
        self.open_vm(vcpu.vm).map_err(GuestExit::Errno)?;
        match self.run(Op::Guest(vcpu, op)) {
            OpResult::Value(value) => Ok(value),
            OpResult::Exception(fault) => Err(GuestExit::Exception(fault)),
            OpResult::Errno(errno) => Err(GuestExit::Errno(errno)),
            OpResult::Mmio { write, ipa, len, value } => Err(GuestExit::Mmio { write, ipa, len, value }),
            other => unreachable!("a guest answers a value or an exit, not {other:?}"),
        }
    }

    /// LDG of every granule of a guest page.
    pub fn guest_page_tags(&mut self, vcpu: VcpuId, ptr: Va) -> Result<PageTags, GuestExit> {
        let mut tags = PageTags::ZERO;
        for granule in 0..GRANULES_PER_PAGE {
            let value = self.guest(
                vcpu,
                GuestOp::Ldg {
                    ptr: ptr + granule as u64 * GRANULE_SIZE,
                },
            )?;
            tags.set(granule, Tag::new(value as u8));
        }
        Ok(tags)
    }

    /// STG of every granule of a guest page: granule i gets `first + i * step`, modulo 16.
    pub fn guest_fill_page(&mut self, vcpu: VcpuId, ptr: Va, first: Tag, step: u8) -> Result<(), GuestExit> {
        for granule in 0..GRANULES_PER_PAGE {
            let tag = Tag::new(first.get().wrapping_add(step.wrapping_mul(granule as u8)));
            self.guest(
                vcpu,
                GuestOp::Stg {
                    ptr: ptr + granule as u64 * GRANULE_SIZE,
                    tag,
                },
            )?;
        }
        Ok(())
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

    /// Pages that may be resident at once, as a control group's `memory.max`; at least 2, one to fault and one to map.
    pub fn set_memory_limit(&mut self, pages: u64) {
        self.limit = pages.max(2);
        self.enforce_limit();
    }

    /// Reclaims the oldest pages while over the limit or short of free frames. A page used since reclaim last looked gets a
    /// second chance: its young bit and TLB entries are cleared and it goes to the end of the list.
    fn enforce_limit(&mut self) {
        /// Frames kept free: an operation needs fewer than this before reclaim runs again.
        const WATERMARK: u64 = 8;
        let mut chances = 2 * self.host.lru.len();
        while (self.host.resident > self.limit || self.host.buddy.free_pages() < WATERMARK) && chances > 0 {
            chances -= 1;
            let Some(pfn) = self.host.lru.pop_front() else { return };
            let page = self.host.page(pfn);
            let Some((mm, va)) = page.mapping.filter(|_| page.flags.contains(PageFlags::LRU)) else {
                continue;
            };
            if page.flags.contains(PageFlags::YOUNG) {
                self.host.set_flag(pfn, PageFlags::YOUNG, false);
                self.host.clear_flush_young(mm, va);
                self.host.lru.push_back(pfn);
                continue;
            }
            self.task.restart(Op::Evict(mm, va));
            self.task.run(&mut self.host);
            if self.host.has_flag(pfn, PageFlags::LRU) {
                self.host.lru.push_back(pfn);
            }
        }
        self.host.ledger_quiesce();
    }

    /// The replay hot path: translation and tag check of an access of 1 to 255 bytes, no data moved. A TLB hit inside one
    /// page is decided here; everything else takes the real path.
    #[inline]
    pub fn guest_check(&mut self, vcpu: VcpuId, ptr: u64, size: u32, write: bool) -> Checked {
        let va = Va(ptr).untagged();
        let (offset, tag) = (va.0 % PAGE_SIZE, Va(ptr).tag());
        let need = if write { TlbFlags::WRITE } else { TlbFlags::READ };
        if let Some(entry) = self.host.vcpu(vcpu).tlb.lookup(va.0 / PAGE_SIZE)
            && entry.flags.contains(need | TlbFlags::TAGGED)
            && offset + u64::from(size) <= PAGE_SIZE
            && size > 0
        {
            let last = ((offset + u64::from(size) - 1) / GRANULE_SIZE) as usize;
            let first = (offset / GRANULE_SIZE) as usize;
            if (first..=last).all(|granule| self.host.mem.frame_tag(entry.frame, granule) == tag) {
                return Checked::Ok;
            }
        }
        self.guest_check_slow(vcpu, ptr, size, write)
    }

    #[cold]
    #[inline(never)]
    fn guest_check_slow(&mut self, vcpu: VcpuId, ptr: u64, size: u32, write: bool) -> Checked {
        let size = u8::try_from(size).expect("an access has at most 255 bytes");
        match self.guest(
            vcpu,
            GuestOp::Probe {
                ptr: Va(ptr),
                size,
                write,
            },
        ) {
            Ok(_) => Checked::Ok,
            Err(GuestExit::Exception(f)) if f.kind == tagvisor_arch::FaultKind::TagCheck => {
                Checked::TagMismatch { far: f.va }
            }
            Err(exit) => Checked::Exit(exit),
        }
    }

    /// STG over a range: `ptr` is granule aligned and carries the tag, `bytes` is a multiple of 16.
    pub fn guest_set_tags(&mut self, vcpu: VcpuId, ptr: u64, bytes: u64) -> Result<(), GuestExit> {
        let tag = Va(ptr).tag();
        for at in (0..bytes).step_by(GRANULE_SIZE as usize) {
            let ptr = Va(ptr + at);
            if !self.stg_hit(vcpu, ptr, tag) {
                self.guest(vcpu, GuestOp::Stg { ptr, tag })?;
            }
        }
        Ok(())
    }

    /// STG through a TLB hit; false when the real path must be taken (also whenever the ledger watches).
    #[inline]
    fn stg_hit(&mut self, vcpu: VcpuId, ptr: Va, tag: Tag) -> bool {
        let va = ptr.untagged();
        let hit = self.host.vcpu(vcpu).tlb.lookup(va.0 / PAGE_SIZE);
        let Some(entry) = hit.filter(|e| e.flags.contains(TlbFlags::WRITE | TlbFlags::TAGGED)) else {
            return false;
        };
        if self.host.ledger.enabled {
            return false;
        }
        let pa = entry.pfn.base() + va.page_offset();
        self.host.mem.set_tag(pa, tag);
        true
    }
}

impl Host {
    /// `kvm_age_gfn`: the next access must walk again, so that it shows.
    fn clear_flush_young(&mut self, mm: MmId, va: Va) {
        for vm in 0..self.vms.len() {
            if !self.vms[vm].alive || self.vms[vm].mm != mm {
                continue;
            }
            for gfn in self.vms[vm].gfns_of(va) {
                for vcpu in &mut self.vms[vm].vcpus {
                    vcpu.tlb.invalidate(gfn.0);
                }
            }
        }
    }
}
