//! shmem pages that come back from swap.
//!
//! **Models** `shmem_swapin_folio` (mm/shmem.c), which restores the tags under the page lock before the slot is freed, in
//! every version; and `swap_read_folio`, for every kind of memory. **Leaves out** huge shmem pages.
//!
//! **Keeps**: a page is in the page cache only with its tags restored.

use tagvisor_arch::Pfn;

use crate::errno::Errno;
use crate::file::Cached;
use crate::log::{Key, note};
use crate::page::{PageFlags, PageMapping};
use crate::policy::ZswapLoad;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};
use crate::swap::SwpEntry;

pub(super) static SHMEM_SWAPIN_FOLIO: Path = Path {
    name: "shmem_swapin_folio",
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
            name: "shmem_confirm_swap",
            run: shmem_confirm_swap,
        },
        Step {
            name: "arch_swap_restore",
            run: |_, l, _| Flow::Call(PathId::ArchSwapRestore, *l),
        },
        Step {
            name: "shmem_add_to_page_cache",
            run: add_to_page_cache,
        },
        Step {
            name: "swap_free",
            run: swap_free,
        },
        Step {
            name: "return",
            run: |_, _, _| Flow::Return(0),
        },
    ],
};

fn entry_of(l: &Locals) -> SwpEntry {
    l.entry.expect("called for a swapped page")
}

fn swap_cache_get_folio(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let entry = entry_of(l);
    if let Some(pfn) = host.swap.lookup(entry) {
        host.page_mut(pfn).refcount += 1;
        l.pfn = Some(pfn);
        return Flow::To("folio_lock");
    }
    let Some(pfn) = host.alloc_page(PageMapping::File(l.file, l.file_page)) else {
        return Flow::Return(Errno::Enomem.ret());
    };
    host.set_flag(pfn, PageFlags::LOCKED, true);
    host.swap.add_to_swap_cache(entry, pfn);
    host.page_mut(pfn).swap = Some(entry);
    l.pfn = Some(pfn);
    Flow::Next
}

fn swap_read_folio(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, entry) = (l.pfn.expect("allocated"), entry_of(l));
    host.swap_read(entry, pfn);
    note!(
        host,
        [Key::Frame(pfn), Key::Slot(entry), Key::File(l.file, l.file_page)],
        "page {} of file {} read from slot {entry} into pfn {:#x}",
        l.file_page,
        l.file.0,
        pfn.0
    );
    Flow::To("shmem_confirm_swap")
}

fn folio_lock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("found");
    if host.has_flag(pfn, PageFlags::LOCKED) {
        return Flow::Blocked;
    }
    host.set_flag(pfn, PageFlags::LOCKED, true);
    Flow::Next
}

/// Somebody else may have brought it in, or it was truncated.
fn shmem_confirm_swap(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, entry) = (l.pfn.expect("found"), entry_of(l));
    let there = host.file(l.file).cache.get(&l.file_page) == Some(&Cached::Swap(entry));
    if there && host.page(pfn).swap == Some(entry) {
        return Flow::Next;
    }
    host.set_flag(pfn, PageFlags::LOCKED, false);
    if host.put_page(pfn) {
        return Flow::Tail(PathId::FreeUnrefPage, Locals { entry: None, ..*l });
    }
    Flow::Return(0)
}

/// The page takes the entry's place; it is dirty, so its slot is not needed any more.
fn add_to_page_cache(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, entry) = (l.pfn.expect("found"), entry_of(l));
    host.file_mut(l.file).cache.insert(l.file_page, Cached::Page(pfn));
    let page = host.page_mut(pfn);
    page.swap = None;
    page.mapping = PageMapping::File(l.file, l.file_page);
    page.flags |= PageFlags::DIRTY;
    page.flags.set(PageFlags::LOCKED, false);
    // The reference from lookup or allocation now belongs to the page cache.
    host.lru_add(pfn);
    host.swap.delete_from_swap_cache(entry);
    Flow::Next
}

fn swap_free(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if host.swap.put(entry_of(l)) {
        Flow::Call(PathId::SwapRangeFree, *l)
    } else {
        Flow::Next
    }
}

impl Host {
    /// The data of a slot, from wherever they are.
    pub(crate) fn read_slot(&mut self, entry: SwpEntry, pfn: Pfn) {
        match self.swap.read(entry) {
            Some(data) => self.mem.write(pfn.base(), data),
            None => self.mem.zero_page(pfn),
        }
    }

    /// `swap_read_folio`. What zswap had and gives up when the swap cache has the page is newer than its slot.
    pub(crate) fn swap_read(&mut self, entry: SwpEntry, pfn: Pfn) {
        self.read_slot(entry, pfn);
        self.stats.swap_ins += 1;
        if !self.zswap.has(entry) {
            return;
        }
        self.stats.swap_ins_zswap += 1;
        if self.policy.zswap_load == ZswapLoad::Exclusive && self.page(pfn).swap == Some(entry) {
            self.zswap.invalidate(entry);
            self.swap.write(entry, None);
            self.set_flag(pfn, PageFlags::DIRTY, true);
        }
    }
}
