//! From pointer to physical address through both stages, with permissions, memory types and hardware updates.
//!
//! [`Controls`] is what the registers make of translation, worked out once per register write; [`translate`] takes an
//! address through it. Regimes: EL1&0 with both TTBRs, stage 1 on or off, under stage 2; EL2 with `HCR_EL2.E2H` = 0. A
//! stage-1 table is itself found through stage 2 (S1PTW).
//!
//! Left out: `HCR_EL2.TGE` and E2H, permission indirection and overlays, Secure and Realm state. The order of checks in a
//! stage is the pseudocode's (`AArch64.S1Translate`, `AArch64.S2Translate`): walk, alignment that the memory type demands,
//! permission, then the update of access flag and dirty state, which an access that faults does not make: for the access
//! flag that is CONSTRAINED UNPREDICTABLE, and QEMU's choice. The invariant: a stage that faults has written nothing;
//! stage 1 may have set a flag before stage 2 refuses the access (`AArch64.FullTranslate`).

mod at;
mod stage1;
mod stage2;
mod tables;

pub use at::{AtKind, at, par};
pub(crate) use stage1::Half;

use crate::access::{AccessDesc, Grants};
use crate::addr::{Ipa, Pa, Va};
use crate::attr::MemoryAttributes;
use crate::fault::{Fault, Stage};
use crate::features::Features;
use crate::regs::SysRegs;
use crate::walk::{DescriptorSource, Level, Regime};
use stage1::Stage1;
use stage2::Stage2Controls;

/// Access flag of a leaf, both stages.
const AF: u64 = 1 << 10;
/// Dirty bit modifier of a leaf, both stages.
const DBM: u64 = 1 << 51;

/// What the registers make of translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Controls {
    el1: Stage1,
    el2: Stage1,
    stage2: Option<Stage2Controls>,
}

impl Controls {
    /// Works the registers out.
    pub fn new(sys: &SysRegs, features: Features) -> Self {
        let hcr = sys.hcr_el2;
        Self {
            el1: Stage1::el1(sys, features),
            el2: Stage1::el2(sys, features),
            // `HCR_EL2.DC` brings stage 2 with it.
            stage2: (hcr.vm() || hcr.dc()).then(|| Stage2Controls::new(sys, features)),
        }
    }

    /// Whether stage 1 of the regime of `el` is on.
    pub const fn has_stage1(&self, el: u8) -> bool {
        if el == 2 { self.el2.enabled } else { self.el1.enabled }
    }

    /// Whether no pointer of the regime's top byte counts as address.
    pub fn ignores_top_byte(&self, el: u8) -> bool {
        self.stage1(el).ignores_top_byte()
    }

    /// Whether a pointer may be translated at all: no level-0 fault keeps it from the tables.
    pub fn accepts(&self, va: Va, el: u8) -> bool {
        self.stage1(el).accepts(va, el)
    }

    fn stage1(&self, el: u8) -> &Stage1 {
        if el == 2 { &self.el2 } else { &self.el1 }
    }
}

/// What a translation makes of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// The physical address.
    pub pa: Pa,
    /// What stage 1 made of it; the physical address again without stage 2.
    pub ipa: Ipa,
    /// The combined memory type.
    pub attrs: MemoryAttributes,
    /// Bytes around the address that are translated alike: the smaller of both stages' leaves.
    pub size: u64,
    /// Bytes of the stage-1 leaf.
    pub stage1_size: u64,
    /// What is allowed without an update of a descriptor.
    pub grants: Grants,
    /// The stage-1 leaf is not global: it belongs to one ASID.
    pub not_global: bool,
}

/// Who looks at the descriptors that translation reads.
pub trait Trace {
    /// Whether anybody does. If not, reads may be left out whose outcome is known.
    const LOOKS: bool;
    /// One was read.
    fn see(&mut self, stage: Stage, level: Level);
}

impl<F: FnMut(Stage, Level)> Trace for F {
    const LOOKS: bool = true;

    fn see(&mut self, stage: Stage, level: Level) {
        self(stage, level);
    }
}

/// Nobody looks.
#[derive(Clone, Copy, Debug)]
pub struct Untraced;

impl Trace for Untraced {
    const LOOKS: bool = false;

    fn see(&mut self, _: Stage, _: Level) {}
}

/// Translates for an access (`AArch64.FullTranslate`). `trace` sees every descriptor that is read.
///
/// # Errors
/// The fault the access takes.
#[inline]
pub fn translate<S: DescriptorSource>(
    src: &mut S,
    controls: &Controls,
    va: Va,
    access: &AccessDesc,
    trace: &mut impl Trace,
) -> Result<Translated, Fault> {
    through(src, controls, true, va, access, trace)
}

/// Translates through stage 1, and through stage 2 if `both` and there is one.
#[inline]
fn through<S: DescriptorSource>(
    src: &mut S,
    controls: &Controls,
    both: bool,
    va: Va,
    access: &AccessDesc,
    trace: &mut impl Trace,
) -> Result<Translated, Fault> {
    let regime = controls.stage1(access.el);
    let one = if regime.enabled {
        stage1::translate(src, controls, va, access, trace)?
    } else {
        regime.disabled(va, access)?
    };
    match &controls.stage2 {
        Some(stage2) if both && access.el != 2 => {
            let two = stage2.translate(src, one.ipa, one.attrs, va, access, trace)?;
            Ok(Translated {
                size: two.size.min(one.size),
                stage1_size: one.size,
                grants: one.grants & two.grants,
                not_global: one.not_global,
                ..two
            })
        }
        _ => Ok(one),
    }
}

/// The leaf as hardware leaves it: with the access flag, and `dirty` if the access makes it so.
const fn updated_desc(regime: &Regime, desc: u64, dirties: bool, dirty: u64) -> u64 {
    match (regime.ha, dirties && regime.hd && desc & DBM != 0) {
        (false, _) => desc,
        (true, false) => desc | AF,
        (true, true) => dirty | AF,
    }
}

#[cfg(test)]
mod tests;
