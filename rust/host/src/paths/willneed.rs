//! `MADV_WILLNEED`: swapped pages are read ahead.
//!
//! **Models** `madvise_willneed` (mm/madvise.c): of anonymous memory (`swapin_walk_pmd_entry`) and shmem (`shmem_swapin_range`)
//! every page in swap is read into the swap cache (`read_swap_cache_async`), and no further: it is not mapped, its tags are
//! restored when it is. **Leaves out** read-ahead of files on disks, which only costs time, and read-ahead of neighbours at a
//! fault.
//!
//! **Keeps**: a page that was read ahead and not used is clean, unflagged, and can be dropped like any other.

use tagvisor_arch::{PAGE_SIZE, Va};

use crate::file::Cached;
use crate::log::{Key, note};
use crate::mm::{Backing, Pte};
use crate::page::{PageFlags, PageMapping};
use crate::paths::gup;
use crate::paths::outline::outline;
use crate::state::Host;
use crate::step::{Flow, Io, Locals};
use crate::swap::SwpEntry;

outline! {
    /// Every version.
    pub(super) MADVISE_WILLNEED = "madvise_willneed" {
        "mmap_read_lock" => gup::mmap_read_lock,
        "read_swap_cache_async" => read_swap_cache_async,
        "swap_read_folio" => swap_read_folio,
        "next page" => |_, _, _| Flow::To("read_swap_cache_async"),
        "mmap_read_unlock" => |host, l, _| {
            host.mm_mut(l.mm).mmap_lock.read_unlock();
            Flow::Return(0)
        },
    }
}

/// The next page of the range that is in swap, and what a page for it belongs to.
fn next_swapped(host: &Host, l: &Locals) -> Option<(Va, SwpEntry, PageMapping)> {
    let (start, vma) = host.mm(l.mm).vma(l.va)?;
    if let Backing::File(file) = vma.backing {
        let first = vma.offset + (l.va.vpn() - start);
        let mut cached = host.file(file).cache.range(first..first + (l.end - l.va) / PAGE_SIZE);
        return cached.find_map(|(index, cached)| match cached {
            Cached::Swap(entry) => {
                let va = l.va + (index - first) * PAGE_SIZE;
                Some((va, *entry, PageMapping::File(file, *index)))
            }
            Cached::Page(_) => None,
        });
    }
    let mut ptes = host.mm(l.mm).ptes.range(l.va.vpn()..l.end.vpn());
    ptes.find_map(|(vpn, pte)| match pte {
        Pte::Swap(entry) => {
            let va = Va(vpn * PAGE_SIZE);
            Some((va, *entry, PageMapping::Anon(va)))
        }
        _ => None,
    })
}

/// A page for the next entry; one that has a page, or gets one from another thread, needs none. Without memory the rest is
/// left as it is.
fn read_swap_cache_async(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some((va, entry, mapping)) = next_swapped(host, l).filter(|_| l.va < l.end) else {
        return Flow::To("mmap_read_unlock");
    };
    l.va = va + PAGE_SIZE;
    if host.swap.is_cached(entry) {
        return Flow::To("read_swap_cache_async");
    }
    let Some(pfn) = host.alloc_page(mapping) else {
        return Flow::To("mmap_read_unlock");
    };
    host.set_flag(pfn, PageFlags::LOCKED, true);
    host.swap.add_to_swap_cache(entry, pfn);
    host.page_mut(pfn).swap = Some(entry);
    (l.pfn, l.entry) = (Some(pfn), Some(entry));
    Flow::Next
}

fn swap_read_folio(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, entry) = (l.pfn.expect("allocated"), l.entry.expect("found"));
    host.swap_read(entry, pfn);
    host.set_flag(pfn, PageFlags::LOCKED, false);
    host.page_mut(pfn).refcount -= 1;
    host.lru_add(pfn);
    host.set_flag(pfn, PageFlags::YOUNG, false);
    note!(
        host,
        [Key::Frame(pfn), Key::Slot(entry)],
        "slot {entry} read ahead into pfn {:#x}, in the swap cache only",
        pfn.0
    );
    Flow::Next
}
