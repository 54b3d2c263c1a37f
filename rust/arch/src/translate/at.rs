//! `AT`: address translation as an instruction, and `PAR_EL1`.
//!
//! Models `AT S1E0*`, `S1E1*`, `S1E2*`, `S12E0*` and `S12E1*`. Left out: `AT S1E1*P` (PAN) and 128-bit `PAR_EL1`. The invariant:
//! `AT` sets access flags like a load, but never dirty state.

use super::{Controls, Trace, Translated, through};
use crate::access::{AccessDesc, AccessKind};
use crate::addr::Va;
use crate::fault::{Fault, Stage};
use crate::walk::DescriptorSource;

/// An `AT` instruction: which stages, whose permissions, read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AtKind {
    /// `S12`: both stages.
    pub both: bool,
    /// EL0, EL1 or EL2.
    pub el: u8,
    /// `W`.
    pub write: bool,
}

impl AtKind {
    /// From the operand of the instruction, such as `S12E1R`.
    pub fn parse(name: &str) -> Option<Self> {
        let (both, rest) = match name.strip_prefix("S12E") {
            Some(rest) => (true, rest),
            None => (false, name.strip_prefix("S1E")?),
        };
        let (el, write) = match rest {
            "0R" => (0, false),
            "0W" => (0, true),
            "1R" => (1, false),
            "1W" => (1, true),
            "2R" if !both => (2, false),
            "2W" if !both => (2, true),
            _ => return None,
        };
        Some(Self { both, el, write })
    }

    /// What the instruction asks of translation.
    pub const fn access(self) -> AccessDesc {
        AccessDesc::new(AccessKind::At, self.el, self.write, 1)
    }
}

/// `AT`: the translation that `PAR_EL1` reports (`AArch64.AT`).
///
/// # Errors
/// The fault that [`par`] reports. An external abort on a walk is taken as an exception instead (`AArch64.AT`).
pub fn at<S: DescriptorSource>(
    src: &mut S,
    controls: &Controls,
    kind: AtKind,
    va: Va,
    trace: &mut impl Trace,
) -> Result<Translated, Fault> {
    through(src, controls, kind.both, va, &kind.access(), trace)
}

/// `PAR_EL1` for the outcome of a translation (`AArch64.EncodePAR`). NS reads as 1 and bit 11 is RES1.
pub fn par(outcome: &Result<Translated, Fault>) -> u64 {
    const RES1: u64 = 1 << 11;
    match outcome {
        Ok(found) => {
            let shareability = u64::from(found.attrs.effective_shareability().bits());
            u64::from(found.attrs.to_mair()) << 56
                | found.pa.0 & 0x000f_ffff_ffff_f000
                | RES1
                | 1 << 9
                | shareability << 7
        }
        Err(fault) => {
            let second_stage = u64::from(fault.stage == Stage::Two);
            RES1 | second_stage << 9 | u64::from(fault.s1ptw) << 8 | u64::from(fault.dfsc()) << 1 | 1
        }
    }
}
