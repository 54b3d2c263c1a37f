//! Allocation tags: one, a page of them, and the architecture's way of picking the next allowed one.
//!
//! [`PageTags`] has the layout Linux and migration streams use: two tags to a byte, the lower granule in the low
//! nibble. Left out: where tags are stored in a real machine, and the caching of tags. The invariant: a [`Tag`] never
//! holds more than four bits.

use std::fmt;

use crate::addr::{GRANULES_PER_PAGE, PAGE_TAG_BYTES};

/// A 4-bit tag, allocation or logical.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tag(u8);

impl Tag {
    /// The tag of memory nobody has tagged.
    pub const ZERO: Self = Self(0);

    /// The tag in the low nibble of `bits`.
    #[inline]
    pub const fn new(bits: u8) -> Self {
        Self(bits & 0xf)
    }

    /// The tag as a number from 0 to 15.
    #[inline]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The tag after this one, 0 after 15.
    #[inline]
    const fn next(self) -> Self {
        Self::new(self.0 + 1)
    }

    /// Whether bit `self` of `exclude` is set.
    #[inline]
    const fn is_in(self, exclude: u16) -> bool {
        exclude >> self.0 & 1 != 0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// The tag `offset` allowed tags after `start`; an excluded `start` with offset 0 moves to the next allowed tag.
///
/// Arm ARM J1.1, `AArch64.ChooseNonExcludedTag`. With every tag excluded the answer is 0.
pub fn choose_non_excluded_tag(start: Tag, offset: u8, exclude: u16) -> Tag {
    if exclude == u16::MAX {
        return Tag::ZERO;
    }
    let skip_excluded = |mut tag: Tag| {
        while tag.is_in(exclude) {
            tag = tag.next();
        }
        tag
    };
    match offset & 0xf {
        0 => skip_excluded(start),
        offset => (0..offset).fold(start, |tag, _| skip_excluded(tag.next())),
    }
}

/// The allocation tags of one page: granule `2i` in the low nibble of byte `i`, granule `2i + 1` in the high one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageTags([u8; PAGE_TAG_BYTES]);

impl PageTags {
    /// A page whose tags are all 0, as `mte_clear_page_tags` leaves it.
    pub const ZERO: Self = Self([0; PAGE_TAG_BYTES]);

    /// A page whose granules all carry `tag`.
    #[inline]
    pub const fn uniform(tag: Tag) -> Self {
        Self([tag.0 << 4 | tag.0; PAGE_TAG_BYTES])
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
        *byte = *byte & !(0xf << shift) | tag.0 << shift;
    }

    /// Gives every granule the same tag.
    #[inline]
    pub const fn fill(&mut self, tag: Tag) {
        *self = Self::uniform(tag);
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
