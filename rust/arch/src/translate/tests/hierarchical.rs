//! What tables say of everything below them, and `HPDn` and `E0PDn`, which concern a whole half.

use super::*;

const AP_TABLE_RO: u64 = 1 << 62;
const AP_TABLE_NO_EL0: u64 = 1 << 61;
const UXN_TABLE: u64 = 1 << 60;
const PXN_TABLE: u64 = 1 << 59;

/// Page 0 for everybody, below tables with these bits at one of the two levels.
fn below(level: u64, bits: u64) -> Bench {
    let entry = [S1_TABLES + 8, S1_TABLES + PAGE][level as usize - 1];
    let bench = Bench::new().s1(0, AF | AP1);
    let table = bench.word(entry);
    bench.set(entry, table | bits)
}

#[test]
fn table_attributes_of_either_level_restrict_the_leaf() {
    for level in 1..=2 {
        let may = |bits, access| below(level, bits).translate(&access).is_ok();

        assert!(may(0, write(0)) && may(0, fetch(0)));
        assert!(may(AP_TABLE_RO, read(0)) && !may(AP_TABLE_RO, write(0)) && !may(AP_TABLE_RO, write(1)));
        assert!(!may(AP_TABLE_NO_EL0, read(0)) && may(AP_TABLE_NO_EL0, write(1)));
        assert!(may(AP_TABLE_NO_EL0, fetch(1)), "no longer writable at EL0");
        assert!(!may(UXN_TABLE, fetch(0)) && may(UXN_TABLE, write(0)));
        assert!(may(PXN_TABLE | AP_TABLE_RO, fetch(0)) && !may(PXN_TABLE | AP_TABLE_RO, fetch(1)));
        assert!(may(AP_TABLE_RO, fetch(1)), "read-only for EL0, so EL1 may execute");
    }
}

#[test]
fn read_only_tables_beat_the_dirty_bit_modifier() {
    let mut bench = below(1, AP_TABLE_RO).with_sys(|sys| {
        sys.tcr_el1.set_ha(true);
        sys.tcr_el1.set_hd(true);
    });
    bench = bench.s1(0, AF | AP1 | AP2 | DBM);

    assert_eq!(bench.kind(&write(1)), (FaultKind::Permission, Stage::One, 3));
}

#[test]
fn hpd_lets_tables_restrict_nothing_in_its_half() {
    let all = AP_TABLE_RO | AP_TABLE_NO_EL0 | UXN_TABLE | PXN_TABLE;
    let upper = 0xffff_ff80_0000_0000 + VA;
    let may = |hpd0, hpd1, va| {
        let mut bench = below(2, all).with_sys(|sys| {
            sys.tcr_el1.set_hpd0(hpd0);
            sys.tcr_el1.set_hpd1(hpd1);
        });
        bench.translate_at(va, &write(0)).is_ok() && bench.translate_at(va, &fetch(0)).is_ok()
    };

    assert!(may(true, false, VA) && may(false, true, upper));
    assert!(!may(false, true, VA) && !may(true, false, upper));
}

#[test]
fn el2_tables_have_a_read_only_and_an_xn_bit_which_hpd_turns_off() {
    let may = |bits, hpd, access| {
        let mut bench = below(1, bits);
        bench.sys.tcr_el2.set_hpd(hpd);
        bench.translate(&access).is_ok()
    };

    assert!(!may(AP_TABLE_RO, false, write(2)) && may(AP_TABLE_RO, true, write(2)));
    assert!(!may(UXN_TABLE, false, fetch(2)) && may(UXN_TABLE, true, fetch(2)));
    assert!(may(PXN_TABLE | AP_TABLE_NO_EL0, false, fetch(2)));
}

#[test]
fn e0pd_is_a_translation_fault_of_level_0_for_el0_in_its_half() {
    let upper = 0xffff_ff80_0000_0000 + VA;
    let with = |e0pd0, e0pd1| {
        Bench::new().s1(0, AF | AP1).with_sys(|sys| {
            sys.tcr_el1.set_e0pd0(e0pd0);
            sys.tcr_el1.set_e0pd1(e0pd1);
        })
    };

    assert_eq!(
        with(true, false).kind(&read(0)),
        (FaultKind::Translation, Stage::One, 0)
    );
    assert!(with(true, false).translate(&read(1)).is_ok());
    assert!(with(true, false).translate_at(upper, &read(0)).is_ok());
    assert!(with(false, true).translate(&read(0)).is_ok());
    assert_eq!(with(false, true).translate_at(upper, &read(0)).unwrap_err().level, 0);
}
