//! mprotect: `PROT_MTE` comes, never goes.
//!
//! **Models** `mprotect_fixup` and `change_pte_range` (mm/mprotect.c): mmap lock for write, notifier, and `set_pte_at` of the
//! new protection, which initialises the tags of a page that becomes tagged (`mte_sync_tags`). `VM_MTE` is sticky.

use tagvisor_arch::{PAGE_SIZE, Va};

use crate::errno::Errno;
use crate::hugetlb::HPAGE_SIZE;
use crate::log::{Key, note};
use crate::mm::{Prot, Pte, VmFlags, Vma};
use crate::ops::Op;
use crate::page::PageFlags;
use crate::paths::pte::{self, Old};
use crate::paths::{notifier, ptl};
use crate::policy::HugeZero;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};
use crate::thp::pmd_address;

pub(super) static MPROTECT: Path = Path {
    name: "mprotect",
    steps: &[
        Step {
            name: "mmap_write_lock",
            run: mmap_write_lock,
        },
        Step {
            name: "mprotect_fixup",
            run: mprotect_fixup,
        },
        Step {
            name: "mmu_notifier_invalidate_range_start",
            run: |_, l, _| Flow::Call(PathId::NotifierStart, notifier::range(l)),
        },
        Step {
            name: "change_pte_range",
            run: change_pte_range,
        },
        Step {
            name: "ptep_modify_prot_commit",
            run: commit_pte,
        },
        Step {
            name: "mmu_notifier_invalidate_range_end",
            run: |_, l, _| Flow::Call(PathId::NotifierEnd, notifier::range(l)),
        },
        Step {
            name: "mmap_write_unlock",
            run: |host, l, _| {
                host.mm_mut(l.mm).mmap_lock.write_unlock();
                Flow::Return(0)
            },
        },
    ],
};

fn mmap_write_lock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if !host.mm_mut(l.mm).mmap_lock.try_write() {
        return Flow::Blocked;
    }
    l.index = 0;
    Flow::Next
}

fn wanted_prot(io: &Io) -> Prot {
    match io.op {
        Op::Mprotect(_, _, _, prot) => prot,
        _ => unreachable!("mprotect is entered for Op::Mprotect only"),
    }
}

fn mprotect_fixup(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let (prot, pages) = (wanted_prot(io), (l.end - l.va) / PAGE_SIZE);
    let mm = host.mm_mut(l.mm);
    let refused = if !mm.fully_mapped(l.va, pages) {
        Some(Errno::Enomem)
    } else if prot.contains(Prot::MTE)
        && mm
            .vmas_in(l.va, pages)
            .any(|(_, v)| !v.flags.contains(VmFlags::MTE_ALLOWED))
    {
        Some(Errno::Einval)
    } else {
        None
    };
    if let Some(errno) = refused {
        mm.mmap_lock.write_unlock();
        return Flow::Return(errno.ret());
    }
    let protected = |vma: &Vma| Vma {
        prot: prot - Prot::MTE,
        flags: vma.flags
            | if prot.contains(Prot::MTE) {
                VmFlags::MTE
            } else {
                VmFlags::empty()
            },
        ..*vma
    };
    if mm.vmas_in(l.va, pages).all(|(_, vma)| protected(vma) == *vma) {
        return Flow::To("mmap_write_unlock");
    }
    mm.split(l.va, pages);
    for (_, vma) in mm.vmas.range_mut(l.va.vpn()..l.end.vpn()) {
        *vma = protected(vma);
    }
    mm.merge(l.va, pages);
    Flow::Next
}

/// The next page of the range whose PTE is present; `l.index` counts pages done.
fn change_pte_range(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let from = l.va.vpn() + u64::from(l.index);
    let next = host
        .mm(l.mm)
        .ptes
        .range(from..l.end.vpn())
        .find(|(_, pte)| matches!(pte, Pte::Present { .. }));
    let Some((vpn, Pte::Present { pfn, special, .. })) = next.map(|(v, p)| (*v, *p)) else {
        return Flow::To("mmu_notifier_invalidate_range_end");
    };
    l.index = u32::try_from(vpn - l.va.vpn()).expect("checked by the caller");
    l.pfn = Some(pfn);
    let va = Va(vpn * PAGE_SIZE);
    let huge_zero = host.has_flag(pfn, PageFlags::HUGE_ZERO);
    if huge_zero && (pmd_address(va) < l.va || pmd_address(va) + HPAGE_SIZE > l.end) {
        // A part of the PMD: it is split.
        return Flow::Call(PathId::SplitHugeZeroPagePmd, Locals { va, ..*l });
    }
    ptl::lock(host, io, l.mm, va);
    if special && !(huge_zero && host.policy.huge_zero == HugeZero::Synced) {
        return Flow::Next;
    }
    let vma = *host.mm(l.mm).vma(va).expect("mmap_lock is held").1;
    pte::sync_tags(host, &Locals { va, ..*l }, &vma, Old::Present)
}

fn commit_pte(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    ptl::unlock(host, io);
    let va = l.va + u64::from(l.index) * PAGE_SIZE;
    let vma = host.mm(l.mm).vma(va).map(|(_, v)| *v).expect("mmap_lock is held");
    if let Some(Pte::Present {
        pfn,
        write,
        dirty,
        special,
        ..
    }) = host.mm(l.mm).pte(va)
    {
        let write = write && vma.prot.contains(Prot::WRITE);
        let tagged = vma.flags.contains(VmFlags::MTE);
        host.mm_mut(l.mm).set_pte(
            va,
            Pte::Present {
                pfn,
                write,
                dirty,
                tagged,
                special,
            },
        );
        note!(
            host,
            [Key::page(l.mm, va), Key::Frame(pfn)],
            "PTE of {} changed, tagged {tagged}",
            host.place(l.mm, va)
        );
    }
    l.index += 1;
    Flow::To("change_pte_range")
}
