//! Reclaim of one folio: swap it out and drop it.
//!
//! **Models** `shrink_folio_list` (mm/vmscan.c) for anonymous, shmem and disk file pages: `add_to_swap`, `try_to_unmap` of
//! every mapping between notifier calls, then what `pageout.rs` has: the write, and `__remove_mapping`. A huge page goes whole
//! where K12 says so. **Leaves out** reference checks but for those of `MADV_PAGEOUT` (else the caller chose the page).
//!
//! **Keeps**: a page is written only after its tags are saved, and dropped only when its slot is up to date.

use tagvisor_arch::{PAGE_SIZE, Pfn, Va};

use crate::errno::Errno;
use crate::file::Cached;
use crate::hugetlb::{HPAGE_SIZE, compound_head};
use crate::ids::MmId;
use crate::log::{Key, note};
use crate::mm::Pte;
use crate::ops::Op;
use crate::page::{PageFlags, PageMapping};
use crate::paths::pageout::{at_page, frames, locked_page, unlock};
use crate::paths::{notifier, pageout, split};
use crate::policy::{PageoutReferences, ThpSwap};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};
use crate::swap::SwpEntry;
use crate::thp::folio;

pub(super) static SHRINK_FOLIO_LIST: Path = Path {
    name: "shrink_folio_list",
    steps: &[
        Step {
            name: "split_folio",
            run: split_folio,
        },
        Step {
            name: "folio_trylock",
            run: folio_trylock,
        },
        Step {
            name: "folio_check_references",
            run: folio_check_references,
        },
        Step {
            name: "add_to_swap",
            run: add_to_swap,
        },
        Step {
            name: "rmap_walk",
            run: rmap_walk,
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
            name: "next mapping",
            run: |_, _, _| Flow::To("rmap_walk"),
        },
        Step {
            name: "pageout",
            run: pageout::pageout,
        },
        Step {
            name: "arch_prepare_to_swap",
            run: pageout::arch_prepare_to_swap,
        },
        Step {
            name: "swap_writepage",
            run: pageout::swap_writepage,
        },
        Step {
            name: "__remove_mapping",
            run: pageout::remove_mapping,
        },
        Step {
            name: "free_unref_page",
            run: pageout::free_unref_page,
        },
        Step {
            name: "next page of the folio",
            run: |_, _, _| Flow::To("__remove_mapping"),
        },
    ],
};

/// The page that an operation names: by its frame, or by its place, where it may be unmapped but still in the swap cache.
fn page_named(host: &Host, l: &Locals, io: &Io) -> Option<Pfn> {
    if let Op::Shrink(pfn) = io.op {
        return Some(pfn);
    }
    match host.mm(l.mm).pte(l.va) {
        Some(Pte::Present {
            pfn, special: false, ..
        }) => Some(pfn),
        Some(Pte::Present { .. } | Pte::Migration { .. } | Pte::Hwpoison(_)) => None,
        Some(Pte::Swap(entry)) => host.swap.lookup(entry),
        None => match host.cached_at(l.mm, l.va)? {
            Cached::Swap(entry) => host.swap.lookup(entry),
            Cached::Page(_) => None,
        },
    }
}

/// K12: before large folios were swapped as a whole, a huge page was split first. Afterwards only one that is partly
/// unmapped, or lazily freed, or for which there are not enough slots.
fn split_folio(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    l.va = l.va.page();
    let pfn = page_named(host, l, io);
    let whole = host.policy.thp_swap == ThpSwap::Whole && pfn.is_some_and(|pfn| host.swaps_whole(pfn));
    split::split_first(host, l, pfn.filter(|_| !whole))
}

/// A page that is locked, or is none of reclaim's (the zero page, device memory, ramfs), is left alone.
fn folio_trylock(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    l.va = l.va.page();
    let Some(pfn) = page_named(host, l, io) else {
        return Flow::Return(0);
    };
    let evictable = match host.page(pfn).mapping {
        PageMapping::Anon(_) | PageMapping::Ksm => true,
        PageMapping::File(file, _) => host.file(file).kind.evictable(),
        PageMapping::None => false,
    };
    if !evictable || host.has_flag(pfn, PageFlags::HWPOISON) {
        return Flow::Return(0);
    }
    l.from = Some(pfn);
    let locked = |pfn| host.has_flag(Pfn(pfn), PageFlags::LOCKED);
    if frames(host, l).any(locked) {
        return Flow::Return(Errno::Eagain.ret());
    }
    for pfn in frames(host, l).map(Pfn) {
        // folio_isolate_lru holds it: what lets go of the page meanwhile does not free it.
        let page = host.page_mut(pfn);
        page.refcount += 1;
        page.flags |= PageFlags::LOCKED;
    }
    at_page(host, l, 0);
    Flow::Next
}

/// `MADV_PAGEOUT` in versions that look: a page that a guest used since it was last asked stays this time.
fn folio_check_references(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let looks = l.pageout && host.policy.pageout_references == PageoutReferences::Checked;
    if looks && frames(host, l).fold(false, |young, pfn| host.folio_referenced(Pfn(pfn)) | young) {
        return unlock(host, l, Errno::Eagain);
    }
    Flow::Next
}

/// Anonymous pages get their slot first; a lazily freed page needs none.
fn add_to_swap(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if matches!(host.page(locked_page(l)).mapping, PageMapping::File(..)) {
        return Flow::Next;
    }
    for pfn in frames(host, l).map(Pfn) {
        let needs_none = host.page(pfn).swap.is_some() || host.has_flag(pfn, PageFlags::LAZYFREE);
        if !needs_none && host.bind_to_slot(pfn).is_none() {
            return unlock(host, l, Errno::Enomem);
        }
    }
    at_page(host, l, 0);
    Flow::Next
}

/// The next process that maps the folio.
fn rmap_walk(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let folio = frames(host, l);
    if folio.end - folio.start > 1 {
        let Some((mm, va)) = host.folio_rmap(Pfn(folio.start)) else {
            return Flow::To("pageout");
        };
        (l.mm, l.va, l.end) = (mm, va, va + HPAGE_SIZE);
        return Flow::Next;
    }
    let Some((mm, va)) = host.rmap(locked_page(l)).first().copied() else {
        return Flow::To("pageout");
    };
    let page = host.page(locked_page(l));
    if l.entry.is_none() && page.mapping == PageMapping::Anon(va) && !page.flags.contains(PageFlags::LAZYFREE) {
        // No longer lazily freed: it needs a slot, the next time.
        return unlock(host, l, Errno::Eagain);
    }
    (l.mm, l.va, l.end) = (mm, va, va + PAGE_SIZE);
    Flow::Next
}

/// Every PTE of the folio in this process becomes a swap entry.
fn try_to_unmap(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let folio = frames(host, l);
    for va in host.mm(l.mm).touched(l.va, l.end) {
        if let Some(Pte::Present { pfn, dirty, .. }) = host.mm(l.mm).pte(va)
            && folio.contains(&pfn.0)
        {
            host.try_to_unmap_one((l.mm, va), pfn, dirty);
        }
    }
    Flow::Next
}

impl Host {
    /// May the huge page be swapped out as it is?
    fn swaps_whole(&self, page: Pfn) -> bool {
        let lazyfree = |pfn| self.has_flag(pfn, PageFlags::LAZYFREE);
        let slots = folio(page).filter(|pfn| self.page(*pfn).swap.is_none()).count() as u64;
        self.is_thp(page)
            && !self.partly_unmapped(page)
            && !folio(page).any(lazyfree)
            && slots <= self.swap.free_slots()
    }

    /// The first process that maps some page of a huge page, and where the huge page begins in it.
    fn folio_rmap(&self, head: Pfn) -> Option<(MmId, Va)> {
        let PageMapping::Anon(base) = self.page(head).mapping else {
            return None;
        };
        let shows = |pte: &Pte| matches!(pte, Pte::Present { pfn, .. } if compound_head(*pfn) == head);
        let range = base.vpn()..(base + HPAGE_SIZE).vpn();
        let mut mms = (0..).map(MmId).zip(&self.mms);
        let (mm, _) = mms.find(|(_, mm)| mm.ptes.range(range.clone()).any(|(_, pte)| shows(pte)))?;
        Some((mm, base))
    }

    /// `try_to_unmap_one` of a PTE: a swap entry takes its place, or nothing where the page cache has the page.
    fn try_to_unmap_one(&mut self, (mm, va): (MmId, Va), pfn: Pfn, dirty: bool) {
        let page = self.page_mut(pfn);
        page.flags
            .set(PageFlags::DIRTY, page.flags.contains(PageFlags::DIRTY) || dirty);
        let (file, lazyfree) = (
            matches!(page.mapping, PageMapping::File(..)),
            page.flags.contains(PageFlags::LAZYFREE),
        );
        if lazyfree && page.flags.contains(PageFlags::DIRTY) {
            // Written since MADV_FREE: it is to be kept after all (folio_set_swapbacked).
            page.flags.remove(PageFlags::LAZYFREE);
            return;
        }
        page.refcount -= 1;
        match page.swap.filter(|_| !file && !lazyfree) {
            Some(entry) => {
                self.mm_mut(mm).set_pte(va, Pte::Swap(entry));
                self.swap.duplicate(entry);
            }
            None => {
                self.mm_mut(mm).clear_pte(va);
            }
        }
        note!(
            self,
            [Key::Frame(pfn), Key::page(mm, va)],
            "pfn {:#x} unmapped from {}",
            pfn.0,
            self.place(mm, va)
        );
    }

    /// `folio_alloc_swap` and `add_to_swap_cache`.
    pub(super) fn bind_to_slot(&mut self, pfn: Pfn) -> Option<SwpEntry> {
        let entry = self.swap.add_to_swap(pfn)?;
        self.page_mut(pfn).swap = Some(entry);
        self.set_flag(pfn, PageFlags::DIRTY, true);
        self.ledger.slot_touched(entry);
        note!(
            self,
            [Key::Frame(pfn), Key::Slot(entry)],
            "pfn {:#x} gets swap slot {entry}",
            pfn.0
        );
        Some(entry)
    }

    /// What the page cache has for a place where a file is mapped.
    fn cached_at(&self, mm: MmId, va: Va) -> Option<Cached> {
        let (start, vma) = self.mm(mm).vma(va)?;
        let crate::mm::Backing::File(file) = vma.backing else {
            return None;
        };
        let index = vma.offset + (va.vpn() - start);
        self.file(file).cache.get(&index).copied()
    }
}
