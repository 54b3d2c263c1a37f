//! The part of a processing element's state that tags depend on.
//!
//! [`ElControls`] is what the control registers make of accesses at one exception level; [`Cpu`] has those of all levels,
//! `PSTATE`, and the registers that `IRG` and asynchronous tag checks write. Left out: everything else a processor is. The
//! invariant: `TFSR_ELx` bits are only ever set here, never cleared.

use crate::access::AccessDesc;
use crate::addr::Va;
use crate::fault::{Fault, FaultKind, Stage};
use crate::features::Features;
use crate::regs::{GcrEl1, RgsrEl1, SctlrEl1, SysRegs, Tfsr};
use crate::tag::Tag;
use crate::translate::Half;

/// The effect of a tag check fault, `SCTLR_ELx.TCF` or `TCF0` (`AArch64.EffectiveTCF`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Tcf {
    /// Tag check faults have no effect.
    #[default]
    None,
    /// Tag check faults are taken synchronously.
    Sync,
    /// Tag check faults are accumulated in `TFSR_ELx`.
    Async,
    /// Synchronous for what reads, accumulated for what only writes (`FEAT_MTE3`).
    Asymmetric,
}

impl Tcf {
    /// From the two bits of the field.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::None,
            1 => Self::Sync,
            2 => Self::Async,
            _ => Self::Asymmetric,
        }
    }
}

/// What the control registers make of accesses at one exception level. Arrays are of the lower and the upper half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ElControls {
    /// The effect of a tag check fault.
    pub tcf: Tcf,
    /// Allocation tags may be accessed (`AArch64.AllocationTagAccessIsEnabled`).
    pub ata: bool,
    /// Pointers have a logical tag: the top byte is ignored, or bits 59:56 are no address bits.
    pub tagged: [bool; 2],
    /// Pointers with tag 0 (lower half) or 15 (upper half) are not checked (`TCMA`).
    pub tcma: [bool; 2],
    /// Loads are not checked (`TCSO`).
    pub store_only: bool,
    /// Every access must be aligned (`SCTLR_ELx.A`).
    pub strict_alignment: bool,
    /// Ordered accesses may cross 16 bytes (`SCTLR_ELx.nAA`).
    pub unaligned_ordered: bool,
    /// A stack pointer used as base must be aligned (`SCTLR_ELx.SA`).
    pub aligned_sp: bool,
}

impl ElControls {
    /// Works the registers out for EL0, EL1 and EL2.
    pub fn all(sys: &SysRegs, features: Features) -> [Self; 3] {
        let (sctlr, tcr) = (sys.sctlr_el1, sys.tcr_el1);
        let store_only = |bit| bit && features.contains(Features::MTE_STORE_ONLY);
        let el1 = Self {
            tcf: Tcf::from_bits(sctlr.tcf()),
            ata: sctlr.ata() && sys.hcr_el2.ata(),
            store_only: store_only(sctlr.tcso()),
            aligned_sp: sctlr.sa(),
            tagged: [false, true].map(|upper| Half::el1(sys, features, upper).has_tag()),
            tcma: [tcr.tcma0(), tcr.tcma1()],
            ..Self::alignment_of(sctlr)
        };
        let el0 = Self {
            tcf: Tcf::from_bits(sctlr.tcf0()),
            ata: sctlr.ata0() && sys.hcr_el2.ata(),
            store_only: store_only(sctlr.tcso0()),
            aligned_sp: sctlr.sa0(),
            ..el1
        };
        let sctlr = sys.sctlr_el2;
        let el2 = Self {
            tcf: Tcf::from_bits(sctlr.tcf()),
            ata: sctlr.ata(),
            store_only: store_only(sctlr.tcso()),
            aligned_sp: sctlr.sa(),
            tagged: [Half::el2(sys, features).has_tag(); 2],
            tcma: [sys.tcr_el2.tcma(); 2],
            ..Self::alignment_of(sctlr)
        };
        [el0, el1, el2]
    }

    fn alignment_of(sctlr: SctlrEl1) -> Self {
        Self {
            strict_alignment: sctlr.a(),
            unaligned_ordered: sctlr.naa(),
            ..Self::default()
        }
    }
}

/// The part of a processing element's state that tags depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cpu {
    /// `GCR_EL1`.
    pub gcr: GcrEl1,
    /// `RGSR_EL1`.
    pub rgsr: RgsrEl1,
    /// The state of the source of random tags that `GCR_EL1.RRND` = 1 selects.
    pub entropy: u64,
    /// `PSTATE.EL`, 0 to 2.
    pub el: u8,
    /// `PSTATE.TCO`, tag check override.
    pub tco: bool,
    /// `PSTATE.PAN`, privileged access never.
    pub pan: bool,
    /// `TFSRE0_EL1`, `TFSR_EL1` and `TFSR_EL2`.
    pub tfsr: [Tfsr; 3],
    /// The controls of EL0, EL1 and EL2.
    pub controls: [ElControls; 3],
}

impl Cpu {
    /// A processor at `el` with synchronous checks, top-byte-ignore and, if `ata`, access to tags, at every level.
    pub fn with_sync_checks(el: u8, ata: bool) -> Self {
        let controls = ElControls {
            tcf: Tcf::Sync,
            ata,
            tagged: [true; 2],
            ..ElControls::default()
        };
        Self {
            el,
            controls: [controls; 3],
            ..Self::default()
        }
    }

    /// Whether allocation tags may be accessed at the current level.
    #[inline]
    pub const fn ata(&self) -> bool {
        self.controls[self.el as usize].ata
    }

    /// Whether `PSTATE.PAN` applies to an access with the permissions of `el`.
    pub(crate) const fn pan_applies(&self, el: u8) -> bool {
        self.pan && el == 1
    }

    /// `AArch64.AccessIsTagChecked`, for an access of `el` through the pointer.
    #[inline]
    pub(crate) fn is_tag_checked(&self, va: Va, el: u8, write: bool) -> bool {
        let controls = &self.controls[el as usize];
        let half = (va.0 >> 55 & 1) as usize;
        let match_all = controls.tcma[half] && va.tag() == va.canonical_tag();
        controls.tagged[half] && controls.ata && !self.tco && !match_all && (write || !controls.store_only)
    }

    /// Whether a tag check fault of `el` has any effect.
    #[inline]
    pub(crate) fn takes_tag_faults(&self, el: u8) -> bool {
        self.controls[el as usize].tcf != Tcf::None
    }

    /// `AArch64.TagCheckFault`: taken, or noted in the `TFSR` of the access' level.
    #[cold]
    pub(crate) fn tag_check_fault(&mut self, va: Va, access: &AccessDesc) -> Result<(), Fault> {
        let synchronous = match self.controls[access.el as usize].tcf {
            Tcf::None => return Ok(()),
            Tcf::Sync => true,
            Tcf::Async => false,
            Tcf::Asymmetric => access.read,
        };
        if synchronous {
            return Err(access.fault(FaultKind::TagCheck, Stage::One, va));
        }
        let tfsr = &mut self.tfsr[access.el as usize];
        if va.0 >> 55 & 1 == 0 {
            tfsr.set_tf0(true);
        } else {
            tfsr.set_tf1(true);
        }
        Ok(())
    }

    /// Four random bits of the source that `GCR_EL1.RRND` = 1 selects, seeded by the caller: one step of `SplitMix64`.
    pub(super) fn random_tag(&mut self) -> Tag {
        self.entropy = self.entropy.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.entropy ^ self.entropy >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Tag::new((mixed >> 60) as u8)
    }
}
