//! The native floor of a processing element's accesses and walks.
//!
//! Models nothing: a page lookup with its permission test, the tag compare and the load, over plain arrays; and the loads of
//! a two-stage walk, each from the address that the one before it gave. No registers, no modes, no faults beyond a count.
//! The invariant: a floor does not less than what the architecture makes unavoidable, and nothing else.

use std::hint::black_box;

use tagvisor_arch::{PAGE_SIZE, PAGE_TAG_BYTES};

const READABLE: u8 = 1;
const PAGE: usize = PAGE_SIZE as usize;

#[derive(Clone, Copy)]
struct Entry {
    page: u64,
    frame: u32,
    flags: u8,
}

/// Pages of data and tags behind a direct-mapped table of translations.
pub struct PagedMemory {
    entries: Vec<Entry>,
    tags: Vec<[u8; PAGE_TAG_BYTES]>,
    data: Vec<Box<[u8; PAGE]>>,
}

impl PagedMemory {
    /// `pages` pages, a power of two of them, from page number `first` on; the first word of each is its offset.
    pub fn new(first: u64, pages: usize, tag_of: impl Fn(usize) -> u8) -> Self {
        let mut entries = vec![
            Entry {
                page: u64::MAX,
                frame: 0,
                flags: 0
            };
            pages
        ];
        let mut memory = Self {
            tags: (0..pages).map(|page| [tag_of(page) * 0x11; PAGE_TAG_BYTES]).collect(),
            data: (0..pages).map(|_| Box::new([0; PAGE])).collect(),
            entries: Vec::new(),
        };
        for index in 0..pages {
            let page = first + index as u64;
            memory.data[index][..8].copy_from_slice(&(index as u64 * PAGE_SIZE).to_le_bytes());
            entries[page as usize & (pages - 1)] = Entry {
                page,
                frame: index as u32,
                flags: READABLE,
            };
        }
        memory.entries = entries;
        memory
    }

    /// Loads of 8 bytes through pointers with their tag in bits 59:56; the sum, or `u64::MAX` after a mismatch.
    #[inline(never)]
    pub fn load_all(&self, pointers: &[u64]) -> u64 {
        let (entries, tags, data) = (self.entries.as_slice(), self.tags.as_slice(), self.data.as_slice());
        let mask = entries.len() - 1;
        let mut sum = 0_u64;
        for &pointer in pointers {
            let page = pointer << 8 >> 20;
            let entry = &entries[page as usize & mask];
            if entry.page != page || entry.flags & READABLE == 0 {
                return u64::MAX;
            }
            let offset = pointer as usize % PAGE;
            let tag = tags[entry.frame as usize][offset / 32] >> (offset / 16 % 2 * 4) & 0xf;
            if tag != (pointer >> 56) as u8 & 0xf {
                return u64::MAX;
            }
            let Some(word) = data[entry.frame as usize][offset..].first_chunk() else {
                return u64::MAX;
            };
            sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
        sum
    }
}

/// Translation tables in flat memory.
pub struct WalkedMemory {
    words: Vec<u64>,
    base: u64,
    stage1: u64,
    stage2: u64,
}

impl WalkedMemory {
    /// Tables as words from `base` on, with the roots of a 4-level stage 1 and a 3-level stage 2.
    pub fn new(words: Vec<u64>, base: u64, stage1: u64, stage2: u64) -> Self {
        Self {
            words,
            base,
            stage1,
            stage2,
        }
    }

    #[inline]
    fn load(&self, address: u64) -> u64 {
        self.words[((address - self.base) / 8) as usize]
    }

    #[inline]
    fn next(&self, table: u64, input: u64, level: u32) -> u64 {
        self.load(table + (input >> (12 + 9 * (3 - level)) & 511) * 8) & 0x0000_ffff_ffff_f000
    }

    #[inline]
    fn stage2(&self, ipa: u64) -> u64 {
        let page = (1..4).fold(self.stage2, |table, level| self.next(table, ipa, level));
        page + ipa % PAGE_SIZE
    }

    /// The sum of the pages that the addresses lead to.
    #[inline(never)]
    pub fn walk_all(&self, addresses: &[u64]) -> u64 {
        let mut sum = 0_u64;
        for &va in addresses {
            let mut table = self.stage1;
            for level in 0..4 {
                let entry = table + (va >> (12 + 9 * (3 - level)) & 511) * 8;
                table = self.load(self.stage2(entry)) & 0x0000_ffff_ffff_f000;
            }
            sum = sum.wrapping_add(black_box(self.stage2(table)));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_add_up_and_stop_at_a_wrong_tag_or_an_unknown_page() {
        let memory = PagedMemory::new(0x40, 4, |page| page as u8 + 1);
        let pointer = |page: u64, tag: u64| (tag << 56) + (0x40 + page) * PAGE_SIZE;

        assert_eq!(memory.load_all(&[pointer(1, 2), pointer(3, 4)]), 4 * PAGE_SIZE);
        assert_eq!(memory.load_all(&[pointer(1, 3)]), u64::MAX);
        assert_eq!(memory.load_all(&[pointer(4, 1)]), u64::MAX);
    }
}
