//! The native floor: the least that a checked access can cost on this machine.
//!
//! Models nothing. Each loop here does what no implementation of a tag check can avoid, over flat memory and
//! with nothing around it: read the record, look the granules' tags up, compare. No translation, no
//! permissions, no faults, no counters. A benchmark runs it beside the real engine in the same process, on the
//! same records, so that the ratio holds on any machine.
//!
//! Leaves out the data access: the engine moves no data either.
//!
//! Invariant: a floor reads the same columns, in the same order and of the same widths, as what it is a floor of.

mod element;

pub use element::{PagedMemory, WalkedMemory};

use crate::record::{Batch, Op};
use tagvisor_arch::{GRANULE_SIZE, PAGE_TAG_BYTES};

/// Flat tagged memory: packed allocation tags of addresses from 0, and nothing else.
#[derive(Clone, Debug)]
pub struct FlatTags {
    packed: Vec<u8>,
}

impl FlatTags {
    /// Tags for `pages` pages, every granule with the tag that `tag_of` gives its page.
    pub fn new(pages: usize, tag_of: impl Fn(usize) -> u8) -> Self {
        let mut packed = vec![0; pages * PAGE_TAG_BYTES];
        for (page, bytes) in packed.chunks_exact_mut(PAGE_TAG_BYTES).enumerate() {
            bytes.fill((tag_of(page) & 0xf) * 0x11);
        }
        Self { packed }
    }

    /// The checked-access floor: how many of the accesses do not match. Pointers have their tag in bits 59:56.
    ///
    /// An address beyond the tags counts as a mismatch: that bound check is what safe code pays, and the
    /// engine pays it too.
    #[inline(never)]
    pub fn mismatches(&self, batch: &Batch<'_>) -> u64 {
        let packed = self.packed.as_slice();
        let mut bad = 0;
        for (op, size, pointer) in batch.columns() {
            if op > Op::Store as u8 {
                continue;
            }
            let tag = (pointer >> 56) as u8 & 0xf;
            let offset = pointer & 0x00ff_ffff_ffff_ffff;
            let first = offset / GRANULE_SIZE;
            let last = (offset + u64::from(size) - 1) / GRANULE_SIZE;
            for granule in first..=last {
                let byte = packed.get((granule / 2) as usize);
                let found = byte.map(|byte| byte >> (granule % 2 * 4) & 0xf);
                bad += u64::from(found != Some(tag));
            }
        }
        bad
    }

    /// The tag-store floor: one read-modify-write of a nibble per granule, over all of the memory.
    #[inline(never)]
    pub fn store_each(&mut self, tag: u8) {
        let tag = tag & 0xf;
        for granule in 0..self.packed.len() * 2 {
            let shift = granule % 2 * 4;
            let byte = std::hint::black_box(&mut self.packed[granule / 2]);
            *byte = *byte & !(0xf << shift) | tag << shift;
        }
    }

    /// The page-tag-fill floor: sets all tags of all pages, a page at a time, as a plain memory fill.
    #[inline(never)]
    pub fn fill(&mut self, tag: u8) {
        for page in self.packed.chunks_exact_mut(PAGE_TAG_BYTES) {
            std::hint::black_box(page).fill((tag & 0xf) * 0x11);
        }
    }
}

/// The page-fault floor: what any fault that hands out a clean page does, zero its data; each page another one.
#[derive(Clone, Debug)]
pub struct Fresh {
    data: Vec<u8>,
}

impl Fresh {
    /// So many pages, all of them mapped by the operating system already.
    pub fn new(pages: usize) -> Self {
        Self {
            data: vec![1; pages * tagvisor_arch::PAGE_SIZE as usize],
        }
    }

    /// memset of each page.
    #[inline(never)]
    pub fn clear(&mut self) {
        for page in self.data.chunks_exact_mut(tagvisor_arch::PAGE_SIZE as usize) {
            std::hint::black_box(page).fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Columns, Event};

    fn loads(pointers: &[u64], size: u32) -> Columns {
        let mut columns = Columns::default();
        for &addr in pointers {
            columns.push(Event {
                op: Op::Load,
                size,
                addr,
            });
        }
        columns
    }

    #[test]
    fn matching_tags_are_no_mismatch() {
        let flat = FlatTags::new(2, |page| page as u8 + 3);
        let columns = loads(&[3 << 56, 3 << 56 | 0xff8, 4 << 56 | 0x1000], 8);
        assert_eq!(flat.mismatches(&columns.as_batch()), 0);
    }

    #[test]
    fn wrong_tag_crossing_and_outside_are_counted() {
        let flat = FlatTags::new(2, |page| page as u8 + 3);
        let columns = loads(&[4 << 56, 3 << 56 | 0xffc, 4 << 56 | 0x2000], 8);
        assert_eq!(flat.mismatches(&columns.as_batch()), 3);
    }

    #[test]
    fn fill_replaces_every_tag() {
        let mut flat = FlatTags::new(2, |_| 0);
        flat.fill(9);
        assert!(flat.packed.iter().all(|&byte| byte == 0x99));
    }
}
