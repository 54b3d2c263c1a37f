//! The memory limit: reclaim that comes by itself.
//!
//! **Models** a control group's `memory.max` with one list: when too many pages are resident, or free frames run short,
//! the oldest go first, with a second chance for pages used since reclaim last looked (`kvm_age_gfn` clears the young
//! bit and the TLB entry, so that the next use shows). **Leaves out** active and inactive lists, generations, kswapd's
//! watermarks per zone, and reclaim beside other work: it runs between operations.

use tagvisor_arch::Va;

use crate::ids::MmId;
use crate::machine::Machine;
use crate::ops::Op;
use crate::page::PageFlags;
use crate::state::Host;

impl Machine {
    /// Pages that may be resident at once, as a control group's `memory.max`; at least 2, one to fault and one to map.
    pub fn set_memory_limit(&mut self, pages: u64) {
        self.limit = pages.max(2);
        self.enforce_limit();
    }

    /// Reclaims the oldest pages while over the limit or short of free frames. A page used since reclaim last looked gets a
    /// second chance: its young bit and TLB entries are cleared and it goes to the end of the list.
    pub(crate) fn enforce_limit(&mut self) {
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
