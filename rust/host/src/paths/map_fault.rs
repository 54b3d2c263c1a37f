//! What a stage-2 fault maps: a page or a block, and as which kind of memory.
//!
//! **Models** the last part of `user_mem_abort` (arch/arm64/kvm/mmu.c): `fault_supports_stage2_huge_mapping`,
//! `transparent_hugepage_adjust`, and the choice between `kvm_pgtable_stage2_relax_perms` and `_map`. **Leaves out** blocks of
//! device memory and of 1 GiB.
//!
//! **Keeps**: a block is mapped only of a huge page that the VMM maps as one, with the same rights.

use tagvisor_arch::desc::MemAttr;
use tagvisor_arch::{Ipa, PAGE_SIZE, Pfn};

use crate::errno::Errno;
use crate::hugetlb::{HPAGE_PAGES, HPAGE_SIZE, compound_head};
use crate::log::{Key, note};
use crate::policy::FaultSnapshot;
use crate::state::Host;
use crate::step::{Flow, Io, Locals};
use crate::thp::pmd_address;

/// The memory type of what the fault maps, and its name.
const fn memory_type(l: &Locals) -> (MemAttr, &'static str) {
    match (l.device, l.no_tags) {
        (true, _) => (MemAttr::DeviceNgnre, "Device-nGnRE"),
        (_, true) => (MemAttr::NormalNoTagAccess, "Normal Write-Back, NoTagAccess"),
        _ => (MemAttr::NormalWb, "Normal Write-Back"),
    }
}

impl Host {
    /// `fault_supports_stage2_huge_mapping`: the slot has all of the huge page's range, and guest and VMM addresses agree in
    /// their low bits.
    pub(super) fn fault_supports_stage2_huge_mapping(&self, l: &Locals) -> bool {
        let Some(slot) = self.vm(l.vm).memslot(l.ipa.gfn()) else {
            return false;
        };
        let base = pmd_address(l.va);
        let (first, end) = (slot.userspace_addr, slot.userspace_addr + slot.pages * PAGE_SIZE);
        let agrees = slot.base_gfn.base().0 % HPAGE_SIZE == first.0 % HPAGE_SIZE;
        agrees && base >= first && base + HPAGE_SIZE <= end
    }

    /// `transparent_hugepage_adjust`: the VMM has a PMD there, with the rights that the guest will have, and no dirty log
    /// wants pages.
    pub(super) fn transparent_hugepage_adjust(&self, l: &Locals) -> bool {
        l.pfn.is_some_and(|pfn| {
            !l.logging
                && self.is_thp(pfn)
                && self.fault_supports_stage2_huge_mapping(l)
                && self.pmd_mapped(l.mm, l.va.page(), pfn, l.writable)
        })
    }

    /// `kvm_pgtable_stage2_map` of what the fault found; `None` when out of memory.
    fn stage2_map_fault(&mut self, l: &Locals, pfn: Pfn) -> Option<()> {
        let (mem, _) = memory_type(l);
        let attrs = Self::stage2_attrs(mem, l.writable);
        let tagged = self.vm(l.vm).mte && mem == MemAttr::NormalWb;
        if !l.block {
            self.stage2_map(l.vm, l.ipa.page(), pfn, attrs)?;
            if tagged {
                self.ledger_mapped(l.vm, l.ipa, pfn, (l.mm, l.va));
            }
            return Some(());
        }
        let (ipa, va, head) = (
            Ipa(l.ipa.0 / HPAGE_SIZE * HPAGE_SIZE),
            pmd_address(l.va),
            compound_head(pfn),
        );
        self.stage2_map_block(l.vm, ipa, head, attrs)?;
        let watched = if tagged && self.has_ledger() { HPAGE_PAGES } else { 0 };
        for index in 0..watched {
            let at = index * PAGE_SIZE;
            self.ledger_mapped(l.vm, ipa + at, Pfn(head.0 + index), (l.mm, va + at));
        }
        Some(())
    }
}

pub(super) fn kvm_pgtable_stage2_map(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("brought in");
    if l.index > 0 && u64::from(l.index) < HPAGE_PAGES {
        return Flow::To(if host.policy.fault_snapshot == FaultSnapshot::SeqAfterUnlock {
            "sanitise_mte_tags?"
        } else {
            "kvm_vma_mte_allowed"
        });
    }
    if l.permission && l.block == l.fault_block {
        host.stage2_relax_perms(l.vm, l.ipa, pfn);
    } else if host.stage2_map_fault(l, pfn).is_none() {
        l.ret = Errno::Enomem.ret();
        return Flow::Next;
    }
    let (_, kind) = memory_type(l);
    let access = if l.writable { "read-write" } else { "read-only" };
    let block = if l.block { ", in a block of 2 MiB" } else { "" };
    note!(
        host,
        [Key::page(l.mm, l.va), Key::Frame(pfn)],
        "ipa {} mapped {kind}, {access}, to pfn {:#x}{block}",
        l.ipa.page(),
        pfn.0
    );
    l.ret = 0;
    Flow::Next
}
