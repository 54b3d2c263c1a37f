//! The tag instructions on memory: registers, offsets and index forms.

use super::*;

/// The tag of X1 is 7, that of SP 9.
fn machine() -> Machine {
    let mut machine = Machine::new().with(&[(1, 0x0700_0000_0000_1234)]);
    machine.core.sp[1] = AT | 9 << 56;
    machine
}

#[test]
fn tag_stores_take_the_tag_from_their_register_and_index_like_stores() {
    // Tags of the first eight granules (X2 points to the fifth), how far X2 moved, and where the zeroes are.
    let stores = [
        (0xd920_0841, "stg x1, [x2]", "00007000", 0, 0..0),
        (0xd93f_f841, "stg x1, [x2, #-16]", "00070000", 0, 0..0),
        (0xd920_2441, "stg x1, [x2], #32", "00007000", 32, 0..0),
        (0xd920_2c41, "stg x1, [x2, #32]!", "00000070", 32, 0..0),
        (0xd920_0842, "stg x2, [x2]", "00000000", 0, 0..0),
        (0xd920_085f, "stg sp, [x2]", "00009000", 0, 0..0),
        (0xd9a0_0841, "st2g x1, [x2]", "00007700", 0, 0..0),
        (0xd9bf_e441, "st2g x1, [x2], #-32", "00007700", -32, 0..0),
        (0xd9bf_ec41, "st2g x1, [x2, #-32]!", "00770000", -32, 0..0),
        (0xd960_0841, "stzg x1, [x2]", "00007000", 0, 0x40..0x50),
        (0xd960_1441, "stzg x1, [x2], #16", "00007000", 16, 0x40..0x50),
        (0xd97f_cc41, "stzg x1, [x2, #-64]!", "70000000", -64, 0..0x10),
        (0xd9e0_1841, "stz2g x1, [x2, #16]", "00000770", 0, 0x50..0x70),
        (0xd9ef_f441, "stz2g x1, [x2], #4080", "00007700", 4080, 0x40..0x60),
        (0xd9e0_1c5f, "stz2g sp, [x2, #16]!", "00000990", 16, 0x50..0x70),
    ];
    for (word, asm, tags, moved, zeroes) in stores {
        let mut machine = machine();
        let mut memory = machine.guest.data.clone();

        machine.run(word, asm);

        assert_eq!(machine.digits(8), tags, "{asm}");
        assert_eq!(machine.core.x[2], AT.wrapping_add_signed(moved), "{asm}");
        memory[zeroes].fill(0);
        assert!(machine.guest.data == memory, "{asm}");
    }
}

#[test]
fn stgp_stores_two_registers_with_the_tag_of_the_address() {
    let forms = [
        (0x6900_0c41, "stgp x1, x3, [x2]", "00005000", 0, 0),
        (0x693f_8c41, "stgp x1, x3, [x2, #-16]", "00050000", -16, 0),
        (0x689f_8c41, "stgp x1, x3, [x2], #1008", "00005000", 0, 1008),
        (0x6980_8c41, "stgp x1, x3, [x2, #16]!", "00000500", 16, 16),
    ];
    for (word, asm, tags, offset, moved) in forms {
        let mut machine = machine().with(&[(2, AT | 5 << 56), (3, 0x33)]);

        machine.run(word, asm);

        assert_eq!(machine.digits(8), tags, "{asm}");
        assert_eq!(
            machine.bytes(offset, 8),
            0x0700_0000_0000_1234_u64.to_le_bytes(),
            "{asm}"
        );
        assert_eq!(machine.bytes(offset + 8, 2), [0x33, 0], "{asm}");
        assert_eq!(machine.core.x[2], (AT | 5 << 56) + moved, "{asm}");
    }
}

#[test]
fn stgp_of_the_zero_register_zeroes() {
    let mut machine = machine();

    machine.run(0x6900_7fff, "stgp xzr, xzr, [sp]");

    assert_eq!(machine.bytes(0, 17), [&[0; 16][..], &[0xd0]].concat());
    assert_eq!(machine.digits(5), "00009");
}

#[test]
fn ldg_puts_the_tag_into_the_register_and_keeps_its_other_bits() {
    let mut machine = machine().with(&[(1, 0xab00_0000_0000_1234)]);
    machine.guest.tags[0].set(5, Tag::new(6));

    machine.run(0xd960_1041, "ldg x1, [x2, #16]");
    assert_eq!(machine.core.x[1], 0xa600_0000_0000_1234);
    machine.run(0xd97f_f3e1, "ldg x1, [sp, #-16]");
    assert_eq!(machine.core.x[1], 0xa000_0000_0000_1234);
}

#[test]
fn multiple_granule_forms_move_blocks_of_tags() {
    let mut machine = machine().with(&[(1, 0x0123_4567_89ab_cdef), (3, BASE + 0x100), (5, 0xfff6)]);

    machine.run(0xd9a0_0061, "stgm x1, [x3]");
    machine.run(0xd9e0_0066, "ldgm x6, [x3]");
    assert_eq!(machine.core.x[6], 0x0123_4567_89ab_cdef);
    machine.run(0xd9a0_007f, "stgm xzr, [x3]");
    machine.run(0xd920_0045, "stzgm x5, [x2]");

    assert_eq!(machine.digits(20), "00006666000000000000");
    assert_eq!(machine.bytes(0, 64), [0; 64]);
    assert_eq!(machine.bytes(64, 3), [0, 1, 2], "the block is 64 bytes");
}

#[test]
fn multiple_granule_forms_are_undefined_at_el0() {
    let mut machine = machine().at_el(0);

    for (word, asm) in [
        (0xd9e0_0041, "ldgm x1, [x2]"),
        (0xd9a0_0041, "stgm x1, [x2]"),
        (0xd920_0041, "stzgm x1, [x2]"),
    ] {
        assert_eq!(machine.exception(word, asm), Exception::Undefined, "{asm}");
    }
    machine.run(0xd920_0841, "stg x1, [x2]");
}

#[test]
fn faulting_tag_instruction_changes_neither_tags_nor_registers() {
    let mut machine = Machine::with_pages(&[Tagged, Page::TaggedReadOnly]).with(&[(2, BASE + 0x1000)]);

    for (word, asm) in [
        (0xd920_1441, "stg x1, [x2], #16"),
        (0xd9bf_fc41, "st2g x1, [x2, #-16]!"),
        (0xd960_0841, "stzg x1, [x2]"),
        (0xd9e0_1441, "stz2g x1, [x2], #16"),
        (0x6880_8c41, "stgp x1, x3, [x2], #16"),
        (0xd9a0_0041, "stgm x1, [x2]"),
        (0xd920_0041, "stzgm x1, [x2]"),
    ] {
        let fault = machine.fault(word, asm);
        assert_eq!(
            (fault.kind, fault.va),
            (FaultKind::Permission, pointer(0x1000, 0)),
            "{asm}"
        );
    }
    machine.core.x[2] = BASE + 0x2000;
    for (word, asm) in [(0xd960_0041, "ldg x1, [x2]"), (0xd9e0_0041, "ldgm x1, [x2]")] {
        assert_eq!(machine.fault(word, asm).kind, FaultKind::Translation, "{asm}");
    }
    machine.core.x[2] = AT + 8;
    assert_eq!(
        machine.fault(0x6880_8c41, "stgp x1, x3, [x2], #16").kind,
        FaultKind::Alignment
    );
}

#[test]
fn canonically_tagged_memory_reads_copies_of_bit_55() {
    let mut machine = Machine::with_pages(&[Page::Canonical]).with(&[(1, u64::MAX), (3, u64::MAX)]);

    machine.run(0xd960_0041, "ldg x1, [x2]");
    machine.run(0xd9e0_0043, "ldgm x3, [x2]");

    assert_eq!((machine.core.x[1], machine.core.x[3]), (0xf0ff_ffff_ffff_ffff, 0));
}
