//! Pages that are near: the hot path answers like the long way.
//!
//! Models second accesses to a page, in the same state and in another. Left out: invalidation, which is `invalidation`. The
//! invariant: that a page is near is not to be noticed.

use super::*;

const MSR_TCO_1: u32 = 0xd503_419f | 0b0100 << 5;

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
fn more_contexts_than_are_kept_near_answer_right() {
    let mut pe = with_two_pages(TlbMode::On);
    map(&mut pe, 0, 0, NOT_GLOBAL);
    for asid in (0..100).chain(0..100) {
        set(&mut pe, "TTBR0_EL1", asid << 48 | TABLES[0]);
        assert_eq!(load(&mut pe, 0), Ok(0xaaaa), "ASID {asid}");
    }
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
fn near_page_for_stores_alone_is_not_read() {
    const WRITE_ONLY: u64 = 0b11 | 0xf << 2 | 2 << 6 | 1 << 10;
    let mut pe = with_two_pages(TlbMode::On);
    under_stage2(&mut pe, 0, 0);
    let leaf = Pa(STAGE2[2] + 8 * ((DATA - RAM) / PAGE_SIZE));
    pe.memory_mut().write_u64(leaf, DATA | WRITE_ONLY);

    for _ in 0..2 {
        assert_eq!(pe.store(Va(VA), 8, 1), Ok(()));
        assert_eq!(load(&mut pe, 0), Err(FaultKind::Permission));
    }
}

#[test]
fn near_page_is_read_wherever_its_data_lies() {
    let mut pe = with_two_pages(TlbMode::On);
    map(&mut pe, 1, 2, 0);
    let mut clone = pe.clone();

    for _ in 0..2 {
        assert_eq!(load(&mut clone, 0), Ok(0xaaaa), "shared with the origin");
        assert_eq!(load(&mut clone, 1), Ok(0), "written by nobody");
    }
    pe.store(Va(VA), 8, 1).expect("writable");
    assert_eq!((load(&mut pe, 0), load(&mut clone, 0)), (Ok(1), Ok(0xaaaa)));
}
