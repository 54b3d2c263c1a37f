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
mod tests {
    use super::*;

    /// A read of 8 bytes through a tagged pointer.
    fn read_fault(kind: FaultKind, stage: Stage, level: i8) -> Fault {
        let (va, ipa) = (Va(0x0700_0000_4100_2c93), Ipa(0x4100_2c93));
        Fault {
            kind,
            stage,
            level,
            access: Access::Read,
            va,
            ipa,
            s1ptw: false,
            maintenance: false,
            tags_refused: false,
            syndrome: Syndrome::new(8, 0, false, true, false),
            size: 8,
        }
    }

    #[test]
    fn status_codes_are_those_of_the_data_abort_table() {
        let code = |kind| read_fault(kind, Stage::Two, 3).dfsc();

        assert_eq!(code(FaultKind::AddressSize), 0x03);
        assert_eq!(code(FaultKind::Translation), 0x07);
        assert_eq!(code(FaultKind::AccessFlag), 0x0b);
        assert_eq!(code(FaultKind::Permission), 0x0f);
        assert_eq!(code(FaultKind::SyncExternalAbort), 0x10);
        assert_eq!(code(FaultKind::TagCheck), 0x11);
        assert_eq!(code(FaultKind::SyncExternalAbortOnWalk), 0x17);
        assert_eq!(code(FaultKind::Alignment), 0x21);
    }

    #[test]
    fn el1_tag_check_fault_has_the_esr_linux_reports() {
        let load = read_fault(FaultKind::TagCheck, Stage::One, 0);
        let store = Fault {
            access: Access::Write,
            ..load
        };

        assert_eq!(load.esr(1), 0x9600_0011);
        assert_eq!(store.esr(1), 0x9600_0051);
    }

    #[test]
    fn el0_tag_check_fault_comes_from_a_lower_level() {
        let load = read_fault(FaultKind::TagCheck, Stage::One, 0);

        assert_eq!(load.esr(0), 0x9200_0011);
    }

    #[test]
    fn stage_2_fault_of_el1_comes_from_a_lower_level_and_describes_the_access() {
        let load = read_fault(FaultKind::Permission, Stage::Two, 3);

        // EC 0x24, IL, ISV, SAS = 3, SF.
        assert_eq!(load.esr(1), 0x93c0_800f);
        let ldr_w1 = Syndrome::new(4, 1, false, false, false);
        assert_eq!(
            Fault {
                syndrome: ldr_w1,
                ..load
            }
            .esr(1),
            0x9381_000f
        );
    }

    #[test]
    fn stage_2_fault_of_a_tag_instruction_describes_nothing() {
        let ldg = Fault {
            syndrome: Syndrome::NONE,
            size: 16,
            ..read_fault(FaultKind::Translation, Stage::Two, 3)
        };

        assert_eq!(ldg.esr(1), 0x9200_0007);
    }

    #[test]
    fn external_abort_on_a_stage_2_walk_describes_nothing() {
        let load = read_fault(FaultKind::SyncExternalAbortOnWalk, Stage::Two, 1);

        assert_eq!(load.esr(1), 0x9200_0015);
    }

    #[test]
    fn far_keeps_the_tag_and_hpfar_holds_the_ipa_page() {
        let load = read_fault(FaultKind::Permission, Stage::Two, 3);

        assert_eq!(load.far(), 0x0700_0000_4100_2c93);
        assert_eq!(load.hpfar(), 0x41_0020);
    }

    #[test]
    fn hpfar_stops_at_ipa_bit_51() {
        let load = Fault {
            ipa: Ipa(u64::MAX),
            ..read_fault(FaultKind::Translation, Stage::Two, 0)
        };

        assert_eq!(load.hpfar(), 0x0000_0fff_ffff_fff0);
    }

    #[test]
    fn stage_1_fault_has_no_hpfar() {
        assert_eq!(read_fault(FaultKind::TagCheck, Stage::One, 0).hpfar(), 0);
    }

    #[test]
    fn faults_read_like_a_kernel_log() {
        assert_eq!(
            read_fault(FaultKind::Permission, Stage::Two, 3).to_string(),
            "stage-2 permission fault, level 3, read of 8 bytes at 0x0700000041002c93 \
             (IPA 0x0000000041002c93)"
        );
        assert_eq!(
            read_fault(FaultKind::TagCheck, Stage::One, 0).to_string(),
            "synchronous tag check fault, read of 8 bytes at 0x0700000041002c93"
        );
    }
}
