//! Register pairs and vector registers.

use super::*;

/// Word, assembly, X1 and X3 afterwards, and how far X2 moved.
const PAIRS: [(u32, &str, u64, u64, i64); 9] = [
    (
        0xa940_0c41,
        "ldp x1, x3, [x2]",
        0xc7c6_c5c4_c3c2_c1c0,
        0xcfce_cdcc_cbca_c9c8,
        0,
    ),
    (0x2940_0c41, "ldp w1, w3, [x2]", 0xc3c2_c1c0, 0xc7c6_c5c4, 0),
    (
        0xa97f_0c41,
        "ldp x1, x3, [x2, #-16]",
        0xb7b6_b5b4_b3b2_b1b0,
        0xbfbe_bdbc_bbba_b9b8,
        0,
    ),
    (0x2948_0c41, "ldp w1, w3, [x2, #64]", 0x0302_0100, 0x0706_0504, 0),
    (
        0xa841_0c41,
        "ldnp x1, x3, [x2, #16]",
        0xd7d6_d5d4_d3d2_d1d0,
        0xdfde_dddc_dbda_d9d8,
        0,
    ),
    (
        0xa8c1_0c41,
        "ldp x1, x3, [x2], #16",
        0xc7c6_c5c4_c3c2_c1c0,
        0xcfce_cdcc_cbca_c9c8,
        16,
    ),
    (0x29ff_0c41, "ldp w1, w3, [x2, #-8]!", 0xbbba_b9b8, 0xbfbe_bdbc, -8),
    (
        0x6947_8c41,
        "ldpsw x1, x3, [x2, #60]",
        0xffff_ffff_fffe_fdfc,
        0x0302_0100,
        0,
    ),
    (
        0x68c1_0c41,
        "ldpsw x1, x3, [x2], #8",
        0xffff_ffff_c3c2_c1c0,
        0xffff_ffff_c7c6_c5c4,
        8,
    ),
];

#[test]
fn pairs_load_the_first_register_from_the_lower_address() {
    for (word, asm, first, second, moved) in PAIRS {
        let mut machine = Machine::new();

        machine.run(word, asm);

        assert_eq!((machine.core.x[1], machine.core.x[3]), (first, second), "{asm}");
        assert_eq!(machine.core.x[2], AT.wrapping_add_signed(moved), "{asm}");
    }
}

/// Word, assembly, offset from [`AT`] and the bytes there. X1 is 0x1716...10, X3 0x1f1e...18.
const STORED: [(u32, &str, i64, &[u8]); 5] = [
    (
        0xa900_0c41,
        "stp x1, x3, [x2]",
        0,
        &[16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31],
    ),
    (
        0x2901_0c41,
        "stp w1, w3, [x2, #8]",
        8,
        &[16, 17, 18, 19, 24, 25, 26, 27, 0xd0],
    ),
    (
        0x283f_0c41,
        "stnp w1, w3, [x2, #-8]",
        -8,
        &[16, 17, 18, 19, 24, 25, 26, 27, 0xc0],
    ),
    (
        0xa8bf_7c41,
        "stp x1, xzr, [x2], #-16",
        0,
        &[16, 17, 18, 19, 20, 21, 22, 23, 0, 0, 0, 0, 0, 0, 0, 0],
    ),
    (
        0x2980_8443,
        "stp w3, w1, [x2, #4]!",
        4,
        &[24, 25, 26, 27, 16, 17, 18, 19, 0xcc],
    ),
];

#[test]
fn pairs_store_the_first_register_at_the_lower_address() {
    for (word, asm, offset, bytes) in STORED {
        let mut machine = Machine::new().with(&[(1, 0x1716_1514_1312_1110), (3, 0x1f1e_1d1c_1b1a_1918)]);

        machine.run(word, asm);

        assert_eq!(machine.bytes(offset, bytes.len()), bytes, "{asm}");
    }
}

/// The bytes at [`AT`] as a number of `size` bytes.
fn at(offset: usize, size: usize) -> u128 {
    (0..size)
        .rev()
        .fold(0, |value, byte| value << 8 | (0xc0 + offset + byte) as u128)
}

#[test]
fn vector_loads_clear_the_rest_of_the_register() {
    let loads = [
        (0x3d40_0041, "ldr b1, [x2]", 0, 1, 0),
        (0x7d40_0441, "ldr h1, [x2, #2]", 2, 2, 0),
        (0xbd40_0441, "ldr s1, [x2, #4]", 4, 4, 0),
        (0xfd40_0441, "ldr d1, [x2, #8]", 8, 8, 0),
        (0x3dc0_0441, "ldr q1, [x2, #16]", 16, 16, 0),
        (0x3cc0_5041, "ldur q1, [x2, #5]", 5, 16, 0),
        (0x3cc1_0441, "ldr q1, [x2], #16", 0, 16, 16),
        (0x3c40_1c41, "ldr b1, [x2, #1]!", 1, 1, 1),
        (0x3ce3_7841, "ldr q1, [x2, x3, lsl #4]", 16, 16, 0),
        (0x3c63_4841, "ldr b1, [x2, w3, uxtw]", 1, 1, 0),
    ];
    for (word, asm, offset, size, moved) in loads {
        let mut machine = Machine::new().with(&[(3, 1)]);
        machine.core.v[1] = u128::MAX;

        machine.run(word, asm);

        assert_eq!(machine.core.v[1], at(offset, size), "{asm}");
        assert_eq!(machine.core.x[2], AT + moved, "{asm}");
    }
}

#[test]
fn vector_pairs_and_literals_load_both_registers() {
    let loads = [
        (0x2d40_8841, "ldp s1, s2, [x2, #4]", at(4, 4), at(8, 4)),
        (0x6d40_0841, "ldp d1, d2, [x2]", at(0, 8), at(8, 8)),
        (0xacc1_0841, "ldp q1, q2, [x2], #32", at(0, 16), at(16, 16)),
        (0xac40_0841, "ldnp q1, q2, [x2]", at(0, 16), at(16, 16)),
        (0x1c00_0201, "ldr s1, . + 0x40", at(0, 4), 9),
        (0x5c00_0221, "ldr d1, . + 0x44", at(4, 8), 9),
        (0x9c00_0241, "ldr q1, . + 0x48", at(8, 16), 9),
    ];
    for (word, asm, first, second) in loads {
        let mut machine = Machine::new();
        machine.core.v[2] = 9;

        machine.run(word, asm);

        assert_eq!((machine.core.v[1], machine.core.v[2]), (first, second), "{asm}");
    }
}

#[test]
fn vector_stores_write_their_size() {
    // Bytes of V1, whose bytes are 1, and of V2, whose bytes are 2.
    let stores = [
        (0x3d00_0041, "str b1, [x2]", 1, 0),
        (0x7d00_0041, "str h1, [x2]", 2, 0),
        (0xbc00_0041, "stur s1, [x2]", 4, 0),
        (0xfc00_8441, "str d1, [x2], #8", 8, 0),
        (0x3ca3_6841, "str q1, [x2, x3]", 16, 0),
        (0x2d00_0841, "stp s1, s2, [x2]", 4, 4),
        (0x6d00_0841, "stp d1, d2, [x2]", 8, 8),
        (0xac00_0841, "stnp q1, q2, [x2]", 16, 16),
    ];
    for (word, asm, first, second) in stores {
        let mut machine = Machine::new();
        machine.core.v[1] = u128::from_le_bytes([1; 16]);
        machine.core.v[2] = u128::from_le_bytes([2; 16]);

        machine.run(word, asm);

        let (size, next) = (first + second, 0xc0 + (first + second) as u8);
        let expected = [vec![1; first], vec![2; second], vec![next]].concat();
        assert_eq!(machine.bytes(0, size + 1), expected, "{asm}");
    }
}

#[test]
fn pair_that_crosses_into_an_unmapped_page_loads_neither_register() {
    let mut machine = Machine::with_pages(&[Tagged, Page::Unmapped]).with(&[(2, BASE + 0xff8)]);

    let fault = machine.fault(0xa8c1_0c41, "ldp x1, x3, [x2], #16");

    assert_eq!((fault.kind, fault.va), (FaultKind::Translation, pointer(0x1000, 0)));
    assert_eq!(
        machine.fault(0xa980_0c41, "stp x1, x3, [x2, #0]!").va,
        pointer(0x1000, 0)
    );
}
