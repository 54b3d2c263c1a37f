//! `DC`, `AT`, `TLBI`, hints and barriers, and what is not modelled.

use super::*;
use crate::addr::Va;
use crate::exec::TlbiOp;
use crate::translate::AtKind;

#[test]
fn dc_zva_gva_and_gzva_zero_and_tag_the_block_of_their_pointer() {
    let instructions = [
        (0xd50b_7422, "dc zva, x2", "000000000", true),
        (0xd50b_7462, "dc gva, x2", "000077770", false),
        (0xd50b_7482, "dc gzva, x2", "000077770", true),
    ];
    for (word, asm, tags, zeroes) in instructions {
        let mut machine = Machine::new().with(&[(2, (AT + 0x21) | 7 << 56)]);
        machine.core.cpu.tco = true;

        machine.run(word, asm);

        assert_eq!(machine.digits(9), tags, "{asm}");
        assert_eq!(machine.bytes(0, 64) == [0; 64], zeroes, "{asm}");
        assert_eq!(
            (machine.bytes(-1, 1), machine.bytes(64, 3)),
            (&[0xbf][..], &[0, 1, 2][..]),
            "{asm}"
        );
    }
}

#[test]
fn dc_zva_is_tag_checked_as_a_store_and_tagging_is_not() {
    let mut machine = Machine::new();
    machine.guest = machine.guest.with_tags(0, Tag::new(7));

    let fault = machine.fault(0xd50b_7422, "dc zva, x2");
    assert_eq!((fault.kind, fault.esr(1)), (FaultKind::TagCheck, 0x9600_0051));
    machine.run(0xd50b_7482, "dc gzva, x2");
}

#[test]
fn maintenance_changes_nothing_and_checks_permissions() {
    let cleans = [
        (0xd50b_7a22, "dc cvac, x2"),
        (0xd50b_7a62, "dc cgvac, x2"),
        (0xd50b_7aa2, "dc cgdvac, x2"),
        (0xd50b_7b22, "dc cvau, x2"),
        (0xd50b_7c22, "dc cvap, x2"),
        (0xd50b_7c62, "dc cgvap, x2"),
        (0xd50b_7ca2, "dc cgdvap, x2"),
        (0xd50b_7d22, "dc cvadp, x2"),
        (0xd50b_7d62, "dc cgvadp, x2"),
        (0xd50b_7da2, "dc cgdvadp, x2"),
        (0xd50b_7e22, "dc civac, x2"),
        (0xd50b_7e62, "dc cigvac, x2"),
        (0xd50b_7ea2, "dc cigdvac, x2"),
    ];
    let invalidates = [
        (0xd508_7622, "dc ivac, x2"),
        (0xd508_7662, "dc igvac, x2"),
        (0xd508_76a2, "dc igdvac, x2"),
    ];

    for (word, asm) in cleans.into_iter().chain(invalidates) {
        let mut machine = Machine::new();
        machine.guest = machine.guest.with_tags(0, Tag::new(7));
        let guest = machine.guest.clone();
        machine.run(word, asm);
        assert!(machine.guest == guest, "{asm}");

        let mut unmapped = Machine::with_pages(&[]);
        let fault = unmapped.fault(word, asm);
        // CM and WnR, and a translation fault of level 3.
        assert_eq!((fault.esr(1), fault.far()), (0x9200_0147, AT), "{asm}");
    }
    for (word, asm) in cleans {
        Machine::with_pages(&[Page::TaggedReadOnly]).run(word, asm);
    }
    for (word, asm) in invalidates {
        let fault = Machine::with_pages(&[Page::TaggedReadOnly]).fault(word, asm);
        assert_eq!(fault.esr(1), 0x9200_014f, "{asm}");
        let mut el0 = Machine::new().at_el(0);
        el0.change_sys(|sys| sys.sctlr_el1.set_uci(true));
        assert_eq!(el0.exception(word, asm), Exception::Undefined, "{asm}");
    }
}

#[test]
fn at_asks_for_a_translation_of_its_operand_at_a_level_that_may() {
    let instructions = [
        (0xd508_7802, "at s1e1r, x2", "S1E1R", 1),
        (0xd508_7822, "at s1e1w, x2", "S1E1W", 1),
        (0xd508_7842, "at s1e0r, x2", "S1E0R", 1),
        (0xd508_7862, "at s1e0w, x2", "S1E0W", 1),
        (0xd50c_7802, "at s1e2r, x2", "S1E2R", 2),
        (0xd50c_7822, "at s1e2w, x2", "S1E2W", 2),
        (0xd50c_7882, "at s12e1r, x2", "S12E1R", 2),
        (0xd50c_78a2, "at s12e1w, x2", "S12E1W", 2),
        (0xd50c_78c2, "at s12e0r, x2", "S12E0R", 2),
        (0xd50c_78e2, "at s12e0w, x2", "S12E0W", 2),
    ];
    for (word, asm, name, least) in instructions {
        let kind = AtKind::parse(name).unwrap();
        for el in 0..3 {
            let mut machine = Machine::new().at_el(el);
            if el < least {
                assert_eq!(machine.exception(word, asm), Exception::Undefined, "{asm} at EL{el}");
            } else {
                assert_eq!(machine.try_run(word), Ok(Effect::At(kind, Va(AT))), "{asm} at EL{el}");
            }
        }
    }
}

#[test]
fn tlbi_tells_the_machine_what_to_drop() {
    let instructions = [
        (0xd508_871f, "tlbi vmalle1", (0, 7, 0), 1),
        (0xd508_8322, "tlbi vae1is, x2", (0, 3, 1), 1),
        (0xd508_8742, "tlbi aside1, x2", (0, 7, 2), 1),
        (0xd508_81e2, "tlbi vaale1os, x2", (0, 1, 7), 1),
        (0xd508_8622, "tlbi rvae1, x2", (0, 6, 1), 1),
        (0xd50c_8022, "tlbi ipas2e1is, x2", (4, 0, 1), 2),
        (0xd50c_8442, "tlbi ripas2e1, x2", (4, 4, 2), 2),
        (0xd50c_879f, "tlbi alle1", (4, 7, 4), 2),
        (0xd50c_83df, "tlbi vmalls12e1is", (4, 3, 6), 2),
        (0xd50c_8722, "tlbi vae2, x2", (4, 7, 1), 2),
    ];
    for (word, asm, (op1, crm, op2), least) in instructions {
        let operand = if asm.ends_with("x2") { AT } else { 0 };
        for el in 0..3 {
            let mut machine = Machine::new().at_el(el);
            if el < least {
                assert_eq!(machine.exception(word, asm), Exception::Undefined, "{asm} at EL{el}");
            } else {
                let effect = Effect::Tlbi(TlbiOp { op1, crm, op2, operand });
                assert_eq!(machine.try_run(word), Ok(effect), "{asm} at EL{el}");
            }
        }
    }
}

#[test]
fn hints_barriers_and_prefetches_do_nothing_at_any_level() {
    for (word, asm) in [
        (0xd503_201f, "nop"),
        (0xd503_203f, "yield"),
        (0xd503_205f, "wfe"),
        (0xd503_209f, "sev"),
        (0xd503_245f, "bti c"),
        (0xd503_233f, "paciasp"),
        (0xd503_221f, "esb"),
        (0xd503_3f9f, "dsb sy"),
        (0xd503_3a9f, "dsb ishst"),
        (0xd503_3bbf, "dmb ish"),
        (0xd503_323f, "dsb oshnxs"),
        (0xd503_363f, "dsb nshnxs"),
        (0xd503_3a3f, "dsb ishnxs"),
        (0xd503_3e3f, "dsb synxs"),
        (0xd503_3fdf, "isb"),
        (0xd503_30ff, "sb"),
        (0xf980_0040, "prfm pldl1keep, [x2]"),
        (0xf9bf_fc53, "prfm pstl2strm, [x2, #32760]"),
        (0xf89f_f040, "prfum pldl1keep, [x2, #-1]"),
        (0xf8a3_6840, "prfm pldl1keep, [x2, x3]"),
        (0xd800_0040, "prfm pldl1keep, . + 8"),
    ] {
        for el in 0..3 {
            let mut machine = Machine::with_pages(&[]).with(&[(2, 1)]).at_el(el);
            let mut expected = machine.core.clone();
            expected.pc += 4;

            machine.run(word, asm);

            assert_eq!(machine.core, expected, "{asm} at EL{el}");
        }
    }
}

#[test]
fn instructions_that_are_not_modelled_are_refused_by_name_and_do_nothing() {
    for (word, asm) in [
        (0x9100_0441, "add x1, x2, #1"),
        (0x8b03_0041, "add x1, x2, x3"),
        (0x9ac3_0841, "udiv x1, x2, x3"),
        (0x1400_0002, "b . + 8"),
        (0xd400_0001, "svc #0"),
        (0xd69f_03e0, "eret"),
        (0xd65f_03c0, "ret"),
        (0xd500_401f, "cfinv"),
        (0xd503_42df, "msr daifset, #2"),
        (0xd538_0001, "mrs x1, midr_el1"),
        (0xd53e_1001, "mrs x1, sctlr_el3"),
        (0xd530_1381, "mrs x1, osdlr_el1"),
        (0xd51e_1001, "msr sctlr_el3, x1"),
        (0xd508_751f, "ic iallu"),
        (0xd50b_7522, "ic ivau, x2"),
        (0xd508_7642, "dc isw, x2"),
        (0xd508_7a82, "dc cgsw, x2"),
        (0xd508_7902, "at s1e1rp, x2"),
        (0xd50e_7802, "at s1e3r, x2"),
        (0xd50e_871f, "tlbi alle3"),
        (0xd50e_8722, "tlbi vae3, x2"),
        (0xd50b_b002, "sys #3, c11, c0, #0, x2"),
        (0xd52b_7421, "sysl x1, #3, c7, c4, #1"),
        (0xf820_0441, "ldraa x1, [x2]"),
        (0xd9c0_0841, "ldapr x1, [x2], #8"),
        (0x4c40_7041, "ld1 {v1.16b}, [x2]"),
        (0x1e63_2841, "fadd d1, d2, d3"),
        (0x1000_0041, "adr x1, . + 8"),
    ] {
        assert_eq!(Machine::new().at_el(2).stop(word, asm), Stop::NotModelled, "{asm}");
    }
}

#[test]
fn unallocated_words_are_refused_and_do_nothing() {
    for (word, what) in [
        (0x9180_4041, "ADDG with op3"),
        (0x9ac3_1c41, "two sources, opcode 7"),
        (0xf880_8441, "a prefetch with post-index"),
        (0xf880_8c41, "a prefetch with pre-index"),
        (0xf880_8841, "an unprivileged prefetch"),
        (0xf8c0_0041, "a sign-extending load of 8 bytes"),
        (0xb8c0_0041, "a sign-extending load of 4 bytes to 32 bits"),
        (0x7c80_0041, "a vector load of 32 bytes"),
        (0xd980_0041, "LDAPUR of 8 bytes, sign-extended"),
        (0x1901_0440, "CPYFP"),
        (0xd943_0841, "LDIAPP"),
        (0x1d40_0841, "LDAPUR of a vector register"),
        (0x1d40_0041, "an unscaled ordered load of a vector register"),
        (0xf863_0841, "a register offset with option 0"),
        (0xfc00_0841, "an unprivileged vector store"),
        (0xdc00_0041, "a literal load of 32 bytes"),
        (0xd920_1041, "STZGM with an offset"),
        (0xd9a0_1041, "STGM with an offset"),
        (0xd9e0_1041, "LDGM with an offset"),
        (0x5920_0841, "STG of a smaller size"),
        (0xdd20_0841, "STG of a vector register"),
        (0xe940_0c41, "a pair of size 3"),
        (0xed40_0c41, "a vector pair of size 3"),
        (0x6840_0c41, "LDNPSW"),
        (0x0824_0c46, "CASP with Rt2"),
        (0x88a4_0c46, "CAS with Rt2"),
        (0xf820_9041, "an atomic of o3 1, opc 1"),
        (0xf8a0_c041, "LDAPR with Rs"),
        (0xf87f_c041, "LDAPR with release"),
        (0x3c20_0041, "an atomic of a vector register"),
        (0x0c00_0041, "a vector exclusive"),
        (0xd500_301f, "a barrier with op1 0"),
        (0xd503_301f, "a barrier with op2 0"),
        (0xd503_303f, "DSB nXS with CRm 0"),
        (0xd503_307f, "a barrier with op2 3"),
        (0xd503_31ff, "SB with CRm 1"),
        (0xd503_3f40, "CLREX with a register"),
        (0xd503_4180, "MSR TCO with a register"),
        (0xd523_419f, "MRS of an immediate"),
        (0xd508_81df, "TLBI op1 0, CRm 1, op2 6"),
        (0xd508_801f, "TLBI op1 0, CRm 0"),
        (0xd50c_821f, "TLBI op1 4, CRm 2, op2 0"),
        (0xd50c_88ff, "TLBI op1 4, CRm 8"),
        (0xd508_78ff, "AT op2 7"),
        (0xd508_74ff, "DC op1 0, CRm 4"),
        (0xd508_b01f, "SYS op1 0, CRn 11"),
        (0xd520_0000, "SYSL in op0 0"),
    ] {
        assert_eq!(Machine::new().at_el(2).stop(word, what), Stop::NotModelled, "{what}");
    }
}

#[test]
fn every_tlbi_of_el1_and_el2_is_known_and_no_other() {
    // op1, CRm and how many values of op2 there are (Arm ARM C5.5).
    let counts = [
        (0, [0, 6, 4, 6, 0, 4, 4, 6]),
        (4, [4, 5, 2, 5, 8, 2, 2, 5]),
        (6, [0; 8]),
    ];
    for (op1, per_crm) in counts {
        for (crm, count) in per_crm.into_iter().enumerate() {
            let word = |op2: u32| 0xd508_8000 | op1 << 16 | (crm as u32) << 8 | op2 << 5;
            let known = |op2: &u32| matches!(Machine::new().at_el(2).try_run(word(*op2)), Ok(Effect::Tlbi(_)));

            assert_eq!((0..8).filter(known).count(), count, "op1 {op1}, CRm {crm}");
        }
    }
}
