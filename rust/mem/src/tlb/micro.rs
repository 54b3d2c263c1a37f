//! The nearest cache of translations: per vCPU, pages only, direct-mapped.
//!
//! An entry leads from a virtual page number to the frame's index in [`PhysMem`](crate::PhysMem), so a hit needs no hash
//! look-up. Left out: VMID and ASID tags (one buffer per vCPU, flushed when either would change), block entries and
//! replacement policy. The invariant: an entry is found only under the page number it was filled with.

use bitflags::bitflags;

bitflags! {
    /// What a cached translation allows and what the memory is.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct TlbFlags: u8 {
        /// May be read.
        const READ = 1 << 0;
        /// May be written.
        const WRITE = 1 << 1;
        /// The combined type is Normal Write-Back Tagged.
        const TAGGED = 1 << 2;
        /// The combined type is Device.
        const DEVICE = 1 << 3;
        /// Accesses are tag checked, in the state the entry was filled in.
        const CHECKED = 1 << 4;
        /// Tags may be accessed, in the state the entry was filled in.
        const TAG_ACCESS = 1 << 5;
        /// Both READ and CHECKED, so that the most frequent question is one of one bit.
        const CHECKED_READ = 1 << 6;
    }
}

/// One cached translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MicroTlbEntry {
    /// Virtual page number, `u64::MAX` for an empty entry.
    pub page: u64,
    /// Index of the frame.
    pub frame: u32,
    /// Permissions and type.
    pub flags: TlbFlags,
}

impl MicroTlbEntry {
    const EMPTY: Self = Self {
        page: u64::MAX,
        frame: 0,
        flags: TlbFlags::empty(),
    };
}

/// A direct-mapped buffer of `2^bits` translations.
#[derive(Clone, Debug)]
pub struct MicroTlb {
    /// Empty until the first fill, then `2^bits` long.
    entries: Box<[MicroTlbEntry]>,
    bits: u32,
    /// Whether anything was filled since the last flush, so that flushing an empty buffer costs nothing.
    filled: bool,
}

impl MicroTlb {
    /// A buffer of `2^bits` entries; 0 is none at all, which never hits. Nothing is allocated before the first fill.
    pub fn new(bits: u32) -> Self {
        Self {
            entries: Box::default(),
            bits,
            filled: false,
        }
    }

    /// The translation of a virtual page, if cached.
    #[inline]
    pub fn lookup(&self, vpn: u64) -> Option<&MicroTlbEntry> {
        self.entries.get(self.slot(vpn)).filter(|entry| entry.page == vpn)
    }

    /// Where a page is cached. The length is 0 or a power of two; the mask of the empty buffer is all ones, and no
    /// slot of it exists.
    #[inline]
    fn slot(&self, vpn: u64) -> usize {
        vpn as usize & self.entries.len().wrapping_sub(1)
    }

    /// Caches a translation in the place of whatever shared its slot.
    ///
    /// # Panics
    /// In debug builds, if the entry claims the page number that marks an empty one.
    pub fn fill(&mut self, entry: MicroTlbEntry) {
        debug_assert_ne!(entry.page, MicroTlbEntry::EMPTY.page, "no virtual page has this number");
        if self.bits == 0 {
            return;
        }
        if self.entries.is_empty() {
            self.entries = vec![MicroTlbEntry::EMPTY; 1 << self.bits].into();
        }
        let slot = self.slot(entry.page);
        self.entries[slot] = entry;
        self.filled = true;
    }

    /// Forgets one page (`TLBI VAE1`, or the effect of an IPA invalidation on one vCPU).
    pub fn invalidate(&mut self, vpn: u64) {
        let slot = self.slot(vpn);
        if let Some(entry) = self.entries.get_mut(slot)
            && entry.page == vpn
        {
            *entry = MicroTlbEntry::EMPTY;
        }
    }

    /// Forgets everything (`TLBI VMALLS12E1`).
    pub fn invalidate_all(&mut self) {
        if self.filled {
            self.entries.fill(MicroTlbEntry::EMPTY);
            self.filled = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn entry(page: u64, frame: u32) -> MicroTlbEntry {
        let flags = TlbFlags::READ | TlbFlags::TAGGED;
        MicroTlbEntry { page, frame, flags }
    }

    #[test]
    fn lookup_finds_what_was_filled() {
        let mut tlb = MicroTlb::new(4);

        tlb.fill(entry(0x5_0001, 7));

        assert_eq!(tlb.lookup(0x5_0001), Some(&entry(0x5_0001, 7)));
        assert_eq!(tlb.lookup(0x5_0011), None, "same slot, another page");
    }

    #[test]
    fn fresh_buffer_allocates_nothing_and_finds_nothing() {
        let tlb = MicroTlb::new(20);

        assert!(tlb.entries.is_empty());
        assert_eq!(tlb.lookup(0), None);
        assert_eq!(tlb.lookup(u64::MAX >> 20), None);
    }

    #[test]
    fn buffer_of_0_bits_never_hits() {
        let mut tlb = MicroTlb::new(0);

        tlb.fill(entry(1, 1));

        assert_eq!(tlb.lookup(1), None);
    }

    #[test]
    fn invalidate_leaves_another_page_in_the_slot() {
        let mut tlb = MicroTlb::new(4);
        tlb.fill(entry(0x11, 1));

        tlb.invalidate(0x21);
        assert!(tlb.lookup(0x11).is_some());
        tlb.invalidate(0x11);

        assert_eq!(tlb.lookup(0x11), None);
    }

    #[test]
    fn invalidate_all_forgets_everything() {
        let mut tlb = MicroTlb::new(4);
        tlb.fill(entry(1, 1));
        tlb.fill(entry(2, 2));

        tlb.invalidate_all();

        assert_eq!((tlb.lookup(1), tlb.lookup(2)), (None, None));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Fill(u64, u32),
        Invalidate(u64),
        InvalidateAll,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let page = || 0u64..24;
        let op = prop_oneof![
            8 => (page(), 0u32..100).prop_map(|(page, frame)| Op::Fill(page, frame)),
            3 => page().prop_map(Op::Invalidate),
            1 => Just(Op::InvalidateAll),
        ];
        prop::collection::vec(op, 0..60)
    }

    proptest! {
        #[test]
        fn buffer_holds_the_last_live_fill_of_every_slot(ops in ops()) {
            let (mut tlb, mut slots) = (MicroTlb::new(3), BTreeMap::new());

            for op in ops {
                match op {
                    Op::Fill(page, frame) => {
                        tlb.fill(entry(page, frame));
                        slots.insert(page % 8, (page, frame));
                    }
                    Op::Invalidate(page) => {
                        tlb.invalidate(page);
                        slots.retain(|_, filled| filled.0 != page);
                    }
                    Op::InvalidateAll => {
                        tlb.invalidate_all();
                        slots.clear();
                    }
                }
            }

            for page in 0..24 {
                let want = slots.get(&(page % 8)).filter(|filled| filled.0 == page);
                prop_assert_eq!(tlb.lookup(page).copied(), want.map(|&(page, frame)| entry(page, frame)));
            }
        }
    }
}
