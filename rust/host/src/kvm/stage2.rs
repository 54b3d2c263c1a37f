//! Stage-2 tables.
//!
//! **Models** `kvm_pgtable_stage2_map`, `_relax_perms`, `_unmap`, `_wrprotect` and `_split`
//! (arch/arm64/kvm/hyp/pgtable.c) for pages of 4 KiB and blocks of 2 MiB, over tables that lie in emulated physical memory
//! (40-bit IPA, start level 1, two concatenated tables, as KVM's default VM). A page mapped over a block breaks it: a table
//! with that page alone takes its place, and the guest faults the rest in again. A block mapped over a table frees the
//! table. What unmaps or write-protects a page of a block does so to all of it. **Leaves out** blocks of 1 GiB, tables freed
//! when their last entry goes.
//!
//! **Keeps**: whatever takes a right away invalidates what it maps in every vCPU's TLB before it returns.

use tagvisor_arch::desc::{self, Desc, MemAttr, S2Attrs};
use tagvisor_arch::walk::walk_stage2;
use tagvisor_arch::{Gfn, Ipa, PAGE_SIZE, Pa, Pfn};

use super::IPA_BITS;
use crate::hugetlb::{HPAGE_PAGES, HPAGE_SIZE};
use crate::ids::VmId;
use crate::state::Host;

/// Bytes that a descriptor of level 3, 2 or 1 stands for, as a power of two.
const fn level_shift(level: u8) -> u32 {
    12 + 9 * (3 - level as u32)
}

/// A valid leaf of stage 2.
pub(crate) struct Leaf {
    /// Where its descriptor lies.
    pub(crate) desc_pa: Pa,
    /// 3 for a page, 2 for a block.
    level: u8,
    /// What the IPA asked for translates to.
    pub(crate) pa: Pa,
    /// Bytes it maps.
    pub(crate) size: u64,
    pub(crate) attrs: S2Attrs,
}

impl Leaf {
    /// Does it map a block?
    const fn is_block(&self) -> bool {
        self.size > PAGE_SIZE
    }

    /// Its descriptor with other attributes.
    pub(crate) fn desc_with(&self, attrs: S2Attrs) -> u64 {
        desc::leaf_desc(self.level, Pa(self.pa.0 / self.size * self.size), attrs)
    }
}

impl Host {
    /// The stage-2 leaf that maps `ipa`.
    pub(crate) fn stage2_leaf(&mut self, vm: VmId, ipa: Ipa) -> Option<Leaf> {
        let regime = self.vm(vm).stage2;
        let walk = walk_stage2(&mut self.mem, &regime, ipa.page()).ok()?;
        Some(Leaf {
            desc_pa: walk.levels.last()?.desc_pa,
            level: u8::try_from(walk.leaf_level()).ok()?,
            pa: walk.pa,
            size: walk.size,
            attrs: walk.attrs,
        })
    }

    /// `kvm_pgtable_stage2_map` of one page: builds missing tables, writes the descriptor. `None` when out of memory.
    pub(crate) fn stage2_map(&mut self, vm: VmId, ipa: Ipa, pfn: Pfn, attrs: S2Attrs) -> Option<()> {
        let slot = self.stage2_slot(vm, ipa, 3, true)?;
        self.mem.write_u64(slot, desc::leaf_desc(3, pfn.base(), attrs));
        Some(())
    }

    /// The same of a 2 MiB block, which `ipa` and `pfn` are the first of. A table that is there is freed.
    pub(crate) fn stage2_map_block(&mut self, vm: VmId, ipa: Ipa, pfn: Pfn, attrs: S2Attrs) -> Option<()> {
        let slot = self.stage2_slot(vm, ipa, 2, true)?;
        if let Desc::Table(table) = desc::decode(2, self.mem.read_u64(slot)) {
            self.mem.write_u64(slot, 0);
            self.tlb_invalidate(vm, ipa, HPAGE_SIZE);
            self.free_table(vm, table.pfn());
            self.stats.stage2_block_merges += 1;
        }
        self.mem.write_u64(slot, desc::leaf_desc(2, pfn.base(), attrs));
        self.stats.stage2_blocks += 1;
        Some(())
    }

    /// A page mapped with no memory for tables, so only where they are already, and what the TLBs hold dropped.
    pub(crate) fn stage2_map_in_place(&mut self, vm: VmId, ipa: Ipa, pfn: Pfn, attrs: S2Attrs) -> Option<()> {
        let slot = self.stage2_slot(vm, ipa, 3, false)?;
        self.mem.write_u64(slot, desc::leaf_desc(3, pfn.base(), attrs));
        self.tlb_invalidate(vm, ipa, PAGE_SIZE);
        Some(())
    }

    /// Where the descriptor of `level` for an address lies. With `build`, missing tables are made, and a block that is in the
    /// way is broken: none of it is mapped any more.
    fn stage2_slot(&mut self, vm: VmId, ipa: Ipa, level: u8, build: bool) -> Option<Pa> {
        let mut table = self.vm(vm).root.base();
        // Start level 1 is two concatenated tables: the index has one more bit.
        let mut index = (ipa.0 & ((1 << IPA_BITS) - 1)) >> level_shift(1);
        for above in 1..level {
            let slot = table + index * 8;
            let entry = desc::decode(above, self.mem.read_u64(slot));
            table = match entry {
                Desc::Table(next) => next,
                _ if !build => return None,
                Desc::Leaf { size, .. } => {
                    let page = self.alloc_table(vm)?;
                    self.mem.write_u64(slot, 0);
                    self.tlb_invalidate(vm, ipa, size);
                    self.stats.stage2_block_splits += 1;
                    self.mem.write_u64(slot, desc::table_desc(page));
                    page
                }
                Desc::Invalid => {
                    let page = self.alloc_table(vm)?;
                    self.mem.write_u64(slot, desc::table_desc(page));
                    page
                }
            };
            index = (ipa.0 >> level_shift(above + 1)) & 0x1ff;
        }
        Some(table + index * 8)
    }

    fn alloc_table(&mut self, vm: VmId) -> Option<Pa> {
        let pfn = self.buddy.alloc()?;
        self.mem.zero_page(pfn);
        self.page_mut(pfn).refcount = 1;
        self.vm_mut(vm).tables.push(pfn);
        Some(pfn.base())
    }

    fn free_table(&mut self, vm: VmId, table: Pfn) {
        self.vm_mut(vm).tables.retain(|pfn| *pfn != table);
        self.page_mut(table).refcount = 0;
        self.buddy.free(table);
    }

    /// `kvm_pgtable_stage2_split`: a block becomes a table of its pages, with the block's attributes. Nothing happens to a
    /// page, nor without memory for the table.
    pub(crate) fn stage2_split(&mut self, vm: VmId, gfn: Gfn) {
        let Some(leaf) = self.stage2_leaf(vm, gfn.base()).filter(Leaf::is_block) else {
            return;
        };
        let Some(table) = self.alloc_table(vm) else {
            return;
        };
        let first = Pa(leaf.pa.0 / HPAGE_SIZE * HPAGE_SIZE).pfn();
        for index in 0..HPAGE_PAGES {
            let page = desc::leaf_desc(3, Pfn(first.0 + index).base(), leaf.attrs);
            self.mem.write_u64(table + index * 8, page);
        }
        self.mem.write_u64(leaf.desc_pa, 0);
        self.tlb_invalidate(vm, gfn.base(), leaf.size);
        self.mem.write_u64(leaf.desc_pa, desc::table_desc(table));
        self.stats.stage2_block_splits += 1;
    }

    /// `kvm_pgtable_stage2_relax_perms`: adds write permission to a mapping that is still there.
    pub(crate) fn stage2_relax_perms(&mut self, vm: VmId, ipa: Ipa, pfn: Pfn) {
        if let Some(leaf) = self.stage2_leaf(vm, ipa)
            && leaf.pa.pfn() == pfn
        {
            let attrs = S2Attrs {
                write: true,
                ..leaf.attrs
            };
            self.mem.write_u64(leaf.desc_pa, leaf.desc_with(attrs));
            self.tlb_invalidate(vm, ipa, leaf.size);
        }
    }

    /// `stage2_unmap_walker` and `TLBI IPAS2E1IS` for the page or block that maps a page: how many bytes that was.
    pub(crate) fn stage2_unmap(&mut self, vm: VmId, gfn: Gfn) -> Option<u64> {
        let leaf = self.stage2_leaf(vm, gfn.base())?;
        self.mem.write_u64(leaf.desc_pa, 0);
        self.tlb_invalidate(vm, gfn.base(), leaf.size);
        Some(leaf.size)
    }

    /// `kvm_pgtable_stage2_wrprotect` of the page or block that maps a page: takes the right to write away.
    pub(crate) fn stage2_wrprotect(&mut self, vm: VmId, gfn: Gfn) {
        if let Some(leaf) = self.stage2_leaf(vm, gfn.base())
            && leaf.attrs.write
        {
            let attrs = S2Attrs {
                write: false,
                ..leaf.attrs
            };
            self.mem.write_u64(leaf.desc_pa, leaf.desc_with(attrs));
            self.tlb_invalidate(vm, gfn.base(), leaf.size);
        }
    }

    /// Stage 1 is the identity, so a VA's page number is its IPA's. The TLBs hold pages: a block goes with all else, as
    /// `TLBI VMALLE1IS` behind the invalidation by IPA has it.
    pub(crate) fn tlb_invalidate(&mut self, vm: VmId, ipa: Ipa, size: u64) {
        if self.tlb_bits == 0 {
            return;
        }
        for vcpu in &mut self.vcpus[vm.0 as usize] {
            if size == PAGE_SIZE {
                vcpu.tlb.invalidate(ipa.0 / PAGE_SIZE);
            } else {
                vcpu.tlb.invalidate_all();
            }
        }
    }

    /// Attributes of a stage-2 mapping.
    pub(crate) fn stage2_attrs(mem: MemAttr, write: bool) -> S2Attrs {
        S2Attrs {
            mem,
            read: true,
            write,
            exec: mem != MemAttr::DeviceNgnre,
            af: true,
        }
    }
}
