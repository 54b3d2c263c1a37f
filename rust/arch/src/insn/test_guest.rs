//! A small guest for the unit tests: a few pages of memory at PA = VA, each with a type and permissions of its own.

use super::{Cpu, Mmu, Translation};
use crate::access::{AccessDesc, Grants};
use crate::addr::{Ipa, PAGE_SIZE, Pa, Va};
use crate::attr::MemTag;
use crate::fault::{Fault, FaultKind, Stage};
use crate::{PageTags, Tag};

/// The first page of the guest.
pub(crate) const BASE: u64 = 0x5000_0000;

/// What a page of the guest is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    Tagged,
    TaggedReadOnly,
    Untagged,
    Canonical,
    Device,
    Unmapped,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Guest {
    pages: Vec<Page>,
    pub(crate) tags: Vec<PageTags>,
    pub(crate) data: Vec<u8>,
}

impl Guest {
    /// Pages from [`BASE`] on, all data 0xee and all tags 0.
    pub(crate) fn new(pages: &[Page]) -> Self {
        Self {
            pages: pages.to_vec(),
            tags: vec![PageTags::ZERO; pages.len()],
            data: vec![0xee; pages.len() * PAGE_SIZE as usize],
        }
    }

    /// The same guest with every tag of one page set.
    pub(crate) fn with_tags(mut self, page: usize, tag: Tag) -> Self {
        self.tags[page].fill(tag);
        self
    }

    /// Whether nothing was written: all data still 0xee.
    pub(crate) fn data_is_untouched(&self) -> bool {
        self.data.iter().all(|&byte| byte == 0xee)
    }
}

impl Mmu for Guest {
    fn translate(&mut self, va: Va, access: &AccessDesc) -> Result<Translation, Fault> {
        let ipa = Ipa(va.untagged().0);
        let fault = |kind, level| Fault {
            level,
            ipa,
            ..access.fault(kind, Stage::Two, va)
        };
        let index = ipa.0.checked_sub(BASE).map(|offset| (offset / PAGE_SIZE) as usize);
        let page = *index
            .and_then(|index| self.pages.get(index))
            .ok_or(fault(FaultKind::Translation, 3))?;
        if page == Page::Unmapped {
            return Err(fault(FaultKind::Translation, 3));
        }
        if page == Page::Device && access.misaligned_for_device() {
            return Err(fault(FaultKind::Alignment, 0));
        }
        let read_only = Grants::ALL_READ;
        let grants = if page == Page::TaggedReadOnly {
            read_only
        } else {
            Grants::all()
        };
        if let Some(access) = access.refused_by(grants) {
            return Err(Fault {
                access,
                ..fault(FaultKind::Permission, 3)
            });
        }
        Ok(Translation {
            pa: Pa(ipa.0),
            tags: match page {
                Page::Tagged | Page::TaggedReadOnly => MemTag::Allocation,
                Page::Canonical => MemTag::Canonical,
                _ => MemTag::Untagged,
            },
        })
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
pub(crate) fn sync_cpu() -> Cpu {
    Cpu::with_sync_checks(1, true)
}

/// A pointer into the guest.
pub(crate) fn pointer(offset: u64, tag: u8) -> Va {
    Va(BASE + offset).with_tag(Tag::new(tag))
}
