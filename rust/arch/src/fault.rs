//! What goes wrong with an access, and how the architecture reports it.
//!
//! A [`Fault`] is complete: kind, stage, level, pointer and IPA give every bit of `ESR_ELx`, `FAR_ELx` and `HPFAR_EL2`
//! that tagvisor models. Left out: external abort types, RAS and debug syndromes. The invariant: stage 2 means "taken to
//! EL2", stage 1 "taken to EL1, or to EL2 from there".

use std::error::Error;
use std::fmt;

use crate::addr::{Ipa, PAGE_SHIFT, Va};
use crate::regs::Esr;

/// `ESR_ELx.EC` of a data abort from a lower exception level.
const EC_DATA_ABORT_LOWER: u8 = 0x24;
/// `ESR_ELx.EC` of an instruction abort from a lower exception level.
const EC_INSTRUCTION_ABORT_LOWER: u8 = 0x20;

/// What an instruction does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// A load, or a read of tags.
    Read,
    /// A store, or a write of tags.
    Write,
    /// An instruction fetch.
    Fetch,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Fetch => "fetch",
        })
    }
}

/// Which translation stage a fault belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Stage 1, and everything checked with it: taken to EL1.
    One,
    /// Stage 2: taken to EL2.
    Two,
}

/// The kinds of data abort, with the fault status codes of Arm ARM D24.2, `ESR_ELx`, "ISS encoding for an exception
/// from a Data Abort".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// An address beyond what is implemented or configured (`0b0000LL`).
    AddressSize,
    /// No valid mapping (`0b0001LL`).
    Translation,
    /// A mapping whose access flag is clear (`0b0010LL`).
    AccessFlag,
    /// A mapping that does not allow the access (`0b0011LL`).
    Permission,
    /// A misaligned access where alignment is required (`0b100001`).
    Alignment,
    /// Logical and allocation tag differ, in synchronous mode (`0b010001`).
    TagCheck,
    /// The memory system refused the access itself (`0b010000`).
    SyncExternalAbort,
    /// The memory system refused a descriptor fetch (`0b0101LL`).
    SyncExternalAbortOnWalk,
}

impl FaultKind {
    /// The fault status code at `level`, -1 to 3; kinds without a level ignore it (`EncodeLDFSC`).
    pub const fn fsc(self, level: i8) -> u8 {
        let ll = level.cast_unsigned();
        match (self, level) {
            (Self::AddressSize, -1) => 0b10_1001,
            (Self::Translation, -1) => 0b10_1011,
            (Self::SyncExternalAbortOnWalk, -1) => 0b01_0011,
            (Self::AddressSize, _) => ll,
            (Self::Translation, _) => 0b00_0100 | ll,
            (Self::AccessFlag, _) => 0b00_1000 | ll,
            (Self::Permission, _) => 0b00_1100 | ll,
            (Self::Alignment, _) => 0b10_0001,
            (Self::TagCheck, _) => 0b01_0001,
            (Self::SyncExternalAbort, _) => 0b01_0000,
            (Self::SyncExternalAbortOnWalk, _) => 0b01_0100 | ll,
        }
    }

    /// Whether the status code of this kind has a level in its low bits.
    pub const fn has_level(self) -> bool {
        !matches!(self, Self::Alignment | Self::TagCheck | Self::SyncExternalAbort)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AddressSize => "address size fault",
            Self::Translation => "translation fault",
            Self::AccessFlag => "access flag fault",
            Self::Permission => "permission fault",
            Self::Alignment => "alignment fault",
            Self::TagCheck => "synchronous tag check fault",
            Self::SyncExternalAbort => "synchronous external abort",
            Self::SyncExternalAbortOnWalk => "synchronous external abort on translation table walk",
        })
    }
}

/// Bits 24:14 of a data abort's syndrome: which register a plain load or store moved, and how. 0, with ISV clear, for
/// every other instruction (`LSInstructionSyndrome`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Syndrome(u16);

impl Syndrome {
    /// The instruction is not described.
    pub const NONE: Self = Self(0);

    /// A load or store of `size` bytes (1, 2, 4 or 8) of register `srt`.
    ///
    /// `sign_extend` is SSE, `wide` SF (the register is 64 bits), `ordered` AR (acquire or release).
    pub const fn new(size: u8, srt: u8, sign_extend: bool, wide: bool, ordered: bool) -> Self {
        let sas = size.trailing_zeros() as u16;
        Self(
            1 << 10
                | sas << 8
                | (sign_extend as u16) << 7
                | (srt as u16 & 0x1f) << 2
                | (wide as u16) << 1
                | ordered as u16,
        )
    }

    /// Whether the instruction is described (ISV).
    pub const fn is_valid(self) -> bool {
        self.0 & 1 << 10 != 0
    }

    /// The eleven bits.
    pub const fn bits(self) -> u16 {
        self.0
    }
}

/// An abort with everything its syndrome registers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// What went wrong.
    pub kind: FaultKind,
    /// Where: decides the exception level that takes it.
    pub stage: Stage,
    /// The lookup level, -1 to 3, for the kinds that have one.
    pub level: i8,
    /// What the instruction tried to do.
    pub access: Access,
    /// The full pointer, for FAR.
    pub va: Va,
    /// The address stage 2 was asked for. Only meaningful for stage 2.
    pub ipa: Ipa,
    /// Stage 2 refused a read of a stage-1 table.
    pub s1ptw: bool,
    /// A `DC` or `AT` instruction did it.
    pub maintenance: bool,
    /// A permission fault because of tags: of stage 2, `NoTagAccess`; of stage 1, a tag store to canonically tagged memory.
    pub tags_refused: bool,
    /// The instruction, as far as the syndrome describes it; reported for stage 2 only.
    pub syndrome: Syndrome,
    /// Bytes the instruction accesses.
    pub size: u8,
}

impl Fault {
    /// `ESR_ELx.DFSC`.
    pub const fn dfsc(&self) -> u8 {
        self.kind.fsc(self.level)
    }

    /// The exception level that takes it, from `from_el` (`HCR_EL2.TGE` = 0).
    pub const fn taken_to(&self, from_el: u8) -> u8 {
        match self.stage {
            Stage::Two => 2,
            Stage::One if from_el == 2 => 2,
            Stage::One => 1,
        }
    }

    /// `ESR_ELx` of the exception level that takes the fault, for an instruction executed at `from_el`.
    ///
    /// `AArch64.FaultSyndrome`: ISV and what depends on it are given only for stage-2 faults of the access itself, external
    /// aborts apart.
    pub fn esr(&self, from_el: u8) -> u64 {
        let class = match self.access {
            Access::Fetch => EC_INSTRUCTION_ABORT_LOWER,
            Access::Read | Access::Write => EC_DATA_ABORT_LOWER,
        };
        let external = matches!(
            self.kind,
            FaultKind::SyncExternalAbort | FaultKind::SyncExternalAbortOnWalk
        );
        let described = self.stage == Stage::Two && !self.s1ptw && !external;
        Esr::new()
            .with_ec(class | u8::from(self.taken_to(from_el) == from_el))
            .with_il(true)
            .with_wnr(self.access == Access::Write)
            .with_s1ptw(self.s1ptw)
            .with_cm(self.maintenance)
            .with_tag_access(self.tags_refused && self.stage == Stage::Two)
            .with_tnd(self.tags_refused && self.stage == Stage::One)
            .with_access(if described { self.syndrome.bits() } else { 0 })
            .with_dfsc(self.dfsc())
            .into()
    }

    /// `FAR_ELx`: the pointer as the instruction gave it, or the start of the part that failed, tag included.
    ///
    /// Without `FEAT_MTE_TAGGED_FAR` bits 63:60 are UNKNOWN after a tag check fault; here, as in QEMU, they stay.
    pub const fn far(&self) -> u64 {
        self.va.0
    }

    /// `HPFAR_EL2`: bits 51:12 of the IPA in bits 43:4. UNKNOWN, here 0, for a fault of stage 1.
    pub fn hpfar(&self) -> u64 {
        match self.stage {
            Stage::One => 0,
            Stage::Two => (self.ipa.0 >> PAGE_SHIFT & ((1 << 40) - 1)) << 4,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.stage == Stage::Two {
            f.write_str("stage-2 ")?;
        }
        self.kind.fmt(f)?;
        if self.s1ptw {
            f.write_str(" on a stage-1 table")?;
        }
        if self.kind.has_level() {
            write!(f, ", level {}", self.level)?;
        }
        write!(f, ", {} of {} bytes at {}", self.access, self.size, self.va)?;
        match self.stage {
            Stage::One => Ok(()),
            Stage::Two => write!(f, " (IPA {})", self.ipa),
        }
    }
}

impl Error for Fault {}

#[cfg(test)]
mod tests;
