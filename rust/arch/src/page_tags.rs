//! The allocation tags of a page, packed, and what is done with whole pages of them.
//!
//! [`PageTags`] has the layout Linux and migration streams use (`mte_save_page_tags`): two tags to a byte, the lower granule
//! in the low nibble. Left out: where tags are stored in a real machine. The invariant: every pattern of 128 bytes is a page
//! of tags, so nothing here can fail but for an index beyond the page.

use std::fmt;

use crate::addr::{GRANULES_PER_PAGE, PAGE_TAG_BYTES};
use crate::tag::Tag;

/// Tags in a block, the most that `LDGM` and `STGM` move at once (`GMID_EL1.BS` = 6).
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
        Self([tag.get() << 4 | tag.get(); PAGE_TAG_BYTES])
    }

    /// The tag of one granule. An index of [`GRANULES_PER_PAGE`] or more panics.
    #[inline]
    pub const fn get(&self, granule: usize) -> Tag {
        Tag::new(self.0[granule / 2] >> nibble_shift(granule))
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

    /// The tags of the aligned block of 16 that the granule is in, four bits each, the lowest granule in the lowest bits, as
    /// `LDGM` has them in its register. An index of [`GRANULES_PER_PAGE`] or more panics.
    #[inline]
    pub fn block(&self, granule: usize) -> u64 {
        let (blocks, _) = self.0.as_chunks::<BLOCK_BYTES>();
        u64::from_le_bytes(blocks[granule / GRANULES_PER_BLOCK])
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
    #[should_panic(expected = "out of bounds")]
    fn page_tags_have_256_granules() {
        PageTags::ZERO.get(256);
    }

    proptest! {
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
