//! Faults that get a huge page, and small pages that become one.
//!
//! **Models** `do_huge_pmd_anonymous_page` (`mm/huge_memory.c`) for a write and, with the huge zero folio, for a read; the
//! write to what shows the huge zero folio; and `collapse_huge_page` (mm/khugepaged.c) as `MADV_COLLAPSE` asks for it,
//! which copies each page with its tags. `set_pmd_at` passes each page through `mte_sync_tags`, unless the PMD is special
//! (the knob `huge_zero`). **Leaves out** the fallback to small pages in the middle, userfaultfd, and `PG_young`. The PMD is
//! written page by page in a collapse: `mmap_lock` is held for write, so nobody sees it half done.
//!
//! **Keeps**: all 512 entries of a huge page's range are none before a fault fills them, and all are its own afterwards.

use tagvisor_arch::{PAGE_SIZE, Pfn, Va};

use crate::errno::Errno;
use crate::hugetlb::{HPAGE_PAGES, HPAGE_SIZE};
use crate::log::{Key, note};
use crate::mm::{Prot, Pte, VmFlags, Vma};
use crate::page::{PageFlags, PageMapping};
use crate::paths::outline::outline;
use crate::paths::pte::{self, Old};
use crate::paths::{notifier, zap};
use crate::policy::{HugeZero, ZeroTags};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, PathId};
use crate::thp::{folio, pmd_address};

outline! {
    /// Every version.
    pub(super) DO_HUGE_PMD_ANONYMOUS_PAGE = "do_huge_pmd_anonymous_page" {
        "vma_alloc_folio" => vma_alloc_folio,
        "set_huge_zero_folio" => get_huge_zero_folio,
        "mte_sync_tags" => sync_subpage,
        "next page" => |_, _, _| Flow::To("mte_sync_tags"),
        "set_pmd_at" => set_pmd_at,
    }
}
outline! {
    /// The PMD of the huge zero folio becomes 512 entries of the zero page, which the fault then finds.
    pub(super) SPLIT_HUGE_ZERO_PAGE_PMD = "__split_huge_zero_page_pmd" {
        "mmu_notifier_invalidate_range_start" => |_, l, _| Flow::Call(PathId::NotifierStart, notifier::range(&whole(l))),
        "set_pte_at" => split_huge_zero_pmd,
        "mmu_notifier_invalidate_range_end" => |_, l, _| Flow::Call(PathId::NotifierEnd, notifier::range(&whole(l))),
        "return" => |_, _, _| Flow::Return(0),
    }
}
outline! {
    /// 6.13 and later: a write to what shows the huge zero folio gets a huge page.
    pub(super) DO_HUGE_ZERO_WP_PMD = "do_huge_zero_wp_pmd" {
        "vma_alloc_folio" => vma_alloc_folio,
        "mmu_notifier_invalidate_range_start" => |_, l, _| Flow::Call(PathId::NotifierStart, notifier::range(&whole(l))),
        "pmdp_huge_clear_flush" => clear_huge_zero_pmd,
        "mte_sync_tags" => sync_subpage,
        "next page" => |_, _, _| Flow::To("mte_sync_tags"),
        "set_pmd_at" => set_pmd_at_wp,
        "mmu_notifier_invalidate_range_end" => |_, l, _| Flow::Call(PathId::NotifierEnd, notifier::range(&whole(l))),
        "return" => |_, _, _| Flow::Return(0),
    }
}
outline! {
    /// 6.1 and later.
    pub(super) MADVISE_COLLAPSE = "madvise_collapse" {
        "mmap_write_lock" => zap::mmap_write_lock,
        "hugepage_vma_revalidate" => hugepage_vma_revalidate,
        "__collapse_huge_page_swapin" => collapse_swapin,
        "swapped in?" => |_, l, _| if l.ret < 0 { Flow::To("mmap_write_unlock") } else { Flow::To("__collapse_huge_page_swapin") },
        "alloc_charge_folio" => alloc_charge_folio,
        "mmu_notifier_invalidate_range_start" => |_, l, _| Flow::Call(PathId::NotifierStart, notifier::range(&whole(l))),
        "__collapse_huge_page_isolate" => collapse_isolate,
        "mmu_notifier_invalidate_range_end" => |_, l, _| Flow::Call(PathId::NotifierEnd, notifier::range(&whole(l))),
        "isolated?" => |_, l, _| if l.merged > 0 { Flow::To("collapse failed") } else { Flow::Next },
        "__collapse_huge_page_copy" => collapse_copy,
        "mte_sync_tags" => collapse_sync,
        "set_pmd_at" => collapse_set,
        "free the small page" => collapse_free,
        "next page" => |_, l, _| if u64::from(l.index) < HPAGE_PAGES { Flow::To("__collapse_huge_page_copy") } else { Flow::Next },
        "next huge page" => |_, l, _| { l.va += HPAGE_SIZE; Flow::To("hugepage_vma_revalidate") },
        "collapse failed" => collapse_failed,
        "mmap_write_unlock" => mmap_write_unlock,
    }
}

fn whole(l: &Locals) -> Locals {
    let va = pmd_address(l.va);
    let end = va + HPAGE_SIZE;
    Locals { va, end, ret: 0, ..*l }
}

fn place(l: &Locals, index: u64) -> Va {
    pmd_address(l.va) + index * PAGE_SIZE
}

fn subpage(l: &Locals, index: u64) -> Pfn {
    Pfn(l.pfn.expect("allocated").0 + index)
}

fn vma_of(host: &Host, l: &Locals) -> (u64, Vma) {
    let (start, vma) = host.mm(l.mm).vma(l.va).expect("mmap_lock is held");
    (start, *vma)
}

/// A huge page, zeroed, for a write, or where the huge zero folio is not to be used. Its tags are left to `set_pmd_at`: an allocation of this order has no `__GFP_ZEROTAGS`.
fn vma_alloc_folio(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    l.index = 0;
    if !l.write && host.thp.use_zero_page {
        return Flow::Next;
    }
    let Some(head) = host.alloc_thp(pmd_address(l.va)) else {
        // VM_FAULT_FALLBACK
        let wp = host.mm(l.mm).pte(l.va).is_some();
        let small = if wp {
            PathId::SplitHugeZeroPagePmd
        } else {
            PathId::DoAnonymousPage
        };
        return Flow::Tail(small, *l);
    };
    for pfn in folio(head) {
        host.mem.zero_page(pfn);
    }
    note!(
        host,
        [Key::Frame(head), Key::page(l.mm, l.va)],
        "huge page at pfn {:#x} allocated for {}",
        head.0,
        host.place(l.mm, pmd_address(l.va))
    );
    l.pfn = Some(head);
    if host.mm(l.mm).pte(l.va).is_some() {
        // do_huge_zero_wp_pmd: what is there goes first.
        return Flow::Next;
    }
    Flow::To("mte_sync_tags")
}

/// Nothing is mapped in the range for a moment, if it still is the huge zero folio that it shows.
fn clear_huge_zero_pmd(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if !host.huge_zero_mapped(l.mm, l.va) {
        for pfn in folio(l.pfn.expect("allocated")) {
            host.drop_unmapped_page(pfn);
        }
        return Flow::To("mmu_notifier_invalidate_range_end");
    }
    for index in 0..HPAGE_PAGES {
        host.mm_mut(l.mm).clear_pte(place(l, index));
    }
    l.index = 0;
    Flow::Next
}

fn set_pmd_at_wp(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    set_pmd_at(host, l, io);
    Flow::Next
}

/// `mm_get_huge_zero_folio`: allocated once, zeroed. Is its PMD special, nothing looks at its tags any more: they were
/// zeroed with the data, or never are.
fn get_huge_zero_folio(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let head = match host.thp.zero {
        Some(head) => head,
        None => match host.alloc_huge_zero_folio((l.mm, pmd_address(l.va))) {
            Some(head) => head,
            None => return Flow::Return(Errno::Enomem.ret()),
        },
    };
    l.pfn = Some(head);
    if host.policy.huge_zero == HugeZero::Synced {
        Flow::Next
    } else {
        Flow::To("set_pmd_at")
    }
}

fn sync_subpage(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let index = u64::from(l.index);
    if index == HPAGE_PAGES {
        return Flow::To("set_pmd_at");
    }
    let (_, vma) = vma_of(host, l);
    l.index += 1;
    let (va, pfn) = (place(l, index), Some(subpage(l, index)));
    pte::sync_tags(host, &Locals { va, pfn, ..*l }, &vma, Old::None)
}

/// All entries at once, unless another thread was faster.
fn set_pmd_at(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let head = l.pfn.expect("allocated");
    let zero = host.thp.zero == Some(head);
    let (_, vma) = vma_of(host, l);
    let base = pmd_address(l.va).vpn();
    let raced = host.mm(l.mm).ptes.range(base..base + HPAGE_PAGES).next().is_some();
    for index in 0..HPAGE_PAGES {
        let pfn = subpage(l, index);
        if raced {
            if !zero {
                host.drop_unmapped_page(pfn);
            }
            continue;
        }
        let pte = Pte::Present {
            pfn,
            write: !zero && vma.prot.contains(Prot::WRITE),
            dirty: !zero,
            tagged: vma.flags.contains(VmFlags::MTE),
            special: zero,
        };
        host.mm_mut(l.mm).set_pte(place(l, index), pte);
        if !zero {
            host.lru_add(pfn);
        }
    }
    if !raced {
        host.anon_vma_prepare(l);
        let what = if zero { "the huge zero folio" } else { "a huge page" };
        note!(
            host,
            [Key::Frame(head), Key::page(l.mm, l.va)],
            "{what} at pfn {:#x} mapped at {}",
            head.0,
            host.place(l.mm, pmd_address(l.va))
        );
    }
    Flow::Return(0)
}

fn split_huge_zero_pmd(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let zero_pfn = host.zero_pfn;
    for index in 0..HPAGE_PAGES {
        let va = place(l, index);
        let Some(Pte::Present { pfn, tagged, .. }) = host.mm(l.mm).pte(va) else {
            continue;
        };
        if host.has_flag(pfn, PageFlags::HUGE_ZERO) {
            let pte = Pte::Present {
                pfn: zero_pfn,
                write: false,
                dirty: false,
                tagged,
                special: true,
            };
            host.mm_mut(l.mm).set_pte(va, pte);
        }
    }
    Flow::Next
}

/// The next huge page of the range, if the mapping has all of it.
fn hugepage_vma_revalidate(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    l.va = Va(l.va.0.next_multiple_of(HPAGE_SIZE));
    (l.ret, l.merged, l.index) = (0, 0, 0);
    if l.va + HPAGE_SIZE > l.end {
        // Not one huge page fits into the range: an error if that begins inside one, or the mapping has room for none.
        let none = l.seq == 0
            && (l.va > l.end
                || !host
                    .mm(l.mm)
                    .vma(l.va)
                    .is_some_and(|(s, v)| Host::thp_suitable(v, s, l.va)));
        l.ret = if none { Errno::Einval.ret() } else { 0 };
        return Flow::To("mmap_write_unlock");
    }
    l.seq += 1;
    let (start, vma) = vma_of(host, l);
    let writable = |pte: &Pte| matches!(pte, Pte::Present { write: true, .. } | Pte::Swap(_));
    let range = l.va.vpn()..l.va.vpn() + HPAGE_PAGES;
    let page = host.mm(l.mm).pte(l.va);
    match page {
        Some(Pte::Present { pfn, .. }) if host.pmd_mapped(l.mm, l.va, pfn, false) => {
            l.va += HPAGE_SIZE;
            Flow::To("hugepage_vma_revalidate")
        }
        _ if !Host::thp_suitable(&vma, start, l.va)
            || !host.mm(l.mm).ptes.range(range).any(|(_, pte)| writable(pte)) =>
        {
            l.ret = Errno::Einval.ret();
            Flow::To("mmap_write_unlock")
        }
        _ => Flow::Next,
    }
}

/// What is in swap comes back first.
fn collapse_swapin(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let mut range = host.mm(l.mm).ptes.range(l.va.vpn()..l.va.vpn() + HPAGE_PAGES);
    let swapped = range.find_map(|(vpn, pte)| match pte {
        Pte::Swap(entry) => Some((Va(vpn * PAGE_SIZE), *entry)),
        _ => None,
    });
    match swapped {
        Some((va, entry)) => Flow::Call(
            PathId::DoSwapPage,
            Locals {
                va,
                entry: Some(entry),
                write: false,
                ..*l
            },
        ),
        None => Flow::To("alloc_charge_folio"),
    }
}

fn alloc_charge_folio(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    l.pfn = host.alloc_thp(l.va);
    if l.pfn.is_some() {
        return Flow::Next;
    }
    l.ret = Errno::Enomem.ret();
    Flow::To("mmap_write_unlock")
}

/// Every page is anonymous and nobody's but its mappings'; they are locked. `l.merged` says that it failed.
fn collapse_isolate(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pages: Vec<Pte> = host
        .mm(l.mm)
        .ptes
        .range(l.va.vpn()..l.va.vpn() + HPAGE_PAGES)
        .map(|(_, pte)| *pte)
        .collect();
    let fit = |pte: &Pte| match *pte {
        Pte::Present { special: true, .. } => true,
        Pte::Present { pfn, .. } => {
            let page = host.page(pfn);
            let anon = matches!(page.mapping, PageMapping::Anon(_) | PageMapping::Ksm);
            anon && !page.flags.contains(PageFlags::LOCKED) && host.mapcount(pfn) == page.refcount as usize
        }
        Pte::Swap(_) | Pte::Migration { .. } | Pte::Hwpoison(_) => false,
    };
    if !pages.iter().all(fit) {
        l.merged = 1;
        return Flow::Next;
    }
    for pte in pages {
        if let Pte::Present {
            pfn, special: false, ..
        } = pte
        {
            host.set_flag(pfn, PageFlags::LOCKED, true);
        }
    }
    Flow::Next
}

fn small_page(host: &Host, l: &Locals) -> Option<Pfn> {
    match host.mm(l.mm).pte(place(l, l.index.into())) {
        Some(Pte::Present {
            pfn, special: false, ..
        }) => Some(pfn),
        _ => None,
    }
}

/// The next page: copied with its tags, or zeroed where there is none or the zero page.
fn collapse_copy(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (va, pfn) = (place(l, l.index.into()), subpage(l, l.index.into()));
    l.from = small_page(host, l);
    if l.from.is_some() {
        let pfn = Some(pfn);
        return Flow::Call(PathId::CopyHighpage, Locals { va, pfn, ..*l });
    }
    host.mem.zero_page(pfn);
    Flow::Next
}

fn collapse_sync(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (_, vma) = vma_of(host, l);
    let (va, pfn) = (place(l, l.index.into()), Some(subpage(l, l.index.into())));
    pte::sync_tags(host, &Locals { va, pfn, ..*l }, &vma, Old::None)
}

fn collapse_set(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (va, pfn) = (place(l, l.index.into()), subpage(l, l.index.into()));
    let (_, vma) = vma_of(host, l);
    if l.from.is_some() {
        host.ledger_unmerged(pfn, (l.mm, va));
    }
    let pte = Pte::Present {
        pfn,
        write: vma.prot.contains(Prot::WRITE),
        dirty: true,
        tagged: vma.flags.contains(VmFlags::MTE),
        special: false,
    };
    host.mm_mut(l.mm).set_pte(va, pte);
    host.lru_add(pfn);
    host.anon_vma_prepare(l);
    Flow::Next
}

/// The small page has lost a mapping; with the last one it goes, and its slot.
fn collapse_free(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    l.index += 1;
    if u64::from(l.index) == HPAGE_PAGES {
        note!(
            host,
            [Key::page(l.mm, l.va), Key::Frame(subpage(l, 0))],
            "{HPAGE_PAGES} pages at {} collapsed into a huge page at pfn {:#x}",
            host.place(l.mm, l.va),
            subpage(l, 0).0
        );
    }
    let Some(from) = l.from else { return Flow::Next };
    host.set_flag(from, PageFlags::LOCKED, false);
    host.page_mut(from).refcount -= 1;
    if host.page(from).refcount > 0 {
        return Flow::Next;
    }
    let (pfn, entry) = (Some(from), host.page(from).swap);
    Flow::Call(PathId::FreePageAndSwapCache, Locals { pfn, entry, ..*l })
}

fn collapse_failed(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    for pfn in folio(l.pfn.expect("allocated")) {
        host.drop_unmapped_page(pfn);
    }
    l.ret = Errno::Eagain.ret();
    Flow::Next
}

fn mmap_write_unlock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    host.mm_mut(l.mm).mmap_lock.write_unlock();
    Flow::Return(l.ret.min(0))
}

impl Host {
    /// Does all of the range at an address show the huge zero folio, by a PMD that is?
    pub(super) fn huge_zero_mapped(&self, mm: crate::ids::MmId, va: Va) -> bool {
        let Some(head) = self.thp.zero else { return false };
        let base = pmd_address(va);
        (0..HPAGE_PAGES).all(|index| {
            let pte = self.mm(mm).pte(base + index * PAGE_SIZE);
            matches!(pte, Some(Pte::Present { pfn, .. }) if pfn.0 == head.0 + index)
        })
    }

    /// The huge zero folio: data zeroed; tags too, where the allocation is asked to and does (knobs `huge_zero` and K16).
    fn alloc_huge_zero_folio(&mut self, at: (crate::ids::MmId, Va)) -> Option<Pfn> {
        let head = self.buddy.alloc_block(HPAGE_PAGES.ilog2())?;
        let by_init = self.policy.zero_tags != ZeroTags::Independent;
        let zero_tags = self.policy.huge_zero == HugeZero::Alloc && !(by_init && self.init_on_free);
        for pfn in folio(head) {
            self.mem.zero_page(pfn);
            let page = self.page_mut(pfn);
            (page.flags, page.refcount, page.mapping) = (PageFlags::HUGE_ZERO, 1, PageMapping::None);
            self.ledger.allocated(pfn);
            self.ledger.merged(pfn);
            if zero_tags {
                self.clear_page_tags(pfn, at);
                self.page_mut(pfn).flags |= PageFlags::OF_TAGS;
            }
        }
        note!(
            self,
            [Key::Frame(head), Key::page(at.0, at.1)],
            "huge zero folio allocated at pfn {:#x}, tags {}",
            head.0,
            if zero_tags { "zeroed" } else { "as they were" }
        );
        self.thp.zero = Some(head);
        Some(head)
    }
}
