//! The processing element with its TLB: what stays cached, what a `TLBI` removes, what a checking TLB notices, and that the
//! hot path answers like the long way.

use proptest::prelude::*;
use tagvisor_arch::{FaultKind, Features, PAGE_SIZE, Pa, Stop, Tag, Va, register};

use super::{Pe, StaleUse, TlbMode};
use crate::region::{Region, RegionKind};

const RAM: u64 = 0x4000_0000;
/// Stage-1 tables: level 1, 2 and 3 of the lower half, 39 bits.
const TABLES: [u64; 3] = [RAM, RAM + PAGE_SIZE, RAM + 2 * PAGE_SIZE];
/// Stage-2 tables of the same shape.
const STAGE2: [u64; 3] = [RAM + 4 * PAGE_SIZE, RAM + 6 * PAGE_SIZE, RAM + 7 * PAGE_SIZE];
/// Pages to map.
const DATA: u64 = RAM + 0x10_0000;
/// The virtual page 0 of the tests.
const VA: u64 = 0x20_0000;

/// `MAIR_EL1` index 0 Tagged, 1 Device-nGnRE, 2 Write-Back.
const MAIR: u64 = 0x00ff_04f0;
/// Page, accessed, inner shareable, EL0 too.
const PAGE: u64 = 0b11 | 1 << 10 | 3 << 8 | 1 << 6;
const NOT_GLOBAL: u64 = 1 << 11;
const READ_ONLY: u64 = 1 << 7;
const DEVICE: u64 = 1 << 2;

const TLBI_VMALLE1: u32 = 0xd508_871f;
const TLBI_VAE1_X0: u32 = 0xd508_8720;
const TLBI_ASIDE1_X0: u32 = 0xd508_8740;
const TLBI_IPAS2E1_X0: u32 = 0xd50c_8420;
const TLBI_RVAE1_X0: u32 = 0xd508_8620;
const MSR_TCO_1: u32 = 0xd503_419f | 0b0100 << 5;

fn set(pe: &mut Pe, name: &str, value: u64) {
    let register = register(name).unwrap_or_else(|| panic!("no register {name}"));
    assert!(pe.set_register(register, value));
}

/// EL1 with stage 1 on, synchronous checks and top-byte-ignore.
fn element(tlb: TlbMode) -> Pe {
    let regions = vec![
        Region::ram(Pa(RAM), 64 << 20, "ram"),
        Region {
            kind: RegionKind::RamNoTags,
            ..Region::ram(Pa(RAM + (64 << 20)), 1 << 20, "plain")
        },
    ];
    let mut pe = Pe::new(regions, Features::default(), tlb, 1).expect("a legal map");
    set(&mut pe, "MAIR_EL1", MAIR);
    set(&mut pe, "TCR_EL1", 0x19 | 2 << 32 | 3 << 37);
    set(&mut pe, "TTBR0_EL1", TABLES[0]);
    set(&mut pe, "HCR_EL2", 1 << 31 | 1 << 56);
    set(&mut pe, "SCTLR_EL1", 1 | 1 << 2 | 1 << 12 | 1 << 40 | 1 << 38 | 3 << 42);
    let [one, two, three] = TABLES;
    pe.memory_mut().write_u64(Pa(one), two | 3);
    pe.memory_mut().write_u64(Pa(two + 8), three | 3);
    pe
}

/// Maps virtual page `page` to data page `data`.
fn map(pe: &mut Pe, page: u64, data: u64, attributes: u64) {
    let pa = DATA + data * PAGE_SIZE;
    pe.memory_mut()
        .write_u64(Pa(TABLES[2] + 8 * page), pa | PAGE | attributes);
}

fn put(pe: &mut Pe, data: u64, value: u64) {
    pe.memory_mut().write_u64(Pa(DATA + data * PAGE_SIZE), value);
}

fn load(pe: &mut Pe, page: u64) -> Result<u64, FaultKind> {
    pe.load(Va(VA + page * PAGE_SIZE), 8).map_err(|fault| fault.kind)
}

fn tlbi(pe: &mut Pe, word: u32, operand: u64) {
    pe.core_mut().x[0] = operand;
    pe.execute(word).unwrap_or_else(|stop| panic!("{word:#x}: {stop:?}"));
}

/// Two data pages with a value each, and page 0 mapped to the first.
fn with_two_pages(tlb: TlbMode) -> Pe {
    let mut pe = element(tlb);
    put(&mut pe, 0, 0xaaaa);
    put(&mut pe, 1, 0xbbbb);
    map(&mut pe, 0, 0, 0);
    pe
}

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
fn used_stale_entry_is_reported_once_a_use_and_not_after_the_tlbi() {
    let mut pe = with_two_pages(TlbMode::Check);
    load(&mut pe, 0).expect("mapped");
    assert_eq!(pe.tlb_reports(), []);

    pe.memory_mut().write_u64(Pa(TABLES[2]), 0);
    assert_eq!(load(&mut pe, 0), Ok(0xaaaa), "stale, as hardware may");
    assert_eq!(load(&mut pe, 0), Ok(0xaaaa));

    let used: Vec<_> = pe
        .tlb_reports()
        .iter()
        .map(|report| (report.what, report.va, report.cached, report.now))
        .collect();
    assert_eq!(used, vec![(StaleUse::Used, Va(VA), Pa(DATA), None); 2]);
    tlbi(&mut pe, TLBI_VMALLE1, 0);
    assert_eq!(load(&mut pe, 0), Err(FaultKind::Translation));
    assert_eq!(
        pe.tlb_reports().len(),
        2,
        "an entry that was broken first goes in order"
    );
}

#[test]
fn valid_to_valid_without_a_break_is_reported_when_the_old_entry_goes() {
    let mut pe = with_two_pages(TlbMode::Check);
    load(&mut pe, 0).expect("mapped");

    map(&mut pe, 0, 1, 0);
    tlbi(&mut pe, TLBI_VMALLE1, 0);

    let report = pe.tlb_reports()[0];
    assert_eq!(
        (report.what, report.now),
        (StaleUse::NotBroken, Some(Pa(DATA + PAGE_SIZE)))
    );
}

#[test]
fn block_that_becomes_a_table_of_the_same_pages_needs_a_break() {
    let mut pe = element(TlbMode::Check);
    let block = Pa(TABLES[1] + 8);
    let table = pe.memory().read_u64(block);
    pe.memory_mut().write_u64(block, DATA & !0x1f_ffff | PAGE & !0b10);
    load(&mut pe, 0).expect("a block");

    pe.memory_mut().write_u64(Pa(TABLES[2]), RAM | PAGE);
    pe.memory_mut().write_u64(block, table);
    tlbi(&mut pe, TLBI_VMALLE1, 0);

    let report = pe.tlb_reports()[0];
    assert_eq!((report.what, report.now), (StaleUse::NotBroken, Some(report.cached)));
}

#[test]
fn changed_permission_needs_no_break_but_its_use_is_stale() {
    let mut pe = with_two_pages(TlbMode::Check);
    pe.store(Va(VA), 8, 1).expect("writable");

    map(&mut pe, 0, 0, READ_ONLY);
    assert!(pe.store(Va(VA), 8, 2).is_ok(), "stale, as hardware may");
    assert_eq!(pe.tlb_reports()[0].what, StaleUse::Used);
    tlbi(&mut pe, TLBI_VMALLE1, 0);

    assert_eq!(pe.tlb_reports().len(), 1);
    assert_eq!(
        pe.store(Va(VA), 8, 3).map_err(|fault| fault.kind),
        Err(FaultKind::Permission)
    );
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

/// Puts both stages on: stage 2 maps the first 2 MiB of RAM to themselves, but IPA page `ipa_page` of the data to another.
fn under_stage2(pe: &mut Pe, ipa_page: u64, data: u64) {
    let [one, two, three] = STAGE2;
    let leaf = |pa: u64| pa | 0b11 | 0xf << 2 | 3 << 6 | 1 << 10;
    pe.memory_mut().write_u64(Pa(one + 8), two | 3);
    pe.memory_mut().write_u64(Pa(two), three | 3);
    for page in 0..512 {
        pe.memory_mut()
            .write_u64(Pa(three + 8 * page), leaf(RAM + page * PAGE_SIZE));
    }
    let data_pages = (DATA - RAM) / PAGE_SIZE;
    pe.memory_mut()
        .write_u64(Pa(three + 8 * (data_pages + ipa_page)), leaf(DATA + data * PAGE_SIZE));
    set(pe, "VTCR_EL2", 0x19 | 1 << 6 | 2 << 16);
    set(pe, "VTTBR_EL2", 3 << 48 | one);
    set(pe, "HCR_EL2", 1 << 31 | 1 << 56 | 1);
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
fn near_page_is_checked_like_any_other() {
    let mut pe = with_two_pages(TlbMode::On);
    pe.memory_mut().set_tag(Pa(DATA), Tag::new(5));
    let tagged = Va(VA).with_tag(Tag::new(5));
    assert_eq!(pe.load(tagged, 8), Ok(0xaaaa));

    assert_eq!(pe.load(tagged, 8), Ok(0xaaaa));
    assert_eq!(pe.load(Va(VA), 8).unwrap_err().kind, FaultKind::TagCheck);
    assert_eq!(pe.load(tagged + 12, 8).unwrap_err().va, tagged + 16);
    pe.execute(MSR_TCO_1).expect("MSR TCO, #1");
    assert_eq!(pe.load(Va(VA), 8), Ok(0xaaaa), "TCO is looked at again");
}

#[test]
fn near_tags_are_read_and_written_in_blocks() {
    let mut pe = with_two_pages(TlbMode::On);

    for _ in 0..2 {
        pe.stgm(Va(VA + 0x1f0), 0x0123_4567_89ab_cdef).expect("writable");
        assert_eq!(pe.ldgm(Va(VA + 0x100)), Ok(0x0123_4567_89ab_cdef));
    }

    assert_eq!(pe.memory().tag(Pa(DATA + 0x100)), Tag::new(0xf));
    assert_eq!(pe.ldg(Va(VA + 0x110)), Ok(Tag::new(0xe)));
    pe.stg(Va(VA + 0x110), Tag::new(3)).expect("writable");
    assert_eq!(pe.ldgm(Va(VA + 0x100)), Ok(0x0123_4567_89ab_cd3f));
}

#[test]
fn memory_without_tag_storage_ignores_tag_stores_near_and_far() {
    let mut pe = element(TlbMode::On);
    let plain = (RAM + (64 << 20) - DATA) / PAGE_SIZE;
    map(&mut pe, 0, plain, 0);

    for _ in 0..2 {
        pe.stgm(Va(VA), u64::MAX).expect("writable");
        assert_eq!(pe.ldgm(Va(VA)), Ok(0));
    }
    assert_eq!(
        pe.load(Va(VA).with_tag(Tag::new(1)), 8).unwrap_err().kind,
        FaultKind::TagCheck
    );
}

#[test]
fn address_that_nothing_answers_at_is_an_external_abort_with_and_without_a_tlb() {
    for mode in [TlbMode::Off, TlbMode::On] {
        let mut pe = element(mode);
        map(&mut pe, 0, 1 << 20, 0);

        assert_eq!(load(&mut pe, 0), Err(FaultKind::SyncExternalAbort), "{mode:?}");
        assert_eq!(load(&mut pe, 0), Err(FaultKind::SyncExternalAbort), "{mode:?}");
    }
}

#[test]
fn big_entry_does_not_reach_beyond_memory() {
    let mut pe = element(TlbMode::On);
    set(&mut pe, "SCTLR_EL1", 0);
    let mut flat = |address: u64| pe.load(Va(address), 8).map_err(|fault| fault.kind);

    assert_eq!(flat(DATA), Ok(0));
    assert_eq!(
        flat(8 << 30),
        Err(FaultKind::SyncExternalAbort),
        "stage 1 off is one entry of 52 bits"
    );
}

#[test]
fn fetch_asks_for_execute_permission() {
    const UXN_PXN: u64 = 3 << 53;
    let mut pe = with_two_pages(TlbMode::On);
    map(&mut pe, 1, 0, UXN_PXN);

    // Memory that EL0 may write is not executable above it.
    assert_eq!(pe.fetch(Va(VA)).unwrap_err().kind, FaultKind::Permission);
    pe.core_mut().cpu.el = 0;
    assert_eq!(pe.fetch(Va(VA)), Ok(()));
    assert_eq!(pe.fetch(Va(VA + PAGE_SIZE)).unwrap_err().esr(0) & 0x3f, 0xf);
}

#[test]
fn fetch_teaches_the_tlb_nothing_about_data() {
    for mode in [TlbMode::On, TlbMode::Check] {
        let mut pe = with_two_pages(mode);
        pe.memory_mut().set_tag(Pa(DATA), Tag::new(5));
        pe.core_mut().cpu.el = 0;
        // Fetches are not cacheable, and so from memory that is not Tagged.
        set(&mut pe, "SCTLR_EL1", 1 | 1 << 2 | 1 << 38 | 3 << 42);

        pe.fetch(Va(VA)).expect("executable");

        assert_eq!(load(&mut pe, 0), Err(FaultKind::TagCheck), "{mode:?}");
    }
}

#[test]
fn unknown_instruction_is_refused_and_at_fills_par() {
    let mut pe = with_two_pages(TlbMode::Off);
    assert_eq!(pe.execute(0), Err(Stop::NotModelled));

    pe.core_mut().x[0] = VA;
    // AT S1E1R, X0.
    pe.execute(0xd508_7800).expect("AT");

    assert_eq!(pe.core().par & 0x000f_ffff_ffff_f001, DATA);
}

#[test]
fn at_takes_what_par_cannot_tell_software() {
    const AT_S1E1R_X0: u32 = 0xd508_7800;
    let mut pe = with_two_pages(TlbMode::Off);
    under_stage2(&mut pe, 0, 0);
    pe.core_mut().x[0] = VA;
    pe.execute(AT_S1E1R_X0).expect("mapped");
    assert_eq!((pe.core().pc, pe.core().par & 1), (4, 0));

    // The stage-1 table of level 2 is no longer mapped by stage 2.
    pe.memory_mut().write_u64(Pa(STAGE2[2] + 8), 0);
    let Err(Stop::Exception(taken)) = pe.execute(AT_S1E1R_X0) else {
        panic!("EL1 is told nothing of stage 2");
    };
    // EC 0x24, CM, S1PTW, WnR, level 3.
    assert_eq!((taken.taken_to(1), taken.esr(1), taken.far()), (2, 0x9200_01c7, VA));
    assert_eq!(pe.core().pc, 4);
    pe.core_mut().cpu.el = 2;
    pe.execute(AT_S1E1R_X0).expect("EL2 is told in PAR_EL1");
    assert_eq!(pe.core().par, 0xb0f, "PTW, S, translation fault of level 3");

    set(&mut pe, "TTBR0_EL1", 1 << 38);
    set(&mut pe, "HCR_EL2", 1 << 31);
    assert!(
        matches!(pe.execute(AT_S1E1R_X0), Err(Stop::Exception(_))),
        "nothing answers at the table"
    );
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

#[test]
fn more_contexts_than_are_kept_near_answer_right() {
    let mut pe = with_two_pages(TlbMode::On);
    map(&mut pe, 0, 0, NOT_GLOBAL);
    for asid in (0..100).chain(0..100) {
        set(&mut pe, "TTBR0_EL1", asid << 48 | TABLES[0]);
        assert_eq!(load(&mut pe, 0), Ok(0xaaaa), "ASID {asid}");
    }
}

#[test]
fn smaller_entry_beside_a_block_is_reported_when_it_is_made() {
    let mut pe = element(TlbMode::Check);
    let block = Pa(TABLES[1] + 8);
    let table = pe.memory().read_u64(block);
    // A block that EL0 may not use: an access of EL0 misses it and finds the table that is there by then.
    pe.memory_mut().write_u64(block, RAM | PAGE & !0b10 & !(1 << 6));
    load(&mut pe, 0).expect("a block");
    map(&mut pe, 0, 0, 0);
    pe.memory_mut().write_u64(block, table);

    pe.core_mut().cpu.el = 0;
    assert_eq!(load(&mut pe, 0), Ok(0));

    assert_eq!(pe.tlb_reports()[0].what, StaleUse::NotBroken);
}

#[test]
fn checks_without_data_answer_like_loads_and_see_msr_at_once() {
    // msr tco, x1: bit 25.
    const MSR_TCO_X1: u32 = 0xd51b_42e1;
    for mode in [TlbMode::Off, TlbMode::On] {
        let mut pe = with_two_pages(mode);
        let wrong = Va(VA).with_tag(Tag::new(5));
        for _ in 0..2 {
            assert_eq!(pe.check(Va(VA), 8, true), Ok(()));
            assert_eq!(pe.check(wrong, 8, false).unwrap_err().kind, FaultKind::TagCheck);
        }
        pe.core_mut().x[1] = 1 << 25;
        pe.execute(MSR_TCO_X1).expect("TCO");
        assert_eq!(pe.check(wrong, 8, true), Ok(()));
    }
}

#[test]
fn checking_leaves_access_flags_to_the_accesses() {
    let mut pe = with_two_pages(TlbMode::Check);
    set(&mut pe, "TCR_EL1", 0x19 | 2 << 32 | 3 << 37 | 1 << 39);
    load(&mut pe, 0).expect("mapped");
    let entry = Pa(TABLES[2]);
    let cleared = pe.memory().read_u64(entry) & !(1 << 10);
    pe.memory_mut().write_u64(entry, cleared);

    load(&mut pe, 0).expect("cached");

    assert_eq!(pe.memory().read_u64(entry), cleared);
    assert_eq!(pe.tlb_reports(), []);
}

/// What a random run does.
#[derive(Clone, Copy, Debug)]
enum Op {
    Load { page: u64, offset: u64, tag: u8, size: u8 },
    Store { page: u64, offset: u64, tag: u8, size: u8 },
    Tag { page: u64, granule: u64, tag: u8 },
    Tags { page: u64, bits: u64 },
    Remap { page: u64, data: u64, attributes: u64 },
    Level(u8),
    Pan(bool),
    Tco(bool),
}

fn op() -> impl Strategy<Value = Op> {
    let size = || prop::sample::select(vec![1_u8, 2, 4, 8]);
    let offset = || {
        prop_oneof![
            0..PAGE_SIZE,
            (0..512_u64).prop_map(|word| word * 8),
            Just(PAGE_SIZE - 3)
        ]
    };
    prop_oneof![
        6 => (0..4_u64, offset(), 0..3_u8, size()).prop_map(|(page, offset, tag, size)| Op::Load { page, offset, tag, size }),
        4 => (0..4_u64, offset(), 0..3_u8, size()).prop_map(|(page, offset, tag, size)| Op::Store { page, offset, tag, size }),
        3 => (0..4_u64, 0..256_u64, 0..3_u8).prop_map(|(page, granule, tag)| Op::Tag { page, granule, tag }),
        1 => (0..4_u64, any::<u64>()).prop_map(|(page, bits)| Op::Tags { page, bits: bits & 0x3333_3333_3333_3333 }),
        2 => (0..4_u64, 0..4_u64, prop::sample::select(vec![0, READ_ONLY, DEVICE, NOT_GLOBAL, 1 << 3, 1 << 53]))
            .prop_map(|(page, data, attributes)| Op::Remap { page, data, attributes }),
        1 => (0..2_u8).prop_map(Op::Level),
        1 => any::<bool>().prop_map(Op::Pan),
        1 => any::<bool>().prop_map(Op::Tco),
    ]
}

/// Does an operation; what came of it, in words.
fn run(pe: &mut Pe, op: Op) -> String {
    let pointer = |page: u64, offset, tag| Va(VA + page * PAGE_SIZE + offset).with_tag(Tag::new(tag));
    match op {
        Op::Load {
            page,
            offset,
            tag,
            size,
        } => format!("{:?}", pe.load(pointer(page, offset, tag), size)),
        Op::Store {
            page,
            offset,
            tag,
            size,
        } => {
            format!(
                "{:?}",
                pe.store(pointer(page, offset, tag), size, 0x0123_4567_89ab_cdef ^ offset)
            )
        }
        Op::Tag { page, granule, tag } => {
            let stored = pe.stg(pointer(page, granule * 16, 0), Tag::new(tag));
            format!("{stored:?} {:?}", pe.ldg(pointer(page, granule * 16, 0)))
        }
        Op::Tags { page, bits } => format!(
            "{:?} {:?}",
            pe.stgm(pointer(page, 0, 0), bits),
            pe.ldgm(pointer(page, 0, 0))
        ),
        Op::Remap { page, data, attributes } => {
            pe.memory_mut().write_u64(Pa(TABLES[2] + 8 * page), 0);
            let el = pe.core().cpu.el;
            pe.core_mut().cpu.el = 1;
            tlbi(pe, TLBI_VMALLE1, 0);
            pe.core_mut().cpu.el = el;
            map(pe, page, data, attributes);
            String::new()
        }
        Op::Level(el) => {
            pe.core_mut().cpu.el = el;
            String::new()
        }
        Op::Pan(pan) => {
            pe.core_mut().cpu.pan = pan;
            String::new()
        }
        Op::Tco(tco) => {
            pe.core_mut().cpu.tco = tco;
            String::new()
        }
    }
}

proptest! {
    #[test]
    fn tlb_changes_no_answer_for_software_that_invalidates(ops in prop::collection::vec(op(), 1..120)) {
        let mut elements = [TlbMode::Off, TlbMode::On, TlbMode::Check].map(element);
        for pe in &mut elements {
            for page in 0..4 {
                map(pe, page, page, 0);
            }
        }
        for &op in &ops {
            let [off, on, check] = elements.each_mut().map(|pe| run(pe, op));
            prop_assert_eq!(&on, &off, "{:?}", op);
            prop_assert_eq!(&check, &off, "{:?}", op);
        }
        prop_assert_eq!(elements[2].tlb_reports(), &[]);
        for data in 0..4 * PAGE_SIZE / 8 {
            let words = elements.each_ref().map(|pe| pe.memory().read_u64(Pa(DATA + 8 * data)));
            prop_assert!(words[0] == words[1] && words[1] == words[2]);
        }
    }
}
