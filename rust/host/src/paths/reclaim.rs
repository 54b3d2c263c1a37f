//! Reclaim of one page: swap it out and drop it.
//!
//! **Models** `shrink_folio_list` (mm/vmscan.c) for anonymous, shmem and disk file pages: `add_to_swap`, `try_to_unmap` of every mapping
//! between notifier calls, `shmem_writepage`, `pageout` with `arch_prepare_to_swap` before the write, `__remove_mapping`; a
//! lazily freed page (`MADV_FREE`) that is still clean is discarded. **Leaves out** reference checks but for those of
//! `MADV_PAGEOUT` (else the caller chose the page).
//!
//! **Keeps**: a page is written only after its tags are saved, and dropped only when its slot is up to date.

use tagvisor_arch::{PAGE_SIZE, Pfn, Va};

use crate::errno::Errno;
use crate::file::{Cached, FileId, FileKind};
use crate::ids::MmId;
use crate::log::{Key, note};
use crate::mm::Pte;
use crate::ops::Op;
use crate::page::{PageFlags, PageMapping};
use crate::paths::{notifier, split};
use crate::policy::{PageoutReferences, ThpSwap};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};
use crate::swap::SwpEntry;

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
        Step {
            name: "free_unref_page",
            run: |_, l, _| Flow::Tail(PathId::FreeUnrefPage, *l),
        },
    ],
};

fn locked_page(l: &Locals) -> Pfn {
    l.pfn.expect("locked")
}

/// What keeps a page besides us: the page cache of its file, until it is in swap.
fn page_cache_refs(host: &Host, pfn: Pfn) -> u32 {
    let in_cache = matches!(host.page(pfn).mapping, PageMapping::File(..)) && host.page(pfn).swap.is_none();
    u32::from(in_cache)
}

fn unlock(host: &mut Host, l: &Locals, errno: Errno) -> Flow {
    host.set_flag(locked_page(l), PageFlags::LOCKED, false);
    Flow::Return(errno.ret())
}

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

/// K12: before large folios were swapped as a whole, a huge page was split first. Afterwards its pages leave one by one, with
/// the flags they have.
fn split_folio(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    if host.policy.thp_swap == ThpSwap::Whole {
        return Flow::Next;
    }
    l.va = l.va.page();
    let pfn = page_named(host, l, io);
    split::split_first(host, l, pfn)
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
    if host.has_flag(pfn, PageFlags::LOCKED) {
        return Flow::Return(Errno::Eagain.ret());
    }
    host.set_flag(pfn, PageFlags::LOCKED, true);
    l.pfn = Some(pfn);
    l.entry = host.page(pfn).swap;
    Flow::Next
}

/// `MADV_PAGEOUT` in versions that look: a page that a guest used since it was last asked stays this time.
fn folio_check_references(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let looks = l.pageout && host.policy.pageout_references == PageoutReferences::Checked;
    if looks && host.folio_referenced(locked_page(l)) {
        return unlock(host, l, Errno::Eagain);
    }
    Flow::Next
}

/// Anonymous pages get their slot first; a lazily freed page needs none.
fn add_to_swap(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = locked_page(l);
    let file = matches!(host.page(pfn).mapping, PageMapping::File(..));
    if l.entry.is_some() || file || host.has_flag(pfn, PageFlags::LAZYFREE) {
        return Flow::Next;
    }
    match host.bind_to_slot(pfn) {
        Some(entry) => {
            l.entry = Some(entry);
            Flow::Next
        }
        None => unlock(host, l, Errno::Enomem),
    }
}

/// The next mapping of the page.
fn rmap_walk(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
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

fn try_to_unmap(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = locked_page(l);
    let Some(Pte::Present { pfn: mapped, dirty, .. }) = host.mm(l.mm).pte(l.va) else {
        return Flow::Next;
    };
    if mapped != pfn {
        return Flow::Next;
    }
    let page = host.page_mut(pfn);
    page.flags
        .set(PageFlags::DIRTY, page.flags.contains(PageFlags::DIRTY) || dirty);
    let (file, lazyfree) = (
        matches!(page.mapping, PageMapping::File(..)),
        page.flags.contains(PageFlags::LAZYFREE),
    );
    if lazyfree && page.flags.contains(PageFlags::DIRTY) {
        // Written since MADV_FREE: it is to be kept after all (folio_set_swapbacked).
        page.flags.remove(PageFlags::LAZYFREE);
        return Flow::Next;
    }
    page.refcount -= 1;
    match l.entry.filter(|_| !file && !lazyfree) {
        Some(entry) => {
            host.mm_mut(l.mm).set_pte(l.va, Pte::Swap(entry));
            host.swap.duplicate(entry);
        }
        None => {
            host.mm_mut(l.mm).clear_pte(l.va);
        }
    }
    note!(
        host,
        [Key::Frame(pfn), Key::page(l.mm, l.va)],
        "pfn {:#x} unmapped from {}",
        pfn.0,
        host.place(l.mm, l.va)
    );
    Flow::Next
}

/// A clean page needs no write: its slot, and its saved tags, are taken to be up to date. A page of shmem moves from the
/// page cache to the swap cache here (`shmem_writepage`).
fn pageout(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = locked_page(l);
    if host.page(pfn).refcount > page_cache_refs(host, pfn) {
        // Somebody else holds it (GUP): kept in the swap cache.
        return unlock(host, l, Errno::Eagain);
    }
    if host.has_flag(pfn, PageFlags::LAZYFREE) {
        return host.discard_lazyfree(l);
    }
    if let (PageMapping::File(file, index), None) = (host.page(pfn).mapping, l.entry) {
        if host.file(file).kind == FileKind::Disk {
            return host.write_back_and_drop(l, file, index);
        }
        let Some(entry) = host.bind_to_slot(pfn) else {
            return unlock(host, l, Errno::Enomem);
        };
        l.entry = Some(entry);
        host.swap.duplicate(entry);
        host.file_mut(file).cache.insert(index, Cached::Swap(entry));
        host.page_mut(pfn).refcount -= 1;
    }
    if host.has_flag(pfn, PageFlags::DIRTY) {
        return Flow::Next;
    }
    note!(
        host,
        [Key::Frame(pfn)],
        "pfn {:#x} is clean: dropped without a write, tags not saved again",
        pfn.0
    );
    Flow::To("__remove_mapping")
}

/// K3: without its tags the page is not written. It is dirty still, and stays in the swap cache, where the next access
/// finds it.
fn swap_writepage(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if l.ret < 0 {
        return unlock(host, l, Errno::Enomem);
    }
    let (pfn, entry) = (locked_page(l), l.entry.expect("in the swap cache"));
    host.swap.write(entry, host.mem.data(pfn));
    host.set_flag(pfn, PageFlags::DIRTY, false);
    host.stats.swap_outs += 1;
    note!(
        host,
        [Key::Frame(pfn), Key::Slot(entry)],
        "data of pfn {:#x} written to slot {entry}",
        pfn.0
    );
    if l.pageout && !host.swap.is_synchronous() {
        // The write is still under way when reclaim has passed: the page stays in the swap cache, clean.
        host.set_flag(pfn, PageFlags::LOCKED, false);
        return Flow::Return(0);
    }
    Flow::Next
}

/// Drops the page from the swap cache, if nobody took it meanwhile; the last user of the slot frees that too.
fn remove_mapping(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, entry) = (locked_page(l), l.entry.expect("in the swap cache"));
    host.set_flag(pfn, PageFlags::LOCKED, false);
    if host.page(pfn).refcount > 0 || host.has_flag(pfn, PageFlags::DIRTY) {
        return Flow::Return(Errno::Eagain.ret());
    }
    host.page_mut(pfn).swap = None;
    if host.swap.delete_from_swap_cache(entry) {
        return Flow::Call(PathId::SwapRangeFree, *l);
    }
    Flow::Next
}

impl Host {
    /// `folio_alloc_swap` and `add_to_swap_cache`.
    fn bind_to_slot(&mut self, pfn: Pfn) -> Option<SwpEntry> {
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

    /// A page of a file on a disk: written back if it is dirty, then dropped. Nothing looks at its tags.
    fn write_back_and_drop(&mut self, l: &Locals, file: FileId, index: u64) -> Flow {
        let pfn = locked_page(l);
        if self.has_flag(pfn, PageFlags::DIRTY) {
            let mut data = Box::new([0; PAGE_SIZE as usize]);
            self.mem.read(pfn.base(), data.as_mut_slice());
            self.file_mut(file).disk.insert(index, data);
        }
        self.file_mut(file).cache.remove(&index);
        let page = self.page_mut(pfn);
        page.refcount -= 1;
        page.flags.remove(PageFlags::LOCKED | PageFlags::DIRTY);
        note!(
            self,
            [Key::Frame(pfn), Key::File(file, index)],
            "page {index} of file {} written back and dropped, its tags with it",
            file.0
        );
        Flow::Tail(PathId::FreeUnrefPage, *l)
    }

    /// A clean lazily freed page is dropped: its owner gave the content up.
    fn discard_lazyfree(&mut self, l: &mut Locals) -> Flow {
        let pfn = locked_page(l);
        if let PageMapping::Anon(va) = self.page(pfn).mapping {
            self.ledger.discarded(l.mm, va, va + PAGE_SIZE);
        }
        self.set_flag(pfn, PageFlags::LOCKED, false);
        Flow::Tail(PathId::FreeUnrefPage, Locals { entry: None, ..*l })
    }
}
