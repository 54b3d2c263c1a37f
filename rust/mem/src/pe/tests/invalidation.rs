//! What stays cached, for whom, and what a `TLBI` removes.
//!
//! Models software that changes tables, contexts and levels. Left out: what a checking TLB says of it, which is `stale`. The
//! invariant: an entry answers until something that names it removes it.

use super::*;

const TLBI_RVAE1_X0: u32 = 0xd508_8620;
const TLBI_IPAS2E1_X0: u32 = 0xd50c_8420;
const TLBI_ASIDE1_X0: u32 = 0xd508_8740;
const TLBI_VAE1_X0: u32 = 0xd508_8720;

#[test]
fn changed_descriptor_counts_at_once_without_a_tlb_and_after_a_tlbi_with_one() {
    for (mode, before) in [(TlbMode::Off, 0xbbbb), (TlbMode::On, 0xaaaa), (TlbMode::Check, 0xaaaa)] {
        let mut pe = with_two_pages(mode);
        assert_eq!(load(&mut pe, 0), Ok(0xaaaa));

        map(&mut pe, 0, 1, 0);
        assert_eq!(load(&mut pe, 0), Ok(before), "{mode:?}");
        tlbi(&mut pe, TLBI_VAE1_X0, VA >> 12);

        assert_eq!(load(&mut pe, 0), Ok(0xbbbb), "{mode:?}");
    }
}

#[test]
fn tlbi_of_another_address_removes_nothing_and_a_range_removes_all_in_it() {
    let mut pe = with_two_pages(TlbMode::On);
    assert_eq!(load(&mut pe, 0), Ok(0xaaaa));
    map(&mut pe, 0, 1, 0);

    tlbi(&mut pe, TLBI_VAE1_X0, (VA >> 12) + 1);
    assert_eq!(load(&mut pe, 0), Ok(0xaaaa));
    // TG = 4 KiB, SCALE = 0, NUM = 0: two pages.
    tlbi(&mut pe, TLBI_RVAE1_X0, 1 << 46 | VA >> 12);

    assert_eq!(load(&mut pe, 0), Ok(0xbbbb));
}

#[test]
fn entries_belong_to_their_asid_unless_global() {
    let mut pe = with_two_pages(TlbMode::On);
    map(&mut pe, 0, 0, NOT_GLOBAL);
    map(&mut pe, 1, 0, 0);
    assert_eq!((load(&mut pe, 0), load(&mut pe, 1)), (Ok(0xaaaa), Ok(0xaaaa)));
    map(&mut pe, 0, 1, NOT_GLOBAL);
    map(&mut pe, 1, 1, 0);

    set(&mut pe, "TTBR0_EL1", 7 << 48 | TABLES[0]);
    assert_eq!((load(&mut pe, 0), load(&mut pe, 1)), (Ok(0xbbbb), Ok(0xaaaa)));
    set(&mut pe, "TTBR0_EL1", TABLES[0]);
    assert_eq!(load(&mut pe, 0), Ok(0xaaaa), "still there for its own ASID");
    tlbi(&mut pe, TLBI_ASIDE1_X0, 0);

    assert_eq!((load(&mut pe, 0), load(&mut pe, 1)), (Ok(0xbbbb), Ok(0xaaaa)));
}

#[test]
fn tlbi_by_ipa_leaves_entries_of_both_stages_for_vmalle1_to_remove() {
    let mut pe = with_two_pages(TlbMode::On);
    under_stage2(&mut pe, 0, 0);
    assert_eq!(load(&mut pe, 0), Ok(0xaaaa));
    under_stage2(&mut pe, 0, 1);

    pe.core_mut().cpu.el = 2;
    tlbi(&mut pe, TLBI_IPAS2E1_X0, DATA >> 12);
    pe.core_mut().cpu.el = 1;
    assert_eq!(load(&mut pe, 0), Ok(0xaaaa));
    tlbi(&mut pe, TLBI_VMALLE1, 0);

    assert_eq!(load(&mut pe, 0), Ok(0xbbbb));
}

#[test]
fn vmids_keep_virtual_machines_apart() {
    let mut pe = with_two_pages(TlbMode::On);
    under_stage2(&mut pe, 0, 0);
    assert_eq!(load(&mut pe, 0), Ok(0xaaaa));
    under_stage2(&mut pe, 0, 1);

    set(&mut pe, "VTTBR_EL2", 4 << 48 | STAGE2[0]);
    assert_eq!(load(&mut pe, 0), Ok(0xbbbb));
    set(&mut pe, "VTTBR_EL2", 3 << 48 | STAGE2[0]);
    assert_eq!(load(&mut pe, 0), Ok(0xaaaa));
}

#[test]
fn tlbi_below_its_level_is_undefined() {
    let mut pe = with_two_pages(TlbMode::On);
    pe.core_mut().cpu.el = 0;

    assert!(matches!(pe.execute(TLBI_VMALLE1), Err(Stop::Exception(_))));
}

#[test]
fn every_tlbi_removes_what_it_names() {
    // EL2, X0 holds the operand: word, operand, and whether the entry of VA under VMID 3 goes.
    let page = VA >> 12;
    let range = |tg: u64, base: u64| tg << 46 | base;
    let forms = [
        (0xd508_8760, page, true),                      // vaae1
        (0xd508_8760, page + 1, false),                 // another page
        (0xd508_8660, range(1, page), true),            // rvaae1, 4 KiB
        (0xd508_8660, range(2, VA >> 14), true),        // 16 KiB
        (0xd508_8660, range(3, (VA >> 16) + 4), false), // 64 KiB, from 256 KiB on
        (0xd50c_879f, 0, true),                         // alle1
        (0xd50c_87df, 0, true),                         // vmalls12e1
        (0xd50c_871f, 0, false),                        // alle2
        (0xd50c_8720, page, false),                     // vae2
        (0xd50c_8440, range(1, DATA >> 12), false),     // ripas2e1: entries of both stages stay
    ];
    for (word, operand, goes) in forms {
        let mut pe = with_two_pages(TlbMode::On);
        under_stage2(&mut pe, 0, 0);
        assert_eq!(load(&mut pe, 0), Ok(0xaaaa));
        map(&mut pe, 0, 1, 0);

        pe.core_mut().cpu.el = 2;
        tlbi(&mut pe, word, operand);
        pe.core_mut().cpu.el = 1;

        let want = if goes { 0xbbbb } else { 0xaaaa };
        assert_eq!(load(&mut pe, 0), Ok(want), "{word:#x}, {operand:#x}");
    }
}

#[test]
fn wide_identifiers_have_16_bits_and_a1_takes_the_other_asid() {
    const A1: u64 = 1 << 22;
    const AS: u64 = 1 << 36;
    let asid = |tcr: u64| {
        let mut pe = element(TlbMode::On);
        set(&mut pe, "TTBR0_EL1", 0x1234 << 48);
        set(&mut pe, "TTBR1_EL1", 0x5678 << 48);
        set(&mut pe, "TCR_EL1", tcr);
        pe.core().sys().asid()
    };
    assert_eq!([0, AS, A1, A1 | AS].map(asid), [0x34, 0x1234, 0x78, 0x5678]);

    let vmid = |hcr: u64, vtcr: u64| {
        let mut pe = element(TlbMode::On);
        set(&mut pe, "HCR_EL2", hcr);
        set(&mut pe, "VTCR_EL2", vtcr);
        set(&mut pe, "VTTBR_EL2", 0x1234 << 48);
        pe.core().sys().vmid()
    };
    assert_eq!(
        [vmid(0, 0), vmid(1, 0), vmid(1, 1 << 19)],
        [None, Some(0x34), Some(0x1234)]
    );
}
