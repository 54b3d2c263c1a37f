//! The stage-2 table walk of the 4 KiB granule.
//!
//! [`walk_stage2`] takes any legal `VTCR_EL2` T0SZ and SL0, concatenated start-level tables included, and reads real
//! descriptors through a [`DescriptorSource`]. It reports address size, translation and access flag faults and external
//! aborts; the permission check is separate ([`check_s2_permission`]), because a TLB hit needs it too.
//!
//! Left out: other granules, `VTCR_EL2.DS`, hardware update of AF and dirty state, the contiguous bit. The invariant: one
//! descriptor is read per level, and nothing is allocated.

use std::ops::Deref;

use thiserror::Error;

use crate::addr::{Ipa, PA_MAX_BITS, Pa};
use crate::desc::{Desc, FINAL_LEVEL, LEVEL_BITS, S2Attrs, decode, level_shift};
use crate::fault::{Access, FaultKind};
use crate::regs::{VtcrEl2, VttbrEl2};

/// Smallest and largest T0SZ: 48 input bits without `FEAT_LPA2`, 16 with `FEAT_TTST` (Arm ARM `AArch64.S2MinTxSZ`,
/// `AArch64.MaxTxSZ`).
const T0SZ_RANGE: std::ops::RangeInclusive<u8> = 16..=48;
/// Up to 16 start-level tables may be concatenated, which resolves 4 more bits.
const MAX_CONCATENATION_BITS: u32 = 4;
/// Bytes of a descriptor, as a shift.
const DESCRIPTOR_SHIFT: u32 = 3;
const MAX_LEVELS: usize = FINAL_LEVEL as usize + 1;

// Start level 0 and every PS are legal only because the machine is this large (`AArch64.S2InvalidSL`).
const _: () = assert!(PA_MAX_BITS >= 48);

/// Memory as the table walker sees it.
pub trait DescriptorSource {
    /// The 64-bit little-endian word at `pa`, which is aligned to 8; `None` for an external abort.
    fn read_descriptor(&mut self, pa: Pa) -> Option<u64>;
}

/// The registers that describe a stage-2 translation regime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stage2 {
    /// Geometry.
    pub vtcr: VtcrEl2,
    /// Start-level table and VMID.
    pub vttbr: VttbrEl2,
}

/// One step of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Level {
    /// Level of lookup.
    pub level: u8,
    /// Where the descriptor lies.
    pub desc_pa: Pa,
    /// The descriptor found there.
    pub desc: u64,
}

/// The steps of a walk, first lookup first; reads like a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Levels {
    steps: [Level; MAX_LEVELS],
    len: usize,
}

impl Levels {
    fn push(&mut self, step: Level) {
        self.steps[self.len] = step;
        self.len += 1;
    }
}

impl Deref for Levels {
    type Target = [Level];
    fn deref(&self) -> &[Level] {
        &self.steps[..self.len]
    }
}

/// A successful walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The descriptors read, the leaf last.
    pub levels: Levels,
    /// What the IPA translates to, page or block offset included.
    pub pa: Pa,
    /// Bytes the leaf maps.
    pub size: u64,
    /// Memory type and permissions of the leaf.
    pub attrs: S2Attrs,
}

impl Walk {
    /// The level of the leaf.
    pub fn leaf_level(&self) -> u8 {
        self.levels.last().map_or(FINAL_LEVEL, |leaf| leaf.level)
    }
}

/// Why a walk gave no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[error("stage-2 {kind}, level {level}")]
pub struct WalkFault {
    /// What went wrong.
    pub kind: FaultKind,
    /// At which level of lookup; 0 also for what is wrong before the first lookup.
    pub level: u8,
}

/// Translates one IPA (Arm ARM `AArch64.S2Translate` and `AArch64.S2Walk`, without the permission check).
pub fn walk_stage2<S: DescriptorSource>(src: &mut S, regime: &Stage2, ipa: Ipa) -> Result<Walk, WalkFault> {
    let fault = |kind, level| WalkFault { kind, level };
    let geometry = Geometry::new(regime.vtcr).ok_or(fault(FaultKind::Translation, 0))?;
    if ipa.0 >> geometry.input_bits != 0 {
        return Err(fault(FaultKind::Translation, 0));
    }
    let mut table = geometry.base(regime.vttbr);
    geometry.check_output(table, 0)?;

    let mut levels = Levels::default();
    let mut level = geometry.start_level;
    loop {
        let desc_pa = table + (geometry.index(ipa, level) << DESCRIPTOR_SHIFT);
        let desc = src
            .read_descriptor(desc_pa)
            .ok_or(fault(FaultKind::SyncExternalAbortOnWalk, level))?;
        levels.push(Level { level, desc_pa, desc });
        match decode(level, desc) {
            Desc::Invalid => return Err(fault(FaultKind::Translation, level)),
            Desc::Table(next) => {
                geometry.check_output(next, level)?;
                table = next;
                level += 1;
            }
            Desc::Leaf { pa, size, attrs } => {
                geometry.check_output(pa, level)?;
                if !attrs.af {
                    return Err(fault(FaultKind::AccessFlag, level));
                }
                let offset = ipa.0 & (size - 1);
                return Ok(Walk {
                    levels,
                    pa: pa + offset,
                    size,
                    attrs,
                });
            }
        }
    }
}

/// Whether the leaf allows the access (Arm ARM `AArch64.S2CheckPermissions`, direct permissions, data accesses).
///
/// Tag reads need read permission and tag writes need write permission, as data does.
pub fn check_s2_permission(walk: &Walk, access: Access) -> Result<(), WalkFault> {
    let allowed = match access {
        Access::Read => walk.attrs.read,
        Access::Write => walk.attrs.write,
    };
    if allowed {
        return Ok(());
    }
    Err(WalkFault {
        kind: FaultKind::Permission,
        level: walk.leaf_level(),
    })
}

/// The shape of the tables, derived from `VTCR_EL2`.
struct Geometry {
    start_level: u8,
    input_bits: u32,
    output_bits: u32,
}

impl Geometry {
    /// `None` if T0SZ is out of range or does not fit SL0 (Arm ARM `AArch64.S2InvalidSL`, `AArch64.S2InconsistentSL`):
    /// the start level must resolve at least one bit, and at most sixteen concatenated tables' worth.
    fn new(vtcr: VtcrEl2) -> Option<Self> {
        let (start_level, input_bits) = (vtcr.start_level(), vtcr.input_bits());
        let below_start = level_shift(start_level);
        let resolvable = below_start + 1..=below_start + LEVEL_BITS + MAX_CONCATENATION_BITS;
        (T0SZ_RANGE.contains(&vtcr.t0sz()) && resolvable.contains(&input_bits)).then_some(Self {
            start_level,
            input_bits,
            output_bits: vtcr.output_bits(),
        })
    }

    /// The start-level table: BADDR aligned down to the size of the (concatenated) table (`AArch64.S2TTBaseAddress`).
    fn base(&self, vttbr: VttbrEl2) -> Pa {
        let table_bits = self.input_bits - level_shift(self.start_level) + DESCRIPTOR_SHIFT;
        Pa(vttbr.baddr() >> table_bits << table_bits)
    }

    /// The index into the table of `level`; at the start level all remaining input bits count, which is concatenation.
    fn index(&self, ipa: Ipa, level: u8) -> u64 {
        let index = ipa.0 >> level_shift(level);
        if level == self.start_level {
            index
        } else {
            index & ((1 << LEVEL_BITS) - 1)
        }
    }

    /// `AArch64.OAOutOfRange`: a table or output address above `VTCR_EL2.PS`.
    fn check_output(&self, pa: Pa, level: u8) -> Result<(), WalkFault> {
        if pa.0 >> self.output_bits == 0 {
            return Ok(());
        }
        Err(WalkFault {
            kind: FaultKind::AddressSize,
            level,
        })
    }
}

#[cfg(test)]
mod tests;
