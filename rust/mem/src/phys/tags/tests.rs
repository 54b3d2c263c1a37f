//! Ranges of tags on hand-made maps, and against one byte per granule.

use proptest::prelude::*;
use tagvisor_arch::{GRANULE_SIZE, GRANULES_PER_PAGE, PAGE_SIZE, Pa, PageTags, Tag};

use crate::{PhysMem, Region, RegionKind};

const RAM: Pa = Pa(0x4000_0000);
/// Three pages of RAM, one without tags behind them, then nothing.
const PAGES: usize = 4;
const GRANULES: usize = PAGES * GRANULES_PER_PAGE;
const SEVEN: Tag = Tag::new(7);

fn memory() -> PhysMem {
    let ram = Region::ram(RAM, 3 * PAGE_SIZE, "ram");
    let behind = Region {
        base: ram.end(),
        size: PAGE_SIZE,
        kind: RegionKind::RamNoTags,
        ..ram.clone()
    };
    PhysMem::new(vec![ram, behind]).expect("a legal map")
}

fn at(granule: usize) -> Pa {
    RAM + granule as u64 * GRANULE_SIZE
}

#[test]
fn bytes_touch_every_granule_they_lie_in() {
    let mut memory = memory();

    memory.fill_tags(RAM + 0x1f, 2, SEVEN);

    assert_eq!(memory.read_tags(RAM, 64), [0, 7, 7, 0]);
    assert_eq!(memory.read_tags(RAM + 0x1f, 1), [7]);
    assert_eq!(memory.first_tag_mismatch(RAM + 0x1f, 0x11, SEVEN), None);
    assert_eq!(memory.first_tag_mismatch(RAM + 0x1f, 0x12, SEVEN), Some(RAM + 0x30));
    assert_eq!(memory.first_tag_mismatch(RAM + 0x1f, 0, Tag::ZERO), None);
}

#[test]
fn ranges_cross_into_the_next_page() {
    let mut memory = memory();

    memory.fill_tags(RAM + 0xff0, 0x20, SEVEN);

    assert_eq!((memory.tag(RAM + 0xff0), memory.tag(RAM + 0x1000)), (SEVEN, SEVEN));
    assert_eq!(
        (memory.tag(RAM + 0xfe0), memory.tag(RAM + 0x1010)),
        (Tag::ZERO, Tag::ZERO)
    );
}

#[test]
fn zeros_written_to_untouched_memory_create_no_frame() {
    let mut memory = memory();

    memory.fill_tags(RAM, 2 * PAGE_SIZE, Tag::ZERO);
    memory.write_tags(RAM, &[0x10; 2 * GRANULES_PER_PAGE]);
    memory.copy_tags(RAM, RAM + PAGE_SIZE, PAGE_SIZE);

    assert_eq!(memory.touched_frames(), 0);
    assert_eq!(memory.compare_tags(RAM, RAM + PAGE_SIZE, 2 * PAGE_SIZE), None);
}

#[test]
fn memory_without_tag_storage_ignores_ranges_and_reads_zeros() {
    let mut memory = memory();
    let (last, behind) = (at(3 * GRANULES_PER_PAGE - 1), at(3 * GRANULES_PER_PAGE));
    memory.write_u64(behind, 1);

    memory.fill_tags(last, 64, SEVEN);
    memory.write_tags(behind, &[5; 300]);
    memory.copy_tags(last, behind, 16);

    assert_eq!(memory.read_tags(last, 64), [7, 0, 0, 0]);
    assert_eq!(memory.compare_tags(behind, behind + PAGE_SIZE, PAGE_SIZE), None);
}

#[test]
fn whole_pages_are_copied_and_compared() {
    let mut memory = memory();
    let bytes: Vec<u8> = (0..GRANULES_PER_PAGE).map(|granule| (granule * 7 % 16) as u8).collect();
    memory.write_tags(RAM, &bytes);

    memory.copy_tags(RAM, RAM + PAGE_SIZE, PAGE_SIZE);
    assert_eq!(memory.compare_tags(RAM, RAM + PAGE_SIZE, PAGE_SIZE), None);
    memory.set_tag(RAM + PAGE_SIZE + 0xff0, Tag::new(bytes[255] ^ 1));

    assert_eq!(memory.compare_tags(RAM, RAM + PAGE_SIZE, PAGE_SIZE), Some(RAM + 0xff0));
    assert_eq!(memory.page_tags(RAM.pfn()).unpack()[..], bytes[..]);
}

/// What a test does to the four pages; granules are counted from their start.
#[derive(Clone, Debug)]
enum Op {
    Fill { start: usize, len: usize, tag: u8 },
    Copy { from: usize, to: usize, len: usize },
    Write { start: usize, tags: Vec<u8> },
    Page { page: usize, byte: u8 },
}

fn op() -> impl Strategy<Value = Op> {
    let granule = || 0..GRANULES;
    let tags = prop::collection::vec(any::<u8>(), 0..600);
    prop_oneof![
        3 => (granule(), granule(), 0u8..16).prop_map(|(start, len, tag)| Op::Fill { start, len, tag }),
        4 => (granule(), granule(), granule()).prop_map(|(from, to, len)| Op::Copy { from, to, len }),
        2 => (granule(), tags).prop_map(|(start, tags)| Op::Write { start, tags }),
        1 => (0..PAGES, any::<u8>()).prop_map(|(page, byte)| Op::Page { page, byte }),
    ]
}

/// Applies an operation to the memory and, granule by granule, to the model.
fn apply(memory: &mut PhysMem, model: &mut [u8], op: &Op) {
    match *op {
        Op::Fill { start, len, tag } => {
            let len = len.min(GRANULES - start);
            memory.fill_tags(at(start), len as u64 * GRANULE_SIZE, Tag::new(tag));
            model[start..start + len].fill(tag);
        }
        Op::Copy { from, to, len } => {
            let len = len.min(GRANULES - from).min(GRANULES - to);
            memory.copy_tags(at(from), at(to), len as u64 * GRANULE_SIZE);
            model.copy_within(from..from + len, to);
        }
        Op::Write { start, ref tags } => {
            let tags = &tags[..tags.len().min(GRANULES - start)];
            memory.write_tags(at(start), tags);
            for (model, tag) in model[start..].iter_mut().zip(tags) {
                *model = tag & 0xf;
            }
        }
        Op::Page { page, byte } => {
            memory.set_page_tags(RAM.pfn() + page as u64, &PageTags::from_bytes([byte; 128]));
            for (granule, model) in model[page * GRANULES_PER_PAGE..][..GRANULES_PER_PAGE]
                .iter_mut()
                .enumerate()
            {
                *model = if granule % 2 == 0 { byte & 0xf } else { byte >> 4 };
            }
        }
    }
    model[3 * GRANULES_PER_PAGE..].fill(0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn ranges_behave_like_one_byte_per_granule(
        ops in prop::collection::vec(op(), 0..20),
        (one, other, len) in (0..GRANULES, 0..GRANULES, 0..GRANULES),
        tag in 0u8..16,
    ) {
        let (mut memory, mut model) = (memory(), vec![0; GRANULES]);

        for op in &ops {
            apply(&mut memory, &mut model, op);
        }

        let len = len.min(GRANULES - one).min(GRANULES - other);
        let bytes = len as u64 * GRANULE_SIZE;
        let singly: Vec<u8> = (0..GRANULES).map(|granule| memory.tag(at(granule)).get()).collect();
        prop_assert!(singly == model);
        prop_assert!(memory.read_tags(at(one), bytes) == model[one..one + len]);
        let differing = (0..len).find(|&i| model[one + i] != model[other + i]);
        prop_assert_eq!(memory.compare_tags(at(one), at(other), bytes), differing.map(|i| at(one + i)));
        let mismatch = (one..one + len).find(|&granule| model[granule] != tag);
        prop_assert_eq!(memory.first_tag_mismatch(at(one), bytes, Tag::new(tag)), mismatch.map(at));
    }
}
