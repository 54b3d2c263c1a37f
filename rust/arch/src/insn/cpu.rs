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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::AccessKind;
    use crate::regs::{HcrEl2, TcrEl1, TcrEl2};

    const LOWER: Va = Va(0x0700_0000_5000_0000);
    const UPPER: Va = Va(0x07ff_ffff_5000_0000);

    /// The controls of EL0, EL1 and EL2 under some registers, all optional features there.
    fn controls(change: impl FnOnce(&mut SysRegs)) -> [ElControls; 3] {
        let mut sys = SysRegs::default();
        change(&mut sys);
        ElControls::all(&sys, Features::all())
    }

    #[test]
    fn every_level_takes_its_own_fields_of_its_registers() {
        let [el0, el1, el2] = controls(|sys| {
            sys.sctlr_el1 = SctlrEl1::new()
                .with_tcf0(1)
                .with_tcf(2)
                .with_tcso0(true)
                .with_sa(true)
                .with_ata0(true);
            sys.sctlr_el2 = SctlrEl1::new().with_tcf(3).with_a(true).with_naa(true).with_ata(true);
            sys.hcr_el2 = HcrEl2::new().with_ata(true);
        });

        assert_eq!([el0.tcf, el1.tcf, el2.tcf], [Tcf::Sync, Tcf::Async, Tcf::Asymmetric]);
        assert_eq!([el0.store_only, el1.store_only, el2.store_only], [true, false, false]);
        assert_eq!([el0.aligned_sp, el1.aligned_sp, el2.aligned_sp], [false, true, false]);
        assert_eq!([el0.ata, el1.ata, el2.ata], [true, false, true]);
        assert_eq!([el0, el1, el2].map(|el| el.strict_alignment), [false, false, true]);
        assert_eq!([el0, el1, el2].map(|el| el.unaligned_ordered), [false, false, true]);

        let [el0, el1, el2] = controls(|sys| {
            sys.sctlr_el1 = SctlrEl1::new()
                .with_tcso(true)
                .with_sa0(true)
                .with_ata(true)
                .with_a(true)
                .with_naa(true);
            sys.sctlr_el2 = SctlrEl1::new().with_tcso(true).with_sa(true);
            sys.hcr_el2 = HcrEl2::new().with_ata(true);
        });

        assert_eq!([el0.tcf, el1.tcf, el2.tcf], [Tcf::None; 3]);
        assert_eq!([el0.store_only, el1.store_only, el2.store_only], [false, true, true]);
        assert_eq!([el0.aligned_sp, el1.aligned_sp, el2.aligned_sp], [true, false, true]);
        assert_eq!([el0.ata, el1.ata, el2.ata], [false, true, false]);
        assert_eq!([el0, el1, el2].map(|el| el.strict_alignment), [true, true, false]);
        assert_eq!([el0, el1, el2].map(|el| el.unaligned_ordered), [true, true, false]);
    }

    #[test]
    fn hcr_ata_counts_below_el2() {
        let [el0, el1, el2] = controls(|sys| {
            sys.sctlr_el1 = SctlrEl1::new().with_ata(true).with_ata0(true);
            sys.sctlr_el2 = SctlrEl1::new().with_ata(true);
        });

        assert_eq!([el0.ata, el1.ata, el2.ata], [false, false, true]);
    }

    #[test]
    fn pointers_have_tags_by_tbi_or_mtx_of_their_half_and_tcma_is_that_of_the_half() {
        let [el0, el1, el2] = controls(|sys| {
            sys.tcr_el1 = TcrEl1::new().with_tbi1(true).with_tcma0(true);
            sys.tcr_el2 = TcrEl2::new().with_mtx(true);
        });
        assert_eq!(
            [el0.tagged, el1.tagged, el2.tagged],
            [[false, true], [false, true], [true, true]]
        );
        assert_eq!(
            [el0.tcma, el1.tcma, el2.tcma],
            [[true, false], [true, false], [false, false]]
        );

        let [_, el1, el2] = controls(|sys| {
            sys.tcr_el1 = TcrEl1::new().with_mtx0(true).with_tcma1(true);
            sys.tcr_el2 = TcrEl2::new().with_tcma(true);
        });
        assert_eq!([el1.tagged, el2.tagged], [[true, false], [false, false]]);
        assert_eq!([el1.tcma, el2.tcma], [[false, true], [true, true]]);
    }

    #[test]
    fn store_only_and_mtx_need_their_features() {
        let sys = SysRegs {
            sctlr_el1: SctlrEl1::new().with_tcso(true).with_tcso0(true),
            sctlr_el2: SctlrEl1::new().with_tcso(true),
            tcr_el1: TcrEl1::new().with_mtx0(true),
            ..SysRegs::default()
        };
        let other_features = Features::all() - Features::MTE_STORE_ONLY;

        assert!(ElControls::all(&sys, other_features).iter().all(|el| !el.store_only));
        assert!(
            ElControls::all(&sys, Features::MTE_STORE_ONLY)
                .iter()
                .all(|el| el.store_only)
        );
        assert_eq!(ElControls::all(&sys, Features::empty())[1].tagged, [false; 2]);
        assert_eq!(
            ElControls::all(&sys, Features::MTE_CANONICAL_TAGS)[1].tagged,
            [true, false]
        );
        assert_eq!(
            ElControls::all(&sys, Features::MTE_NO_ADDRESS_TAGS)[1].tagged,
            [true, false]
        );
    }

    #[test]
    fn failed_checks_are_noted_for_the_level_and_half_of_the_access() {
        for el in 0..3 {
            let mut cpu = Cpu::with_sync_checks(1, true);
            cpu.controls[el].tcf = Tcf::Async;
            let access = AccessDesc::new(AccessKind::Data, el as u8, false, 8);

            assert_eq!(cpu.tag_check_fault(UPPER, &access), Ok(()));
            assert_eq!(
                cpu.tfsr.map(u64::from),
                [0, 1, 2].map(|at| if at == el { 2 } else { 0 })
            );
            assert_eq!(cpu.tag_check_fault(LOWER, &access), Ok(()));
            assert_eq!(u64::from(cpu.tfsr[el]), 3, "bits stay set");
        }
    }

    #[test]
    fn failed_check_without_effect_is_neither_taken_nor_noted() {
        let mut cpu = Cpu::default();
        let access = AccessDesc::new(AccessKind::Data, 1, true, 8);

        assert!(!cpu.takes_tag_faults(1));
        assert_eq!(cpu.tag_check_fault(LOWER, &access), Ok(()));
        assert_eq!(cpu, Cpu::default());
    }

    #[test]
    fn match_all_is_tag_0_below_and_tag_15_above() {
        let mut cpu = Cpu::with_sync_checks(1, true);
        cpu.controls[1].tcma = [true; 2];
        let checked = |va: Va, tag| cpu.is_tag_checked(va.with_tag(Tag::new(tag)), 1, true);

        assert!(!checked(LOWER, 0) && checked(LOWER, 15) && checked(LOWER, 1));
        assert!(!checked(UPPER, 15) && checked(UPPER, 0) && checked(UPPER, 1));
    }

    #[test]
    fn tcf_has_four_encodings() {
        let all = [Tcf::None, Tcf::Sync, Tcf::Async, Tcf::Asymmetric];

        assert_eq!([0, 1, 2, 3].map(Tcf::from_bits), all);
    }

    #[test]
    fn pan_applies_to_accesses_with_the_rights_of_el1() {
        let cpu = Cpu {
            pan: true,
            ..Cpu::default()
        };

        assert_eq!([0, 1, 2].map(|el| cpu.pan_applies(el)), [false, true, false]);
        assert!(!Cpu::default().pan_applies(1));
    }
}
