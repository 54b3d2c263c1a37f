//! What a checking TLB notices: uses of stale entries, and changes without a break.
//!
//! Models software that forgets a `TLBI`, or makes before it breaks. Left out: answers, which checking does not change. The
//! invariant: software in order is never reported.

use super::*;

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
