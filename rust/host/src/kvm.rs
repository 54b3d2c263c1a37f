//! KVM: VMs, memslots, stage 2.
//!
//! **Models** `struct kvm` with `mmu_lock`, the notifier sequence, memslots and `KVM_CAP_ARM_MTE`; stage-2 tables of 4 KiB
//! pages that lie in emulated physical memory (40-bit IPA, start level 1, two concatenated tables, as KVM's default VM);
//! vCPUs with a TLB each. **Leaves out** block mappings, table freeing before the VM dies, VGIC, timers, register state
//! other than what tags need.
//!
//! **Keeps**: whatever unmaps a page from stage 2 invalidates it in every vCPU's TLB before it returns.

use std::collections::BTreeMap;

use tagvisor_arch::desc::{self, Desc, MemAttr, S2Attrs};
use tagvisor_arch::walk::{Stage2, walk_stage2};
use tagvisor_arch::{
    Controls, Cpu, Features, Gfn, HcrEl2, Ipa, PAGE_SIZE, Pa, Pfn, SysRegs, TcrEl1, Va, VtcrEl2, VttbrEl2,
};
use tagvisor_mem::{MicroTlb, PhysMem};

use crate::buddy::Buddy;
use crate::errno::Errno;
use crate::ids::{MmId, VmId};
use crate::log::{Key, note};
use crate::mm::{RwLock, VmFlags};
use crate::policy::{SharedBacking, Untaggable};
use crate::state::Host;

/// `KVM_MEM_LOG_DIRTY_PAGES`.
pub const SLOT_DIRTY_LOG: u32 = 1;
/// `KVM_MEM_READONLY`.
pub const SLOT_READONLY: u32 = 2;

/// Default IPA size of a KVM VM, in bits.
const IPA_BITS: u8 = 40;
/// Pages of the concatenated start-level table for a 40-bit IPA: 2 x 512 GiB.
const ROOT_PAGES: u64 = 2;
/// `KVM_USER_MEM_SLOTS` is larger; a scenario that needs more is a mistake.
const MAX_SLOTS: u32 = 512;

/// A memory slot: guest frames backed by a range of the VMM's address space.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Memslot {
    /// First guest frame.
    pub base_gfn: Gfn,
    /// Number of pages.
    pub pages: u64,
    /// Address in the VMM.
    pub userspace_addr: Va,
    /// [`SLOT_DIRTY_LOG`], [`SLOT_READONLY`].
    pub flags: u32,
    /// K23 = slot with K22 = device: what lay there when the slot was added was device memory.
    pub(crate) device: bool,
}

impl Memslot {
    fn contains(&self, gfn: Gfn) -> bool {
        (self.base_gfn.0..self.base_gfn.0 + self.pages).contains(&gfn.0)
    }

    /// `__gfn_to_hva_memslot`.
    pub(crate) fn hva(&self, gfn: Gfn) -> Va {
        self.userspace_addr + (gfn.0 - self.base_gfn.0) * PAGE_SIZE
    }
}

/// A vCPU: the registers tags need, and its TLB.
#[derive(Clone, Debug)]
pub(crate) struct Vcpu {
    pub(crate) cpu: Cpu,
    pub(crate) tlb: MicroTlb,
}

/// `struct kvm`.
#[derive(Clone, Debug)]
pub(crate) struct Kvm {
    pub(crate) mm: MmId,
    pub(crate) alive: bool,
    /// `KVM_ARCH_FLAG_MTE_ENABLED`.
    pub(crate) mte: bool,
    pub(crate) slots: BTreeMap<u32, Memslot>,
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) mmu_lock: RwLock,
    pub(crate) mmu_invalidate_seq: u64,
    pub(crate) mmu_invalidate_in_progress: u32,
    pub(crate) slots_lock: bool,
    /// What the VM's registers make of translation: they never change.
    pub(crate) controls: Controls,
    stage2: Stage2,
    root: Pfn,
    tables: Vec<Pfn>,
}

impl std::hash::Hash for Kvm {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.alive, self.mte, &self.slots, &self.tables, self.slots_lock).hash(state);
        (self.mmu_lock, self.mmu_invalidate_seq, self.mmu_invalidate_in_progress).hash(state);
        for vcpu in &self.vcpus {
            vcpu.cpu.hash(state);
        }
    }
}

impl Kvm {
    pub(crate) fn new(id: VmId, mm: MmId, buddy: &mut Buddy, mem: &mut PhysMem) -> Option<Self> {
        let root = buddy.alloc_block(ROOT_PAGES.ilog2())?;
        for i in 0..ROOT_PAGES {
            mem.zero_page(Pfn(root.0 + i));
        }
        let stage2 = stage2_regime(root, id);
        Some(Self {
            mm,
            alive: true,
            controls: controls(stage2),
            stage2,
            mte: false,
            slots: BTreeMap::new(),
            vcpus: Vec::new(),
            mmu_lock: RwLock::default(),
            mmu_invalidate_seq: 0,
            mmu_invalidate_in_progress: 0,
            slots_lock: false,
            root,
            tables: Vec::new(),
        })
    }

    /// `gfn_to_memslot`.
    pub(crate) fn memslot(&self, gfn: Gfn) -> Option<&Memslot> {
        self.slots.values().find(|s| s.contains(gfn))
    }

    fn slot_id_of(&self, gfn: Gfn) -> Option<u32> {
        self.slots.iter().find(|(_, s)| s.contains(gfn)).map(|(id, _)| *id)
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

/// Translation of a guest whose stage 1 is off and Tagged, with top-byte-ignore in both halves.
fn controls(Stage2 { vtcr, vttbr }: Stage2) -> Controls {
    let sys = SysRegs {
        tcr_el1: TcrEl1::new().with_tbi0(true).with_tbi1(true),
        hcr_el2: HcrEl2::new().with_vm(true).with_dc(true).with_dct(true),
        vtcr_el2: vtcr,
        vttbr_el2: vttbr,
        ..SysRegs::default()
    };
    Controls::new(&sys, Features::default())
}

impl Host {
    /// The stage-2 leaf that maps `ipa`, with the address of its descriptor.
    pub(crate) fn stage2_leaf(&mut self, vm: VmId, ipa: Ipa) -> Option<(Pa, Pa, S2Attrs)> {
        let regime = self.vm(vm).stage2;
        let walk = walk_stage2(&mut self.mem, &regime, ipa.page()).ok()?;
        let last = walk.levels.last()?;
        Some((last.desc_pa, walk.pa, walk.attrs))
    }

    /// `kvm_pgtable_stage2_map` of one page: builds missing tables, writes the descriptor. `None` when out of memory.
    pub(crate) fn stage2_map(&mut self, vm: VmId, ipa: Ipa, pfn: Pfn, attrs: S2Attrs) -> Option<()> {
        let shift = |level: u32| 12 + 9 * (3 - level);
        let mut table = self.vm(vm).root.base();
        // Start level 1 is two concatenated tables: the index has one more bit.
        let mut index = (ipa.0 & ((1 << IPA_BITS) - 1)) >> shift(1);
        for level in 1..3 {
            let slot = table + index * 8;
            table = if let Desc::Table(next) = desc::decode(level as u8, self.mem.read_u64(slot)) {
                next
            } else {
                let page = self.alloc_table(vm)?;
                self.mem.write_u64(slot, desc::table_desc(page));
                page
            };
            index = (ipa.0 >> shift(level + 1)) & 0x1ff;
        }
        self.mem
            .write_u64(table + index * 8, desc::leaf_desc(3, pfn.base(), attrs));
        Some(())
    }

    fn alloc_table(&mut self, vm: VmId) -> Option<Pa> {
        let pfn = self.buddy.alloc()?;
        self.mem.zero_page(pfn);
        self.page_mut(pfn).refcount = 1;
        self.vm_mut(vm).tables.push(pfn);
        Some(pfn.base())
    }

    /// `kvm_pgtable_stage2_relax_perms`: adds write permission to a mapping that is still there.
    pub(crate) fn stage2_relax_perms(&mut self, vm: VmId, ipa: Ipa, pfn: Pfn) {
        if let Some((desc_pa, pa, attrs)) = self.stage2_leaf(vm, ipa)
            && pa.pfn() == pfn
        {
            self.mem.write_u64(
                desc_pa,
                desc::leaf_desc(3, pfn.base(), S2Attrs { write: true, ..attrs }),
            );
            self.tlb_invalidate(vm, ipa);
        }
    }

    /// `stage2_unmap_walker` and `TLBI IPAS2E1IS` for one page; true if something was mapped.
    pub(crate) fn stage2_unmap(&mut self, vm: VmId, gfn: Gfn) -> bool {
        let Some((desc_pa, _, _)) = self.stage2_leaf(vm, gfn.base()) else {
            return false;
        };
        self.mem.write_u64(desc_pa, 0);
        self.tlb_invalidate(vm, gfn.base());
        true
    }

    /// Stage 1 is the identity, so a VA's page number is its IPA's.
    fn tlb_invalidate(&mut self, vm: VmId, ipa: Ipa) {
        for vcpu in &mut self.vm_mut(vm).vcpus {
            vcpu.tlb.invalidate(ipa.0 / PAGE_SIZE);
        }
    }

    /// `kvm_set_memory_region` with the checks of `kvm_arch_prepare_memory_region`. `pages` 0 deletes the slot.
    pub(crate) fn kvm_set_memory_region(&mut self, vm: VmId, id: u32, mut slot: Memslot) -> Result<(), Errno> {
        if id >= MAX_SLOTS || slot.flags & !(SLOT_DIRTY_LOG | SLOT_READONLY) != 0 {
            return Err(Errno::Einval);
        }
        let old = self.vm(vm).slots.get(&id).cloned();
        if slot.pages == 0 {
            let old = old.ok_or(Errno::Einval)?;
            self.drop_memslot(vm, id, &old);
            return Ok(());
        }
        let end = slot.base_gfn.base().0.checked_add(slot.pages * PAGE_SIZE);
        if slot.userspace_addr.page_offset() != 0 || end.is_none_or(|e| e > 1 << IPA_BITS) {
            return Err(Errno::Einval);
        }
        if let Some(old) = &old
            && (old.pages != slot.pages || old.userspace_addr != slot.userspace_addr)
        {
            return Err(Errno::Einval);
        }
        let overlaps =
            |s: &Memslot| s.base_gfn.0 < slot.base_gfn.0 + slot.pages && slot.base_gfn.0 < s.base_gfn.0 + s.pages;
        if self.vm(vm).slots.iter().any(|(other, s)| *other != id && overlaps(s)) {
            return Err(Errno::Eexist);
        }
        slot.device = self.kvm_arch_prepare_memory_region(vm, &slot)?;
        if let Some(old) = old {
            self.drop_memslot(vm, id, &old);
        }
        let (mm, gfn, hva, pages) = (self.vm(vm).mm, slot.base_gfn, slot.userspace_addr, slot.pages);
        note!(
            self,
            [Key::Always],
            "memslot {id}: {pages} pages at ipa {} backed by {}",
            gfn.base(),
            self.place(mm, hva)
        );
        self.vm_mut(vm).slots.insert(id, slot);
        Ok(())
    }

    /// The MTE checks on every VMA under a new slot (holes are skipped). Answers whether the slot is device memory for
    /// ever, which only K23 = slot with K22 = device believes.
    fn kvm_arch_prepare_memory_region(&mut self, vm: VmId, slot: &Memslot) -> Result<bool, Errno> {
        let policy = self.policy.clone();
        if !self.vm(vm).mte || !policy.checked_at.at_slot() {
            return Ok(false);
        }
        let mut device = false;
        for (_, vma) in self.mm(self.vm(vm).mm).vmas_in(slot.userspace_addr, slot.pages) {
            if policy.shared_backing == SharedBacking::Refused && vma.flags.contains(VmFlags::SHARED) {
                return Err(Errno::Einval);
            }
            let allowed = vma.flags.contains(VmFlags::MTE_ALLOWED);
            match policy.untaggable {
                Untaggable::Cacheable | Untaggable::RefuseOffline => {}
                Untaggable::Device => device |= !allowed,
                Untaggable::DeviceElseRefuse | Untaggable::Refuse if allowed => {}
                Untaggable::DeviceElseRefuse | Untaggable::Refuse => return Err(Errno::Einval),
            }
        }
        Ok(device)
    }

    fn drop_memslot(&mut self, vm: VmId, id: u32, slot: &Memslot) {
        self.vm_mut(vm).slots.remove(&id);
        let hva = slot.userspace_addr;
        for va in self.mm(self.vm(vm).mm).touched(hva, hva + slot.pages * PAGE_SIZE) {
            self.stage2_unmap(vm, Gfn(slot.base_gfn.0 + (va - hva) / PAGE_SIZE));
        }
        note!(
            self,
            [Key::Always],
            "memslot {id} deleted, its pages unmapped from stage 2"
        );
    }

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
        for vcpu in &mut kvm.vcpus {
            vcpu.tlb.invalidate_all();
        }
        for table in tables {
            self.page_mut(table).refcount = 0;
            self.buddy.free(table);
        }
    }

    /// `mark_page_dirty_in_slot` when the slot logs writes: which slot it is in, for the log line.
    pub(crate) fn slot_logs_dirty(&self, vm: VmId, ipa: Ipa) -> bool {
        let kvm = self.vm(vm);
        kvm.slot_id_of(ipa.gfn())
            .is_some_and(|id| kvm.slots[&id].flags & SLOT_DIRTY_LOG != 0)
    }

    /// Attributes of a stage-2 page mapping.
    pub(crate) fn stage2_attrs(device: bool, write: bool) -> S2Attrs {
        let mem = if device {
            MemAttr::DeviceNgnre
        } else {
            MemAttr::NormalWb
        };
        S2Attrs {
            mem,
            read: true,
            write,
            exec: !device,
            af: true,
        }
    }
}
