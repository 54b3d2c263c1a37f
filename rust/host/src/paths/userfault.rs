//! userfaultfd: user space brings the pages.
//!
//! **Models** `handle_userfault` (fs/userfaultfd.c): a fault on a page that is missing in a registered mapping drops
//! `mmap_lock`, sleeps until the page is there, and is tried again. Alone, with nobody to bring it, the fault is SIGBUS or
//! -EFAULT, as with `UFFD_FEATURE_SIGBUS`. And `UFFDIO_COPY` (`mfill_atomic`, mm/userfaultfd.c), which fills data only: the
//! tags of the page are what `set_pte_at` makes of them. Of a shared mapping of shmem a page is missing when the page cache
//! has none, and what user space brings goes there (`shmem_mfill_atomic_pte`). **Leaves out** huge pages, write protection,
//! minor faults, events, and whose page of a file wakes whom: it wakes everybody who waits for it.
//!
//! **Keeps**: a page that user space brings is mapped whole or not at all.

use tagvisor_arch::{Pfn, Va};

use crate::errno::Errno;
use crate::file::{Cached, FileId, FileKind};
use crate::ids::MmId;
use crate::log::{Key, note};
use crate::mm::{Backing, Prot, Pte, VmFlags, Vma};
use crate::ops::Op;
use crate::page::{PageFlags, PageMapping};
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

/// A page with the data, in the page cache if it is shmem's. It is not allocated with `__GFP_ZEROTAGS`: its tags stay as they
/// were. -EFAULT beyond the end of a file, -EEXIST for a page it has.
fn mfill_atomic_pte_copy(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let Op::UffdCopy { data, .. } = &io.op else {
        unreachable!("entered for Op::UffdCopy only")
    };
    let shmem = host.shmem_place(l.mm, l.va).filter(|place| place.shared);
    let refused = shmem.and_then(|place| match (place.beyond_end, place.present) {
        (true, _) => Some(Errno::Efault),
        (_, true) => Some(Errno::Eexist),
        _ => None,
    });
    if let Some(errno) = refused {
        l.ret = errno.ret();
        return Flow::To("mmap_read_unlock");
    }
    let mapping = shmem.map_or(PageMapping::Anon(l.va.page()), |place| {
        PageMapping::File(place.file, place.index)
    });
    let Some(pfn) = host.alloc_page(mapping) else {
        l.ret = Errno::Enomem.ret();
        return Flow::To("mmap_read_unlock");
    };
    host.mem.zero_page(pfn);
    host.mem.write(pfn.base(), data);
    if let Some(place) = shmem {
        host.file_mut(place.file).cache.insert(place.index, Cached::Page(pfn));
        host.set_flag(pfn, PageFlags::LOCKED | PageFlags::DIRTY, true);
    }
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
    host.set_flag(pfn, PageFlags::LOCKED, false);
    if host.mm(l.mm).pte(l.va).is_some() {
        if let PageMapping::File(file, index) = host.page(pfn).mapping {
            host.file_mut(file).cache.remove(&index);
        }
        host.drop_unmapped_page(pfn);
        l.ret = Errno::Eexist.ret();
        return Flow::Next;
    }
    if let PageMapping::File(..) = host.page(pfn).mapping {
        host.map_file_page(l, pfn);
    } else {
        host.map_new_page(l, pfn);
    }
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

/// A page of a shmem file, as an address shows it.
#[derive(Clone, Copy)]
struct ShmemPlace {
    file: FileId,
    index: u64,
    /// The mapping is `MAP_SHARED`: what is brought is the file's.
    shared: bool,
    /// The page cache has it, or swap.
    present: bool,
    beyond_end: bool,
}

impl Host {
    /// `userfaultfd_missing`: nothing is mapped where user space is to bring the pages.
    pub(super) fn is_missing(&self, l: &Locals) -> bool {
        let mm = self.mm(l.mm);
        let registered = mm
            .vma(l.va)
            .is_some_and(|(_, vma)| vma.flags.contains(VmFlags::UFFD_MISSING));
        let elsewhere = self
            .shmem_place(l.mm, l.va)
            .is_some_and(|place| place.present || place.beyond_end);
        registered && mm.pte(l.va).is_none() && !elsewhere
    }

    /// What an address is of a shmem file.
    fn shmem_place(&self, mm: MmId, va: Va) -> Option<ShmemPlace> {
        let (start, vma) = self.mm(mm).vma(va)?;
        let Backing::File(file) = vma.backing else {
            return None;
        };
        let index = vma.offset + (va.vpn() - start);
        Some(ShmemPlace {
            file,
            index,
            shared: vma.flags.contains(VmFlags::SHARED),
            present: self.file(file).cache.contains_key(&index),
            beyond_end: index >= self.file(file).pages,
        })
    }

    /// The page that user space brought to a file is mapped, beside the page cache.
    fn map_file_page(&mut self, l: &Locals, pfn: Pfn) {
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
        self.page_mut(pfn).refcount += 1;
        self.lru_add(pfn);
    }

    /// May user space bring the pages of a mapping (`vma_can_userfault`)?
    fn vma_can_userfault(&self, vma: &Vma) -> bool {
        match vma.backing {
            Backing::Anon => true,
            Backing::File(file) => self.file(file).kind == FileKind::Shmem,
            _ => false,
        }
    }

    /// `UFFDIO_REGISTER` for missing pages: anonymous memory and shmem.
    pub(crate) fn userfaultfd_register(&mut self, mm: MmId, va: Va, pages: u64) -> Result<(), Errno> {
        let known = self.mm(mm);
        if !known.fully_mapped(va, pages) || known.vmas_in(va, pages).any(|(_, vma)| !self.vma_can_userfault(vma)) {
            return Err(Errno::Einval);
        }
        let mm = self.mm_mut(mm);
        mm.split(va, pages);
        let first = va.vpn();
        for (_, vma) in mm.vmas.range_mut(first..first + pages) {
            vma.flags |= VmFlags::UFFD_MISSING;
        }
        Ok(())
    }
}
