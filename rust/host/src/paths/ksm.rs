//! KSM: pages of equal data become one.
//!
//! **Models** ksmd (mm/ksm.c): the scan over the pages of `VM_MERGEABLE` mappings of every process, the search among merged
//! pages (the stable tree) and among pages seen earlier in the pass (the unstable tree), `write_protect_page` and
//! `replace_page` between notifier calls, `break_cow` where only half of a merge came about, and `MADV_UNMERGEABLE`.
//! arm64's `memcmp_pages` (K17) keeps tagged pages apart from all others, and from the zero page, which takes the place of
//! pages of zeros where `use_zero_pages` is set, as long as it is not flagged itself (K15). **Leaves out** checksums (they
//! only put off what changes between two passes), NUMA, and the trees themselves: a search finds what is equal, in the
//! order of the scan.
//!
//! **Keeps**: a merged page is mapped read-only; a page that somebody holds besides its mappings is not merged.

use tagvisor_arch::{PAGE_SIZE, Pfn, Va};

use crate::errno::Errno;
use crate::ids::MmId;
use crate::log::{Key, note};
use crate::mm::{Pte, VmFlags};
use crate::page::{PageFlags, PageMapping};
use crate::paths::outline::outline;
use crate::paths::pte::{self, Old};
use crate::paths::{change_pte, gup, notifier, split};
use crate::policy::KsmMergeTagged;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, PathId};

outline! {
    /// Passes until one merges nothing; returns how many pages were merged.
    pub(super) KSM_DO_SCAN = "ksm_do_scan" {
        "scan_get_next_rmap_item" => scan_get_next_rmap_item,
        "stable_tree_search" => stable_tree_search,
        "stable_tree_append" => stable_tree_append,
        "try_to_merge_with_zero_page" => try_to_merge_with_zero_page,
        "zero page instead?" => zero_page_instead,
        "unstable_tree_search_insert" => unstable_tree_search_insert,
        "try_to_merge_two_pages" => try_to_merge_two_pages,
        "break_cow" => break_cow,
        "break_cow: mmap_read_unlock" => break_cow_done,
    }
}
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
        "put_page" => put_replaced,
    }
}
outline! {
    /// `MADV_UNMERGEABLE`: each merged page of the range is copied, as a write would.
    pub(super) UNMERGE_KSM_PAGES = "unmerge_ksm_pages" {
        "mmap_write_lock" => |host, l, _| if host.mm_mut(l.mm).mmap_lock.try_write() { Flow::Next } else { Flow::Blocked },
        "break_ksm" => break_ksm,
        "next page" => |_, l, _| if l.ret < 0 { Flow::Next } else { Flow::To("break_ksm") },
        "mmap_write_unlock" => mmap_write_unlock,
    }
}

/// The next page after the cursor; past the last, another pass if this one merged anything. `l.index` counts the pass' own
/// merges, `l.merged` those of the passes before.
fn scan_get_next_rmap_item(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (mm, from) = (l.mm, l.end);
    let next = host
        .mergeable_pages()
        .into_iter()
        .find(|(id, va, _)| (*id, *va) >= (mm, from));
    if let Some((mm, va, pfn)) = next {
        (l.mm, l.va, l.end, l.pfn, l.from) = (mm, va, va + PAGE_SIZE, Some(pfn), None);
        return Flow::Next;
    }
    let (merged, pass) = (l.merged + l.index, l.index);
    if pass == 0 {
        return Flow::Return(merged.into());
    }
    *l = Locals {
        merged,
        ..Locals::default()
    };
    Flow::To("scan_get_next_rmap_item")
}

/// A merged page of equal data takes the scanned page's place.
fn stable_tree_search(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("scanned");
    if host.page(pfn).mapping == PageMapping::Ksm {
        return Flow::To("scan_get_next_rmap_item");
    }
    l.from = host.stable_page(pfn);
    match l.from {
        Some(_) => Flow::Call(PathId::TryToMergeWithKsmPage, *l),
        None => Flow::To("try_to_merge_with_zero_page"),
    }
}

fn stable_tree_append(_: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    l.index += u32::from(l.ret == 0);
    Flow::To("scan_get_next_rmap_item")
}

/// `ksm_use_zero_pages`: a page of zeros is replaced by the zero page.
fn try_to_merge_with_zero_page(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if !host.ksm_use_zero_pages || !host.mem.page_is_zero(l.pfn.expect("scanned")) {
        return Flow::To("unstable_tree_search_insert");
    }
    let from = Some(host.zero_pfn);
    Flow::Call(PathId::TryToMergeWithKsmPage, Locals { from, ..*l })
}

fn zero_page_instead(_: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if l.ret == 0 {
        l.index += 1;
        return Flow::To("scan_get_next_rmap_item");
    }
    Flow::Next
}

/// A page of equal data that this pass has seen before: the scanned page becomes the merged one.
fn unstable_tree_search_insert(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("scanned");
    let (mm, va) = (l.mm, l.va);
    let found = host
        .mergeable_pages()
        .into_iter()
        .take_while(|(id, at, _)| (*id, *at) < (mm, va))
        .find(|(_, _, other)| host.page(*other).mapping != PageMapping::Ksm && host.memcmp_pages(*other, pfn));
    let Some((mm, va, _)) = found else {
        return Flow::To("scan_get_next_rmap_item");
    };
    l.other = (mm, va);
    Flow::Call(PathId::TryToMergeWithKsmPage, *l)
}

/// The page seen before is replaced by it.
fn try_to_merge_two_pages(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (mm, va) = l.other;
    match host.mm(mm).pte(va) {
        _ if l.ret < 0 => Flow::To("scan_get_next_rmap_item"),
        Some(Pte::Present { pfn, .. }) => {
            let (from, end) = (l.pfn, va + PAGE_SIZE);
            let (pfn, other) = (Some(pfn), Locals { mm, va, end, ..*l });
            Flow::Call(PathId::TryToMergeWithKsmPage, Locals { pfn, from, ..other })
        }
        _ => {
            l.ret = Errno::Efault.ret();
            Flow::Next
        }
    }
}

/// Only the first half came about: the page is nobody's to share, so it is copied as for a write.
fn break_cow(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if l.ret == 0 {
        l.index += 1;
        return Flow::To("scan_get_next_rmap_item");
    }
    if !host.mm_mut(l.mm).mmap_lock.try_read() {
        return Flow::Blocked;
    }
    if host.ksm_page_at(l.mm, l.va) {
        Flow::Call(PathId::HandleMmFault, unshare(l))
    } else {
        Flow::Next
    }
}

fn break_cow_done(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    host.mm_mut(l.mm).mmap_lock.read_unlock();
    Flow::To("scan_get_next_rmap_item")
}

/// `break_ksm`: a write fault that does not ask the VMA.
fn unshare(l: &Locals) -> Locals {
    Locals {
        write: true,
        force: true,
        from: None,
        ..*l
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
    if l.from == Some(pfn) {
        // Shared since a fork: merged already.
        l.ret = 0;
        return Flow::To("mmap_read_unlock");
    }
    host.set_flag(pfn, PageFlags::LOCKED, true);
    Flow::Next
}

fn mmap_read_unlock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    host.mm_mut(l.mm).mmap_lock.read_unlock();
    Flow::Return(l.ret)
}

fn unlock_page(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    host.set_flag(l.pfn.expect("locked"), PageFlags::LOCKED, false);
    Flow::Next
}

/// Still this page, with nobody's reference but the mappings'? `l.writable` says that it could be protected.
fn page_vma_mapped_walk(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("locked");
    let mapped = matches!(host.mm(l.mm).pte(l.va), Some(Pte::Present { pfn: now, .. }) if now == pfn);
    l.writable = mapped && host.mapcount(pfn) == host.page(pfn).refcount as usize;
    let changes = matches!(host.mm(l.mm).pte(l.va), Some(Pte::Present { write, dirty, .. }) if write || dirty);
    if l.writable && (changes || host.has_flag(pfn, PageFlags::ANON_EXCLUSIVE)) {
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

fn set_write_protected(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("locked");
    let Some(Pte::Present { tagged, special, .. }) = host.mm(l.mm).pte(l.va) else {
        unreachable!("mapped, and mmap_lock is held")
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
    if l.from == Some(host.zero_pfn) {
        return Flow::Next;
    }
    sync_tags(host, &mut Locals { pfn: l.from, ..*l }, io)
}

fn set_kpage(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, kpage) = (l.pfn.expect("locked"), l.from.expect("the caller has it"));
    let Some(Pte::Present {
        pfn: now,
        tagged,
        special,
        ..
    }) = host.mm(l.mm).pte(l.va)
    else {
        unreachable!("mapped, and mmap_lock is held")
    };
    l.writable = now == pfn;
    if !l.writable {
        return Flow::Next;
    }
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

/// The replaced page, once nobody maps it, is freed with its slot.
fn put_replaced(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("locked");
    if !l.writable {
        return Flow::Return(Errno::Efault.ret());
    }
    if host.page(pfn).refcount > 0 {
        return Flow::Return(0);
    }
    host.set_flag(pfn, PageFlags::LOCKED, false);
    let entry = host.page(pfn).swap;
    Flow::Tail(PathId::FreePageAndSwapCache, Locals { entry, ..*l })
}

fn break_ksm(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let next = host
        .mm(l.mm)
        .touched(l.va, l.end)
        .into_iter()
        .find(|va| host.ksm_page_at(l.mm, *va));
    let Some(va) = next else {
        (l.va, l.ret) = (l.end, 0);
        return Flow::To("mmap_write_unlock");
    };
    Flow::Call(PathId::HandleMmFault, Locals { va, ..unshare(l) })
}

fn mmap_write_unlock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    host.mm_mut(l.mm).mmap_lock.write_unlock();
    Flow::Return(l.ret)
}

impl Host {
    /// arm64's `memcmp_pages`, as KSM asks it: equal data, and (K17) no tags on either side, whatever they are.
    fn memcmp_pages(&self, one: Pfn, other: Pfn) -> bool {
        let tagged = |pfn| self.has_flag(pfn, PageFlags::MTE_TAGGED);
        let kept_apart = self.policy.ksm_merge_tagged == KsmMergeTagged::Never && (tagged(one) || tagged(other));
        let equal = match (self.mem.data(one), self.mem.data(other)) {
            (Some(a), Some(b)) => a == b,
            _ => self.mem.page_is_zero(one) && self.mem.page_is_zero(other),
        };
        one == other || equal && !kept_apart
    }

    /// Anonymous and merged pages of `VM_MERGEABLE` mappings, process by process.
    fn mergeable_pages(&self) -> Vec<(MmId, Va, Pfn)> {
        let mut pages = Vec::new();
        for (id, mm) in (0..).map(MmId).zip(&self.mms) {
            for (start, vma) in &mm.vmas {
                if !vma.flags.contains(VmFlags::MERGEABLE) {
                    continue;
                }
                for (vpn, pte) in mm.ptes.range(start..&vma.end) {
                    if let Pte::Present { pfn, .. } = *pte
                        && matches!(self.page(pfn).mapping, PageMapping::Anon(_) | PageMapping::Ksm)
                    {
                        pages.push((id, Va(vpn * PAGE_SIZE), pfn));
                    }
                }
            }
        }
        pages
    }

    /// A merged page with the data of that one.
    fn stable_page(&self, pfn: Pfn) -> Option<Pfn> {
        let pages = self.pages.iter(&self.mem);
        let mut mapped = pages.filter(|(_, page)| page.mapping == PageMapping::Ksm && page.refcount > 0);
        mapped.find_map(|(kpage, _)| self.memcmp_pages(kpage, pfn).then_some(kpage))
    }

    fn ksm_page_at(&self, mm: MmId, va: Va) -> bool {
        let pte = self.mm(mm).pte(va);
        matches!(pte, Some(Pte::Present { pfn, .. }) if self.page(pfn).mapping == PageMapping::Ksm)
    }
}
