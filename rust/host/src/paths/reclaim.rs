//! Reclaim of one page: swap it out and drop it.
//!
//! **Models** `shrink_folio_list` (mm/vmscan.c) for an anonymous page: `add_to_swap`, `try_to_unmap` between notifier calls,
//! `pageout` with `arch_prepare_to_swap` before the write, `__remove_mapping`. **Leaves out** write-back that takes time,
//! reference checks of the LRU (the caller chose the page), and failure to save tags.
//!
//! **Keeps**: a page is written only after its tags are saved, and dropped only when its slot is up to date.

use tagvisor_arch::PAGE_SIZE;

use crate::errno::Errno;
use crate::log::{Key, note};
use crate::mm::Pte;
use crate::page::PageFlags;
use crate::paths::notifier;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};

pub(super) static SHRINK_FOLIO_LIST: Path = Path {
    name: "shrink_folio_list",
    steps: &[
        Step {
            name: "folio_trylock",
            run: folio_trylock,
        },
        Step {
            name: "add_to_swap",
            run: add_to_swap,
        },
        Step {
            name: "mmu_notifier_invalidate_range_start",
            run: |_, l, _| Flow::Call(PathId::NotifierStart, notifier::range(l)),
        },
        Step {
            name: "try_to_unmap",
            run: try_to_unmap,
        },
        Step {
            name: "mmu_notifier_invalidate_range_end",
            run: |_, l, _| Flow::Call(PathId::NotifierEnd, notifier::range(l)),
        },
        Step {
            name: "pageout",
            run: pageout,
        },
        Step {
            name: "arch_prepare_to_swap",
            run: |_, l, _| Flow::Call(PathId::MteSaveTags, *l),
        },
        Step {
            name: "swap_writepage",
            run: swap_writepage,
        },
        Step {
            name: "__remove_mapping",
            run: remove_mapping,
        },
    ],
};

/// Finds the page by its place: mapped, or unmapped but still in the swap cache. A page that is locked, or is none of
/// reclaim's (the zero page, device memory), is left alone.
fn folio_trylock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    l.va = l.va.page();
    l.end = l.va + PAGE_SIZE;
    let (pfn, unmapped) = match host.mm(l.mm).pte(l.va) {
        Some(Pte::Present {
            pfn, special: false, ..
        }) => (pfn, false),
        Some(Pte::Swap(entry)) => match host.swap.lookup(entry) {
            Some(pfn) => (pfn, true),
            None => return Flow::Return(0),
        },
        _ => return Flow::Return(0),
    };
    if host.has_flag(pfn, PageFlags::LOCKED) {
        return Flow::Return(Errno::Eagain.ret());
    }
    host.set_flag(pfn, PageFlags::LOCKED, true);
    l.pfn = Some(pfn);
    l.entry = host.page(pfn).swap;
    if unmapped { Flow::To("pageout") } else { Flow::Next }
}

fn add_to_swap(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("locked");
    if l.entry.is_some() {
        return Flow::Next;
    }
    let Some(entry) = host.swap.add_to_swap(pfn) else {
        host.set_flag(pfn, PageFlags::LOCKED, false);
        return Flow::Return(Errno::Enomem.ret());
    };
    host.page_mut(pfn).swap = Some(entry);
    host.set_flag(pfn, PageFlags::DIRTY, true);
    host.ledger.slot_touched(entry);
    l.entry = Some(entry);
    note!(
        host,
        [Key::Frame(pfn), Key::Slot(entry), Key::page(l.mm, l.va)],
        "{} (pfn {:#x}) gets swap slot {entry}",
        host.place(l.mm, l.va),
        pfn.0
    );
    Flow::Next
}

fn try_to_unmap(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, entry) = (l.pfn.expect("locked"), l.entry.expect("in the swap cache"));
    if let Some(Pte::Present { pfn: mapped, dirty, .. }) = host.mm(l.mm).pte(l.va)
        && mapped == pfn
    {
        host.mm_mut(l.mm).set_pte(l.va, Pte::Swap(entry));
        host.swap.duplicate(entry);
        let page = host.page_mut(pfn);
        page.refcount -= 1;
        page.flags
            .set(PageFlags::DIRTY, page.flags.contains(PageFlags::DIRTY) || dirty);
        note!(
            host,
            [Key::Frame(pfn), Key::Slot(entry), Key::page(l.mm, l.va)],
            "pfn {:#x} unmapped from {}",
            pfn.0,
            host.place(l.mm, l.va)
        );
    }
    Flow::Next
}

/// A clean page needs no write: its slot, and its saved tags, are taken to be up to date.
fn pageout(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("locked");
    if !host.has_flag(pfn, PageFlags::DIRTY) {
        note!(
            host,
            [Key::Frame(pfn)],
            "pfn {:#x} is clean: dropped without a write, tags not saved again",
            pfn.0
        );
        return Flow::To("__remove_mapping");
    }
    if host.page(pfn).refcount > 0 {
        // Somebody else holds it (GUP): kept in the swap cache.
        host.set_flag(pfn, PageFlags::LOCKED, false);
        return Flow::Return(Errno::Eagain.ret());
    }
    Flow::Next
}

fn swap_writepage(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, entry) = (l.pfn.expect("locked"), l.entry.expect("in the swap cache"));
    host.swap.write(entry, host.mem.data(pfn));
    host.set_flag(pfn, PageFlags::DIRTY, false);
    host.stats.swap_outs += 1;
    note!(
        host,
        [Key::Frame(pfn), Key::Slot(entry)],
        "data of pfn {:#x} written to slot {entry}",
        pfn.0
    );
    Flow::Next
}

/// Drops the page from the swap cache and frees it, if nobody took it meanwhile.
fn remove_mapping(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, entry) = (l.pfn.expect("locked"), l.entry.expect("in the swap cache"));
    host.set_flag(pfn, PageFlags::LOCKED, false);
    if host.page(pfn).refcount > 0 || host.has_flag(pfn, PageFlags::DIRTY) {
        return Flow::Return(Errno::Eagain.ret());
    }
    host.page_mut(pfn).swap = None;
    host.swap.delete_from_swap_cache(entry);
    Flow::Tail(PathId::FreeUnrefPage, *l)
}
