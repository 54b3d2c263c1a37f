//! Which half a pointer belongs to, what of its top byte is address, and what lies outside.

use super::*;

/// The page that [`VA`] names, in the upper half.
const UPPER: u64 = 0xffff_ff80_0000_0000 + VA;

#[test]
fn each_half_has_its_own_table_size_and_walk_disable() {
    let mut bench = Bench::new().s1(0, AF).s1(5, AF | NG);
    bench.sys.ttbr0_el1 = S1_TABLES + 16 * PAGE;
    assert_eq!(
        bench.kind(&read(1)),
        (FaultKind::Translation, Stage::One, 1),
        "an empty table"
    );
    let found = bench.translate_at(UPPER + 5 * PAGE, &read(1)).unwrap();
    assert_eq!(
        (found.pa, found.ipa.0, found.size),
        (Pa(IPA + 5 * PAGE), IPA + 5 * PAGE, PAGE)
    );
    assert!(found.not_global);

    let mut bench = Bench::new().s1(0, AF);
    bench.sys.tcr_el1.set_epd1(true);
    assert!(!bench.ok(&read(1)).not_global);
    assert_eq!(bench.translate_at(UPPER, &read(1)).unwrap_err().level, 0);
    bench.sys.tcr_el1.set_epd0(true);
    assert_eq!(bench.kind(&read(1)), (FaultKind::Translation, Stage::One, 0));
}

#[test]
fn pages_of_el2_are_never_not_global() {
    assert!(!Bench::new().s1(0, AF | NG | AP1).ok(&read(2)).not_global);
}

#[test]
fn pointers_between_the_halves_are_translation_faults_of_level_0() {
    let mut bench = Bench::new().s1(0, AF | AP1);

    for va in [
        VA | 1 << 39,
        VA | 1 << 54,
        UPPER & !(1 << 39),
        UPPER & !(1 << 54),
        UPPER - (1 << 55),
    ] {
        let fault = bench.translate_at(va, &read(1)).unwrap_err();
        assert_eq!((fault.kind, fault.level), (FaultKind::Translation, 0), "{va:#x}");
        assert_eq!(fault.far(), va);
    }
    // EL2 has no upper half.
    assert!(bench.translate_at(VA, &read(2)).is_ok());
    assert_eq!(bench.translate_at(UPPER, &read(2)).unwrap_err().level, 0);
}

#[test]
fn txsz_out_of_range_is_a_translation_fault_of_level_0() {
    for (tsz, start) in [(16, Some(0)), (15, None), (48, Some(3)), (49, None)] {
        let mut bench = Bench::new();
        bench.sys.tcr_el1.set_t0sz(tsz);
        bench.sys.tcr_el2.set_t0sz(tsz);
        // What is walked stops at its start-level table.
        bench.tables.absent = Some(S1_TABLES);
        let expected = match start {
            Some(level) => (FaultKind::SyncExternalAbortOnWalk, level),
            None => (FaultKind::Translation, 0),
        };
        for el in 1..=2 {
            let fault = bench.translate_at(0x238, &read(el)).unwrap_err();
            assert_eq!((fault.kind, fault.level), expected, "T0SZ {tsz}, EL{el}");
        }
    }
}

#[test]
fn top_byte_is_address_unless_ignored_in_its_half() {
    let tagged = VA | 0xab << 56;
    let upper_tagged = UPPER & !(0x54 << 56);
    let with = |tbi0, tbi1| {
        Bench::new().s1(0, AF | AP1).with_sys(|sys| {
            sys.tcr_el1.set_tbi0(tbi0);
            sys.tcr_el1.set_tbi1(tbi1);
            sys.tcr_el2.set_tbi(tbi0);
        })
    };

    let mut bench = with(true, false);
    assert_eq!(bench.translate_at(tagged, &read(1)).map(|found| found.pa), Ok(Pa(IPA)));
    assert_eq!(bench.translate_at(tagged, &read(2)).map(|found| found.pa), Ok(Pa(IPA)));
    assert_eq!(bench.translate_at(upper_tagged, &read(1)).unwrap_err().level, 0);
    let mut bench = with(false, true);
    assert_eq!(
        bench.translate_at(upper_tagged, &read(1)).map(|found| found.pa),
        Ok(Pa(IPA))
    );
    assert_eq!(bench.translate_at(tagged, &read(1)).unwrap_err().far(), tagged);
    assert!(bench.translate_at(tagged, &read(2)).is_err());
}

#[test]
fn mtx_takes_only_the_tag_out_of_the_address_and_only_with_its_feature() {
    let with = |features, mtx| {
        Bench::new().s1(0, AF | AP1).with_features(features).with_sys(|sys| {
            sys.tcr_el1.set_mtx0(mtx);
            sys.tcr_el1.set_mtx1(mtx);
            sys.tcr_el2.set_mtx(mtx);
        })
    };
    let no_address = Features::MTE_NO_ADDRESS_TAGS;

    let mut bench = with(no_address, true);
    for (va, el) in [(VA | 7 << 56, 1), (VA | 7 << 56, 2), (UPPER & !(7 << 56), 1)] {
        assert_eq!(
            bench.translate_at(va, &read(el)).map(|found| found.pa),
            Ok(Pa(IPA)),
            "{va:#x}"
        );
    }
    for va in [VA | 0x10 << 56, UPPER & !(0x80 << 56)] {
        assert!(
            bench.translate_at(va, &read(1)).is_err(),
            "{va:#x}: bits 63:60 are address"
        );
    }
    for mut bench in [
        with(no_address, false),
        with(Features::MTE_CANONICAL_TAGS, true),
        with(Features::empty(), true),
    ] {
        assert!(bench.translate_at(VA | 7 << 56, &read(1)).is_err());
        assert!(bench.translate_at(VA, &read(1)).is_ok());
    }
}
