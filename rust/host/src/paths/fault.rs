//! Host page faults.
//!
//! **Models** `handle_mm_fault` down to `do_anonymous_page` (mm/memory.c), and a DAX fault that inserts a `ZONE_DEVICE`
//! frame; files are in `file_fault.rs`, writes to read-only pages in `wp.rs`. The caller holds `mmap_lock` for read.
//! **Leaves out** page tables, sizes of huge pages other than 2 MiB.
//!
//! **Keeps**: a page is mapped only after its tags are what the PTE promises (`mte_sync_tags` before `set_pte`).

use tagvisor_arch::Pfn;

use crate::errno::Errno;
use crate::log::{Key, note};
use crate::mm::{Backing, Prot, Pte, VmFlags};
use crate::page::{PageFlags, PageMapping};
use crate::paths::pte::{self, Old};
use crate::paths::userfault;
use crate::policy::ZeroTags;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};

/// `handle_mm_fault` failed because nothing is mapped there (second result).
pub(super) const MAPERR: u64 = 1;
/// The mapping does not allow the access.
pub(super) const ACCERR: u64 = 2;
/// Beyond the end of the file, or no memory.
pub(super) const BUS: u64 = 3;
/// The page is poisoned.
pub(super) const HWPOISON: u64 = 4;

pub(super) static HANDLE_MM_FAULT: Path = Path {
    name: "handle_mm_fault",
    steps: &[
        Step {
            name: "lock_mm_and_find_vma",
            run: find_vma,
        },
        Step {
            name: "handle_pte_fault",
            run: handle_pte_fault,
        },
        Step {
            name: "return",
            run: |_, l, _| Flow::Return(l.ret),
        },
        Step {
            name: "handle_userfault",
            run: userfault::handle_userfault,
        },
        Step {
            name: "schedule",
            run: userfault::schedule,
        },
        Step {
            name: "mmap_read_lock",
            run: userfault::retry_fault,
        },
    ],
};
pub(super) static DO_ANONYMOUS_PAGE: Path = Path {
    name: "do_anonymous_page",
    steps: &[
        Step {
            name: "vma_alloc_zeroed_movable_folio",
            run: alloc_zeroed_folio,
        },
        Step {
            name: "mte_sync_tags",
            run: sync_new_page,
        },
        Step {
            name: "set_pte_at",
            run: set_anon_pte,
        },
    ],
};
fn find_vma(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some((_, vma)) = host.mm(l.mm).vma(l.va) else {
        l.out = MAPERR;
        return Flow::Return(Errno::Efault.ret());
    };
    let need = if l.write { Prot::WRITE } else { Prot::READ };
    // FOLL_FORCE reads anything, and writes where a private copy can be made (is_cow_mapping).
    let forced = l.force && !(l.write && vma.flags.contains(VmFlags::SHARED));
    if !vma.prot.contains(need) && !forced {
        l.out = ACCERR;
        return Flow::Return(Errno::Efault.ret());
    }
    Flow::Next
}

/// Which fault it is: nothing there, swapped out, write to a read-only page.
fn handle_pte_fault(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (start, vma) = host
        .mm(l.mm)
        .vma(l.va)
        .map(|(s, v)| (s, *v))
        .expect("found by the step before");
    let tagged = vma.flags.contains(VmFlags::MTE);
    match (host.mm(l.mm).pte(l.va), vma.backing) {
        // migration_entry_wait
        (Some(Pte::Migration { .. }), _) => Flow::Blocked,
        (Some(Pte::Hwpoison(_)), _) => {
            l.out = HWPOISON;
            Flow::Return(Errno::Efault.ret())
        }
        (Some(Pte::Swap(entry)), _) => Flow::Call(
            PathId::DoSwapPage,
            Locals {
                entry: Some(entry),
                ..*l
            },
        ),
        (Some(Pte::Present { pfn, .. }), _) if host.has_flag(pfn, PageFlags::HWPOISON) => {
            l.out = HWPOISON;
            Flow::Return(Errno::Efault.ret())
        }
        (Some(Pte::Present { write, .. }), _) if write || !l.write => Flow::Return(0),
        (Some(Pte::Present { pfn, .. }), _) if host.has_flag(pfn, PageFlags::HUGE_ZERO) => {
            // Once a part was unmapped, the others are mapped by small entries.
            let path = if host.huge_zero_mapped(l.mm, l.va) {
                PathId::WpHugeZeroPmd
            } else {
                PathId::SplitHugeZeroPagePmd
            };
            Flow::Call(path, *l)
        }
        (None, Backing::Anon | Backing::File(_)) if host.is_missing(l) => Flow::To("handle_userfault"),
        (None, Backing::Anon) if host.thp_fault(l.mm, &vma, start, l.va) => {
            Flow::Call(PathId::DoHugePmdAnonymousPage, *l)
        }
        (Some(Pte::Present { .. }), _) if host.is_hugetlb(&vma) => Flow::Call(PathId::HugetlbWp, *l),
        (None, Backing::File(_)) if host.is_hugetlb(&vma) => Flow::Call(PathId::HugetlbNoPage, *l),
        (Some(Pte::Present { .. }), _) => Flow::Call(PathId::DoWpPage, *l),
        (None, Backing::File(_)) => Flow::Call(PathId::DoFault, *l),
        (None, Backing::Anon) if l.write => Flow::Call(PathId::DoAnonymousPage, *l),
        (None, Backing::Anon) => {
            let pfn = host.zero_pfn;
            host.mm_mut(l.mm).set_pte(
                l.va,
                Pte::Present {
                    pfn,
                    write: false,
                    dirty: false,
                    tagged,
                    special: true,
                },
            );
            note!(
                host,
                [Key::page(l.mm, l.va)],
                "zero page mapped read-only at {}",
                host.place(l.mm, l.va)
            );
            Flow::Return(0)
        }
        (None, Backing::ZoneDevice | Backing::Mmio | Backing::Hugetlb) => {
            let pfn = Pfn(vma.offset + (l.va.vpn() - start));
            let write = vma.prot.contains(Prot::WRITE);
            // pte_special: set_pte_at never touches the page's tags.
            host.mm_mut(l.mm).set_pte(
                l.va,
                Pte::Present {
                    pfn,
                    write,
                    dirty: l.write,
                    tagged: false,
                    special: true,
                },
            );
            note!(
                host,
                [Key::page(l.mm, l.va), Key::Frame(pfn)],
                "pfn {:#x} of {} inserted",
                pfn.0,
                vma.backing
            );
            Flow::Return(0)
        }
    }
}

/// A new zeroed page. In a `VM_MTE` VMA it is allocated with `__GFP_ZEROTAGS`, so `tag_clear_highpage` zeroes the tags and
/// sets the flag before anybody can see the page (K16; before, `set_pte_at` does it).
pub(super) fn alloc_zeroed_folio(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some(pfn) = host.alloc_page(PageMapping::Anon(l.va.page())) else {
        return Flow::Return(Errno::Enomem.ret());
    };
    host.mem.zero_page(pfn);
    note!(
        host,
        [Key::Frame(pfn), Key::page(l.mm, l.va)],
        "pfn {:#x} allocated for {}",
        pfn.0,
        host.place(l.mm, l.va)
    );
    let zero_tags = match host.policy.zero_tags {
        ZeroTags::SetPte => false,
        ZeroTags::Alloc => !host.init_on_free,
        ZeroTags::Independent => true,
    };
    if host.vma_is_tagged(l) && zero_tags {
        host.clear_page_tags(pfn, (l.mm, l.va));
        host.page_mut(pfn).flags |= PageFlags::MTE_TAGGED | PageFlags::MTE_LOCK;
        note!(
            host,
            [Key::Frame(pfn)],
            "__GFP_ZEROTAGS: tags of pfn {:#x} zeroed, PG_mte_tagged set",
            pfn.0
        );
    }
    l.pfn = Some(pfn);
    Flow::Next
}

pub(super) fn sync_new_page(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (_, vma) = host.mm(l.mm).vma(l.va).expect("mmap_lock is held");
    let old = if host.mm(l.mm).pte(l.va).is_some() {
        Old::Present
    } else {
        Old::None
    };
    pte::sync_tags(host, l, vma, old)
}

/// Installs the page unless another thread was faster (`pte_same`).
fn set_anon_pte(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("allocated");
    if host.mm(l.mm).pte(l.va).is_some() {
        host.drop_unmapped_page(pfn);
        return Flow::Return(0);
    }
    host.map_new_page(l, pfn);
    Flow::Return(0)
}

impl Host {
    fn vma_is_tagged(&self, l: &Locals) -> bool {
        self.mm(l.mm)
            .vma(l.va)
            .is_some_and(|(_, v)| v.flags.contains(VmFlags::MTE))
    }

    /// Does a mapping hold a reference to the frame? Not for the zero page, nor for memory that is nobody's to free.
    pub(crate) fn is_counted(&self, pfn: Pfn) -> bool {
        let nobodys = PageFlags::RESERVED | PageFlags::HUGE_ZERO;
        self.pfn_is_map_memory(pfn) && !self.page(pfn).flags.intersects(nobodys)
    }

    /// A frame without flags and with nobody's reference but the caller's.
    pub(crate) fn alloc_page(&mut self, mapping: PageMapping) -> Option<Pfn> {
        let pfn = self.buddy.alloc()?;
        let page = self.page_mut(pfn);
        page.flags = PageFlags::empty();
        page.refcount = 1;
        page.swap = None;
        page.mapping = mapping;
        self.ledger.allocated(pfn);
        Some(pfn)
    }

    /// Gives a page back that nobody maps. A poisoned one is nobody's from now on.
    pub(crate) fn drop_unmapped_page(&mut self, pfn: Pfn) {
        if self.has_flag(pfn, PageFlags::HUGETLB) {
            return self.put_hugetlb_page(pfn);
        }
        if self.is_thp(pfn) {
            return self.put_thp_page(pfn);
        }
        if self.has_flag(pfn, PageFlags::LRU) {
            self.lru.resident -= 1;
        }
        let page = self.page_mut(pfn);
        let poisoned = page.flags & PageFlags::HWPOISON;
        page.refcount = 0;
        page.flags = poisoned;
        page.mapping = PageMapping::None;
        if poisoned.is_empty() {
            self.buddy.free(pfn);
        }
    }

    /// `anon_vma_prepare`: anonymous pages may be mapped from now on.
    pub(crate) fn anon_vma_prepare(&mut self, l: &Locals) {
        let mm = self.mm_mut(l.mm);
        if let Some((_, vma)) = mm.vmas.range_mut(..=l.va.vpn()).next_back() {
            vma.flags |= VmFlags::ANON_VMA;
        }
    }

    /// A new anonymous page, exclusively ours, takes its place.
    pub(super) fn map_new_page(&mut self, l: &Locals, pfn: Pfn) {
        let (_, vma) = self
            .mm(l.mm)
            .vma(l.va)
            .map(|(s, v)| (s, *v))
            .expect("mmap_lock is held");
        let pte = Pte::Present {
            pfn,
            write: vma.prot.contains(Prot::WRITE),
            dirty: true,
            tagged: vma.flags.contains(VmFlags::MTE),
            special: false,
        };
        self.mm_mut(l.mm).set_pte(l.va, pte);
        self.anon_vma_prepare(l);
        self.page_mut(pfn).flags |= PageFlags::ANON_EXCLUSIVE;
        self.lru_add(pfn);
    }

    /// `folio_add_lru_vma`: the page is resident and reclaim may find it.
    pub(crate) fn lru_add(&mut self, pfn: Pfn) {
        if !self.has_flag(pfn, PageFlags::LRU) {
            self.lru.pages.push_back(pfn);
            self.lru.resident += 1;
        }
        self.page_mut(pfn).flags |= PageFlags::LRU | PageFlags::YOUNG;
    }
}
