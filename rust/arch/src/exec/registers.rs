//! The system registers that the model has, by name and by encoding.
//!
//! One table serves `MRS`, `MSR` and whoever names registers. Left out: reset values, RES0 and RES1, and everything no tag or
//! translation rule reads. The invariant: a register is stored in one place, which its two functions know.

use super::Core;
use crate::features::{Features, GMID_EL1, ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1, ID_AA64MMFR2_EL1};
use crate::regs::{GcrEl1, RgsrEl1, SysRegs, Tfsr};

/// Who may access a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Anyone,
    /// This exception level and those above.
    From(u8),
    /// EL1, unless `HCR_EL2.ATA` is clear; EL2.
    Tags,
    /// EL1, unless `HCR_EL2.TID5` is set; EL2.
    Gmid,
}

/// A system register.
#[derive(Clone, Copy, Debug)]
pub struct Register {
    /// Its architectural name.
    pub name: &'static str,
    /// op0 (15:14), op1 (13:11), `CRn` (10:7), `CRm` (6:3), op2 (2:0).
    pub encoding: u16,
    pub(super) access: Access,
    /// Reads it.
    pub read: fn(&Core) -> u64,
    /// Writes it; `None` for a read-only register.
    pub write: Option<fn(&mut Core, u64)>,
}

/// The register of that name.
pub fn register(name: &str) -> Option<&'static Register> {
    REGISTERS.iter().find(|register| register.name == name)
}

pub(super) fn register_at(encoding: u16) -> Option<&'static Register> {
    REGISTERS.iter().find(|register| register.encoding == encoding)
}

impl Register {
    /// The names of all registers.
    pub fn names() -> impl Iterator<Item = &'static str> {
        REGISTERS.iter().map(|register| register.name)
    }
}

/// The encoding of `S<op0>_<op1>_C<n>_C<m>_<op2>`.
const fn encoding(op0: u16, op1: u16, crn: u16, crm: u16, op2: u16) -> u16 {
    op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

/// A register of [`SysRegs`].
macro_rules! translation {
    ($name:literal, $op1:literal, $crn:literal, $crm:literal, $op2:literal, $field:ident) => {
        Register {
            name: $name,
            encoding: encoding(3, $op1, $crn, $crm, $op2),
            access: Access::From(if $op1 == 4 { 2 } else { 1 }),
            read: |core| core.sys.$field.into(),
            write: Some(|core, value| {
                core.set_sys(SysRegs {
                    $field: value.into(),
                    ..core.sys
                });
            }),
        }
    };
}

/// A read-only register.
macro_rules! constant {
    ($name:literal, $crm:literal, $op2:literal, $read:expr) => {
        Register {
            name: $name,
            encoding: encoding(3, 0, 0, $crm, $op2),
            access: Access::From(1),
            read: $read,
            write: None,
        }
    };
}

/// `TFSRE0_EL1`, `TFSR_EL1`, `TFSR_EL2`.
macro_rules! tfsr {
    ($name:literal, $op1:literal, $op2:literal, $access:expr, $el:literal) => {
        Register {
            name: $name,
            encoding: encoding(3, $op1, 5, 6, $op2),
            access: $access,
            read: |core| core.cpu.tfsr[$el].into(),
            write: Some(|core, value| core.cpu.tfsr[$el] = Tfsr::from(value)),
        }
    };
}

/// A field of `PSTATE`, at the bit its register has it.
macro_rules! pstate {
    ($name:literal, $op1:literal, $op2:literal, $el:literal, $bit:literal, $($field:ident).+) => {
        Register {
            name: $name,
            encoding: encoding(3, $op1, 4, 2, $op2),
            access: Access::From($el),
            read: |core| u64::from(core.$($field).+) << $bit,
            write: Some(|core, value| core.$($field).+ = value >> $bit & 1 != 0),
        }
    };
}

const REGISTERS: [Register; 33] = [
    translation!("SCTLR_EL1", 0, 1, 0, 0, sctlr_el1),
    translation!("TCR_EL1", 0, 2, 0, 2, tcr_el1),
    translation!("TTBR0_EL1", 0, 2, 0, 0, ttbr0_el1),
    translation!("TTBR1_EL1", 0, 2, 0, 1, ttbr1_el1),
    translation!("MAIR_EL1", 0, 10, 2, 0, mair_el1),
    translation!("HCR_EL2", 4, 1, 1, 0, hcr_el2),
    translation!("VTCR_EL2", 4, 2, 1, 2, vtcr_el2),
    translation!("VTTBR_EL2", 4, 2, 1, 0, vttbr_el2),
    translation!("SCTLR_EL2", 4, 1, 0, 0, sctlr_el2),
    translation!("TCR_EL2", 4, 2, 0, 2, tcr_el2),
    translation!("TTBR0_EL2", 4, 2, 0, 0, ttbr0_el2),
    translation!("MAIR_EL2", 4, 10, 2, 0, mair_el2),
    Register {
        name: "GCR_EL1",
        encoding: encoding(3, 0, 1, 0, 6),
        access: Access::Tags,
        read: |core| core.cpu.gcr.into(),
        write: Some(|core, value| core.cpu.gcr = GcrEl1::from(value)),
    },
    Register {
        name: "RGSR_EL1",
        encoding: encoding(3, 0, 1, 0, 5),
        access: Access::Tags,
        read: |core| core.cpu.rgsr.into(),
        write: Some(|core, value| core.cpu.rgsr = RgsrEl1::from(value)),
    },
    tfsr!("TFSR_EL1", 0, 0, Access::Tags, 1),
    tfsr!("TFSRE0_EL1", 0, 1, Access::Tags, 0),
    tfsr!("TFSR_EL2", 4, 0, Access::From(2), 2),
    Register {
        name: "GMID_EL1",
        encoding: encoding(3, 1, 0, 0, 4),
        access: Access::Gmid,
        read: |_| GMID_EL1.into(),
        write: None,
    },
    Register {
        name: "DCZID_EL0",
        encoding: encoding(3, 3, 0, 0, 7),
        access: Access::Anyone,
        read: |core| Features::dczid_el0(core.dc_zva_prohibited()).into(),
        write: None,
    },
    constant!("ID_AA64PFR1_EL1", 4, 1, |core| core.features.id_aa64pfr1_el1().into()),
    constant!("ID_AA64PFR2_EL1", 4, 2, |core| core.features.id_aa64pfr2_el1().into()),
    constant!("ID_AA64MMFR0_EL1", 7, 0, |_| ID_AA64MMFR0_EL1.into()),
    constant!("ID_AA64MMFR1_EL1", 7, 1, |_| ID_AA64MMFR1_EL1.into()),
    constant!("ID_AA64MMFR2_EL1", 7, 2, |_| ID_AA64MMFR2_EL1.into()),
    Register {
        name: "PAR_EL1",
        encoding: encoding(3, 0, 7, 4, 0),
        access: Access::From(1),
        read: |core| core.par,
        write: Some(|core, value| core.par = value),
    },
    Register {
        name: "SP_EL0",
        encoding: encoding(3, 0, 4, 1, 0),
        access: Access::From(1),
        read: |core| core.sp[0],
        write: Some(|core, value| core.sp[0] = value),
    },
    Register {
        name: "SP_EL1",
        encoding: encoding(3, 4, 4, 1, 0),
        access: Access::From(2),
        read: |core| core.sp[1],
        write: Some(|core, value| core.sp[1] = value),
    },
    Register {
        name: "CurrentEL",
        encoding: encoding(3, 0, 4, 2, 2),
        access: Access::From(1),
        read: |core| u64::from(core.cpu.el) << 2,
        write: None,
    },
    Register {
        name: "NZCV",
        encoding: encoding(3, 3, 4, 2, 0),
        access: Access::Anyone,
        read: |core| u64::from(core.nzcv) << 28,
        write: Some(|core, value| core.nzcv = (value >> 28 & 0xf) as u8),
    },
    pstate!("TCO", 3, 7, 0, 25, cpu.tco),
    pstate!("PAN", 0, 3, 1, 22, cpu.pan),
    pstate!("UAO", 0, 4, 1, 23, uao),
    Register {
        name: "SP_EL2",
        encoding: encoding(3, 6, 4, 1, 0),
        // The name is EL3's, which the model has not.
        access: Access::From(3),
        read: |core| core.sp[2],
        write: Some(|core, value| core.sp[2] = value),
    },
];

impl Core {
    /// `DCZID_EL0.DZP`.
    fn dc_zva_prohibited(&self) -> bool {
        let by_el1 = self.cpu.el == 0 && !self.sys.sctlr_el1.dze();
        by_el1 || self.cpu.el < 2 && self.sys.hcr_el2.tdz()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_packs_the_fields_of_the_generic_name() {
        assert_eq!(encoding(3, 0, 1, 0, 6), 0xc086);
        assert_eq!(encoding(2, 7, 15, 15, 7), 0xbfff);
    }

    #[test]
    fn no_two_registers_share_a_name_or_an_encoding() {
        for (index, one) in REGISTERS.iter().enumerate() {
            for other in &REGISTERS[..index] {
                assert!(
                    one.name != other.name && one.encoding != other.encoding,
                    "{} and {}",
                    one.name,
                    other.name
                );
            }
        }
    }

    #[test]
    fn every_register_can_be_read_and_written_by_name_whatever_the_level() {
        for name in Register::names() {
            let mut core = Core::new(Features::empty(), 0);
            let register = register(name).unwrap();
            let before = (register.read)(&core);
            if let Some(write) = register.write {
                write(&mut core, u64::MAX);
                assert_ne!((register.read)(&core), before, "{name}");
                write(&mut core, 0);
                assert_eq!((register.read)(&core), 0, "{name}");
            }
        }
    }
}
