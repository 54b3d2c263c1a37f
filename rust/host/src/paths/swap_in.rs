//! Swap-in, and what frees slots and pages.
//!
//! **Models** `do_swap_page` (mm/memory.c, the order of 6.5 and later: `arch_swap_restore` before `swap_free`),
//! `swap_range_free` with `arch_swap_invalidate_page` (mm/swapfile.c), and the end of a page. **Leaves out** read-ahead,
//! I/O errors, KSM copies and large folios.
//!
//! **Keeps**: tags are restored under the page lock, before any PTE maps the page and before the slot can be freed.

use crate::errno::Errno;
use crate::log::{Key, note};
use crate::mm::{Prot, Pte, VmFlags};
use crate::page::PageFlags;
use crate::policy::SavedTags;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};

pub(super) static DO_SWAP_PAGE: Path = Path {
    name: "do_swap_page",
    steps: &[
        Step {
            name: "swap_cache_get_folio",
            run: swap_cache_get_folio,
        },
        Step {
            name: "swap_read_folio",
            run: swap_read_folio,
        },
        Step {
            name: "folio_lock",
            run: folio_lock,
        },
        Step {
            name: "pte_same",
            run: pte_same,
        },
        Step {
            name: "arch_swap_restore",
            run: |_, l, _| Flow::Call(PathId::MteRestoreTags, *l),
        },
        Step {
            name: "swap_free",
            run: swap_free,
        },
        Step {
            name: "folio_free_swap",
            run: folio_free_swap,
        },
        Step {
            name: "mte_sync_tags",
            run: sync_tags,
        },
        Step {
            name: "set_pte_at",
            run: set_pte_at,
        },
        Step {
            name: "swapcache_clear",
            run: swapcache_clear,
        },
        Step {
            name: "return",
            run: |_, _, _| Flow::Return(0),
        },
    ],
};
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

/// The page may still be in the swap cache; else a frame is taken. A synchronous device whose slot is used once bypasses
/// the swap cache; `SWAP_HAS_CACHE` then only keeps others out (`swapcache_prepare`).
fn swap_cache_get_folio(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let entry = l.entry.expect("called for a swap PTE");
    if host.mm(l.mm).pte(l.va) != Some(Pte::Swap(entry)) {
        return Flow::Return(0);
    }
    if let Some(pfn) = host.swap.lookup(entry) {
        l.pfn = Some(pfn);
        host.page_mut(pfn).refcount += 1;
        return Flow::To("folio_lock");
    }
    l.bypass = host.swap.is_synchronous() && host.swap.count(entry) == 1;
    if l.bypass && !host.swap.swapcache_prepare(entry) {
        // Another thread is swapping it in: sleep, then look at the PTE again.
        return Flow::Blocked;
    }
    let Some(pfn) = host.alloc_anon_page(l.mm, l.va) else {
        if l.bypass {
            host.swap.swapcache_clear(entry);
        }
        return Flow::Return(Errno::Enomem.ret());
    };
    host.set_flag(pfn, PageFlags::LOCKED, true);
    if !l.bypass {
        host.swap.add_to_swap_cache(entry, pfn);
        host.page_mut(pfn).swap = Some(entry);
    }
    l.pfn = Some(pfn);
    Flow::Next
}

fn swap_read_folio(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, entry) = (l.pfn.expect("allocated"), l.entry.expect("called for a swap PTE"));
    match host.swap.read(entry) {
        Some(data) => host.mem.write(pfn.base(), data),
        None => host.mem.zero_page(pfn),
    }
    host.stats.swap_ins += 1;
    let place = host.place(l.mm, l.va);
    note!(
        host,
        [Key::Frame(pfn), Key::Slot(entry), Key::page(l.mm, l.va)],
        "{place} read from slot {entry} into pfn {:#x}",
        pfn.0
    );
    Flow::To("pte_same")
}

fn folio_lock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("found");
    if host.has_flag(pfn, PageFlags::LOCKED) {
        return Flow::Blocked;
    }
    if host.page(pfn).swap != l.entry {
        // No longer that entry's page: fault again.
        return put_and_retry(host, l);
    }
    host.set_flag(pfn, PageFlags::LOCKED, true);
    note!(
        host,
        [Key::Frame(pfn), Key::page(l.mm, l.va)],
        "pfn {:#x} found in the swap cache",
        pfn.0
    );
    Flow::Next
}

/// Another thread may have mapped the page meanwhile.
fn pte_same(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, entry) = (l.pfn.expect("found"), l.entry.expect("called for a swap PTE"));
    if host.mm(l.mm).pte(l.va) == Some(Pte::Swap(entry)) {
        return Flow::Next;
    }
    host.set_flag(pfn, PageFlags::LOCKED, false);
    put_and_retry(host, l)
}

fn put_and_retry(host: &mut Host, l: &Locals) -> Flow {
    let pfn = l.pfn.expect("found");
    if host.put_page(pfn) {
        return Flow::Tail(PathId::FreeUnrefPage, *l);
    }
    Flow::Return(0)
}

/// The PTE's reference to the slot goes; with the swap cache bound to it the slot stays.
fn swap_free(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let entry = l.entry.expect("called for a swap PTE");
    if host.swap.put(entry) {
        Flow::Call(PathId::SwapRangeFree, *l)
    } else {
        Flow::Next
    }
}

/// `should_try_to_free_swap`: a write fault will make the slot stale, so it is given up now.
fn folio_free_swap(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, entry) = (l.pfn.expect("found"), l.entry.expect("called for a swap PTE"));
    if l.bypass || !l.write || host.swap.count(entry) > 0 {
        return Flow::Next;
    }
    host.page_mut(pfn).swap = None;
    host.set_flag(pfn, PageFlags::DIRTY, true);
    if host.swap.delete_from_swap_cache(entry) {
        Flow::Call(PathId::SwapRangeFree, *l)
    } else {
        Flow::Next
    }
}

fn sync_tags(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let tagged = host
        .mm(l.mm)
        .vma(l.va)
        .is_some_and(|(_, v)| v.flags.contains(VmFlags::MTE));
    if tagged {
        Flow::Call(PathId::MteSyncTags, *l)
    } else {
        Flow::Next
    }
}

/// The page is exclusive, so a read fault maps it writable too, but clean: the slot stays valid until it is written.
fn set_pte_at(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("found");
    let vma = host.mm(l.mm).vma(l.va).map(|(_, v)| *v).expect("mmap_lock is held");
    let pte = Pte::Present {
        pfn,
        write: vma.prot.contains(Prot::WRITE),
        dirty: l.write,
        tagged: vma.flags.contains(VmFlags::MTE),
        special: false,
    };
    host.mm_mut(l.mm).set_pte(l.va, pte);
    host.set_flag(pfn, PageFlags::LOCKED, false);
    // The reference taken at lookup or allocation now belongs to the PTE.
    host.lru_add(pfn);
    let how = if l.write { "for write" } else { "by a read, clean" };
    note!(
        host,
        [Key::Frame(pfn), Key::page(l.mm, l.va)],
        "pfn {:#x} mapped at {} {how}",
        pfn.0,
        host.place(l.mm, l.va)
    );
    Flow::Next
}

/// The bypassed swap cache lets go: the slot's last user.
fn swapcache_clear(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let entry = l.entry.expect("called for a swap PTE");
    if l.bypass && host.swap.swapcache_clear(entry) {
        Flow::Call(PathId::SwapRangeFree, *l)
    } else {
        Flow::Next
    }
}

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
    host.swap.offer(entry);
    host.ledger.slot_offered(entry, host.mte_pages.contains(entry));
    note!(host, [Key::Slot(entry)], "slot {entry} is free");
    Flow::Return(0)
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
    if host.has_flag(pfn, PageFlags::LRU) {
        host.resident -= 1;
    }
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
