//! userfaultfd: user space brings the pages.
//!
//! **Models** `handle_userfault` (fs/userfaultfd.c): a fault on a page that is missing in a registered mapping drops
//! `mmap_lock`, sleeps until the page is there, and is tried again. Alone, with nobody to bring it, the fault is SIGBUS or
//! -EFAULT, as with `UFFD_FEATURE_SIGBUS`. And `UFFDIO_COPY` (`mfill_atomic`, mm/userfaultfd.c), which fills data only: the
//! tags of the page are what `set_pte_at` makes of them. **Leaves out** shmem and huge pages, write protection, minor
//! faults, events.
//!
//! **Keeps**: a page that user space brings is mapped whole or not at all.

use tagvisor_arch::{Pfn, Va};

use crate::errno::Errno;
use crate::ids::MmId;
use crate::log::{Key, note};
use crate::mm::{Backing, VmFlags};
use crate::ops::Op;
use crate::page::PageMapping;
use crate::paths::outline::outline;
use crate::paths::pte::{self, Old};
use crate::paths::{fault, gup};
use crate::state::Host;
use crate::step::{Flow, Io, Locals};

outline! {
    /// Every version.
    pub(super) UFFDIO_COPY = "mfill_atomic" {
        "mmap_read_lock" => gup::mmap_read_lock,
        "find_dst_vma" => find_dst_vma,
        "mfill_atomic_pte_copy" => mfill_atomic_pte_copy,
        "mte_sync_tags" => sync_tags,
        "mfill_atomic_install_pte" => install_pte,
        "mmap_read_unlock" => mmap_read_unlock,
    }
}

/// The message is on its way to user space, and the lock is dropped while it works on it.
pub(super) fn handle_userfault(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    host.mm_mut(l.mm).mmap_lock.read_unlock();
    host.mm_mut(l.mm).userfaults.insert(l.va.page());
    note!(
        host,
        [Key::page(l.mm, l.va)],
        "{} is missing: user space is asked for it",
        host.place(l.mm, l.va)
    );
    Flow::Next
}

/// Sleeps until the page is there, or the mapping is not what it was.
pub(super) fn schedule(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if host.is_missing(l) && !l.alone {
        Flow::Blocked
    } else {
        Flow::Next
    }
}

/// The fault is tried again, with the lock that its caller had; what was asked of nobody fails.
pub(super) fn retry_fault(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    match gup::mmap_read_lock(host, l, io) {
        Flow::Next if host.is_missing(l) => {
            l.out = fault::BUS;
            Flow::Return(Errno::Efault.ret())
        }
        Flow::Next => Flow::To("lock_mm_and_find_vma"),
        blocked => blocked,
    }
}

fn find_dst_vma(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let registered = host
        .mm(l.mm)
        .vma(l.va)
        .is_some_and(|(_, vma)| vma.flags.contains(VmFlags::UFFD_MISSING));
    if registered {
        return Flow::Next;
    }
    l.ret = Errno::Enoent.ret();
    Flow::To("mmap_read_unlock")
}

/// A page with the data. It is not allocated with `__GFP_ZEROTAGS`: its tags stay as they were.
fn mfill_atomic_pte_copy(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let Op::UffdCopy { data, .. } = &io.op else {
        unreachable!("entered for Op::UffdCopy only")
    };
    let Some(pfn) = host.alloc_page(PageMapping::Anon(l.va.page())) else {
        l.ret = Errno::Enomem.ret();
        return Flow::To("mmap_read_unlock");
    };
    host.mem.zero_page(pfn);
    host.mem.write(pfn.base(), data);
    l.pfn = Some(pfn);
    Flow::Next
}

fn sync_tags(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (_, vma) = host.mm(l.mm).vma(l.va).expect("mmap_lock is held");
    pte::sync_tags(host, l, vma, Old::None)
}

/// -EEXIST when somebody was faster.
fn install_pte(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn: Pfn = l.pfn.expect("allocated");
    l.ret = 0;
    if host.mm(l.mm).pte(l.va).is_some() {
        host.drop_unmapped_page(pfn);
        l.ret = Errno::Eexist.ret();
        return Flow::Next;
    }
    host.map_new_page(l, pfn);
    host.mm_mut(l.mm).userfaults.remove(&l.va);
    note!(
        host,
        [Key::page(l.mm, l.va), Key::Frame(pfn)],
        "pfn {:#x} brought by user space mapped at {}",
        pfn.0,
        host.place(l.mm, l.va)
    );
    Flow::Next
}

fn mmap_read_unlock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    host.mm_mut(l.mm).mmap_lock.read_unlock();
    Flow::Return(l.ret)
}

impl Host {
    /// `userfaultfd_missing`: nothing is mapped where user space is to bring the pages.
    pub(super) fn is_missing(&self, l: &Locals) -> bool {
        let mm = self.mm(l.mm);
        let registered = mm
            .vma(l.va)
            .is_some_and(|(_, vma)| vma.flags.contains(VmFlags::UFFD_MISSING));
        registered && mm.pte(l.va).is_none()
    }

    /// `UFFDIO_REGISTER` for missing pages; anonymous private memory only.
    pub(crate) fn userfaultfd_register(&mut self, mm: MmId, va: Va, pages: u64) -> Result<(), Errno> {
        let mm = self.mm_mut(mm);
        if !mm.fully_mapped(va, pages) || mm.vmas_in(va, pages).any(|(_, vma)| vma.backing != Backing::Anon) {
            return Err(Errno::Einval);
        }
        mm.split(va, pages);
        let first = va.vpn();
        for (_, vma) in mm.vmas.range_mut(first..first + pages) {
            vma.flags |= VmFlags::UFFD_MISSING;
        }
        Ok(())
    }
}
