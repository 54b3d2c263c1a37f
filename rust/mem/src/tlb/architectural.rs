//! The architectural TLB: translations of both stages by VMID and ASID, of every leaf size, until they are invalidated.
//!
//! Models a unified set-associative TLB that is asked when a micro TLB misses. Left out: a cache of walks in progress,
//! prefetching, conflict aborts: of several entries for an address the smallest answers, of equals the latest. Software that
//! breaks before it makes never has several; [`Tlb::overlapping`] tells who does not.
//!
//! Invariants: nothing leaves but by invalidation or, in a full set, by being the oldest there; so the same calls give the
//! same answers. A look-up allocates nothing.

use tagvisor_arch::Va;

use super::entry::{Context, Regime, TlbEntry, key, overlap, range};
use super::tlbi::Tlbi;

/// Entries of a set.
const WAYS: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Filled<P> {
    /// Counts up with every fill.
    at: u64,
    entry: TlbEntry<P>,
}

/// A set-associative TLB.
#[derive(Clone, Debug)]
pub struct Tlb<P> {
    /// Sets one after the other; none before the first fill.
    slots: Vec<Option<Filled<P>>>,
    set_bits: u32,
    /// Bit `n` is set if there may be entries of `2^n` bytes.
    sizes: u64,
    fills: u64,
}

impl<P: Copy> Tlb<P> {
    /// A TLB of `2^set_bits` sets of 4 entries. Nothing is allocated before the first fill.
    pub fn new(set_bits: u32) -> Self {
        Self {
            slots: Vec::new(),
            set_bits,
            sizes: 0,
            fills: 0,
        }
    }

    /// The entry that translates an address, if there is one. What the top byte of the address may hold was decided before.
    pub fn lookup(&self, context: Context, va: Va) -> Option<&TlbEntry<P>> {
        let mut sizes = self.sizes;
        while sizes != 0 {
            let bits = sizes.trailing_zeros();
            let first = self.first_of_set(context, va, bits);
            let matching = self.slots[first..first + WAYS]
                .iter()
                .flatten()
                .filter(|filled| filled.entry.bits == bits && filled.entry.maps(va) && filled.entry.holds_for(context));
            if let Some(found) = matching.max_by_key(|filled| filled.at) {
                return Some(&found.entry);
            }
            sizes &= sizes - 1;
        }
        None
    }

    /// Caches a translation in the place of the one for the same addresses and context, of none, or of its set's oldest.
    ///
    /// # Panics
    /// In debug builds, if an address is not aligned to the size, or the stage-1 leaf is smaller than the entry.
    pub fn fill(&mut self, entry: TlbEntry<P>) {
        let aligned = (entry.va.0 | entry.ipa.0 | entry.pa.0) & ((1 << entry.bits) - 1) == 0;
        debug_assert!(aligned, "an entry is aligned to its size");
        debug_assert!(
            entry.stage1_bits.is_none_or(|bits| bits >= entry.bits),
            "the smaller leaf counts"
        );
        if self.slots.is_empty() {
            self.slots = vec![None; WAYS << self.set_bits];
        }
        let first = self.first_of_set(entry.context, entry.va, entry.bits);
        // Empty slots are older than any entry, and what is replaced comes before both.
        let age = |slot: &Option<Filled<P>>| match slot {
            Some(old) if same_place(&old.entry, &entry) => (0, 0),
            Some(old) => (1, old.at),
            None => (1, 0),
        };
        self.fills += 1;
        if let Some(slot) = self.slots[first..first + WAYS].iter_mut().min_by_key(|slot| age(slot)) {
            *slot = Some(Filled { at: self.fills, entry });
        }
        self.sizes |= 1 << entry.bits;
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = &TlbEntry<P>> {
        self.slots.iter().flatten().map(|filled| &filled.entry)
    }

    /// Removes what the operation names, at once.
    pub fn invalidate(&mut self, operation: Tlbi) {
        self.sizes = 0;
        for slot in &mut self.slots {
            match slot {
                Some(filled) if operation.removes(&filled.entry) => *slot = None,
                Some(filled) => self.sizes |= 1 << filled.entry.bits,
                None => {}
            }
        }
    }

    /// The entries that an access in this context to any of `bytes` bytes from `va` on could hit: a valid descriptor that is
    /// changed into another valid one while there are some was not broken first.
    pub fn overlapping(&self, context: Context, va: Va, bytes: u64) -> impl Iterator<Item = &TlbEntry<P>> {
        let wanted = range(key(va), bytes);
        self.slots
            .iter()
            .flatten()
            .map(|filled| &filled.entry)
            .filter(move |entry| entry.holds_for(context) && overlap(&entry.va_range(), &wanted))
    }

    /// Where the set begins that entries of this size for the address lie in, whatever their ASID.
    #[inline]
    fn first_of_set(&self, context: Context, va: Va, bits: u32) -> usize {
        let vmid = match context.regime {
            Regime::El10 => context.vmid.map_or(0, u64::from),
            Regime::El2 => 0,
        };
        let page = key(va) >> bits;
        let set = (page ^ page >> self.set_bits ^ vmid) & ((1 << self.set_bits) - 1);
        set as usize * WAYS
    }
}

/// Whether one entry takes the other's place: both translate the same addresses for the same accesses.
fn same_place<P>(one: &TlbEntry<P>, other: &TlbEntry<P>) -> bool {
    one.bits == other.bits && one.maps(other.va) && one.global == other.global && one.holds_for(other.context)
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
