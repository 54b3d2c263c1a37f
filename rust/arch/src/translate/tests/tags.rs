//! Which memory has tags, and who is kept from them: canonical tags, `NoTagAccess`.

use super::*;
use crate::attr::MemTag;

const S2_NO_TAG_ACCESS: u64 = 0b0100 << 2;
const FWB_WB: u64 = 0b0110 << 2;
const FWB_AS_STAGE_1: u64 = 0b0111 << 2;

fn checked_load() -> AccessDesc {
    AccessDesc {
        tags: TagUse::Checked,
        ..read(1)
    }
}

fn tag_load() -> AccessDesc {
    AccessDesc {
        tags: TagUse::Access,
        ..AccessDesc::new(AccessKind::Tag, 1, false, 16)
    }
}

#[test]
fn only_the_tagged_attribute_gives_allocation_tags() {
    let tags = |attr| Bench::new().s1(0, AF | attr).ok(&read(1)).attrs.tags;

    assert_eq!(tags(ATTR_TAGGED), MemTag::Allocation);
    assert!(
        [ATTR_WB, ATTR_DEVICE, ATTR_NC]
            .iter()
            .all(|&attr| tags(attr) == MemTag::Untagged)
    );
}

#[test]
fn without_the_data_cache_memory_is_not_tagged() {
    for el in 1..=2 {
        let mut bench = Bench::new().s1(0, AF | ATTR_TAGGED);
        assert_eq!(bench.ok(&read(el)).attrs.tags, MemTag::Allocation);
        bench.sys.sctlr_el1.set_c(false);
        bench.sys.sctlr_el2.set_c(false);
        let found = bench.ok(&read(el)).attrs;
        assert_eq!((found.to_mair(), found.tags), (0x44, MemTag::Untagged));
        assert_eq!(bench.ok(&fetch(el)).attrs.to_mair(), 0xf0, "fetches follow SCTLR.I");
    }
}

#[test]
fn stage_2_keeps_tags_only_where_it_takes_nothing_away() {
    let tags = |fwb, attr: u64| {
        let mut bench = Bench::two_stages()
            .s1(0, AF | ATTR_TAGGED)
            .s2(0, attr | S2_R | S2_W | AF);
        bench.sys.hcr_el2.set_fwb(fwb);
        bench.ok(&read(1)).attrs.tags
    };

    assert_eq!(tags(false, S2_WB), MemTag::Allocation);
    assert_eq!(tags(false, 0b0101 << 2), MemTag::Untagged);
    assert_eq!(tags(false, S2_DEVICE), MemTag::Untagged);
    assert_eq!(tags(true, FWB_WB), MemTag::Allocation);
    assert_eq!(tags(true, FWB_AS_STAGE_1), MemTag::Allocation);
    assert_eq!(tags(true, 0b0101 << 2), MemTag::Untagged);
}

/// Canonical tags in both halves and at EL2.
fn canonical(features: Features) -> Bench {
    Bench::new().with_features(features).with_sys(|sys| {
        sys.tcr_el1.set_mtx0(true);
        sys.tcr_el2.set_mtx(true);
    })
}

#[test]
fn mtx_makes_tags_of_other_memory_canonical_with_its_feature_only() {
    let tags = |features, attr| canonical(features).s1(0, AF | attr).ok(&read(1)).attrs.tags;

    assert_eq!(tags(Features::MTE_CANONICAL_TAGS, ATTR_WB), MemTag::Canonical);
    assert_eq!(tags(Features::MTE_CANONICAL_TAGS, ATTR_TAGGED), MemTag::Allocation);
    assert_eq!(tags(Features::MTE_NO_ADDRESS_TAGS, ATTR_WB), MemTag::Untagged);
    let upper = 0xffff_ff80_0000_0000 + VA;
    let found = canonical(Features::all())
        .s1(0, AF)
        .translate_at(upper, &read(1))
        .unwrap();
    assert_eq!(found.attrs.tags, MemTag::Untagged, "MTX1 is clear");
}

#[test]
fn tag_store_to_canonically_tagged_memory_is_a_permission_fault_with_tnd() {
    for el in 1..=2 {
        let mut bench = canonical(Features::MTE_CANONICAL_TAGS).s1(0, AF | AP1);

        let fault = bench.fault(&tag_store(el));
        assert_eq!(
            (fault.kind, fault.stage, fault.level),
            (FaultKind::Permission, Stage::One, 3)
        );
        assert_eq!(fault.esr(el), 1 << 42 | 0x9600_004f);
        assert!(bench.translate(&AccessDesc { el, ..tag_load() }).is_ok());
        assert!(bench.translate(&write(el)).is_ok());
    }
    // An ordinary permission fault comes first, without TnD.
    let mut bench = canonical(Features::MTE_CANONICAL_TAGS).s1(0, AF | AP2);
    assert_eq!(bench.fault(&tag_store(1)).esr(1), 0x9600_004f);
}

/// Tagged at stage 1, `NoTagAccess` at stage 2.
fn no_tag_access(features: Features, fwb: bool, attr: u64) -> Bench {
    let mut bench = Bench::two_stages()
        .s1(0, AF | ATTR_TAGGED)
        .s2(0, attr | S2_R | S2_W | AF);
    bench.sys.hcr_el2.set_fwb(fwb);
    bench.with_features(features)
}

#[test]
fn no_tag_access_refuses_tags_and_checks_with_bit_41_and_lets_data_pass() {
    let encodings = [(false, S2_NO_TAG_ACCESS), (true, 0b1110 << 2), (true, 0b1111 << 2)];
    for (fwb, attr) in encodings {
        let mut bench = no_tag_access(Features::MTE_PERM, fwb, attr);

        assert!(bench.translate(&read(1)).is_ok() && bench.translate(&write(1)).is_ok());
        let load = bench.fault(&checked_load());
        assert_eq!(
            (load.kind, load.stage, load.level),
            (FaultKind::Permission, Stage::Two, 3)
        );
        assert_eq!(load.esr(1), 1 << 41 | 0x9200_000f, "FWB {fwb}");
        assert_eq!(bench.fault(&tag_load()).esr(1), 1 << 41 | 0x9200_000f);
        let store = bench.fault(&tag_store(1));
        assert_eq!((store.esr(1), store.ipa.0), (1 << 41 | 0x9200_004f, IPA + 0x238));
        assert!(bench.ok(&read(1)).attrs.no_tag_access);
        assert_eq!(bench.ok(&read(1)).attrs.to_mair(), 0xe0);
    }
}

#[test]
fn no_tag_access_needs_its_feature_and_memory_that_stage_1_made_tagged() {
    let mut without = no_tag_access(Features::empty(), true, 0b1110 << 2);
    assert!(without.translate(&tag_store(1)).is_ok());
    let mut without = no_tag_access(Features::empty(), false, S2_NO_TAG_ACCESS);
    assert_eq!(without.ok(&tag_store(1)).attrs.to_mair(), 0x44, "a reserved encoding");
    for (fwb, attr) in [(false, S2_WB), (true, FWB_WB)] {
        assert!(
            no_tag_access(Features::MTE_PERM, fwb, attr)
                .translate(&tag_store(1))
                .is_ok()
        );
    }
    for (fwb, attr) in [(false, S2_NO_TAG_ACCESS), (true, 0b1110 << 2)] {
        let mut untagged = no_tag_access(Features::MTE_PERM, fwb, attr).s1(0, AF | ATTR_WB);
        assert!(untagged.translate(&tag_store(1)).is_ok());
        assert!(!untagged.ok(&read(1)).attrs.no_tag_access);
    }
}

#[test]
fn ordinary_permission_comes_before_no_tag_access() {
    let mut bench = no_tag_access(Features::MTE_PERM, false, S2_NO_TAG_ACCESS);
    bench = bench.s2(0, S2_NO_TAG_ACCESS | S2_R | AF);

    assert_eq!(bench.fault(&tag_store(1)).esr(1), 0x9200_004f);
}

#[test]
fn stage_1_tables_may_lie_in_memory_without_tag_access() {
    let mut bench = Bench::two_stages()
        .with_features(Features::MTE_PERM)
        .s1(0, AF | ATTR_TAGGED);
    bench = bench.s2_table(3, S2_NO_TAG_ACCESS | S2_R | AF);

    assert!(bench.translate(&tag_store(1)).is_ok());
}
