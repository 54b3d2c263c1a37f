//! Taking memory away: munmap, `mmap(MAP_FIXED)` over a mapping, `MADV_DONTNEED`.
//!
//! **Models** `zap_pte_range` between notifier calls (mm/memory.c) and its callers. For the ledger this is where a content
//! ends: what its owner wrote need not be kept any longer, and nobody may see it any more.

use tagvisor_arch::{PAGE_SIZE, Pfn, Va};

use crate::ids::MmId;
use crate::log::{Key, note};
use crate::mm::{Backing, Prot, Pte, VmFlags, Vma};
use crate::ops::Op;
use crate::paths::{fault, notifier};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};

pub(super) static MUNMAP: Path = Path {
    name: "munmap",
    steps: &[
        Step {
            name: "mmap_write_lock",
            run: mmap_write_lock,
        },
        Step {
            name: "unmap_vmas",
            run: |_, l, _| Flow::Call(PathId::ZapPageRange, *l),
        },
        Step {
            name: "mmap_write_unlock",
            run: remove_vmas,
        },
    ],
};
pub(super) static MADVISE_DONTNEED: Path = Path {
    name: "madvise_dontneed",
    steps: &[
        Step {
            name: "mmap_read_lock",
            run: fault::mmap_read_lock,
        },
        Step {
            name: "zap_page_range",
            run: |_, l, _| Flow::Call(PathId::ZapPageRange, *l),
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
pub(super) static ZAP_PAGE_RANGE: Path = Path {
    name: "zap_page_range",
    steps: &[
        Step {
            name: "mmu_notifier_invalidate_range_start",
            run: |_, l, _| Flow::Call(PathId::NotifierStart, notifier::range(l)),
        },
        Step {
            name: "zap_pte_range",
            run: zap_pte_range,
        },
        Step {
            name: "free_swap_cache",
            run: free_swap_cache,
        },
        Step {
            name: "free_page",
            run: free_page,
        },
        Step {
            name: "next pte",
            run: |_, _, _| Flow::To("zap_pte_range"),
        },
        Step {
            name: "mmu_notifier_invalidate_range_end",
            run: |_, l, _| Flow::Call(PathId::NotifierEnd, notifier::range(l)),
        },
    ],
};

fn mmap_write_lock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if host.mm_mut(l.mm).mmap_lock.try_write() {
        Flow::Next
    } else {
        Flow::Blocked
    }
}

/// The VMAs go; with `MAP_FIXED` the new one is put in their place under the same lock.
fn remove_vmas(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let pages = (l.end - l.va) / PAGE_SIZE;
    host.mm_mut(l.mm).remove(l.va, pages);
    note!(
        host,
        [Key::page(l.mm, l.va)],
        "{pages} pages unmapped from {}",
        host.place(l.mm, l.va)
    );
    host.mm_mut(l.mm).mmap_lock.write_unlock();
    if let Op::Replace(mm, va, pages, backing, prot, shared) = io.op {
        let mapped = host.mmap_region(mm, va, pages, backing, prot, shared);
        return Flow::Return(mapped.map_or_else(crate::errno::Errno::ret, |()| 0));
    }
    Flow::Return(0)
}

/// Clears the next PTE of the range. A frame whose last reference goes stays in `l.pfn`, the slot it was bound to (or the
/// swap PTE named) in `l.entry`.
fn zap_pte_range(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let next = host
        .mm(l.mm)
        .ptes
        .range(l.va.vpn()..l.end.vpn())
        .next()
        .map(|(vpn, pte)| (*vpn, *pte));
    let Some((vpn, pte)) = next else {
        host.ledger.discarded(l.mm, l.va, l.end);
        return Flow::To("mmu_notifier_invalidate_range_end");
    };
    let va = Va(vpn * PAGE_SIZE);
    host.mm_mut(l.mm).clear_pte(va);
    (l.pfn, l.entry) = (None, None);
    match pte {
        Pte::Present {
            pfn, special: false, ..
        } => {
            note!(
                host,
                [Key::page(l.mm, va), Key::Frame(pfn)],
                "{} (pfn {:#x}) discarded",
                host.place(l.mm, va),
                pfn.0
            );
            host.page_mut(pfn).refcount -= 1;
            if host.page(pfn).refcount == 0 {
                (l.pfn, l.entry) = (Some(pfn), host.page(pfn).swap);
            }
        }
        Pte::Present { .. } => {}
        Pte::Swap(entry) => {
            note!(
                host,
                [Key::page(l.mm, va), Key::Slot(entry)],
                "{} (slot {entry}) discarded",
                host.place(l.mm, va)
            );
            l.entry = Some(entry);
            host.swap.put(entry);
            l.pfn = host.swap.lookup(entry).filter(|pfn| host.page(*pfn).refcount == 0);
        }
    }
    Flow::Next
}

/// `free_swap_and_cache`: a slot nobody refers to any more is given up, with the page bound to it.
fn free_swap_cache(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some(entry) = l.entry else { return Flow::Next };
    if host.swap.count(entry) > 0 {
        return Flow::Next;
    }
    match l.pfn {
        Some(pfn) => {
            host.page_mut(pfn).swap = None;
            host.swap.delete_from_swap_cache(entry);
        }
        // Bound to a page that somebody still holds, or being swapped in by another thread: they let go of the slot.
        None if host.swap.is_allocated(entry) => return Flow::Next,
        None => {}
    }
    Flow::Call(PathId::SwapRangeFree, *l)
}

fn free_page(_: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if l.pfn.is_some() {
        Flow::Call(PathId::FreeUnrefPage, *l)
    } else {
        Flow::Next
    }
}

impl Host {
    /// Frames a new mapping of that kind can still get; anonymous memory takes its frames when it is touched.
    pub(crate) fn frames_left(&self, backing: Backing) -> u64 {
        match backing {
            Backing::Anon => u64::MAX,
            Backing::ZoneDevice => self.zone_device.free_pages(),
            Backing::Mmio => self.mmio.free_pages(),
        }
    }

    /// `mmap_region`: a new VMA over free addresses. Only anonymous memory may have tags (`VM_MTE_ALLOWED`).
    pub(crate) fn mmap_region(
        &mut self,
        mm: MmId,
        va: Va,
        pages: u64,
        backing: Backing,
        prot: Prot,
        shared: bool,
    ) -> Result<(), crate::errno::Errno> {
        let mut flags = VmFlags::empty();
        flags.set(VmFlags::MTE_ALLOWED, backing == Backing::Anon);
        flags.set(VmFlags::MTE, prot.contains(Prot::MTE));
        flags.set(VmFlags::SHARED, shared);
        flags.set(VmFlags::PFNMAP, backing == Backing::Mmio);
        if flags.contains(VmFlags::MTE) && !flags.contains(VmFlags::MTE_ALLOWED) {
            return Err(crate::errno::Errno::Einval);
        }
        let first_pfn = match backing {
            Backing::Anon => Some(Pfn(0)),
            Backing::ZoneDevice => self.zone_device.alloc_unused(pages),
            Backing::Mmio => self.mmio.alloc_unused(pages),
        };
        let first_pfn = first_pfn.ok_or(crate::errno::Errno::Enomem)?;
        self.mm_mut(mm).insert(
            va,
            Vma {
                end: va.vpn() + pages,
                prot,
                flags,
                backing,
                first_pfn,
            },
        );
        note!(
            self,
            [Key::page(mm, va)],
            "{pages} pages of {backing} mapped at {}",
            self.place(mm, va)
        );
        Ok(())
    }
}
