//! Stage-2 tables.
//!
//! **Models** `kvm_pgtable_stage2_map`, `_relax_perms`, `_unmap` and `_wrprotect` (arch/arm64/kvm/hyp/pgtable.c) for 4 KiB
//! pages, over tables that lie in emulated physical memory (40-bit IPA, start level 1, two concatenated tables, as KVM's
//! default VM). **Leaves out** block mappings, table freeing before the VM dies.
//!
//! **Keeps**: whatever takes a right away invalidates the page in every vCPU's TLB before it returns.

use tagvisor_arch::desc::{self, Desc, MemAttr, S2Attrs};
use tagvisor_arch::walk::walk_stage2;
use tagvisor_arch::{Gfn, Ipa, PAGE_SIZE, Pa, Pfn};

use super::IPA_BITS;
use crate::ids::VmId;
use crate::state::Host;

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
        self.stage2_map_with(vm, ipa, pfn, attrs, true)
    }

    /// The same with no memory for tables, so that it maps only where they are already, and drops what the TLBs hold.
    pub(crate) fn stage2_map_in_place(&mut self, vm: VmId, ipa: Ipa, pfn: Pfn, attrs: S2Attrs) -> Option<()> {
        self.stage2_map_with(vm, ipa, pfn, attrs, false)?;
        self.tlb_invalidate(vm, ipa);
        Some(())
    }

    fn stage2_map_with(&mut self, vm: VmId, ipa: Ipa, pfn: Pfn, attrs: S2Attrs, build: bool) -> Option<()> {
        let shift = |level: u32| 12 + 9 * (3 - level);
        let mut table = self.vm(vm).root.base();
        // Start level 1 is two concatenated tables: the index has one more bit.
        let mut index = (ipa.0 & ((1 << IPA_BITS) - 1)) >> shift(1);
        for level in 1..3 {
            let slot = table + index * 8;
            table = if let Desc::Table(next) = desc::decode(level as u8, self.mem.read_u64(slot)) {
                next
            } else if !build {
                return None;
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

    /// `stage2_wp_range` for one page: takes the right to write away; true if it was there.
    pub(crate) fn stage2_wrprotect(&mut self, vm: VmId, gfn: Gfn) -> bool {
        match self.stage2_leaf(vm, gfn.base()) {
            Some((desc_pa, pa, attrs)) if attrs.write => {
                self.mem
                    .write_u64(desc_pa, desc::leaf_desc(3, pa, S2Attrs { write: false, ..attrs }));
                self.tlb_invalidate(vm, gfn.base());
                true
            }
            _ => false,
        }
    }

    /// Stage 1 is the identity, so a VA's page number is its IPA's.
    fn tlb_invalidate(&mut self, vm: VmId, ipa: Ipa) {
        for vcpu in &mut self.vm_mut(vm).vcpus {
            vcpu.tlb.invalidate(ipa.0 / PAGE_SIZE);
        }
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
