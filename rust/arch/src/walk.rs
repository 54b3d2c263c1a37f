//! The stage-2 table walk: one loop over levels, everything configurable in a `Regime`.
//!
//! A `Regime` is the geometry of a walk, made of `VTCR_EL2` and `VTTBR_EL2`: granules of 4, 16 and 64 KiB, every T0SZ and
//! SL0, concatenated start-level tables, 52-bit addresses (`FEAT_LPA`, `FEAT_LPA2`). [`walk_stage2`] reads real descriptors
//! through a [`DescriptorSource`] and reports address size, translation and access flag faults and external aborts; the
//! permission check is separate ([`check_s2_permission`]), because a TLB hit needs it too.
//!
//! Left out: stage 1, hardware update of access flag and dirty state, 128-bit descriptors, `FEAT_BBM`'s nT bit, the
//! contiguous bit. The invariant: one descriptor is read per level, and nothing is allocated.

use std::ops::Deref;

use thiserror::Error;

use crate::addr::{Granule, Ipa, PA_MAX_BITS, Pa};
use crate::desc::{FINAL_LEVEL, S2Attrs};
use crate::fault::{Access, FaultKind};
use crate::regs::{VtcrEl2, VttbrEl2};

/// Up to 16 start-level tables may be concatenated, which resolves 4 more bits.
const MAX_CONCATENATION_BITS: u32 = 4;
/// Bytes of a descriptor, as a shift.
const DESCRIPTOR_SHIFT: u32 = 3;
/// Levels -1 to 3.
const MAX_LEVELS: usize = 5;
/// The last level of lookup, `FINAL_LEVEL`, in a number that level -1 fits.
const LAST: i8 = FINAL_LEVEL.cast_signed();

// Start level 0 and every PS are legal only because the machine is this large (`AArch64.S2InvalidSL`).
const _: () = assert!(PA_MAX_BITS >= 52);

/// Memory as the table walker sees it.
pub trait DescriptorSource {
    /// The 64-bit little-endian word at `pa`, which is aligned to 8; `None` for an external abort.
    fn read_descriptor(&mut self, pa: Pa) -> Option<u64>;
}

/// The geometry of a walk (`S2TTWParams`).
#[derive(Clone, Copy)]
struct Regime {
    granule: Granule,
    /// Bits of an IPA.
    input_bits: u32,
    /// Level of the first lookup, -1 to 3.
    start_level: i8,
    /// The start-level table, aligned to its size.
    table: Pa,
    /// Bits of an output address.
    output_bits: u32,
    /// 52-bit descriptors with the 4 KiB and 16 KiB granules.
    ds: bool,
}

/// One step of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Level {
    /// Level of lookup.
    pub level: i8,
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

/// Why a walk gave no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[error("stage-2 {kind}, level {level}")]
pub struct WalkFault {
    /// What went wrong.
    pub kind: FaultKind,
    /// At which level of lookup; 0 also for what is wrong before the first lookup.
    pub level: i8,
}

impl Regime {
    /// `None` is a Translation fault at level 0: T0SZ out of range, or a start level that does not exist or does
    /// not fit (`AArch64.S2TxSZFaults`, `AArch64.S2InvalidSL`, `AArch64.S2InconsistentSL`).
    fn new(Stage2 { vtcr, vttbr }: Stage2) -> Option<Self> {
        let granule = granule_of_tg0(vtcr.tg0());
        let ds = vtcr.ds() && granule != Granule::Kib64;
        let start_level = match (granule, ds && vtcr.sl2(), vtcr.sl0()) {
            (Granule::Kib4, true, 0) => -1,
            (Granule::Kib4, false, 0) | (Granule::Kib16 | Granule::Kib64, _, 1) => 2,
            (Granule::Kib4, false, 1) | (Granule::Kib16 | Granule::Kib64, _, 2) => 1,
            (Granule::Kib4, false, 2) => 0,
            (Granule::Kib4, false, 3) | (Granule::Kib16 | Granule::Kib64, _, 0) => 3,
            (Granule::Kib16, _, 3) if ds => 0,
            _ => return None,
        };
        let smallest = if ds || granule == Granule::Kib64 { 12 } else { 16 };
        if !(smallest..=largest_txsz(granule)).contains(&vtcr.t0sz()) {
            return None;
        }
        let input_bits = 64 - u32::from(vtcr.t0sz());
        let below_start = granule.level_shift(start_level);
        let resolvable = below_start + 1..=below_start + granule.stride() + MAX_CONCATENATION_BITS;
        resolvable
            .contains(&input_bits)
            .then(|| Self::with_table(granule, input_bits, start_level, vtcr.ps(), ds, vttbr.into()))
    }

    /// `AArch64.PhysicalAddressSize`, and the start-level table: the register's address aligned down to the table's size,
    /// with bits 51:48 in bits 5:2 where tables may lie that high (`AArch64.S2TTBaseAddress`).
    fn with_table(granule: Granule, input_bits: u32, start_level: i8, ps: u8, ds: bool, ttbr: u64) -> Self {
        let configured = match ps {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            5 => 48,
            _ => 52,
        };
        let large = ds || granule == Granule::Kib64;
        let output_bits = configured.min(if large { PA_MAX_BITS } else { 48 });
        let table_bits = input_bits - granule.level_shift(start_level) + DESCRIPTOR_SHIFT;
        let low = ttbr & mask(48);
        let (table, table_bits) = if ds || granule == Granule::Kib64 && ps == 6 {
            (low | (ttbr >> 2 & 0xf) << 48, table_bits.max(6))
        } else {
            (low, table_bits)
        };
        Self {
            granule,
            input_bits,
            start_level,
            table: Pa(table >> table_bits << table_bits),
            output_bits,
            ds,
        }
    }

    /// An address inside a table or a leaf: bits 47 down to the alignment, and the upper bits where a descriptor has them
    /// (`AArch64.NextTableBase`, `AArch64.LeafBase`).
    fn address(&self, desc: u64, aligned_to: u32) -> Pa {
        let high = match self.granule {
            Granule::Kib64 => (desc >> 12 & 0xf) << 48,
            _ if self.ds => (desc >> 8 & 3) << 50 | (desc >> 48 & 3) << 48,
            _ => 0,
        };
        Pa((desc & mask(48)) >> aligned_to << aligned_to | high)
    }

    /// Where the entry for an IPA lies: at the start level all remaining input bits count, which is concatenation.
    fn entry(&self, table: Pa, ipa: Ipa, level: i8) -> Pa {
        let shift = self.granule.level_shift(level);
        let top = if level == self.start_level {
            self.input_bits
        } else {
            shift + self.granule.stride()
        };
        table + ((ipa.0 & mask(top)) >> shift << DESCRIPTOR_SHIFT)
    }

    /// `AArch64.BlockDescSupported`.
    const fn has_block(&self, level: i8) -> bool {
        match (self.granule, level) {
            (_, 2) | (Granule::Kib4 | Granule::Kib64, 1) => true,
            (Granule::Kib4, 0) | (Granule::Kib16, 1) => self.ds,
            _ => false,
        }
    }

    /// What the last descriptor read maps the IPA to.
    fn leaf(&self, levels: Levels, ipa: Ipa) -> Result<Walk, WalkFault> {
        let Level { level, desc, .. } = levels.last().copied().unwrap_or_default();
        let size = 1 << self.granule.level_shift(level);
        let pa = self.address(desc, self.granule.level_shift(level)) + (ipa.0 & (size - 1));
        // The whole output address counts, not only the leaf's base (`StageOA`). QEMU 10.0.2 looks at the base, which shows for
        // 64 KiB blocks of level 1 (C1 in the recorded vectors).
        self.check_output(pa, level)?;
        let attrs = S2Attrs::from_desc(desc);
        if !attrs.af {
            return Err(WalkFault {
                kind: FaultKind::AccessFlag,
                level,
            });
        }
        Ok(Walk {
            levels,
            pa,
            size,
            attrs,
        })
    }

    /// `AArch64.OAOutOfRange`.
    fn check_output(&self, pa: Pa, level: i8) -> Result<(), WalkFault> {
        if pa.0 >> self.output_bits == 0 {
            return Ok(());
        }
        Err(WalkFault {
            kind: FaultKind::AddressSize,
            level,
        })
    }
}

/// Up to 48, and 47 with the 64 KiB granule, with `FEAT_TTST` (`AArch64.MaxTxSZ`).
const fn largest_txsz(granule: Granule) -> u8 {
    match granule {
        Granule::Kib64 => 47,
        _ => 48,
    }
}

const fn granule_of_tg0(tg0: u8) -> Granule {
    match tg0 {
        1 => Granule::Kib64,
        2 => Granule::Kib16,
        _ => Granule::Kib4,
    }
}

/// The low `bits` bits, fewer than 64.
const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// The registers that describe a stage-2 translation regime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stage2 {
    /// Geometry.
    pub vtcr: VtcrEl2,
    /// Start-level table and VMID.
    pub vttbr: VttbrEl2,
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
    pub fn leaf_level(&self) -> i8 {
        self.levels.last().map_or(LAST, |leaf| leaf.level)
    }
}

/// Translates one IPA (Arm ARM `AArch64.S2Translate` and `AArch64.S2Walk`, without the permission check).
pub fn walk_stage2<S: DescriptorSource>(src: &mut S, regime: &Stage2, ipa: Ipa) -> Result<Walk, WalkFault> {
    let fault = |kind, level| WalkFault { kind, level };
    let regime = Regime::new(*regime).ok_or(fault(FaultKind::Translation, 0))?;
    if ipa.0 >> regime.input_bits != 0 {
        return Err(fault(FaultKind::Translation, 0));
    }
    let (mut table, mut level) = (regime.table, regime.start_level);
    regime.check_output(table, 0)?;
    let mut levels = Levels::default();
    loop {
        let desc_pa = regime.entry(table, ipa, level);
        let desc = src
            .read_descriptor(desc_pa)
            .ok_or(fault(FaultKind::SyncExternalAbortOnWalk, level))?;
        levels.push(Level { level, desc_pa, desc });
        match (desc & 0b11, level) {
            (0b11, LAST) => return regime.leaf(levels, ipa),
            (0b01, _) if regime.has_block(level) => return regime.leaf(levels, ipa),
            (0b11, _) => {
                table = regime.address(desc, regime.granule.bits());
                regime.check_output(table, level)?;
                level += 1;
            }
            _ => return Err(fault(FaultKind::Translation, level)),
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

#[cfg(test)]
mod tests;
