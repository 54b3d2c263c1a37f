//! The split of a huge page into small ones.
//!
//! **Models** `split_huge_page_to_list` (`mm/huge_memory.c`) of an anonymous folio: every mapping becomes migration entries
//! between notifier calls, the references are frozen, the tails get the head's flags (`__split_huge_page_tail`; the knob
//! `split_flags`), and `remap_page` maps the pages again, with `set_pte_at` over the entries; a page of zero data may become
//! the zero page instead (K33). **Leaves out** a split to other sizes.
//!
//! **Keeps**: a folio that somebody holds stays one; pages that nobody maps are freed by the split, unless the swap cache has them.

use tagvisor_arch::{PAGE_SIZE, Pfn, Va};

use crate::errno::Errno;
use crate::hugetlb::{HPAGE_SIZE, compound_head};
use crate::ids::MmId;
use crate::log::{Key, note};
use crate::mm::{Prot, Pte, VmFlags};
use crate::page::{PageFlags, PageMapping};
use crate::paths::notifier;
use crate::paths::outline::outline;
use crate::paths::pte::{self, Old};
use crate::policy::{SplitFlags, ThpZeroSubpage};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, PathId};
use crate::thp::folio;

outline! {
    /// Every version; `l.from` is any page of the folio, of which the caller has `l.seq` references.
    pub(super) SPLIT_HUGE_PAGE = "split_huge_page_to_list" {
        "folio_trylock" => folio_trylock,
        "rmap_walk" => rmap_walk,
        "mmu_notifier_invalidate_range_start" => |_, l, _| Flow::Call(PathId::NotifierStart, notifier::range(l)),
        "try_to_migrate" => try_to_migrate,
        "mmu_notifier_invalidate_range_end" => |_, l, _| Flow::Call(PathId::NotifierEnd, notifier::range(l)),
        "next mapping" => |_, _, _| Flow::To("rmap_walk"),
        "folio_ref_freeze" => folio_ref_freeze,
        "__split_huge_page_tail" => split_tails,
        "remap_page" => remap_page,
        "set_pte_at" => set_pte_at,
        "free_page_and_swap_cache" => free_unmapped,
    }
}

/// Before a path takes the page at `pfn`: splits the huge page that it belongs to, if it does. The step after it looks anew.
pub(super) fn split_first(host: &Host, l: &Locals, pfn: Option<Pfn>) -> Flow {
    match pfn.filter(|pfn| host.is_thp(*pfn)) {
        Some(pfn) => {
            let from = Some(pfn);
            Flow::Call(PathId::SplitHugePage, Locals { from, seq: 0, ..*l })
        }
        None => Flow::Next,
    }
}

fn head(l: &Locals) -> Pfn {
    compound_head(l.from.expect("the caller names a page"))
}

/// Where the folio lies in each process that has it.
fn base(host: &Host, l: &Locals) -> Va {
    match host.page(head(l)).mapping {
        PageMapping::Anon(va) => va,
        _ => unreachable!("a folio's first page lives as long as the folio"),
    }
}

fn folio_trylock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let from = l.from.expect("the caller names a page");
    if !host.is_thp(from) || folio(from).any(|pfn| host.has_flag(pfn, PageFlags::LOCKED)) {
        return Flow::Return(Errno::Eagain.ret());
    }
    for pfn in folio(from) {
        host.set_flag(pfn, PageFlags::LOCKED, true);
    }
    Flow::Next
}

fn rmap_walk(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (first, head) = (base(host, l), head(l));
    let range = first.vpn()..(first + HPAGE_SIZE).vpn();
    let shows = |pte: &Pte| matches!(pte, Pte::Present { pfn, .. } if compound_head(*pfn) == head);
    let mapped = (0..)
        .map(MmId)
        .zip(&host.mms)
        .find(|(_, mm)| mm.ptes.range(range.clone()).any(|(_, pte)| shows(pte)));
    let Some((mm, _)) = mapped else {
        return Flow::To("folio_ref_freeze");
    };
    (l.mm, l.va, l.end) = (mm, first, first + HPAGE_SIZE);
    Flow::Next
}

fn try_to_migrate(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let head = head(l);
    for va in host.mm(l.mm).touched(l.va, l.end) {
        let Some(Pte::Present { pfn, write, dirty, .. }) = host.mm(l.mm).pte(va) else {
            continue;
        };
        if compound_head(pfn) != head {
            continue;
        }
        let page = host.page_mut(pfn);
        page.refcount -= 1;
        page.flags
            .set(PageFlags::DIRTY, page.flags.contains(PageFlags::DIRTY) || dirty);
        let exclusive = page.flags.contains(PageFlags::ANON_EXCLUSIVE);
        let entry = Pte::Migration {
            pfn,
            write,
            dirty,
            exclusive,
        };
        host.mm_mut(l.mm).set_pte(va, entry);
    }
    note!(
        host,
        [Key::Frame(head), Key::page(l.mm, l.va)],
        "migration entries for the huge page at pfn {:#x} at {}",
        head.0,
        host.place(l.mm, l.va)
    );
    Flow::Next
}

/// Somebody holds a page of it: no split. `l.merged` says so.
fn folio_ref_freeze(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let held = |pfn: Pfn| {
        let ours = if Some(pfn) == l.from { l.seq } else { 0 };
        u64::from(host.page(pfn).refcount) != ours
    };
    l.merged = u32::from(folio(head(l)).any(held));
    l.index = 0;
    if l.merged > 0 {
        return Flow::To("remap_page");
    }
    Flow::Next
}

/// The tails are pages of their own from now on, with flags that they get from the head.
fn split_tails(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let head = head(l);
    let of_head = host.page(head).flags & PageFlags::OF_TAGS;
    host.forget_folio(head);
    for pfn in folio(head).skip(1) {
        let own = host.page(pfn).flags & PageFlags::OF_TAGS;
        let flags = match host.policy.split_flags {
            SplitFlags::Head => of_head,
            SplitFlags::Lost => PageFlags::empty(),
            SplitFlags::Own => own,
        };
        host.set_flag(pfn, PageFlags::OF_TAGS, false);
        host.set_flag(pfn, flags, true);
        let tagged = flags.contains(PageFlags::MTE_TAGGED);
        if own.contains(PageFlags::MTE_TAGGED) != tagged {
            note!(
                host,
                [Key::Frame(pfn)],
                "pfn {:#x} is split off pfn {:#x}, and PG_mte_tagged is {}",
                pfn.0,
                head.0,
                if tagged { "set with it" } else { "cleared with it" }
            );
        }
    }
    note!(
        host,
        [Key::Frame(head)],
        "the huge page at pfn {:#x} is split; PG_mte_tagged of its head is {}",
        head.0,
        if of_head.contains(PageFlags::MTE_TAGGED) {
            "set"
        } else {
            "clear"
        }
    );
    Flow::Next
}

/// The next migration entry of the folio's pages.
fn remap_page(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (first, head) = (base(host, l), head(l));
    let range = first.vpn()..(first + HPAGE_SIZE).vpn();
    let entries = (0..).map(MmId).zip(&host.mms).find_map(|(id, mm)| {
        mm.ptes.range(range.clone()).find_map(|(vpn, pte)| match pte {
            Pte::Migration { pfn, .. } if compound_head(*pfn) == head => Some((id, Va(vpn * PAGE_SIZE), *pfn)),
            _ => None,
        })
    });
    let Some((mm, va, pfn)) = entries else {
        return Flow::To("free_page_and_swap_cache");
    };
    (l.mm, l.va, l.end, l.pfn) = (mm, va, va + PAGE_SIZE, Some(pfn));
    if l.merged == 0 && host.try_to_map_unused_to_zeropage(mm, va, pfn) {
        return Flow::To("remap_page");
    }
    let (_, vma) = host.mm(mm).vma(va).expect("an entry lies in a VMA");
    pte::sync_tags(host, l, vma, Old::NonSwap)
}

fn set_pte_at(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some(Pte::Migration {
        pfn,
        write,
        dirty,
        exclusive,
    }) = host.mm(l.mm).pte(l.va)
    else {
        return Flow::To("remap_page");
    };
    let vma = host
        .mm(l.mm)
        .vma(l.va)
        .map(|(_, v)| *v)
        .expect("an entry lies in a VMA");
    let pte = Pte::Present {
        pfn,
        write: write && vma.prot.contains(Prot::WRITE),
        dirty,
        tagged: vma.flags.contains(VmFlags::MTE),
        special: false,
    };
    host.mm_mut(l.mm).set_pte(l.va, pte);
    let page = host.page_mut(pfn);
    page.refcount += 1;
    page.flags.set(PageFlags::ANON_EXCLUSIVE, exclusive);
    Flow::To("remap_page")
}

/// Unlocks the pages. After a split those that nobody has go back to the allocator, one after the other.
fn free_unmapped(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    for pfn in folio(head(l)) {
        host.set_flag(pfn, PageFlags::LOCKED, false);
    }
    if l.merged > 0 {
        return Flow::Return(Errno::Eagain.ret());
    }
    for pfn in folio(head(l)) {
        if host.page(pfn).refcount == 0 && host.page(pfn).swap.is_none() {
            host.drop_unmapped_page(pfn);
        }
    }
    Flow::Return(0)
}

impl Host {
    /// K33: a page whose data are all zero gives way to the zero page; true if it did.
    fn try_to_map_unused_to_zeropage(&mut self, mm: MmId, va: Va, pfn: Pfn) -> bool {
        let may = match self.policy.thp_zero_subpage {
            ThpZeroSubpage::Kept => false,
            ThpZeroSubpage::DataOnly => true,
            ThpZeroSubpage::DataAndTags => !self.has_flag(pfn, PageFlags::MTE_TAGGED),
        };
        if !may || !self.mem.page_is_zero(pfn) {
            return false;
        }
        let tagged = self.mm(mm).vma(va).is_some_and(|(_, v)| v.flags.contains(VmFlags::MTE));
        let pte = Pte::Present {
            pfn: self.zero_pfn,
            write: false,
            dirty: false,
            tagged,
            special: true,
        };
        self.mm_mut(mm).set_pte(va, pte);
        note!(
            self,
            [Key::Frame(pfn), Key::page(mm, va)],
            "pfn {:#x} holds zeros only: the zero page takes its place at {}",
            pfn.0,
            self.place(mm, va)
        );
        true
    }
}
