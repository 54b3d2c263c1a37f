//! Host page faults and `get_user_pages`.
//!
//! **Models** `handle_mm_fault` down to `do_anonymous_page` and `do_wp_page` (mm/memory.c), a DAX fault that inserts a
//! `ZONE_DEVICE` frame, and the GUP loop KVM uses (`hva_to_pfn`); files are in `file_fault.rs`. The caller of
//! `handle_mm_fault` holds `mmap_lock` for read. **Leaves out** page tables, THP and userfaultfd.
//!
//! **Keeps**: a page is mapped only after its tags are what the PTE promises (`mte_sync_tags` before `set_pte`).

use tagvisor_arch::Pfn;

use crate::errno::Errno;
use crate::log::{Key, note};
use crate::mm::{Backing, Prot, Pte, VmFlags};
use crate::page::{PageFlags, PageMapping};
use crate::paths::pte::{self, Old};
use crate::paths::userfault;
use crate::paths::{change_pte, notifier};
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
pub(super) static DO_WP_PAGE: Path = Path {
    name: "do_wp_page",
    steps: &[
        Step {
            name: "folio_free_swap",
            run: wp_free_swap,
        },
        Step {
            name: "wp_can_reuse_anon_folio",
            run: wp_page_reuse,
        },
        Step {
            name: "wp_page_copy",
            run: wp_page_copy,
        },
        Step {
            name: "mmu_notifier_invalidate_range_start",
            run: call_notifier_start,
        },
        Step {
            name: "mte_sync_tags",
            run: sync_new_page,
        },
        Step {
            name: "set_pte_at",
            run: set_wp_pte,
        },
        Step {
            name: "mmu_notifier_change_pte",
            run: |_, l, _| change_pte::call(l),
        },
        Step {
            name: "mmu_notifier_invalidate_range_end",
            run: call_notifier_end,
        },
        Step {
            name: "put_page",
            run: put_from,
        },
    ],
};
pub(super) static GET_USER_PAGES: Path = Path {
    name: "get_user_pages",
    steps: &[
        Step {
            name: "mmap_read_lock",
            run: mmap_read_lock,
        },
        Step {
            name: "follow_page_mask",
            run: follow_page_mask,
        },
        Step {
            name: "faultin_page",
            run: |_, l, _| Flow::Call(PathId::HandleMmFault, *l),
        },
        Step {
            name: "retry",
            run: gup_retry,
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
fn alloc_zeroed_folio(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
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

/// The old page, if the fault still is a write to a present read-only PTE.
fn wp_old_page(host: &Host, l: &Locals) -> Option<(Pfn, bool)> {
    match host.mm(l.mm).pte(l.va) {
        Some(Pte::Present { pfn, special, .. }) => Some((pfn, special)),
        _ => None,
    }
}

/// A page only we have, but for the swap cache: its slot is given up first, so that it can be reused.
fn wp_free_swap(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some((pfn, false)) = wp_old_page(host, l) else {
        return Flow::Next;
    };
    let page = host.page(pfn);
    let Some(entry) = page.swap else { return Flow::Next };
    let keep = PageFlags::ANON_EXCLUSIVE | PageFlags::LOCKED;
    if page.refcount > 1 || page.flags.intersects(keep) || host.swap.count(entry) > 0 {
        return Flow::Next;
    }
    host.page_mut(pfn).swap = None;
    host.set_flag(pfn, PageFlags::DIRTY, true);
    host.swap.delete_from_swap_cache(entry);
    Flow::Call(
        PathId::SwapRangeFree,
        Locals {
            entry: Some(entry),
            ..*l
        },
    )
}

/// Shared memory, and an anonymous page that no other process has, becomes writable in place.
fn wp_page_reuse(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some(Pte::Present {
        pfn, tagged, special, ..
    }) = host.mm(l.mm).pte(l.va)
    else {
        return Flow::Return(0);
    };
    let (_, vma) = host.mm(l.mm).vma(l.va).map(|(s, v)| (s, *v)).expect("found before");
    let page = host.page(pfn);
    let exclusive = matches!(page.mapping, PageMapping::Anon(_))
        && (page.flags.contains(PageFlags::ANON_EXCLUSIVE) || page.refcount == 1 && page.swap.is_none());
    if pfn == host.zero_pfn || !vma.flags.contains(VmFlags::SHARED) && !exclusive {
        return Flow::Next;
    }
    if exclusive {
        host.page_mut(pfn).flags |= PageFlags::ANON_EXCLUSIVE;
    }
    let pte = Pte::Present {
        pfn,
        write: vma.prot.contains(Prot::WRITE),
        dirty: true,
        tagged,
        special,
    };
    host.mm_mut(l.mm).set_pte(l.va, pte);
    Flow::Return(0)
}

/// A page of our own: zeroed in place of the zero page, else a copy with the tags.
fn wp_page_copy(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let Some((old, special)) = wp_old_page(host, l) else {
        return Flow::Return(0);
    };
    l.from = Some(old);
    if special {
        return alloc_zeroed_folio(host, l, io);
    }
    let Some(pfn) = host.alloc_page(PageMapping::Anon(l.va.page())) else {
        return Flow::Return(Errno::Enomem.ret());
    };
    host.page_mut(old).refcount += 1;
    l.pfn = Some(pfn);
    Flow::Call(PathId::CopyHighpage, *l)
}

fn call_notifier_start(_: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    Flow::Call(
        PathId::NotifierStart,
        notifier::range(&Locals {
            end: l.va + tagvisor_arch::PAGE_SIZE,
            ..*l
        }),
    )
}

fn call_notifier_end(_: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    Flow::Call(
        PathId::NotifierEnd,
        notifier::range(&Locals {
            end: l.va + tagvisor_arch::PAGE_SIZE,
            ret: 0,
            ..*l
        }),
    )
}

/// The private copy replaces the old page, unless the PTE changed meanwhile. `l.from` then is the old page, which has lost
/// a mapping, or none.
fn set_wp_pte(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, old) = (l.pfn.expect("allocated"), l.from.expect("there was one"));
    let counted = host.is_counted(old);
    if !matches!(host.mm(l.mm).pte(l.va), Some(Pte::Present { pfn, .. }) if pfn == old) {
        host.drop_unmapped_page(pfn);
        l.from = counted.then_some(old);
        return Flow::Next;
    }
    if counted {
        host.page_mut(old).refcount -= 1;
        host.ledger_copied_on_write((l.mm, l.va));
        host.ledger_unmerged(pfn, (l.mm, l.va));
    }
    l.from = counted.then_some(old);
    host.map_new_page(l, pfn);
    Flow::Next
}

/// Drops our reference to the page that was copied from (or lost the race); the last one frees it, with its slot.
pub(super) fn put_from(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some(pfn) = l.from.filter(|pfn| host.is_counted(*pfn)) else {
        return Flow::Return(l.ret.min(0));
    };
    host.page_mut(pfn).refcount -= 1;
    if host.page(pfn).refcount > 0 {
        return Flow::Return(l.ret.min(0));
    }
    let entry = host.page(pfn).swap;
    Flow::Tail(
        PathId::FreePageAndSwapCache,
        Locals {
            pfn: Some(pfn),
            entry,
            ..*l
        },
    )
}

pub(super) fn mmap_read_lock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if host.mm_mut(l.mm).mmap_lock.try_read() {
        Flow::Next
    } else {
        Flow::Blocked
    }
}

/// Takes a reference if the PTE allows the access. The second result says whether the PTE is writable, which lets a read
/// fault map the page writable at stage 2 (`hva_to_pfn_slow`).
fn follow_page_mask(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some(Pte::Present { pfn, write, .. }) = host.mm(l.mm).pte(l.va) else {
        return Flow::Next;
    };
    // check_vma_flags: memory that may not be accessed so is not, whatever its PTE.
    let need = if l.write { Prot::WRITE } else { Prot::READ };
    let allowed = l.force || host.mm(l.mm).vma(l.va).is_some_and(|(_, v)| v.prot.contains(need));
    let forced = l.force && host.has_flag(pfn, PageFlags::ANON_EXCLUSIVE);
    let poisoned = host.has_flag(pfn, PageFlags::HWPOISON);
    if !allowed || l.write && !write && !forced || poisoned {
        return Flow::Next;
    }
    if host.is_counted(pfn) {
        let page = host.page_mut(pfn);
        page.refcount += 1;
        page.flags |= PageFlags::YOUNG;
        page.flags
            .set(PageFlags::DIRTY, page.flags.contains(PageFlags::DIRTY) || l.write);
    }
    host.mm_mut(l.mm).mmap_lock.read_unlock();
    l.out = u64::from(write);
    Flow::Return(i64::try_from(pfn.0).expect("48-bit addresses"))
}

fn gup_retry(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if l.ret < 0 {
        host.mm_mut(l.mm).mmap_lock.read_unlock();
        return Flow::Return(l.ret);
    }
    Flow::To("follow_page_mask")
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
