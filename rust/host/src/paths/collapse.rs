//! Small pages that become a huge one.
//!
//! **Models** `collapse_huge_page` (mm/khugepaged.c) as `MADV_COLLAPSE` asks for it, which copies each page with its tags and
//! passes what was none through `mte_sync_tags`. **Leaves out** khugepaged itself, `PG_young`. The PMD is written page by
//! page: `mmap_lock` is held for write, so nobody sees it half done.
//!
//! **Keeps**: the huge page has every small page's data and tags before a PTE shows it.

use tagvisor_arch::{PAGE_SIZE, Pfn, Va};

use crate::errno::Errno;
use crate::hugetlb::{HPAGE_PAGES, HPAGE_SIZE};
use crate::log::{Key, note};
use crate::mm::{Prot, Pte, VmFlags};
use crate::page::{PageFlags, PageMapping};
use crate::paths::huge_memory::{place, subpage, vma_of, whole};
use crate::paths::outline::outline;
use crate::paths::pte::{self, Old};
use crate::paths::{notifier, zap};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, PathId};
use crate::thp::folio;

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
