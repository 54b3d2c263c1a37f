//! `struct page`: what the kernel knows of a frame.
//!
//! **Models** the flags that decide about tags (`PG_mte_tagged` = `PG_arch_2`, `PG_mte_lock` = `PG_arch_3`), the page
//! lock, dirty and young state, the swap-cache binding (`page->private`), the reference count and what the page belongs to.
//! A mapping holds one reference, the page cache of a file one more; the swap cache holds none here. **Leaves out** folios
//! of more than one page.
//!
//! **Keeps**: a free page has no flag set and no reference (`PAGE_FLAGS_CHECK_AT_PREP`); its tags stay as they were.

use bitflags::bitflags;
use tagvisor_arch::{Pfn, Va};
use tagvisor_mem::PhysMem;

use crate::file::FileId;
use crate::part::Tracked;
use crate::swap::SwpEntry;

bitflags! {
    /// Page flags.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub(crate) struct PageFlags: u16 {
        /// `PG_mte_tagged`: tags are valid and belong to the page's content.
        const MTE_TAGGED = 1 << 0;
        /// `PG_mte_lock`: somebody is or was initialising the tags; a one-way latch.
        const MTE_LOCK = 1 << 1;
        /// `PG_locked`.
        const LOCKED = 1 << 2;
        /// `PG_dirty`: newer than its swap slot.
        const DIRTY = 1 << 3;
        /// Accessed since reclaim last looked.
        const YOUNG = 1 << 4;
        /// On the LRU list of the control group.
        const LRU = 1 << 5;
        /// Its tags came from `mte_pages` and were not saved again: what K1 = page-free has to know.
        const RESTORED = 1 << 7;
        /// Kernel-owned for ever: the zero page.
        const RESERVED = 1 << 6;
        /// `PG_anon_exclusive`: no other process has it; cleared by fork.
        const ANON_EXCLUSIVE = 1 << 8;
        /// Clean and not `PG_swapbacked` (`MADV_FREE`): reclaim may drop the content unless it is written first.
        const LAZYFREE = 1 << 9;
        /// `PG_hwpoison`.
        const HWPOISON = 1 << 10;
        /// Part of a huge page of the pool (`hugetlb.rs`).
        const HUGETLB = 1 << 11;
        /// Part of a transparent huge page (`thp.rs`).
        const THP = 1 << 12;
        /// Part of the huge zero folio.
        const HUGE_ZERO = 1 << 13;
    }
}

impl PageFlags {
    /// The flags that tell of tags: of a huge page they may be the head's.
    pub(crate) const OF_TAGS: Self = Self::MTE_TAGGED.union(Self::MTE_LOCK);
}

/// What a page belongs to (`page->mapping`, `page->index`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) enum PageMapping {
    /// Free, or the kernel's own.
    #[default]
    None,
    /// Anonymous memory at that address of one or, after fork, several processes.
    Anon(Va),
    /// A page of a file.
    File(FileId, u64),
    /// Merged by KSM: mapped at any addresses.
    Ksm,
}

/// One frame's `struct page`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Page {
    pub(crate) flags: PageFlags,
    pub(crate) refcount: u32,
    /// The swap-cache entry (`folio->swap`), while the page is in the swap cache.
    pub(crate) swap: Option<SwpEntry>,
    pub(crate) mapping: PageMapping,
}

/// All `struct page`s, found by frame; made when a frame is first used.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Pages(Vec<Tracked<Page>>);

impl Pages {
    /// The `struct page` of a frame in use.
    pub(crate) fn get(&self, mem: &PhysMem, pfn: Pfn) -> &Page {
        static UNUSED: Page = Page {
            flags: PageFlags::empty(),
            refcount: 0,
            swap: None,
            mapping: PageMapping::None,
        };
        mem.frame_index(pfn)
            .and_then(|i| self.0.get(i as usize))
            .map_or(&UNUSED, |page| page)
    }

    /// Every frame that was ever used, with its `struct page`, in the order of first use.
    pub(crate) fn iter<'a>(&'a self, mem: &'a PhysMem) -> impl Iterator<Item = (Pfn, &'a Page)> {
        self.0
            .iter()
            .enumerate()
            .map(|(index, page)| (mem.frame_at(index as u32), &**page))
    }

    /// Calls `each` with every page that may have changed since this was called last.
    pub(crate) fn take_touched(&mut self, mem: &PhysMem, mut each: impl FnMut(Pfn)) {
        for (index, page) in self.0.iter_mut().enumerate() {
            if Tracked::take_touched(page) {
                each(mem.frame_at(index as u32));
            }
        }
    }

    /// Puts a page back that is known to the caller.
    pub(crate) fn restore(&mut self, mem: &mut PhysMem, pfn: Pfn, page: Page) {
        self.get_mut(mem, pfn);
        let index = mem.touch(pfn) as usize;
        Tracked::restore(&mut self.0[index], page);
    }

    /// The `struct page` of a frame, to change.
    pub(crate) fn get_mut(&mut self, mem: &mut PhysMem, pfn: Pfn) -> &mut Page {
        let index = mem.touch(pfn) as usize;
        if index >= self.0.len() {
            self.0.resize(index + 1, Tracked::default());
        }
        &mut self.0[index]
    }
}
