//! The memory limit: reclaim that comes by itself.
//!
//! **Models** a control group's `memory.max` with one list: when too many pages are resident, or free frames run short,
//! the oldest go first, with a second chance for pages used since reclaim last looked (`kvm_age_gfn` clears the young
//! bit and the TLB entry, so that the next use shows). **Leaves out** active and inactive lists, generations, kswapd's
//! watermarks per zone, and reclaim beside other work: it runs between operations.

use crate::machine::Machine;
use crate::ops::Op;
use crate::page::PageFlags;

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
        let mut chances = 2 * self.host.lru.pages.len();
        while (self.host.lru.resident > self.limit || self.host.buddy.free_pages() < WATERMARK) && chances > 0 {
            chances -= 1;
            self.shrink_oldest(true);
        }
        self.host.ledger_quiesce();
    }

    /// `memory.reclaim` of the control group: so many pages of it go, the oldest first, used lately or not. Returns how
    /// many went.
    pub fn memcg_reclaim(&mut self, pages: u64) -> u64 {
        let before = self.host.lru.resident;
        let mut chances = self.host.lru.pages.len();
        while before - self.host.lru.resident.min(before) < pages && chances > 0 {
            chances -= 1;
            self.shrink_oldest(false);
        }
        self.host.ledger_quiesce();
        before - self.host.lru.resident.min(before)
    }

    /// Takes the oldest page of the list and reclaims it, unless it is young and gets a second chance.
    fn shrink_oldest(&mut self, second_chance: bool) {
        let Some(pfn) = self.host.lru.pages.pop_front() else {
            return;
        };
        if !self.host.has_flag(pfn, PageFlags::LRU) {
            return;
        }
        if second_chance && self.host.has_flag(pfn, PageFlags::YOUNG) {
            self.host.set_flag(pfn, PageFlags::YOUNG, false);
            self.host.folio_referenced(pfn);
            self.host.lru.pages.push_back(pfn);
            return;
        }
        self.task.restart(Op::Shrink(pfn));
        self.task.run(&mut self.host);
        if self.host.has_flag(pfn, PageFlags::LRU) {
            self.host.lru.pages.push_back(pfn);
        }
    }
}
