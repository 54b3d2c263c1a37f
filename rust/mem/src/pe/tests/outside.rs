//! What is no plain access to memory: fetches, `AT`, addresses that nothing answers at, words that are not modelled.
//!
//! Models one of each, with and without a TLB. Left out: the faults of translation, which are tested where they arise. The
//! invariant: what is refused changes nothing.

use super::*;

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
