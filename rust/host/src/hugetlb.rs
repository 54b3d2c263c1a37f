//! The pool of huge pages.
//!
//! **Models** `/proc/sys/vm/nr_hugepages`, reservations at mmap time and `free_huge_folio` (mm/hugetlb.c) for 2 MiB pages. A
//! huge page is 512 frames with a `struct page` each, which come and go together; with K32 = supported their tag flags are
//! the head's. **Leaves out** other sizes, surplus pages, files of a hugetlbfs mount, and reservations given back by part.
//!
//! **Keeps**: what is reserved is never more than what is free.

use std::collections::BTreeMap;

use tagvisor_arch::{PAGE_SIZE, Pfn};

use crate::errno::Errno;
use crate::file::{FileId, FileKind};
use crate::machine::Machine;
use crate::mm::{Backing, Vma};
use crate::ops::MapSpec;
use crate::page::{PageFlags, PageMapping};
use crate::policy::HugetlbMte;
use crate::state::Host;

/// Pages of a huge page.
pub(crate) const HPAGE_PAGES: u64 = 512;
/// Bytes of a huge page.
pub(crate) const HPAGE_SIZE: u64 = HPAGE_PAGES * PAGE_SIZE;

/// The pool.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Pool {
    total: u64,
    /// First frames of the free ones; the one freed last is used first.
    free: Vec<Pfn>,
    /// Huge pages promised to a mapping and not used yet.
    reserved: BTreeMap<FileId, u64>,
    /// Huge pages on their way back: how many of their pages nobody has any more.
    returning: BTreeMap<Pfn, u64>,
}

impl Pool {
    fn unreserved(&self) -> u64 {
        self.free.len() as u64 - self.reserved.values().sum::<u64>()
    }
}

/// The first frame of the huge page that a frame lies in.
pub(crate) const fn compound_head(pfn: Pfn) -> Pfn {
    Pfn(pfn.0 / HPAGE_PAGES * HPAGE_PAGES)
}

/// A mapping's length is rounded up to whole huge pages.
pub(crate) const fn in_huge_pages(spec: MapSpec) -> MapSpec {
    MapSpec {
        pages: spec.pages.next_multiple_of(HPAGE_PAGES),
        ..spec
    }
}

impl Machine {
    /// Writes `/proc/sys/vm/nr_hugepages`: how many huge pages there are then, which is fewer when memory is short and more
    /// when they are in use.
    pub fn set_nr_hugepages(&mut self, wanted: u64) -> u64 {
        let Host { pool, buddy, .. } = &mut self.host;
        while pool.total < wanted
            && let Some(head) = buddy.alloc_block(HPAGE_PAGES.ilog2())
        {
            pool.free.push(head);
            pool.total += 1;
        }
        let spare = pool.total.saturating_sub(wanted).min(pool.unreserved());
        for _ in 0..spare {
            self.host.free_pool_huge_page();
        }
        self.host.pool.total
    }
}

impl Host {
    /// `is_vm_hugetlb_page`.
    pub(crate) fn is_hugetlb(&self, vma: &Vma) -> bool {
        matches!(vma.backing, Backing::File(file) if self.file(file).kind == FileKind::Hugetlb)
    }

    /// A free huge page goes back to the page allocator.
    fn free_pool_huge_page(&mut self) {
        let Some(head) = self.pool.free.pop() else { return };
        self.pool.total -= 1;
        for pfn in (head.0..head.0 + HPAGE_PAGES).map(Pfn) {
            self.page_mut(pfn).flags = PageFlags::empty();
        }
        self.buddy.free_block(head, HPAGE_PAGES.ilog2());
    }

    /// `hugetlb_reserve_pages` for a new mapping of a file of its own. -ENOMEM: the pool has too few left.
    pub(crate) fn hugetlb_file_setup(&mut self, pages: u64) -> Result<FileId, Errno> {
        let wanted = pages / HPAGE_PAGES;
        if wanted > self.pool.unreserved() {
            return Err(Errno::Enomem);
        }
        let file = self.create_file(FileKind::Hugetlb, pages, false);
        self.pool.reserved.insert(file, wanted);
        Ok(file)
    }

    /// Mappings went: what was reserved for files that nobody maps any more is free again.
    pub(crate) fn hugetlb_unreserve_pages(&mut self) {
        let mut reserved = std::mem::take(&mut self.pool.reserved);
        reserved.retain(|file, _| self.is_mapped(*file));
        self.pool.reserved = reserved;
    }

    /// `alloc_hugetlb_folio`: the first frame. Its tag flags are what its last user left, unless freeing clears them.
    pub(crate) fn alloc_hugetlb_folio(&mut self, file: FileId, mapping: impl Fn(u64) -> PageMapping) -> Option<Pfn> {
        let unreserved = self.pool.unreserved();
        match self.pool.reserved.get_mut(&file).filter(|left| **left > 0) {
            Some(left) => *left -= 1,
            None if unreserved == 0 => return None,
            None => {}
        }
        let head = self.pool.free.pop()?;
        for index in 0..HPAGE_PAGES {
            let pfn = Pfn(head.0 + index);
            let page = self.page_mut(pfn);
            page.flags |= PageFlags::HUGETLB;
            page.refcount = 1;
            page.mapping = mapping(index);
            self.ledger.allocated(pfn);
        }
        Some(head)
    }

    /// Nobody has this page of a huge page any more; with the last of them it goes back to the pool (`free_huge_folio`).
    pub(crate) fn put_hugetlb_page(&mut self, pfn: Pfn) {
        let head = compound_head(pfn);
        let kept = PageFlags::HUGETLB | PageFlags::MTE_TAGGED | PageFlags::MTE_LOCK;
        let page = self.page_mut(pfn);
        (page.refcount, page.mapping) = (0, PageMapping::None);
        page.flags &= kept;
        let returned = self.pool.returning.entry(head).or_default();
        *returned += 1;
        if *returned < HPAGE_PAGES {
            return;
        }
        self.pool.returning.remove(&head);
        // arch_clear_hugetlb_flags came with the support for tags.
        if self.policy.hugetlb_mte == HugetlbMte::Supported {
            self.page_mut(head).flags = PageFlags::HUGETLB;
        }
        self.pool.free.push(head);
    }

    /// The frame whose flags tell of a frame's tags: its own, or that of the huge page's head.
    #[inline]
    pub(crate) fn tag_flags_of(&self, pfn: Pfn) -> Pfn {
        if self.tags_by_head(pfn) {
            compound_head(pfn)
        } else {
            pfn
        }
    }

    /// Has the huge page one flag for all of its tags?
    #[inline]
    pub(crate) fn tags_by_head(&self, pfn: Pfn) -> bool {
        self.policy.hugetlb_mte == HugetlbMte::Supported && self.page(pfn).flags.contains(PageFlags::HUGETLB)
    }
}
