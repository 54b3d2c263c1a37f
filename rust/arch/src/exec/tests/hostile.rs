//! Any word on any register state: no panic, and no trace of an instruction that stops.

use proptest::prelude::*;

use super::*;
use crate::exec::decode::decode;

/// Words that are likely to decode: one of each group with its free bits drawn.
fn word() -> impl Strategy<Value = u32> {
    // Fixed bits and their values: loads and stores, exclusives, pairs, tags, atomics, registers, SYS, MRS and MSR.
    let group = prop::sample::select(vec![
        (0x0000_0000, 0x0000_0000),
        (0x3b00_0000, 0x3800_0000),
        (0x3b00_0000, 0x3900_0000),
        (0x3b20_0c00, 0x3820_0000),
        (0x3b20_0c00, 0x3820_0800),
        (0x3b00_0000, 0x1800_0000),
        (0x3f00_0000, 0x0800_0000),
        (0x3f20_0c00, 0x1900_0000),
        (0x3a00_0000, 0x2800_0000),
        (0xff20_0000, 0xd920_0000),
        (0xbfc0_c000, 0x9180_0000),
        (0xdfe0_fc00, 0x9ac0_0000),
        (0xdfe0_f800, 0x9ac0_1000),
        (0xfff8_f000, 0xd508_7000),
        (0xffc0_0000, 0xd500_0000),
    ]);
    (group, any::<u32>()).prop_map(|((mask, value), free): ((u32, u32), u32)| free & !mask | value)
}

/// A register value: anything, or a pointer near the guest's pages, some with tags.
fn value() -> impl Strategy<Value = u64> {
    let near = (0..3 * PAGE_SIZE, 0_u64..3).prop_map(|(offset, tag)| (BASE + offset) | (tag << 56));
    prop_oneof![1 => any::<u64>(), 3 => near, 1 => near_aligned()]
}

fn near_aligned() -> impl Strategy<Value = u64> {
    (0..3 * PAGE_SIZE / 16).prop_map(|granule| BASE + granule * 16)
}

/// Control registers: tag checks on at every level, or anything.
fn sys() -> impl Strategy<Value = SysRegs> {
    let anything = any::<[u64; 3]>().prop_map(|[sctlr, hcr, tcr]| SysRegs {
        sctlr_el1: sctlr.into(),
        sctlr_el2: sctlr.rotate_left(7).into(),
        hcr_el2: hcr.into(),
        tcr_el1: tcr.into(),
        tcr_el2: tcr.rotate_left(9).into(),
        ..SysRegs::default()
    });
    prop_oneof![Just(checked()), anything]
}

prop_compose! {
    fn core()(
        el in 0_u8..3,
        sys in sys(),
        x in prop::collection::vec(value(), 31),
        sp in prop::collection::vec(value(), 3),
        pc in value(),
        flags: [bool; 3],
        features: u8,
    ) -> Core {
        let mut core = Core::new(Features::from_bits_truncate(features), 5);
        core.set_sys(sys);
        core.cpu.el = el;
        core.x.copy_from_slice(&x);
        core.sp.copy_from_slice(&sp);
        core.pc = pc & !3;
        (core.cpu.tco, core.cpu.pan, core.uao) = (flags[0], flags[1], flags[2]);
        core
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoding_never_panics_and_looks_at_the_word_alone(word: u32) {
        prop_assert_eq!(decode(word), decode(word));
    }

    #[test]
    fn an_instruction_that_stops_changes_nothing_but_tfsr(core in core(), words in prop::collection::vec(word(), 1..8)) {
        let guest = Machine::with_pages(&[Tagged, Page::TaggedReadOnly, Page::Canonical]).guest.with_tags(1, Tag::new(1));
        let mut machine = Machine { core, guest };
        for word in words {
            let before = machine.clone();

            match machine.try_run(word) {
                Ok(_) => prop_assert_eq!(machine.core.pc, before.core.pc.wrapping_add(4), "{:#010x}", word),
                Err(stop) => {
                    prop_assert!(stop != Stop::NotModelled || machine.core.cpu.tfsr == before.core.cpu.tfsr);
                    machine.core.cpu.tfsr = before.core.cpu.tfsr;
                    prop_assert!(machine.core == before.core, "{word:#010x} changed a register before {stop:?}");
                    prop_assert!(machine.guest == before.guest, "{word:#010x} changed memory before {stop:?}");
                }
            }
        }
    }
}
