//! zswap: compressed copies of swapped pages, kept in memory in front of the devices.
//!
//! **Models** the pool (`mm/zswap.c`): which slots' data it has, oldest first; `zswap_store`, which refuses while the pool is
//! full and until it has shrunk to `accept_threshold_percent`; and the worker that then writes the oldest back
//! (`paths/zswap.rs`). Tags are none of its business: they stay in `mte_pages`, by entry, whatever holds the data.
//! **Leaves out** compression (the pool's size is that of the pages before it), pages filled with one value, which it keeps
//! for nothing, and limits of a control group.
//!
//! **Keeps**: an entry is in the pool at most once, and only while its slot is allocated.

use std::collections::BTreeMap;

use crate::machine::Machine;
use crate::ops::Op;
use crate::swap::SwpEntry;

/// `accept_threshold_percent`, by default.
const ACCEPT_THRESHOLD_PERCENT: u64 = 90;

/// The pool.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Zswap {
    /// Pages it may hold; 0 when zswap is off.
    limit: u64,
    /// When each was stored, and what was stored when.
    stored: BTreeMap<SwpEntry, u64>,
    lru: BTreeMap<u64, SwpEntry>,
    next: u64,
    /// `zswap_pool_reached_full`: nothing is accepted until it has shrunk.
    reached_full: bool,
}

impl Zswap {
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    fn can_accept(&self) -> bool {
        self.pages() <= self.limit * ACCEPT_THRESHOLD_PERCENT / 100
    }

    /// `zswap_store`'s look at the pool: is there room for so many pages?
    pub(crate) fn accepts(&mut self, pages: u64) -> bool {
        if self.limit == 0 {
            return false;
        }
        if self.pages() + pages > self.limit {
            self.reached_full = true;
        } else if self.can_accept() {
            self.reached_full = false;
        }
        !self.reached_full
    }

    pub(crate) fn has(&self, entry: SwpEntry) -> bool {
        self.stored.contains_key(&entry)
    }

    pub(crate) fn store(&mut self, entry: SwpEntry) {
        self.invalidate(entry);
        self.stored.insert(entry, self.next);
        self.lru.insert(self.next, entry);
        self.next += 1;
    }

    /// `zswap_invalidate`.
    pub(crate) fn invalidate(&mut self, entry: SwpEntry) {
        if let Some(when) = self.stored.remove(&entry) {
            self.lru.remove(&when);
        }
    }

    /// The entry that is written back next.
    pub(crate) fn oldest(&self) -> Option<SwpEntry> {
        self.lru.first_key_value().map(|(_, entry)| *entry)
    }

    /// The page is in the swap cache, so in use: its turn comes later.
    pub(crate) fn rotate(&mut self) {
        if let Some(entry) = self.oldest() {
            self.store(entry);
        }
    }

    pub(crate) fn pages(&self) -> u64 {
        self.stored.len() as u64
    }
}

impl Machine {
    /// So many of the oldest pages of the pool are written back to their devices; how many were.
    pub fn zswap_shrink(&mut self, pages: u64) -> u64 {
        let before = self.host.stats.zswap_writebacks;
        self.run(Op::ZswapShrink(pages));
        self.host.stats.zswap_writebacks - before
    }

    /// `shrink_worker`: a pool that was full is shrunk until it accepts again.
    pub(crate) fn zswap_shrink_worker(&mut self) {
        if self.host.zswap.reached_full && !self.host.zswap.can_accept() {
            let limit = self.host.zswap.limit * ACCEPT_THRESHOLD_PERCENT / 100;
            let surplus = self.host.zswap.pages() - limit;
            self.task.restart(Op::ZswapShrink(surplus));
            self.task.run(&mut self.host);
            self.host.ledger_quiesce();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(offset: u32) -> SwpEntry {
        SwpEntry { device: 0, offset }
    }

    #[test]
    fn a_full_pool_refuses_until_it_has_shrunk() {
        let mut pool = Zswap::new(10);
        for offset in 0..10 {
            assert!(pool.accepts(1));
            pool.store(entry(offset));
        }
        assert!(!pool.accepts(1));
        pool.invalidate(entry(3));
        assert!(pool.accepts(1), "nine are 90 %");
        assert_eq!(pool.oldest(), Some(entry(0)));
        assert!(!Zswap::new(0).accepts(1), "zswap is off");
    }
}
