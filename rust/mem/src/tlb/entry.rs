//! What the architectural TLB holds: a translation, and for whom it holds.
//!
//! An entry is the product of both stages, as large as the smaller of the two leaves. Left out: entries of one stage
//! alone beside the products, EL2 with `HCR_EL2.E2H` set (so EL2 has no ASIDs), EL3, security states. The invariant:
//! addresses are compared by bits 55:0, so that a tag or any other top byte makes no difference.

use std::ops::Range;

use tagvisor_arch::{Ipa, Pa, Va};

/// A translation regime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Regime {
    /// EL1&0: stage 1, and stage 2 if it is on.
    El10,
    /// EL2: one stage, no ASID, no VMID.
    El2,
}

/// For whom an access is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    /// The regime.
    pub regime: Regime,
    /// The current VMID; `None` while stage 2 is off. EL2 has none.
    pub vmid: Option<u16>,
    /// The current ASID; EL2 has none, and what stands here does not count.
    pub asid: u16,
}

/// A cached translation. `P` is what a hit needs besides the address: permissions, memory type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TlbEntry<P> {
    /// For whom it was made.
    pub context: Context,
    /// Whether it holds for every ASID (nG = 0, or stage 1 off).
    pub global: bool,
    /// First virtual address, aligned to the size.
    pub va: Va,
    /// log2 of the bytes it maps: the smaller leaf of the two stages, a contiguous run counting as one leaf.
    pub bits: u32,
    /// log2 of the bytes of the stage-1 leaf, at least `bits`; `None` while stage 1 is off.
    pub stage1_bits: Option<u32>,
    /// Where stage 1 leads: first of as many intermediate addresses.
    pub ipa: Ipa,
    /// Where stage 2 leads: first of as many physical addresses.
    pub pa: Pa,
    /// What else a hit needs.
    pub payload: P,
}

impl<P> TlbEntry<P> {
    /// The physical address of a virtual one that the entry maps.
    #[inline]
    pub fn translate(&self, va: Va) -> Pa {
        self.pa + (va.0 & mask(self.bits))
    }

    /// Whether an access in this context may be translated by the entry.
    #[inline]
    pub(super) fn holds_for(&self, context: Context) -> bool {
        let own = self.context;
        own.regime == context.regime
            && (own.regime == Regime::El2 || own.vmid == context.vmid && (self.global || own.asid == context.asid))
    }

    #[inline]
    pub(super) fn maps(&self, va: Va) -> bool {
        key(va) >> self.bits == key(self.va) >> self.bits
    }

    /// The virtual addresses it maps, without their top byte.
    pub(super) fn va_range(&self) -> Range<u64> {
        range(key(self.va), 1 << self.bits)
    }

    /// The virtual addresses of the stage-1 leaf it was made from, without their top byte.
    pub(super) fn stage1_range(&self) -> Range<u64> {
        let bits = self.stage1_bits.unwrap_or(self.bits);
        range(key(self.va) & !mask(bits), 1 << bits)
    }

    pub(super) fn ipa_range(&self) -> Range<u64> {
        range(self.ipa.0, 1 << self.bits)
    }
}

/// What counts of a virtual address: bits 55:0. Bit 55 tells the halves of the address space apart.
#[inline]
pub(super) const fn key(va: Va) -> u64 {
    va.0 & mask(56)
}

pub(super) fn range(start: u64, bytes: u64) -> Range<u64> {
    start..start.saturating_add(bytes)
}

pub(super) fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// The low `bits` bits, fewer than 64.
const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}
