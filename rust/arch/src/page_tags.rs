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
mod tests;
