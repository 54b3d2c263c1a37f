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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tag_keeps_the_low_nibble() {
        assert_eq!(Tag::new(0xab).get(), 0xb);
        assert_eq!(Tag::new(0xab).to_string(), "b");
    }

    /// Start, offset, exclude, result: ADDG recorded from QEMU 10.0.2.
    const CHOSEN: [(u8, u8, u16, u8); 8] = [
        (0x0, 0, 0x0001, 0x1),
        (0xf, 1, 0x0001, 0x1),
        (0x0, 0, 0xfffe, 0x0),
        (0x7, 5, 0xffff, 0x0),
        (0x1, 5, 0x00f0, 0xa),
        (0x0, 15, 0x00f0, 0x3),
        (0xe, 15, 0x5555, 0xb),
        (0xf, 5, 0x5555, 0x9),
    ];

    #[test]
    fn choose_non_excluded_tag_answers_as_recorded() {
        for (start, offset, exclude, want) in CHOSEN {
            let got = choose_non_excluded_tag(Tag::new(start), offset, exclude);

            assert_eq!(got, Tag::new(want), "{start:x} + {offset} without {exclude:#06x}");
        }
    }

    #[test]
    fn page_tags_put_the_even_granule_in_the_low_nibble() {
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
    #[should_panic(expected = "out of bounds")]
    fn page_tags_have_256_granules() {
        PageTags::ZERO.get(256);
    }

    /// The allowed tags in a circle, read off from the first one at or after `start`.
    fn naive_choice(start: u8, offset: u8, exclude: u16) -> u8 {
        let circle = (start..start + 16).map(|tag| tag % 16);
        let allowed: Vec<u8> = circle.filter(|tag| exclude & 1 << tag == 0).collect();
        // An excluded start counts as standing before the circle's first allowed tag.
        let before_first = usize::from(exclude & 1 << start != 0);
        let step = usize::from(offset).saturating_sub(before_first);
        allowed.get(step % allowed.len().max(1)).copied().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn chosen_tag_is_offset_places_on_in_the_circle_of_allowed_tags(start in 0u8..16, offset in 0u8..16, exclude: u16) {
            let got = choose_non_excluded_tag(Tag::new(start), offset, exclude);

            prop_assert_eq!(got.get(), naive_choice(start, offset, exclude));
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
