//! Swap-in of anonymous memory.
//!
//! **Models** `do_swap_page` (mm/memory.c); K7 decides on which side of `swap_free` the tags are restored, each a table of
//! the same steps. **Leaves out** read-ahead, I/O errors and large folios.
//!
//! **Keeps**: the PTE is locked from `pte_same` to the end; the page is locked from the moment it is found until its PTE is written and its slot has been let go of.

use crate::errno::Errno;
use crate::log::{Key, note};
use crate::mm::{Prot, Pte, VmFlags};
use crate::page::{PageFlags, PageMapping};
use crate::paths::fault;
use crate::paths::pte::{self, Old};
use crate::paths::ptl;
use crate::policy::{RestoreAt, SwapBypass, SwapInWrite};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};

const GET_FOLIO: Step = Step {
    name: "swap_cache_get_folio",
    run: swap_cache_get_folio,
};
const READ_FOLIO: Step = Step {
    name: "swap_read_folio",
    run: swap_read_folio,
};
const FOLIO_LOCK: Step = Step {
    name: "folio_lock",
    run: folio_lock,
};
const KSM_COPY: Step = Step {
    name: "ksm_might_need_to_copy",
    run: ksm_might_need_to_copy,
};
const PTE_SAME: Step = Step {
    name: "pte_same",
    run: pte_same,
};
const SWAP_FREE: Step = Step {
    name: "swap_free",
    run: swap_free,
};
const FOLIO_FREE_SWAP: Step = Step {
    name: "folio_free_swap",
    run: folio_free_swap,
};
const SYNC_TAGS: Step = Step {
    name: "mte_sync_tags",
    run: sync_tags,
};
const SET_PTE: Step = Step {
    name: "set_pte_at",
    run: set_pte_at,
};
const SWAPCACHE_CLEAR: Step = Step {
    name: "swapcache_clear",
    run: swapcache_clear,
};
const FOLIO_UNLOCK: Step = Step {
    name: "folio_unlock",
    run: folio_unlock,
};

/// 6.5 and later: restored under the page lock before the slot can be freed.
pub(super) static DO_SWAP_PAGE: Path = Path {
    name: "do_swap_page",
    steps: &[
        GET_FOLIO,
        READ_FOLIO,
        FOLIO_LOCK,
        KSM_COPY,
        PTE_SAME,
        Step {
            name: "arch_swap_restore",
            run: |_, l, _| Flow::Call(PathId::MteRestoreTags, *l),
        },
        SWAP_FREE,
        FOLIO_FREE_SWAP,
        SYNC_TAGS,
        SET_PTE,
        SWAPCACHE_CLEAR,
        FOLIO_UNLOCK,
    ],
};
/// 5.18 to 6.4: `set_pte_at` restores, after the slot was freed.
pub(super) static DO_SWAP_PAGE_FREE_FIRST: Path = Path {
    name: "do_swap_page",
    steps: &[
        GET_FOLIO,
        READ_FOLIO,
        FOLIO_LOCK,
        KSM_COPY,
        PTE_SAME,
        SWAP_FREE,
        FOLIO_FREE_SWAP,
        SYNC_TAGS,
        SET_PTE,
        SWAPCACHE_CLEAR,
        FOLIO_UNLOCK,
    ],
};
/// Up to 5.17: `set_pte_at` restores, then the slot is freed.
pub(super) static DO_SWAP_PAGE_RESTORE_IN_SET_PTE: Path = Path {
    name: "do_swap_page",
    steps: &[
        GET_FOLIO,
        READ_FOLIO,
        FOLIO_LOCK,
        KSM_COPY,
        PTE_SAME,
        SYNC_TAGS,
        SET_PTE,
        SWAP_FREE,
        FOLIO_FREE_SWAP,
        SWAPCACHE_CLEAR,
        FOLIO_UNLOCK,
    ],
};

/// The page may still be in the swap cache; else a frame is taken. A synchronous device whose slot is used once bypasses
/// the swap cache; `SWAP_HAS_CACHE` then only keeps others out, where the kernel sets it (`swapcache_prepare`).
fn swap_cache_get_folio(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let entry = l.entry.expect("called for a swap PTE");
    l.from = None;
    if host.mm(l.mm).pte(l.va) != Some(Pte::Swap(entry)) {
        return Flow::Return(0);
    }
    if host
        .swap
        .lookup(entry)
        .is_some_and(|pfn| host.has_flag(pfn, PageFlags::HWPOISON))
    {
        l.out = fault::HWPOISON;
        return Flow::Return(Errno::Efault.ret());
    }
    if let Some(pfn) = host.swap.lookup(entry) {
        l.pfn = Some(pfn);
        host.page_mut(pfn).refcount += 1;
        return Flow::To("folio_lock");
    }
    l.bypass = host.swap.is_synchronous(entry) && host.swap.count(entry) == 1;
    let prepare = l.bypass && host.policy.swap_bypass == SwapBypass::Prepare;
    if prepare && !host.swap.swapcache_prepare(entry) {
        // Another thread is swapping it in: sleep, then look at the PTE again.
        return Flow::Blocked;
    }
    let Some(pfn) = host.alloc_page(PageMapping::Anon(l.va.page())) else {
        if prepare {
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
    host.swap_read(entry, pfn);
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
    if host.page(pfn).mapping == PageMapping::None {
        // zswap brought it to write it back: it belongs to nobody yet.
        host.page_mut(pfn).mapping = PageMapping::Anon(l.va.page());
    }
    note!(
        host,
        [Key::Frame(pfn), Key::page(l.mm, l.va)],
        "pfn {:#x} found in the swap cache",
        pfn.0
    );
    Flow::Next
}

/// A page that KSM had merged was read back for another address, and cannot be mapped here too: a copy takes its place.
/// `l.from` is the page in the swap cache then.
fn ksm_might_need_to_copy(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("found");
    if !matches!(host.page(pfn).mapping, PageMapping::Anon(va) if va != l.va.page()) {
        return Flow::Next;
    }
    let Some(copy) = host.alloc_page(PageMapping::Anon(l.va.page())) else {
        host.set_flag(pfn, PageFlags::LOCKED, false);
        host.page_mut(pfn).refcount -= 1;
        return Flow::Return(Errno::Enomem.ret());
    };
    host.set_flag(copy, PageFlags::LOCKED | PageFlags::DIRTY, true);
    (l.from, l.pfn) = (Some(pfn), Some(copy));
    Flow::Call(PathId::CopyHighpage, *l)
}

/// Another thread may have mapped the page meanwhile.
fn pte_same(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let (pfn, entry) = (l.pfn.expect("found"), l.entry.expect("called for a swap PTE"));
    if host.mm(l.mm).pte(l.va) == Some(Pte::Swap(entry)) {
        ptl::lock(host, io, l.mm, l.va);
        return Flow::Next;
    }
    host.set_flag(pfn, PageFlags::LOCKED, false);
    if let Some(cached) = l.from {
        host.page_mut(cached).refcount -= 1;
        host.set_flag(cached, PageFlags::LOCKED, false);
    }
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
    if l.bypass || !l.write || l.from.is_some() || host.swap.count(entry) > 0 {
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
    let (_, vma) = host.mm(l.mm).vma(l.va).expect("mmap_lock is held");
    pte::sync_tags(host, l, vma, Old::Swap(l.entry.expect("called for a swap PTE")))
}

/// A page that no other process has may be mapped writable by a read fault too, but clean: the slot stays valid until it
/// is written.
fn set_pte_at(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("found");
    let vma = host.mm(l.mm).vma(l.va).map(|(_, v)| *v).expect("mmap_lock is held");
    let entry = l.entry.expect("called for a swap PTE");
    // Before 5.18 our own reference to the slot still counts here.
    let ours = u32::from(host.policy.restore_at == RestoreAt::SetPte);
    let alone = host.swap.count(entry) == ours && host.page(pfn).refcount == 1;
    let exclusive = l.from.is_some() || alone && host.page(pfn).mapping != PageMapping::Ksm;
    if l.from.is_some() {
        host.ledger_unmerged(pfn, (l.mm, l.va));
    }
    host.set_flag(pfn, PageFlags::ANON_EXCLUSIVE, exclusive);
    let for_write = l.write || host.policy.swap_in_write == SwapInWrite::Vma;
    let pte = Pte::Present {
        pfn,
        write: vma.prot.contains(Prot::WRITE) && exclusive && for_write,
        dirty: l.write && exclusive,
        tagged: vma.flags.contains(VmFlags::MTE),
        special: false,
    };
    host.mm_mut(l.mm).set_pte(l.va, pte);
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
    let prepared = l.bypass && host.policy.swap_bypass == SwapBypass::Prepare;
    if prepared && host.swap.swapcache_clear(entry) {
        Flow::Call(PathId::SwapRangeFree, *l)
    } else {
        Flow::Next
    }
}

/// `pte_unmap_unlock` too.
fn folio_unlock(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    ptl::unlock(host, io);
    host.set_flag(l.pfn.expect("found"), PageFlags::LOCKED, false);
    let Some(cached) = l.from else { return Flow::Return(0) };
    host.set_flag(cached, PageFlags::LOCKED, false);
    host.page_mut(cached).refcount -= 1;
    if host.page(cached).refcount > 0 {
        return Flow::Return(0);
    }
    let pfn = Some(cached);
    Flow::Tail(PathId::FreePageAndSwapCache, Locals { pfn, ..*l })
}
