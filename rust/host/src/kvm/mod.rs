//! KVM: VMs, memslots, stage 2.
//!
//! **Models** `struct kvm` with `mmu_lock`, the notifier sequence, `KVM_CAP_ARM_MTE` and vCPUs with a TLB each; memslots
//! are in [`memslot`], their dirty logs in [`dirty_log`], the tables in [`stage2`]. **Leaves out** VGIC, timers, register
//! state other than what tags and translation need ([`vcpu`]).
//!
//! **Keeps**: whatever unmaps a page from stage 2 invalidates it in every vCPU's TLB before it returns.

mod dirty_log;
mod memslot;
mod stage2;
mod vcpu;

use std::collections::BTreeMap;

use tagvisor_arch::walk::Stage2;
use tagvisor_arch::{Gfn, PAGE_SIZE, Pfn, Va, VtcrEl2, VttbrEl2};
use tagvisor_mem::PhysMem;

use crate::buddy::Buddy;
use crate::file::FileId;
use crate::ids::{MmId, VmId};
use crate::mm::RwLock;
use crate::state::Host;

pub use memslot::{Memslot, SLOT_DIRTY_LOG, SLOT_GUEST_MEMFD, SLOT_READONLY};
pub(crate) use vcpu::Vcpu;

/// Default IPA size of a KVM VM, in bits.
const IPA_BITS: u8 = 40;
/// Pages of the concatenated start-level table for a 40-bit IPA: 2 x 512 GiB.
const ROOT_PAGES: u64 = 2;

/// `struct kvm`.
#[derive(Clone, Debug)]
pub(crate) struct Kvm {
    pub(crate) mm: MmId,
    pub(crate) alive: bool,
    /// `kvm->lock`.
    pub(crate) lock: bool,
    /// vCPUs counted, whether or not they are made yet.
    pub(crate) created_vcpus: u32,
    /// `KVM_ARCH_FLAG_MTE_ENABLED`.
    pub(crate) mte: bool,
    /// `KVM_ARCH_FLAG_MTE_PERM_ENABLED`, as proposed: memory without tags is mapped `NoTagAccess`.
    pub(crate) mte_perm: bool,
    pub(crate) slots: BTreeMap<u32, Memslot>,
    /// `KVM_CREATE_GUEST_MEMFD`: its files.
    pub(crate) guest_memfds: Vec<FileId>,
    pub(crate) mmu_lock: RwLock,
    pub(crate) mmu_invalidate_seq: u64,
    pub(crate) mmu_invalidate_in_progress: u32,
    pub(crate) slots_lock: bool,
    /// `split_page_chunk_size`: bytes of a block that are split at once when a slot begins to log; 0 for none.
    pub(crate) split_page_chunk_size: u64,
    pub(crate) stage2: Stage2,
    root: Pfn,
    tables: Vec<Pfn>,
}

impl std::hash::Hash for Kvm {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl PartialEq for Kvm {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for Kvm {}

impl Kvm {
    /// All that tells it from another.
    fn identity(&self) -> impl std::hash::Hash + PartialEq + use<'_> {
        let sync = (
            self.mmu_lock,
            self.mmu_invalidate_seq,
            self.mmu_invalidate_in_progress,
            self.slots_lock,
        );
        (
            self.mm,
            self.alive,
            self.mte,
            &self.slots,
            self.root,
            &self.tables,
            sync,
        )
    }

    pub(crate) fn new(id: VmId, mm: MmId, buddy: &mut Buddy, mem: &mut PhysMem) -> Option<Self> {
        let root = buddy.alloc_block(ROOT_PAGES.ilog2())?;
        for i in 0..ROOT_PAGES {
            mem.zero_page(Pfn(root.0 + i));
        }
        let stage2 = stage2_regime(root, id);
        Some(Self {
            mm,
            alive: true,
            lock: false,
            created_vcpus: 0,
            stage2,
            mte: false,
            mte_perm: false,
            slots: BTreeMap::new(),
            guest_memfds: Vec::new(),
            mmu_lock: RwLock::default(),
            mmu_invalidate_seq: 0,
            mmu_invalidate_in_progress: 0,
            slots_lock: false,
            split_page_chunk_size: 0,
            root,
            tables: Vec::new(),
        })
    }

    /// `gfn_to_memslot`.
    pub(crate) fn memslot(&self, gfn: Gfn) -> Option<&Memslot> {
        self.slots.values().find(|s| s.contains(gfn))
    }

    /// Guest frames that a page of the VMM backs: a page may stand in several slots.
    pub(crate) fn gfns_of(&self, hva: Va) -> Vec<Gfn> {
        let backs = |s: &Memslot| (s.userspace_addr.0..s.userspace_addr.0 + s.pages * PAGE_SIZE).contains(&hva.0);
        self.slots
            .values()
            .filter(|s| backs(s))
            .map(|s| Gfn(s.base_gfn.0 + (hva.0 - s.userspace_addr.0) / PAGE_SIZE))
            .collect()
    }
}

/// `VTCR_EL2` and `VTTBR_EL2` of a VM: 4 KiB granule, 40-bit IPA, start level 1, 48-bit output.
fn stage2_regime(root: Pfn, id: VmId) -> Stage2 {
    let vtcr = VtcrEl2::new()
        .with_t0sz(64 - IPA_BITS)
        .with_sl0(1)
        .with_ps(5)
        .with_ha(true);
    let vttbr = VttbrEl2::for_table(root.base(), id.0 as u16 + 1);
    Stage2 { vtcr, vttbr }
}

impl Host {
    /// `kvm_destroy_vm`: stage-2 tables and slots go.
    pub(crate) fn kvm_destroy_vm(&mut self, vm: VmId) {
        let ids: Vec<u32> = self.vm(vm).slots.keys().copied().collect();
        for id in ids {
            self.vm_mut(vm).slots.remove(&id);
        }
        let kvm = self.vm_mut(vm);
        kvm.alive = false;
        let (root, mut tables) = (kvm.root, std::mem::take(&mut kvm.tables));
        tables.extend((0..ROOT_PAGES).map(|i| Pfn(root.0 + i)));
        for vcpu in &mut self.vcpus[vm.0 as usize] {
            vcpu.tlb.invalidate_all();
        }
        for table in tables {
            self.page_mut(table).refcount = 0;
            self.buddy.free(table);
        }
    }
}
