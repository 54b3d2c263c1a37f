//! Tables that cannot be read, and tables of stage 1 that stage 2 refuses (S1PTW).

use super::*;

/// The fault that an access takes on a stage-1 table, which is stage 2's.
#[track_caller]
fn s1ptw(bench: &mut Bench, access: &AccessDesc) -> Fault {
    let fault = bench.fault(access);
    assert_eq!((fault.stage, fault.s1ptw), (Stage::Two, true), "{fault}");
    fault
}

#[test]
fn every_table_of_stage_1_is_translated_by_stage_2() {
    let offsets = [8, PAGE, 2 * PAGE];
    for (level, offset) in (1..).zip(offsets) {
        let mut bench = Bench::two_stages().s1(0, AF).set(s2_leaf_of_table(level), 0);

        let fault = s1ptw(&mut bench, &write(1));
        assert_eq!((fault.kind, fault.level), (FaultKind::Translation, 3));
        assert_eq!(fault.ipa.0, S1_TABLES + offset, "the entry that was to be read");
        assert_eq!(fault.esr(1), 0x9200_00c7, "S1PTW, and WnR is the access's");
        assert_eq!(
            (fault.far(), fault.hpfar()),
            (VA + 0x238, (S1_TABLES + offset) >> 12 << 4)
        );
        assert_eq!(s1ptw(&mut bench, &read(1)).esr(1), 0x9200_0087);
        assert_eq!(s1ptw(&mut bench, &fetch(1)).esr(1), 0x8200_0087);
        assert!(
            bench
                .with_sys(|sys| sys.hcr_el2.set_vm(false))
                .translate(&read(1))
                .is_ok()
        );
    }
}

#[test]
fn table_that_stage_2_moved_is_read_where_it_lies() {
    let elsewhere = 0x30_0000;
    let bench = Bench::two_stages().set(s2_leaf_of_table(3), elsewhere | S2_ALL | 0b11);

    let mut bench = bench.set(elsewhere, IPA | AF | 0b11);

    assert_eq!(bench.ok(&read(1)).pa, Pa(PA + 0x238));
}

#[test]
fn el2_tables_are_not_translated_by_stage_2() {
    let mut bench = Bench::two_stages()
        .s1(0, AF | AP1)
        .set(s2_leaf(0), 0)
        .set(s2_leaf_of_table(3), 0);

    assert_eq!(bench.ok(&read(2)).pa, Pa(IPA + 0x238));
}

#[test]
fn stage_2_refuses_tables_for_every_reason_it_refuses_data() {
    let two = |bits| Bench::two_stages().s1(0, AF).s2_table(3, bits);

    assert_eq!(
        s1ptw(&mut two(S2_WB | S2_R | S2_W), &read(1)).kind,
        FaultKind::AccessFlag
    );
    assert_eq!(s1ptw(&mut two(S2_WB | S2_W | AF), &read(1)).kind, FaultKind::Permission);
    assert!(
        two(S2_WB | S2_R | AF).translate(&write(1)).is_ok(),
        "reading a table needs no write permission"
    );
    assert!(
        two(S2_WB | S2_R | AF | 2 << 53).translate(&fetch(1)).is_ok(),
        "nor execute permission"
    );
    let mut beyond = Bench::two_stages().with_sys(|sys| sys.ttbr0_el1 = 1 << 40);
    let fault = s1ptw(&mut beyond, &read(1));
    assert_eq!(
        (fault.kind, fault.level),
        (FaultKind::Translation, 0),
        "beyond the IPA size"
    );
    let mut high = Bench::two_stages().set(s2_leaf_of_table(2), 1 << 47 | S2_ALL | 0b11);
    high.sys.vtcr_el2.set_ps(2);
    assert_eq!(s1ptw(&mut high, &read(1)).kind, FaultKind::AddressSize);
}

#[test]
fn ptw_refuses_tables_in_device_memory() {
    let mut bench = Bench::two_stages().s1(0, AF).s2_table(2, S2_DEVICE | S2_R | S2_W | AF);
    assert!(bench.translate(&read(1)).is_ok());

    bench.sys.hcr_el2.set_ptw(true);
    let fault = s1ptw(&mut bench, &write(1));
    assert_eq!((fault.kind, fault.ipa.0), (FaultKind::Permission, S1_TABLES + PAGE));
    assert_eq!(fault.esr(1), 0x9200_00cf);

    // Under FWB the type that results counts: tables are Write-Back of their own.
    bench.sys.hcr_el2.set_fwb(true);
    let mut bench = bench
        .s2_table(1, 0b0110 << 2 | S2_R | AF)
        .s2_table(3, 0b0110 << 2 | S2_R | AF);
    assert_eq!(s1ptw(&mut bench, &read(1)).ipa.0, S1_TABLES + PAGE);
    let mut bench = bench
        .s2_table(2, 0b0111 << 2 | S2_R | AF)
        .s2(0, 0b0110 << 2 | S2_R | AF);
    assert!(bench.translate(&read(1)).is_ok());
}

#[test]
fn misaligned_access_does_not_make_its_tables_misaligned() {
    let misaligned = AccessDesc {
        aligned: false,
        ..read(1)
    };
    let mut bench = Bench::two_stages().s1(0, AF).s2_table(3, S2_DEVICE | S2_R | AF);

    assert!(bench.translate(&misaligned).is_ok());
}

#[test]
fn absent_tables_are_external_aborts_of_their_stage_and_level() {
    let absent = |at| {
        let mut bench = Bench::two_stages().s1(0, AF);
        bench.tables.absent = Some(at);
        bench.fault(&read(1))
    };
    let on_walk = FaultKind::SyncExternalAbortOnWalk;

    for level in 1..=3 {
        let fault = absent(S1_TABLES + (level - 1) * PAGE);
        assert_eq!(
            (fault.kind, fault.stage, i64::from(fault.level)),
            (on_walk, Stage::One, level.cast_signed())
        );
        assert_eq!(fault.esr(1), 0x9600_0014 | level, "taken to EL1");
    }
    let stage2_of_data = absent(S2_TABLES + 2 * PAGE);
    assert_eq!(
        (stage2_of_data.stage, stage2_of_data.s1ptw, stage2_of_data.level),
        (Stage::Two, false, 3)
    );
    assert_eq!(stage2_of_data.esr(1), 0x9200_0017);
    let stage2_of_table = absent(S2_TABLES + 3 * PAGE);
    assert_eq!(
        (stage2_of_table.kind, stage2_of_table.s1ptw, stage2_of_table.level),
        (on_walk, true, 2)
    );
    assert_eq!(stage2_of_table.esr(1), 0x9200_0096);
}

#[test]
fn stage_2_faults_of_data_name_the_ipa() {
    let mut bench = Bench::two_stages().s1(0, AF).set(s2_leaf(0), 0);
    let fault = bench.fault(&write(1));
    assert_eq!(
        (fault.kind, fault.stage, fault.level),
        (FaultKind::Translation, Stage::Two, 3)
    );
    assert_eq!(
        (fault.s1ptw, fault.ipa.0, fault.esr(1)),
        (false, IPA + 0x238, 0x9200_0047)
    );

    let mut beyond = Bench::two_stages().set(s1_leaf(0), 1 << 39 | AF | 0b11);
    let fault = beyond.fault(&read(1));
    assert_eq!(
        (fault.kind, fault.level, fault.ipa.0),
        (FaultKind::Translation, 0, 1 << 39 | 0x238)
    );
    assert_eq!(fault.hpfar(), 1 << 31);
}

#[test]
fn stage_2_that_cannot_be_walked_faults_at_level_0() {
    let mut bench = Bench::two_stages().with_sys(|sys| sys.vtcr_el2.set_t0sz(15));
    let fault = s1ptw(&mut bench, &read(1));
    assert_eq!(
        (fault.kind, fault.level, fault.esr(1)),
        (FaultKind::Translation, 0, 0x9200_0084)
    );

    bench.sys.sctlr_el1.set_m(false);
    let fault = bench.fault(&read(1));
    assert_eq!(
        (fault.stage, fault.s1ptw, fault.esr(1)),
        (Stage::Two, false, 0x9200_0004)
    );
}

#[test]
fn trace_sees_every_descriptor_in_the_order_of_the_walk() {
    let mut bench = Bench::two_stages().s1(0, AF);
    let controls = Controls::new(&bench.sys, bench.features);
    let mut steps = Vec::new();

    translate(
        &mut bench.tables,
        &controls,
        Va(VA),
        &read(1),
        &mut |stage, step: Level| {
            steps.push((stage, step.level, step.desc_pa.0));
        },
    )
    .unwrap();

    let mut expected = Vec::new();
    for (level, entry) in [(1, S1_TABLES + 8), (2, S1_TABLES + PAGE), (3, S1_TABLES + 2 * PAGE)] {
        expected.push((Stage::Two, 1, S2_TABLES));
        expected.push((Stage::Two, 2, S2_TABLES + 3 * PAGE));
        expected.push((Stage::Two, 3, s2_leaf_of_table(level)));
        expected.push((Stage::One, level as i8, entry));
    }
    expected.push((Stage::Two, 1, S2_TABLES + 16));
    expected.push((Stage::Two, 2, S2_TABLES + PAGE));
    expected.push((Stage::Two, 3, s2_leaf(0)));
    assert_eq!(steps, expected);
}
