//! Stores of one register: what reaches memory, and that nothing around it does.

use super::*;

/// Word, assembly, where the bytes go relative to [`AT`], how many, and how far X2 moved. X1 is the value; X3 is 8, W4 -3.
const STORES: [(u32, &str, i64, usize, i64); 33] = [
    (0x3900_0041, "strb w1, [x2]", 0, 1, 0),
    (0x7900_0041, "strh w1, [x2]", 0, 2, 0),
    (0xb900_0041, "str w1, [x2]", 0, 4, 0),
    (0xf900_0041, "str x1, [x2]", 0, 8, 0),
    (0x393f_fc41, "strb w1, [x2, #4095]", 4095, 1, 0),
    (0x7900_4041, "strh w1, [x2, #32]", 32, 2, 0),
    (0xb900_1041, "str w1, [x2, #16]", 16, 4, 0),
    (0xf908_0041, "str x1, [x2, #4096]", 4096, 8, 0),
    (0x381f_f041, "sturb w1, [x2, #-1]", -1, 1, 0),
    (0x781f_f041, "sturh w1, [x2, #-1]", -1, 2, 0),
    (0xb81e_f041, "stur w1, [x2, #-17]", -17, 4, 0),
    (0xf80f_f041, "stur x1, [x2, #255]", 255, 8, 0),
    (0x3800_1841, "sttrb w1, [x2, #1]", 1, 1, 0),
    (0x7800_2841, "sttrh w1, [x2, #2]", 2, 2, 0),
    (0xb800_4841, "sttr w1, [x2, #4]", 4, 4, 0),
    (0xf81f_8841, "sttr x1, [x2, #-8]", -8, 8, 0),
    (0x381f_f441, "strb w1, [x2], #-1", 0, 1, -1),
    (0xf800_8441, "str x1, [x2], #8", 0, 8, 8),
    (0x7800_2c41, "strh w1, [x2, #2]!", 2, 2, 2),
    (0xb81e_0c41, "str w1, [x2, #-32]!", -32, 4, -32),
    (0xf823_6841, "str x1, [x2, x3]", 8, 8, 0),
    (0xf823_7841, "str x1, [x2, x3, lsl #3]", 64, 8, 0),
    (0xb824_d841, "str w1, [x2, w4, sxtw #2]", -12, 4, 0),
    (0x3824_c841, "strb w1, [x2, w4, sxtw]", -3, 1, 0),
    (0x7823_5841, "strh w1, [x2, w3, uxtw #1]", 16, 2, 0),
    (0x089f_fc41, "stlrb w1, [x2]", 0, 1, 0),
    (0x489f_fc41, "stlrh w1, [x2]", 0, 2, 0),
    (0x889f_fc41, "stlr w1, [x2]", 0, 4, 0),
    (0xc89f_fc41, "stlr x1, [x2]", 0, 8, 0),
    (0x191f_b041, "stlurb w1, [x2, #-5]", -5, 1, 0),
    (0x5900_5041, "stlurh w1, [x2, #5]", 5, 2, 0),
    (0xd900_8041, "stlur x1, [x2, #8]", 8, 8, 0),
    (0x889f_7c41, "stllr w1, [x2]", 0, 4, 0),
];

const VALUE: u64 = 0x1716_1514_1312_1110;

fn machine() -> Machine {
    Machine::new().with(&[(1, VALUE), (3, 8), (4, 0xdead_0000_ffff_fffd)])
}

#[test]
fn stores_write_the_low_bytes_of_their_register_and_nothing_else() {
    for (word, asm, offset, size, moved) in STORES {
        let mut machine = machine();
        let mut memory = machine.guest.data.clone();

        machine.run(word, asm);

        let start = (AT - BASE).checked_add_signed(offset).unwrap() as usize;
        memory[start..start + size].copy_from_slice(&VALUE.to_le_bytes()[..size]);
        assert!(
            machine.guest.data == memory,
            "{asm}: {:x?}",
            machine.bytes(offset, size)
        );
        assert_eq!(machine.core.x[2], AT.wrapping_add_signed(moved), "{asm}");
        assert_eq!(machine.core.x[1], VALUE, "{asm}");
    }
}

#[test]
fn zero_register_stores_zero() {
    let mut machine = machine();

    machine.run(0xf900_005f, "str xzr, [x2]");

    assert_eq!(machine.bytes(-1, 10), [0xbf, 0, 0, 0, 0, 0, 0, 0, 0, 0xc8]);
}

#[test]
fn store_of_its_own_base_stores_what_the_base_was() {
    let mut machine = machine();

    machine.run(0xf900_0442, "str x2, [x2, #8]");

    assert_eq!(machine.bytes(8, 8), AT.to_le_bytes());
}

#[test]
fn faulting_store_writes_neither_memory_nor_base() {
    let mut machine = machine();
    machine.guest = machine.guest.with_tags(0, Tag::new(7));

    for (word, asm) in [
        (0xf900_0041, "str x1, [x2]"),
        (0xf800_8441, "str x1, [x2], #8"),
        (0xb800_4c41, "str w1, [x2, #4]!"),
        (0xf800_0841, "sttr x1, [x2]"),
        (0xc89f_fc41, "stlr x1, [x2]"),
        (0xa881_0c41, "stp x1, x3, [x2], #16"),
        (0x3c81_0c41, "str q1, [x2, #16]!"),
    ] {
        let fault = machine.fault(word, asm);
        assert_eq!((fault.kind, fault.esr(1)), (FaultKind::TagCheck, 0x9600_0051), "{asm}");
    }
}

#[test]
fn ordered_accesses_may_be_misaligned_inside_16_bytes_or_with_naa() {
    let mut machine = machine().with(&[(2, AT + 4), (3, AT + 12)]);

    machine.run(0xc8df_fc41, "ldar x1, [x2]");
    machine.run(0xc89f_fc41, "stlr x1, [x2]");
    for (word, asm) in [
        (0xc8df_fc61, "ldar x1, [x3]"),
        (0xc89f_fc61, "stlr x1, [x3]"),
        (0xf8bf_c061, "ldapr x1, [x3]"),
        (0xd940_8041, "ldapur x1, [x2, #8]"),
        (0xd900_8041, "stlur x1, [x2, #8]"),
    ] {
        assert_eq!(machine.fault(word, asm).kind, FaultKind::Alignment, "{asm}");
    }
    machine.change_sys(|sys| sys.sctlr_el1.set_naa(true));
    machine.run(0xc8df_fc61, "ldar x1, [x3]");
    machine.run(0xd900_8041, "stlur x1, [x2, #8]");
}

#[test]
fn strict_alignment_counts_the_registers_of_a_pair_one_by_one() {
    let mut machine = machine().with(&[(2, AT + 8)]);
    machine.change_sys(|sys| sys.sctlr_el1.set_a(true));

    machine.run(0xa940_0c41, "ldp x1, x3, [x2]");
    machine.run(0x2900_8c41, "stp w1, w3, [x2, #4]");
    machine.core.x[2] = AT + 4;
    assert_eq!(
        machine.fault(0xa940_0c41, "ldp x1, x3, [x2]").kind,
        FaultKind::Alignment
    );
    assert_eq!(machine.fault(0xf940_0041, "ldr x1, [x2]").kind, FaultKind::Alignment);
    machine.core.x[2] = AT + 8;
    assert_eq!(machine.fault(0x3dc0_0041, "ldr q1, [x2]").kind, FaultKind::Alignment);
}
