//! `madvise` of a part of one VMA.
//!
//! **Models** `madvise_dontneed_single_vma`, `madvise_free_single_vma`, `madvise_pageout` (whose `reclaim_pages` goes page by
//! page), `madvise_remove` and `madvise_populate` (mm/madvise.c), and `shmem_undo_range` that truncation ends in. Who is
//! refused is decided before (`crate::madvise`).
//!
//! **Keeps**: whatever unmaps a page tells the notifier first.

use tagvisor_arch::{PAGE_SIZE, Pfn, Va};

use crate::file::Cached;
use crate::hugetlb::HPAGE_SIZE;
use crate::log::{Key, note};
use crate::madvise::Advice;
use crate::mm::{Backing, Pte};
use crate::ops::Op;
use crate::page::{PageFlags, PageMapping};
use crate::paths::{gup, notifier, split};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};
use crate::thp::pmd_address;

const MMAP_READ_LOCK: Step = Step {
    name: "mmap_read_lock",
    run: gup::mmap_read_lock,
};
const MMAP_READ_UNLOCK: Step = Step {
    name: "mmap_read_unlock",
    run: |host, l, _| {
        host.mm_mut(l.mm).mmap_lock.read_unlock();
        Flow::Return(l.ret.min(0))
    },
};

pub(super) static MADVISE_DONTNEED: Path = Path {
    name: "madvise_dontneed",
    steps: &[
        MMAP_READ_LOCK,
        Step {
            name: "zap_page_range",
            run: |_, l, _| Flow::Call(PathId::ZapPageRange, *l),
        },
        MMAP_READ_UNLOCK,
    ],
};
pub(super) static MADVISE_FREE: Path = Path {
    name: "madvise_free",
    steps: &[
        MMAP_READ_LOCK,
        Step {
            name: "mmu_notifier_invalidate_range_start",
            run: |_, l, _| Flow::Call(PathId::NotifierStart, notifier::range(l)),
        },
        Step {
            name: "madvise_free_pte_range",
            run: madvise_free_pte_range,
        },
        Step {
            name: "next pte",
            run: |_, _, _| Flow::To("madvise_free_pte_range"),
        },
        Step {
            name: "mmu_notifier_invalidate_range_end",
            run: |_, l, _| Flow::Call(PathId::NotifierEnd, notifier::range(l)),
        },
        MMAP_READ_UNLOCK,
    ],
};
pub(super) static MADVISE_PAGEOUT: Path = Path {
    name: "madvise_pageout",
    steps: &[
        MMAP_READ_LOCK,
        Step {
            name: "split_folio",
            run: split_partial,
        },
        Step {
            name: "madvise_cold_or_pageout_pte_range",
            run: next_page_out,
        },
        Step {
            name: "next pte",
            run: |_, _, _| Flow::To("split_folio"),
        },
        Step {
            name: "mmap_read_unlock",
            run: |host, l, _| {
                host.mm_mut(l.mm).mmap_lock.read_unlock();
                Flow::Return(0)
            },
        },
    ],
};
pub(super) static MADVISE_REMOVE: Path = Path {
    name: "madvise_remove",
    steps: &[Step {
        name: "vfs_fallocate(FALLOC_FL_PUNCH_HOLE)",
        run: punch_hole,
    }],
};
pub(super) static MADVISE_POPULATE: Path = Path {
    name: "madvise_populate",
    steps: &[
        MMAP_READ_LOCK,
        Step {
            name: "faultin_page_range",
            run: populate_next,
        },
        Step {
            name: "next page",
            run: populated,
        },
        MMAP_READ_UNLOCK,
    ],
};
pub(super) static SHMEM_UNDO_RANGE: Path = Path {
    name: "shmem_undo_range",
    steps: &[
        Step {
            name: "unmap_mapping_range",
            run: unmap_mapping_range,
        },
        Step {
            name: "next mapping",
            run: |_, l, _| {
                l.skip_cows = false;
                Flow::To("unmap_mapping_range")
            },
        },
        Step {
            name: "truncate_inode_folio",
            run: truncate_inode_folio,
        },
        Step {
            name: "next folio",
            run: |_, _, _| Flow::To("truncate_inode_folio"),
        },
    ],
};

/// Clean and young no more, present pages may go when reclaim comes; swapped ones go at once. A page that another process
/// has, or that cannot leave the swap cache, is left alone.
fn madvise_free_pte_range(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let next = host
        .mm(l.mm)
        .ptes
        .range(l.va.vpn() + u64::from(l.index)..l.end.vpn())
        .next();
    let Some((vpn, pte)) = next.map(|(vpn, pte)| (*vpn, *pte)) else {
        return Flow::To("mmu_notifier_invalidate_range_end");
    };
    let va = Va(vpn * PAGE_SIZE);
    if let Pte::Present { pfn, .. } = pte
        && let Some(entry) = host.page(pfn).swap
        && host.swap.count(entry) == 0
        && host.mapcount(pfn) == 1
        && !host.has_flag(pfn, PageFlags::LOCKED)
    {
        // folio_free_swap, then the same page again.
        host.page_mut(pfn).swap = None;
        host.swap.delete_from_swap_cache(entry);
        let entry = Some(entry);
        return Flow::Call(PathId::SwapRangeFree, Locals { entry, ..*l });
    }
    l.index = u32::try_from(vpn - l.va.vpn() + 1).expect("checked by the caller");
    match pte {
        Pte::Swap(entry) => {
            host.mm_mut(l.mm).clear_pte(va);
            host.ledger.discarded(l.mm, va, va + PAGE_SIZE);
            host.swap.put(entry);
            let pfn = host.swap.lookup(entry).filter(|pfn| host.page(*pfn).refcount == 0);
            return Flow::Call(
                PathId::FreePageAndSwapCache,
                Locals {
                    entry: Some(entry),
                    pfn,
                    ..*l
                },
            );
        }
        Pte::Present {
            pfn,
            write,
            tagged,
            special: false,
            ..
        } if host.mapcount(pfn) == 1 && host.page(pfn).swap.is_none() => {
            let pte = Pte::Present {
                pfn,
                write,
                dirty: false,
                tagged,
                special: false,
            };
            host.mm_mut(l.mm).set_pte(va, pte);
            let page = host.page_mut(pfn);
            page.flags.remove(PageFlags::DIRTY | PageFlags::YOUNG);
            page.flags |= PageFlags::LAZYFREE;
            note!(
                host,
                [Key::page(l.mm, va), Key::Frame(pfn)],
                "pfn {:#x} may be dropped unless it is written",
                pfn.0
            );
        }
        Pte::Present { .. } | Pte::Migration { .. } | Pte::Hwpoison(_) => {}
    }
    Flow::To("madvise_free_pte_range")
}

/// A huge page that is mapped nowhere else and that the range has only a part of is split first.
fn split_partial(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let mut touched = host.mm(l.mm).touched(l.va, l.end).into_iter();
    let part = touched.find_map(|va| part_of_thp(host, l, io, va).filter(|pfn| host.mapcount(*pfn) == 1));
    split::split_first(host, l, part)
}

/// The page at an address, if it is part of a huge page that the advice is not about all of.
fn part_of_thp(host: &Host, l: &Locals, io: &Io, va: Va) -> Option<Pfn> {
    let Op::Madvise(_, from, pages, _) = io.op else {
        unreachable!("entered for Op::Madvise only")
    };
    let whole = pmd_address(va) >= from && pmd_address(va) + HPAGE_SIZE <= from + pages * PAGE_SIZE;
    match host.mm(l.mm).pte(va) {
        Some(Pte::Present { pfn, .. }) if host.is_thp(pfn) && !whole => Some(pfn),
        _ => None,
    }
}

/// The next present page that is mapped nowhere else: others are left to the processes that use them.
fn next_page_out(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let next = host.mm(l.mm).touched(l.va, l.end).into_iter().find(|va| {
        part_of_thp(host, l, io, *va).is_none() && matches!(host.mm(l.mm).pte(*va), Some(Pte::Present { pfn, special: false, .. }) if host.mapcount(pfn) == 1)
    });
    let Some(va) = next else {
        return Flow::To("mmap_read_unlock");
    };
    l.va = va + PAGE_SIZE;
    Flow::Call(
        PathId::ShrinkFolioList,
        Locals {
            va,
            pageout: true,
            entry: None,
            ..*l
        },
    )
}

fn punch_hole(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (start, vma) = host
        .mm(l.mm)
        .vma(l.va)
        .map(|(s, v)| (s, *v))
        .expect("checked by the caller");
    let Backing::File(file) = vma.backing else {
        unreachable!("checked by the caller")
    };
    let first = vma.offset + (l.va.vpn() - start);
    let undo = Locals {
        file,
        file_page: first,
        file_end: first + (l.end - l.va) / PAGE_SIZE,
        ..*l
    };
    Flow::Tail(PathId::ShmemUndoRange, undo)
}

fn populate_next(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    l.write = matches!(io.op, Op::Madvise(_, _, _, Advice::PopulateWrite));
    let present = matches!(host.mm(l.mm).pte(l.va), Some(Pte::Present { write, .. }) if write || !l.write);
    if present {
        Flow::Next
    } else {
        Flow::Call(PathId::HandleMmFault, *l)
    }
}

fn populated(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if l.ret < 0 {
        return Flow::Next;
    }
    let present = matches!(host.mm(l.mm).pte(l.va), Some(Pte::Present { write, .. }) if write || !l.write);
    if present {
        l.va += PAGE_SIZE;
    }
    if l.va == l.end {
        Flow::Next
    } else {
        Flow::To("faultin_page_range")
    }
}

/// Every mapping of a page of the range goes first, private copies stay.
fn unmap_mapping_range(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some((mm, va)) = host.mapped_file_page(l.file, l.file_page, l.file_end) else {
        return Flow::To("truncate_inode_folio");
    };
    let zap = Locals {
        mm,
        va,
        end: va + PAGE_SIZE,
        skip_cows: true,
        ..*l
    };
    Flow::Call(PathId::ZapPageRange, zap)
}

/// The next page of the range leaves the page cache, or its swap slot is given up.
fn truncate_inode_folio(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let next = host.file(l.file).cache.range(l.file_page..l.file_end).next();
    let Some((index, cached)) = next.map(|(index, cached)| (*index, *cached)) else {
        host.ledger.truncated(l.file, l.file_page, l.file_end);
        let (first, end) = (l.file_page, l.file_end);
        host.file_mut(l.file)
            .disk
            .retain(|index, _| !(first..end).contains(index));
        return Flow::Return(0);
    };
    if let Cached::Page(pfn) = cached {
        if host.has_flag(pfn, PageFlags::LOCKED) {
            return Flow::Blocked;
        }
        if host.mapcount(pfn) > 0 {
            // truncate_cleanup_folio: mapped again since.
            return Flow::To("unmap_mapping_range");
        }
    }
    host.file_mut(l.file).cache.remove(&index);
    (l.pfn, l.entry) = (None, None);
    match cached {
        Cached::Page(pfn) => {
            host.page_mut(pfn).mapping = PageMapping::None;
            if host.put_page(pfn) {
                l.pfn = Some(pfn);
            }
        }
        Cached::Swap(entry) => {
            host.swap.put(entry);
            l.entry = Some(entry);
            l.pfn = host.swap.lookup(entry).filter(|pfn| host.page(*pfn).refcount == 0);
        }
    }
    Flow::Call(PathId::FreePageAndSwapCache, *l)
}
