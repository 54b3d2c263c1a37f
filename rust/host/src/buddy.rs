//! The page allocator: which frame the next allocation gets.
//!
//! **Models** what matters for tags: a freed frame is handed out again first (per-cpu lists are last in, first out) and
//! keeps its old tags. Frames never used yet follow in address order. **Leaves out** zones, orders other than the two
//! contiguous pages of a stage-2 root, and allocation failure short of running out.

use tagvisor_arch::Pfn;

/// Free frames of taggable RAM.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Buddy {
    first: u64,
    next_unused: u64,
    end: u64,
    freed: Vec<Pfn>,
    /// Blocks freed as a whole, with their order; broken up when nothing else is left.
    blocks: Vec<(Pfn, u32)>,
}

impl Buddy {
    pub(crate) fn new(first: Pfn, pages: u64) -> Self {
        Self {
            first: first.0,
            next_unused: first.0,
            end: first.0 + pages,
            freed: Vec::new(),
            blocks: Vec::new(),
        }
    }

    pub(crate) fn free_pages(&self) -> u64 {
        let blocks: u64 = self.blocks.iter().map(|(_, order)| 1 << order).sum();
        self.end - self.next_unused + self.freed.len() as u64 + blocks
    }

    pub(crate) fn alloc(&mut self) -> Option<Pfn> {
        if let Some(pfn) = self.freed.pop().or_else(|| self.alloc_unused(1)) {
            return Some(pfn);
        }
        let (first, order) = self.blocks.pop()?;
        self.freed.extend((first.0..first.0 + (1 << order)).rev().map(Pfn));
        self.freed.pop()
    }

    /// `pages` contiguous frames, from memory never used before.
    pub(crate) fn alloc_unused(&mut self, pages: u64) -> Option<Pfn> {
        let first = self.next_unused;
        (first + pages <= self.end).then(|| {
            self.next_unused += pages;
            Pfn(first)
        })
    }

    /// A block of `2^order` frames, aligned to its size as the buddy system's blocks are: the one freed last, else one never
    /// used; frames skipped for that are free.
    pub(crate) fn alloc_block(&mut self, order: u32) -> Option<Pfn> {
        if let Some(at) = self.blocks.iter().rposition(|(_, of)| *of == order) {
            return Some(self.blocks.remove(at).0);
        }
        let first = self.next_unused.next_multiple_of(1 << order);
        if first + (1 << order) > self.end {
            return None;
        }
        self.freed.extend((self.next_unused..first).map(Pfn));
        self.next_unused = first + (1 << order);
        Some(Pfn(first))
    }

    /// Would `alloc_block` find one?
    pub(crate) fn has_block(&self, order: u32) -> bool {
        let freed = self.blocks.iter().any(|(_, of)| *of == order);
        freed || self.next_unused.next_multiple_of(1 << order) + (1 << order) <= self.end
    }

    pub(crate) fn free(&mut self, pfn: Pfn) {
        self.freed.push(pfn);
    }

    /// A block comes back as a whole.
    pub(crate) fn free_block(&mut self, first: Pfn, order: u32) {
        self.blocks.push((first, order));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_freed_last_is_allocated_first() {
        let mut buddy = Buddy::new(Pfn(8), 4);
        let (a, b) = (buddy.alloc().unwrap(), buddy.alloc().unwrap());
        buddy.free(a);
        buddy.free(b);

        assert_eq!(
            (buddy.alloc(), buddy.alloc(), buddy.alloc()),
            (Some(b), Some(a), Some(Pfn(10)))
        );
    }

    #[test]
    fn a_block_is_aligned_to_its_size_and_what_was_skipped_is_free() {
        let mut buddy = Buddy::new(Pfn(5), 8);
        assert_eq!(buddy.alloc_block(1), Some(Pfn(6)));
        assert_eq!((buddy.alloc(), buddy.free_pages()), (Some(Pfn(5)), 5));
    }

    #[test]
    fn a_block_freed_as_a_whole_is_reused_as_one_and_broken_up_last() {
        let mut buddy = Buddy::new(Pfn(0), 8);
        let block = buddy.alloc_block(2).unwrap();
        buddy.free_block(block, 2);
        assert!(buddy.has_block(2));
        assert_eq!((buddy.alloc_block(2), buddy.free_pages()), (Some(block), 4));
        buddy.free_block(block, 2);
        assert_eq!(buddy.free_pages(), 8);
        let all: Vec<u64> = std::iter::from_fn(|| buddy.alloc().map(|pfn| pfn.0)).collect();
        assert_eq!(all, [4, 5, 6, 7, 0, 1, 2, 3]);
    }

    #[test]
    fn an_exhausted_allocator_says_so() {
        let mut buddy = Buddy::new(Pfn(0), 2);
        assert!(buddy.alloc_unused(2).is_some());
        assert_eq!((buddy.alloc(), buddy.free_pages()), (None, 0));
    }
}
