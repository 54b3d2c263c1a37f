//! `AT` and `PAR_EL1`.

use super::*;
use crate::translate::{AtKind, at, par};

/// `PAR_EL1` after an `AT` of the first page.
fn par_of(bench: &mut Bench, kind: &str) -> u64 {
    let kind = AtKind::parse(kind).expect("a kind");
    let controls = Controls::new(&bench.sys, bench.features);
    par(&at(&mut bench.tables, &controls, kind, Va(VA + 0x238), &mut |_, _| ()))
}

#[test]
fn kinds_have_the_names_of_the_instructions() {
    let kind = |both, el, write| Some(AtKind { both, el, write });
    let kinds = [
        ("S1E0R", kind(false, 0, false)),
        ("S1E0W", kind(false, 0, true)),
        ("S1E1R", kind(false, 1, false)),
        ("S1E1W", kind(false, 1, true)),
        ("S1E2R", kind(false, 2, false)),
        ("S1E2W", kind(false, 2, true)),
        ("S12E0R", kind(true, 0, false)),
        ("S12E0W", kind(true, 0, true)),
        ("S12E1R", kind(true, 1, false)),
        ("S12E1W", kind(true, 1, true)),
        ("S12E2R", None),
        ("S1E3R", None),
        ("S1E1", None),
        ("E1R", None),
        ("", None),
    ];
    for (name, expected) in kinds {
        assert_eq!(AtKind::parse(name), expected, "{name}");
    }
}

#[test]
fn success_gives_page_memory_type_and_shareability() {
    let mut bench = Bench::two_stages().s1(0, AF | ATTR_TAGGED | 3 << 8);

    // ATTR in 63:56, the address, bit 11 RES1, NS in bit 9, SH in 8:7.
    assert_eq!(par_of(&mut bench, "S1E1R"), 0xf000_0000_8000_0b80);
    assert_eq!(par_of(&mut bench, "S12E1W"), 0xf000_0000_c000_0b80);
    let mut device = Bench::new().s1(0, AF | AP1 | ATTR_DEVICE | 3 << 8);
    assert_eq!(
        par_of(&mut device, "S1E0R"),
        0x0400_0000_8000_0b00,
        "Device is outer shareable"
    );
    assert_eq!(par_of(&mut device, "S1E2R"), 0x0400_0000_8000_0b00);
}

#[test]
fn address_has_52_bits() {
    let mut bench = Bench::new().with_sys(|sys| sys.sctlr_el1.set_m(false));
    let controls = Controls::new(&bench.sys, bench.features);
    let kind = AtKind::parse("S1E1R").unwrap();

    let found = at(&mut bench.tables, &controls, kind, Va((1 << 52) - 1), &mut |_, _| ());

    assert_eq!(par(&found), 0x000f_ffff_ffff_fb00);
}

#[test]
fn stage_1_faults_have_their_status_code_and_no_stage_2_bits() {
    let mut unmapped = Bench::new();
    assert_eq!(par_of(&mut unmapped, "S1E1R"), 0x800 | 0x07 << 1 | 1);

    let mut el1_only = Bench::two_stages().s1(0, AF | AP2);
    assert_eq!(par_of(&mut el1_only, "S1E0R"), 0x800 | 0x0f << 1 | 1);
    assert_eq!(par_of(&mut el1_only, "S1E1W"), 0x800 | 0x0f << 1 | 1);
    assert_eq!(par_of(&mut el1_only, "S12E1W"), 0x800 | 0x0f << 1 | 1);
    assert_eq!(par_of(&mut el1_only, "S1E1R") & 1, 0);
}

#[test]
fn stage_2_faults_have_s_and_ptw() {
    let mut data = Bench::two_stages().s1(0, AF).set(s2_leaf(0), 0);
    assert_eq!(par_of(&mut data, "S12E1R"), 0x800 | 1 << 9 | 0x07 << 1 | 1);
    assert_eq!(par_of(&mut data, "S1E1R") & 1, 0, "stage 1 alone has no such fault");

    let mut table = Bench::two_stages().s1(0, AF).set(s2_leaf_of_table(2), 0);
    assert_eq!(par_of(&mut table, "S12E1R"), 0x800 | 1 << 9 | 1 << 8 | 0x07 << 1 | 1);
    assert_eq!(par_of(&mut table, "S1E1R"), 0x800 | 1 << 9 | 1 << 8 | 0x07 << 1 | 1);
}

#[test]
fn misalignment_is_no_matter_for_at() {
    let mut bench = Bench::new().s1(0, AF | ATTR_DEVICE);

    assert_eq!(par_of(&mut bench, "S1E1W") & 1, 0);
    assert!(AtKind::parse("S1E1W").unwrap().access().aligned);
}

#[test]
fn faults_of_at_are_maintenance() {
    let access = AtKind::parse("S1E1R").unwrap().access();

    assert_eq!(Bench::new().fault(&access).esr(1), 0x9600_0147, "CM, and WnR is 1");
}
