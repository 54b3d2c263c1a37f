//! `LD<op>`, `SWP`, `CAS` and `CASP`.

use super::*;

/// Word, assembly, and the bytes of memory afterwards. X1 is the operand 0x0f0f0f0f0f0f0f81; memory is c0, c1, ... c7.
const ATOMICS: [(u32, &str, u64); 22] = [
    (0xf821_0043, "ldadd x1, x3, [x2]", 0xd6d5_d4d3_d2d1_d141),
    (0x3821_0043, "ldaddb w1, w3, [x2]", 0xc7c6_c5c4_c3c2_c141),
    (0x7821_0043, "ldaddh w1, w3, [x2]", 0xc7c6_c5c4_c3c2_d141),
    (0xb821_0043, "ldadd w1, w3, [x2]", 0xc7c6_c5c4_d2d1_d141),
    (0xf8a1_0043, "ldadda x1, x3, [x2]", 0xd6d5_d4d3_d2d1_d141),
    (0xf861_0043, "ldaddl x1, x3, [x2]", 0xd6d5_d4d3_d2d1_d141),
    (0xf8e1_0043, "ldaddal x1, x3, [x2]", 0xd6d5_d4d3_d2d1_d141),
    (0xf821_1043, "ldclr x1, x3, [x2]", 0xc0c0_c0c0_c0c0_c040),
    (0xf821_2043, "ldeor x1, x3, [x2]", 0xc8c9_cacb_cccd_ce41),
    (0xf821_3043, "ldset x1, x3, [x2]", 0xcfcf_cfcf_cfcf_cfc1),
    (0xf821_4043, "ldsmax x1, x3, [x2]", 0x0f0f_0f0f_0f0f_0f81),
    (0xf821_5043, "ldsmin x1, x3, [x2]", 0xc7c6_c5c4_c3c2_c1c0),
    (0xf821_6043, "ldumax x1, x3, [x2]", 0xc7c6_c5c4_c3c2_c1c0),
    (0xf821_7043, "ldumin x1, x3, [x2]", 0x0f0f_0f0f_0f0f_0f81),
    (0x3821_4043, "ldsmaxb w1, w3, [x2]", 0xc7c6_c5c4_c3c2_c1c0),
    (0x3821_5043, "ldsminb w1, w3, [x2]", 0xc7c6_c5c4_c3c2_c181),
    (0x7821_6043, "ldumaxh w1, w3, [x2]", 0xc7c6_c5c4_c3c2_c1c0),
    (0x7821_7043, "lduminh w1, w3, [x2]", 0xc7c6_c5c4_c3c2_0f81),
    (0xf821_8043, "swp x1, x3, [x2]", 0x0f0f_0f0f_0f0f_0f81),
    (0x3821_8043, "swpb w1, w3, [x2]", 0xc7c6_c5c4_c3c2_c181),
    (0x78e1_8043, "swpalh w1, w3, [x2]", 0xc7c6_c5c4_c3c2_0f81),
    (0xb8a1_8043, "swpa w1, w3, [x2]", 0xc7c6_c5c4_0f0f_0f81),
];

#[test]
fn atomics_give_the_old_value_zero_extended_and_write_their_size() {
    for (word, asm, after) in ATOMICS {
        let mut machine = Machine::new().with(&[(1, 0x0f0f_0f0f_0f0f_0f81), (3, u64::MAX)]);

        machine.run(word, asm);

        let mask = match asm.split_once(' ') {
            Some((name, _)) if name.ends_with('b') => 0xff,
            Some((name, _)) if name.ends_with('h') => 0xffff,
            Some((_, operands)) if operands.starts_with('w') => 0xffff_ffff,
            _ => u64::MAX,
        };
        assert_eq!(machine.core.x[3], 0xc7c6_c5c4_c3c2_c1c0 & mask, "{asm}");
        assert_eq!(machine.bytes(0, 8), after.to_le_bytes(), "{asm}");
        assert_eq!(machine.bytes(8, 1), [0xc8], "{asm}");
    }
}

#[test]
fn atomics_that_only_store_write_no_register() {
    let mut machine = Machine::new().with(&[(1, 1)]);
    let before = machine.core.x;

    machine.run(0xf821_005f, "stadd x1, [x2]");

    assert_eq!(machine.core.x, before);
    assert_eq!(machine.bytes(0, 2), [0xc1, 0xc1]);
}

#[test]
fn compare_and_swap_stores_on_a_match_of_its_size_and_gives_the_old_value() {
    let forms = [
        (0x08a1_7c43, "casb w1, w3, [x2]", 1),
        (0x48e1_7c43, "casah w1, w3, [x2]", 2),
        (0x88a1_fc43, "casl w1, w3, [x2]", 4),
        (0xc8e1_fc43, "casal x1, x3, [x2]", 8),
    ];
    for (word, asm, size) in forms {
        let old = 0xc7c6_c5c4_c3c2_c1c0 & u64::MAX >> (64 - 8 * size);
        let mut machine = Machine::new().with(&[(1, 0xc7c6_c5c4_c3c2_c1c0), (3, 0x1111_1111_1111_1111)]);

        machine.run(word, asm);
        assert_eq!(machine.core.x[1], old, "{asm}");
        assert_eq!(machine.bytes(0, size), vec![0x11; size], "{asm}");
        assert_eq!(machine.bytes(0, size + 1)[size], 0xc0 + size as u8, "{asm}");

        machine.core.x[1] = 0;
        machine.core.x[3] = 0;
        machine.run(word, asm);
        assert_eq!(machine.core.x[1], 0x1111_1111_1111_1111 >> (64 - 8 * size), "{asm}");
        assert_eq!(machine.bytes(0, size), vec![0x11; size], "{asm} must not store");
    }
}

#[test]
fn compare_and_swap_of_pairs_takes_the_low_half_from_the_even_register() {
    let mut machine = Machine::new().with(&[
        (4, 0xc7c6_c5c4_c3c2_c1c0),
        (5, 0xcfce_cdcc_cbca_c9c8),
        (6, 0x1616_1616_1616_1616),
        (7, 0x1717_1717_1717_1717),
    ]);

    machine.run(0x4824_7c46, "casp x4, x5, x6, x7, [x2]");
    assert_eq!(machine.bytes(0, 8), [0x16; 8]);
    assert_eq!(machine.bytes(8, 8), [0x17; 8]);
    machine.run(0x4864_fc46, "caspal x4, x5, x6, x7, [x2]");
    assert_eq!(machine.core.x[4..6], [0x1616_1616_1616_1616, 0x1717_1717_1717_1717]);
}

#[test]
fn compare_and_swap_of_word_pairs_ignores_the_upper_halves_of_registers() {
    let mut machine = Machine::new().with(&[
        (4, 0xffff_ffff_c3c2_c1c0),
        (5, 0xffff_ffff_c7c6_c5c4),
        (6, 0xffff_ffff_1616_1616),
        (7, 0xffff_ffff_1717_1717),
    ]);

    machine.run(0x0824_7c46, "casp w4, w5, w6, w7, [x2]");

    assert_eq!(machine.core.x[4..6], [0xc3c2_c1c0, 0xc7c6_c5c4]);
    assert_eq!(
        machine.bytes(0, 9),
        [0x16, 0x16, 0x16, 0x16, 0x17, 0x17, 0x17, 0x17, 0xc8]
    );
}

#[test]
fn pair_of_register_30_has_the_zero_register_as_its_second() {
    let mut machine = Machine::new().with(&[(30, 0xc7c6_c5c4_c3c2_c1c0), (6, 1), (7, 2)]);

    machine.run(0x483e_7c46, "casp x30, xzr, x6, x7, [x2]");

    assert_eq!(machine.core.x[30], 0xc7c6_c5c4_c3c2_c1c0);
    assert_eq!(machine.bytes(8, 1), [0xc8], "the second half is compared with 0");
}

#[test]
fn pair_that_starts_with_an_odd_register_is_undefined_at_every_level() {
    for el in 0..3 {
        for (word, what) in [
            (0x0825_7c46, "casp w5, w6, w6, w7, [x2]"),
            (0x0824_7c47, "casp w4, w5, w7, w8, [x2]"),
            (0x4865_fc47, "caspal x5, x6, x7, x8, [x2]"),
        ] {
            assert_eq!(
                Machine::new().at_el(el).exception(word, what),
                Exception::Undefined,
                "{what} at EL{el}"
            );
        }
    }
}

#[test]
fn atomics_need_16_byte_containment_and_change_nothing_when_they_fault() {
    let mut machine = Machine::new().with(&[(2, AT + 12), (3, AT + 8)]);

    for (word, asm) in [
        (0xf821_0045, "ldadd x1, x5, [x2]"),
        (0xc8a1_7c45, "cas x1, x5, [x2]"),
        (0x4824_7c66, "casp x4, x5, x6, x7, [x3]"),
    ] {
        assert_eq!(machine.fault(word, asm).kind, FaultKind::Alignment, "{asm}");
    }
    machine.core.x[2] = AT + 4;
    machine.run(0xf821_0045, "ldadd x1, x5, [x2]");
}

#[test]
fn atomics_are_tag_checked_as_reads() {
    let mut machine = Machine::new();
    machine.guest = machine.guest.with_tags(0, Tag::new(7));

    for (word, asm) in [
        (0xf821_0045, "ldadd x1, x5, [x2]"),
        (0xf8e1_8045, "swpal x1, x5, [x2]"),
        (0xc8a1_7c45, "cas x1, x5, [x2]"),
        (0x4824_7c46, "casp x4, x5, x6, x7, [x2]"),
    ] {
        let fault = machine.fault(word, asm);
        assert_eq!((fault.kind, fault.esr(1)), (FaultKind::TagCheck, 0x9600_0011), "{asm}");
    }
}
