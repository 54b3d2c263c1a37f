//! The data of pages by frame: nothing but zeros, one memory's own, or shared with clones of it.
//!
//! A store to an own page is a plain store; a page shared through a counted reference has to be asked whether it still is,
//! which takes an atomic operation. The two lie in arrays of their own, so that the array of own pages, which nearly every
//! access reads, is small. Left out: going back, for a shared page is copied even when nobody else is left.
//! Invariants: what is shared never changes; a frame has no page in both arrays.

use std::sync::Arc;

use tagvisor_arch::PAGE_SIZE;

/// Bytes in a page, as an index.
pub(super) const PAGE_BYTES: usize = PAGE_SIZE as usize;
/// A page's bytes.
pub(super) type PageData = [u8; PAGE_BYTES];
/// What untouched memory holds.
pub(super) static ZERO_PAGE: PageData = [0; PAGE_BYTES];

/// The data of all frames. A page in neither array is all zero; others may be so as well.
#[derive(Debug, Default)]
pub(super) struct Pages {
    own: Vec<Option<Box<PageData>>>,
    shared: Vec<Option<Arc<PageData>>>,
}

impl Clone for Pages {
    /// A copy that further copies share: who is cloned once is cloned often.
    fn clone(&self) -> Self {
        let shared = self.own.iter().zip(&self.shared).map(|(own, shared)| match own {
            Some(own) => Some(Arc::new(**own)),
            None => shared.clone(),
        });
        Self {
            own: vec![None; self.own.len()],
            shared: shared.collect(),
        }
    }
}

impl Pages {
    /// One frame more, all zero.
    pub(super) fn push(&mut self) {
        self.own.push(None);
        self.shared.push(None);
    }

    /// The bytes of a page that is this memory's own, and of no other.
    #[inline]
    pub(super) fn own(&self, frame: u32) -> Option<&PageData> {
        self.own.get(frame as usize)?.as_deref()
    }

    #[inline]
    pub(super) fn data(&self, frame: u32) -> &PageData {
        match &self.own[frame as usize] {
            Some(own) => own,
            None => self.not_own(frame),
        }
    }

    /// Out of line, so that the way to own pages is straight.
    #[cold]
    fn not_own(&self, frame: u32) -> &PageData {
        self.shared[frame as usize].as_deref().unwrap_or(&ZERO_PAGE)
    }

    /// The bytes to change, this memory's own from now on.
    #[inline]
    pub(super) fn data_mut(&mut self, frame: u32) -> &mut PageData {
        let own = &mut self.own[frame as usize];
        let shared = &mut self.shared[frame as usize];
        own.get_or_insert_with(|| Box::new(shared.take().map_or(ZERO_PAGE, |shared| *shared)))
    }

    /// Whether the frame surely holds zeros only.
    pub(super) fn is_untouched(&self, frame: u32) -> bool {
        self.own[frame as usize].is_none() && self.shared[frame as usize].is_none()
    }

    /// Makes a frame all zero.
    pub(super) fn clear(&mut self, frame: u32) {
        self.own[frame as usize] = None;
        self.shared[frame as usize] = None;
    }

    /// Copies one frame to another; the copy is shared where the origin is.
    pub(super) fn copy(&mut self, from: u32, to: u32) {
        self.own[to as usize] = self.own[from as usize].clone();
        self.shared[to as usize] = self.shared[from as usize].clone();
    }
}
