//! Many states that differ in little, in few bytes each.
//!
//! A state is a list of small numbers: for each actor the number of its place in its program, and for each part of the host
//! the number of its value. Values are kept once, however many states have them; the lists lie one behind the other, a byte
//! or two a number. **Leaves out** what a number stands for; that is [`crate::space`]'s.
//!
//! **Keeps**: two lists are one state only if they are equal, number by number: a hash finds candidates and decides nothing.

use std::hash::Hasher;

use hashbrown::HashTable;
use rustc_hash::FxHasher;

/// How a state was reached: from which state, and who moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    pub(crate) before: u32,
    pub(crate) who: u8,
}

/// The start was reached from nowhere.
pub(crate) const ROOT: u32 = u32::MAX;

/// States between two full addresses; the others are told by their distance.
const BLOCK: usize = 1 << 12;

/// Every distinct state, in the order of discovery.
#[derive(Debug, Default)]
pub(crate) struct Store {
    bytes: Vec<u8>,
    /// Address of each [`BLOCK`]th list.
    blocks: Vec<usize>,
    /// Address of each list behind its block's.
    starts: Vec<u32>,
    links_before: Vec<u32>,
    links_who: Vec<u8>,
    table: HashTable<u32>,
    /// The list that is looked up, encoded.
    wanted: Vec<u8>,
}

impl Store {
    /// Distinct states.
    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Bytes that all of it takes, room for growth included.
    pub(crate) fn memory(&self) -> usize {
        let words = self.starts.capacity() + self.links_before.capacity();
        self.bytes.capacity()
            + self.blocks.capacity() * size_of::<usize>()
            + words * size_of::<u32>()
            + self.links_who.capacity()
            + self.table.allocation_size()
    }

    pub(crate) fn link(&self, index: u32) -> Link {
        Link {
            before: self.links_before[index as usize],
            who: self.links_who[index as usize],
        }
    }

    /// The list of a state, into `numbers`.
    pub(crate) fn get(&self, index: u32, numbers: &mut Vec<u32>) {
        numbers.clear();
        let mut bytes = record(&self.bytes, &self.blocks, &self.starts, index).iter().copied();
        while let Some(number) = decode(&mut bytes) {
            numbers.push(number);
        }
    }

    /// Adds the state unless it is there; says whether it was new. Zeros at the end of a list mean nothing.
    pub(crate) fn insert(&mut self, numbers: &[u32], link: Link) -> bool {
        self.wanted.clear();
        let used = numbers
            .iter()
            .rposition(|number| *number != 0)
            .map_or(0, |last| last + 1);
        numbers[..used]
            .iter()
            .for_each(|number| encode(*number, &mut self.wanted));
        let Self {
            bytes,
            blocks,
            starts,
            table,
            wanted,
            ..
        } = self;
        let found = table.find(hash(wanted), |index| {
            record(bytes, blocks, starts, *index) == wanted.as_slice()
        });
        if found.is_some() {
            return false;
        }
        let index = u32::try_from(starts.len()).expect("fewer than 2^32 states");
        if starts.len().is_multiple_of(BLOCK) {
            blocks.push(bytes.len());
        }
        starts.push(u32::try_from(bytes.len() - blocks[starts.len() / BLOCK]).expect("short lists"));
        bytes.extend_from_slice(wanted);
        self.links_before.push(link.before);
        self.links_who.push(link.who);
        table.insert_unique(hash(wanted), index, |index| hash(record(bytes, blocks, starts, *index)));
        true
    }
}

fn record<'a>(bytes: &'a [u8], blocks: &[usize], starts: &[u32], index: u32) -> &'a [u8] {
    let at = |i: usize| blocks[i / BLOCK] + starts[i] as usize;
    let index = index as usize;
    let end = if index + 1 < starts.len() {
        at(index + 1)
    } else {
        bytes.len()
    };
    &bytes[at(index)..end]
}

fn hash(record: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(record);
    hasher.finish()
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn encode(mut number: u32, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn decode(bytes: &mut impl Iterator<Item = u8>) -> Option<u32> {
    let first = bytes.next()?;
    let mut number = u32::from(first & 0x7f);
    let mut more = first & 0x80 != 0;
    let mut shift = 7;
    while more {
        let byte = bytes.next()?;
        number |= u32::from(byte & 0x7f) << shift;
        more = byte & 0x80 != 0;
        shift += 7;
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link = Link { before: ROOT, who: 0 };

    #[test]
    fn lists_come_back_as_they_went_in() {
        let mut store = Store::default();
        let lists: Vec<Vec<u32>> = (0..20_000_u32)
            .map(|i| vec![i % 3, i, i.wrapping_mul(0x9e37_79b9), 0, 1])
            .collect();

        for (i, list) in lists.iter().enumerate() {
            let link = Link {
                before: i as u32,
                who: i as u8,
            };
            assert!(store.insert(list, link));
        }

        assert_eq!(store.len(), lists.len());
        let mut numbers = Vec::new();
        for (i, list) in lists.iter().enumerate() {
            assert!(!store.insert(list, LINK), "known");
            store.get(i as u32, &mut numbers);
            assert_eq!(&numbers, list);
            assert_eq!(store.link(i as u32).before, i as u32);
        }
    }

    #[test]
    fn zeros_at_the_end_are_nothing_and_elsewhere_something() {
        let mut store = Store::default();
        assert!(store.insert(&[1, 0, 2], LINK));
        assert!(!store.insert(&[1, 0, 2, 0, 0], LINK));
        assert!(store.insert(&[1, 2], LINK));
        assert!(store.insert(&[], LINK));
        assert!(!store.insert(&[0], LINK));
    }
}
