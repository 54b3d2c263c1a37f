//! The walk that a hypervisor makes of its own stage-2 tables, in software.
//!
//! Models what reading every descriptor on the way tells: where an IPA leads and what the leaf allows. Left out: hardware
//! updates, and permissions until [`check_s2_permission`] asks for them. The invariant: nothing is taken from what earlier walks
//! found, and nothing is allocated.

use std::ops::Deref;

use super::{DescriptorSource, LAST, Level, Regime, WalkFault, read_physical, walk};
use crate::addr::{Ipa, Pa};
use crate::desc::S2Attrs;
use crate::fault::{Access, FaultKind};
use crate::regs::{VtcrEl2, VttbrEl2};

/// Levels -1 to 3.
const MAX_LEVELS: usize = 5;

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

/// The registers that describe a stage-2 translation regime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stage2 {
    /// Geometry.
    pub vtcr: VtcrEl2,
    /// Start-level table and VMID.
    pub vttbr: VttbrEl2,
}

/// A successful walk of stage 2 alone.
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
    pub fn leaf_level(&self) -> i8 {
        self.levels.last().map_or(LAST, |leaf| leaf.level)
    }
}

/// Translates one IPA as a hypervisor does that walks its own tables: no permission check, no hardware update.
pub fn walk_stage2<S: DescriptorSource>(src: &mut S, regime: &Stage2, ipa: Ipa) -> Result<Walk, WalkFault> {
    let unmapped = WalkFault {
        kind: FaultKind::Translation,
        level: 0,
    };
    let regime = Regime::stage2(regime.vtcr, regime.vttbr).ok_or(unmapped)?;
    if ipa.0 >> regime.input_bits != 0 {
        return Err(unmapped);
    }
    let mut levels = Levels::default();
    let found = walk(&regime, ipa.0, |entry, level| {
        let (desc_pa, desc) = (Pa(entry), read_physical(src, Pa(entry), level)?);
        levels.push(Level { level, desc_pa, desc });
        Ok::<_, WalkFault>(desc)
    })?;
    Ok(Walk {
        levels,
        pa: Pa(found.address),
        size: found.size,
        attrs: S2Attrs::from_desc(found.desc),
    })
}

/// Whether the leaf allows the access (Arm ARM `AArch64.S2CheckPermissions`, direct permissions, data accesses).
///
/// Tag reads need read permission and tag writes need write permission, as data does.
pub fn check_s2_permission(walk: &Walk, access: Access) -> Result<(), WalkFault> {
    let allowed = match access {
        Access::Read => walk.attrs.read,
        Access::Write => walk.attrs.write,
        Access::Fetch => walk.attrs.exec,
    };
    if allowed {
        return Ok(());
    }
    Err(WalkFault {
        kind: FaultKind::Permission,
        level: walk.leaf_level(),
    })
}
