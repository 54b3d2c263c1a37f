//! swapoff: everything comes back from a device, then what is left of its tag store goes.
//!
//! **Models** `SYSCALL_DEFINE1(swapoff)` (mm/swapfile.c): no slot is offered any more, `try_to_unuse` swaps every entry in
//! (`shmem_unuse` for files, `unuse_mm` for processes), pages still bound to slots let go, then `arch_swap_invalidate_area`. Other devices may get pages meanwhile.

use tagvisor_arch::{PAGE_SIZE, Va};

use crate::file::{Cached, File, FileId};
use crate::ids::MmId;
use crate::log::{Key, note};
use crate::mm::Pte;
use crate::ops::Op;
use crate::page::PageFlags;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};

pub(super) static SWAPOFF: Path = Path {
    name: "swapoff",
    steps: &[
        Step {
            name: "clear SWP_WRITEOK",
            run: |host, _, io| {
                host.swap.set_writeok(device(io), false);
                Flow::Next
            },
        },
        Step {
            name: "shmem_unuse",
            run: shmem_unuse,
        },
        Step {
            name: "next inode",
            run: |host, l, io| {
                if l.ret < 0 {
                    host.swap.set_writeok(device(io), true);
                    return Flow::Return(l.ret);
                }
                Flow::To("shmem_unuse")
            },
        },
        Step {
            name: "try_to_unuse",
            run: try_to_unuse,
        },
        Step {
            name: "unuse_pte",
            run: unuse_pte,
        },
        Step {
            name: "unuse_mm done",
            run: |host, l, io| {
                host.mm_mut(l.mm).mmap_lock.read_unlock();
                if l.ret < 0 {
                    host.swap.set_writeok(device(io), true);
                    return Flow::Return(l.ret);
                }
                Flow::To("try_to_unuse")
            },
        },
        Step {
            name: "folio_free_swap",
            run: folio_free_swap,
        },
        Step {
            name: "arch_swap_invalidate_area",
            run: arch_swap_invalidate_area,
        },
    ],
};

/// The device that is turned off.
fn device(io: &Io) -> u8 {
    match io.op {
        Op::Swapoff(device) => device,
        _ => unreachable!("entered for Op::Swapoff only"),
    }
}

fn shmem_unuse(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let swapped = |(id, file): (FileId, &File)| {
        file.cache.iter().find_map(|(index, cached)| match cached {
            Cached::Swap(entry) if entry.device == device(io) => Some((id, *index, *entry)),
            Cached::Swap(_) | Cached::Page(_) => None,
        })
    };
    let Some((file, file_page, entry)) = (0..)
        .map(FileId)
        .zip(host.files.iter().map(|file| &**file))
        .find_map(swapped)
    else {
        return Flow::To("try_to_unuse");
    };
    let swap_in = Locals {
        file,
        file_page,
        entry: Some(entry),
        ..*l
    };
    Flow::Call(PathId::ShmemSwapinFolio, swap_in)
}

fn try_to_unuse(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let swapped = |(i, mm): (usize, &crate::mm::Mm)| {
        mm.ptes
            .iter()
            .find(|(_, pte)| matches!(pte, Pte::Swap(entry) if entry.device == device(io)))
            .map(|(vpn, _)| (i as u32, *vpn))
    };
    let Some((mm, vpn)) = host.mms.iter().map(|mm| &**mm).enumerate().find_map(swapped) else {
        return Flow::To("folio_free_swap");
    };
    if !host.mms[mm as usize].mmap_lock.try_read() {
        return Flow::Blocked;
    }
    (l.mm, l.va) = (MmId(mm), Va(vpn * PAGE_SIZE));
    Flow::Next
}

fn unuse_pte(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    match host.mm(l.mm).pte(l.va) {
        Some(Pte::Swap(entry)) => Flow::Call(
            PathId::DoSwapPage,
            Locals {
                entry: Some(entry),
                write: false,
                ..*l
            },
        ),
        _ => Flow::Next,
    }
}

/// Pages that are mapped again but still bound to their slot: the binding goes, and with it the slot.
fn folio_free_swap(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let Some((entry, pfn)) = host.swap.first_cached(device(io)) else {
        return Flow::Next;
    };
    if host.has_flag(pfn, PageFlags::LOCKED) {
        return Flow::Blocked;
    }
    host.page_mut(pfn).swap = None;
    host.set_flag(pfn, PageFlags::DIRTY, true);
    host.swap.delete_from_swap_cache(entry);
    // Back to this step until no page is bound: the call returns to the step after, which loops.
    Flow::Call(
        PathId::SwapRangeFree,
        Locals {
            entry: Some(entry),
            ..*l
        },
    )
}

fn arch_swap_invalidate_area(host: &mut Host, _: &mut Locals, io: &mut Io) -> Flow {
    if host.swap.first_cached(device(io)).is_some() {
        return Flow::To("folio_free_swap");
    }
    for entry in host.mte_pages.erase_area(device(io)) {
        host.ledger.slot_touched(entry);
        note!(host, [Key::Slot(entry)], "mte_pages[{entry}] erased: swapoff");
    }
    Flow::Return(0)
}
