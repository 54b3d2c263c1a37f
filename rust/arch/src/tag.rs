//! A tag, and the architecture's way of picking the next allowed one.
//!
//! Left out: pages of tags ([`PageTags`](crate::PageTags)), and the caching of tags. The invariant: a [`Tag`] never holds
//! more than four bits.

use std::fmt;

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
    }
}
