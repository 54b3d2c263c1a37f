//! Pages of tags from outside: bytes changed in place, printing, and ranges of one granule or a whole page.
//!
//! What a page of tags means is tested beside it. Left out: ranges beyond the page. The invariant: the packed bytes are the page.

use tagvisor_arch::{GRANULES_PER_PAGE, PAGE_TAG_BYTES, PageTags, Tag};

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
