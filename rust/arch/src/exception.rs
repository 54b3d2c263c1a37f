//! Why an instruction did not complete, and what the syndrome registers say of it.
//!
//! An [`Exception`] is a [`Fault`], or an instruction that is UNDEFINED, trapped, or based on a misaligned stack pointer. Left
//! out: exceptions that are not synchronous or that no modelled instruction takes, and everything that happens at the
//! target. The invariant: an exception taken to EL2 has HPFAR only if it is a stage-2 fault.

use std::error::Error;
use std::fmt;

use crate::fault::Fault;
use crate::regs::Esr;

/// `ESR_ELx.EC` of a trapped `MSR`, `MRS` or system instruction.
const EC_TRAPPED_SYSTEM: u8 = 0x18;
/// `ESR_ELx.EC` of a misaligned stack pointer.
const EC_SP_ALIGNMENT: u8 = 0x26;

/// Why an instruction did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exception {
    /// An abort.
    Fault(Fault),
    /// The instruction is UNDEFINED here.
    Undefined,
    /// The stack pointer is not aligned to 16 and `SCTLR_ELx.SA` asks for it.
    SpAlignment,
    /// A system instruction that a control bit traps.
    Trapped {
        /// The exception level it is trapped to.
        to: u8,
        /// ISS: which instruction (Arm ARM D24.2, "ISS encoding for an exception from MSR, MRS, or System instruction").
        iss: u32,
    },
}

impl From<Fault> for Exception {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Exception {
    /// The exception level that takes it.
    pub const fn taken_to(&self, from_el: u8) -> u8 {
        match self {
            Self::Fault(fault) => fault.taken_to(from_el),
            Self::Undefined | Self::SpAlignment if from_el == 2 => 2,
            Self::Undefined | Self::SpAlignment => 1,
            Self::Trapped { to, .. } => *to,
        }
    }

    /// `ESR_ELx` of the exception level that takes it.
    pub fn esr(&self, from_el: u8) -> u64 {
        let il = Esr::new().with_il(true);
        match self {
            Self::Fault(fault) => fault.esr(from_el),
            Self::Undefined => il.into(),
            Self::SpAlignment => il.with_ec(EC_SP_ALIGNMENT).into(),
            Self::Trapped { iss, .. } => u64::from(il.with_ec(EC_TRAPPED_SYSTEM)) | u64::from(*iss),
        }
    }

    /// `FAR_ELx`: 0 where it is not set.
    pub const fn far(&self) -> u64 {
        match self {
            Self::Fault(fault) => fault.far(),
            _ => 0,
        }
    }

    /// `HPFAR_EL2`: 0 where it is not set.
    pub fn hpfar(&self) -> u64 {
        match self {
            Self::Fault(fault) => fault.hpfar(),
            _ => 0,
        }
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Undefined => f.write_str("undefined instruction"),
            Self::SpAlignment => f.write_str("stack pointer alignment fault"),
            Self::Trapped { to, .. } => write!(f, "system instruction trapped to EL{to}"),
        }
    }
}

impl Error for Exception {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{AccessDesc, AccessKind};
    use crate::addr::{Ipa, Va};
    use crate::fault::{FaultKind, Stage};

    #[test]
    fn undefined_instruction_has_exception_class_0_and_goes_to_el1_or_stays_at_el2() {
        let undefined = Exception::Undefined;

        assert_eq!([0, 1, 2].map(|el| undefined.taken_to(el)), [1, 1, 2]);
        assert_eq!(
            (undefined.esr(0), undefined.far(), undefined.hpfar()),
            (0x0200_0000, 0, 0)
        );
        assert_eq!(undefined.to_string(), "undefined instruction");
    }

    #[test]
    fn trapped_instruction_tells_which_it_was() {
        let trapped = Exception::Trapped { to: 2, iss: 0x1234 };

        assert_eq!(trapped.taken_to(1), 2);
        assert_eq!(trapped.esr(1), 0x18 << 26 | 1 << 25 | 0x1234);
        assert_eq!(trapped.to_string(), "system instruction trapped to EL2");
    }

    #[test]
    fn abort_has_the_syndrome_target_and_text_of_its_fault() {
        let load = AccessDesc::new(AccessKind::Data, 1, false, 8);
        for stage in [Stage::One, Stage::Two] {
            let fault = Fault {
                level: 3,
                ipa: Ipa(0x8000_1234),
                ..load.fault(FaultKind::Translation, stage, Va(0x0700_0000_4100_1234))
            };
            let exception = Exception::from(fault);

            for el in 0..3 {
                assert_eq!(exception.taken_to(el), fault.taken_to(el));
                assert_eq!(exception.esr(el), fault.esr(el));
            }
            assert_eq!(exception.far(), 0x0700_0000_4100_1234);
            assert_eq!(exception.hpfar(), if stage == Stage::Two { 0x80_0010 } else { 0 });
            assert_eq!(exception.to_string(), fault.to_string());
        }
    }

    #[test]
    fn stack_pointer_alignment_fault_has_its_class() {
        assert_eq!(Exception::SpAlignment.esr(0), 0x26 << 26 | 1 << 25);
        assert_eq!(Exception::SpAlignment.taken_to(0), 1);
        assert_eq!(Exception::SpAlignment.to_string(), "stack pointer alignment fault");
    }
}
