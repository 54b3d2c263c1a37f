//! `UFFDIO_MOVE`: user space brings a page by giving up its own.
//!
//! **Models** `move_pages` and `move_pages_pte` (mm/userfaultfd.c) of one page: both mappings private, anonymous, writable and of
//! the same protection (`vm_page_prot`, so both or neither with `PROT_MTE`), the source exclusive to the process; the page
//! itself, or its swap entry, goes to where it was missing, with all it has: data, tags, flags, saved tags. A huge page is
//! split first. **Leaves out** moving a huge page whole, locked memory, and who ended up with a slot to himself after a fork
//! (a count of one is taken as exclusive).
//!
//! **Keeps**: at every step the page is at one of the two addresses, and what showed it to a guest is gone before it moves.

use tagvisor_arch::{PAGE_SIZE, Pfn, Va};

use crate::errno::Errno;
use crate::log::{Key, note};
use crate::mm::{Backing, Prot, Pte, VmFlags, Vma};
use crate::page::{PageFlags, PageMapping};
use crate::paths::outline::outline;
use crate::paths::{fault, split};
use crate::policy::UffdioMove;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, PathId};

outline! {
    /// 6.8 and later. `l.va` is the destination, `l.other` names the source.
    pub(super) UFFDIO_MOVE = "move_pages" {
        "mmap_read_lock" => fault::mmap_read_lock,
        "validate_move_areas" => validate_move_areas,
        "split_folio" => split_folio,
        "move_pages_pte" => move_pages_pte,
        "mmu_notifier_invalidate_range_start" => |_, l, _| Flow::Call(PathId::NotifierStart, source_range(l)),
        "double_pt_lock" => move_pte,
        "mmu_notifier_invalidate_range_end" => |_, l, _| Flow::Call(PathId::NotifierEnd, source_range(l)),
        "mmap_read_unlock" => mmap_read_unlock,
    }
}

fn source(l: &Locals) -> Va {
    l.other.1
}

fn source_range(l: &Locals) -> Locals {
    Locals {
        va: source(l),
        end: source(l) + PAGE_SIZE,
        index: 0,
        ..*l
    }
}

fn refuse(l: &mut Locals, errno: Errno) -> Flow {
    l.seq = errno.ret().unsigned_abs();
    Flow::To("mmap_read_unlock")
}

/// `vma_move_compatible`, and that its pages can be the process' alone.
fn may_move(vma: &Vma) -> bool {
    vma.backing == Backing::Anon
        && !vma.flags.intersects(VmFlags::SHARED | VmFlags::PFNMAP)
        && vma.prot.contains(Prot::WRITE)
}

/// -EINVAL where there is no such ioctl, and for mappings that differ in protection, `PROT_MTE` included; -ENOENT for none.
fn validate_move_areas(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    l.seq = 0;
    if host.policy.uffdio_move == UffdioMove::Absent {
        return refuse(l, Errno::Einval);
    }
    let vma = |va| host.mm(l.mm).vma(va).map(|(_, vma)| *vma);
    let (Some(from), Some(to)) = (vma(source(l)), vma(l.va)) else {
        return refuse(l, Errno::Enoent);
    };
    let access = Prot::READ | Prot::WRITE;
    let same =
        from.prot & access == to.prot & access && from.flags.contains(VmFlags::MTE) == to.flags.contains(VmFlags::MTE);
    if !same || !may_move(&from) || !may_move(&to) || !to.flags.contains(VmFlags::UFFD_MISSING) {
        return refuse(l, Errno::Einval);
    }
    let dst = *l;
    host.anon_vma_prepare(&dst);
    Flow::Next
}

fn split_folio(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    match host.mm(l.mm).pte(source(l)) {
        Some(Pte::Present {
            pfn, special: false, ..
        }) => split::split_first(host, l, Some(pfn)),
        _ => Flow::Next,
    }
}

/// Why the page cannot move now, if it cannot.
fn unmovable(host: &Host, l: &Locals) -> Option<Errno> {
    if host.mm(l.mm).pte(l.va).is_some() {
        return Some(Errno::Eexist);
    }
    match host.mm(l.mm).pte(source(l)) {
        None => Some(Errno::Enoent),
        Some(Pte::Hwpoison(_)) => Some(Errno::Efault),
        Some(Pte::Present { special: true, .. } | Pte::Migration { .. }) => None,
        Some(Pte::Present { pfn, .. }) => {
            let alone = host.has_flag(pfn, PageFlags::ANON_EXCLUSIVE) && host.mapcount(pfn) == 1;
            (!alone || host.is_thp(pfn)).then_some(Errno::Ebusy)
        }
        Some(Pte::Swap(entry)) => (host.swap.count(entry) != 1).then_some(Errno::Ebusy),
    }
}

/// The page behind the source, if it is in memory: mapped, or in the swap cache.
fn folio_of(host: &Host, l: &Locals) -> Option<Pfn> {
    match host.mm(l.mm).pte(source(l)) {
        Some(Pte::Present {
            pfn, special: false, ..
        }) => Some(pfn),
        Some(Pte::Swap(entry)) => host.swap.lookup(entry),
        _ => None,
    }
}

/// -EEXIST: something is there; -ENOENT: there is nothing to move; -EBUSY: others have it too. Then the page's lock is
/// waited for, or the end of its migration.
fn move_pages_pte(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if let Some(errno) = unmovable(host, l) {
        return refuse(l, errno);
    }
    let migrates = matches!(host.mm(l.mm).pte(source(l)), Some(Pte::Migration { .. }));
    let folio = folio_of(host, l);
    if migrates || folio.is_some_and(|pfn| host.has_flag(pfn, PageFlags::LOCKED)) {
        return Flow::Blocked;
    }
    if let Some(pfn) = folio {
        host.set_flag(pfn, PageFlags::LOCKED, true);
    }
    l.pfn = folio;
    Flow::Next
}

/// Under both page table locks: the entry leaves the one place and stands in the other. The page's tags were initialised
/// when it was mapped; `set_pte_at` finds it flagged.
fn move_pte(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (from, to) = (source(l), l.va);
    let changed = unmovable(host, l).or_else(|| (folio_of(host, l) != l.pfn).then_some(Errno::Eagain));
    if let Some(pfn) = l.pfn {
        host.set_flag(pfn, PageFlags::LOCKED, false);
    }
    if let Some(errno) = changed {
        l.seq = errno.ret().unsigned_abs();
        return Flow::Next;
    }
    let pte = host.mm_mut(l.mm).clear_pte(from).expect("there is something to move");
    let pte = match pte {
        Pte::Present {
            pfn,
            tagged,
            special: false,
            ..
        } => Pte::Present {
            pfn,
            write: true,
            dirty: true,
            tagged,
            special: false,
        },
        other => other,
    };
    if let Some(pfn) = l.pfn {
        host.page_mut(pfn).mapping = PageMapping::Anon(to);
        host.page_mut(pfn).flags.remove(PageFlags::LAZYFREE);
    }
    host.mm_mut(l.mm).set_pte(to, pte);
    host.mm_mut(l.mm).userfaults.remove(&to);
    host.ledger.moved(l.mm, from, to);
    note!(
        host,
        [Key::page(l.mm, from), Key::page(l.mm, to)],
        "what is at {} moves to {}",
        host.place(l.mm, from),
        host.place(l.mm, to)
    );
    Flow::Next
}

fn mmap_read_unlock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    host.mm_mut(l.mm).mmap_lock.read_unlock();
    match l.seq {
        0 => Flow::Return(0),
        errno => Flow::Return(-errno.cast_signed()),
    }
}
