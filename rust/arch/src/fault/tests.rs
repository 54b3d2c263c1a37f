//! What the syndrome registers say of every kind of fault, with values worked out by hand.

use super::*;

/// A read of 8 bytes through a tagged pointer.
fn read_fault(kind: FaultKind, stage: Stage, level: i8) -> Fault {
    let (va, ipa) = (Va(0x0700_0000_4100_2c93), Ipa(0x4100_2c93));
    Fault {
        kind,
        stage,
        level,
        access: Access::Read,
        va,
        ipa,
        s1ptw: false,
        maintenance: false,
        tags_refused: false,
        syndrome: Syndrome::new(8, 0, false, true, false),
        size: 8,
    }
}

#[test]
fn status_codes_are_those_of_the_data_abort_table() {
    let code = |kind| read_fault(kind, Stage::Two, 3).dfsc();

    assert_eq!(code(FaultKind::AddressSize), 0x03);
    assert_eq!(code(FaultKind::Translation), 0x07);
    assert_eq!(code(FaultKind::AccessFlag), 0x0b);
    assert_eq!(code(FaultKind::Permission), 0x0f);
    assert_eq!(code(FaultKind::SyncExternalAbort), 0x10);
    assert_eq!(code(FaultKind::TagCheck), 0x11);
    assert_eq!(code(FaultKind::SyncExternalAbortOnWalk), 0x17);
    assert_eq!(code(FaultKind::Alignment), 0x21);
}

#[test]
fn faults_of_level_minus_1_have_codes_of_their_own() {
    let code = |kind| read_fault(kind, Stage::Two, -1).dfsc();

    assert_eq!(code(FaultKind::AddressSize), 0x29);
    assert_eq!(code(FaultKind::Translation), 0x2b);
    assert_eq!(code(FaultKind::SyncExternalAbortOnWalk), 0x13);
}

#[test]
fn stage_1_faults_go_to_el1_or_stay_at_el2_and_stage_2_faults_go_to_el2() {
    let taken = |stage| [0, 1, 2].map(|el| read_fault(FaultKind::Translation, stage, 3).taken_to(el));

    assert_eq!(taken(Stage::One), [1, 1, 2]);
    assert_eq!(taken(Stage::Two), [2, 2, 2]);
    assert_eq!(
        read_fault(FaultKind::Translation, Stage::One, 3).esr(2),
        0x9600_0007,
        "EC 0x25 at EL2"
    );
}

#[test]
fn refused_tags_are_bit_41_of_stage_2_and_bit_42_of_stage_1() {
    let refused = |stage| Fault {
        tags_refused: true,
        syndrome: Syndrome::NONE,
        ..read_fault(FaultKind::Permission, stage, 3)
    };

    assert_eq!(refused(Stage::Two).esr(1), 1 << 41 | 0x9200_000f);
    assert_eq!(refused(Stage::One).esr(1), 1 << 42 | 0x9600_000f);
}

#[test]
fn fault_on_a_stage_1_table_is_s1ptw_and_describes_nothing() {
    let on_table = Fault {
        s1ptw: true,
        access: Access::Write,
        ..read_fault(FaultKind::Translation, Stage::Two, 2)
    };

    assert_eq!(on_table.esr(1), 0x9200_00c6);
}

#[test]
fn el1_tag_check_fault_has_the_esr_linux_reports() {
    let load = read_fault(FaultKind::TagCheck, Stage::One, 0);
    let store = Fault {
        access: Access::Write,
        ..load
    };

    assert_eq!(load.esr(1), 0x9600_0011);
    assert_eq!(store.esr(1), 0x9600_0051);
}

#[test]
fn el0_tag_check_fault_comes_from_a_lower_level() {
    let load = read_fault(FaultKind::TagCheck, Stage::One, 0);

    assert_eq!(load.esr(0), 0x9200_0011);
}

#[test]
fn stage_2_fault_of_el1_comes_from_a_lower_level_and_describes_the_access() {
    let load = read_fault(FaultKind::Permission, Stage::Two, 3);

    // EC 0x24, IL, ISV, SAS = 3, SF.
    assert_eq!(load.esr(1), 0x93c0_800f);
    let ldr_w1 = Syndrome::new(4, 1, false, false, false);
    assert_eq!(
        Fault {
            syndrome: ldr_w1,
            ..load
        }
        .esr(1),
        0x9381_000f
    );
}

#[test]
fn stage_2_fault_of_a_tag_instruction_describes_nothing() {
    let ldg = Fault {
        syndrome: Syndrome::NONE,
        size: 16,
        ..read_fault(FaultKind::Translation, Stage::Two, 3)
    };

    assert_eq!(ldg.esr(1), 0x9200_0007);
}

#[test]
fn external_abort_on_a_stage_2_walk_describes_nothing() {
    let load = read_fault(FaultKind::SyncExternalAbortOnWalk, Stage::Two, 1);

    assert_eq!(load.esr(1), 0x9200_0015);
}

#[test]
fn far_keeps_the_tag_and_hpfar_holds_the_ipa_page() {
    let load = read_fault(FaultKind::Permission, Stage::Two, 3);

    assert_eq!(load.far(), 0x0700_0000_4100_2c93);
    assert_eq!(load.hpfar(), 0x41_0020);
}

#[test]
fn hpfar_stops_at_ipa_bit_51() {
    let load = Fault {
        ipa: Ipa(u64::MAX),
        ..read_fault(FaultKind::Translation, Stage::Two, 0)
    };

    assert_eq!(load.hpfar(), 0x0000_0fff_ffff_fff0);
}

#[test]
fn stage_1_fault_has_no_hpfar() {
    assert_eq!(read_fault(FaultKind::TagCheck, Stage::One, 0).hpfar(), 0);
}

#[test]
fn faults_read_like_a_kernel_log() {
    assert_eq!(
        read_fault(FaultKind::Permission, Stage::Two, 3).to_string(),
        "stage-2 permission fault, level 3, read of 8 bytes at 0x0700000041002c93 \
         (IPA 0x0000000041002c93)"
    );
    assert_eq!(
        read_fault(FaultKind::TagCheck, Stage::One, 0).to_string(),
        "synchronous tag check fault, read of 8 bytes at 0x0700000041002c93"
    );
    let on_table = Fault {
        s1ptw: true,
        access: Access::Fetch,
        ..read_fault(FaultKind::AccessFlag, Stage::Two, -1)
    };
    assert_eq!(
        on_table.to_string(),
        "stage-2 access flag fault on a stage-1 table, level -1, fetch of 8 bytes at 0x0700000041002c93 \
         (IPA 0x0000000041002c93)"
    );
    assert_eq!(Access::Write.to_string(), "write");
}

#[test]
fn kinds_have_their_names_and_only_some_a_level() {
    let kinds = [
        (FaultKind::AddressSize, "address size fault", true),
        (FaultKind::Translation, "translation fault", true),
        (FaultKind::AccessFlag, "access flag fault", true),
        (FaultKind::Permission, "permission fault", true),
        (FaultKind::Alignment, "alignment fault", false),
        (FaultKind::TagCheck, "synchronous tag check fault", false),
        (FaultKind::SyncExternalAbort, "synchronous external abort", false),
        (
            FaultKind::SyncExternalAbortOnWalk,
            "synchronous external abort on translation table walk",
            true,
        ),
    ];
    for (kind, name, has_level) in kinds {
        assert_eq!((kind.to_string().as_str(), kind.has_level()), (name, has_level));
        assert_eq!(kind.fsc(3) != kind.fsc(2), has_level, "{name}");
    }
}
