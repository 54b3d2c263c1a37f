//! `madvise`: which advices exist, and who refuses them.
//!
//! **Models** `madvise_vma_behavior` (mm/madvise.c): the advice's checks VMA by VMA, in the order of the addresses, before
//! the path that carries it out (`paths/madvise.rs`). **Leaves out** advices without an effect on tags or residency
//! (`MADV_DONTFORK` and others), and `MADV_COLLAPSE` of files.
//!
//! **Keeps**: an advice that is refused changes nothing.

use tagvisor_arch::Va;

use crate::errno::Errno;
use crate::file::FileKind;
use crate::ids::MmId;
use crate::machine::Machine;
use crate::mm::{Backing, Prot, VmFlags, Vma};
use crate::ops::Op;
use crate::state::Host;

macro_rules! advices {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// An advice: `MADV_` and its name in upper case.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Advice { $($(#[$doc])* $variant,)* }

        impl Advice {
            /// Every name, in lower case.
            pub const NAMES: &[&str] = &[$($name,)*];

            /// The advice of that lower-case name.
            pub fn parse(name: &str) -> Option<Self> { match name { $($name => Some(Self::$variant),)* _ => None } }
        }
    };
}

advices! {
    /// The content is given up; private memory reads as zeros afterwards.
    Dontneed = "dontneed",
    /// The content may be given up unless it is written first.
    Free = "free",
    /// Not used soon.
    Cold = "cold",
    /// To be paged out now.
    Pageout = "pageout",
    /// A hole is punched in the file.
    Remove = "remove",
    /// KSM may merge.
    Mergeable = "mergeable",
    /// KSM must not merge.
    Unmergeable = "unmergeable",
    /// Huge pages wanted.
    Hugepage = "hugepage",
    /// Huge pages not wanted.
    Nohugepage = "nohugepage",
    /// Used soon: swapped pages are read ahead.
    Willneed = "willneed",
    /// Every page is faulted in for reading.
    PopulateRead = "populate_read",
    /// Every page is faulted in for writing.
    PopulateWrite = "populate_write",
    /// The page moves, and its frame is never used again.
    SoftOffline = "soft_offline",
    /// The page is poisoned, as if its memory had failed.
    Hwpoison = "hwpoison",
    /// Small pages are collapsed into a huge one.
    Collapse = "collapse",
}

impl Machine {
    /// `madvise`: -ENOMEM for a hole (after the mapped parts were advised, as the kernel does), else what the advice says
    /// of the mapping.
    pub fn madvise(&mut self, mm: MmId, va: Va, pages: u64, advice: Advice) -> Result<(), Errno> {
        Self::range_ok(va, pages)?;
        let end = va + pages * tagvisor_arch::PAGE_SIZE;
        let parts: Vec<(Va, u64)> = self
            .host
            .mm(mm)
            .vmas_in(va, pages)
            .map(|(start, vma)| {
                let (from, to) = (start.max(va.vpn()), vma.end.min(end.vpn()));
                (Va(from * tagvisor_arch::PAGE_SIZE), to - from)
            })
            .collect();
        let hole = !self.host.mm(mm).fully_mapped(va, pages);
        if hole && matches!(advice, Advice::PopulateRead | Advice::PopulateWrite) {
            return Err(Errno::Enomem);
        }
        for (start, count) in parts {
            let vma = *self.host.mm(mm).vma(start).expect("one of its VMAs").1;
            self.host.madvise_refused(&vma, advice).map_or(Ok(()), Err)?;
            match advice {
                Advice::Mergeable => self.host.ksm_madvise(mm, start, count, true),
                Advice::Unmergeable => {
                    self.syscall(Op::Madvise(mm, start, count, advice))?;
                    self.host.ksm_madvise(mm, start, count, false);
                }
                Advice::Hugepage => self.host.hugepage_madvise(mm, start, count, true),
                Advice::Nohugepage => self.host.hugepage_madvise(mm, start, count, false),
                Advice::Cold => {}
                _ => {
                    self.syscall(Op::Madvise(mm, start, count, advice))?;
                }
            }
        }
        match advice {
            // madvise_inject_error goes page by page, with get_user_pages.
            Advice::SoftOffline | Advice::Hwpoison if hole => Err(Errno::Efault),
            _ if hole => Err(Errno::Enomem),
            _ => Ok(()),
        }
    }
}

impl Host {
    /// Why an advice is refused for a mapping.
    fn madvise_refused(&self, vma: &Vma, advice: Advice) -> Option<Errno> {
        let pfnmap = vma.flags.contains(VmFlags::PFNMAP);
        let shared = vma.flags.contains(VmFlags::SHARED);
        let file = match vma.backing {
            Backing::File(file) => Some(self.file(file).kind),
            _ => None,
        };
        match advice {
            // can_madv_lru_vma; madvise_dontneed_free_valid_vma
            Advice::Cold | Advice::Pageout | Advice::Dontneed if pfnmap => Some(Errno::Einval),
            Advice::Cold | Advice::Pageout if self.is_hugetlb(vma) => Some(Errno::Einval),
            Advice::Free if pfnmap || vma.backing != Backing::Anon => Some(Errno::Einval),
            Advice::PopulateRead | Advice::PopulateWrite => {
                let need = if advice == Advice::PopulateWrite {
                    Prot::WRITE
                } else {
                    Prot::READ
                };
                (pfnmap || !vma.prot.contains(need)).then_some(Errno::Einval)
            }
            Advice::Remove => match file {
                None => Some(Errno::Einval),
                Some(_) if !shared => Some(Errno::Eacces),
                Some(FileKind::Ramfs | FileKind::GuestMemfd) => Some(Errno::Eopnotsupp),
                Some(FileKind::Shmem | FileKind::Disk | FileKind::Hugetlb) => None,
            },
            Advice::Collapse if vma.backing != Backing::Anon => Some(Errno::Einval),
            _ => None,
        }
    }

    /// `hugepage_madvise`: only the flag.
    fn hugepage_madvise(&mut self, mm: MmId, va: Va, pages: u64, on: bool) {
        let mm = self.mm_mut(mm);
        mm.split(va, pages);
        for (_, vma) in mm.vmas.range_mut(va.vpn()..va.vpn() + pages) {
            vma.flags.set(VmFlags::HUGEPAGE, on);
        }
        mm.merge(va, pages);
    }

    /// `ksm_madvise`: only the flag; the scan does the rest. Shared and device memory and huge pages are left alone without
    /// an error.
    fn ksm_madvise(&mut self, mm: MmId, va: Va, pages: u64, on: bool) {
        let hugetlb = self.mm(mm).vma(va).is_some_and(|(_, vma)| self.is_hugetlb(vma));
        let mm = self.mm_mut(mm);
        mm.split(va, pages);
        for (_, vma) in mm.vmas.range_mut(va.vpn()..va.vpn() + pages) {
            let possible = !hugetlb && !vma.flags.intersects(VmFlags::SHARED | VmFlags::PFNMAP);
            vma.flags.set(VmFlags::MERGEABLE, on && possible);
        }
        mm.merge(va, pages);
    }
}
