//! The table walk of both stages: one loop over levels, everything configurable in a [`Regime`].
//!
//! A [`Regime`] is the geometry of one walk, made of `TCR_ELx` and `TTBRn_ELx` or of `VTCR_EL2` and `VTTBR_EL2`: granules of
//! 4, 16 and 64 KiB, every `TnSZ` and SL0, concatenated start-level tables, 52-bit addresses (`FEAT_LPA`, `FEAT_LPA2`).
//! [`walk`] reads real descriptors and reports address size, translation and access flag faults and external aborts;
//! permissions, memory types and hardware updates of descriptors are [`translate`](mod@crate::translate)'s.
//!
//! Left out: 128-bit descriptors, `FEAT_BBM`'s nT bit, faults of a misprogrammed contiguous bit (IMPLEMENTATION DEFINED; not
//! taken). The invariant: one descriptor is read per level, and nothing is allocated.

mod last_table;
mod stage2;

pub(crate) use last_table::Under;
pub use last_table::{LastTable, TableKey};
pub use stage2::{Levels, Stage2, Walk, check_s2_permission, walk_stage2};

use thiserror::Error;

use crate::addr::{Granule, PA_MAX_BITS, Pa};
use crate::desc::FINAL_LEVEL;
use crate::fault::FaultKind;
use crate::regs::{TcrEl1, TcrEl2, VtcrEl2, VttbrEl2};

/// Up to 16 start-level tables of stage 2 may be concatenated, which resolves 4 more bits.
const MAX_CONCATENATION_BITS: u32 = 4;
/// Bytes of a descriptor, as a shift.
const DESCRIPTOR_SHIFT: u32 = 3;
/// The last level of lookup, `FINAL_LEVEL`, in a number that level -1 fits.
const LAST: i8 = FINAL_LEVEL.cast_signed();
const AF: u64 = 1 << 10;
const CONTIGUOUS: u64 = 1 << 52;

// Start level 0 and every PS are legal only because the machine is this large (`AArch64.S2InvalidSL`).
const _: () = assert!(PA_MAX_BITS >= 52);

/// Memory as the table walker sees it. A memory may keep last-level tables, as [`LastTable`] explains, or leave it at that.
pub trait DescriptorSource {
    /// The 64-bit little-endian word at `pa`, which is aligned to 8; `None` for an external abort.
    fn read_descriptor(&mut self, pa: Pa) -> Option<u64>;
    /// Replaces the word at `pa`, which was read before: hardware update of access flag or dirty state.
    fn write_descriptor(&mut self, pa: Pa, desc: u64);
    /// How many changes there were to words that [`read_descriptor`](Self::read_descriptor) gave, or to what is online. It may
    /// count others too.
    fn changes(&self) -> u64 {
        0
    }
    /// What was kept with this key, if anything is.
    fn kept_table(&self, _key: &TableKey) -> Option<LastTable> {
        None
    }
    /// Keeps a table that has a word at `pa`, or does not. The key was made before the walk.
    fn keep_table(&mut self, _key: TableKey, _table: LastTable, _pa: Pa) {}
    /// The word at an offset into a table just given by [`kept_table`](Self::kept_table). Nothing that is kept depends on it.
    fn read_kept(&self, _table: &LastTable, _offset: u64) -> u64 {
        0
    }
}

/// The geometry of one walk (`S1TTWParams`, `S2TTWParams`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Regime {
    /// Translation granule.
    pub granule: Granule,
    /// Bits of an input address.
    pub input_bits: u32,
    /// Level of the first lookup, -1 to 3.
    pub start_level: i8,
    /// The start-level table, aligned to its size: an IPA for stage 1 under stage 2, else a physical address.
    pub table: u64,
    /// Bits of an output address.
    pub output_bits: u32,
    /// 52-bit descriptors with the 4 KiB and 16 KiB granules.
    pub ds: bool,
    /// Hardware sets the access flag.
    pub ha: bool,
    /// Hardware manages dirty state; needs `ha`.
    pub hd: bool,
    /// log2 of what an entry of the start level maps.
    start_shift: u32,
    /// Where a descriptor has address bits above 47.
    high_bits: HighBits,
}

/// Where a descriptor has address bits above 47 (`AArch64.NextTableBase`, `AArch64.LeafBase`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum HighBits {
    /// Nowhere.
    None,
    /// 51:48 in bits 15:12: the 64 KiB granule.
    At12,
    /// 51:50 in bits 9:8, 49:48 in place: DS.
    At8,
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

/// What a walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Level of the leaf.
    pub level: i8,
    /// The leaf descriptor, which maps the input.
    pub desc: u64,
    /// Where it lies in the address space of the tables.
    pub entry: u64,
    /// The output address, page or block offset included.
    pub address: u64,
    /// Bytes the leaf maps, together with its neighbours if it has the contiguous hint.
    pub size: u64,
    /// `APTable`, `XNTable` and `PXNTable` of all tables on the way, at their places in a descriptor.
    pub table_bits: u64,
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
    /// Stage 1 of EL1&0, lower or upper half. `None` is a Translation fault at level 0: walks disabled (`EPDn`), or `TnSZ` out
    /// of range (`AArch64.S1TxSZFaults`; a fault, not a clamp, with `FEAT_LVA` and `FEAT_TTST`).
    pub fn stage1_el1(tcr: TcrEl1, ttbr: u64, upper: bool) -> Option<Self> {
        let (granule, txsz, disabled) = if upper {
            (granule_of_tg1(tcr.tg1()), tcr.t1sz(), tcr.epd1())
        } else {
            (granule_of_tg0(tcr.tg0()), tcr.t0sz(), tcr.epd0())
        };
        let regime = Self::stage1(granule, txsz, tcr.ips(), tcr.ds(), ttbr)?;
        (!disabled).then(|| regime.with_updates(tcr.ha(), tcr.hd()))
    }

    /// Stage 1 of EL2 with `HCR_EL2.E2H` = 0.
    pub fn stage1_el2(tcr: TcrEl2, ttbr: u64) -> Option<Self> {
        let regime = Self::stage1(granule_of_tg0(tcr.tg0()), tcr.t0sz(), tcr.ps(), tcr.ds(), ttbr)?;
        Some(regime.with_updates(tcr.ha(), tcr.hd()))
    }

    fn stage1(granule: Granule, txsz: u8, ps: u8, ds: bool, ttbr: u64) -> Option<Self> {
        let ds = ds && granule != Granule::Kib64;
        let input_bits = input_bits(granule, txsz, ds)?;
        // `AArch64.S1StartLevel`: as few levels as resolve the input address.
        let levels_above_last = (input_bits - 1 - granule.bits()) / granule.stride();
        Some(Self::with_table(
            granule,
            input_bits,
            LAST - levels_above_last as i8,
            ps,
            ds,
            ttbr,
        ))
    }

    /// Stage 2. `None` is a Translation fault at level 0: T0SZ out of range, or a start level that does not exist or does
    /// not fit (`AArch64.S2TxSZFaults`, `AArch64.S2InvalidSL`, `AArch64.S2InconsistentSL`).
    pub fn stage2(vtcr: VtcrEl2, vttbr: VttbrEl2) -> Option<Self> {
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
        let input_bits = input_bits(granule, vtcr.t0sz(), ds)?;
        let below_start = granule.level_shift(start_level);
        let resolvable = below_start + 1..=below_start + granule.stride() + MAX_CONCATENATION_BITS;
        resolvable.contains(&input_bits).then(|| {
            Self::with_table(granule, input_bits, start_level, vtcr.ps(), ds, vttbr.into())
                .with_updates(vtcr.ha(), vtcr.hd())
        })
    }

    /// `AArch64.PhysicalAddressSize`, and the start-level table: the register's address aligned down to the table's size,
    /// with bits 51:48 in bits 5:2 where tables may lie that high (`AArch64.S1TTBaseAddress`, `S2TTBaseAddress`). The reserved
    /// PS of 7 behaves like 6, as it may.
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
        let (table, table_bits) = if ds || granule == Granule::Kib64 && ps >= 6 {
            (low | (ttbr >> 2 & 0xf) << 48, table_bits.max(6))
        } else {
            (low, table_bits)
        };
        Self {
            granule,
            input_bits,
            start_level,
            table: table >> table_bits << table_bits,
            output_bits,
            ds,
            ha: false,
            hd: false,
            start_shift: granule.level_shift(start_level),
            high_bits: match (granule, ds) {
                (Granule::Kib64, _) => HighBits::At12,
                (_, true) => HighBits::At8,
                (_, false) => HighBits::None,
            },
        }
    }

    fn with_updates(self, ha: bool, hd: bool) -> Self {
        Self {
            ha,
            hd: ha && hd,
            ..self
        }
    }

    /// An address in a descriptor: bits 47 down to the alignment, and those above.
    #[inline]
    fn address(&self, desc: u64, aligned_to: u32) -> u64 {
        let low = (desc & mask(48)) >> aligned_to << aligned_to;
        match self.high_bits {
            HighBits::None => low,
            HighBits::At12 => low | (desc >> 12 & 0xf) << 48,
            HighBits::At8 => low | (desc >> 8 & 3) << 50 | (desc >> 48 & 3) << 48,
        }
    }

    /// `AArch64.BlockDescSupported`.
    const fn has_block(&self, level: i8) -> bool {
        match (self.granule, level) {
            (_, 2) | (Granule::Kib4 | Granule::Kib64, 1) => true,
            (Granule::Kib4, 0) | (Granule::Kib16, 1) => self.ds,
            _ => false,
        }
    }

    /// log2 of the entries that a contiguous hint joins (`ContiguousSize`).
    const fn contiguous_bits(&self, level: i8) -> u32 {
        match (self.granule, level) {
            (Granule::Kib4, 1..=3) => 4,
            (Granule::Kib16, 2) | (Granule::Kib64, 2..=3) => 5,
            (Granule::Kib16, 3) => 7,
            _ => 0,
        }
    }

    /// What the descriptor at `entry`, which maps `2^shift` bytes, maps the input to.
    #[inline]
    fn leaf(
        &self,
        level: i8,
        shift: u32,
        entry: u64,
        desc: u64,
        input: u64,
        table_bits: u64,
    ) -> Result<Found, WalkFault> {
        let address = self.address(desc, shift) + (input & mask(shift));
        // The whole output address counts, not only the leaf's base (`StageOA`). QEMU 10.0.2 looks at the base, which shows for
        // 64 KiB blocks of level 1 (C1 in the recorded vectors).
        self.check_output(address, level)?;
        if desc & AF == 0 && !self.ha {
            let kind = FaultKind::AccessFlag;
            return Err(WalkFault { kind, level });
        }
        let joined = if desc & CONTIGUOUS == 0 {
            0
        } else {
            self.contiguous_bits(level)
        };
        Ok(Found {
            level,
            desc,
            entry,
            address,
            size: 1 << (shift + joined),
            table_bits,
        })
    }

    /// `AArch64.OAOutOfRange`.
    #[inline]
    fn check_output(&self, address: u64, level: i8) -> Result<(), WalkFault> {
        if address >> self.output_bits == 0 {
            return Ok(());
        }
        let kind = FaultKind::AddressSize;
        Err(WalkFault { kind, level })
    }
}

/// Translates one input address (`AArch64.S1Walk`, `AArch64.S2Walk`).
///
/// `fetch` reads the descriptor at an address of the tables' space: for stage 1 under stage 2 that is no physical one. The
/// caller has checked that the input is in range.
#[inline]
pub fn walk<E: From<WalkFault>>(
    regime: &Regime,
    input: u64,
    mut fetch: impl FnMut(u64, i8) -> Result<u64, E>,
) -> Result<Found, E> {
    let (page_bits, stride) = (regime.granule.bits(), regime.granule.stride());
    let (mut table, mut level, mut shift, mut table_bits) = (regime.table, regime.start_level, regime.start_shift, 0);
    regime.check_output(table, 0)?;
    // At the start level all remaining input bits count, which is concatenation.
    let mut index = (input & mask(regime.input_bits)) >> shift;
    let (entry, desc) = loop {
        let entry = table + (index << DESCRIPTOR_SHIFT);
        let desc = fetch(entry, level)?;
        match (desc & 0b11, level) {
            (0b11, LAST) => break (entry, desc),
            (0b11, _) => {
                table = regime.address(desc, page_bits);
                regime.check_output(table, level)?;
                table_bits |= desc;
                level += 1;
                shift -= stride;
                index = input >> shift & mask(stride);
            }
            (0b01, _) if regime.has_block(level) => break (entry, desc),
            _ => {
                let kind = FaultKind::Translation;
                return Err(WalkFault { kind, level }.into());
            }
        }
    };
    Ok(regime.leaf(level, shift, entry, desc, input, table_bits)?)
}

/// The descriptor at a physical address.
#[inline]
pub(crate) fn read_physical<S: DescriptorSource>(src: &mut S, pa: Pa, level: i8) -> Result<u64, WalkFault> {
    let kind = FaultKind::SyncExternalAbortOnWalk;
    src.read_descriptor(pa).ok_or(WalkFault { kind, level })
}

/// The bits that `TnSZ` leaves: at most 48, or 52 where tables may be that large, and at least what `FEAT_TTST` allows
/// (`AArch64.S1MinTxSZ`, `AArch64.MaxTxSZ`).
const fn input_bits(granule: Granule, txsz: u8, ds: bool) -> Option<u32> {
    let smallest = if ds || matches!(granule, Granule::Kib64) {
        12
    } else {
        16
    };
    let largest = if matches!(granule, Granule::Kib64) { 47 } else { 48 };
    if txsz < smallest || txsz > largest {
        return None;
    }
    Some(64 - txsz as u32)
}

const fn granule_of_tg0(tg0: u8) -> Granule {
    match tg0 {
        1 => Granule::Kib64,
        2 => Granule::Kib16,
        _ => Granule::Kib4,
    }
}

const fn granule_of_tg1(tg1: u8) -> Granule {
    match tg1 {
        1 => Granule::Kib16,
        3 => Granule::Kib64,
        _ => Granule::Kib4,
    }
}

/// The low `bits` bits, fewer than 64.
const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

#[cfg(test)]
mod tests;
