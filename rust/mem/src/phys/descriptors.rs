//! What the table walker reads, and the few words of it that are kept at hand.
//!
//! Models the walker's view of memory: online memory that is no device. The words it reads again and again (the upper
//! levels of every walk) are kept by address in a small direct-mapped array, so that one load and a comparison answer.
//! That is no architectural cache: a store to such a word drops it at once. So it is with the [`LastTables`] beside them.
//!
//! Invariants: what is kept is what memory holds; it lies in online RAM, in a frame marked as walked. Whoever writes to
//! such a frame, or changes what is online, says so ([`Descriptors::forget`], [`Descriptors::forget_all`]).

use tagvisor_arch::{DescriptorSource, LastTable, Pa, TableKey};

use super::last_tables::LastTables;
use super::{PhysMem, WORD};
use crate::region::RegionKind;

const WORDS: usize = 256;
const WORD_BYTES: u64 = 8;
/// Reads by the slow way before room is made for what is kept: a machine cloned for a few steps does without.
const PATIENCE: u32 = 64;
/// More words than this in one write are not looked for one by one.
const FEW: u64 = 8;

#[derive(Clone, Copy, Debug)]
struct Word {
    pa: Pa,
    desc: u64,
}

impl Word {
    /// No descriptor has an address that is not a multiple of 8.
    const NONE: Self = Self {
        pa: Pa(u64::MAX),
        desc: 0,
    };
}

/// Words kept for the table walker.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    /// None at first, then [`WORDS`] long.
    words: Vec<Word>,
    last_tables: LastTables,
    reads: u32,
}

impl Clone for Descriptors {
    /// A clone starts with nothing kept, which costs nothing.
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Descriptors {
    #[inline]
    fn get(&self, pa: Pa) -> Option<u64> {
        self.words
            .get(slot(pa))
            .filter(|word| word.pa == pa)
            .map(|word| word.desc)
    }

    /// Keeps a word, if it is time for that.
    fn keep(&mut self, pa: Pa, desc: u64) {
        if self.words.is_empty() {
            self.reads += 1;
            if self.reads < PATIENCE {
                return;
            }
            self.words = vec![Word::NONE; WORDS];
            self.last_tables.make_room();
        }
        self.words[slot(pa)] = Word { pa, desc };
    }

    /// Drops the words that `len` bytes from `pa` on touch, and every table, which may depend on them.
    pub(super) fn forget(&mut self, pa: Pa, len: u64) {
        self.last_tables.forget();
        let first = pa.0 / WORD_BYTES;
        let last = (pa.0 + len).div_ceil(WORD_BYTES);
        if last - first > FEW {
            return self.forget_all();
        }
        for pa in (first..last).map(|word| Pa(word * WORD_BYTES)) {
            if let Some(word) = self.words.get_mut(slot(pa)).filter(|word| word.pa == pa) {
                *word = Word::NONE;
            }
        }
    }

    pub(super) fn forget_all(&mut self) {
        self.last_tables.forget();
        self.words.fill(Word::NONE);
    }
}

/// Neighbouring words have slots of their own, and so have the same words of neighbouring tables.
#[inline]
fn slot(pa: Pa) -> usize {
    ((pa.0 / WORD_BYTES) ^ pa.pfn().0) as usize % WORDS
}

impl DescriptorSource for PhysMem {
    /// `None`, an external abort, unless the word lies in online memory that is no device.
    #[inline]
    fn read_descriptor(&mut self, pa: Pa) -> Option<u64> {
        match self.descriptors.get(pa) {
            Some(desc) => Some(desc),
            None => self.read_descriptor_from_memory(pa),
        }
    }

    #[inline]
    fn write_descriptor(&mut self, pa: Pa, desc: u64) {
        self.write_u64(pa, desc);
    }

    #[inline]
    fn changes(&self) -> u64 {
        self.descriptors.last_tables.changes()
    }

    #[inline]
    fn kept_table(&self, key: &TableKey) -> Option<LastTable> {
        self.descriptors.last_tables.get(key)
    }

    fn keep_table(&mut self, key: TableKey, table: LastTable, pa: Pa) {
        if let Some(home) = self.frames.find(pa.pfn()) {
            self.descriptors.last_tables.keep(key, LastTable { home, ..table });
        }
    }

    #[inline]
    fn read_kept(&self, table: &LastTable, offset: u64) -> u64 {
        self.frame_word(table.home, offset as usize / WORD)
    }
}

impl PhysMem {
    fn read_descriptor_from_memory(&mut self, pa: Pa) -> Option<u64> {
        let Some(frame) = self.frames.find(pa.pfn()) else {
            return self
                .region_of(pa.pfn())
                .filter(|region| region.is_walkable())
                .map(|_| 0);
        };
        if !self.regions[self.frames.frame(frame).region as usize].is_walkable() {
            return None;
        }
        self.frames.frame_mut(frame).walked = true;
        let desc = self.frame_word(frame, pa.page_offset() as usize / WORD);
        self.descriptors.keep(pa, desc);
        Some(desc)
    }
}

impl crate::Region {
    fn is_walkable(&self) -> bool {
        self.online && self.kind != RegionKind::Device
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tagvisor_arch::PAGE_SIZE;

    use super::*;
    use crate::Region;

    const RAM: Pa = Pa(0x4000_0000);
    const PAGES: u64 = 3;

    /// Memory whose walker keeps words from now on.
    fn memory() -> PhysMem {
        let mut memory = PhysMem::new(vec![Region::ram(RAM, PAGES * PAGE_SIZE, "ram")]).expect("a legal map");
        memory.write_u64(RAM, 3);
        for _ in 0..=PATIENCE {
            assert_eq!(memory.read_descriptor(RAM), Some(3));
        }
        memory
    }

    fn kept(memory: &PhysMem) -> usize {
        memory
            .descriptors
            .words
            .iter()
            .filter(|word| word.pa != Word::NONE.pa)
            .count()
    }

    #[test]
    fn room_is_made_when_the_walker_has_read_for_a_while() {
        let mut fresh = PhysMem::new(vec![Region::ram(RAM, PAGE_SIZE, "ram")]).expect("a legal map");
        fresh.write_u64(RAM, 3);
        (1..PATIENCE).for_each(|_| assert_eq!(fresh.read_descriptor(RAM), Some(3)));

        assert_eq!((fresh.descriptors.words.capacity(), kept(&memory())), (0, 1));
        assert_eq!(memory().clone().descriptors.words.capacity(), 0);
    }

    #[test]
    fn one_word_written_drops_that_word_only() {
        let mut memory = memory();
        memory.read_descriptor(RAM + 8);

        memory.write_descriptor(RAM, 5);

        assert_eq!(kept(&memory), 1);
        assert_eq!(memory.read_descriptor(RAM), Some(5));
    }

    #[test]
    fn a_page_taken_offline_is_offline_at_once() {
        let mut memory = memory();

        memory.set_online(RAM, false).unwrap();
        assert_eq!(memory.read_descriptor(RAM), None);

        memory.set_online(RAM, true).unwrap();
        assert_eq!(memory.read_descriptor(RAM), Some(3));
    }

    /// What is done to the memory between the walker's reads.
    #[derive(Clone, Debug)]
    enum Op {
        Read(u64),
        Write { at: u64, bytes: Vec<u8> },
        WriteByFrame { page: u64, word: u64, value: u64 },
        Zero(u64),
        Copy(u64, u64),
        Clone,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        // Few words, so that reads find what is kept.
        let word = || (0..PAGES, 0u64..5).prop_map(|(page, word)| page * 512 + word);
        let page = || 0..PAGES;
        let bytes = prop_oneof![4 => 1usize..20, 1 => 60usize..200]
            .prop_flat_map(|len| prop::collection::vec(any::<u8>(), len));
        let op = prop_oneof![
            8 => word().prop_map(Op::Read),
            2 => (word(), 0u64..8, bytes).prop_map(|(word, off, bytes)| Op::Write { at: word * 8 + off, bytes }),
            3 => (page(), 0u64..5, any::<u64>()).prop_map(|(page, word, value)| Op::WriteByFrame { page, word, value }),
            1 => page().prop_map(Op::Zero),
            1 => (page(), page()).prop_map(|(from, to)| Op::Copy(from, to)),
            1 => Just(Op::Clone),
        ];
        prop::collection::vec(op, 0..200)
    }

    proptest! {
        #[test]
        fn the_walker_reads_what_memory_holds(ops in ops()) {
            let mut memory = memory();
            let pfn = |page: u64| RAM.pfn() + page;

            for op in ops {
                match op {
                    Op::Read(word) => {
                        let pa = RAM + word * WORD_BYTES;
                        prop_assert_eq!(memory.read_descriptor(pa), Some(memory.read_u64(pa)));
                    }
                    Op::Write { at, bytes } => {
                        let room = (PAGES * PAGE_SIZE - at) as usize;
                        memory.write(RAM + at, &bytes[..bytes.len().min(room)]);
                    }
                    Op::WriteByFrame { page, word, value } => {
                        let frame = memory.touch(pfn(page));
                        memory.frame_write_u64(frame, word as usize * 8, value);
                    }
                    Op::Zero(page) => memory.zero_page(pfn(page)),
                    Op::Copy(from, to) => memory.copy_page(pfn(from), pfn(to)),
                    // The origin goes on, beside a clone that writes to the same frames.
                    Op::Clone => memory.clone().write_u64(RAM, 0x77),
                }
            }
        }
    }
}
