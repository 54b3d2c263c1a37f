//! The saved-tag store: `mte_pages` of `arch/arm64/mm/mteswap.c`.
//!
//! **Models** an `XArray` keyed by swap entry whose values are 128-byte buffers (two tags a byte). **Leaves out**
//! the tag compression that was posted but not merged.
//!
//! **Keeps**: one buffer a slot at most; storing again replaces it.

use std::collections::BTreeMap;

use tagvisor_arch::{PAGE_TAG_BYTES, PageTags};

use crate::swap::SwpEntry;

/// `mte_pages`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct MtePages(BTreeMap<SwpEntry, PageTags>);

/// Fault injection: so many allocations of a buffer succeed, then so many fail.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct FailingTagSaves {
    pub(crate) after: u64,
    pub(crate) count: u64,
}

impl FailingTagSaves {
    /// Another allocation: does it fail?
    pub(crate) fn next(&mut self) -> bool {
        if self.count > 0 && self.after > 0 {
            self.after -= 1;
            return false;
        }
        let fails = self.count > 0;
        self.count -= u64::from(fails);
        fails
    }
}

impl MtePages {
    pub(crate) fn load(&self, entry: SwpEntry) -> Option<&PageTags> {
        self.0.get(&entry)
    }

    pub(crate) fn store(&mut self, entry: SwpEntry, tags: PageTags) {
        self.0.insert(entry, tags);
    }

    pub(crate) fn erase(&mut self, entry: SwpEntry) -> bool {
        self.0.remove(&entry).is_some()
    }

    /// `mte_invalidate_tags_area`: every key of the device; returns the keys.
    pub(crate) fn erase_area(&mut self, device: u8) -> Vec<SwpEntry> {
        let (first, last) = (
            SwpEntry { device, offset: 0 },
            SwpEntry {
                device,
                offset: u32::MAX,
            },
        );
        let keys: Vec<SwpEntry> = self.0.range(first..=last).map(|(entry, _)| *entry).collect();
        for entry in &keys {
            self.0.remove(entry);
        }
        keys
    }

    pub(crate) fn contains(&self, entry: SwpEntry) -> bool {
        self.0.contains_key(&entry)
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.len() * PAGE_TAG_BYTES as u64
    }
}
