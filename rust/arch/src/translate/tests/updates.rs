//! Hardware update of access flag and dirty state, in either stage, and of stage-1 tables under stage 2.

use super::*;
use crate::access::Grants;
use crate::translate::{AtKind, at};

/// HA and HD of stage 1 and of stage 2.
fn with_updates(bench: Bench, one: (bool, bool), two: (bool, bool)) -> Bench {
    bench.with_sys(|sys| {
        sys.tcr_el1.set_ha(one.0);
        sys.tcr_el1.set_hd(one.1);
        sys.tcr_el2.set_ha(one.0);
        sys.tcr_el2.set_hd(one.1);
        sys.vtcr_el2.set_ha(two.0);
        sys.vtcr_el2.set_hd(two.1);
    })
}

const BOTH: (bool, bool) = (true, true);
const OFF: (bool, bool) = (false, false);

#[test]
fn clear_access_flag_faults_or_is_set_by_hardware() {
    for el in 1..=2 {
        let mut bench = Bench::new().s1(0, AP1);
        assert_eq!(bench.kind(&read(el)), (FaultKind::AccessFlag, Stage::One, 3));

        let mut bench = with_updates(bench, (true, false), OFF);
        let before = bench.word(s1_leaf(0));
        assert_eq!(bench.ok(&read(el)).pa, Pa(IPA + 0x238));
        assert_eq!(bench.word(s1_leaf(0)), before | AF);
    }
}

#[test]
fn hd_without_ha_does_nothing() {
    let bench = Bench::new().s1(0, AF | AP2 | DBM);
    let mut bench = with_updates(bench, (false, true), OFF);

    assert_eq!(bench.kind(&write(1)), (FaultKind::Permission, Stage::One, 3));
}

#[test]
fn write_marks_a_page_dirty_and_a_read_does_not() {
    for el in 1..=2 {
        let mut bench = with_updates(Bench::new().s1(0, AP1 | AP2 | DBM), BOTH, OFF);
        let clean = bench.word(s1_leaf(0));

        let found = bench.ok(&read(el));
        assert_eq!(bench.word(s1_leaf(0)), clean | AF);
        assert!(!found.grants.contains(Grants::WRITE), "the next write must mark it");

        let found = bench.ok(&write(el));
        assert_eq!(bench.word(s1_leaf(0)), (clean | AF) & !AP2);
        assert!(found.grants.contains(Grants::READ | Grants::WRITE));
    }
}

#[test]
fn without_dbm_a_read_only_page_stays_so() {
    let mut bench = with_updates(Bench::new().s1(0, AP2), BOTH, OFF);

    assert_eq!(bench.kind(&write(1)), (FaultKind::Permission, Stage::One, 3));
}

#[test]
fn dirty_state_is_not_managed_with_ha_alone() {
    let mut bench = with_updates(Bench::new().s1(0, AF | AP2 | DBM), (true, false), OFF);

    assert_eq!(bench.kind(&write(1)), (FaultKind::Permission, Stage::One, 3));
}

#[test]
fn atomic_and_tag_store_dirty_and_maintenance_and_at_do_not() {
    let dirties = |access: &AccessDesc| {
        let mut bench = with_updates(Bench::new().s1(0, AF | AP2 | DBM), BOTH, OFF);
        bench.ok(access);
        bench.word(s1_leaf(0)) & AP2 == 0
    };

    assert!(dirties(&AccessDesc { read: true, ..write(1) }));
    assert!(dirties(&tag_store(1)));
    assert!(dirties(&AccessDesc::new(AccessKind::DcZero, 1, true, 64)));
    assert!(!dirties(&AccessDesc::new(AccessKind::DcInvalidate, 1, false, 1)));
    assert!(!dirties(&AccessDesc::new(AccessKind::DcClean, 1, false, 1)));
}

#[test]
fn at_write_sets_the_access_flag_and_leaves_the_page_clean() {
    let mut bench = with_updates(Bench::new().s1(0, AP2 | DBM), BOTH, OFF);
    let clean = bench.word(s1_leaf(0));
    let controls = Controls::new(&bench.sys, bench.features);

    let kind = AtKind::parse("S1E1W").unwrap();
    let found = at(&mut bench.tables, &controls, kind, Va(VA), &mut |_, _| ());

    assert!(found.is_ok());
    assert_eq!(bench.word(s1_leaf(0)), clean | AF);
}

#[test]
fn stage_2_sets_its_access_flag_and_marks_pages_dirty_by_s2ap() {
    let bench = Bench::two_stages().s1(0, AF).s2(0, S2_WB | S2_R | DBM);
    assert_eq!(bench.clone().kind(&read(1)), (FaultKind::AccessFlag, Stage::Two, 3));

    let mut bench = with_updates(bench, OFF, BOTH);
    let clean = bench.word(s2_leaf(0));
    assert!(!bench.ok(&read(1)).grants.contains(Grants::WRITE));
    assert_eq!(bench.word(s2_leaf(0)), clean | AF);
    assert!(bench.ok(&write(1)).grants.contains(Grants::WRITE));
    assert_eq!(bench.word(s2_leaf(0)), clean | AF | S2_W);
}

#[test]
fn updating_a_stage_1_table_needs_write_permission_of_stage_2() {
    let read_only = S2_WB | S2_R | AF;
    let bench = Bench::two_stages().s1(0, AP2 | DBM).s2_table(3, read_only);
    let mut bench = with_updates(bench, BOTH, OFF);

    for access in [read(1), write(1)] {
        let fault = bench.fault(&access);
        assert_eq!(
            (fault.kind, fault.stage, fault.level, fault.s1ptw),
            (FaultKind::Permission, Stage::Two, 3, true)
        );
        assert_eq!(fault.ipa.0, s1_leaf(0));
        assert_eq!(fault.access, access.access());
    }
    // Once nothing is to update, read permission is enough.
    assert!(bench.s1(0, AF).translate(&read(1)).is_ok());
}

#[test]
fn updating_a_stage_1_table_marks_its_page_dirty_in_stage_2() {
    let clean = S2_WB | S2_R | DBM;
    let bench = Bench::two_stages().s1(0, AF).s2_table(3, clean | AF);
    let mut bench = with_updates(bench, BOTH, BOTH);

    bench.ok(&write(1));
    assert_eq!(bench.word(s2_leaf_of_table(3)) & S2_W, 0, "the table was only read");

    let mut bench = bench.s1(0, 0);
    bench.ok(&read(1));
    assert_eq!(bench.word(s2_leaf_of_table(3)) & S2_W, S2_W);
    assert_eq!(bench.word(s1_leaf(0)) & AF, AF);
    assert_eq!(
        bench.word(s2_leaf_of_table(2)),
        (S1_TABLES + PAGE) | S2_ALL | 0b11,
        "level 2 was only read"
    );
}

#[test]
fn access_that_faults_updates_nothing_in_its_stage() {
    let bench = with_updates(Bench::two_stages().s1(0, AP2), BOTH, BOTH);

    assert_eq!(bench.clone().kind(&write(1)), (FaultKind::Permission, Stage::One, 3));
    let mut refused = bench.s1(0, AF).s2(0, S2_WB | S2_R);
    assert_eq!(refused.kind(&write(1)), (FaultKind::Permission, Stage::Two, 3));
}

#[test]
fn stage_1_updates_before_stage_2_refuses_the_access() {
    // `AArch64.FullTranslate` is done with stage 1, update and all, before it asks stage 2.
    let bench = Bench::two_stages().s1(0, 0).s2(0, S2_WB | S2_R | AF);
    let mut bench = with_updates(bench, BOTH, OFF);

    let fault = bench.translate(&write(1)).unwrap_err();

    assert_eq!((fault.stage, fault.s1ptw), (Stage::Two, false));
    assert_eq!(bench.word(s1_leaf(0)) & AF, AF);
}
