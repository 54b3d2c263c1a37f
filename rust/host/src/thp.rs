//! Transparent huge pages: a folio of 512 anonymous pages.
//!
//! **Models** `/sys/kernel/mm/transparent_hugepage/enabled` (never, or madvise), which faults get a huge page, and the life
//! of a large folio as far as tags go: 512 frames with a `struct page` each, all of them allocated until nobody maps any or
//! the folio is split. A PMD is 512 entries here, which change in one step, so a partly unmapped folio needs no other form.
//! **Leaves out** other sizes, huge pages of shmem and of files, khugepaged by itself (`MADV_COLLAPSE` is there), and the
//! list of deferred splits: a folio is split when reclaim, KSM, migration or memory failure takes one page of it.
//!
//! **Keeps**: a folio's first page, whose flags a split gives to all, is not reused while the folio exists.

use std::collections::BTreeMap;

use tagvisor_arch::{PAGE_SIZE, Pfn, Va};

use crate::hugetlb::{HPAGE_PAGES, HPAGE_SIZE, compound_head};
use crate::ids::MmId;
use crate::machine::Machine;
use crate::mm::{Backing, Pte, VmFlags, Vma};
use crate::page::{PageFlags, PageMapping};
use crate::state::Host;

/// What the host knows of huge pages.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Thp {
    /// `madvise`; else `never`.
    enabled: bool,
    /// Does a read where nothing is map the huge zero folio? Else it gets a huge page as a write does.
    pub(crate) use_zero_page: bool,
    /// The huge zero folio, once somebody has read where nothing was.
    pub(crate) zero: Option<Pfn>,
    /// Folios that are partly unmapped: how many of their pages nobody has.
    unmapped: BTreeMap<Pfn, u64>,
}

impl Machine {
    /// `/sys/kernel/mm/transparent_hugepage/`: `enabled` is `madvise`, or `never` as after boot; `use_zero_page` is 1 or 0.
    pub fn set_transparent_hugepage(&mut self, madvise: bool, use_zero_page: bool) {
        (self.host.thp.enabled, self.host.thp.use_zero_page) = (madvise, use_zero_page);
    }
}

/// The huge page's range that an address lies in.
pub(crate) const fn pmd_address(va: Va) -> Va {
    Va(va.0 / HPAGE_SIZE * HPAGE_SIZE)
}

/// Frames of the folio that a frame lies in.
pub(crate) fn folio(pfn: Pfn) -> impl Iterator<Item = Pfn> {
    let head = compound_head(pfn);
    (head.0..head.0 + HPAGE_PAGES).map(Pfn)
}

impl Host {
    /// `thp_vma_allowable_order` of the huge page's range at an address: anonymous memory that has all of it.
    pub(crate) fn thp_suitable(vma: &Vma, start: u64, va: Va) -> bool {
        let first = pmd_address(va).vpn();
        vma.backing == Backing::Anon && first >= start && first + HPAGE_PAGES <= vma.end
    }

    /// Does a fault at the address get a huge page? Where nothing is mapped yet, and a block of frames is left.
    pub(crate) fn thp_fault(&self, mm: MmId, vma: &Vma, start: u64, va: Va) -> bool {
        let base = pmd_address(va);
        self.thp.enabled
            && vma.flags.contains(VmFlags::HUGEPAGE)
            && Self::thp_suitable(vma, start, va)
            && self
                .mm(mm)
                .ptes
                .range(base.vpn()..base.vpn() + HPAGE_PAGES)
                .next()
                .is_none()
            && self.buddy.has_block(HPAGE_PAGES.ilog2())
    }

    /// Does the page belong to a huge page that was not split?
    pub(crate) fn is_thp(&self, pfn: Pfn) -> bool {
        self.has_flag(pfn, PageFlags::THP)
    }

    /// Is the page mapped as part of a PMD at the address: all of its folio, in order? With `write`, all of it writable.
    pub(crate) fn pmd_mapped(&self, mm: MmId, va: Va, pfn: Pfn, write: bool) -> bool {
        let base = pmd_address(va);
        let shows = |index: u64, want: Pfn| {
            let pte = self.mm(mm).pte(base + index * PAGE_SIZE);
            matches!(pte, Some(Pte::Present { pfn, write: allowed, .. }) if pfn == want && (allowed || !write))
        };
        self.is_thp(pfn) && (0..).zip(folio(pfn)).all(|(index, want)| shows(index, want))
    }

    /// A huge page of anonymous memory at an address, its frames' tags and data as they were left.
    pub(crate) fn alloc_thp(&mut self, base: Va) -> Option<Pfn> {
        let head = self.buddy.alloc_block(HPAGE_PAGES.ilog2())?;
        for (index, pfn) in (0..).zip(folio(head)) {
            let page = self.page_mut(pfn);
            page.flags = PageFlags::THP | PageFlags::ANON_EXCLUSIVE;
            page.refcount = 1;
            page.swap = None;
            page.mapping = PageMapping::Anon(base + index * PAGE_SIZE);
            self.ledger.allocated(pfn);
        }
        Some(head)
    }

    /// Nobody has this page of a huge page any more; with the last of them all go back to the allocator.
    pub(crate) fn put_thp_page(&mut self, pfn: Pfn) {
        let page = self.page_mut(pfn);
        page.refcount = 0;
        let head = compound_head(pfn);
        let unmapped = self.thp.unmapped.entry(head).or_default();
        *unmapped += 1;
        if *unmapped == HPAGE_PAGES {
            self.free_folio(head);
        }
    }

    /// Is the page's folio one that has given up pages already?
    pub(crate) fn partly_unmapped(&self, pfn: Pfn) -> bool {
        self.thp.unmapped.contains_key(&compound_head(pfn))
    }

    /// All of a folio that nobody maps goes back to the allocator, as the block that it was.
    fn free_folio(&mut self, head: Pfn) {
        self.forget_folio(head);
        for pfn in folio(head) {
            self.lru.resident -= u64::from(self.has_flag(pfn, PageFlags::LRU));
            let page = self.page_mut(pfn);
            (page.flags, page.mapping) = (PageFlags::empty(), PageMapping::None);
        }
        self.buddy.free_block(head, HPAGE_PAGES.ilog2());
    }

    /// The folio is none any more: its pages are pages like any other.
    pub(crate) fn forget_folio(&mut self, head: Pfn) {
        self.thp.unmapped.remove(&head);
        for pfn in folio(head) {
            self.set_flag(pfn, PageFlags::THP, false);
        }
    }
}
