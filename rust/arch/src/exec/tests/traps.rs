//! Who is trapped where, with the syndrome of Arm ARM D24.2, "ISS encoding for an exception from MSR, MRS, or System
//! instruction".

use super::*;

/// What a trapped instruction reports: where to, and `ESR_ELx`.
#[track_caller]
fn trapped(machine: &mut Machine, word: u32, asm: &str) -> (u8, u64) {
    let exception = machine.exception(word, asm);
    assert!(matches!(exception, Exception::Trapped { .. }), "{asm}: {exception}");
    let el = machine.core.cpu.el;
    (exception.taken_to(el), exception.esr(el))
}

/// EC 0x18, IL, and the fields of the ISS.
const fn esr(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64, rt: u64, read: u64) -> u64 {
    0x18 << 26 | 1 << 25 | op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | rt << 5 | crm << 1 | read
}

#[test]
fn syndromes_of_trapped_instructions_are_those_worked_out_by_hand() {
    let mut machine = Machine::new();
    machine.change_sys(|sys| {
        sys.hcr_el2.set_ata(false);
        sys.hcr_el2.set_tid5(true);
        sys.hcr_el2.set_tdz(true);
    });

    // op0 3, op2 4, op1 1, Rt 5, read.
    assert_eq!(trapped(&mut machine, 0xd539_0085, "mrs x5, gmid_el1"), (2, 0x6238_40a1));
    // op0 3, op2 6, CRn 1, Rt 31.
    assert_eq!(trapped(&mut machine, 0xd518_10df, "msr gcr_el1, xzr"), (2, 0x623c_07e0));
    // op0 1, op2 1, op1 3, CRn 7, CRm 4, Rt 2.
    assert_eq!(trapped(&mut machine, 0xd50b_7422, "dc zva, x2"), (2, 0x6212_dc48));
}

#[test]
fn tag_registers_trap_to_el2_from_el1_without_ata() {
    let registers = [
        (0xd538_10c3, "mrs x3, gcr_el1", esr(3, 0, 1, 0, 6, 3, 1)),
        (0xd518_10c3, "msr gcr_el1, x3", esr(3, 0, 1, 0, 6, 3, 0)),
        (0xd538_10a3, "mrs x3, rgsr_el1", esr(3, 0, 1, 0, 5, 3, 1)),
        (0xd518_10a3, "msr rgsr_el1, x3", esr(3, 0, 1, 0, 5, 3, 0)),
        (0xd538_5603, "mrs x3, tfsr_el1", esr(3, 0, 5, 6, 0, 3, 1)),
        (0xd518_5603, "msr tfsr_el1, x3", esr(3, 0, 5, 6, 0, 3, 0)),
        (0xd538_5623, "mrs x3, tfsre0_el1", esr(3, 0, 5, 6, 1, 3, 1)),
        (0xd518_5623, "msr tfsre0_el1, x3", esr(3, 0, 5, 6, 1, 3, 0)),
    ];
    for (word, asm, syndrome) in registers {
        let mut machine = Machine::new();
        machine.change_sys(|sys| sys.hcr_el2.set_ata(false));

        assert_eq!(trapped(&mut machine, word, asm), (2, syndrome), "{asm}");
        machine = machine.at_el(0);
        assert_eq!(machine.exception(word, asm), Exception::Undefined, "{asm} at EL0");
        machine = machine.at_el(2);
        assert!(machine.try_run(word).is_ok(), "{asm} at EL2");
    }
}

#[test]
fn gmid_traps_with_tid5_from_el1_only() {
    let mut machine = Machine::new();
    machine.change_sys(|sys| {
        sys.hcr_el2.set_ata(false);
        sys.hcr_el2.set_tid5(true);
    });

    assert_eq!(
        trapped(&mut machine, 0xd539_0083, "mrs x3, gmid_el1"),
        (2, esr(3, 1, 0, 0, 4, 3, 1))
    );
    assert_eq!(
        machine.clone().at_el(0).exception(0xd539_0083, "mrs x3, gmid_el1"),
        Exception::Undefined
    );
    machine.at_el(2).run(0xd539_0083, "mrs x3, gmid_el1");
}

#[test]
fn zeroing_and_tagging_by_dc_trap_with_dze_of_el0_before_tdz() {
    let instructions = [
        (0xd50b_7422, "dc zva, x2", 1),
        (0xd50b_7462, "dc gva, x2", 3),
        (0xd50b_7482, "dc gzva, x2", 4),
    ];
    for (word, asm, op2) in instructions {
        let syndrome = esr(1, 3, 7, 4, op2, 2, 0);
        let with = |el, dze, tdz| {
            let mut machine = Machine::new().at_el(el);
            machine.change_sys(|sys| {
                sys.sctlr_el1.set_dze(dze);
                sys.hcr_el2.set_tdz(tdz);
            });
            machine
        };

        assert_eq!(trapped(&mut with(0, false, true), word, asm), (1, syndrome), "{asm}");
        assert_eq!(trapped(&mut with(0, true, true), word, asm), (2, syndrome), "{asm}");
        assert_eq!(trapped(&mut with(1, false, true), word, asm), (2, syndrome), "{asm}");
        with(0, true, false).run(word, asm);
        with(1, false, false).run(word, asm);
        with(2, false, true).run(word, asm);
    }
}

#[test]
fn cache_maintenance_by_el0_traps_without_uci() {
    let instructions = [
        (0xd50b_7a22, "dc cvac, x2", 10, 1),
        (0xd50b_7a62, "dc cgvac, x2", 10, 3),
        (0xd50b_7aa2, "dc cgdvac, x2", 10, 5),
        (0xd50b_7b22, "dc cvau, x2", 11, 1),
        (0xd50b_7c22, "dc cvap, x2", 12, 1),
        (0xd50b_7c62, "dc cgvap, x2", 12, 3),
        (0xd50b_7ca2, "dc cgdvap, x2", 12, 5),
        (0xd50b_7d22, "dc cvadp, x2", 13, 1),
        (0xd50b_7d62, "dc cgvadp, x2", 13, 3),
        (0xd50b_7da2, "dc cgdvadp, x2", 13, 5),
        (0xd50b_7e22, "dc civac, x2", 14, 1),
        (0xd50b_7e62, "dc cigvac, x2", 14, 3),
        (0xd50b_7ea2, "dc cigdvac, x2", 14, 5),
    ];
    for (word, asm, crm, op2) in instructions {
        let mut machine = Machine::new().at_el(0);

        assert_eq!(
            trapped(&mut machine, word, asm),
            (1, esr(1, 3, 7, crm, op2, 2, 0)),
            "{asm}"
        );
        machine.change_sys(|sys| sys.sctlr_el1.set_uci(true));
        machine.run(word, asm);
        Machine::new().run(word, asm);
    }
}
