//! The second half of reclaim: the folio is written, and dropped.
//!
//! **Models** `pageout`, `shmem_writepage`, `swap_writepage` with `arch_prepare_to_swap` before the write and, after it, the places the
//! data can go (the zeromap, zswap, the device), and `__remove_mapping`; a page of a file on a disk is written back, a lazily
//! freed one that is still clean is discarded. The steps are those of the table in `reclaim.rs`. **Leaves out** writes that fail.
//!
//! **Keeps**: a page is written only after its tags are saved, and dropped only when its slot is up to date.

use std::ops::Range;

use tagvisor_arch::{PAGE_SIZE, Pfn};

use crate::errno::Errno;
use crate::file::{Cached, FileId, FileKind};
use crate::hugetlb::{HPAGE_PAGES, compound_head};
use crate::log::{Key, note};
use crate::page::{PageFlags, PageMapping};
use crate::policy::{SaveFailure, Zeromap, ZswapLarge};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, PathId};

pub(super) fn locked_page(l: &Locals) -> Pfn {
    l.pfn.expect("locked")
}

/// Who may hold a page that is written: reclaim itself, and the page cache of its file until it is in swap.
fn expected_refs(host: &Host, pfn: Pfn) -> u32 {
    let in_cache = matches!(host.page(pfn).mapping, PageMapping::File(..)) && host.page(pfn).swap.is_none();
    1 + u32::from(in_cache)
}

/// The frames of the folio that is reclaimed: one, or those of a huge page. `l.from` is any page of it, `l.pfn` the one that
/// a step is about.
pub(super) fn frames(host: &Host, l: &Locals) -> Range<u64> {
    let page = l.from.expect("locked");
    if host.is_thp(page) {
        let head = compound_head(page);
        head.0..head.0 + HPAGE_PAGES
    } else {
        page.0..page.0 + 1
    }
}

/// The step is about the page of that number in the folio.
pub(super) fn at_page(host: &Host, l: &mut Locals, index: u64) {
    let pfn = Pfn(frames(host, l).start + index);
    l.index = index as u32;
    (l.pfn, l.entry) = (Some(pfn), host.page(pfn).swap);
}

/// `folio_unlock` and `folio_putback_lru`: a page that everybody else let go of meanwhile is freed now, with its slot.
fn putback(host: &mut Host, l: &Locals, ret: i64) -> Flow {
    let folio = frames(host, l);
    let mut gone = None;
    for pfn in folio.clone().map(Pfn) {
        let page = host.page_mut(pfn);
        page.refcount -= 1;
        page.flags.remove(PageFlags::LOCKED);
        let (refcount, swap) = (page.refcount, page.swap);
        if refcount == 0 && swap.is_none_or(|entry| host.swap.count(entry) == 0) {
            if folio.end - folio.start == 1 {
                gone = Some((pfn, swap));
            } else if swap.is_none() {
                host.drop_unmapped_page(pfn);
            }
        }
    }
    match gone {
        Some((pfn, entry)) => Flow::Tail(
            PathId::FreePageAndSwapCache,
            Locals {
                pfn: Some(pfn),
                entry,
                ..*l
            },
        ),
        None => Flow::Return(ret),
    }
}

pub(super) fn unlock(host: &mut Host, l: &Locals, errno: Errno) -> Flow {
    putback(host, l, errno.ret())
}

/// A clean page needs no write: its slot, and its saved tags, are taken to be up to date. A page of shmem moves from the
/// page cache to the swap cache here (`shmem_writepage`).
pub(super) fn pageout(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let held = |pfn| host.page(pfn).refcount > expected_refs(host, pfn);
    if frames(host, l).map(Pfn).any(held) {
        // Somebody else holds it (GUP): kept in the swap cache.
        return unlock(host, l, Errno::Eagain);
    }
    at_page(host, l, 0);
    let pfn = locked_page(l);
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
    let dirty = |pfn| host.has_flag(Pfn(pfn), PageFlags::DIRTY);
    if frames(host, l).any(dirty) {
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

/// The tags of each page are saved by the page's own entry.
pub(super) fn arch_prepare_to_swap(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    at_page(host, l, l.index.into());
    Flow::Call(PathId::MteSaveTags, *l)
}

/// K3: without its tags the folio is not written. It is dirty still, and stays in the swap cache, where the next access
/// finds it.
pub(super) fn swap_writepage(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let folio = frames(host, l);
    if l.ret < 0 {
        if host.policy.save_failure == SaveFailure::RedirtyUndo {
            for pfn in (folio.start..folio.start + u64::from(l.index)).rev() {
                let entry = host.page(Pfn(pfn)).swap.expect("in the swap cache");
                host.ledger.save_undone(entry);
                host.mte_invalidate_tags(entry, "the folio stays");
            }
        }
        for pfn in folio.map(Pfn) {
            host.set_flag(pfn, PageFlags::DIRTY, true);
        }
        return unlock(host, l, Errno::Enomem);
    }
    if folio.start + u64::from(l.index) + 1 < folio.end {
        l.index += 1;
        return Flow::To("arch_prepare_to_swap");
    }
    let under_way = host.swap_write(folio);
    at_page(host, l, 0);
    if l.pageout && under_way {
        // The write is still under way when reclaim has passed: the page stays in the swap cache, clean.
        return putback(host, l, 0);
    }
    Flow::Next
}

/// Drops the folio from the swap cache, page by page, if nobody took it meanwhile; the last user of a slot frees that too.
pub(super) fn remove_mapping(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    at_page(host, l, l.index.into());
    let taken = |pfn| host.page(pfn).refcount > 1 || host.has_flag(pfn, PageFlags::DIRTY);
    if l.index == 0 && frames(host, l).map(Pfn).any(taken) {
        return unlock(host, l, Errno::Eagain);
    }
    let pfn = locked_page(l);
    let taken = taken(pfn);
    let page = host.page_mut(pfn);
    page.refcount -= 1;
    page.flags.remove(PageFlags::LOCKED);
    if taken {
        return next_page(host, l);
    }
    host.page_mut(pfn).swap = None;
    if host.swap.delete_from_swap_cache(l.entry.expect("in the swap cache")) {
        return Flow::Call(PathId::SwapRangeFree, *l);
    }
    Flow::Next
}

/// A page of a large folio that somebody took while others were dropped stays.
fn next_page(host: &Host, l: &mut Locals) -> Flow {
    let folio = frames(host, l);
    l.index += 1;
    if folio.start + u64::from(l.index) < folio.end {
        Flow::To("__remove_mapping")
    } else {
        Flow::Return(0)
    }
}

pub(super) fn free_unref_page(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let folio = frames(host, l);
    if folio.start + u64::from(l.index) + 1 == folio.end {
        return Flow::Tail(PathId::FreeUnrefPage, *l);
    }
    let page = *l;
    l.index += 1;
    Flow::Call(PathId::FreeUnrefPage, page)
}

impl Host {
    /// The data of a folio, whose tags are saved, go where they belong; true if a device still works on it. Pages of zeros
    /// need no place (the zeromap), and zswap is asked before the device.
    fn swap_write(&mut self, folio: Range<u64>) -> bool {
        let pages = folio.end - folio.start;
        let zero = self.policy.zeromap == Zeromap::Bit && folio.clone().all(|pfn| self.mem.page_is_zero(Pfn(pfn)));
        let may = pages == 1 || self.policy.zswap_large == ZswapLarge::Stored;
        let zswap = !zero && may && self.zswap.accepts(pages);
        let mut under_way = false;
        for pfn in folio.map(Pfn) {
            let entry = self.page(pfn).swap.expect("in the swap cache");
            self.swap.write(entry, self.mem.data(pfn));
            self.set_flag(pfn, PageFlags::DIRTY, false);
            self.zswap.invalidate(entry);
            self.stats.swap_outs += 1;
            self.stats.swap_outs_zero += u64::from(zero);
            self.stats.swap_outs_zswap += u64::from(zswap);
            if zswap {
                self.zswap.store(entry);
            }
            under_way |= !zero && !zswap && !self.swap.is_synchronous(entry);
            let what = match (zero, zswap) {
                (true, _) => "are zeros: nothing is written to",
                (false, true) => "compressed by zswap in place of",
                (false, false) => "written to",
            };
            note!(
                self,
                [Key::Frame(pfn), Key::Slot(entry)],
                "data of pfn {:#x} {what} slot {entry}",
                pfn.0
            );
        }
        under_way
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
        page.refcount -= 2;
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
        let page = self.page_mut(pfn);
        page.refcount -= 1;
        page.flags.remove(PageFlags::LOCKED);
        Flow::Tail(PathId::FreeUnrefPage, Locals { entry: None, ..*l })
    }
}
