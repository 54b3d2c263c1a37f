//! A process address space: VMAs, page table entries, `mmap_lock`.
//!
//! **Models** `struct mm_struct` with VMAs that split at page boundaries, the VMA flags that decide about tags (`VM_MTE`
//! sticky, `VM_MTE_ALLOWED` set at mmap time for memory that may have tags), and the PTE kinds none, present, swap, migration and hwpoison.
//! **Leaves out** page-table pages (PTEs are values here; the stage-2 tables are the ones that lie in memory), guard gaps
//! and address-space randomisation.
//!
//! **Keeps**: VMAs do not overlap; a present PTE lies in a VMA.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bitflags::bitflags;
use tagvisor_arch::{PAGE_SIZE, Pfn, Tcf, Va};

use crate::file::FileId;
use crate::swap::SwpEntry;

bitflags! {
    /// Protection bits of mmap and mprotect.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Prot: u8 {
        /// `PROT_READ`.
        const READ = 1;
        /// `PROT_WRITE`.
        const WRITE = 2;
        /// `PROT_MTE`.
        const MTE = 0x20;
    }
}

bitflags! {
    /// The VMA flags that matter for tags.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub(crate) struct VmFlags: u8 {
        /// `VM_MTE`: user space asked for `PROT_MTE`; mprotect does not clear it.
        const MTE = 1 << 0;
        /// `VM_MTE_ALLOWED`: the mapping may have tags.
        const MTE_ALLOWED = 1 << 1;
        /// `VM_SHARED`.
        const SHARED = 1 << 2;
        /// `VM_PFNMAP`: frames without reference counting.
        const PFNMAP = 1 << 3;
        /// `VM_MERGEABLE`: `MADV_MERGEABLE` was asked for.
        const MERGEABLE = 1 << 4;
        /// `vma->anon_vma` is set: anonymous pages may be mapped, so fork copies the page table.
        const ANON_VMA = 1 << 5;
        /// `VM_UFFD_MISSING`: user space brings the pages (userfaultfd).
        const UFFD_MISSING = 1 << 7;
        /// `VM_HUGEPAGE`: `MADV_HUGEPAGE` was asked for.
        const HUGEPAGE = 1 << 6;
    }
}

/// What stands behind a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Backing {
    /// Private anonymous memory.
    Anon,
    /// A file's page cache: memfd and other shmem, ramfs.
    File(FileId),
    /// `MAP_HUGETLB`: huge pages of the pool, as a file of its own.
    Hugetlb,
    /// `ZONE_DEVICE` memory (a DAX file on pmem): has `struct page`, no tag storage, is not "map memory".
    ZoneDevice,
    /// Device memory (a PCI BAR, `VM_PFNMAP`): no `struct page`.
    Mmio,
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anon => "anonymous memory",
            Self::File(_) => "a file",
            Self::Hugetlb => "huge pages",
            Self::ZoneDevice => "ZONE_DEVICE memory",
            Self::Mmio => "device memory",
        })
    }
}

/// A virtual memory area, `[start, end)` in page numbers (the map's key is `start`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Vma {
    pub(crate) end: u64,
    pub(crate) prot: Prot,
    pub(crate) flags: VmFlags,
    pub(crate) backing: Backing,
    /// `vm_pgoff`: what stands behind the VMA's first page, a page of the file or the frame of a device-like backing.
    pub(crate) offset: u64,
}

/// A page table entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Pte {
    Present {
        pfn: Pfn,
        write: bool,
        dirty: bool,
        tagged: bool,
        special: bool,
    },
    Swap(SwpEntry),
    /// The page is on its way to another frame: whoever touches it waits.
    Migration {
        pfn: Pfn,
        write: bool,
        dirty: bool,
        /// `PG_anon_exclusive`, which the entry keeps.
        exclusive: bool,
    },
    /// The page that was here is poisoned.
    Hwpoison(Pfn),
}

/// A sleeping lock that many may hold to read or one to write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct RwLock {
    readers: u16,
    writer: bool,
}

impl RwLock {
    pub(crate) fn try_read(&mut self) -> bool {
        if !self.writer {
            self.readers += 1;
        }
        !self.writer
    }

    pub(crate) fn read_unlock(&mut self) {
        self.readers -= 1;
    }

    pub(crate) fn try_write(&mut self) -> bool {
        let free = !self.writer && self.readers == 0;
        self.writer |= free;
        free
    }

    pub(crate) fn write_unlock(&mut self) {
        self.writer = false;
    }

    pub(crate) fn is_free_for_write(self) -> bool {
        !self.writer && self.readers == 0
    }
}

/// `struct mm_struct`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Mm {
    pub(crate) name: String,
    pub(crate) vmas: BTreeMap<u64, Vma>,
    pub(crate) ptes: BTreeMap<u64, Pte>,
    pub(crate) mmap_lock: RwLock,
    /// `PR_SET_TAGGED_ADDR_CTRL`: how failed tag checks are reported (`SCTLR_EL1.TCF0` while the process runs).
    pub(crate) tcf: Tcf,
    /// A check failed asynchronously and the kernel has not looked yet (`TFSRE0_EL1`).
    pub(crate) async_fault: bool,
    /// `SEGV_MTEAERR` signals delivered and not counted yet.
    pub(crate) async_signals: u32,
    /// Pages that userfaultfd has asked user space for, and that are not there yet.
    pub(crate) userfaults: BTreeSet<Va>,
    /// A `SIGBUS` with `BUS_MCEERR_AR` was sent that no access of its own has met, and nobody has asked yet.
    pub(crate) sigbus: bool,
    next_va: u64,
}

/// Where the first mapping of a process goes; above 4 GiB, so that no IPA of a scenario looks like it.
const MMAP_BASE: u64 = 0x7f00_0000_0000;

/// Does a VMA go on where the one before it ends, and say the same?
fn continues(at: u64, prev: &Vma, start: u64, vma: &Vma) -> bool {
    let offset = match vma.backing {
        Backing::Anon | Backing::Hugetlb => prev.offset,
        Backing::File(_) | Backing::ZoneDevice | Backing::Mmio => vma.offset.wrapping_sub(start - at),
    };
    prev.end == start
        && *prev
            == Vma {
                end: start,
                offset,
                ..*vma
            }
}

/// `fault_around_bytes`, by default.
pub(crate) const FAULT_AROUND_BYTES: u64 = 64 << 10;

impl Mm {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            vmas: BTreeMap::new(),
            ptes: BTreeMap::new(),
            mmap_lock: RwLock::default(),
            tcf: Tcf::Sync,
            async_fault: false,
            async_signals: 0,
            userfaults: BTreeSet::new(),
            sigbus: false,
            next_va: MMAP_BASE,
        }
    }

    /// `dup_mm` before any VMA is copied: a new address space that continues where this one is.
    pub(crate) fn dup(&self, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            vmas: BTreeMap::new(),
            ptes: BTreeMap::new(),
            mmap_lock: RwLock::default(),
            async_fault: false,
            async_signals: 0,
            userfaults: BTreeSet::new(),
            sigbus: false,
            ..*self
        }
    }

    /// `mte_check_tfsr_entry`: a check that failed asynchronously becomes a signal.
    pub(crate) fn check_mte_tfsr(&mut self) {
        self.async_signals += u32::from(std::mem::take(&mut self.async_fault));
    }

    /// `vma_lookup`: the VMA that holds the page.
    pub(crate) fn vma(&self, va: Va) -> Option<(u64, &Vma)> {
        let (start, vma) = self.vmas.range(..=va.vpn()).next_back()?;
        (va.vpn() < vma.end).then_some((*start, vma))
    }

    /// VMAs that intersect `pages` pages from `va`, with holes skipped.
    pub(crate) fn vmas_in(&self, va: Va, pages: u64) -> impl Iterator<Item = (u64, &Vma)> {
        let (first, end) = (va.vpn(), va.vpn() + pages);
        self.vmas
            .range(..end)
            .filter(move |(_, vma)| vma.end > first)
            .map(|(start, vma)| (*start, vma))
    }

    /// Is every page of the range inside some VMA?
    pub(crate) fn fully_mapped(&self, va: Va, pages: u64) -> bool {
        let covered: u64 = self
            .vmas_in(va, pages)
            .map(|(start, vma)| vma.end.min(va.vpn() + pages) - start.max(va.vpn()))
            .sum();
        covered == pages
    }

    /// `get_unmapped_area`: addresses never used before, with a page left free in between. The kernel's are random; here a
    /// mapping begins where a window of `do_fault_around` does, so that which pages share one depends on nothing else.
    pub(crate) fn unmapped_area(&mut self, pages: u64, align: u64) -> Va {
        let va = Va(self.next_va.next_multiple_of(align.max(FAULT_AROUND_BYTES)));
        self.next_va = va.0 + (pages + 1) * PAGE_SIZE;
        va
    }

    pub(crate) fn insert(&mut self, va: Va, vma: Vma) {
        self.vmas.insert(va.vpn(), vma);
    }

    /// `split_vma` at both ends of the range, so that VMAs begin and end there.
    pub(crate) fn split(&mut self, va: Va, pages: u64) {
        for at in [va.vpn(), va.vpn() + pages] {
            let Some((&start, &vma)) = self.vmas.range(..at).next_back() else {
                continue;
            };
            if at < vma.end {
                self.vmas.insert(start, Vma { end: at, ..vma });
                self.vmas.insert(
                    at,
                    Vma {
                        offset: vma.offset + (at - start),
                        ..vma
                    },
                );
            }
        }
    }

    /// `vma_merge` over the range: neighbours that say the same become one.
    pub(crate) fn merge(&mut self, va: Va, pages: u64) {
        let first = va.vpn().saturating_sub(1);
        let starts: Vec<u64> = self.vmas_in(Va(first * PAGE_SIZE), pages + 2).map(|(s, _)| s).collect();
        let mut before = None;
        for start in starts {
            let vma = self.vmas[&start];
            before = match before {
                Some((at, prev)) if continues(at, &prev, start, &vma) => {
                    self.vmas.remove(&start);
                    let whole = Vma { end: vma.end, ..prev };
                    self.vmas.insert(at, whole);
                    Some((at, whole))
                }
                _ => Some((start, vma)),
            };
        }
    }

    /// Removes the VMAs of the range (their PTEs were zapped before).
    pub(crate) fn remove(&mut self, va: Va, pages: u64) {
        self.split(va, pages);
        let starts: Vec<u64> = self.vmas.range(va.vpn()..va.vpn() + pages).map(|(s, _)| *s).collect();
        for start in starts {
            self.vmas.remove(&start);
        }
    }

    /// Pages of a range that have a PTE. Only those can be mapped at stage 2: whatever clears a PTE tells the notifier first.
    pub(crate) fn touched(&self, va: Va, end: Va) -> Vec<Va> {
        self.ptes
            .range(va.vpn()..end.vpn())
            .map(|(vpn, _)| Va(vpn * PAGE_SIZE))
            .collect()
    }

    pub(crate) fn pte(&self, va: Va) -> Option<Pte> {
        self.ptes.get(&va.vpn()).copied()
    }

    pub(crate) fn set_pte(&mut self, va: Va, pte: Pte) {
        self.ptes.insert(va.vpn(), pte);
    }

    pub(crate) fn clear_pte(&mut self, va: Va) -> Option<Pte> {
        self.ptes.remove(&va.vpn())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anon(pages: u64) -> Vma {
        Vma {
            end: Va(MMAP_BASE).vpn() + pages,
            prot: Prot::READ | Prot::WRITE,
            flags: VmFlags::MTE_ALLOWED,
            backing: Backing::Anon,
            offset: 0,
        }
    }

    #[test]
    fn split_vma_keeps_every_page_mapped_once() {
        let mut mm = Mm::new("t");
        mm.insert(Va(MMAP_BASE), anon(8));

        mm.split(Va(MMAP_BASE + 5 * PAGE_SIZE), 1);

        assert_eq!(mm.vmas.len(), 3);
        assert!(mm.fully_mapped(Va(MMAP_BASE), 8));
        assert_eq!(
            mm.vma(Va(MMAP_BASE + 5 * PAGE_SIZE)).unwrap().1.end,
            Va(MMAP_BASE).vpn() + 6
        );
    }

    #[test]
    fn what_was_split_merges_again_when_it_says_the_same() {
        let mut mm = Mm::new("t");
        let file = Vma {
            backing: Backing::File(FileId(0)),
            offset: 3,
            ..anon(8)
        };
        mm.insert(Va(MMAP_BASE), file);
        mm.split(Va(MMAP_BASE + 2 * PAGE_SIZE), 3);
        let (middle, _) = mm.vma(Va(MMAP_BASE + 2 * PAGE_SIZE)).unwrap();
        mm.vmas.get_mut(&middle).unwrap().prot = Prot::READ;
        mm.merge(Va(MMAP_BASE + 2 * PAGE_SIZE), 3);
        assert_eq!(mm.vmas.len(), 3, "the middle says something else");

        mm.vmas.get_mut(&middle).unwrap().prot = file.prot;
        mm.merge(Va(MMAP_BASE + 2 * PAGE_SIZE), 3);

        assert_eq!(
            mm.vma(Va(MMAP_BASE + 7 * PAGE_SIZE)),
            Some((Va(MMAP_BASE).vpn(), &file))
        );
    }

    #[test]
    fn removing_the_middle_leaves_a_hole() {
        let mut mm = Mm::new("t");
        mm.insert(Va(MMAP_BASE), anon(8));

        mm.remove(Va(MMAP_BASE + PAGE_SIZE), 2);

        assert!(mm.vma(Va(MMAP_BASE + PAGE_SIZE)).is_none());
        assert!(mm.vma(Va(MMAP_BASE + 3 * PAGE_SIZE)).is_some());
        assert!(!mm.fully_mapped(Va(MMAP_BASE), 8));
    }
}
