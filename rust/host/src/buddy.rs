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
}

impl Buddy {
    pub(crate) fn new(first: Pfn, pages: u64) -> Self {
        Self {
            first: first.0,
            next_unused: first.0,
            end: first.0 + pages,
            freed: Vec::new(),
        }
    }

    pub(crate) fn free_pages(&self) -> u64 {
        self.end - self.next_unused + self.freed.len() as u64
    }

    pub(crate) fn alloc(&mut self) -> Option<Pfn> {
        self.freed.pop().or_else(|| self.alloc_unused(1))
    }

    /// `pages` contiguous frames, from memory never used before.
    pub(crate) fn alloc_unused(&mut self, pages: u64) -> Option<Pfn> {
        let first = self.next_unused;
        (first + pages <= self.end).then(|| {
            self.next_unused += pages;
            Pfn(first)
        })
    }

    /// Every frame that was ever handed out, free ones included: their tags live on.
    pub(crate) fn used(&self) -> impl Iterator<Item = Pfn> + use<> {
        (self.first..self.next_unused).map(Pfn)
    }

    /// A block of `2^order` frames, aligned to its size as the buddy system's blocks are; frames skipped for that are free.
    pub(crate) fn alloc_block(&mut self, order: u32) -> Option<Pfn> {
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
        self.next_unused.next_multiple_of(1 << order) + (1 << order) <= self.end
    }

    pub(crate) fn free(&mut self, pfn: Pfn) {
        self.freed.push(pfn);
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
    fn an_exhausted_allocator_says_so() {
        let mut buddy = Buddy::new(Pfn(0), 2);
        assert!(buddy.alloc_unused(2).is_some());
        assert_eq!((buddy.alloc(), buddy.free_pages()), (None, 0));
    }
}
