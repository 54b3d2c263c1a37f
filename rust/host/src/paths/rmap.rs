//! The reverse map: who maps a page.
//!
//! **Models** `rmap_walk` over `anon_vma` and `i_mmap`: an anonymous page keeps its address across fork, a page of a file is
//! found through the VMAs of the file, a KSM page anywhere. What is found is asked of the page tables, so it is exact.

use tagvisor_arch::{PAGE_SIZE, Pfn, Va};

use crate::file::FileId;
use crate::ids::MmId;
use crate::mm::{Backing, Mm, Pte};
use crate::page::PageMapping;
use crate::state::Host;

fn maps(mm: &Mm, va: Va, pfn: Pfn) -> bool {
    matches!(mm.pte(va), Some(Pte::Present { pfn: mapped, .. }) if mapped == pfn)
}

impl Host {
    pub(crate) fn mm_ids(&self) -> impl Iterator<Item = (MmId, &Mm)> {
        (0..).map(MmId).zip(self.mms.iter().map(|mm| &**mm))
    }

    /// Where VMAs show a page of a file.
    fn file_addresses(&self, file: FileId, index: u64) -> impl Iterator<Item = (MmId, Va)> {
        self.mm_ids().flat_map(move |(id, mm)| {
            mm.vmas.iter().filter_map(move |(start, vma)| {
                let at = start + index.checked_sub(vma.offset)?;
                (vma.backing == Backing::File(file) && at < vma.end).then_some((id, Va(at * PAGE_SIZE)))
            })
        })
    }

    /// Every place that maps a page, in the order of processes and addresses.
    pub(crate) fn rmap(&self, pfn: Pfn) -> Vec<(MmId, Va)> {
        match self.page(pfn).mapping {
            PageMapping::None => Vec::new(),
            PageMapping::Anon(va) => self
                .mm_ids()
                .filter(|(_, mm)| maps(mm, va, pfn))
                .map(|(id, _)| (id, va))
                .collect(),
            PageMapping::File(file, index) => self
                .file_addresses(file, index)
                .filter(|(mm, va)| maps(self.mm(*mm), *va, pfn))
                .collect(),
            PageMapping::Ksm => {
                let all = |(id, mm): (MmId, &Mm)| {
                    let here = mm.ptes.keys().map(|vpn| Va(vpn * PAGE_SIZE));
                    here.filter(|va| maps(mm, *va, pfn))
                        .map(|va| (id, va))
                        .collect::<Vec<_>>()
                };
                self.mm_ids().flat_map(all).collect()
            }
        }
    }

    /// `folio_mapcount`.
    pub(crate) fn mapcount(&self, pfn: Pfn) -> usize {
        self.rmap(pfn).len()
    }

    /// A place that maps some page of a file in the range, private copies not counted (`i_mmap`).
    pub(crate) fn mapped_file_page(&self, file: FileId, from: u64, end: u64) -> Option<(MmId, Va)> {
        let mut cached = self.file(file).cache.range(from..end);
        cached.find_map(|(_, cached)| match cached {
            crate::file::Cached::Page(pfn) => self.rmap(*pfn).first().copied(),
            crate::file::Cached::Swap(_) => None,
        })
    }

    /// Is the file mapped by anybody?
    pub(crate) fn is_mapped(&self, file: FileId) -> bool {
        let shows = |mm: &Mm| mm.vmas.values().any(|v| v.backing == Backing::File(file));
        self.mms.iter().map(|mm| &**mm).any(shows)
    }
}
