//! Memory types of both stages, and what Device memory refuses.

use super::*;

const MISALIGNED: AccessDesc = AccessDesc {
    aligned: false,
    ..read(1)
};

/// `PAR_EL1.ATTR` of stage-1 and stage-2 bits, with `HCR_EL2` changed.
fn combined(one: u64, two: u64, change: impl FnOnce(&mut HcrEl2)) -> u8 {
    let mut bench = Bench::two_stages().s1(0, AF | one).s2(0, two | S2_R | S2_W | AF);
    change(&mut bench.sys.hcr_el2);
    bench.ok(&read(1)).attrs.to_mair()
}

#[test]
fn stages_combine_to_the_weaker_type() {
    assert_eq!(combined(ATTR_WB, S2_WB, |_| ()), 0xff);
    assert_eq!(combined(ATTR_WB, 0b0101 << 2, |_| ()), 0x44);
    assert_eq!(combined(ATTR_NC, S2_WB, |_| ()), 0x44);
    assert_eq!(combined(ATTR_WB, S2_DEVICE, |_| ()), 0x04);
    assert_eq!(combined(ATTR_DEVICE, S2_WB, |_| ()), 0x04);
}

#[test]
fn fwb_lets_stage_2_force_its_type() {
    let fwb = |hcr: &mut HcrEl2| hcr.set_fwb(true);

    assert_eq!(combined(ATTR_DEVICE, 0b0110 << 2, fwb), 0xff);
    assert_eq!(combined(ATTR_WT, 0b0110 << 2, fwb), 0xee, "the hints of stage 1 stay");
    assert_eq!(combined(ATTR_WT, 0b0111 << 2, fwb), 0xaa);
    assert_eq!(combined(ATTR_NC, 0b0111 << 2, fwb), 0x44);
    assert_eq!(combined(ATTR_WB, 0b0101 << 2, fwb), 0x44);
    assert_eq!(combined(ATTR_WB, 0b0001 << 2, fwb), 0x04);
}

#[test]
fn cd_makes_normal_memory_non_cacheable_and_leaves_device_alone() {
    let cd = |hcr: &mut HcrEl2| hcr.set_cd(true);

    assert_eq!(combined(ATTR_WB, S2_WB, cd), 0x44);
    assert_eq!(combined(ATTR_TAGGED, S2_WB, cd), 0x44);
    assert_eq!(combined(ATTR_WB, S2_DEVICE, cd), 0x04);
    assert_eq!(combined(ATTR_DEVICE, S2_WB, cd), 0x04);
}

#[test]
fn device_of_stage_1_refuses_misaligned_data_before_permission() {
    for el in 1..=2 {
        let misaligned = AccessDesc { el, ..MISALIGNED };
        let mut bench = Bench::new().s1(0, AF | AP1 | ATTR_DEVICE);
        assert_eq!(bench.kind(&misaligned), (FaultKind::Alignment, Stage::One, 3));
        assert!(bench.translate(&read(el)).is_ok());
        assert!(bench.s1(0, AF | AP1 | ATTR_NC).translate(&misaligned).is_ok());
    }
    let misaligned_store = AccessDesc {
        aligned: false,
        ..write(1)
    };
    let mut bench = Bench::new().s1(0, AF | AP2 | ATTR_DEVICE);
    assert_eq!(bench.kind(&misaligned_store).0, FaultKind::Alignment);
    assert_eq!(bench.fault(&misaligned_store).esr(1), 0x9600_0061);
}

#[test]
fn device_of_stage_2_refuses_misaligned_data_in_its_own_name() {
    let mut bench = Bench::two_stages().s1(0, AF).s2(0, S2_DEVICE | S2_R | AF);
    let fault = bench.fault(&MISALIGNED);
    assert_eq!(
        (fault.kind, fault.stage, fault.ipa.0),
        (FaultKind::Alignment, Stage::Two, IPA + 0x238)
    );
    assert_eq!(fault.esr(1), 0x9200_0021);
    assert!(bench.translate(&read(1)).is_ok());

    // Under FWB what counts is the type that results.
    bench.sys.hcr_el2.set_fwb(true);
    assert_eq!(bench.kind(&MISALIGNED).0, FaultKind::Alignment);
    let mut bench = bench.s2(0, 0b0110 << 2 | S2_R | AF);
    assert!(bench.translate(&MISALIGNED).is_ok());
}

#[test]
fn zeroing_a_block_of_device_memory_is_an_alignment_fault_and_a_tag_store_is_let_pass() {
    let zero = AccessDesc::new(AccessKind::DcZero, 1, true, 64);
    let mut one = Bench::new().s1(0, AF | ATTR_DEVICE);
    let mut two = Bench::two_stages().s1(0, AF).s2(0, S2_DEVICE | S2_R | S2_W | AF);

    assert_eq!(one.kind(&zero), (FaultKind::Alignment, Stage::One, 3));
    assert_eq!(two.kind(&zero), (FaultKind::Alignment, Stage::Two, 3));
    let tags = AccessDesc {
        aligned: false,
        ..tag_store(1)
    };
    assert!(one.translate(&tags).is_ok() && two.translate(&tags).is_ok());
    let fetch = AccessDesc {
        aligned: false,
        ..fetch(1)
    };
    assert!(one.translate(&fetch).is_ok());
}
