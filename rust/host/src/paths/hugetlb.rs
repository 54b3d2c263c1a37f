//! Faults on huge pages.
//!
//! **Models** `hugetlb_fault` with `hugetlb_no_page` and `hugetlb_wp` (mm/hugetlb.c): a huge page is allocated, zeroed or
//! copied, and mapped as a whole. Its page table entry is 512 entries here, which change in one step. Stage 2 maps it page
//! by page, but with K32 = supported `sanitise_mte_tags` clears what one block would map. **Leaves out** the fault mutex,
//! and a private mapping that loses its reservation to its parent.
//!
//! **Keeps**: all pages of a huge page are mapped, or none.

use tagvisor_arch::{PAGE_SIZE, Pfn, Va};

use crate::file::Cached;
use crate::hugetlb::{HPAGE_PAGES, HPAGE_SIZE};
use crate::log::{Key, note};
use crate::mm::{Backing, Prot, Pte, VmFlags, Vma};
use crate::page::{PageFlags, PageMapping};
use crate::paths::outline::outline;
use crate::paths::pte::{self, Old};
use crate::paths::{fault, notifier};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, PathId};

outline! {
    /// Every version.
    pub(super) HUGETLB_NO_PAGE = "hugetlb_no_page" {
        "filemap_lock_hugetlb_folio" => filemap_lock_hugetlb_folio,
        "alloc_hugetlb_folio" => alloc_hugetlb_folio,
        "folio_zero_user" => folio_zero_user,
        "mte_sync_tags" => sync_subpage,
        "next page" => |_, _, _| Flow::To("mte_sync_tags"),
        "set_huge_pte_at" => set_huge_pte_at,
    }
}
outline! {
    /// Every version.
    pub(super) HUGETLB_WP = "hugetlb_wp" {
        "folio_mapcount == 1" => reuse,
        "alloc_hugetlb_folio" => alloc_hugetlb_folio,
        "copy_user_large_folio" => copy_subpage,
        "next page to copy" => |_, _, _| Flow::To("copy_user_large_folio"),
        "mmu_notifier_invalidate_range_start" => |_, l, _| Flow::Call(PathId::NotifierStart, notifier::range(&whole(l))),
        "mte_sync_tags" => sync_subpage,
        "next page" => |_, _, _| Flow::To("mte_sync_tags"),
        "set_huge_pte_at" => replace_huge_pte,
        "mmu_notifier_invalidate_range_end" => |_, l, _| Flow::Call(PathId::NotifierEnd, notifier::range(&whole(l))),
        "folio_put" => put_subpage,
    }
}

/// The huge page's range of addresses.
fn whole(l: &Locals) -> Locals {
    let va = Va(l.va.0 / HPAGE_SIZE * HPAGE_SIZE);
    Locals {
        va,
        end: va + HPAGE_SIZE,
        ret: 0,
        ..*l
    }
}

fn place(l: &Locals, index: u64) -> Va {
    whole(l).va + index * PAGE_SIZE
}

fn vma_of(host: &Host, l: &Locals) -> (u64, Vma) {
    let (start, vma) = host.mm(l.mm).vma(l.va).expect("mmap_lock is held");
    (start, *vma)
}

/// A shared mapping finds the huge page that another one brought in.
fn filemap_lock_hugetlb_folio(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (start, vma) = vma_of(host, l);
    let Backing::File(file) = vma.backing else {
        unreachable!("entered for a hugetlb VMA only")
    };
    (l.file, l.file_page) = (file, vma.offset + (whole(l).va.vpn() - start));
    (l.index, l.from) = (0, None);
    match host.file(file).cache.get(&l.file_page).copied() {
        Some(Cached::Page(head)) => {
            for index in 0..HPAGE_PAGES {
                host.page_mut(Pfn(head.0 + index)).refcount += 1;
            }
            l.pfn = Some(head);
            Flow::To("mte_sync_tags")
        }
        _ => Flow::Next,
    }
}

/// A huge page of the pool, or SIGBUS.
fn alloc_hugetlb_folio(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (_, vma) = vma_of(host, l);
    let shared = vma.flags.contains(VmFlags::SHARED);
    let (base, file, file_page) = (whole(l).va, l.file, l.file_page);
    let mapping = |index| {
        if shared {
            PageMapping::File(file, file_page + index)
        } else {
            PageMapping::Anon(base + index * PAGE_SIZE)
        }
    };
    let Some(head) = host.alloc_hugetlb_folio(file, mapping) else {
        l.out = fault::BUS;
        return Flow::Return(crate::errno::Errno::Efault.ret());
    };
    note!(
        host,
        [Key::Frame(head), Key::page(l.mm, l.va)],
        "huge page at pfn {:#x} taken from the pool for {}",
        head.0,
        host.place(l.mm, base)
    );
    (l.pfn, l.index) = (Some(head), 0);
    Flow::Next
}

/// `hugetlb_add_to_page_cache` for a shared one.
fn folio_zero_user(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let head = l.pfn.expect("allocated");
    let (_, vma) = vma_of(host, l);
    for index in 0..HPAGE_PAGES {
        let pfn = Pfn(head.0 + index);
        host.mem.zero_page(pfn);
        if vma.flags.contains(VmFlags::SHARED) {
            host.page_mut(pfn).refcount += 1;
            host.file_mut(l.file)
                .cache
                .insert(l.file_page + index, Cached::Page(pfn));
        } else {
            host.set_flag(pfn, PageFlags::ANON_EXCLUSIVE, true);
        }
    }
    Flow::Next
}

/// `mte_sync_tags` of the next page of the huge page.
fn sync_subpage(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let index = u64::from(l.index);
    if index == HPAGE_PAGES {
        return Flow::To("set_huge_pte_at");
    }
    let (_, vma) = vma_of(host, l);
    l.index += 1;
    let va = place(l, index);
    let pfn = Some(Pfn(l.pfn.expect("found").0 + index));
    pte::sync_tags(host, &Locals { va, pfn, ..*l }, &vma, Old::None)
}

/// Maps the huge page, unless somebody did meanwhile.
fn set_huge_pte_at(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let head = l.pfn.expect("found");
    if host.mm(l.mm).pte(whole(l).va).is_some() {
        for index in 0..HPAGE_PAGES {
            let pfn = Pfn(head.0 + index);
            if host.put_page(pfn) {
                host.put_hugetlb_page(pfn);
            }
        }
        return Flow::Return(0);
    }
    let (_, vma) = vma_of(host, l);
    let shared = vma.flags.contains(VmFlags::SHARED);
    install(host, l, head, vma.prot.contains(Prot::WRITE) && (shared || l.write));
    if !shared {
        host.anon_vma_prepare(l);
    }
    Flow::Return(0)
}

fn install(host: &mut Host, l: &Locals, head: Pfn, write: bool) {
    let (_, vma) = vma_of(host, l);
    for index in 0..HPAGE_PAGES {
        let pte = Pte::Present {
            pfn: Pfn(head.0 + index),
            write,
            dirty: l.write,
            tagged: vma.flags.contains(VmFlags::MTE),
            special: false,
        };
        host.mm_mut(l.mm).set_pte(place(l, index), pte);
    }
    note!(
        host,
        [Key::Frame(head), Key::page(l.mm, l.va)],
        "huge page at pfn {:#x} mapped at {}",
        head.0,
        host.place(l.mm, whole(l).va)
    );
}

/// A huge page that only we have becomes writable in place.
fn reuse(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some(Pte::Present { pfn: head, .. }) = host.mm(l.mm).pte(whole(l).va) else {
        return Flow::Return(0);
    };
    let (start, vma) = vma_of(host, l);
    let Backing::File(file) = vma.backing else {
        unreachable!("entered for a hugetlb VMA only")
    };
    (l.file, l.file_page) = (file, vma.offset + (whole(l).va.vpn() - start));
    let page = host.page(head);
    let exclusive = page.flags.contains(PageFlags::ANON_EXCLUSIVE) || page.refcount == 1;
    if vma.flags.contains(VmFlags::SHARED) || exclusive {
        install(host, l, head, vma.prot.contains(Prot::WRITE));
        return Flow::Return(0);
    }
    l.from = Some(head);
    Flow::Next
}

/// `copy_highpage` of the next page of the huge page.
fn copy_subpage(_: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let index = u64::from(l.index);
    if index == HPAGE_PAGES {
        l.index = 0;
        return Flow::To("mmu_notifier_invalidate_range_start");
    }
    l.index += 1;
    let (from, to) = (l.from.expect("write-protected"), l.pfn.expect("allocated"));
    Flow::Call(
        PathId::CopyHighpage,
        Locals {
            va: place(l, index),
            from: Some(Pfn(from.0 + index)),
            pfn: Some(Pfn(to.0 + index)),
            ..*l
        },
    )
}

/// The copy takes the old huge page's place, unless that changed meanwhile. `l.from` is the one to let go of.
fn replace_huge_pte(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (new, old) = (l.pfn.expect("allocated"), l.from.expect("write-protected"));
    l.index = 0;
    if !matches!(host.mm(l.mm).pte(whole(l).va), Some(Pte::Present { pfn, write: false, .. }) if pfn == old) {
        l.from = Some(new);
        return Flow::Next;
    }
    let (_, vma) = vma_of(host, l);
    for index in 0..HPAGE_PAGES {
        host.set_flag(Pfn(new.0 + index), PageFlags::ANON_EXCLUSIVE, true);
        host.ledger_copied_on_write((l.mm, place(l, index)));
    }
    install(host, l, new, vma.prot.contains(Prot::WRITE));
    Flow::Next
}

/// Lets go of the next page of the huge page that is not mapped here any more.
fn put_subpage(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let index = u64::from(l.index);
    if index == HPAGE_PAGES {
        return Flow::Return(0);
    }
    l.index += 1;
    let pfn = Pfn(l.from.expect("replaced").0 + index);
    if host.put_page(pfn) {
        host.put_hugetlb_page(pfn);
    }
    Flow::To("folio_put")
}
