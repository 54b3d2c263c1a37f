//! The end of swap slots and of pages.
//!
//! **Models** `swap_range_free` with `arch_swap_invalidate_page` (mm/swapfile.c), `free_page_and_swap_cache` and the page's
//! way back to the allocator, which clears its flags and leaves its tags.
//!
//! **Keeps**: saved tags go no later than their slot is offered again (but for the counterfactual K1 = swapoff).

use crate::log::{Key, note};
use crate::page::PageFlags;
use crate::policy::SavedTags;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};

pub(super) static SWAP_RANGE_FREE: Path = Path {
    name: "swap_range_free",
    steps: &[
        Step {
            name: "arch_swap_invalidate_page",
            run: arch_swap_invalidate_page,
        },
        Step {
            name: "slot offered again",
            run: offer_slot,
        },
    ],
};
pub(super) static FREE_PAGE_AND_SWAP_CACHE: Path = Path {
    name: "free_page_and_swap_cache",
    steps: &[
        Step {
            name: "free_swap_cache",
            run: free_swap_cache,
        },
        Step {
            name: "free_page",
            run: free_page,
        },
    ],
};
pub(super) static FREE_UNREF_PAGE: Path = Path {
    name: "free_unref_page",
    steps: &[
        Step {
            name: "saved tags no longer needed?",
            run: erase_at_page_free,
        },
        Step {
            name: "free_pages_prepare",
            run: free_pages_prepare,
        },
    ],
};

/// K1: every merged kernel erases the saved tags here; only the counterfactual that waits for swapoff does not.
fn arch_swap_invalidate_page(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let entry = l.entry.expect("called for a slot");
    if host.policy.saved_tags_erased != SavedTags::Swapoff {
        host.mte_invalidate_tags(entry, "slot freed");
    }
    Flow::Next
}

fn offer_slot(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let entry = l.entry.expect("called for a slot");
    host.zswap.invalidate(entry);
    host.swap.offer(entry);
    host.ledger.slot_offered(entry, host.mte_pages.contains(entry));
    note!(host, [Key::Slot(entry)], "slot {entry} is free");
    Flow::Return(0)
}

/// A slot nobody refers to any more is given up, with the page bound to it: `l.entry` names it, `l.pfn` the page without
/// references, if there is one. A page that reclaim has locked is left to it.
fn free_swap_cache(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some(entry) = l.entry else { return Flow::Next };
    // The swap cache may have given the page to somebody since its last reference went.
    let taken = |pfn| {
        let page = host.page(pfn);
        page.flags.contains(PageFlags::LOCKED) || page.refcount > 0 || page.swap != Some(entry)
    };
    if host.swap.count(entry) > 0 || l.pfn.is_some_and(taken) {
        return Flow::Return(0);
    }
    match l.pfn {
        Some(pfn) => {
            host.page_mut(pfn).swap = None;
            host.swap.delete_from_swap_cache(entry);
        }
        // Bound to a page that somebody still holds, or being swapped in by another thread: they let go of the slot.
        None if host.swap.is_allocated(entry) => return Flow::Return(0),
        None => {}
    }
    Flow::Call(PathId::SwapRangeFree, *l)
}

fn free_page(_: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if l.pfn.is_some() {
        Flow::Tail(PathId::FreeUnrefPage, *l)
    } else {
        Flow::Return(0)
    }
}

/// K1 = page-free: the tags went back to a page; when that page goes, so do they.
fn erase_at_page_free(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if let (SavedTags::PageFree, Some(entry), Some(pfn)) = (host.policy.saved_tags_erased, l.entry, l.pfn)
        && host.page(pfn).flags.contains(PageFlags::RESTORED)
    {
        host.mte_invalidate_tags(entry, "page freed");
    }
    Flow::Next
}

/// The page goes back to the allocator: flags cleared, tags left as they are.
fn free_pages_prepare(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("called for a page");
    note!(
        host,
        [Key::Frame(pfn)],
        "pfn {:#x} freed, its tags stay in memory",
        pfn.0
    );
    host.drop_unmapped_page(pfn);
    Flow::Return(0)
}

impl Host {
    /// `put_page`: drops a reference; true if it was the last and the page must be freed.
    pub(crate) fn put_page(&mut self, pfn: tagvisor_arch::Pfn) -> bool {
        if !self.is_counted(pfn) {
            return false;
        }
        let page = self.page_mut(pfn);
        page.refcount -= 1;
        page.refcount == 0 && page.swap.is_none()
    }
}
