//! Stage 1 off: the pointer is the address, and the registers say what memory it names.

use super::*;
use crate::attr::{MemTag, MemType, MemoryAttributes, Shareability};

/// Both regimes off.
fn off() -> Bench {
    Bench::new().with_sys(|sys| {
        sys.sctlr_el1.set_m(false);
        sys.sctlr_el2.set_m(false);
    })
}

const WRITE_BACK: MemType = MemType::Normal { outer: 0xf, inner: 0xf };

#[test]
fn pointer_is_the_address_and_everything_is_allowed() {
    for el in 0..3 {
        for access in [read(el), write(el), fetch(el)] {
            let found = off().ok(&access);

            assert_eq!((found.pa, found.ipa.0), (Pa(VA + 0x238), VA + 0x238));
            assert!(found.grants.is_all() && !found.not_global);
            assert!(found.size >= 1 << 52);
        }
    }
}

#[test]
fn data_is_device_and_fetches_follow_the_instruction_cache() {
    for el in 1..=2 {
        assert_eq!(off().ok(&read(el)).attrs, MemoryAttributes::DEVICE_NGNRNE);
        let cached = off().ok(&fetch(el)).attrs;
        assert_eq!((cached.to_mair(), cached.shareability), (0xaa, Shareability::Outer));
        let mut bench = off();
        bench.sys.sctlr_el1.set_i(false);
        bench.sys.sctlr_el2.set_i(false);
        assert_eq!(bench.ok(&fetch(el)).attrs, MemoryAttributes::NORMAL_NC);
    }
}

#[test]
fn default_cacheable_makes_el1_write_back_and_dct_tagged_and_turns_stage_1_off() {
    let dc = |dct| {
        let mut bench = Bench::new().set(S2_TABLES + 8, PA | S2_ALL | 0b01);
        bench.sys.hcr_el2 = HcrEl2::new().with_dc(true).with_dct(dct);
        bench
    };

    // SCTLR_EL1.M is set, and HCR_EL2.DC brings stage 2 with it.
    let plain = dc(false).ok(&read(1));
    assert_eq!((plain.pa, plain.ipa.0), (Pa(PA + 0x238), VA + 0x238));
    assert_eq!((plain.attrs.kind, plain.attrs.tags), (WRITE_BACK, MemTag::Untagged));
    assert_eq!(dc(true).ok(&read(0)).attrs.tags, MemTag::Allocation);
    assert_eq!(dc(true).ok(&fetch(1)).attrs.kind, WRITE_BACK);
    assert!(Controls::new(&dc(false).sys, Features::empty()).stage2.is_some());
    assert!(Controls::new(&Bench::new().sys, Features::empty()).stage2.is_none());

    let mut el2 = dc(true);
    el2.sys.sctlr_el2.set_m(false);
    assert_eq!(el2.ok(&read(2)).attrs, MemoryAttributes::DEVICE_NGNRNE, "DC is EL1's");
}

#[test]
fn addresses_beyond_52_bits_are_address_size_faults_of_level_0() {
    let pointer = 1 << 52 | VA;
    for el in 0..3 {
        assert!(off().translate_at(pointer - (1 << 51), &read(el)).is_ok());
        let fault = off().translate_at(pointer, &read(el)).unwrap_err();
        assert_eq!(
            (fault.kind, fault.stage, fault.level),
            (FaultKind::AddressSize, Stage::One, 0)
        );
        assert_eq!((fault.dfsc(), fault.far()), (0, pointer));
    }
}

#[test]
fn top_byte_counts_unless_it_is_ignored_or_the_tag_is_no_address() {
    let tagged = VA | 7 << 56;
    let with = |tbi, mtx, features| {
        off().with_features(features).with_sys(|sys| {
            sys.tcr_el1.set_tbi0(tbi);
            sys.tcr_el1.set_mtx0(mtx);
        })
    };

    assert!(
        with(false, false, Features::all())
            .translate_at(tagged, &read(1))
            .is_err()
    );
    assert_eq!(
        with(true, false, Features::empty())
            .translate_at(tagged, &read(1))
            .unwrap()
            .pa,
        Pa(VA)
    );
    assert_eq!(
        with(false, true, Features::MTE_NO_ADDRESS_TAGS)
            .translate_at(tagged, &read(1))
            .unwrap()
            .pa,
        Pa(VA)
    );
    assert!(
        with(false, true, Features::MTE_CANONICAL_TAGS)
            .translate_at(tagged, &read(1))
            .is_err()
    );
}

#[test]
fn misaligned_data_is_an_alignment_fault_as_its_memory_is_device() {
    let misaligned = AccessDesc {
        aligned: false,
        ..read(1)
    };

    assert_eq!(off().kind(&misaligned), (FaultKind::Alignment, Stage::One, 0));
    let mut dc = off().set(S2_TABLES + 8, PA | S2_ALL | 0b01);
    dc.sys.hcr_el2.set_dc(true);
    assert!(dc.translate(&misaligned).is_ok());
    assert_eq!(
        off().kind(&AccessDesc::new(AccessKind::DcZero, 1, true, 64)).0,
        FaultKind::Alignment
    );
    assert!(off().translate(&tag_store(1)).is_ok(), "a tag store is let pass");
}

#[test]
fn canonically_tagged_memory_refuses_tag_stores_with_tnd() {
    let mut bench = off().with_features(Features::MTE_CANONICAL_TAGS).with_sys(|sys| {
        sys.tcr_el1.set_mtx0(true);
    });

    assert_eq!(bench.ok(&write(1)).attrs.tags, MemTag::Canonical);
    let fault = bench.fault(&tag_store(1));
    assert_eq!(
        (fault.kind, fault.stage, fault.level),
        (FaultKind::Permission, Stage::One, 0)
    );
    assert_eq!(fault.esr(1), 1 << 42 | 0x9600_004c);
    bench.sys.tcr_el1.set_mtx0(false);
    assert_eq!(bench.ok(&tag_store(1)).attrs.tags, MemTag::Untagged);

    // Under DC without DCT as well; with DCT the memory is Tagged.
    bench = bench.set(S2_TABLES + 8, PA | S2_ALL | 0b01);
    bench.sys.tcr_el1.set_mtx0(true);
    bench.sys.hcr_el2.set_dc(true);
    assert_eq!(bench.fault(&tag_store(1)).esr(1), 1 << 42 | 0x9600_004c);
    bench.sys.hcr_el2.set_dct(true);
    assert_eq!(bench.ok(&tag_store(1)).attrs.tags, MemTag::Allocation);
}
