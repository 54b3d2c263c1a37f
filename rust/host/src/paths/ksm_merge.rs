//! How ksmd merges two pages.
//!
//! **Models** `try_to_merge_with_ksm_page`, `write_protect_page` and `replace_page` (mm/ksm.c), each PTE written between the
//! two ends of a notifier invalidation, under the page table lock, and told to `change_pte` after it. Both pages are held
//! meanwhile. Which pages are tried is in `ksm.rs`.
//!
//! **Keeps**: a merged page is mapped read-only; a page that somebody holds besides its mappings is not merged.

use tagvisor_arch::Pfn;

use crate::errno::Errno;
use crate::log::{Key, note};
use crate::mm::{Pte, VmFlags};
use crate::page::{PageFlags, PageMapping};
use crate::paths::outline::outline;
use crate::paths::pte::{self, Old};
use crate::paths::{change_pte, gup, notifier, ptl, split};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, PathId};

outline! {
    /// Every version; `l.from` is the merged page, or none if this one is to become it.
    pub(super) TRY_TO_MERGE_WITH_KSM_PAGE = "try_to_merge_with_ksm_page" {
        "mmap_read_lock" => gup::mmap_read_lock,
        "split_huge_page" => |host, l, _| split::split_first(host, l, l.pfn),
        "find_mergeable_vma" => find_mergeable_vma,
        "write_protect_page" => |_, l, _| Flow::Call(PathId::WriteProtectPage, *l),
        "pages_identical" => pages_identical,
        "replace_page" => |_, l, _| Flow::Call(PathId::ReplacePage, *l),
        "unlock_page" => unlock_page,
        "put_page" => |host, l, _| put(host, l, l.pfn),
        "put_page of the merged one" => |host, l, _| put(host, l, l.from),
        "mmap_read_unlock" => mmap_read_unlock,
    }
}

outline! {
    /// Every version.
    pub(super) WRITE_PROTECT_PAGE = "write_protect_page" {
        "mmu_notifier_invalidate_range_start" => |_, l, _| Flow::Call(PathId::NotifierStart, notifier::range(l)),
        "page_vma_mapped_walk" => page_vma_mapped_walk,
        "mte_sync_tags" => sync_tags,
        "set_pte_at" => set_write_protected,
        "mmu_notifier_change_pte" => |_, l, _| change_pte::call(l),
        "mmu_notifier_invalidate_range_end" => |_, l, _| Flow::Call(PathId::NotifierEnd, notifier::range(l)),
        "return" => |_, l, _| Flow::Return(if l.writable { 0 } else { Errno::Efault.ret() }),
    }
}

outline! {
    /// Every version.
    pub(super) REPLACE_PAGE = "replace_page" {
        "mmu_notifier_invalidate_range_start" => |_, l, _| Flow::Call(PathId::NotifierStart, notifier::range(l)),
        "mte_sync_tags" => sync_kpage,
        "set_pte_at" => set_kpage,
        "mmu_notifier_change_pte" => |_, l, _| change_pte::call(&Locals { pfn: l.from, ..*l }),
        "mmu_notifier_invalidate_range_end" => |_, l, _| Flow::Call(PathId::NotifierEnd, notifier::range(l)),
        "return" => |_, l, _| Flow::Return(if l.writable { 0 } else { Errno::Efault.ret() }),
    }
}

/// The page is still there, in a mapping that still may be merged, and locked by nobody else.
fn find_mergeable_vma(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("scanned");
    let mapped = matches!(host.mm(l.mm).pte(l.va), Some(Pte::Present { pfn: now, .. }) if now == pfn);
    let vma = host.mm(l.mm).vma(l.va).map(|(_, v)| v.flags);
    let mergeable = vma.is_some_and(|flags| flags.contains(VmFlags::MERGEABLE)) && !host.is_thp(pfn);
    if !mapped || !mergeable || host.has_flag(pfn, PageFlags::LOCKED) {
        l.ret = Errno::Efault.ret();
        return Flow::To("mmap_read_unlock");
    }
    l.merged = 0;
    if l.from == Some(pfn) {
        // Shared since a fork: merged already.
        l.ret = 0;
        return Flow::To("mmap_read_unlock");
    }
    if let Some(kpage) = l.from.filter(|kpage| host.is_counted(*kpage)) {
        let page = host.page_mut(kpage);
        if page.refcount == 0 || page.mapping != PageMapping::Ksm {
            // Nobody has it any more.
            l.ret = Errno::Efault.ret();
            return Flow::To("mmap_read_unlock");
        }
        page.refcount += 1;
    }
    let page = host.page_mut(pfn);
    page.refcount += 1;
    page.flags |= PageFlags::LOCKED;
    Flow::Next
}

fn mmap_read_unlock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    host.mm_mut(l.mm).mmap_lock.read_unlock();
    let failed = l.ret < 0 || l.merged > 0;
    Flow::Return(if failed { Errno::Efault.ret() } else { 0 })
}

fn unlock_page(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    host.set_flag(l.pfn.expect("locked"), PageFlags::LOCKED, false);
    // Outlives the calls that follow.
    l.merged = u32::from(l.ret < 0);
    Flow::Next
}

/// Our reference goes; with the last one the page, and its slot.
fn put(host: &mut Host, l: &mut Locals, pfn: Option<Pfn>) -> Flow {
    l.ret = 0;
    let Some(pfn) = pfn.filter(|pfn| host.is_counted(*pfn)) else {
        return Flow::Next;
    };
    host.page_mut(pfn).refcount -= 1;
    if host.page(pfn).refcount > 0 {
        return Flow::Next;
    }
    let (entry, pfn) = (host.page(pfn).swap, Some(pfn));
    Flow::Call(PathId::FreePageAndSwapCache, Locals { pfn, entry, ..*l })
}

/// Still this page, with nobody's reference but the mappings' and ours? `l.writable` says that it could be protected.
fn page_vma_mapped_walk(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let pfn = l.pfn.expect("locked");
    let mapped = matches!(host.mm(l.mm).pte(l.va), Some(Pte::Present { pfn: now, .. }) if now == pfn);
    l.writable = mapped && host.mapcount(pfn) + 1 == host.page(pfn).refcount as usize;
    let changes = matches!(host.mm(l.mm).pte(l.va), Some(Pte::Present { write, dirty, .. }) if write || dirty);
    if l.writable && (changes || host.has_flag(pfn, PageFlags::ANON_EXCLUSIVE)) {
        ptl::lock(host, io, l.mm, l.va);
        Flow::Next
    } else {
        Flow::To("mmu_notifier_invalidate_range_end")
    }
}

/// The PTE was cleared before (`ptep_clear_flush`), so `set_pte_at` replaces none.
fn sync_tags(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (_, vma) = host.mm(l.mm).vma(l.va).expect("mmap_lock is held");
    pte::sync_tags(host, l, vma, Old::None)
}

fn set_write_protected(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let pfn = l.pfn.expect("locked");
    ptl::unlock(host, io);
    let Some(Pte::Present { tagged, special, .. }) = host.mm(l.mm).pte(l.va) else {
        unreachable!("mapped, and the lock of its PTE is held")
    };
    let page = host.page_mut(pfn);
    page.flags.remove(PageFlags::ANON_EXCLUSIVE | PageFlags::LAZYFREE);
    page.flags |= PageFlags::DIRTY;
    let pte = Pte::Present {
        pfn,
        write: false,
        dirty: false,
        tagged,
        special,
    };
    host.mm_mut(l.mm).set_pte(l.va, pte);
    note!(
        host,
        [Key::page(l.mm, l.va), Key::Frame(pfn)],
        "pfn {:#x} write-protected at {}",
        pfn.0,
        host.place(l.mm, l.va)
    );
    Flow::Next
}

/// Protected, the data cannot change any more: the page becomes a merged one, or is compared once more with the one that
/// shall replace it.
fn pages_identical(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("locked");
    if l.ret < 0 {
        return Flow::To("unlock_page");
    }
    match l.from {
        None => {
            let page = host.page_mut(pfn);
            page.mapping = PageMapping::Ksm;
            page.flags |= PageFlags::DIRTY;
            host.ledger.merged(pfn);
            note!(host, [Key::Frame(pfn)], "pfn {:#x} is a KSM page now", pfn.0);
            Flow::To("unlock_page")
        }
        Some(kpage) if host.memcmp_pages(pfn, kpage) => Flow::Next,
        Some(kpage) => {
            note!(
                host,
                [Key::Frame(pfn), Key::Frame(kpage)],
                "pfn {:#x} and pfn {:#x} are not identical: not merged",
                pfn.0,
                kpage.0
            );
            host.ledger_kept_apart(pfn, kpage, (l.mm, l.va));
            l.ret = Errno::Efault.ret();
            Flow::To("unlock_page")
        }
    }
}

/// `set_pte_at` of the merged page; a special PTE's page is left alone.
fn sync_kpage(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let pte = host.mm(l.mm).pte(l.va);
    l.writable = matches!(pte, Some(Pte::Present { pfn, .. }) if Some(pfn) == l.pfn);
    if !l.writable {
        return Flow::To("mmu_notifier_invalidate_range_end");
    }
    ptl::lock(host, io, l.mm, l.va);
    if l.from == Some(host.zero_pfn) {
        return Flow::Next;
    }
    sync_tags(host, &mut Locals { pfn: l.from, ..*l }, io)
}

fn set_kpage(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let (pfn, kpage) = (l.pfn.expect("locked"), l.from.expect("the caller has it"));
    ptl::unlock(host, io);
    let Some(Pte::Present { tagged, special, .. }) = host.mm(l.mm).pte(l.va) else {
        unreachable!("mapped, and the lock of its PTE is held")
    };
    let pte = Pte::Present {
        pfn: kpage,
        write: false,
        dirty: false,
        tagged,
        special: special || kpage == host.zero_pfn,
    };
    host.mm_mut(l.mm).set_pte(l.va, pte);
    if host.is_counted(kpage) {
        host.page_mut(kpage).refcount += 1;
    }
    host.page_mut(pfn).refcount -= 1;
    note!(
        host,
        [Key::page(l.mm, l.va), Key::Frame(kpage), Key::Frame(pfn)],
        "pfn {:#x} replaces pfn {:#x} at {}",
        kpage.0,
        pfn.0,
        host.place(l.mm, l.va)
    );
    Flow::Next
}
