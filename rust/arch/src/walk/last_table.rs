//! The last-level table that a walk comes to, kept so that the next walk may begin there.
//!
//! Models nothing: with it or without it the outcome of a walk is the same at any time, unlike with an architectural walk
//! cache, which may be stale. Left out: tables above the last level, whose blocks need no long walk.
//!
//! The invariant: which table comes last is a function of the registers, of the bits of the input above it and of the words
//! read on the way, under stage 2 those of its walks too. Registers and input are a [`TableKey`]; the memory counts the changes
//! of words ([`DescriptorSource::changes`]), and a key of another count is another key.

use super::{DESCRIPTOR_SHIFT, DescriptorSource, Found, LAST, Regime, WalkFault};
use crate::addr::{PAGE_SHIFT, PAGE_SIZE};
use crate::fault::FaultKind;

/// log2 of the descriptors in a page: 4 KiB of a larger table are a table of their own here.
const PAGE_INDEX_BITS: u32 = PAGE_SHIFT - DESCRIPTOR_SHIFT;

/// What decides which last-level table a walk comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableKey {
    /// Bits of the input above those that the table resolves.
    pub prefix: u64,
    /// The start-level table.
    pub root: u64,
    /// That of the stage 2 which the tables lie under.
    pub under_root: u64,
    /// Geometry of the regime, and of the stage 2 which its tables lie under.
    pub geometry: [u32; 2],
    /// How many changes of memory came before.
    pub changes: u64,
}

/// A page of a last-level table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastTable {
    /// Its address in the address space of the tables.
    pub table: u64,
    /// The memory's own name for that page.
    pub home: u32,
    /// See [`Found::table_bits`].
    pub table_bits: u64,
}

/// Which stage 2 the tables of a regime lie under: its start-level table, and a number for all else that decides where it
/// puts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Under {
    pub(crate) root: u64,
    pub(crate) geometry: u32,
}

impl TableKey {
    /// The key of a walk that starts now.
    #[inline]
    pub(crate) fn new(src: &impl DescriptorSource, regime: &Regime, input: u64, under: Under) -> Self {
        let above = u64::BITS - regime.input_bits;
        Self {
            prefix: input << above >> above >> (regime.granule.bits() + PAGE_INDEX_BITS),
            root: regime.table,
            under_root: under.root,
            geometry: [regime.geometry(), under.geometry],
            changes: src.changes(),
        }
    }
}

impl LastTable {
    /// The table that a walk came to; `None` if it read no table before.
    #[inline]
    pub(crate) fn of(regime: &Regime, found: &Found) -> Option<Self> {
        (regime.start_level < LAST && found.level == LAST).then_some(Self {
            table: found.entry & !(PAGE_SIZE - 1),
            home: 0,
            table_bits: found.table_bits,
        })
    }

    /// The rest of the walk, through the memory that gave the table.
    #[inline]
    pub(crate) fn walk(&self, src: &impl DescriptorSource, regime: &Regime, input: u64) -> Result<Found, WalkFault> {
        let shift = regime.granule.bits();
        let offset = (input >> shift << DESCRIPTOR_SHIFT) % PAGE_SIZE;
        let desc = src.read_kept(self, offset);
        if desc & 0b11 != 0b11 {
            let kind = FaultKind::Translation;
            return Err(WalkFault { kind, level: LAST });
        }
        regime.leaf(LAST, shift, self.table + offset, desc, input, self.table_bits)
    }
}

impl Regime {
    /// In one number all that decides, besides the start-level table, which tables a walk reads.
    #[inline]
    pub(crate) fn geometry(&self) -> u32 {
        let start_level = self.start_level.cast_unsigned();
        u32::from(start_level & 0xf)
            | self.input_bits << 4
            | self.output_bits << 11
            | self.granule.bits() << 18
            | u32::from(self.ds) << 23
    }
}
