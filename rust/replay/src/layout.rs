//! Where the recorded program's pages lie in the guest.
//!
//! Models what an operating system in the guest would do: real programs scatter a few thousand pages over 47
//! bits of addresses, and a guest has them densely in its RAM. Pages get guest page numbers in the order in
//! which they are first touched. Beside each page lie the logical tags of the pointers that reach its granules
//! (see [`heap`](crate::heap)); stack, globals and code have tag 0. Most pages have one tag throughout: it
//! stands in the map's own entry, so that such a page's tags are not looked up a second time.
//!
//! Leaves out stage 1: the guest runs with it off, so that its addresses are its physical addresses.
//!
//! Invariant: a page that has a number keeps it, and `number < capacity`.

use rustc_hash::FxHashMap;
use tagvisor_arch::{GRANULES_PER_PAGE, PAGE_SHIFT, PageTags, Tag};
use thiserror::Error;

/// Pages of one leaf: a leaf covers 2 MiB of the program's addresses.
const LEAF_PAGES: usize = 512;
const LEAF_BITS: u32 = LEAF_PAGES.trailing_zeros();
/// Leaves remembered by address. A power of two; 128 MiB of addresses without a look into the map.
const CACHED_LEAVES: usize = 64;

/// Most pages of a guest: 512 GiB, less the number that stands for no page.
pub const MOST_PAGES: u32 = (1 << Placed::PAGE_BITS) - 1;

/// Where a page of the program lies: its guest page, and the logical tag of its pointers if they all have one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placed(u32);

impl Placed {
    const PAGE_BITS: u32 = 27;
    const TAG_SHIFT: u32 = Self::PAGE_BITS;
    const MIXED: u32 = 1 << 31;
    const ABSENT: Self = Self(u32::MAX);

    fn new(guest: u32, uniform: Option<Tag>) -> Self {
        Self(guest | uniform.map_or(Self::MIXED, |tag| u32::from(tag.get()) << Self::TAG_SHIFT))
    }

    /// The guest page's number.
    #[inline]
    pub fn guest(self) -> u32 {
        self.0 & MOST_PAGES
    }

    #[inline]
    fn uniform(self) -> Option<Tag> {
        (self.0 & Self::MIXED == 0).then_some(Tag::new((self.0 >> Self::TAG_SHIFT) as u8))
    }
}

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
    /// By leaf and page; absent where there is none.
    leaves: Vec<[Placed; LEAF_PAGES]>,
    regions: FxHashMap<u64, u32>,
    /// Recently used leaves, direct mapped by region: (region, leaf).
    cache: Box<[(u64, u32); CACHED_LEAVES]>,
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
            cache: Box::new([(u64::MAX, 0); CACHED_LEAVES]),
            pointers: Vec::new(),
            pages: Vec::new(),
            capacity: capacity.min(MOST_PAGES),
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

    /// Where the program's page `vpn` lies, placed now if it is new.
    #[inline]
    pub fn page(&mut self, vpn: u64) -> Result<Placed, GuestFull> {
        let region = vpn >> LEAF_BITS;
        let slot = (region % CACHED_LEAVES as u64) as usize;
        let (cached, leaf) = self.cache[slot];
        let leaf = if cached == region {
            leaf
        } else {
            self.leaf(region, slot)
        };
        let placed = self.leaves[leaf as usize][page_in_leaf(vpn)];
        if placed == Placed::ABSENT {
            self.assign(leaf, vpn)
        } else {
            Ok(placed)
        }
    }

    /// Where the program's page `vpn` lies, if it was touched.
    pub fn mapped(&self, vpn: u64) -> Option<Placed> {
        let leaf = *self.regions.get(&(vpn >> LEAF_BITS))?;
        let placed = self.leaves[leaf as usize][page_in_leaf(vpn)];
        (placed != Placed::ABSENT).then_some(placed)
    }

    /// The program's page that a guest page holds.
    pub fn program_page(&self, guest: u32) -> Option<u64> {
        self.pages.get(guest as usize).copied()
    }

    /// The logical tag of pointers to the granule of `addr`, which lies in the page that is `placed` so.
    #[inline]
    pub fn pointer_tag(&self, placed: Placed, addr: u64) -> Tag {
        placed
            .uniform()
            .unwrap_or_else(|| self.pointers[placed.guest() as usize].get((addr >> 4 & 0xff) as usize))
    }

    /// Sets the logical tags of granules `first..first + count` of a guest page.
    ///
    /// # Panics
    /// If the guest page was not given out, or has no such granules.
    pub fn set_pointer_tags(&mut self, guest: u32, first: usize, count: usize, tag: Tag) {
        let page = &mut self.pointers[guest as usize];
        if count == GRANULES_PER_PAGE {
            page.fill(tag);
        } else {
            for granule in first..first + count {
                page.set(granule, tag);
            }
        }
        let placed = Placed::new(guest, page.is_uniform());
        let vpn = self.pages[guest as usize];
        let leaf = self.regions[&(vpn >> LEAF_BITS)];
        self.leaves[leaf as usize][page_in_leaf(vpn)] = placed;
    }

    #[cold]
    fn leaf(&mut self, region: u64, slot: usize) -> u32 {
        let next = self.leaves.len() as u32;
        let leaf = *self.regions.entry(region).or_insert(next);
        if leaf == next {
            self.leaves.push([Placed::ABSENT; LEAF_PAGES]);
        }
        self.cache[slot] = (region, leaf);
        leaf
    }

    #[cold]
    fn assign(&mut self, leaf: u32, vpn: u64) -> Result<Placed, GuestFull> {
        let guest = self.pages.len() as u32;
        if guest == self.capacity {
            return Err(GuestFull {
                capacity: self.capacity,
            });
        }
        let placed = Placed::new(guest, Some(Tag::ZERO));
        self.leaves[leaf as usize][page_in_leaf(vpn)] = placed;
        self.pages.push(vpn);
        self.pointers.push(PageTags::ZERO);
        Ok(placed)
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

#[inline]
fn page_in_leaf(vpn: u64) -> usize {
    (vpn % LEAF_PAGES as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pages_are_numbered_in_order_of_first_touch() {
        let mut layout = Layout::new(10);
        assert_eq!(layout.page(0x7_ffff_ffff).map(Placed::guest), Ok(0));
        assert_eq!(layout.page(0x108).map(Placed::guest), Ok(1));
        assert_eq!(layout.page(0x7_ffff_ffff).map(Placed::guest), Ok(0));
        assert_eq!(layout.program_page(1), Some(0x108));
        assert_eq!(layout.mapped(0x108).map(Placed::guest), Some(1));
        assert_eq!(layout.mapped(0x109), None);
    }

    #[test]
    fn a_full_guest_says_so_and_keeps_what_it_has() {
        let mut layout = Layout::new(2);
        layout.page(1).unwrap();
        layout.page(2).unwrap();
        assert_eq!(layout.page(3), Err(GuestFull { capacity: 2 }));
        assert_eq!(layout.page(2).map(Placed::guest), Ok(1));
    }

    #[test]
    fn regions_that_share_a_cache_slot_stay_apart() {
        let mut layout = Layout::new(10);
        let stride = (CACHED_LEAVES * LEAF_PAGES) as u64;
        for round in 0..3 {
            for i in 0..5 {
                assert_eq!(
                    layout.page(i * stride).map(Placed::guest),
                    Ok(i as u32),
                    "round {round}"
                );
            }
        }
    }

    #[test]
    fn pointer_tags_are_kept_by_page_and_granule() {
        let mut layout = Layout::new(10);
        for vpn in [5, 6] {
            layout.page(vpn).unwrap();
        }
        let tag = |layout: &mut Layout, addr: u64| {
            let placed = layout.page(addr >> 12).unwrap();
            layout.pointer_tag(placed, addr)
        };
        layout.set_pointer_tags(0, 2, 3, Tag::new(7));
        assert_eq!(tag(&mut layout, 0x5020), Tag::new(7));
        assert_eq!(tag(&mut layout, 0x504f), Tag::new(7));
        assert_eq!(tag(&mut layout, 0x5050), Tag::ZERO);
        assert_eq!(tag(&mut layout, 0x6020), Tag::ZERO);
        layout.set_pointer_tags(1, 0, 256, Tag::new(3));
        assert_eq!(tag(&mut layout, 0x6fff), Tag::new(3));
    }

    #[test]
    fn a_page_of_one_tag_has_it_in_its_place() {
        let mut layout = Layout::new(10);
        assert_eq!(layout.page(5).unwrap().uniform(), Some(Tag::ZERO));
        layout.set_pointer_tags(0, 0, 255, Tag::new(9));
        assert_eq!(layout.page(5).unwrap().uniform(), None);
        layout.set_pointer_tags(0, 255, 1, Tag::new(9));
        assert_eq!(layout.page(5).unwrap().uniform(), Some(Tag::new(9)));
        assert_eq!(layout.page(5).unwrap().guest(), 0);
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
            let first: Vec<u32> = vpns.iter().map(|&vpn| layout.page(vpn).unwrap().guest()).collect();
            let again: Vec<u32> = vpns.iter().map(|&vpn| layout.page(vpn).unwrap().guest()).collect();
            prop_assert_eq!(&first, &again);
            let mut distinct = first;
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), layout.len());
            prop_assert_eq!(distinct.last().copied(), Some(layout.len() as u32 - 1));
        }
    }
}
