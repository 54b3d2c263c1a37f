//! Benchmarks of whole pages of tags beside the C library's work on the same bytes.
//!
//! Models nothing. Left out: ranges of a page, which criterion's benches have. The invariant: ours and floor go over as many
//! pages, 2 MiB of tags.

use std::hint::black_box;

use tagvisor_arch::{GRANULES_PER_PAGE, PAGE_TAG_BYTES, PageTags, Tag};

use super::{interleave, timed};
use crate::floor::FlatTags;

const PAGES: usize = 16384;
const WHOLE: std::ops::Range<usize> = 0..GRANULES_PER_PAGE;

pub(super) fn fill() -> (f64, f64) {
    let mut pages = vec![PageTags::ZERO; PAGES];
    let mut flat = FlatTags::new(PAGES, |_| 0);
    let ours = || {
        for page in &mut pages {
            black_box(page).fill(black_box(Tag::new(7)));
        }
    };
    interleave(PAGES as u32, timed(ours), timed(|| flat.fill(black_box(7))))
}

pub(super) fn copy() -> (f64, f64) {
    let from = vec![PageTags::uniform(Tag::new(3)); PAGES];
    let mut to = vec![PageTags::ZERO; PAGES];
    let flat_from = vec![[0x33_u8; PAGE_TAG_BYTES]; PAGES];
    let mut flat_to = vec![[0_u8; PAGE_TAG_BYTES]; PAGES];
    let ours = || {
        for (to, from) in to.iter_mut().zip(&from) {
            black_box(to).copy_range(0, black_box(from), WHOLE);
        }
    };
    let floor = || {
        for (to, from) in flat_to.iter_mut().zip(&flat_from) {
            black_box(to).copy_from_slice(black_box(from));
        }
    };
    interleave(PAGES as u32, timed(ours), timed(floor))
}

pub(super) fn compare() -> (f64, f64) {
    let one = vec![PageTags::uniform(Tag::new(3)); PAGES];
    let other = one.clone();
    let flat_one = vec![[0x33_u8; PAGE_TAG_BYTES]; PAGES];
    let flat_other = flat_one.clone();
    let ours = || {
        let pairs = one.iter().zip(&other);
        black_box(
            pairs
                .filter_map(|(one, other)| black_box(one).first_mismatch(black_box(other), WHOLE))
                .count(),
        );
    };
    let floor = || {
        let pairs = flat_one.iter().zip(&flat_other);
        black_box(pairs.filter(|&(one, other)| black_box(one) != black_box(other)).count());
    };
    interleave(PAGES as u32, timed(ours), timed(floor))
}
