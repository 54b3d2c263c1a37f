//! A small guest for the unit tests: a few pages of memory at PA = VA, each with a type and permissions of its own.

use super::{Cpu, Mmu, Tcf, Translation};
use crate::addr::{Ipa, PAGE_SIZE, Pa, Va};
use crate::fault::{Access, Fault, FaultKind, Stage};
use crate::regs::{GcrEl1, RgsrEl1};
use crate::{PageTags, Tag};

/// The first page of the guest.
pub(super) const BASE: u64 = 0x5000_0000;

/// What a page of the guest is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    Tagged,
    TaggedReadOnly,
    Untagged,
    Device,
    Unmapped,
}

pub(super) struct Guest {
    pages: Vec<Page>,
    pub(super) tags: Vec<PageTags>,
    pub(super) data: Vec<u8>,
}

impl Guest {
    /// Pages from [`BASE`] on, all data 0xee and all tags 0.
    pub(super) fn new(pages: &[Page]) -> Self {
        Self {
            pages: pages.to_vec(),
            tags: vec![PageTags::ZERO; pages.len()],
            data: vec![0xee; pages.len() * PAGE_SIZE as usize],
        }
    }

    /// The same guest with every tag of one page set.
    pub(super) fn with_tags(mut self, page: usize, tag: Tag) -> Self {
        self.tags[page].fill(tag);
        self
    }

    /// Whether nothing was written: all data still 0xee.
    pub(super) fn data_is_untouched(&self) -> bool {
        self.data.iter().all(|&byte| byte == 0xee)
    }
}

impl Mmu for Guest {
    fn translate(&mut self, va: Va, access: Access, isv: bool, size: u8) -> Result<Translation, Fault> {
        let ipa = Ipa(va.untagged().0);
        let fault = |kind| Fault {
            kind,
            stage: Stage::Two,
            level: 3,
            access,
            va,
            ipa,
            isv,
            size,
        };
        let index = ipa.0.checked_sub(BASE).map(|offset| (offset / PAGE_SIZE) as usize);
        match index.and_then(|index| self.pages.get(index)).unwrap_or(&Page::Unmapped) {
            Page::Unmapped => Err(fault(FaultKind::Translation)),
            Page::TaggedReadOnly if access == Access::Write => Err(fault(FaultKind::Permission)),
            page => Ok(Translation {
                pa: Pa(ipa.0),
                tagged: matches!(page, Page::Tagged | Page::TaggedReadOnly),
                device: *page == Page::Device,
            }),
        }
    }

    fn read(&mut self, pa: Pa, buf: &mut [u8]) {
        assert!(pa.page_offset() + buf.len() as u64 <= PAGE_SIZE, "a read crosses pages");
        let at = (pa.0 - BASE) as usize;
        buf.copy_from_slice(&self.data[at..at + buf.len()]);
    }

    fn write(&mut self, pa: Pa, buf: &[u8]) {
        assert!(
            pa.page_offset() + buf.len() as u64 <= PAGE_SIZE,
            "a write crosses pages"
        );
        let at = (pa.0 - BASE) as usize;
        self.data[at..at + buf.len()].copy_from_slice(buf);
    }

    fn tag(&mut self, pa: Pa) -> Tag {
        self.tags[((pa.0 - BASE) / PAGE_SIZE) as usize].get(pa.granule())
    }

    fn set_tag(&mut self, pa: Pa, tag: Tag) {
        self.tags[((pa.0 - BASE) / PAGE_SIZE) as usize].set(pa.granule(), tag);
    }
}

/// An EL1 processor with synchronous tag checks.
pub(super) fn sync_cpu() -> Cpu {
    Cpu {
        gcr: GcrEl1::new(),
        rgsr: RgsrEl1::new(),
        tco: false,
        tcf: Tcf::Sync,
        tbi: true,
        ata: true,
        el: 1,
    }
}

/// A pointer into the guest.
pub(super) fn pointer(offset: u64, tag: u8) -> Va {
    Va(BASE + offset).with_tag(Tag::new(tag))
}
