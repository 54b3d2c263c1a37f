//! Pages of tags against one tag per granule, and what their bytes mean.

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
fn packed_bytes_can_be_changed_in_place() {
    let mut tags = PageTags::from_bytes([0x21; PAGE_TAG_BYTES]);

    tags.as_bytes_mut()[1] = 0x43;

    assert_eq!(
        tags.iter().take(6).map(Tag::get).collect::<Vec<_>>(),
        [1, 2, 3, 4, 1, 2]
    );
    assert_eq!(tags.as_bytes()[..3], [0x21, 0x43, 0x21]);
}

#[test]
fn page_prints_its_one_tag_or_a_digit_for_every_granule() {
    let mut tags = PageTags::uniform(Tag::new(0xb));
    assert_eq!(format!("{tags:?}"), "PageTags(all b)");

    tags.set(1, Tag::new(2));
    assert_eq!(format!("{tags:?}"), format!("PageTags(b2{})", "b".repeat(254)));
    assert_eq!(PageTags::default(), PageTags::uniform(Tag::ZERO));
}

#[test]
fn page_of_one_tag_has_no_mismatch_with_it_and_starts_with_one_with_another() {
    let tags = PageTags::uniform(Tag::new(0xb));

    assert_eq!(tags.first_tag_mismatch(Tag::new(0xb), 0..GRANULES_PER_PAGE), None);
    assert_eq!(tags.first_tag_mismatch(Tag::new(0xa), 0..GRANULES_PER_PAGE), Some(0));
    assert_eq!(tags.first_tag_mismatch(Tag::new(0xa), 77..78), Some(77));
}

#[test]
fn one_granule_is_copied_without_its_neighbours() {
    let from = PageTags::from_bytes([0x21; PAGE_TAG_BYTES]);
    let mut tags = PageTags::ZERO;

    tags.copy_range(3, &from, 0..1);

    assert_eq!(tags.as_bytes()[..3], [0, 0x10, 0]);
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
