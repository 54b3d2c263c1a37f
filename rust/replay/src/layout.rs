//! Where the recorded program's pages lie in the guest.
//!
//! Models what an operating system in the guest would do: real programs scatter a few thousand pages over 47
//! bits of addresses, and a guest has them densely in its RAM. Pages get guest page numbers in the order in
//! which they are first touched. Beside each page lie the logical tags of the pointers that reach its granules
//! (see [`heap`](crate::heap)); stack, globals and code have tag 0.
//!
//! Leaves out stage 1: the guest runs with it off, so that its addresses are its physical addresses.
//!
//! Invariant: a page that has a number keeps it, and `number < capacity`.

use rustc_hash::FxHashMap;
use tagvisor_arch::{PAGE_SHIFT, PageTags, Tag};
use thiserror::Error;

/// Pages of one leaf: a leaf covers 2 MiB of the program's addresses.
const LEAF_PAGES: usize = 512;
const LEAF_BITS: u32 = LEAF_PAGES.trailing_zeros();
/// Leaves remembered by address. A power of two; 128 MiB of addresses without a look into the map.
const CACHED_LEAVES: usize = 64;
const ABSENT: u32 = u32::MAX;

/// The guest has no page left for one more of the program's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the program touches more pages than the {capacity} of the guest's memory")]
pub struct GuestFull {
    /// Pages of the guest.
    pub capacity: u32,
}

/// The map from program pages to guest pages.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Guest page numbers by leaf and page; `ABSENT` where there is none.
    leaves: Vec<[u32; LEAF_PAGES]>,
    regions: FxHashMap<u64, u32>,
    /// Recently used leaves, direct mapped by region: (region, leaf).
    cache: Vec<(u64, u32)>,
    /// Logical tags by guest page.
    pointers: Vec<PageTags>,
    /// The program's page by guest page.
    pages: Vec<u64>,
    capacity: u32,
}

impl Layout {
    /// An empty layout for a guest of `capacity` pages.
    pub fn new(capacity: u32) -> Self {
        Self {
            leaves: Vec::new(),
            regions: FxHashMap::default(),
            cache: vec![(u64::MAX, 0); CACHED_LEAVES],
            pointers: Vec::new(),
            pages: Vec::new(),
            capacity: capacity.min(ABSENT),
        }
    }

    /// Pages in use.
    pub fn len(&self) -> usize {
        self.pages.len()
    }

    /// True before the first access.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// The guest page of the program's page `vpn`, given out now if it has none.
    #[inline]
    pub fn page(&mut self, vpn: u64) -> Result<u32, GuestFull> {
        let region = vpn >> LEAF_BITS;
        let slot = (region % CACHED_LEAVES as u64) as usize;
        let (cached, leaf) = self.cache[slot];
        let leaf = if cached == region {
            leaf
        } else {
            self.leaf(region, slot)
        };
        let guest = self.leaves[leaf as usize][(vpn % LEAF_PAGES as u64) as usize];
        if guest == ABSENT {
            self.assign(leaf, vpn)
        } else {
            Ok(guest)
        }
    }

    /// The guest page of `vpn` if it has one.
    pub fn mapped(&self, vpn: u64) -> Option<u32> {
        let leaf = *self.regions.get(&(vpn >> LEAF_BITS))?;
        let guest = self.leaves[leaf as usize][(vpn % LEAF_PAGES as u64) as usize];
        (guest != ABSENT).then_some(guest)
    }

    /// The program's page that a guest page holds.
    pub fn program_page(&self, guest: u32) -> Option<u64> {
        self.pages.get(guest as usize).copied()
    }

    /// The logical tag of pointers to the granule of `addr`, which lies in guest page `guest`.
    #[inline]
    pub fn pointer_tag(&self, guest: u32, addr: u64) -> Tag {
        let granule = (addr >> 4 & 0xff) as usize;
        self.pointers[guest as usize].get(granule)
    }

    /// Sets the logical tags of granules `first..first + count` of a guest page.
    pub fn set_pointer_tags(&mut self, guest: u32, first: usize, count: usize, tag: Tag) {
        let page = &mut self.pointers[guest as usize];
        if count == page_granules() {
            page.fill(tag);
            return;
        }
        for granule in first..first + count {
            page.set(granule, tag);
        }
    }

    #[cold]
    fn leaf(&mut self, region: u64, slot: usize) -> u32 {
        let next = self.leaves.len() as u32;
        let leaf = *self.regions.entry(region).or_insert(next);
        if leaf == next {
            self.leaves.push([ABSENT; LEAF_PAGES]);
        }
        self.cache[slot] = (region, leaf);
        leaf
    }

    #[cold]
    fn assign(&mut self, leaf: u32, vpn: u64) -> Result<u32, GuestFull> {
        let guest = self.pages.len() as u32;
        if guest == self.capacity {
            return Err(GuestFull {
                capacity: self.capacity,
            });
        }
        self.leaves[leaf as usize][(vpn % LEAF_PAGES as u64) as usize] = guest;
        self.pages.push(vpn);
        self.pointers.push(PageTags::ZERO);
        Ok(guest)
    }
}

/// The pieces of `addr..addr + bytes` that lie in one page each: (page number, first byte, length).
pub(crate) fn by_page(addr: u64, bytes: u64) -> impl Iterator<Item = (u64, u64, u64)> {
    let end = addr + bytes;
    let mut at = addr;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (start, vpn) = (at, at >> PAGE_SHIFT);
        at = end.min((vpn + 1) << PAGE_SHIFT);
        Some((vpn, start, at - start))
    })
}

const fn page_granules() -> usize {
    tagvisor_arch::GRANULES_PER_PAGE
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pages_are_numbered_in_order_of_first_touch() {
        let mut layout = Layout::new(10);
        assert_eq!(layout.page(0x7fff_ffff_f), Ok(0));
        assert_eq!(layout.page(0x108), Ok(1));
        assert_eq!(layout.page(0x7fff_ffff_f), Ok(0));
        assert_eq!(layout.program_page(1), Some(0x108));
        assert_eq!((layout.mapped(0x108), layout.mapped(0x109)), (Some(1), None));
    }

    #[test]
    fn a_full_guest_says_so_and_keeps_what_it_has() {
        let mut layout = Layout::new(2);
        layout.page(1).unwrap();
        layout.page(2).unwrap();
        assert_eq!(layout.page(3), Err(GuestFull { capacity: 2 }));
        assert_eq!(layout.page(2), Ok(1));
    }

    #[test]
    fn regions_that_share_a_cache_slot_stay_apart() {
        let mut layout = Layout::new(10);
        let stride = (CACHED_LEAVES * LEAF_PAGES) as u64;
        for round in 0..3 {
            for i in 0..5 {
                assert_eq!(layout.page(i * stride), Ok(i as u32), "round {round}");
            }
        }
    }

    #[test]
    fn pointer_tags_are_kept_by_page_and_granule() {
        let mut layout = Layout::new(10);
        let (a, b) = (layout.page(5).unwrap(), layout.page(6).unwrap());
        layout.set_pointer_tags(a, 2, 3, Tag::new(7));
        assert_eq!(layout.pointer_tag(a, 0x5020), Tag::new(7));
        assert_eq!(layout.pointer_tag(a, 0x504f), Tag::new(7));
        assert_eq!(layout.pointer_tag(a, 0x5050), Tag::ZERO);
        assert_eq!(layout.pointer_tag(b, 0x6020), Tag::ZERO);
        layout.set_pointer_tags(b, 0, 256, Tag::new(3));
        assert_eq!(layout.pointer_tag(b, 0x6fff), Tag::new(3));
    }

    proptest! {
        #[test]
        fn ranges_split_at_page_ends(addr in 0_u64..1 << 40, bytes in 0_u64..40_000) {
            let pieces: Vec<_> = by_page(addr, bytes).collect();
            prop_assert_eq!(pieces.iter().map(|piece| piece.2).sum::<u64>(), bytes);
            let mut at = addr;
            for (vpn, start, length) in pieces {
                prop_assert_eq!(start, at);
                prop_assert_eq!((start >> 12, (start + length - 1) >> 12), (vpn, vpn));
                at += length;
            }
        }

        #[test]
        fn numbers_are_dense_and_stable(vpns in prop::collection::vec(0_u64..1 << 36, 1..200)) {
            let mut layout = Layout::new(1 << 20);
            let first: Vec<u32> = vpns.iter().map(|&vpn| layout.page(vpn).unwrap()).collect();
            let again: Vec<u32> = vpns.iter().map(|&vpn| layout.page(vpn).unwrap()).collect();
            prop_assert_eq!(&first, &again);
            let mut distinct = first;
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), layout.len());
            prop_assert_eq!(distinct.last().copied(), Some(layout.len() as u32 - 1));
        }
    }
}
