//! fork and exit: address spaces begin and end.
//!
//! **Models** `dup_mmap` (kernel/fork.c) with `vma_needs_copy` and `copy_pte_range` (mm/memory.c): private pages become
//! shared read-only in both processes, swap entries are counted once more, and file mappings without private copies start
//! empty; and `exit_mmap`. **Leaves out** pinned pages, `MADV_DONTFORK`, and the process' other resources.
//!
//! **Keeps**: a notifier is told before a page of the parent becomes read-only.

use tagvisor_arch::{PAGE_SIZE, Va};

use crate::ids::MmId;
use crate::log::{Key, note};
use crate::mm::{Pte, VmFlags, Vma};
use crate::ops::Op;
use crate::page::{PageFlags, PageMapping};
use crate::paths::{notifier, zap};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};

pub(super) static DUP_MM: Path = Path {
    name: "dup_mmap",
    steps: &[
        Step {
            name: "mmap_write_lock",
            run: zap::mmap_write_lock,
        },
        Step {
            name: "vma_needs_copy",
            run: vma_needs_copy,
        },
        Step {
            name: "mmu_notifier_invalidate_range_start",
            run: |_, l, _| Flow::Call(PathId::NotifierStart, notifier::range(l)),
        },
        Step {
            name: "copy_pte_range",
            run: copy_pte_range,
        },
        Step {
            name: "mmu_notifier_invalidate_range_end",
            run: |_, l, _| Flow::Call(PathId::NotifierEnd, notifier::range(l)),
        },
        Step {
            name: "next vma",
            run: |_, l, _| {
                l.va = l.end;
                Flow::To("vma_needs_copy")
            },
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
pub(super) static EXIT_MMAP: Path = Path {
    name: "exit_mmap",
    steps: &[
        Step {
            name: "mmap_write_lock",
            run: zap::mmap_write_lock,
        },
        Step {
            name: "unmap_vmas",
            run: |_, l, _| Flow::Call(PathId::ZapPageRange, *l),
        },
        Step {
            name: "free_pgtables",
            run: |host, l, _| {
                let mm = host.mm_mut(l.mm);
                mm.vmas.clear();
                mm.mmap_lock.write_unlock();
                host.hugetlb_unreserve_pages();
                Flow::Next
            },
        },
        Step {
            name: "fput",
            run: zap::fput,
        },
        Step {
            name: "next file",
            run: |_, _, _| Flow::To("fput"),
        },
    ],
};

fn child_of(io: &Io) -> MmId {
    match io.op {
        Op::Fork(_, child) => child,
        _ => unreachable!("entered for Op::Fork only"),
    }
}

/// Gives the child the next VMA; its page table is copied only where it cannot be made again by faults.
fn vma_needs_copy(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let next = host.mm(l.mm).vmas.range(l.va.vpn()..).next().map(|(s, v)| (*s, *v));
    let Some((start, vma)) = next else {
        return Flow::To("mmap_write_unlock");
    };
    (l.va, l.end) = (Va(start * PAGE_SIZE), Va(vma.end * PAGE_SIZE));
    // dup_userfaultfd without UFFD_FEATURE_EVENT_FORK: nobody brings the child's pages.
    let flags = vma.flags.difference(VmFlags::UFFD_MISSING);
    host.mm_mut(child_of(io)).insert(l.va, Vma { flags, ..vma });
    if vma.flags.intersects(VmFlags::ANON_VMA | VmFlags::PFNMAP) {
        Flow::Next
    } else {
        Flow::To("next vma")
    }
}

/// Copies the next PTE that the child has not; the parent's becomes read-only with it.
fn copy_pte_range(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let child = child_of(io);
    let missing = |vpn: &u64| !host.mm(child).ptes.contains_key(vpn);
    let next = host.mm(l.mm).ptes.range(l.va.vpn()..l.end.vpn());
    let Some((vpn, pte)) = next.map(|(v, p)| (*v, *p)).find(|(vpn, _)| missing(vpn)) else {
        return Flow::Next;
    };
    let va = Va(vpn * PAGE_SIZE);
    let shared = host
        .mm(l.mm)
        .vma(va)
        .is_some_and(|(_, v)| v.flags.contains(VmFlags::SHARED));
    let copied = match pte {
        Pte::Swap(entry) => {
            host.swap.duplicate(entry);
            host.ledger.forked(l.mm, child, va);
            pte
        }
        Pte::Migration { pfn, write, dirty, .. } => {
            if !matches!(host.page(pfn).mapping, PageMapping::File(..)) {
                host.ledger.forked(l.mm, child, va);
            }
            Pte::Migration {
                pfn,
                write: write && shared,
                dirty,
                exclusive: false,
            }
        }
        Pte::Hwpoison(_) => pte,
        Pte::Present {
            pfn,
            write,
            dirty,
            tagged,
            special,
        } => {
            if host.is_counted(pfn) {
                let page = host.page_mut(pfn);
                page.refcount += 1;
                page.flags.remove(PageFlags::ANON_EXCLUSIVE);
                if !matches!(page.mapping, PageMapping::File(..)) {
                    host.ledger.forked(l.mm, child, va);
                }
            }
            Pte::Present {
                pfn,
                write: write && shared,
                dirty: dirty && !shared,
                tagged,
                special,
            }
        }
    };
    if !shared {
        host.mm_mut(l.mm).set_pte(va, copied);
    }
    host.mm_mut(child).set_pte(va, copied);
    note!(
        host,
        [Key::page(l.mm, va), Key::page(child, va)],
        "{} shared with {}, read-only",
        host.place(l.mm, va),
        host.mm(child).name
    );
    Flow::To("copy_pte_range")
}
