//! The allocation tags of a page, packed, and what is done with whole pages of them.
//!
//! [`PageTags`] has the layout Linux and migration streams use (`mte_save_page_tags`): two tags to a byte, the lower granule
//! in the low nibble. Left out: where tags are stored in a real machine. The invariant: every pattern of 128 bytes is a page
//! of tags, so nothing here can fail but for an index beyond the page.

use std::fmt;
use std::ops::Range;

use crate::addr::{GRANULES_PER_PAGE, PAGE_TAG_BYTES};
use crate::tag::Tag;

/// Tags in a block, what `LDGM` and `STGM` move at once (`GMID_EL1.BS` = 6).
pub const GRANULES_PER_BLOCK: usize = 16;
/// Bytes of a block's packed tags.
const BLOCK_BYTES: usize = GRANULES_PER_BLOCK / 2;

/// The allocation tags of one page: granule `2i` in the low nibble of byte `i`, granule `2i + 1` in the high one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageTags([u8; PAGE_TAG_BYTES]);

impl PageTags {
    /// A page whose tags are all 0, as `mte_clear_page_tags` leaves it.
    pub const ZERO: Self = Self([0; PAGE_TAG_BYTES]);

    /// A page whose granules all carry `tag`.
    #[inline]
    pub const fn uniform(tag: Tag) -> Self {
        Self([both(tag); PAGE_TAG_BYTES])
    }

    /// The tag of one granule. An index of [`GRANULES_PER_PAGE`] or more panics.
    #[inline]
    pub const fn get(&self, granule: usize) -> Tag {
        Tag::new(self.0[granule / 2] >> nibble_shift(granule))
    }

    /// Whether the tag of one granule is another: [`PageTags::get`] compared, in fewer instructions. An index of
    /// [`GRANULES_PER_PAGE`] or more panics.
    #[inline]
    pub const fn differs(&self, granule: usize, tag: Tag) -> bool {
        (self.0[granule / 2] >> nibble_shift(granule) ^ tag.get()) & 0xf != 0
    }

    /// Sets the tag of one granule. An index of [`GRANULES_PER_PAGE`] or more panics.
    #[inline]
    pub const fn set(&mut self, granule: usize, tag: Tag) {
        let shift = nibble_shift(granule);
        let byte = &mut self.0[granule / 2];
        *byte = *byte & !(0xf << shift) | tag.get() << shift;
    }

    /// Gives every granule the same tag.
    #[inline]
    pub const fn fill(&mut self, tag: Tag) {
        *self = Self::uniform(tag);
    }

    /// Gives the granules of a range the same tag. A range beyond the page panics.
    #[inline]
    pub fn fill_range(&mut self, granules: Range<usize>, tag: Tag) {
        let inner = self.split_off_halves(granules, |_| tag);
        self.0[inner].fill(both(tag));
    }

    /// Copies a range of another page's granules to `to` and on. A range beyond either page panics.
    #[inline]
    pub fn copy_range(&mut self, to: usize, from: &Self, granules: Range<usize>) {
        let target = to..to + granules.len();
        let source = |granule: usize| granules.start + (granule - to);
        let inner = self.split_off_halves(target, |granule| from.get(source(granule)));
        if inner.is_empty() {
            return;
        }
        let first = source(inner.start * 2);
        let (target, source) = (&mut self.0[inner], &from.0[first / 2..]);
        if first.is_multiple_of(2) {
            let len = target.len();
            target.copy_from_slice(&source[..len]);
        } else {
            // Half a byte out of step: a byte takes its tags from two neighbours.
            for (byte, pair) in target.iter_mut().zip(source.windows(2)) {
                *byte = pair[0] >> 4 | pair[1] << 4;
            }
        }
    }

    /// The first granule of a range whose tags differ in the two pages. A range beyond the page panics.
    #[inline]
    pub fn first_mismatch(&self, other: &Self, granules: Range<usize>) -> Option<usize> {
        if granules == WHOLE_PAGE && self == other {
            return None;
        }
        self.first_difference(granules, |index| other.blocks()[index])
    }

    /// The first granule of a range that has another tag than this one. A range beyond the page panics.
    #[inline]
    pub fn first_tag_mismatch(&self, tag: Tag, granules: Range<usize>) -> Option<usize> {
        // Without an early end, so that it is done many bytes at a time.
        if granules == WHOLE_PAGE && self.0.iter().fold(0, |differ, byte| differ | byte ^ both(tag)) == 0 {
            return None;
        }
        self.first_difference(granules, |_| [both(tag); BLOCK_BYTES])
    }

    /// Tags from one byte per granule; the upper halves of the bytes do not count.
    #[inline]
    pub fn pack(tags: &[u8; GRANULES_PER_PAGE]) -> Self {
        let mut packed = Self::ZERO;
        let (pairs, _) = tags.as_chunks::<2>();
        for (byte, [low, high]) in packed.0.iter_mut().zip(pairs) {
            *byte = low & 0xf | high << 4;
        }
        packed
    }

    /// One byte per granule.
    #[inline]
    pub fn unpack(&self) -> [u8; GRANULES_PER_PAGE] {
        let mut tags = [0; GRANULES_PER_PAGE];
        let (pairs, _) = tags.as_chunks_mut::<2>();
        for (pair, byte) in pairs.iter_mut().zip(self.0) {
            *pair = [byte & 0xf, byte >> 4];
        }
        tags
    }

    /// The tags of the aligned block of 16 that the granule is in, four bits each, the lowest granule in the lowest bits, as
    /// `LDGM` has them in its register. An index of [`GRANULES_PER_PAGE`] or more panics.
    #[inline]
    pub fn block(&self, granule: usize) -> u64 {
        u64::from_le_bytes(self.blocks()[granule / GRANULES_PER_BLOCK])
    }

    /// Sets the tags of the aligned block of 16 that the granule is in, laid out as by [`PageTags::block`]. An index of
    /// [`GRANULES_PER_PAGE`] or more panics.
    #[inline]
    pub fn set_block(&mut self, granule: usize, bits: u64) {
        let (blocks, _) = self.0.as_chunks_mut::<BLOCK_BYTES>();
        blocks[granule / GRANULES_PER_BLOCK] = bits.to_le_bytes();
    }

    /// The packed bytes, as `mte_save_page_tags` writes them.
    #[inline]
    pub const fn as_bytes(&self) -> &[u8; PAGE_TAG_BYTES] {
        &self.0
    }

    /// The packed bytes, to change in place.
    #[inline]
    pub const fn as_bytes_mut(&mut self) -> &mut [u8; PAGE_TAG_BYTES] {
        &mut self.0
    }

    /// Tags from packed bytes; every byte pattern is a valid page of tags.
    #[inline]
    pub const fn from_bytes(bytes: [u8; PAGE_TAG_BYTES]) -> Self {
        Self(bytes)
    }

    /// The one tag of the page if all granules share it.
    pub fn is_uniform(&self) -> Option<Tag> {
        let tag = self.get(0);
        (*self == Self::uniform(tag)).then_some(tag)
    }

    /// The tags in granule order.
    pub fn iter(&self) -> impl Iterator<Item = Tag> + '_ {
        (0..GRANULES_PER_PAGE).map(|granule| self.get(granule))
    }

    #[inline]
    fn blocks(&self) -> &[[u8; BLOCK_BYTES]] {
        self.0.as_chunks().0
    }

    /// Sets the granules of a range that share their byte with one outside it, and gives the bytes between.
    #[inline]
    fn split_off_halves(&mut self, granules: Range<usize>, tag_of: impl Fn(usize) -> Tag) -> Range<usize> {
        let Range { mut start, mut end } = granules;
        if start < end && start % 2 == 1 {
            self.set(start, tag_of(start));
            start += 1;
        }
        if start < end && end % 2 == 1 {
            end -= 1;
            self.set(end, tag_of(end));
        }
        start / 2..end / 2
    }

    /// The first granule of a range whose tag is not the wanted one, block by block.
    #[inline]
    fn first_difference(&self, granules: Range<usize>, wanted: impl Fn(usize) -> [u8; BLOCK_BYTES]) -> Option<usize> {
        for index in granules.start / GRANULES_PER_BLOCK..granules.end.div_ceil(GRANULES_PER_BLOCK) {
            let differ = u64::from_le_bytes(self.blocks()[index]) ^ u64::from_le_bytes(wanted(index));
            let differ = differ & in_range(index * GRANULES_PER_BLOCK, &granules);
            if differ != 0 {
                return Some(index * GRANULES_PER_BLOCK + differ.trailing_zeros() as usize / 4);
            }
        }
        None
    }
}

const WHOLE_PAGE: Range<usize> = 0..GRANULES_PER_PAGE;

/// A byte with the tag in both halves.
#[inline]
const fn both(tag: Tag) -> u8 {
    tag.get() << 4 | tag.get()
}

/// The bits of the block from `first` on that belong to granules of the range; it has at least one there.
#[inline]
fn in_range(first: usize, granules: &Range<usize>) -> u64 {
    let before = granules.start.saturating_sub(first);
    let after = (first + GRANULES_PER_BLOCK).saturating_sub(granules.end);
    u64::MAX << (4 * before) & u64::MAX >> (4 * after)
}

/// How far to shift a byte right to bring the granule's tag into the low nibble.
#[inline]
const fn nibble_shift(granule: usize) -> u32 {
    (granule as u32 & 1) * 4
}

impl Default for PageTags {
    fn default() -> Self {
        Self::ZERO
    }
}

impl fmt::Debug for PageTags {
    /// One hex digit per granule, or the one tag of a uniform page.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(tag) = self.is_uniform() {
            return write!(f, "PageTags(all {tag})");
        }
        f.write_str("PageTags(")?;
        self.iter().try_for_each(|tag| write!(f, "{tag}"))?;
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn pages_put_the_even_granule_in_the_low_nibble() {
        let mut tags = PageTags::ZERO;

        tags.set(2, Tag::new(0xa));
        tags.set(3, Tag::new(0xb));

        assert_eq!(tags.as_bytes()[1], 0xba);
    }

    #[test]
    fn page_tags_are_uniform_only_if_every_granule_agrees() {
        let mut tags = PageTags::uniform(Tag::new(6));
        assert_eq!(tags.is_uniform(), Some(Tag::new(6)));

        tags.set(255, Tag::new(7));

        assert_eq!(tags.is_uniform(), None);
    }

    #[test]
    fn page_tags_fill_overwrites_every_granule() {
        let mut tags = PageTags::from_bytes([0x5a; PAGE_TAG_BYTES]);

        tags.fill(Tag::new(3));

        assert!(tags.iter().all(|tag| tag == Tag::new(3)));
    }

    #[test]
    fn block_has_the_lowest_granule_in_its_lowest_bits() {
        let mut tags = PageTags::ZERO;
        tags.set(0x20, Tag::new(1));
        tags.set(0x2f, Tag::new(0xf));
        assert_eq!(tags.block(0x2a), 0xf000_0000_0000_0001);

        tags.set_block(0x35, 0x0123_4567_89ab_cdef);

        assert_eq!((tags.get(0x30), tags.get(0x3f)), (Tag::new(0xf), Tag::ZERO));
        assert_eq!(tags.block(0x20), 0xf000_0000_0000_0001);
        assert_eq!(tags.block(0x40), 0);
    }

    #[test]
    fn unpacked_tags_are_in_granule_order_and_pack_again() {
        let tags = patterned(5);

        let bytes = tags.unpack();

        assert!(tags.iter().map(Tag::get).eq(bytes));
        assert_eq!(PageTags::pack(&bytes.map(|byte| byte | 0xa0)), tags);
    }

    #[test]
    fn whole_pages_are_compared_to_the_last_granule() {
        let page = patterned(1);
        let mut other = page;
        assert_eq!(page.first_mismatch(&other, WHOLE_PAGE), None);

        other.set(255, Tag::new(page.get(255).get() ^ 8));

        assert_eq!(page.first_mismatch(&other, WHOLE_PAGE), Some(255));
        assert_eq!(page.first_mismatch(&other, 0..255), None);
    }

    #[test]
    #[should_panic(expected = "out of bounds")]
    fn a_comparison_beyond_the_page_is_a_bug() {
        PageTags::ZERO.first_tag_mismatch(Tag::ZERO, 250..257);
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn a_fill_beyond_the_page_is_a_bug() {
        let mut tags = PageTags::ZERO;
        tags.fill_range(250..258, Tag::ZERO);
    }

    #[test]
    #[should_panic(expected = "out of bounds")]
    fn page_tags_have_256_granules() {
        PageTags::ZERO.get(256);
    }

    /// A page of many different tags.
    fn patterned(seed: u8) -> PageTags {
        let mut tags = PageTags::ZERO;
        for granule in 0..GRANULES_PER_PAGE {
            tags.set(
                granule,
                Tag::new((granule as u8).wrapping_mul(seed) ^ (granule / 16) as u8),
            );
        }
        tags
    }

    /// Granules of a page, none of them to all.
    fn granules() -> impl Strategy<Value = Range<usize>> {
        (0..=GRANULES_PER_PAGE, 0..=GRANULES_PER_PAGE).prop_map(|(a, b)| a.min(b)..a.max(b))
    }

    proptest! {
        #[test]
        fn a_filled_range_has_the_tag_and_the_rest_keeps_its_own(range in granules(), tag in 0u8..16) {
            let (before, tag) = (patterned(3), Tag::new(tag));
            let mut after = before;

            after.fill_range(range.clone(), tag);

            for granule in 0..GRANULES_PER_PAGE {
                let want = if range.contains(&granule) { tag } else { before.get(granule) };
                prop_assert_eq!(after.get(granule), want, "granule {}", granule);
            }
        }

        #[test]
        fn a_copied_range_arrives_where_it_was_sent(range in granules(), to in 0..=GRANULES_PER_PAGE) {
            let to = to.min(GRANULES_PER_PAGE - range.len());
            let (before, source) = (patterned(3), patterned(7));
            let mut after = before;

            after.copy_range(to, &source, range.clone());

            for granule in 0..GRANULES_PER_PAGE {
                let moved = (to..to + range.len()).contains(&granule);
                let want = if moved { source.get(range.start + granule - to) } else { before.get(granule) };
                prop_assert_eq!(after.get(granule), want, "granule {}", granule);
            }
        }

        #[test]
        fn comparisons_find_the_first_difference_inside_the_range(
            range in granules(),
            changes in prop::collection::vec((0..GRANULES_PER_PAGE, 0u8..16), 0..4),
        ) {
            let (page, uniform) = (patterned(3), PageTags::uniform(Tag::new(9)));
            let (mut other, mut spotted) = (page, uniform);
            for (granule, tag) in changes {
                other.set(granule, Tag::new(tag));
                spotted.set(granule, Tag::new(tag));
            }

            let want = range.clone().find(|&granule| page.get(granule) != other.get(granule));
            prop_assert_eq!(page.first_mismatch(&other, range.clone()), want);
            let want = range.clone().find(|&granule| spotted.get(granule) != Tag::new(9));
            prop_assert_eq!(spotted.first_tag_mismatch(Tag::new(9), range), want);
        }

        #[test]
        fn page_tags_behave_like_256_separate_tags(writes in prop::collection::vec((0usize..256, 0u8..16), 0..600)) {
            let (mut tags, mut model) = (PageTags::ZERO, [0u8; GRANULES_PER_PAGE]);

            for (granule, tag) in writes {
                tags.set(granule, Tag::new(tag));
                model[granule] = tag;
            }

            prop_assert!(tags.iter().map(Tag::get).eq(model));
            prop_assert_eq!(PageTags::from_bytes(*tags.as_bytes()), tags);
        }
    }
}
