//! Host page faults and `get_user_pages`.
//!
//! **Models** `handle_mm_fault` down to `do_anonymous_page` and `do_wp_page` (mm/memory.c) for private anonymous memory, a
//! DAX fault that inserts a `ZONE_DEVICE` frame, and the GUP loop KVM uses (`hva_to_pfn`). The caller of `handle_mm_fault`
//! holds `mmap_lock` for read. **Leaves out** copy-on-write between processes, page tables, THP and userfaultfd.
//!
//! **Keeps**: a page is mapped only after its tags are what the PTE promises (`mte_sync_tags` before `set_pte`).

use tagvisor_arch::Pfn;

use crate::errno::Errno;
use crate::log::{Key, note};
use crate::mm::{Backing, Prot, Pte, VmFlags};
use crate::page::PageFlags;
use crate::paths::notifier;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};

/// `handle_mm_fault` failed because nothing is mapped there (second result).
pub(super) const MAPERR: u64 = 1;
/// The mapping does not allow the access.
pub(super) const ACCERR: u64 = 2;

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
            name: "wp_can_reuse_anon_folio",
            run: wp_page_reuse,
        },
        Step {
            name: "wp_page_copy",
            run: alloc_zeroed_folio,
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
            name: "mmu_notifier_invalidate_range_end",
            run: call_notifier_end,
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
    if !vma.prot.contains(need) {
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
        (Some(Pte::Swap(entry)), _) => Flow::Call(
            PathId::DoSwapPage,
            Locals {
                entry: Some(entry),
                ..*l
            },
        ),
        (Some(Pte::Present { write, .. }), _) if write || !l.write => Flow::Return(0),
        (Some(Pte::Present { .. }), _) => Flow::Call(PathId::DoWpPage, *l),
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
        (None, Backing::ZoneDevice | Backing::Mmio) => {
            let pfn = Pfn(vma.first_pfn.0 + (l.va.vpn() - start));
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
/// sets the flag before anybody can see the page (5.14 and later).
fn alloc_zeroed_folio(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some(pfn) = host.alloc_anon_page(l.mm, l.va) else {
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
    if host.vma_is_tagged(l) {
        host.clear_page_tags(pfn);
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

fn sync_new_page(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if host.vma_is_tagged(l) {
        Flow::Call(PathId::MteSyncTags, *l)
    } else {
        Flow::Next
    }
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

fn wp_page_reuse(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some(Pte::Present {
        pfn, tagged, special, ..
    }) = host.mm(l.mm).pte(l.va)
    else {
        return Flow::Return(0);
    };
    if pfn == host.zero_pfn {
        return Flow::Next;
    }
    host.mm_mut(l.mm).set_pte(
        l.va,
        Pte::Present {
            pfn,
            write: true,
            dirty: true,
            tagged,
            special,
        },
    );
    Flow::Return(0)
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

/// The private copy replaces the zero page, unless the PTE changed meanwhile.
fn set_wp_pte(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("allocated");
    match host.mm(l.mm).pte(l.va) {
        Some(Pte::Present { pfn: old, .. }) if old == host.zero_pfn => host.map_new_page(l, pfn),
        _ => host.drop_unmapped_page(pfn),
    }
    Flow::Next
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
    if l.write && !write {
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
        self.pfn_is_map_memory(pfn) && !self.has_flag(pfn, PageFlags::RESERVED)
    }

    /// A frame for an anonymous page: no flags, nobody's reference but the caller's.
    pub(crate) fn alloc_anon_page(&mut self, mm: crate::ids::MmId, va: tagvisor_arch::Va) -> Option<Pfn> {
        let pfn = self.buddy.alloc()?;
        let page = self.page_mut(pfn);
        page.flags = PageFlags::empty();
        page.refcount = 1;
        page.swap = None;
        page.mapping = Some((mm, va.page()));
        Some(pfn)
    }

    /// Gives back a page that lost the race for its PTE.
    pub(crate) fn drop_unmapped_page(&mut self, pfn: Pfn) {
        let page = self.page_mut(pfn);
        page.refcount = 0;
        page.flags = PageFlags::empty();
        page.mapping = None;
        self.buddy.free(pfn);
    }

    fn map_new_page(&mut self, l: &Locals, pfn: Pfn) {
        let tagged = self.vma_is_tagged(l);
        self.mm_mut(l.mm).set_pte(
            l.va,
            Pte::Present {
                pfn,
                write: true,
                dirty: true,
                tagged,
                special: false,
            },
        );
        self.lru_add(pfn);
    }

    /// `folio_add_lru_vma`: the page is resident and reclaim may find it.
    pub(crate) fn lru_add(&mut self, pfn: Pfn) {
        if !self.has_flag(pfn, PageFlags::LRU) {
            self.lru.push_back(pfn);
            self.resident += 1;
        }
        self.page_mut(pfn).flags |= PageFlags::LRU | PageFlags::YOUNG;
    }
}
