//! A write to a page that is mapped read-only.
//!
//! **Models** `do_wp_page` (mm/memory.c): the page is reused where nobody else has it, else copied with its tags, between the
//! two ends of a notifier invalidation. **Leaves out** page tables.
//!
//! **Keeps**: a copy is mapped only after its tags are what the PTE promises.

use tagvisor_arch::Pfn;

use crate::errno::Errno;
use crate::mm::{Prot, Pte, VmFlags};
use crate::page::{PageFlags, PageMapping};
use crate::paths::fault::{alloc_zeroed_folio, sync_new_page};
use crate::paths::{change_pte, notifier};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};

pub(super) static DO_WP_PAGE: Path = Path {
    name: "do_wp_page",
    steps: &[
        Step {
            name: "folio_free_swap",
            run: wp_free_swap,
        },
        Step {
            name: "wp_can_reuse_anon_folio",
            run: wp_page_reuse,
        },
        Step {
            name: "wp_page_copy",
            run: wp_page_copy,
        },
        Step {
            name: "mmu_notifier_invalidate_range_start",
            run: call_notifier_start,
        },
        Step {
            name: "mte_sync_tags",
            run: sync_new_page,
        },
        Step {
            name: "set_pte_at",
            run: set_wp_pte,
        },
        Step {
            name: "mmu_notifier_change_pte",
            run: |_, l, _| change_pte::call(l),
        },
        Step {
            name: "mmu_notifier_invalidate_range_end",
            run: call_notifier_end,
        },
        Step {
            name: "put_page",
            run: put_from,
        },
    ],
};
/// The old page, if the fault still is a write to a present read-only PTE.
fn wp_old_page(host: &Host, l: &Locals) -> Option<(Pfn, bool)> {
    match host.mm(l.mm).pte(l.va) {
        Some(Pte::Present { pfn, special, .. }) => Some((pfn, special)),
        _ => None,
    }
}

/// A page only we have, but for the swap cache: its slot is given up first, so that it can be reused.
fn wp_free_swap(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some((pfn, false)) = wp_old_page(host, l) else {
        return Flow::Next;
    };
    let page = host.page(pfn);
    let Some(entry) = page.swap else { return Flow::Next };
    let keep = PageFlags::ANON_EXCLUSIVE | PageFlags::LOCKED;
    if page.refcount > 1 || page.flags.intersects(keep) || host.swap.count(entry) > 0 {
        return Flow::Next;
    }
    host.page_mut(pfn).swap = None;
    host.set_flag(pfn, PageFlags::DIRTY, true);
    host.swap.delete_from_swap_cache(entry);
    Flow::Call(
        PathId::SwapRangeFree,
        Locals {
            entry: Some(entry),
            ..*l
        },
    )
}

/// Shared memory, and an anonymous page that no other process has, becomes writable in place.
fn wp_page_reuse(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some(Pte::Present {
        pfn, tagged, special, ..
    }) = host.mm(l.mm).pte(l.va)
    else {
        return Flow::Return(0);
    };
    let (_, vma) = host.mm(l.mm).vma(l.va).map(|(s, v)| (s, *v)).expect("found before");
    let page = host.page(pfn);
    let exclusive = matches!(page.mapping, PageMapping::Anon(_))
        && (page.flags.contains(PageFlags::ANON_EXCLUSIVE)
            || page.refcount == 1 && page.swap.is_none() && !page.flags.contains(PageFlags::LOCKED));
    if pfn == host.zero_pfn || !vma.flags.contains(VmFlags::SHARED) && !exclusive {
        return Flow::Next;
    }
    if exclusive {
        host.page_mut(pfn).flags |= PageFlags::ANON_EXCLUSIVE;
    }
    let pte = Pte::Present {
        pfn,
        write: vma.prot.contains(Prot::WRITE),
        dirty: true,
        tagged,
        special,
    };
    host.mm_mut(l.mm).set_pte(l.va, pte);
    Flow::Return(0)
}

/// A page of our own: zeroed in place of the zero page, else a copy with the tags.
fn wp_page_copy(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let Some((old, special)) = wp_old_page(host, l) else {
        return Flow::Return(0);
    };
    l.from = Some(old);
    if special {
        return alloc_zeroed_folio(host, l, io);
    }
    let Some(pfn) = host.alloc_page(PageMapping::Anon(l.va.page())) else {
        return Flow::Return(Errno::Enomem.ret());
    };
    host.page_mut(old).refcount += 1;
    l.pfn = Some(pfn);
    Flow::Call(PathId::CopyHighpage, *l)
}

fn call_notifier_start(_: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    Flow::Call(
        PathId::NotifierStart,
        notifier::range(&Locals {
            end: l.va + tagvisor_arch::PAGE_SIZE,
            ..*l
        }),
    )
}

fn call_notifier_end(_: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    Flow::Call(
        PathId::NotifierEnd,
        notifier::range(&Locals {
            end: l.va + tagvisor_arch::PAGE_SIZE,
            ret: 0,
            ..*l
        }),
    )
}

/// The private copy replaces the old page, unless the PTE changed meanwhile. `l.from` then is the old page, which has lost
/// a mapping, or none.
fn set_wp_pte(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, old) = (l.pfn.expect("allocated"), l.from.expect("there was one"));
    let counted = host.is_counted(old);
    // pte_same: another thread may also have made the old page writable where it is.
    if !matches!(host.mm(l.mm).pte(l.va), Some(Pte::Present { pfn, write: false, .. }) if pfn == old) {
        host.drop_unmapped_page(pfn);
        l.from = counted.then_some(old);
        return Flow::Next;
    }
    if counted {
        host.page_mut(old).refcount -= 1;
        host.ledger_copied_on_write((l.mm, l.va));
        host.ledger_unmerged(pfn, (l.mm, l.va));
    }
    l.from = counted.then_some(old);
    host.map_new_page(l, pfn);
    Flow::Next
}

/// Drops our reference to the page that was copied from (or lost the race); the last one frees it, with its slot.
pub(super) fn put_from(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some(pfn) = l.from.filter(|pfn| host.is_counted(*pfn)) else {
        return Flow::Return(l.ret.min(0));
    };
    host.page_mut(pfn).refcount -= 1;
    if host.page(pfn).refcount > 0 {
        return Flow::Return(l.ret.min(0));
    }
    let entry = host.page(pfn).swap;
    Flow::Tail(
        PathId::FreePageAndSwapCache,
        Locals {
            pfn: Some(pfn),
            entry,
            ..*l
        },
    )
}
