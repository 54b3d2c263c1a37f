//! Loads of one register: sizes, extension, address forms, what they leave in the base register, and what is checked.

use super::*;

/// Word, assembly, X1 afterwards, and how far X2 moved. X3 is 8; W4 is -3, with rubbish above.
const LOADS: [(u32, &str, u64, i64); 52] = [
    (0x3940_0041, "ldrb w1, [x2]", 0xc0, 0),
    (0x7940_0041, "ldrh w1, [x2]", 0xc1c0, 0),
    (0xb940_0041, "ldr w1, [x2]", 0xc3c2_c1c0, 0),
    (0xf940_0041, "ldr x1, [x2]", 0xc7c6_c5c4_c3c2_c1c0, 0),
    (0x39c0_0041, "ldrsb w1, [x2]", 0xffff_ffc0, 0),
    (0x3980_0041, "ldrsb x1, [x2]", 0xffff_ffff_ffff_ffc0, 0),
    (0x79c0_0041, "ldrsh w1, [x2]", 0xffff_c1c0, 0),
    (0x7980_0041, "ldrsh x1, [x2]", 0xffff_ffff_ffff_c1c0, 0),
    (0xb980_0041, "ldrsw x1, [x2]", 0xffff_ffff_c3c2_c1c0, 0),
    (0x3940_0c41, "ldrb w1, [x2, #3]", 0xc3, 0),
    (0x7940_0c41, "ldrh w1, [x2, #6]", 0xc7c6, 0),
    (0xb940_0441, "ldr w1, [x2, #4]", 0xc7c6_c5c4, 0),
    (0xf940_0841, "ldr x1, [x2, #16]", 0xd7d6_d5d4_d3d2_d1d0, 0),
    (0xb980_4041, "ldrsw x1, [x2, #64]", 0x0302_0100, 0),
    (0x39c1_0441, "ldrsb w1, [x2, #65]", 0x01, 0),
    (0x7980_8441, "ldrsh x1, [x2, #66]", 0x0302, 0),
    (0x385f_f041, "ldurb w1, [x2, #-1]", 0xbf, 0),
    (0x785f_e041, "ldurh w1, [x2, #-2]", 0xbfbe, 0),
    (0xb85f_d041, "ldur w1, [x2, #-3]", 0xc0bf_bebd, 0),
    (0xf85f_7041, "ldur x1, [x2, #-9]", 0xbebd_bcbb_bab9_b8b7, 0),
    (0x38df_f041, "ldursb w1, [x2, #-1]", 0xffff_ffbf, 0),
    (0x789f_e041, "ldursh x1, [x2, #-2]", 0xffff_ffff_ffff_bfbe, 0),
    (0xb88f_f041, "ldursw x1, [x2, #255]", 0xffff_ffff_c2c1_c0bf, 0),
    (0x385f_f841, "ldtrb w1, [x2, #-1]", 0xbf, 0),
    (0x7840_2841, "ldtrh w1, [x2, #2]", 0xc3c2, 0),
    (0xb840_0841, "ldtr w1, [x2]", 0xc3c2_c1c0, 0),
    (0xf840_0841, "ldtr x1, [x2]", 0xc7c6_c5c4_c3c2_c1c0, 0),
    (0x38c0_0841, "ldtrsb w1, [x2]", 0xffff_ffc0, 0),
    (0x7880_0841, "ldtrsh x1, [x2]", 0xffff_ffff_ffff_c1c0, 0),
    (0xb880_0841, "ldtrsw x1, [x2]", 0xffff_ffff_c3c2_c1c0, 0),
    (0x3840_1441, "ldrb w1, [x2], #1", 0xc0, 1),
    (0xf850_0441, "ldr x1, [x2], #-256", 0xc7c6_c5c4_c3c2_c1c0, -256),
    (0xb880_4441, "ldrsw x1, [x2], #4", 0xffff_ffff_c3c2_c1c0, 4),
    (0x784f_fc41, "ldrh w1, [x2, #255]!", 0xc0bf, 255),
    (0xb85f_cc41, "ldr w1, [x2, #-4]!", 0xbfbe_bdbc, -4),
    (0x3880_8c41, "ldrsb x1, [x2, #8]!", 0xffff_ffff_ffff_ffc8, 8),
    (0xf863_6841, "ldr x1, [x2, x3]", 0xcfce_cdcc_cbca_c9c8, 0),
    (0xf863_7841, "ldr x1, [x2, x3, lsl #3]", 0x0706_0504_0302_0100, 0),
    (0x7863_7841, "ldrh w1, [x2, x3, lsl #1]", 0xd1d0, 0),
    (0x3863_7841, "ldrb w1, [x2, x3, lsl #0]", 0xc8, 0),
    (0xb863_e841, "ldr w1, [x2, x3, sxtx]", 0xcbca_c9c8, 0),
    (0xb863_f841, "ldr w1, [x2, x3, sxtx #2]", 0xe3e2_e1e0, 0),
    (0xb864_c841, "ldr w1, [x2, w4, sxtw]", 0xc0bf_bebd, 0),
    (0xb864_d841, "ldr w1, [x2, w4, sxtw #2]", 0xb7b6_b5b4, 0),
    (0xf863_4841, "ldr x1, [x2, w3, uxtw]", 0xcfce_cdcc_cbca_c9c8, 0),
    (0xf863_5841, "ldr x1, [x2, w3, uxtw #3]", 0x0706_0504_0302_0100, 0),
    (0x78e3_5841, "ldrsh w1, [x2, w3, uxtw #1]", 0xffff_d1d0, 0),
    (0xf87f_6841, "ldr x1, [x2, xzr]", 0xc7c6_c5c4_c3c2_c1c0, 0),
    (0x1800_0041, "ldr w1, . + 8", 0x8b8a_8988, 0),
    (0x5800_0201, "ldr x1, . + 0x40", 0xc7c6_c5c4_c3c2_c1c0, 0),
    (0x9800_0401, "ldrsw x1, . + 0x80", 0x0302_0100, 0),
    (0x9800_0021, "ldrsw x1, . + 4", 0xffff_ffff_8786_8584, 0),
];

fn machine() -> Machine {
    Machine::new().with(&[(1, 0x5555_5555_5555_5555), (3, 8), (4, 0xdead_0000_ffff_fffd)])
}

#[test]
fn loads_extend_what_they_read_and_move_their_base_as_their_form_says() {
    for (word, asm, loaded, moved) in LOADS {
        let mut machine = machine();

        machine.run(word, asm);

        assert_eq!(machine.core.x[1], loaded, "{asm}");
        assert_eq!(machine.core.x[2], AT.wrapping_add_signed(moved), "{asm}");
    }
}

#[test]
fn uxtw_ignores_the_upper_half_of_the_offset_register() {
    let mut machine = machine().with(&[(4, 0xdead_beef_0000_0010)]);

    machine.run(0xf864_4841, "ldr x1, [x2, w4, uxtw]");

    assert_eq!(machine.core.x[1], 0xd7d6_d5d4_d3d2_d1d0);
}

#[test]
fn literal_before_the_instruction_is_loaded() {
    let mut machine = machine();
    machine.core.pc = BASE + 0x20;

    machine.run(0x18ff_ff81, "ldr w1, . - 0x10");

    assert_eq!(machine.core.x[1], 0x9392_9190);
}

#[test]
fn load_into_the_zero_register_reads_memory_and_changes_no_register() {
    let mut machine = machine();
    let before = machine.core.x;

    machine.run(0xf940_005f, "ldr xzr, [x2]");
    assert_eq!(machine.core.x, before);

    machine.core.x[2] = BASE + 2 * PAGE_SIZE;
    assert_eq!(machine.fault(0xf940_005f, "ldr xzr, [x2]").kind, FaultKind::Translation);
}

#[test]
fn writeback_happens_only_if_the_load_completes() {
    let mut machine = machine().with(&[(2, BASE + 2 * PAGE_SIZE)]);

    assert_eq!(machine.fault(0xf840_8441, "ldr x1, [x2], #8").va, pointer(0x2000, 0));
    assert_eq!(machine.fault(0xf840_8c41, "ldr x1, [x2, #8]!").va, pointer(0x2008, 0));
    assert_eq!(machine.fault(0xf940_0841, "ldr x1, [x2, #16]").va, pointer(0x2010, 0));
}

#[test]
fn loads_through_a_register_are_tag_checked_and_literals_are_not() {
    let mut machine = machine();
    machine.guest = machine.guest.with_tags(0, Tag::new(7));

    for (word, asm) in [
        (0xf940_0041, "ldr x1, [x2]"),
        (0xf863_6841, "ldr x1, [x2, x3]"),
        (0xf840_8441, "ldr x1, [x2], #8"),
        (0xf840_0841, "ldtr x1, [x2]"),
        (0xc8df_fc41, "ldar x1, [x2]"),
        (0xd940_8041, "ldapur x1, [x2, #8]"),
    ] {
        assert_eq!(machine.fault(word, asm).kind, FaultKind::TagCheck, "{asm}");
    }
    machine.run(0x5800_0201, "ldr x1, . + 0x40");
    assert_eq!(machine.core.x[1], 0xc7c6_c5c4_c3c2_c1c0);
}

#[test]
fn stack_pointer_with_an_immediate_offset_is_unchecked_unless_written_back() {
    let mut machine = machine();
    machine.guest = machine.guest.with_tags(0, Tag::new(7));
    machine.core.sp[1] = AT;

    for (word, asm) in [
        (0xf940_03e1, "ldr x1, [sp]"),
        (0xf940_07e1, "ldr x1, [sp, #8]"),
        (0xf85f_83e1, "ldur x1, [sp, #-8]"),
        (0xf840_0be1, "ldtr x1, [sp]"),
        (0xc8df_ffe1, "ldar x1, [sp]"),
        (0xc85f_7fe1, "ldxr x1, [sp]"),
        (0xa941_17e1, "ldp x1, x5, [sp, #16]"),
        (0xf825_83e1, "swp x5, x1, [sp]"),
        (0xc8a5_7fe1, "cas x5, x1, [sp]"),
        (0xf900_07e1, "str x1, [sp, #8]"),
    ] {
        machine.run(word, asm);
    }
    for (word, asm) in [
        (0xf841_07e1, "ldr x1, [sp], #16"),
        (0xf841_0fe1, "ldr x1, [sp, #16]!"),
        (0xf863_6be1, "ldr x1, [sp, x3]"),
        (0xa8c1_17e1, "ldp x1, x5, [sp], #16"),
        (0xa9bf_17e1, "stp x1, x5, [sp, #-16]!"),
    ] {
        assert_eq!(machine.fault(word, asm).kind, FaultKind::TagCheck, "{asm}");
    }
}

#[test]
fn stack_pointer_is_that_of_the_level_and_writeback_goes_there() {
    for el in 0..3 {
        let mut machine = machine().at_el(el);
        machine.core.sp = [BASE + 0x100, BASE + 0x200, BASE + 0x300];

        machine.run(0xf841_07e1, "ldr x1, [sp], #16");

        let mut sp = [BASE + 0x100, BASE + 0x200, BASE + 0x300];
        sp[usize::from(el)] += 16;
        assert_eq!(machine.core.sp, sp, "EL{el}");
    }
}

#[test]
fn misaligned_stack_pointer_faults_where_sa_of_the_level_asks_for_it() {
    let misaligned = |el| {
        let mut machine = machine().at_el(el);
        machine.core.sp = [AT + 8; 3];
        machine
    };
    for el in 0..3 {
        misaligned(el).run(0xf940_03e1, "ldr x1, [sp]");

        let mut machine = misaligned(el);
        machine.change_sys(|sys| match el {
            0 => sys.sctlr_el1.set_sa0(true),
            1 => sys.sctlr_el1.set_sa(true),
            _ => sys.sctlr_el2.set_sa(true),
        });
        for (word, asm) in [
            (0xf940_03e1, "ldr x1, [sp]"),
            (0xf81f_0fe1, "str x1, [sp, #-16]!"),
            (0xf841_07e1, "ldr x1, [sp], #16"),
            (0xf825_83e1, "swp x5, x1, [sp]"),
            (0x4824_7fe6, "casp x4, x5, x6, x7, [sp]"),
            (0xd960_03e1, "ldg x1, [sp]"),
            (0xd920_17e1, "stg x1, [sp], #16"),
            (0x6900_07e1, "stgp x1, x1, [sp]"),
        ] {
            assert_eq!(machine.exception(word, asm), Exception::SpAlignment, "{asm} at EL{el}");
        }
        // A register that happens to hold the same address is no stack pointer.
        machine.core.x[2] = AT + 8;
        machine.run(0xf940_0041, "ldr x1, [x2]");
    }
}

#[test]
fn unprivileged_loads_use_the_rules_of_el0_unless_uao_is_set() {
    let mut machine = machine();
    machine.guest = machine.guest.with_tags(0, Tag::new(7));
    machine.change_sys(|sys| sys.sctlr_el1.set_tcf0(0));

    machine.run(0xf840_0841, "ldtr x1, [x2]");
    machine.core.uao = true;
    assert_eq!(machine.fault(0xf840_0841, "ldtr x1, [x2]").kind, FaultKind::TagCheck);
    machine.core.uao = false;
    machine = machine.at_el(2);
    assert_eq!(
        machine.fault(0xf840_0841, "ldtr x1, [x2]").kind,
        FaultKind::TagCheck,
        "EL2 has no EL0"
    );
}
