//! Granules, 52-bit descriptors and contiguous hints, in the registers of both stages.

use super::*;
use crate::attr::Shareability;

const CONTIGUOUS: u64 = 1 << 52;
const BLOCK: u64 = 0b01 | AF | AP1;
const LEAF: u64 = 0b11 | AF | AP1;

/// The size of what a leaf maps: granule as TG0, start level by T0SZ, and the leaf in the start-level table.
fn size(tg0: u8, t0sz: u8, ds: bool, leaf: u64) -> u64 {
    let mut bench = Bench::new().with_sys(|sys| {
        sys.tcr_el1.set_tg0(tg0);
        sys.tcr_el1.set_t0sz(t0sz);
        sys.tcr_el1.set_ds(ds);
        sys.tcr_el1.set_ips(6);
    });
    bench.tables.words = [(S1_TABLES, leaf)].into();
    bench.translate_at(0, &read(1)).expect("a leaf").size
}

#[test]
fn leaves_map_what_their_level_and_the_contiguous_hint_say() {
    // TG0, T0SZ of a start at that level, DS, log2 of the size alone and with the hint.
    let leaves = [
        (0, 43, false, LEAF, 12, 16),
        (0, 34, false, BLOCK, 21, 25),
        (0, 25, false, BLOCK, 30, 34),
        (0, 16, true, BLOCK, 39, 39),
        (2, 41, false, LEAF, 14, 21),
        (2, 28, false, BLOCK, 25, 30),
        (2, 17, true, BLOCK, 36, 36),
        (1, 40, false, LEAF, 16, 21),
        (1, 22, false, BLOCK, 29, 34),
        (1, 12, false, BLOCK, 42, 42),
    ];
    for (tg0, t0sz, ds, leaf, alone, joined) in leaves {
        assert_eq!(size(tg0, t0sz, ds, leaf), 1 << alone, "TG0 {tg0}, T0SZ {t0sz}");
        assert_eq!(
            size(tg0, t0sz, ds, leaf | CONTIGUOUS),
            1 << joined,
            "TG0 {tg0}, T0SZ {t0sz}"
        );
    }
}

#[test]
fn levels_without_blocks_refuse_them() {
    let refuses = |tg0, t0sz, ds| {
        let mut bench = Bench::new().with_sys(|sys| {
            sys.tcr_el1.set_tg0(tg0);
            sys.tcr_el1.set_t0sz(t0sz);
            sys.tcr_el1.set_ds(ds);
        });
        bench.tables.words = [(S1_TABLES, BLOCK)].into();
        bench.translate_at(0, &read(1)).unwrap_err().kind == FaultKind::Translation
    };

    assert!(
        refuses(0, 16, false) && refuses(2, 17, false),
        "level 0 and level 1 without DS"
    );
    assert!(
        refuses(0, 43, false) && refuses(2, 41, false) && refuses(1, 40, false),
        "0b01 at level 3"
    );
}

#[test]
fn upper_half_encodes_its_granule_in_its_own_way() {
    // TG1 1 is 16 KiB, 2 is 4 KiB, 3 is 64 KiB; T1SZ 40 starts at the last level of each but the first.
    for (tg1, t1sz, size) in [(1, 41, 14), (2, 43, 12), (3, 40, 16), (0, 43, 12)] {
        let mut bench = Bench::new().with_sys(|sys| {
            sys.tcr_el1.set_tg1(tg1);
            sys.tcr_el1.set_t1sz(t1sz);
        });
        bench.tables.words = [(S1_TABLES, LEAF)].into();
        let lowest = u64::MAX << (64 - u32::from(t1sz));

        let found = bench.translate_at(lowest | 0x123, &read(1)).unwrap();

        assert_eq!((found.pa, found.size), (Pa(0x123), 1 << size), "TG1 {tg1}");
    }
}

#[test]
fn ds_starts_at_level_minus_1_and_gathers_bits_51_to_48_of_tables_and_pages() {
    // VA bits 51:48 index level -1; the table of level 0 lies at 3 << 50, that of level 1 at 1 << 48.
    let table = |low: u64, high: u64| low | (high & 0b11) << 48 | (high >> 2) << 8 | 0b11;
    let mut bench = Bench::new().with_sys(|sys| {
        sys.tcr_el1 = TcrEl1::new().with_t0sz(12).with_ds(true).with_ips(6).with_sh0(2);
        sys.tcr_el2 = TcrEl2::new().with_t0sz(12).with_ds(true).with_ps(6).with_sh0(3);
        // Bits 51:48 of the table address in 5:2 of the register.
        sys.ttbr0_el1 = S1_TABLES | 0b0110 << 2;
        sys.ttbr0_el2 = sys.ttbr0_el1;
    });
    bench.tables.words = [
        (0b0110 << 48 | (S1_TABLES + 8 * 5), table(0x10_0000, 0b1100)),
        (0b1100 << 48 | 0x10_0000, table(0x20_0000, 0b0001)),
        (0b0001 << 48 | 0x20_0000, table(0x4000_0000, 0b1010) & !0b10 | AF | AP1),
    ]
    .into();

    let found = bench.translate_at(5 << 48 | 0x1234, &read(1)).unwrap();
    assert_eq!((found.pa, found.size), (Pa(0b1010 << 48 | 0x4000_1234), 1 << 30));
    assert_eq!(
        found.attrs.shareability,
        Shareability::Outer,
        "SH0, as the descriptor has no SH"
    );
    let found = bench.translate_at(5 << 48 | 0x1234, &read(2)).unwrap();
    assert_eq!(found.attrs.shareability, Shareability::Inner);

    let fault = bench.translate_at(4 << 48, &read(1)).unwrap_err();
    assert_eq!((fault.level, fault.dfsc()), (-1, 0b10_1011));
    bench.sys.tcr_el1.set_ips(5);
    let fault = bench.translate_at(5 << 48, &read(1)).unwrap_err();
    assert_eq!(
        (fault.kind, fault.level),
        (FaultKind::AddressSize, 0),
        "the table lies beyond IPS"
    );
}

#[test]
fn shareability_comes_from_the_descriptor_without_ds() {
    for (bits, shareability) in [
        (0, Shareability::Non),
        (2, Shareability::Outer),
        (3, Shareability::Inner),
    ] {
        let found = Bench::new().s1(0, AF | bits << 8).ok(&read(1));

        assert_eq!(found.attrs.shareability, shareability);
    }
}

#[test]
fn stage_2_with_ds_takes_shareability_from_vtcr() {
    let mut bench = Bench::two_stages().s1(0, AF).with_sys(|sys| {
        sys.vtcr_el2 = sys.vtcr_el2.with_ds(true).with_sh0(2);
    });
    assert_eq!(bench.ok(&read(1)).attrs.shareability, Shareability::Outer);

    bench.sys.vtcr_el2.set_ds(false);
    assert_eq!(bench.ok(&read(1)).attrs.shareability, Shareability::Non);
}

#[test]
fn the_smaller_of_both_leaves_is_translated_alike() {
    let block = S2_ALL | 0b01 | PA;
    let mut bench = Bench::two_stages().s1(0, AF).set(S2_TABLES + PAGE, block);
    assert_eq!(bench.ok(&read(1)).size, PAGE);
    assert_eq!(bench.ok(&read(1)).pa, Pa(PA + 0x238));

    let mut bench = bench.set(S1_TABLES + PAGE, IPA | AF | 0b01);
    assert_eq!(bench.ok(&read(1)).size, 2 << 20);
    let mut bench = bench.set(S2_TABLES + PAGE, (S2_TABLES + 2 * PAGE) | 0b11);
    assert_eq!(bench.ok(&read(1)).size, PAGE);
}

#[test]
fn output_beyond_ips_is_an_address_size_fault_of_the_level_that_names_it() {
    let with_ips = |ips| Bench::new().with_sys(|sys| sys.tcr_el1.set_ips(ips));
    let high_leaf = 1 << 36 | AF | 0b11;

    let mut bench = with_ips(1).set(s1_leaf(0), high_leaf);
    assert_eq!(bench.kind(&read(1)), (FaultKind::AddressSize, Stage::One, 3));
    assert!(with_ips(2).set(s1_leaf(0), high_leaf).translate(&read(1)).is_ok());
    let mut bench = with_ips(1).set(S1_TABLES + 8, 1 << 36 | 0b11);
    assert_eq!(bench.kind(&read(1)), (FaultKind::AddressSize, Stage::One, 1));
    let mut bench = with_ips(1).with_sys(|sys| sys.ttbr0_el1 = 1 << 36);
    assert_eq!(bench.kind(&read(1)), (FaultKind::AddressSize, Stage::One, 0));
}

#[test]
fn stage_2_starts_at_the_level_that_sl0_means_for_its_granule() {
    // TG0, SL0, SL2, DS, a T0SZ that fits, and the level; what does not exist is a fault of level 0.
    let starts = [
        (0, 0, false, false, 30, Some(2)),
        (0, 1, false, false, 25, Some(1)),
        (0, 2, false, false, 16, Some(0)),
        (0, 3, false, false, 43, Some(3)),
        (0, 0, true, true, 12, Some(-1)),
        (0, 1, true, true, 12, None),
        (2, 0, false, false, 43, Some(3)),
        (2, 1, false, false, 35, Some(2)),
        (2, 2, false, false, 24, Some(1)),
        (2, 3, false, true, 13, Some(0)),
        (2, 3, false, false, 16, None),
        (1, 0, false, false, 41, Some(3)),
        (1, 1, false, false, 30, Some(2)),
        (1, 2, false, false, 20, Some(1)),
        (1, 3, false, false, 16, None),
    ];
    for (tg0, sl0, sl2, ds, t0sz, level) in starts {
        let mut bench = Bench::two_stages().with_sys(|sys| {
            sys.sctlr_el1.set_m(false);
            let vtcr = VtcrEl2::new().with_tg0(tg0).with_sl0(sl0).with_sl2(sl2).with_ds(ds);
            sys.vtcr_el2 = vtcr.with_t0sz(t0sz).with_ps(5);
        });
        // What is walked stops at its start-level table.
        bench.tables.absent = Some(S2_TABLES);
        let expected = match level {
            Some(level) => (FaultKind::SyncExternalAbortOnWalk, level),
            None => (FaultKind::Translation, 0),
        };

        let fault = bench.translate_at(0, &read(1)).unwrap_err();

        assert_eq!(
            (fault.kind, fault.level),
            expected,
            "TG0 {tg0}, SL0 {sl0}, SL2 {sl2}, DS {ds}"
        );
    }
}

#[test]
fn tables_of_52_bit_addresses_are_aligned_to_64_bytes_however_small() {
    // Two entries of level 3, 16 bytes; bits 5:2 of the register are address bits 51:48.
    let mut bench = Bench::new().with_sys(|sys| {
        sys.tcr_el1 = TcrEl1::new().with_t0sz(47).with_tg0(1).with_ips(6);
        sys.ttbr0_el1 = S1_TABLES + 0x40 + 0b0100;
    });
    bench.tables.words = [(1 << 48 | (S1_TABLES + 0x40), LEAF)].into();

    assert_eq!(bench.translate_at(0x42, &read(1)).map(|found| found.pa), Ok(Pa(0x42)));
}
