//! The whole host as one value.
//!
//! **Keeps**: everything a step reads or writes is in [`Host`]; two hosts with equal [`Host::encode`] behave alike for
//! ever (statistics, log and recorded violations are left out of it).

use std::collections::{BTreeSet, VecDeque};

use tagvisor_arch::{PAGE_SIZE, Pa, PageTags, Pfn, RgsrEl1, Va};
use tagvisor_mem::{MemError, PhysMem, Region, RegionKind};

use crate::buddy::Buddy;
use crate::config::{Config, ConfigError};
use crate::decide::Deciding;
use crate::file::{File, FileId, FileKind};
use crate::hugetlb::Pool;
use crate::ids::{Actor, MmId, VcpuId, VmId};
use crate::kvm::{Kvm, Vcpu};
use crate::ledger::Ledger;
use crate::log::{Key, Log, StepLine};
use crate::mm::Mm;
use crate::mteswap::{FailingTagSaves, MtePages};
use crate::page::{Page, PageFlags, Pages};
use crate::part::Tracked;
use crate::policy::{Policy, SwapPriority, ZeroPage};
use crate::swap::Swap;
use crate::thp::Thp;
use crate::verdict::Violation;
use crate::zswap::Zswap;

/// Where RAM starts, as on QEMU's and most boards' memory maps.
const RAM_BASE: u64 = 0x4000_0000;

macro_rules! stats {
    ($($(#[doc = $doc:literal])+ $name:ident,)*) => {
        /// Counters of what the host did.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Stats { $($(#[doc = $doc])+ pub $name: u64,)* }

        impl Stats {
            /// Names and values, in a fixed order.
            pub fn entries(&self) -> Vec<(&'static str, u64)> { vec![$((stringify!($name), self.$name),)*] }
        }
    };
}

stats! {
    /// Stage-2 faults that reached `user_mem_abort`.
    stage2_faults,
    /// Faults given up because a notifier ran in between (`mmu_invalidate_retry`).
    stage2_retries,
    /// Blocks of 2 MiB mapped at stage 2.
    stage2_blocks,
    /// Blocks broken into pages, because writes are logged.
    stage2_block_splits,
    /// Blocks mapped in place of a table.
    stage2_block_merges,
    /// Pages written to swap.
    swap_outs,
    /// Of those, pages of zeros that only set a bit (`swpout_zero`).
    swap_outs_zero,
    /// Of those, pages that zswap took (`zswpout`).
    swap_outs_zswap,
    /// Pages read from swap.
    swap_ins,
    /// Of those, pages that zswap had (`zswpin`).
    swap_ins_zswap,
    /// Pages that zswap has written back to their devices (`zswpwb`).
    zswap_writebacks,
    /// `mte_save_tags` that stored a buffer.
    tag_saves,
    /// `mte_save_tags` that found no memory.
    tag_save_failures,
    /// `mte_restore_tags` that wrote tags back.
    tag_restores,
    /// Pages whose tags were cleared (zeroing allocation, `mte_sync_tags`, `sanitise_mte_tags`).
    page_tag_clears,
    /// `mmu_notifier_invalidate_range_start` calls that reached a VM.
    notifier_invalidations,
    /// Buffers in `mte_pages` now.
    saved_tag_pages,
    /// Their bytes.
    saved_tag_bytes,
    /// The most there were.
    saved_tag_bytes_peak,
    /// Swap slots in use now.
    swap_slots_used,
    /// Pages in zswap now.
    zswap_pages,
    /// Anonymous pages resident now.
    resident_pages,
    /// Frames never used or free now.
    free_pages,
}

/// Pages that reclaim may take. What the memory limit does lies between operations, so no path of steps reads the order:
/// lists that differ in it alone are equal.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lru {
    /// In the order reclaim will look at them.
    pub(crate) pages: VecDeque<Pfn>,
    /// How many are resident.
    pub(crate) resident: u64,
}

impl PartialEq for Lru {
    fn eq(&self, other: &Self) -> bool {
        self.resident == other.resident
    }
}

impl Eq for Lru {}

impl std::hash::Hash for Lru {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.resident.hash(state);
    }
}

/// A machine: memory, kernel state, VMs, and the ledger that judges it.
#[derive(Clone, Debug)]
pub struct Host {
    /// The decisions.
    pub policy: Policy,
    /// Who decides anew at each kernel event, if anybody.
    pub(crate) deciding: Option<Box<Deciding>>,
    pub(crate) mem: PhysMem,
    pub(crate) pages: Pages,
    pub(crate) buddy: Tracked<Buddy>,
    pub(crate) pool: Tracked<Pool>,
    /// Transparent huge pages.
    pub(crate) thp: Tracked<Thp>,
    /// `init_on_free=1`: pages are zeroed when they are freed.
    pub(crate) init_on_free: bool,
    pub(crate) zero_pfn: Pfn,
    /// Next unused frame of the `ZONE_DEVICE` and of the device region.
    pub(crate) zone_device: Tracked<Buddy>,
    pub(crate) mmio: Tracked<Buddy>,
    pub(crate) mms: Vec<Tracked<Mm>>,
    pub(crate) files: Vec<Tracked<File>>,
    pub(crate) swap: Tracked<Swap>,
    pub(crate) zswap: Tracked<Zswap>,
    pub(crate) mte_pages: Tracked<MtePages>,
    /// Which of the next allocations of a buffer for tags fail.
    pub(crate) failing_tag_saves: Tracked<FailingTagSaves>,
    pub(crate) vms: Vec<Tracked<Kvm>>,
    /// By VM.
    pub(crate) vcpus: Vec<Vec<Tracked<Vcpu>>>,
    /// Page table locks that are held.
    pub(crate) ptl: Tracked<BTreeSet<(MmId, u64)>>,
    pub(crate) lru: Tracked<Lru>,
    pub(crate) tlb_bits: u32,
    /// `/sys/kernel/mm/ksm/use_zero_pages`.
    pub(crate) ksm_use_zero_pages: bool,
    pub(crate) seed: u64,
    pub(crate) ledger: Tracked<Ledger>,
    pub(crate) log: Log,
    pub(crate) stats: Stats,
    pub(crate) violations: Vec<Violation>,
}

fn region(base: u64, size: u64, kind: RegionKind, name: &'static str) -> Region {
    Region {
        base: Pa(base),
        size,
        kind,
        online: kind == RegionKind::Ram,
        name: name.into(),
    }
}

impl Host {
    /// Boots a machine: the zero page exists, everything else is free.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let zone_device = RAM_BASE + config.memory;
        let mmio = zone_device + config.zone_device;
        let regions = [
            region(RAM_BASE, config.memory, RegionKind::Ram, "System RAM"),
            region(
                zone_device,
                config.zone_device,
                RegionKind::RamNoTags,
                "Persistent Memory",
            ),
            region(mmio, config.mmio, RegionKind::Device, "PCI BAR"),
        ];
        let mem =
            PhysMem::new(regions.into_iter().filter(|r| r.size > 0).collect()).map_err(|e: MemError| ConfigError {
                argument: "memory",
                value: e.to_string(),
                expected: "a memory map".into(),
            })?;
        let frames = |base: u64, bytes: u64| Tracked::new(Buddy::new(Pa(base).pfn(), bytes / PAGE_SIZE));
        let mut host = Self {
            policy: config.policy.clone(),
            deciding: None,
            mem,
            pages: Pages::default(),
            buddy: frames(RAM_BASE, config.memory),
            pool: Tracked::new(Pool::default()),
            thp: Tracked::new(Thp::default()),
            init_on_free: config.init_on_free,
            zero_pfn: Pa(RAM_BASE).pfn(),
            zone_device: frames(zone_device, config.zone_device),
            mmio: frames(mmio, config.mmio),
            mms: Vec::new(),
            files: Vec::new(),
            swap: Tracked::new(Swap::new(
                &config.areas(),
                config.policy.swap_priority == SwapPriority::Descending,
            )),
            zswap: Tracked::new(Zswap::new(config.zswap / PAGE_SIZE)),
            mte_pages: Tracked::new(MtePages::default()),
            failing_tag_saves: Tracked::new(FailingTagSaves::default()),
            vms: Vec::new(),
            vcpus: Vec::new(),
            ptl: Tracked::new(BTreeSet::new()),
            lru: Tracked::new(Lru::default()),
            tlb_bits: config.tlb_bits,
            ksm_use_zero_pages: false,
            seed: config.seed,
            ledger: Tracked::new(Ledger::new(config.ledger)),
            log: Log::new(config.log),
            stats: Stats::default(),
            violations: Vec::new(),
        };
        host.cpu_enable_mte();
        Ok(host)
    }

    /// `cpu_enable_mte`: the zero page's tags are cleared once; K15 says whether it is flagged.
    fn cpu_enable_mte(&mut self) {
        let zero = self.buddy.alloc_unused(1).expect("memory has its minimum size");
        self.mem.set_page_tags(zero, &PageTags::ZERO);
        let page = self.page_mut(zero);
        page.refcount = 1;
        page.flags = PageFlags::RESERVED;
        if self.policy.zero_page == ZeroPage::Flagged {
            self.page_mut(zero).flags |= PageFlags::MTE_TAGGED | PageFlags::MTE_LOCK;
        }
    }

    pub(crate) fn page(&self, pfn: Pfn) -> &Page {
        self.pages.get(&self.mem, pfn)
    }

    pub(crate) fn page_mut(&mut self, pfn: Pfn) -> &mut Page {
        self.pages.get_mut(&mut self.mem, pfn)
    }

    pub(crate) fn has_flag(&self, pfn: Pfn, flag: PageFlags) -> bool {
        let pfn = if flag.intersects(PageFlags::OF_TAGS) {
            self.tag_flags_of(pfn)
        } else {
            pfn
        };
        self.page(pfn).flags.contains(flag)
    }

    pub(crate) fn set_flag(&mut self, pfn: Pfn, flag: PageFlags, on: bool) {
        let pfn = if flag.intersects(PageFlags::OF_TAGS) {
            self.tag_flags_of(pfn)
        } else {
            pfn
        };
        self.page_mut(pfn).flags.set(flag, on);
    }

    pub(crate) fn mm(&self, mm: MmId) -> &Mm {
        &self.mms[mm.0 as usize]
    }

    pub(crate) fn mm_mut(&mut self, mm: MmId) -> &mut Mm {
        &mut self.mms[mm.0 as usize]
    }

    pub(crate) fn file(&self, file: FileId) -> &File {
        &self.files[file.0 as usize]
    }

    pub(crate) fn file_mut(&mut self, file: FileId) -> &mut File {
        &mut self.files[file.0 as usize]
    }

    pub(crate) fn create_file(&mut self, kind: FileKind, pages: u64, open: bool) -> FileId {
        self.files.push(Tracked::new(File::new(kind, pages, open)));
        FileId(self.files.len() as u32 - 1)
    }

    pub(crate) fn vm(&self, vm: VmId) -> &Kvm {
        &self.vms[vm.0 as usize]
    }

    pub(crate) fn vm_mut(&mut self, vm: VmId) -> &mut Kvm {
        &mut self.vms[vm.0 as usize]
    }

    /// Who acts, in words: the process by its name, a vCPU by its number (and its VM's, from the second VM on).
    pub(crate) fn actor_name(&self, actor: Actor) -> String {
        match actor {
            Actor::Process(mm) => self.mm(mm).name.clone(),
            Actor::Vmm(vm) => self.mm(self.vm(vm).mm).name.clone(),
            Actor::Vcpu(VcpuId { vm: VmId(0), index }) => format!("vcpu{index}"),
            Actor::Vcpu(VcpuId { vm, index }) => format!("vm{}.vcpu{index}", vm.0),
            Actor::Reclaim => "kswapd".to_owned(),
            Actor::Ksmd => "ksmd".to_owned(),
            Actor::Admin => "root".to_owned(),
            Actor::Debugger => "debugger".to_owned(),
            Actor::Migrated => "the guest on its source host".to_owned(),
        }
    }

    pub(crate) fn log_push(&mut self, keys: &[Key], text: String) {
        let actor = self.actor_name(self.log.origin.actor);
        self.log.push(actor, keys, text);
    }

    /// A page's place in words: `vmm page 0x00007f0000000000`.
    pub(crate) fn place(&self, mm: MmId, va: Va) -> String {
        format!("{} page {}", self.mm(mm).name, va.page())
    }

    /// `pfn_is_map_memory`: RAM known to memblock, mapped in the linear map.
    pub(crate) fn pfn_is_map_memory(&self, pfn: Pfn) -> bool {
        self.mem.region_of(pfn).is_some_and(|r| r.kind == RegionKind::Ram)
    }

    /// `pfn_valid`: has a `struct page`, `ZONE_DEVICE` included.
    pub(crate) fn pfn_valid(&self, pfn: Pfn) -> bool {
        self.mem.region_of(pfn).is_some_and(|r| r.kind != RegionKind::Device)
    }

    /// `pfn_to_online_page` is not NULL.
    pub(crate) fn pfn_online(&self, pfn: Pfn) -> bool {
        self.mem.region_of(pfn).is_some_and(|r| r.online)
    }

    /// Counters, with the gauges as they stand now.
    pub fn stats(&self) -> Stats {
        Stats {
            saved_tag_pages: self.mte_pages.len(),
            saved_tag_bytes: self.mte_pages.bytes(),
            swap_slots_used: self.swap.used_slots(),
            zswap_pages: self.zswap.pages(),
            resident_pages: self.lru.resident,
            free_pages: self.buddy.free_pages(),
            ..self.stats
        }
    }

    /// Does the ledger watch?
    pub fn has_ledger(&self) -> bool {
        self.ledger.enabled
    }

    /// log2 of the entries of each vCPU's TLB, 0 for none.
    pub fn tlb_bits(&self) -> u32 {
        self.tlb_bits
    }

    /// Begins a search: violations and log lines so far belong to the set-up, and no text is written until asked for.
    pub fn forget_verdicts(&mut self) {
        self.violations.clear();
        self.log = Log::new(false);
    }

    /// Forgets the violations noticed so far.
    pub fn clear_violations(&mut self) {
        self.violations.clear();
    }

    /// Writes the steps down from now on.
    pub fn log_on(&mut self) {
        self.log.enabled = true;
    }

    /// Every line of the log.
    pub fn log(&self) -> &[StepLine] {
        self.log.lines()
    }

    /// Path and step that ran last.
    pub fn last_step(&self) -> (&'static str, &'static str) {
        (self.log.origin.path, self.log.origin.step)
    }

    /// The properties that did not hold, in the order they were noticed.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// VMs whose `mmu_invalidate_seq` grew since it was begun anew, each with what it was, begun anew.
    pub fn restart_seq(&mut self) -> Option<(VmId, u64)> {
        let grown = self.vms.iter().position(|vm| vm.mmu_invalidate_seq != 0)?;
        let seq = std::mem::take(&mut self.vms[grown].mmu_invalidate_seq);
        Some((VmId(grown as u32), seq))
    }

    /// Gives all vCPUs the same random tags to come.
    pub fn level_vcpus(&mut self) {
        for vcpu in self.vcpus.iter_mut().flatten() {
            vcpu.cpu.rgsr = RgsrEl1::new();
        }
    }

    /// From now on [`Host::take_touched`] tells what changed.
    pub fn watch(&mut self) {
        self.mem.watch();
    }
}
