//! Physical memory on hand-made maps, and against one array of bytes and one of tags.

use proptest::prelude::*;
use tagvisor_arch::{DescriptorSource, GRANULE_SIZE, Tag};

use super::*;

const RAM: Pa = Pa(0x4000_0000);
const PMEM: Pa = Pa(0x8000_0000);
const UART: Pa = Pa(0x0900_0000);
const MIB: u64 = 1 << 20;
const SEVEN: Tag = Tag::new(7);

/// RAM with tags, memory without, and a device.
fn memory() -> PhysMem {
    let ram = Region::ram(RAM, MIB, "ram");
    let pmem = Region {
        base: PMEM,
        kind: RegionKind::RamNoTags,
        name: "pmem".into(),
        ..ram.clone()
    };
    let uart = Region {
        base: UART,
        kind: RegionKind::Device,
        name: "uart".into(),
        ..ram.clone()
    };
    PhysMem::new(vec![ram, pmem, uart]).expect("a legal map")
}

#[test]
fn region_of_finds_the_region_and_nothing_between() {
    let memory = memory();
    let name = |pa: Pa| memory.region_of(pa.pfn()).map(|region| region.name.as_ref());

    assert_eq!(name(RAM), Some("ram"));
    assert_eq!(name(RAM + (MIB - 1)), Some("ram"));
    assert_eq!(name(RAM + MIB), None);
    assert_eq!(name(UART), Some("uart"));
    assert_eq!(name(Pa(0)), None);
}

#[test]
fn reading_untouched_memory_gives_zeros_and_creates_no_frame() {
    let memory = memory();
    let mut bytes = [0xee; 5000];

    memory.read(RAM + 100, &mut bytes);

    assert!(bytes.iter().all(|&byte| byte == 0));
    assert_eq!(
        (memory.tag(RAM), memory.page_tags(RAM.pfn())),
        (Tag::ZERO, PageTags::ZERO)
    );
    assert!(memory.page_is_zero(RAM.pfn()));
    assert_eq!(memory.touched_frames(), 0);
}

#[test]
fn write_across_pages_touches_both() {
    let mut memory = memory();

    memory.write_u64(RAM + 0xffc, 0x1122_3344_5566_7788);

    assert_eq!(memory.read_u64(RAM + 0xffc), 0x1122_3344_5566_7788);
    assert_eq!(memory.read_u64(RAM + 0x1000), 0x1122_3344);
    assert_eq!(memory.touched_frames(), 2);
}

#[test]
#[should_panic(expected = "no memory at 0x0000000040100000")]
fn read_outside_the_regions_is_a_bug() {
    memory().read_u64(RAM + (MIB - 4));
}

#[test]
#[should_panic(expected = "no memory at 0x0000000000000000")]
fn write_outside_the_regions_is_a_bug() {
    memory().write_u64(Pa(0), 1);
}

#[test]
fn memory_without_tag_storage_reads_tag_0_and_ignores_writes() {
    let mut memory = memory();
    memory.write_u64(PMEM, 1);

    memory.set_tag(PMEM, SEVEN);
    memory.set_page_tags(PMEM.pfn(), &PageTags::uniform(SEVEN));

    assert!(!memory.has_tags(PMEM.pfn()) && !memory.has_tags(UART.pfn()));
    assert_eq!(
        (memory.tag(PMEM), memory.page_tags(PMEM.pfn())),
        (Tag::ZERO, PageTags::ZERO)
    );
}

#[test]
fn zero_page_clears_data_and_keeps_tags() {
    let mut memory = memory();
    memory.write_u64(RAM, 1);
    memory.set_tag(RAM, SEVEN);

    memory.zero_page(RAM.pfn());

    assert_eq!((memory.read_u64(RAM), memory.tag(RAM)), (0, SEVEN));
}

#[test]
fn copy_page_copies_data_not_tags_and_the_copies_part_on_write() {
    let (mut memory, from, to) = (memory(), RAM, RAM + 4096);
    memory.write_u64(from, 1);
    memory.set_tag(from, SEVEN);

    memory.copy_page(from.pfn(), to.pfn());
    memory.write_u64(to + 8, 2);

    assert_eq!((memory.read_u64(to), memory.tag(to)), (1, Tag::ZERO));
    assert_eq!(memory.read_u64(from + 8), 0);
}

#[test]
fn copy_of_an_untouched_page_zeroes_the_target() {
    let (mut memory, from, to) = (memory(), RAM, RAM + 4096);
    memory.write_u64(to, 1);

    memory.copy_page(from.pfn(), to.pfn());

    assert!(memory.page_is_zero(to.pfn()));
    assert_eq!(memory.touched_frames(), 1, "the source stays untouched");
}

#[test]
fn page_written_back_to_zeros_counts_as_zero() {
    let mut memory = memory();
    memory.write_u64(RAM, 1);
    assert!(memory.data(RAM.pfn()).is_some());

    memory.write_u64(RAM, 0);

    assert!(memory.page_is_zero(RAM.pfn()) && memory.data(RAM.pfn()).is_none());
}

#[test]
fn clone_is_independent_of_its_origin() {
    let mut memory = memory();
    memory.write_u64(RAM, 1);
    memory.set_tag(RAM, SEVEN);

    let mut copy = memory.clone();
    copy.write_u64(RAM, 2);
    copy.set_tag(RAM, Tag::ZERO);

    assert_eq!((memory.read_u64(RAM), memory.tag(RAM)), (1, SEVEN));
    assert_eq!((copy.read_u64(RAM), copy.tag(RAM)), (2, Tag::ZERO));
}

#[test]
fn frame_index_is_stable_and_leads_to_the_tags() {
    let mut memory = memory();
    let frame = memory.touch(RAM.pfn());
    memory.touch(RAM.pfn() + 1);

    memory.set_tag(RAM + 0x30, SEVEN);

    assert_eq!(memory.frame_index(RAM.pfn()), Some(frame));
    assert_eq!(memory.frame_tag(frame, 3), SEVEN);
    assert_eq!(memory.tag_slab()[frame as usize], memory.page_tags(RAM.pfn()));
}

#[test]
fn frame_words_are_the_words_of_the_page() {
    let mut memory = memory();
    memory.write_u64(RAM + 4096 + 0x18, 5);
    let frame = memory.touch((RAM + 4096).pfn());

    memory.frame_write_u64(frame, 0x21, 0x1122_3344_5566_7788);

    assert_eq!(
        (memory.frame_read_u64(frame, 0x18), memory.read_u64(RAM + 4096 + 0x21)),
        (5, 0x1122_3344_5566_7788)
    );
    assert_eq!(memory.frame_read_u64(frame, 4088), 0);
}

#[test]
#[should_panic(expected = "the word lies inside the page")]
fn frame_words_do_not_cross_into_another_page() {
    let mut memory = memory();
    let frame = memory.touch(RAM.pfn());

    memory.frame_write_u64(frame, 4089, 1);
}

#[test]
fn clones_of_clones_share_pages_until_one_writes() {
    let mut memory = memory();
    memory.write_u64(RAM, 1);
    let first = memory.clone();
    let mut second = first.clone();
    assert!(std::ptr::eq(
        first.data(RAM.pfn()).unwrap(),
        second.data(RAM.pfn()).unwrap()
    ));

    second.write_u64(RAM, 2);
    memory.write_u64(RAM, 3);

    let words = [&memory, &first, &second].map(|memory| memory.read_u64(RAM));
    assert_eq!(words, [3, 1, 2]);
}

#[test]
fn content_depends_on_what_is_there_and_not_on_history() {
    let (first, second) = (RAM.pfn(), RAM.pfn() + 1);
    let (mut short, mut long) = (memory(), memory());
    short.write_u64(RAM, 1);
    long.write_u64(second.base(), 5);
    long.set_page_tags(second, &PageTags::uniform(SEVEN));
    long.set_page_tags(second, &PageTags::ZERO);
    long.write_u64(second.base(), 0);
    long.write_u64(RAM, 1);

    for pfn in [first, second] {
        assert_eq!(short.content(pfn), long.content(pfn));
    }
    assert_eq!(long.content(second), None);
    long.set_tag(RAM, SEVEN);
    assert_ne!(short.content(first), long.content(first));
}

#[test]
fn a_watched_memory_tells_every_change_and_can_be_put_back() {
    let mut memory = memory();
    memory.write_u64(RAM, 1);
    memory.watch();
    let changes = |memory: &mut PhysMem| {
        let mut told = Vec::new();
        memory.take_changed(|pfn| told.push(pfn));
        told
    };
    let [a, b, c] = [0, 1, 2].map(|page| RAM.pfn() + page);
    assert_eq!(changes(&mut memory), [a]);
    let before = memory.content(a);

    memory.write_u64(a.base() + 4088, 7);
    memory.set_tag(b.base(), SEVEN);
    memory.copy_page(a, c);
    assert_eq!(changes(&mut memory), [a, b, c]);
    memory.zero_page(a);
    memory.fill_tags(c.base(), 32, SEVEN);
    assert_eq!(changes(&mut memory), [a, c]);

    memory.set_content(a, before.as_ref());
    memory.set_content(b, None);
    assert_eq!(changes(&mut memory), []);
    assert_eq!(memory.content(a), before);
    assert_eq!(memory.read_u64(RAM), 1);
    assert_eq!((memory.tag(b.base()), memory.read_u64(a.base() + 4088)), (Tag::ZERO, 0));
}

#[test]
fn descriptors_come_from_online_memory_only() {
    let mut memory = memory();
    memory.write_u64(RAM + 8, 0x4800_2003);
    memory.write_u64(UART, 3);

    assert_eq!(memory.read_descriptor(RAM + 8), Some(0x4800_2003));
    assert_eq!(memory.read_descriptor(PMEM), Some(0));
    assert_eq!(memory.read_descriptor(UART), None);
    assert_eq!(memory.read_descriptor(Pa(0)), None);
    memory.set_online(RAM, false).unwrap();
    assert_eq!(memory.read_descriptor(RAM + 8), None);
}

#[test]
fn set_online_names_the_base_it_does_not_know() {
    let error = memory().set_online(RAM + 4096, true).unwrap_err();

    assert_eq!(error.to_string(), "no region starts at 0x0000000040001000");
}

/// What a test does to three pages of RAM and one page of memory without tags.
#[derive(Clone, Debug)]
enum Op {
    Write { at: usize, bytes: Vec<u8> },
    ZeroPage(usize),
    CopyPage(usize, usize),
    SetTag { granule: usize, tag: u8 },
    SetPageTags { page: usize, bytes: u8 },
}

const PAGES: usize = 4;
const GRANULES: usize = PAGE_BYTES / GRANULE_SIZE as usize;

fn op() -> impl Strategy<Value = Op> {
    let page = || 0..PAGES;
    let bytes = prop::collection::vec(0u8..3, 0..9000);
    prop_oneof![
        4 => (0..PAGES * PAGE_BYTES, bytes).prop_map(|(at, bytes)| Op::Write { at, bytes }),
        1 => page().prop_map(Op::ZeroPage),
        2 => (page(), page()).prop_map(|(from, to)| Op::CopyPage(from, to)),
        4 => (0..PAGES * GRANULES, 0u8..16).prop_map(|(granule, tag)| Op::SetTag { granule, tag }),
        1 => (page(), any::<u8>()).prop_map(|(page, bytes)| Op::SetPageTags { page, bytes }),
    ]
}

/// The same memory as two flat arrays; the last page has no tags.
struct Naive {
    data: Vec<u8>,
    tags: Vec<u8>,
}

impl Naive {
    fn apply(&mut self, op: &Op) {
        let range = |page: usize| page * PAGE_BYTES..(page + 1) * PAGE_BYTES;
        match *op {
            Op::Write { at, ref bytes } => {
                let end = (at + bytes.len()).min(self.data.len());
                self.data[at..end].copy_from_slice(&bytes[..end - at]);
            }
            Op::ZeroPage(page) => self.data[range(page)].fill(0),
            Op::CopyPage(from, to) => self.data.copy_within(range(from), to * PAGE_BYTES),
            Op::SetTag { granule, tag } => self.tags[granule] = tag,
            Op::SetPageTags { page, bytes } => {
                for granule in 0..GRANULES {
                    let nibble = if granule % 2 == 0 { bytes & 0xf } else { bytes >> 4 };
                    self.tags[page * GRANULES + granule] = nibble;
                }
            }
        }
        self.tags[(PAGES - 1) * GRANULES..].fill(0);
    }
}

fn apply(memory: &mut PhysMem, op: &Op) {
    let pfn = |page: usize| RAM.pfn() + page as u64;
    match *op {
        Op::Write { at, ref bytes } => {
            let len = bytes.len().min(PAGES * PAGE_BYTES - at);
            memory.write(RAM + at as u64, &bytes[..len]);
        }
        Op::ZeroPage(page) => memory.zero_page(pfn(page)),
        Op::CopyPage(from, to) => memory.copy_page(pfn(from), pfn(to)),
        Op::SetTag { granule, tag } => {
            memory.set_tag(RAM + granule as u64 * GRANULE_SIZE, Tag::new(tag));
        }
        Op::SetPageTags { page, bytes } => {
            memory.set_page_tags(pfn(page), &PageTags::from_bytes([bytes; 128]));
        }
    }
}

/// Three pages of RAM with a page without tags right behind.
fn four_pages() -> PhysMem {
    let ram = Region::ram(RAM, 3 * PAGE_SIZE, "ram");
    let behind = Region {
        base: ram.end(),
        size: PAGE_SIZE,
        kind: RegionKind::RamNoTags,
        ..ram.clone()
    };
    PhysMem::new(vec![ram, behind]).expect("a legal map")
}

/// All data and tags of the four pages.
fn content(memory: &PhysMem) -> (Vec<u8>, Vec<u8>) {
    let mut data = vec![0; PAGES * PAGE_BYTES];
    memory.read(RAM, &mut data);
    let granules = (0..PAGES * GRANULES).map(|granule| RAM + granule as u64 * GRANULE_SIZE);
    (data, granules.map(|pa| memory.tag(pa).get()).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn memory_behaves_like_two_flat_arrays(ops in prop::collection::vec(op(), 0..40), snapshot_at in 0usize..40) {
        let mut memory = four_pages();
        let mut naive = Naive { data: vec![0; PAGES * PAGE_BYTES], tags: vec![0; PAGES * GRANULES] };
        let mut snapshot = (memory.clone(), content(&memory));

        for (step, op) in ops.iter().enumerate() {
            if step == snapshot_at {
                snapshot = (memory.clone(), content(&memory));
            }
            apply(&mut memory, op);
            naive.apply(op);
        }

        prop_assert!(content(&memory) == (naive.data, naive.tags));
        prop_assert!(content(&snapshot.0) == snapshot.1, "a clone saw writes to its origin");
    }
}
