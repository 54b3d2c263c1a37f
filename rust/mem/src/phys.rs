//! Physical memory as page frames that exist once somebody writes to them.
//!
//! A frame is an index into parallel arrays: packed tags, flat, for the replay loop to index; data, shared copy-on-write
//! between clones, absent while it is all zero; and where the frame lies. A table leads from page frame number to index.
//!
//! Left out: caches, memory attributes, errors of the memory itself. Invariants: reading creates nothing; frames without
//! tag storage have tag 0 throughout; a frame once created keeps its index; no order of the table reaches an answer.

use std::sync::Arc;

use tagvisor_arch::{PAGE_SIZE, Pa, PageTags, Pfn, Tag, Va};

use crate::region::{MemError, Region, RegionKind, check_map};
use content::Changed;
pub use content::FrameContent;
use descriptors::Descriptors;
use frames::Frames;
use page::{PAGE_BYTES, PageData, Pages, ZERO_PAGE};

mod content;
mod descriptors;
mod frames;
mod last_tables;
mod page;
mod tags;

/// Bytes of a word.
const WORD: usize = size_of::<u64>();

/// Tagged physical memory. A clone shares page data with its origin until one of them writes.
#[derive(Clone, Debug)]
pub struct PhysMem {
    regions: Arc<[Region]>,
    frames: Frames,
    tags: Vec<PageTags>,
    data: Pages,
    descriptors: Descriptors,
    changed: Changed,
}

impl PhysMem {
    /// Memory with this physical address map, all data and tags 0.
    pub fn new(regions: Vec<Region>) -> Result<Self, MemError> {
        Ok(Self {
            regions: check_map(regions)?.into(),
            frames: Frames::new(),
            tags: Vec::new(),
            data: Pages::default(),
            descriptors: Descriptors::default(),
            changed: Changed::default(),
        })
    }

    /// The physical address map, sorted by base.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The region the page frame lies in, online or not.
    #[inline]
    pub fn region_of(&self, pfn: Pfn) -> Option<&Region> {
        self.region_index(pfn).map(|region| &self.regions[region])
    }

    fn region_index(&self, pfn: Pfn) -> Option<usize> {
        let above = self.regions.partition_point(|region| region.base <= pfn.base());
        let region = above.checked_sub(1)?;
        self.regions[region].contains(pfn).then_some(region)
    }

    /// Memory hotplug: brings the region that starts at `base` up or down. Its content stays.
    pub fn set_online(&mut self, base: Pa, online: bool) -> Result<(), MemError> {
        let mut regions = self.regions.to_vec();
        let region = regions
            .iter_mut()
            .find(|region| region.base == base)
            .ok_or(MemError::NoRegion { base })?;
        region.online = online;
        self.regions = regions.into();
        self.descriptors.forget_all();
        Ok(())
    }

    /// Whether the page frame has tag storage.
    #[inline]
    pub fn has_tags(&self, pfn: Pfn) -> bool {
        self.region_of(pfn).is_some_and(|region| region.kind == RegionKind::Ram)
    }

    /// Reads bytes from `pa` on. Reading creates no frame.
    ///
    /// # Panics
    /// If any byte lies outside the regions; the caller has checked.
    pub fn read(&self, pa: Pa, buf: &mut [u8]) {
        let mut rest = buf;
        for (pfn, offset, len) in pages(pa, rest.len() as u64) {
            let (part, after) = rest.split_at_mut(len);
            part.copy_from_slice(&self.bytes(pfn)[offset..offset + len]);
            rest = after;
        }
    }

    /// Writes bytes from `pa` on.
    ///
    /// # Panics
    /// If any byte lies outside the regions; the caller has checked.
    pub fn write(&mut self, pa: Pa, buf: &[u8]) {
        let mut rest = buf;
        for (pfn, offset, len) in pages(pa, rest.len() as u64) {
            let (part, after) = rest.split_at(len);
            let frame = self.touch(pfn);
            self.page_mut(frame, offset, len)[offset..offset + len].copy_from_slice(part);
            rest = after;
        }
    }

    /// The little-endian 64-bit word at `pa`.
    ///
    /// # Panics
    /// As [`PhysMem::read`].
    #[inline]
    pub fn read_u64(&self, pa: Pa) -> u64 {
        if let Some(word) = self.bytes(pa.pfn())[pa.page_offset() as usize..].first_chunk() {
            return u64::from_le_bytes(*word);
        }
        let mut word = [0; WORD];
        self.read(pa, &mut word);
        u64::from_le_bytes(word)
    }

    /// Writes the little-endian 64-bit word at `pa`.
    ///
    /// # Panics
    /// As [`PhysMem::write`].
    #[inline]
    pub fn write_u64(&mut self, pa: Pa, value: u64) {
        let offset = pa.page_offset() as usize;
        if offset <= PAGE_BYTES - WORD {
            let frame = self.touch(pa.pfn());
            self.frame_write_u64(frame, offset, value);
        } else {
            self.write(pa, &value.to_le_bytes());
        }
    }

    /// The little-endian 64-bit word at an offset into a frame's data: what a load needs of memory after a TLB hit.
    ///
    /// # Panics
    /// If there is no such frame or the word is not inside the page.
    #[inline]
    pub fn frame_read_u64(&self, frame: u32, offset: usize) -> u64 {
        let word = self.data.data(frame)[offset..].first_chunk();
        u64::from_le_bytes(*word.expect("the word lies inside the page"))
    }

    /// The aligned little-endian 64-bit word at an address's offset into a frame's data, if its granule has this tag and the
    /// page is this memory's own: a checked load after a TLB hit, in the fewest instructions.
    #[inline]
    pub fn frame_word_if_tagged(&self, frame: u32, va: Va, tag: Tag) -> Option<u64> {
        if self.tags.get(frame as usize)?.differs(va.granule(), tag) {
            return None;
        }
        let (words, _) = self.data.own(frame)?.as_chunks();
        Some(u64::from_le_bytes(words[va.page_offset() as usize / WORD]))
    }

    /// The aligned little-endian 64-bit word of that index in a frame's data.
    ///
    /// # Panics
    /// If there is no such frame or word.
    #[inline]
    pub fn frame_word(&self, frame: u32, index: usize) -> u64 {
        let (words, _) = self.data.data(frame).as_chunks();
        u64::from_le_bytes(words[index])
    }

    /// Writes the little-endian 64-bit word at an offset into a frame's data: a store after a TLB hit.
    ///
    /// # Panics
    /// As [`PhysMem::frame_read_u64`].
    #[inline]
    pub fn frame_write_u64(&mut self, frame: u32, offset: usize, value: u64) {
        let word = self.page_mut(frame, offset, WORD)[offset..].first_chunk_mut();
        *word.expect("the word lies inside the page") = value.to_le_bytes();
    }

    /// Zeroes the data of a page; its tags stay, as after `clear_page`.
    ///
    /// # Panics
    /// If the page frame lies outside the regions.
    pub fn zero_page(&mut self, pfn: Pfn) {
        self.assert_backed(pfn);
        if let Some(frame) = self.frame_index(pfn) {
            self.forget_walked(frame);
            self.data.clear(frame);
        }
    }

    /// Copies the data of a page, not its tags, as `copy_page` does.
    ///
    /// # Panics
    /// If either page frame lies outside the regions.
    pub fn copy_page(&mut self, from: Pfn, to: Pfn) {
        self.assert_backed(from);
        self.assert_backed(to);
        let origin = self.frame_index(from).filter(|&frame| !self.data.is_untouched(frame));
        match (origin, self.frame_index(to)) {
            (Some(origin), _) => {
                let frame = self.touch(to);
                self.forget_walked(frame);
                self.data.copy(origin, frame);
            }
            (None, Some(frame)) => {
                self.forget_walked(frame);
                self.data.clear(frame);
            }
            (None, None) => {}
        }
    }

    /// Whether every byte of the page is 0.
    pub fn page_is_zero(&self, pfn: Pfn) -> bool {
        self.data(pfn).is_none()
    }

    /// The data of a page, or `None` if it was never written or is all zero.
    pub fn data(&self, pfn: Pfn) -> Option<&PageData> {
        let frame = self.frame_index(pfn)?;
        let page = self.data.data(frame);
        (*page != ZERO_PAGE).then_some(page)
    }

    /// The index of a page's frame, if it has one.
    #[inline]
    pub fn frame_index(&self, pfn: Pfn) -> Option<u32> {
        self.frames.find(pfn)
    }

    /// The page frame of an index.
    ///
    /// # Panics
    /// If there is no such frame.
    pub fn frame_at(&self, index: u32) -> Pfn {
        self.frames.frame(index).pfn
    }

    /// The index of a page's frame, created if need be. It never changes.
    ///
    /// # Panics
    /// If the page frame lies outside the regions.
    pub fn touch(&mut self, pfn: Pfn) -> u32 {
        if let Some(frame) = self.frame_index(pfn) {
            return frame;
        }
        let Some(region) = self.region_index(pfn) else {
            panic!("no memory at {}", pfn.base())
        };
        self.tags.push(PageTags::ZERO);
        self.data.push();
        let frame = self.frames.add(pfn, region as u32);
        self.frames.frame_mut(frame).walked = self.changed.watched;
        frame
    }

    /// How many pages have a frame.
    pub fn touched_frames(&self) -> usize {
        self.frames.len()
    }

    /// The bytes of a page, zeros if it has none.
    #[inline]
    fn bytes(&self, pfn: Pfn) -> &PageData {
        let Some(frame) = self.frame_index(pfn) else {
            self.assert_backed(pfn);
            return &ZERO_PAGE;
        };
        self.data.data(frame)
    }

    /// The data of a frame, of which `len` bytes from `offset` on will be written.
    #[inline]
    fn page_mut(&mut self, frame: u32, offset: usize, len: usize) -> &mut PageData {
        let known = self.frames.frame(frame);
        if known.walked {
            self.descriptors.forget(known.pfn.base() + offset as u64, len as u64);
            self.changed.note(frame);
        }
        self.data.data_mut(frame)
    }

    /// The page of the frame is about to be replaced.
    fn forget_walked(&mut self, frame: u32) {
        let known = self.frames.frame_mut(frame);
        if known.walked {
            known.walked = self.changed.watched;
            self.descriptors.forget_all();
            self.changed.note(frame);
        }
    }

    #[inline]
    fn assert_backed(&self, pfn: Pfn) {
        assert!(self.region_of(pfn).is_some(), "no memory at {}", pfn.base());
    }
}

/// Splits `len` bytes from `pa` on at page boundaries: page frame, offset in it, bytes in it.
fn pages(pa: Pa, len: u64) -> impl Iterator<Item = (Pfn, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = pa + done;
        let part = (PAGE_SIZE - at.page_offset()).min(len - done);
        done += part;
        Some((at.pfn(), at.page_offset() as usize, part as usize))
    })
}

#[cfg(test)]
mod tests;
