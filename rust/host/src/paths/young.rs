//! Was a page used lately?
//!
//! **Models** `folio_referenced` for the question that `MADV_PAGEOUT` asks in some versions: the madvise has cleared the
//! young bits of the process' own PTEs before, so what is left is the access flag of stage 2, which `kvm_age_gfn` (the
//! `clear_flush_young` notifier) tests and clears. The CPU sets it again by itself (`VTCR_EL2.HA`). **Leaves out** the
//! generations of `CONFIG_LRU_GEN`.
//!
//! **Keeps**: whatever clears an access flag drops the vCPUs' TLB entries for it.

use tagvisor_arch::desc::S2Attrs;
use tagvisor_arch::{Pfn, Va};

use crate::ids::{MmId, VmId};
use crate::state::Host;

impl Host {
    /// `folio_referenced`, as far as guests go: was any stage-2 mapping of the page used since it was last asked?
    pub(crate) fn folio_referenced(&mut self, pfn: Pfn) -> bool {
        let mut young = false;
        for (mm, va) in self.rmap(pfn) {
            young |= self.clear_flush_young(mm, va);
        }
        young
    }

    /// `mmu_notifier_clear_flush_young`: the access flags that any VM has for a page, before they are cleared.
    pub(crate) fn clear_flush_young(&mut self, mm: MmId, va: Va) -> bool {
        let mut young = false;
        for vm in (0..self.vms.len() as u32).map(VmId) {
            if !self.vm(vm).alive || self.vm(vm).mm != mm {
                continue;
            }
            for gfn in self.vm(vm).gfns_of(va) {
                young |= self.kvm_age_gfn(vm, gfn.base());
            }
        }
        young
    }

    /// `kvm_pgtable_stage2_test_clear_young`; the next access must walk again, so that it shows.
    fn kvm_age_gfn(&mut self, vm: VmId, ipa: tagvisor_arch::Ipa) -> bool {
        let Some(leaf) = self.stage2_leaf(vm, ipa) else {
            return false;
        };
        if leaf.attrs.af {
            let old = S2Attrs {
                af: false,
                ..leaf.attrs
            };
            self.mem.write_u64(leaf.desc_pa, leaf.desc_with(old));
        }
        self.tlb_invalidate(vm, ipa, leaf.size);
        leaf.attrs.af
    }
}
