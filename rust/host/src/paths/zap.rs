//! Taking memory away: munmap, `mmap(MAP_FIXED)` over a mapping, and the zap that every discard ends in.
//!
//! **Models** `zap_pte_range` between notifier calls (mm/memory.c) and its callers. For the ledger this is where a content
//! ends: what its owner wrote need not be kept any longer, and nobody may see it any more.

use tagvisor_arch::{PAGE_SIZE, Va};

use crate::errno::Errno;
use crate::file::{FileId, FileKind};
use crate::ids::MmId;
use crate::log::{Key, note};
use crate::mm::{Backing, Prot, Pte, VmFlags, Vma};
use crate::ops::{MapSpec, Op};
use crate::page::{PageFlags, PageMapping};
use crate::paths::notifier;
use crate::policy::HugetlbMte;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};

pub(super) static MUNMAP: Path = Path {
    name: "munmap",
    steps: &[
        Step {
            name: "mmap_write_lock",
            run: mmap_write_lock,
        },
        Step {
            name: "unmap_vmas",
            run: |_, l, _| Flow::Call(PathId::ZapPageRange, *l),
        },
        Step {
            name: "mmap_write_unlock",
            run: remove_vmas,
        },
        Step {
            name: "fput",
            run: fput,
        },
        Step {
            name: "next file",
            run: |_, _, _| Flow::To("fput"),
        },
    ],
};
pub(super) static ZAP_PAGE_RANGE: Path = Path {
    name: "zap_page_range",
    steps: &[
        Step {
            name: "mmu_notifier_invalidate_range_start",
            run: |_, l, _| Flow::Call(PathId::NotifierStart, notifier::range(l)),
        },
        Step {
            name: "zap_pte_range",
            run: zap_pte_range,
        },
        Step {
            name: "free_page_and_swap_cache",
            run: |_, l, _| Flow::Call(PathId::FreePageAndSwapCache, *l),
        },
        Step {
            name: "next pte",
            run: |_, _, _| Flow::To("zap_pte_range"),
        },
        Step {
            name: "mmu_notifier_invalidate_range_end",
            run: |_, l, _| Flow::Call(PathId::NotifierEnd, notifier::range(l)),
        },
    ],
};

pub(super) fn mmap_write_lock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if host.mm_mut(l.mm).mmap_lock.try_write() {
        Flow::Next
    } else {
        Flow::Blocked
    }
}

/// The VMAs go; with `MAP_FIXED` the new one is put in their place under the same lock.
fn remove_vmas(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let pages = (l.end - l.va) / PAGE_SIZE;
    host.mm_mut(l.mm).remove(l.va, pages);
    host.hugetlb_unreserve_pages();
    note!(
        host,
        [Key::page(l.mm, l.va)],
        "{pages} pages unmapped from {}",
        host.place(l.mm, l.va)
    );
    host.mm_mut(l.mm).mmap_lock.write_unlock();
    if let Op::Replace(mm, va, spec) = io.op
        && let Err(errno) = host.mmap_region(mm, va, spec)
    {
        return Flow::Return(errno.ret());
    }
    Flow::Next
}

/// A file whose last mapping went, and which nobody can open again, goes too.
pub(super) fn fput(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let gone = (0..).map(FileId).zip(&host.files).find(|(id, file)| {
        let unused = !file.open && !file.cache.is_empty();
        unused && !host.is_mapped(*id)
    });
    let Some((file, _)) = gone else {
        return Flow::Return(0);
    };
    Flow::Call(
        PathId::ShmemUndoRange,
        Locals {
            file,
            file_page: 0,
            file_end: u64::MAX,
            ..*l
        },
    )
}

/// Clears the next PTE of the range. A frame whose last reference goes stays in `l.pfn`, the slot it was bound to (or the
/// swap PTE named) in `l.entry`.
fn zap_pte_range(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let private = |pte: &Pte| match pte {
        Pte::Present { pfn, .. } | Pte::Migration { pfn, .. } | Pte::Hwpoison(pfn) => {
            !matches!(host.page(*pfn).mapping, PageMapping::File(..))
        }
        Pte::Swap(_) => true,
    };
    let next = host
        .mm(l.mm)
        .ptes
        .range(l.va.vpn()..l.end.vpn())
        .find(|(_, pte)| !(l.skip_cows && private(pte)))
        .map(|(vpn, pte)| (*vpn, *pte));
    let Some((vpn, pte)) = next else {
        if !l.skip_cows {
            host.ledger.discarded(l.mm, l.va, l.end);
        }
        return Flow::To("mmu_notifier_invalidate_range_end");
    };
    let va = Va(vpn * PAGE_SIZE);
    host.mm_mut(l.mm).clear_pte(va);
    (l.pfn, l.entry) = (None, None);
    match pte {
        Pte::Present {
            pfn,
            special: false,
            dirty,
            ..
        } => {
            note!(
                host,
                [Key::page(l.mm, va), Key::Frame(pfn)],
                "{} (pfn {:#x}) discarded",
                host.place(l.mm, va),
                pfn.0
            );
            let page = host.page_mut(pfn);
            page.refcount -= 1;
            page.flags
                .set(PageFlags::DIRTY, page.flags.contains(PageFlags::DIRTY) || dirty);
            if host.page(pfn).refcount == 0 {
                (l.pfn, l.entry) = (Some(pfn), host.page(pfn).swap);
            }
        }
        Pte::Present { .. } | Pte::Migration { .. } | Pte::Hwpoison(_) => {}
        Pte::Swap(entry) => {
            note!(
                host,
                [Key::page(l.mm, va), Key::Slot(entry)],
                "{} (slot {entry}) discarded",
                host.place(l.mm, va)
            );
            l.entry = Some(entry);
            host.swap.put(entry);
            l.pfn = host.swap.lookup(entry).filter(|pfn| host.page(*pfn).refcount == 0);
        }
    }
    Flow::Next
}

impl Host {
    /// Frames a new mapping of that kind can still get; anonymous memory takes its frames when it is touched.
    pub(crate) fn frames_left(&self, backing: Backing) -> u64 {
        match backing {
            Backing::Anon | Backing::File(_) | Backing::Hugetlb => u64::MAX,
            Backing::ZoneDevice => self.zone_device.free_pages(),
            Backing::Mmio => self.mmio.free_pages(),
        }
    }

    /// `VM_MTE_ALLOWED`: anonymous memory (`arch_calc_vm_flag_bits`) and shmem (`shmem_mmap`) may have tags, huge
    /// pages by K32.
    pub(crate) fn mte_allowed(&self, backing: Backing) -> bool {
        match backing {
            Backing::Anon => true,
            Backing::File(file) if self.file(file).kind == FileKind::Shmem => true,
            Backing::File(file) if self.file(file).kind != FileKind::Hugetlb => false,
            Backing::File(_) | Backing::Hugetlb => self.policy.hugetlb_mte != HugetlbMte::Refused,
            Backing::ZoneDevice | Backing::Mmio => false,
        }
    }

    /// `mmap_region`: a new VMA over free addresses.
    pub(crate) fn mmap_region(&mut self, mm: MmId, va: Va, spec: MapSpec) -> Result<(), Errno> {
        let MapSpec {
            pages,
            pgoff,
            prot,
            shared,
            ..
        } = spec;
        // MAP_SHARED | MAP_ANONYMOUS: a shmem file of its own (shmem_zero_setup).
        let backing = match spec.backing {
            Backing::Hugetlb => Backing::File(self.hugetlb_file_setup(pages)?),
            Backing::Anon if shared => Backing::File(self.create_file(FileKind::Shmem, pages, false)),
            other => other,
        };
        let mut flags = VmFlags::empty();
        flags.set(VmFlags::MTE_ALLOWED, self.mte_allowed(backing));
        flags.set(VmFlags::MTE, prot.contains(Prot::MTE));
        flags.set(VmFlags::SHARED, shared);
        flags.set(VmFlags::PFNMAP, backing == Backing::Mmio);
        if flags.contains(VmFlags::MTE) && !flags.contains(VmFlags::MTE_ALLOWED) {
            return Err(Errno::Einval);
        }
        let offset = match backing {
            Backing::Anon | Backing::Hugetlb => Some(0),
            Backing::File(_) => Some(pgoff),
            Backing::ZoneDevice => self.zone_device.alloc_unused(pages).map(|pfn| pfn.0),
            Backing::Mmio => self.mmio.alloc_unused(pages).map(|pfn| pfn.0),
        };
        let offset = offset.ok_or(Errno::Enomem)?;
        let end = va.vpn() + pages;
        self.mm_mut(mm).insert(
            va,
            Vma {
                end,
                prot: prot - Prot::MTE,
                flags,
                backing,
                offset,
            },
        );
        note!(
            self,
            [Key::page(mm, va)],
            "{pages} pages of {backing} mapped at {}",
            self.place(mm, va)
        );
        Ok(())
    }
}
