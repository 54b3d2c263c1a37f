//! Random software that invalidates what it changes: no kind of TLB changes an answer.
//!
//! Models loads, stores, tags, remapped pages, levels, PAN and TCO. Left out: stage 2. The invariant is the test's name.

use proptest::prelude::*;

use super::*;

const DEVICE: u64 = 1 << 2;

/// What a random run does.
#[derive(Clone, Copy, Debug)]
enum Op {
    Load { page: u64, offset: u64, tag: u8, size: u8 },
    Store { page: u64, offset: u64, tag: u8, size: u8 },
    Tag { page: u64, granule: u64, tag: u8 },
    Tags { page: u64, bits: u64 },
    Remap { page: u64, data: u64, attributes: u64 },
    Level(u8),
    Pan(bool),
    Tco(bool),
}

fn op() -> impl Strategy<Value = Op> {
    let size = || prop::sample::select(vec![1_u8, 2, 4, 8]);
    let offset = || {
        prop_oneof![
            0..PAGE_SIZE,
            (0..512_u64).prop_map(|word| word * 8),
            Just(PAGE_SIZE - 3)
        ]
    };
    prop_oneof![
        6 => (0..4_u64, offset(), 0..3_u8, size()).prop_map(|(page, offset, tag, size)| Op::Load { page, offset, tag, size }),
        4 => (0..4_u64, offset(), 0..3_u8, size()).prop_map(|(page, offset, tag, size)| Op::Store { page, offset, tag, size }),
        3 => (0..4_u64, 0..256_u64, 0..3_u8).prop_map(|(page, granule, tag)| Op::Tag { page, granule, tag }),
        1 => (0..4_u64, any::<u64>()).prop_map(|(page, bits)| Op::Tags { page, bits: bits & 0x3333_3333_3333_3333 }),
        2 => (0..4_u64, 0..4_u64, prop::sample::select(vec![0, READ_ONLY, DEVICE, NOT_GLOBAL, 1 << 3, 1 << 53]))
            .prop_map(|(page, data, attributes)| Op::Remap { page, data, attributes }),
        1 => (0..2_u8).prop_map(Op::Level),
        1 => any::<bool>().prop_map(Op::Pan),
        1 => any::<bool>().prop_map(Op::Tco),
    ]
}

/// Does an operation; what came of it, in words.
fn run(pe: &mut Pe, op: Op) -> String {
    let pointer = |page: u64, offset, tag| Va(VA + page * PAGE_SIZE + offset).with_tag(Tag::new(tag));
    match op {
        Op::Load {
            page,
            offset,
            tag,
            size,
        } => format!("{:?}", pe.load(pointer(page, offset, tag), size)),
        Op::Store {
            page,
            offset,
            tag,
            size,
        } => {
            format!(
                "{:?}",
                pe.store(pointer(page, offset, tag), size, 0x0123_4567_89ab_cdef ^ offset)
            )
        }
        Op::Tag { page, granule, tag } => {
            let stored = pe.stg(pointer(page, granule * 16, 0), Tag::new(tag));
            format!("{stored:?} {:?}", pe.ldg(pointer(page, granule * 16, 0)))
        }
        Op::Tags { page, bits } => format!(
            "{:?} {:?}",
            pe.stgm(pointer(page, 0, 0), bits),
            pe.ldgm(pointer(page, 0, 0))
        ),
        Op::Remap { page, data, attributes } => {
            pe.memory_mut().write_u64(Pa(TABLES[2] + 8 * page), 0);
            let el = pe.core().cpu.el;
            pe.core_mut().cpu.el = 1;
            tlbi(pe, TLBI_VMALLE1, 0);
            pe.core_mut().cpu.el = el;
            map(pe, page, data, attributes);
            String::new()
        }
        Op::Level(el) => {
            pe.core_mut().cpu.el = el;
            String::new()
        }
        Op::Pan(pan) => {
            pe.core_mut().cpu.pan = pan;
            String::new()
        }
        Op::Tco(tco) => {
            pe.core_mut().cpu.tco = tco;
            String::new()
        }
    }
}

proptest! {
    #[test]
    fn tlb_changes_no_answer_for_software_that_invalidates(ops in prop::collection::vec(op(), 1..120)) {
        let mut elements = [TlbMode::Off, TlbMode::On, TlbMode::Check].map(element);
        for pe in &mut elements {
            for page in 0..4 {
                map(pe, page, page, 0);
            }
        }
        for &op in &ops {
            let [off, on, check] = elements.each_mut().map(|pe| run(pe, op));
            prop_assert_eq!(&on, &off, "{:?}", op);
            prop_assert_eq!(&check, &off, "{:?}", op);
        }
        prop_assert_eq!(elements[2].tlb_reports(), &[]);
        for data in 0..4 * PAGE_SIZE / 8 {
            let words = elements.each_ref().map(|pe| pe.memory().read_u64(Pa(DATA + 8 * data)));
            prop_assert!(words[0] == words[1] && words[1] == words[2]);
        }
    }
}
