//! Exclusive and ordered accesses, and the local monitor.

use super::*;

#[test]
fn exclusive_loads_zero_extend_their_size() {
    let loads = [
        (0x085f_7c41, "ldxrb w1, [x2]", 0xc0),
        (0x485f_7c41, "ldxrh w1, [x2]", 0xc1c0),
        (0x885f_7c41, "ldxr w1, [x2]", 0xc3c2_c1c0),
        (0xc85f_7c41, "ldxr x1, [x2]", 0xc7c6_c5c4_c3c2_c1c0),
        (0x085f_fc41, "ldaxrb w1, [x2]", 0xc0),
        (0x485f_fc41, "ldaxrh w1, [x2]", 0xc1c0),
        (0xc85f_fc41, "ldaxr x1, [x2]", 0xc7c6_c5c4_c3c2_c1c0),
        (0x08df_fc41, "ldarb w1, [x2]", 0xc0),
        (0x48df_fc41, "ldarh w1, [x2]", 0xc1c0),
        (0x88df_fc41, "ldar w1, [x2]", 0xc3c2_c1c0),
        (0xc8df_fc41, "ldar x1, [x2]", 0xc7c6_c5c4_c3c2_c1c0),
        (0xc8df_7c41, "ldlar x1, [x2]", 0xc7c6_c5c4_c3c2_c1c0),
        (0x38bf_c041, "ldaprb w1, [x2]", 0xc0),
        (0x78bf_c041, "ldaprh w1, [x2]", 0xc1c0),
        (0xb8bf_c041, "ldapr w1, [x2]", 0xc3c2_c1c0),
        (0xf8bf_c041, "ldapr x1, [x2]", 0xc7c6_c5c4_c3c2_c1c0),
        (0x195f_f041, "ldapurb w1, [x2, #-1]", 0xbf),
        (0x5940_2041, "ldapurh w1, [x2, #2]", 0xc3c2),
        (0x9940_4041, "ldapur w1, [x2, #4]", 0xc7c6_c5c4),
        (0xd95f_8041, "ldapur x1, [x2, #-8]", 0xbfbe_bdbc_bbba_b9b8),
        (0x19c0_0041, "ldapursb w1, [x2]", 0xffff_ffc0),
        (0x1980_0041, "ldapursb x1, [x2]", 0xffff_ffff_ffff_ffc0),
        (0x59c0_0041, "ldapursh w1, [x2]", 0xffff_c1c0),
        (0x5980_0041, "ldapursh x1, [x2]", 0xffff_ffff_ffff_c1c0),
        (0x9980_0041, "ldapursw x1, [x2]", 0xffff_ffff_c3c2_c1c0),
    ];
    for (word, asm, loaded) in loads {
        let mut machine = Machine::new().with(&[(1, u64::MAX)]);

        machine.run(word, asm);

        assert_eq!(machine.core.x[1], loaded, "{asm}");
    }
}

/// Runs a load exclusive and a store exclusive of X1, and gives the status in X5, 9 before.
fn status(load: (u32, &str), between: &[(u32, &str)], store: (u32, &str)) -> (u64, Machine) {
    let mut machine = Machine::new().with(&[(1, 0x1716_1514_1312_1110), (3, AT + 16), (5, 9)]);
    machine.run(load.0, load.1);
    machine.core.x[1] = 0x1716_1514_1312_1110;
    for &(word, asm) in between {
        machine.run(word, asm);
    }
    machine.run(store.0, store.1);
    (machine.core.x[5], machine)
}

#[test]
fn store_exclusive_passes_after_a_load_exclusive_of_the_same_bytes() {
    let pairs = [
        ((0x085f_7c41, "ldxrb w1, [x2]"), (0x0805_7c41, "stxrb w5, w1, [x2]"), 1),
        ((0x485f_7c41, "ldxrh w1, [x2]"), (0x4805_fc41, "stlxrh w5, w1, [x2]"), 2),
        ((0x885f_fc41, "ldaxr w1, [x2]"), (0x8805_7c41, "stxr w5, w1, [x2]"), 4),
        ((0xc85f_fc41, "ldaxr x1, [x2]"), (0xc805_fc41, "stlxr w5, x1, [x2]"), 8),
    ];
    for (load, store, size) in pairs {
        let (status, machine) = status(load, &[], store);

        assert_eq!(status, 0, "{}", store.1);
        assert_eq!(machine.bytes(0, size), &0x1716_1514_1312_1110_u64.to_le_bytes()[..size]);
        assert_eq!(machine.bytes(0, size + 1)[size], 0xc0 + size as u8, "{}", store.1);
    }
}

#[test]
fn store_exclusive_without_the_monitor_fails_and_writes_nothing() {
    let ldxr = (0xc85f_7c41, "ldxr x1, [x2]");
    let cases: [(&[(u32, &str)], _); 4] = [
        (&[], (0xc805_7c61, "stxr w5, x1, [x3]")),
        (&[], (0x8805_7c41, "stxr w5, w1, [x2]")),
        (&[(0xd503_3f5f, "clrex")], (0xc805_7c41, "stxr w5, x1, [x2]")),
        (&[(0xc85f_7c66, "ldxr x6, [x3]")], (0xc805_7c41, "stxr w5, x1, [x2]")),
    ];
    for (between, store) in cases {
        let (status, machine) = status(ldxr, between, store);

        assert_eq!(status, 1, "{between:?}, {}", store.1);
        assert!(machine.guest == Machine::new().guest, "{}", store.1);
    }
}

#[test]
fn store_exclusive_clears_the_monitor_whether_it_passes_or_not() {
    let ldxr = (0xc85f_7c41, "ldxr x1, [x2]");
    for first in [(0xc806_7c41, "stxr w6, x1, [x2]"), (0xc806_7c61, "stxr w6, x1, [x3]")] {
        let (status, _) = status(ldxr, &[first], (0xc805_7c41, "stxr w5, x1, [x2]"));

        assert_eq!(status, 1, "after {}", first.1);
    }
}

#[test]
fn plain_accesses_keep_the_monitor() {
    let between = [
        (0xf940_0046, "ldr x6, [x2]"),
        (0xf900_0061, "str x1, [x3]"),
        (0xd503_201f, "nop"),
        (0xd503_3bbf, "dmb ish"),
    ];

    let (status, _) = status(
        (0xc85f_7c41, "ldxr x1, [x2]"),
        &between,
        (0xc805_7c41, "stxr w5, x1, [x2]"),
    );

    assert_eq!(status, 0);
}

#[test]
fn exclusive_pairs_move_both_registers_at_once() {
    let mut machine = Machine::new().with(&[(5, 9)]);

    machine.run(0xc87f_0c41, "ldxp x1, x3, [x2]");
    assert_eq!(machine.core.x[1], 0xc7c6_c5c4_c3c2_c1c0);
    assert_eq!(machine.core.x[3], 0xcfce_cdcc_cbca_c9c8);
    machine.run(0xc825_0443, "stxp w5, x3, x1, [x2]");
    assert_eq!(machine.core.x[5], 0);
    assert_eq!(machine.bytes(0, 8), 0xcfce_cdcc_cbca_c9c8_u64.to_le_bytes());
    assert_eq!(machine.bytes(8, 8), 0xc7c6_c5c4_c3c2_c1c0_u64.to_le_bytes());

    let mut machine = Machine::new().with(&[(5, 9)]);
    machine.run(0x887f_8c41, "ldaxp w1, w3, [x2]");
    assert_eq!((machine.core.x[1], machine.core.x[3]), (0xc3c2_c1c0, 0xc7c6_c5c4));
    machine.run(0x8825_8443, "stlxp w5, w3, w1, [x2]");
    assert_eq!(machine.core.x[5], 0);
    assert_eq!(
        machine.bytes(0, 9),
        [0xc4, 0xc5, 0xc6, 0xc7, 0xc0, 0xc1, 0xc2, 0xc3, 0xc8]
    );
}

#[test]
fn exclusive_pair_is_one_access_of_16_bytes_and_a_single_may_be_misaligned_inside_them() {
    let mut machine = Machine::new().with(&[(2, AT + 8), (3, AT + 4), (6, AT + 12)]);

    assert_eq!(
        machine.fault(0xc87f_1441, "ldxp x1, x5, [x2]").kind,
        FaultKind::Alignment
    );
    machine.run(0x887f_1461, "ldxp w1, w5, [x3]");
    machine.run(0xc85f_7c61, "ldxr x1, [x3]");
    assert_eq!(machine.fault(0xc85f_fcc1, "ldaxr x1, [x6]").kind, FaultKind::Alignment);
}

#[test]
fn faulting_load_exclusive_does_not_set_the_monitor() {
    let mut machine = Machine::new().with(&[(5, 9)]);
    machine.guest.tags[0].set(4, Tag::new(7));

    assert_eq!(machine.fault(0xc85f_7c41, "ldxr x1, [x2]").kind, FaultKind::TagCheck);
    machine.guest.tags[0].set(4, Tag::ZERO);
    machine.run(0xc805_7c41, "stxr w5, x1, [x2]");

    assert_eq!(machine.core.x[5], 1);
}

#[test]
fn faulting_store_exclusive_keeps_status_and_monitor() {
    let mut machine = Machine::new().with(&[(5, 9)]);
    machine.run(0xc85f_7c41, "ldxr x1, [x2]");
    machine.guest.tags[0].set(4, Tag::new(7));

    let fault = machine.fault(0xc805_7c41, "stxr w5, x1, [x2]");
    assert_eq!((fault.kind, fault.esr(1)), (FaultKind::TagCheck, 0x9600_0051));
    machine.guest.tags[0].set(4, Tag::ZERO);
    machine.run(0xc805_7c41, "stxr w5, x1, [x2]");

    assert_eq!(machine.core.x[5], 0);
}
