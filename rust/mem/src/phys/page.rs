//! The data of a page: nothing but zeros, one memory's own, or shared with clones of it.
//!
//! A store to an own page is a plain store; a page shared through a counted reference has to be asked whether it still is,
//! which takes an atomic operation. Left out: going back, for a shared page is copied even when nobody else is left.
//! The invariant: what is shared never changes.

use std::sync::Arc;

use tagvisor_arch::PAGE_SIZE;

/// Bytes in a page, as an index.
pub(super) const PAGE_BYTES: usize = PAGE_SIZE as usize;
/// A page's bytes.
pub(super) type PageData = [u8; PAGE_BYTES];
/// What untouched memory holds.
pub(super) static ZERO_PAGE: PageData = [0; PAGE_BYTES];

/// A page's data.
#[derive(Debug, Default)]
pub(super) enum Page {
    /// Zeros. A page of the other kinds may be all zero as well.
    #[default]
    Zero,
    /// This memory's own.
    Own(Box<PageData>),
    /// Possibly in other memories, too.
    Shared(Arc<PageData>),
}

impl Clone for Page {
    /// A copy that further copies share: who is cloned once is cloned often.
    fn clone(&self) -> Self {
        match self {
            Self::Zero => Self::Zero,
            Self::Own(data) => Self::Shared(Arc::new(**data)),
            Self::Shared(data) => Self::Shared(Arc::clone(data)),
        }
    }
}

impl Page {
    #[inline]
    pub(super) fn data(&self) -> &PageData {
        match self {
            Self::Zero => &ZERO_PAGE,
            Self::Own(data) => data,
            Self::Shared(data) => data,
        }
    }

    /// The bytes to change, this memory's own from now on.
    #[inline]
    pub(super) fn data_mut(&mut self) -> &mut PageData {
        if !matches!(self, Self::Own(_)) {
            *self = Self::Own(Box::new(*self.data()));
        }
        let Self::Own(data) = self else {
            unreachable!("made so above")
        };
        data
    }
}
