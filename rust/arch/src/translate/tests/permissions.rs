//! Permissions of both stages: what each level may do, with PAN, EPAN, WXN and `FEAT_XNX`.

use super::*;
use crate::access::Grants;

/// Who may do what: EL0, EL1, and reads and writes of EL1 under PAN, each as letters. Every answer is that of an access.
fn allowed(bench: &Bench) -> String {
    let under_pan = |access| AccessDesc { pan: true, ..access };
    let accesses = [
        (read(0), 'r', Grants::EL0_READ),
        (write(0), 'w', Grants::EL0_WRITE),
        (fetch(0), 'x', Grants::EL0_EXEC),
        (read(1), 'r', Grants::READ),
        (write(1), 'w', Grants::WRITE),
        (fetch(1), 'x', Grants::EXEC),
        (under_pan(read(1)), 'r', Grants::PAN_READ),
        (under_pan(write(1)), 'w', Grants::PAN_WRITE),
    ];
    let mut letters = String::new();
    for (index, (access, letter, grant)) in accesses.into_iter().enumerate() {
        let answer = bench.clone().translate(&access);
        if let Ok(found) = answer {
            assert!(found.grants.contains(grant), "{grant:?} is allowed and not granted");
        } else {
            let fault = answer.unwrap_err();
            assert_eq!((fault.kind, fault.level), (FaultKind::Permission, 3));
            assert_eq!(fault.access, access.access());
            let any = accesses
                .iter()
                .find_map(|(access, ..)| bench.clone().translate(access).ok());
            assert!(
                any.is_none_or(|found| !found.grants.contains(grant)),
                "{grant:?} is granted and not allowed"
            );
        }
        if index == 3 || index == 6 {
            letters.push(' ');
        }
        letters.push(if answer.is_ok() { letter } else { '-' });
    }
    letters
}

/// Who may do what with a page of these bits, under `SCTLR_EL1.WXN` and EPAN.
fn stage1(bits: u64, wxn: bool, epan: bool) -> String {
    let bench = Bench::new().s1(0, AF | bits).with_sys(|sys| {
        sys.sctlr_el1.set_wxn(wxn);
        sys.sctlr_el1.set_epan(epan);
    });
    allowed(&bench)
}

#[test]
fn ap_xn_and_pxn_mean_what_the_direct_permissions_table_says() {
    let table = [
        (0, "--x rwx rw"),
        (AP1, "rwx rw- --"),
        (AP2, "--x r-x r-"),
        (AP1 | AP2, "r-x r-x --"),
        (UXN, "--- rwx rw"),
        (UXN | AP1, "rw- rw- --"),
        (UXN | AP1 | AP2, "r-- r-x --"),
        (PXN, "--x rw- rw"),
        (PXN | AP1 | AP2, "r-x r-- --"),
        (PXN | UXN | AP2, "--- r-- r-"),
    ];
    for (bits, expected) in table {
        assert_eq!(stage1(bits, false, false), expected, "{bits:#x}");
    }
}

#[test]
fn wxn_takes_execution_from_who_may_write() {
    assert_eq!(stage1(0, true, false), "--x rw- rw");
    assert_eq!(stage1(AP1, true, false), "rw- rw- --");
    assert_eq!(stage1(AP2, true, false), "--x r-x r-");
    assert_eq!(stage1(AP1 | AP2, true, false), "r-x r-x --");
}

#[test]
fn epan_covers_what_el0_may_only_execute() {
    assert_eq!(stage1(0, false, true), "--x rwx --");
    assert_eq!(stage1(UXN, false, true), "--- rwx rw");
    assert_eq!(stage1(AP2, false, true), "--x r-x --");
    assert_eq!(stage1(AP1, false, true), "rwx rw- --");
}

#[test]
fn el2_has_one_permission_for_all_and_one_xn() {
    let el2 = |bits, wxn| {
        let mut bench = Bench::new().s1(0, AF | bits);
        bench.sys.sctlr_el2.set_wxn(wxn);
        let mut may = |access| bench.translate(&access).is_ok();
        (may(read(2)), may(write(2)), may(fetch(2)))
    };

    assert_eq!(el2(AP1, false), (true, true, true));
    assert_eq!(el2(AP1 | AP2, false), (true, false, true));
    assert_eq!(el2(AP1 | UXN, false), (true, true, false));
    assert_eq!(el2(AP1 | PXN, false), (true, true, true), "bit 53 is no XN here");
    assert_eq!(el2(AP1, true), (true, true, false));
    assert_eq!(el2(AP1 | AP2, true), (true, false, true));
}

#[test]
fn el2_grants_do_not_depend_on_pan() {
    let found = Bench::new().s1(0, AF | AP1 | AP2).ok(&read(2));

    assert_eq!(found.grants, Grants::READ | Grants::PAN_READ | Grants::EXEC);
}

#[test]
fn stage_2_allows_what_s2ap_and_the_two_bits_of_xn_say() {
    let xn = |bits: u64| bits << 53;
    let table = [
        (S2_R | S2_W, "rwx rwx rw"),
        (S2_R, "r-x r-x r-"),
        (S2_W, "-wx -wx -w"),
        (0, "--x --x --"),
        (S2_R | S2_W | xn(1), "rwx rw- rw"),
        (S2_R | S2_W | xn(2), "rw- rw- rw"),
        (S2_R | S2_W | xn(3), "rw- rwx rw"),
    ];
    for (bits, expected) in table {
        // Stage 1 is off, so the pointer is the IPA.
        let bench = Bench::two_stages().with_sys(|sys| sys.sctlr_el1.set_m(false));
        let bench = bench
            .set(S2_TABLES + 8, (S2_TABLES + PAGE) | 0b11)
            .s2(0, S2_WB | AF | bits);

        assert_eq!(allowed(&bench), expected, "{bits:#x}");
    }
}

#[test]
fn both_stages_must_allow_and_stage_1_refuses_first() {
    let mut bench = Bench::two_stages().s1(0, AF | AP2).s2(0, S2_WB | S2_R | AF);
    assert_eq!(bench.kind(&write(1)), (FaultKind::Permission, Stage::One, 3));
    assert!(!bench.ok(&read(1)).grants.intersects(Grants::WRITE | Grants::EL0_READ));

    let mut bench = bench.s1(0, AF);
    let fault = bench.fault(&write(1));
    assert_eq!(
        (fault.kind, fault.stage, fault.ipa.0),
        (FaultKind::Permission, Stage::Two, IPA + 0x238)
    );
    assert_eq!((fault.esr(1), fault.hpfar()), (0x9200_004f, IPA >> 8));
    assert!(!fault.s1ptw);
    assert_eq!(
        bench.ok(&read(1)).grants,
        Grants::READ | Grants::PAN_READ | Grants::EXEC | Grants::EL0_EXEC
    );
}

#[test]
fn fetch_faults_are_instruction_aborts() {
    let mut bench = Bench::new().s1(0, AF | PXN | UXN);
    assert_eq!(bench.fault(&fetch(0)).esr(0), 0x8200_000f, "EC 0x20 from EL0");
    assert_eq!(bench.fault(&fetch(1)).esr(1), 0x8600_000f, "EC 0x21 from EL1");

    let mut bench = Bench::two_stages().s1(0, AF).s2(0, S2_WB | S2_R | S2_W | AF | 2 << 53);
    assert_eq!(bench.fault(&fetch(1)).esr(1), 0x8200_000f, "to EL2");
}

#[test]
fn atomics_need_both_permissions_and_miss_the_read_first() {
    let atomic = AccessDesc { read: true, ..write(0) };

    assert_eq!(Bench::new().s1(0, AF).fault(&atomic).access, Access::Read);
    assert_eq!(Bench::new().s1(0, AF | AP1 | AP2).fault(&atomic).access, Access::Write);
    assert!(Bench::new().s1(0, AF | AP1).translate(&atomic).is_ok());
}

#[test]
fn maintenance_by_address_needs_read_permission_at_el0_and_write_permission_to_invalidate() {
    let clean = |el| AccessDesc::new(AccessKind::DcClean, el, false, 1);
    let invalidate = AccessDesc::new(AccessKind::DcInvalidate, 1, false, 1);
    let mut bench = Bench::new().s1(0, AF | AP2);

    assert!(bench.translate(&clean(1)).is_ok());
    assert_eq!(bench.fault(&clean(0)).esr(0), 0x9200_014f, "CM and WnR");
    assert_eq!(bench.fault(&invalidate).esr(1), 0x9600_014f);
    assert!(bench.s1(0, AF).translate(&invalidate).is_ok());
}
