//! Files that can be mapped, and their page cache.
//!
//! **Models** an inode's `i_pages`: for each page of the file nothing yet, a page, or (shmem only) the swap entry that took
//! its place. shmem is what memfd, tmpfs and `MAP_SHARED | MAP_ANONYMOUS` are made of; ramfs has pages that never leave; a
//! file on a disk has its data there too, and no place for tags. **Leaves out** names, directories, read and write of the
//! file itself, and a file system's own structures.
//!
//! **Keeps**: the page cache holds one reference to each of its pages.

use std::collections::BTreeMap;

use tagvisor_arch::{PAGE_SIZE, Pfn};

use crate::swap::SwpEntry;

/// A file of the machine; its number for the machine's life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FileId(pub u32);

/// What kind of file it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FileKind {
    /// memfd, tmpfs, shared anonymous memory: swappable, and may have tags (`shmem_mmap` sets `VM_MTE_ALLOWED`).
    Shmem,
    /// ramfs: page cache without backing store, unevictable, without tags.
    Ramfs,
    /// Behind `MAP_HUGETLB`: huge pages of the pool, unevictable (K32 says whether they may have tags).
    Hugetlb,
    /// On a disk: its pages are written back and dropped under pressure, without their tags (why `VM_MTE_ALLOWED` exists).
    Disk,
    /// `guest_memfd`: a guest's memory without a mapping of the VMM; unevictable, of fixed size.
    GuestMemfd,
}

impl FileKind {
    /// May reclaim take its pages?
    pub(crate) const fn evictable(self) -> bool {
        matches!(self, Self::Shmem | Self::Disk)
    }
}

/// What the page cache holds at one page of a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Cached {
    Page(Pfn),
    /// shmem: the page was written to swap.
    Swap(SwpEntry),
}

/// An inode with its mapping.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct File {
    pub(crate) kind: FileKind,
    /// `i_size` in pages: a fault beyond it is SIGBUS.
    pub(crate) pages: u64,
    pub(crate) cache: BTreeMap<u64, Cached>,
    /// A descriptor is open; shared anonymous memory has none and goes with its last mapping.
    pub(crate) open: bool,
    /// What was written back; holes are zeroes.
    pub(crate) disk: BTreeMap<u64, Box<[u8; PAGE_SIZE as usize]>>,
}

impl File {
    pub(crate) fn new(kind: FileKind, pages: u64, open: bool) -> Self {
        Self {
            kind,
            pages,
            cache: BTreeMap::new(),
            disk: BTreeMap::new(),
            open,
        }
    }
}
