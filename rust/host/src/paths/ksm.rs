//! KSM: pages of equal data become one.
//!
//! **Models** ksmd (mm/ksm.c): the scan over the pages of `VM_MERGEABLE` mappings of every process, the search among merged
//! pages (the stable tree) and among pages seen earlier in the pass (the unstable tree), `break_cow` where only half of a merge
//! came about, and `MADV_UNMERGEABLE`. arm64's `memcmp_pages` (K17) keeps tagged pages apart from all others, and from the zero page, which takes the place of
//! pages of zeros where `use_zero_pages` is set, as long as it is not flagged itself (K15). **Leaves out** checksums (they
//! only put off what changes between two passes), NUMA, and the trees themselves: a search finds what is equal, in the
//! order of the scan.
//!
//! **Keeps**: only pages that `memcmp_pages` calls equal are merged, which `ksm_merge.rs` does.

use tagvisor_arch::{PAGE_SIZE, Pfn, Va};

use crate::errno::Errno;
use crate::ids::MmId;
use crate::mm::{Pte, VmFlags};
use crate::page::{PageFlags, PageMapping};
use crate::paths::outline::outline;
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
    pub(super) fn memcmp_pages(&self, one: Pfn, other: Pfn) -> bool {
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
