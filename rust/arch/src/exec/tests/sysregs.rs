//! `MRS` and `MSR` of every register in the table, and `MSR` of the `PSTATE` fields.

use super::*;
use crate::exec::{Register, register};
use crate::features::{GMID_EL1, ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1, ID_AA64MMFR2_EL1};

/// `MSR` from X1 and `MRS` to X3, the bits that stick, and the least exception level.
type Written = ((u32, &'static str), (u32, &'static str), u64, u8);

const WRITABLE: [Written; 25] = [
    (
        (0xd518_1001, "msr sctlr_el1, x1"),
        (0xd538_1003, "mrs x3, sctlr_el1"),
        u64::MAX,
        1,
    ),
    (
        (0xd518_2041, "msr tcr_el1, x1"),
        (0xd538_2043, "mrs x3, tcr_el1"),
        u64::MAX,
        1,
    ),
    (
        (0xd518_2001, "msr ttbr0_el1, x1"),
        (0xd538_2003, "mrs x3, ttbr0_el1"),
        u64::MAX,
        1,
    ),
    (
        (0xd518_2021, "msr ttbr1_el1, x1"),
        (0xd538_2023, "mrs x3, ttbr1_el1"),
        u64::MAX,
        1,
    ),
    (
        (0xd518_a201, "msr mair_el1, x1"),
        (0xd538_a203, "mrs x3, mair_el1"),
        u64::MAX,
        1,
    ),
    (
        (0xd51c_1101, "msr hcr_el2, x1"),
        (0xd53c_1103, "mrs x3, hcr_el2"),
        u64::MAX,
        2,
    ),
    (
        (0xd51c_2141, "msr vtcr_el2, x1"),
        (0xd53c_2143, "mrs x3, vtcr_el2"),
        u64::MAX,
        2,
    ),
    (
        (0xd51c_2101, "msr vttbr_el2, x1"),
        (0xd53c_2103, "mrs x3, vttbr_el2"),
        u64::MAX,
        2,
    ),
    (
        (0xd51c_1001, "msr sctlr_el2, x1"),
        (0xd53c_1003, "mrs x3, sctlr_el2"),
        u64::MAX,
        2,
    ),
    (
        (0xd51c_2041, "msr tcr_el2, x1"),
        (0xd53c_2043, "mrs x3, tcr_el2"),
        u64::MAX,
        2,
    ),
    (
        (0xd51c_2001, "msr ttbr0_el2, x1"),
        (0xd53c_2003, "mrs x3, ttbr0_el2"),
        u64::MAX,
        2,
    ),
    (
        (0xd51c_a201, "msr mair_el2, x1"),
        (0xd53c_a203, "mrs x3, mair_el2"),
        u64::MAX,
        2,
    ),
    (
        (0xd518_10c1, "msr gcr_el1, x1"),
        (0xd538_10c3, "mrs x3, gcr_el1"),
        u64::MAX,
        1,
    ),
    (
        (0xd518_10a1, "msr rgsr_el1, x1"),
        (0xd538_10a3, "mrs x3, rgsr_el1"),
        u64::MAX,
        1,
    ),
    (
        (0xd518_5601, "msr tfsr_el1, x1"),
        (0xd538_5603, "mrs x3, tfsr_el1"),
        u64::MAX,
        1,
    ),
    (
        (0xd518_5621, "msr tfsre0_el1, x1"),
        (0xd538_5623, "mrs x3, tfsre0_el1"),
        u64::MAX,
        1,
    ),
    (
        (0xd51c_5601, "msr tfsr_el2, x1"),
        (0xd53c_5603, "mrs x3, tfsr_el2"),
        u64::MAX,
        2,
    ),
    (
        (0xd518_7401, "msr par_el1, x1"),
        (0xd538_7403, "mrs x3, par_el1"),
        u64::MAX,
        1,
    ),
    (
        (0xd518_4101, "msr sp_el0, x1"),
        (0xd538_4103, "mrs x3, sp_el0"),
        u64::MAX,
        1,
    ),
    (
        (0xd51c_4101, "msr sp_el1, x1"),
        (0xd53c_4103, "mrs x3, sp_el1"),
        u64::MAX,
        2,
    ),
    (
        (0xd51b_4201, "msr nzcv, x1"),
        (0xd53b_4203, "mrs x3, nzcv"),
        0xf << 28,
        0,
    ),
    ((0xd51b_42e1, "msr tco, x1"), (0xd53b_42e3, "mrs x3, tco"), 1 << 25, 0),
    ((0xd518_4261, "msr pan, x1"), (0xd538_4263, "mrs x3, pan"), 1 << 22, 1),
    ((0xd518_4281, "msr uao, x1"), (0xd538_4283, "mrs x3, uao"), 1 << 23, 1),
    (
        (0xd51e_4101, "msr sp_el2, x1"),
        (0xd53e_4103, "mrs x3, sp_el2"),
        u64::MAX,
        3,
    ),
];

/// `MRS` of a read-only register to X3, what it reads at EL1, and the least exception level.
const READ_ONLY: [((u32, &str), u64, u8); 8] = [
    ((0xd539_0083, "mrs x3, gmid_el1"), GMID_EL1.into_bits(), 1),
    ((0xd53b_00e3, "mrs x3, dczid_el0"), 4, 0),
    ((0xd538_0423, "mrs x3, id_aa64pfr1_el1"), 0x300, 1),
    ((0xd538_0443, "mrs x3, id_aa64pfr2_el1"), 0, 1),
    (
        (0xd538_0703, "mrs x3, id_aa64mmfr0_el1"),
        ID_AA64MMFR0_EL1.into_bits(),
        1,
    ),
    (
        (0xd538_0723, "mrs x3, id_aa64mmfr1_el1"),
        ID_AA64MMFR1_EL1.into_bits(),
        1,
    ),
    (
        (0xd538_0743, "mrs x3, id_aa64mmfr2_el1"),
        ID_AA64MMFR2_EL1.into_bits(),
        1,
    ),
    ((0xd538_4243, "mrs x3, currentel"), 1 << 2, 1),
];

/// op0 to op2 of an `MRS` or `MSR`.
fn encoding(word: u32) -> u16 {
    (word >> 5) as u16
}

#[test]
fn every_register_is_tested_here_and_has_the_encoding_the_assembler_gives_its_name() {
    let name = |asm: &str| asm.rsplit(' ').next().unwrap().to_uppercase();
    let written = WRITABLE.iter().map(|(_, read, ..)| *read);
    let all: Vec<_> = written.chain(READ_ONLY.iter().map(|(read, ..)| *read)).collect();

    assert_eq!(all.len(), Register::names().count());
    for (word, asm) in all {
        let found = Register::names().find(|known| known.to_uppercase() == name(asm));
        let found = register(found.expect(asm)).unwrap();
        assert_eq!(found.encoding, encoding(word), "{asm}");
    }
    assert!(register("SCTLR_EL3").is_none());
}

#[test]
fn written_registers_read_back_and_no_other_register_changes() {
    for (write, read, bits, el) in WRITABLE {
        if el == 3 {
            continue;
        }
        // At EL2, where `HCR_EL2.TDZ` does not show in `DCZID_EL0`.
        let mut machine = Machine::new().with(&[(1, u64::MAX), (3, 0)]).at_el(2);
        let others: Vec<_> = Register::names()
            .filter(|name| register(name).unwrap().encoding != encoding(read.0))
            .collect();
        let values =
            |core: &Core| -> Vec<_> { others.iter().map(|name| (register(name).unwrap().read)(core)).collect() };
        let before = values(&machine.core);

        assert_eq!(machine.try_run(write.0), Ok(Effect::Controls), "{}", write.1);
        machine.run(read.0, read.1);
        assert_eq!(machine.core.x[3], bits, "{}", read.1);
        assert_eq!(values(&machine.core), before, "{}", write.1);
        machine.core.x[1] = 0;
        assert_eq!(machine.try_run(write.0), Ok(Effect::Controls), "{}", write.1);
        machine.run(read.0, read.1);
        assert_eq!(machine.core.x[3], 0, "{}", read.1);
    }
}

#[test]
fn registers_are_undefined_below_their_level() {
    for el in 0..3 {
        for (write, read, _, least) in WRITABLE {
            let mut machine = Machine::new().at_el(el);
            if el < least {
                assert_eq!(
                    machine.exception(write.0, write.1),
                    Exception::Undefined,
                    "{} at EL{el}",
                    write.1
                );
                assert_eq!(
                    machine.exception(read.0, read.1),
                    Exception::Undefined,
                    "{} at EL{el}",
                    read.1
                );
            } else {
                machine.run(read.0, read.1);
                assert_eq!(machine.try_run(write.0), Ok(Effect::Controls), "{} at EL{el}", write.1);
            }
        }
        for (read, _, least) in READ_ONLY {
            let mut machine = Machine::new().at_el(el);
            let result = machine.try_run(read.0);
            let expected = if el < least {
                Err(Exception::Undefined.into())
            } else {
                Ok(Effect::None)
            };
            assert_eq!(result, expected, "{} at EL{el}", read.1);
        }
    }
}

#[test]
fn read_only_registers_have_their_values_and_cannot_be_written() {
    const MRS_NOT_MSR: u32 = 1 << 21;
    for ((word, asm), value, _) in READ_ONLY {
        let mut machine = Machine::new().with(&[(3, u64::MAX)]);

        machine.run(word, asm);
        assert_eq!(machine.core.x[3], value, "{asm}");
        assert_eq!(
            machine.exception(word & !MRS_NOT_MSR, asm),
            Exception::Undefined,
            "a write for {asm}"
        );
    }
}

#[test]
fn id_registers_show_the_optional_features() {
    let mut machine = Machine::new();
    machine.core = Core::new(Features::all(), 1);

    machine.run(0xd538_0423, "mrs x3, id_aa64pfr1_el1");
    assert_eq!(machine.core.x[3], 1 << 52 | 0x300);
    machine.run(0xd538_0443, "mrs x3, id_aa64pfr2_el1");
    assert_eq!(machine.core.x[3], 0x111);
    assert_eq!(machine.core.features(), Features::all());
}

#[test]
fn dczid_tells_where_dc_zva_is_prohibited() {
    let dzp = |el, dze, tdz| {
        let mut machine = Machine::new().at_el(el);
        machine.change_sys(|sys| {
            sys.sctlr_el1.set_dze(dze);
            sys.hcr_el2.set_tdz(tdz);
        });
        machine.run(0xd53b_00e3, "mrs x3, dczid_el0");
        machine.core.x[3] == 0x14
    };

    assert!(dzp(0, false, false) && dzp(0, true, true) && dzp(1, true, true));
    assert!(!dzp(0, true, false) && !dzp(1, false, false) && !dzp(2, false, true));
}

#[test]
fn writes_to_control_registers_count_from_the_next_instruction_on() {
    let mut machine = Machine::new();
    machine.guest = machine.guest.with_tags(0, Tag::new(7));
    let sctlr = u64::from(machine.core.sys().sctlr_el1.with_tcf(0));
    machine = machine.with(&[(1, sctlr)]);

    assert_eq!(machine.fault(0xf940_0045, "ldr x5, [x2]").kind, FaultKind::TagCheck);
    assert_eq!(machine.try_run(0xd518_1001), Ok(Effect::Controls), "msr sctlr_el1, x1");
    machine.run(0xf940_0045, "ldr x5, [x2]");
}

#[test]
fn zero_register_clears_a_system_register() {
    let mut machine = Machine::new();
    machine.core.par = 5;

    let (word, asm) = (0xd518_741f, "msr par_el1, xzr");
    assert_eq!(machine.try_run(word), Ok(Effect::Controls), "{asm}");
    assert_eq!(machine.core.par, 0);
}

#[test]
fn pstate_immediates_set_one_field() {
    let state = |core: &Core| (core.cpu.tco, core.cpu.pan, core.uao);
    for el in 0..3 {
        let mut machine = Machine::new().at_el(el);

        machine.run(0xd503_419f, "msr tco, #1");
        assert_eq!(state(&machine.core), (true, false, false));
        machine.run(0xd503_409f, "msr tco, #0");
        assert_eq!(state(&machine.core), (false, false, false));
        if el == 0 {
            assert_eq!(machine.exception(0xd500_419f, "msr pan, #1"), Exception::Undefined);
            assert_eq!(machine.exception(0xd500_417f, "msr uao, #1"), Exception::Undefined);
            continue;
        }
        machine.run(0xd500_419f, "msr pan, #1");
        assert_eq!(state(&machine.core), (false, true, false));
        machine.run(0xd500_417f, "msr uao, #1");
        assert_eq!(state(&machine.core), (false, true, true));
        machine.run(0xd500_409f, "msr pan, #0");
        machine.run(0xd500_407f, "msr uao, #0");
        assert_eq!(state(&machine.core), (false, false, false));
    }
}

#[test]
fn tco_turns_checks_off() {
    let mut machine = Machine::new();
    machine.guest = machine.guest.with_tags(0, Tag::new(7));

    assert_eq!(machine.fault(0xf900_0041, "str x1, [x2]").kind, FaultKind::TagCheck);
    machine.run(0xd503_419f, "msr tco, #1");
    machine.run(0xf900_0041, "str x1, [x2]");
}
