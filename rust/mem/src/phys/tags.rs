//! Allocation tags by physical address: one, a page of them, a range of them.
//!
//! Left out: what reads and writes them, and whether it may; a read of a tag never fails. Real hardware's answer where
//! there is no tag storage is IMPLEMENTATION DEFINED, up to an external abort. Invariants: where there is no tag storage
//! a tag reads as 0 and a write is ignored, and writing zeros to an untouched page creates no frame.

use std::ops::Range;

use tagvisor_arch::{GRANULE_SIZE, PAGE_SIZE, Pa, PageTags, Pfn, Tag};

use super::{PhysMem, pages};

impl PhysMem {
    /// The allocation tag of the granule at `pa`.
    #[inline]
    pub fn tag(&self, pa: Pa) -> Tag {
        self.frame_index(pa.pfn())
            .map_or(Tag::ZERO, |frame| self.frame_tag(frame, pa.granule()))
    }

    /// Sets the allocation tag of the granule at `pa`.
    pub fn set_tag(&mut self, pa: Pa, tag: Tag) {
        if let Some(tags) = self.tags_to_write(pa.pfn(), || true) {
            tags.set(pa.granule(), tag);
        }
    }

    /// The tags of the 16 granules around `pa`, as `LDGM` has them: 0 where there is no tag storage.
    pub fn tag_block(&self, pa: Pa) -> u64 {
        self.frame_index(pa.pfn())
            .map_or(0, |frame| self.frame_tag_block(frame, pa.granule()))
    }

    /// Sets the tags of the 16 granules around `pa`; ignored where there is no tag storage.
    pub fn set_tag_block(&mut self, pa: Pa, bits: u64) {
        if let Some(tags) = self.tags_to_write(pa.pfn(), || bits != 0) {
            tags.set_block(pa.granule(), bits);
        }
    }

    /// All tags of a page.
    pub fn page_tags(&self, pfn: Pfn) -> PageTags {
        self.frame_index(pfn)
            .map_or(PageTags::ZERO, |frame| self.tags[frame as usize])
    }

    /// Sets all tags of a page.
    pub fn set_page_tags(&mut self, pfn: Pfn, tags: &PageTags) {
        if let Some(page) = self.tags_to_write(pfn, || *tags != PageTags::ZERO) {
            *page = *tags;
        }
    }

    /// Gives every granule that the bytes touch the same tag.
    pub fn fill_tags(&mut self, pa: Pa, len: u64, tag: Tag) {
        for (pfn, offset, part) in pages(pa, len) {
            if let Some(tags) = self.tags_to_write(pfn, || tag != Tag::ZERO) {
                tags.fill_range(granules(offset, part), tag);
            }
        }
    }

    /// Copies tags, as if all were read before one is written: the ranges may overlap. They start with the granules that
    /// the addresses lie in; the length is rounded up to granules.
    pub fn copy_tags(&mut self, from: Pa, to: Pa, len: u64) {
        let (from, to, len) = whole_granules(from, to, len);
        // Last page first, if the front of the target lies in the source.
        let backwards = from < to && to - from < len;
        let mut rest = len;
        while rest > 0 {
            let (done, part) = if backwards {
                let part = rest.min(bytes_before(from + rest)).min(bytes_before(to + rest));
                (rest - part, part)
            } else {
                let done = len - rest;
                (done, rest.min(bytes_after(from + done)).min(bytes_after(to + done)))
            };
            self.copy_tags_within_pages(from + done, to + done, part as usize);
            rest -= part;
        }
    }

    /// The first granule of the range at `pa` whose tag differs from its counterpart's in the range at `other`. Both start
    /// with the granules that the addresses lie in; the length is rounded up to granules.
    pub fn compare_tags(&self, pa: Pa, other: Pa, len: u64) -> Option<Pa> {
        let (pa, other, len) = whole_granules(pa, other, len);
        let mut done = 0;
        while done < len {
            let (at, other) = (pa + done, other + done);
            let part = (len - done).min(bytes_after(at)).min(bytes_after(other));
            let differing = self.compare_tags_within_pages(at, other, part as usize);
            if differing.is_some() {
                return differing;
            }
            done += part;
        }
        None
    }

    /// The first granule that the bytes touch whose tag is not this one.
    pub fn first_tag_mismatch(&self, pa: Pa, len: u64, tag: Tag) -> Option<Pa> {
        pages(pa, len).find_map(|(pfn, offset, part)| {
            let granule = match self.frame_index(pfn) {
                Some(frame) => self.tags[frame as usize].first_tag_mismatch(tag, granules(offset, part)),
                None => (tag != Tag::ZERO).then_some(offset / GRANULE),
            };
            Some(address(pfn, granule?))
        })
    }

    /// The tags of all granules that the bytes touch, a byte each.
    pub fn read_tags(&self, pa: Pa, len: u64) -> Vec<u8> {
        let mut tags = Vec::new();
        for (pfn, offset, part) in pages(pa, len) {
            tags.extend_from_slice(&self.page_tags(pfn).unpack()[granules(offset, part)]);
        }
        tags
    }

    /// Sets tags from the granule at `pa` on, a byte each; the upper halves of the bytes do not count.
    pub fn write_tags(&mut self, pa: Pa, tags: &[u8]) {
        let mut rest = tags;
        for (pfn, offset, part) in pages(granule_start(pa), tags.len() as u64 * GRANULE_SIZE) {
            let range = granules(offset, part);
            let (now, later) = rest.split_at(range.len());
            let mut bytes = PageTags::ZERO.unpack();
            bytes[range.clone()].copy_from_slice(now);
            let packed = PageTags::pack(&bytes);
            if let Some(tags) = self.tags_to_write(pfn, || packed != PageTags::ZERO) {
                tags.copy_range(range.start, &packed, range);
            }
            rest = later;
        }
    }

    /// The tag of one granule of a frame: the hot path of replay.
    ///
    /// # Panics
    /// If there is no such frame or granule.
    #[inline]
    pub fn frame_tag(&self, frame: u32, granule: usize) -> Tag {
        self.tags[frame as usize].get(granule)
    }

    /// Sets the tag of one granule of a frame: the hot path of a tag store in replay. The frame must lie in memory with tag
    /// storage; whoever cached its index has seen to that.
    ///
    /// # Panics
    /// If there is no such frame or granule.
    #[inline]
    pub fn set_frame_tag(&mut self, frame: u32, granule: usize, tag: Tag) {
        self.tags[frame as usize].set(granule, tag);
    }

    /// The tags of the 16 granules around one of a frame, as `LDGM` has them.
    ///
    /// # Panics
    /// If there is no such frame or granule.
    #[inline]
    pub fn frame_tag_block(&self, frame: u32, granule: usize) -> u64 {
        self.tags[frame as usize].block(granule)
    }

    /// Sets the tags of the 16 granules around one of a frame. See [`PhysMem::set_frame_tag`].
    ///
    /// # Panics
    /// If there is no such frame or granule.
    #[inline]
    pub fn set_frame_tag_block(&mut self, frame: u32, granule: usize, bits: u64) {
        self.tags[frame as usize].set_block(granule, bits);
    }

    /// The tags of all frames, by index.
    #[inline]
    pub fn tag_slab(&self) -> &[PageTags] {
        &self.tags
    }

    /// The tags of a page, if it has tag storage. A page without a frame gets one if it is to hold more than zeros.
    fn tags_to_write(&mut self, pfn: Pfn, more_than_zeros: impl FnOnce() -> bool) -> Option<&mut PageTags> {
        if !self.has_tags(pfn) {
            return None;
        }
        let frame = match self.frame_index(pfn) {
            Some(frame) => frame,
            None if more_than_zeros() => self.touch(pfn),
            None => return None,
        };
        self.changed.note(frame);
        Some(&mut self.tags[frame as usize])
    }

    /// Copies tags between ranges that are each inside a page.
    fn copy_tags_within_pages(&mut self, from: Pa, to: Pa, len: usize) {
        let source = self.page_tags(from.pfn());
        let range = granules(from.page_offset() as usize, len);
        let tagged = || source.first_tag_mismatch(Tag::ZERO, range.clone()).is_some();
        if let Some(tags) = self.tags_to_write(to.pfn(), tagged) {
            tags.copy_range(to.granule(), &source, range);
        }
    }

    /// [`PhysMem::compare_tags`] for ranges that are each inside a page.
    fn compare_tags_within_pages(&self, pa: Pa, other: Pa, len: usize) -> Option<Pa> {
        let zero = PageTags::ZERO;
        let tags_of = |pa: Pa| {
            self.frame_index(pa.pfn())
                .map_or(&zero, |frame| &self.tags[frame as usize])
        };
        let (tags, others) = (tags_of(pa), tags_of(other));
        let range = granules(pa.page_offset() as usize, len);
        let differing = if pa.granule() == other.granule() {
            tags.first_mismatch(others, range)
        } else {
            let mut moved = PageTags::ZERO;
            moved.copy_range(range.start, others, granules(other.page_offset() as usize, len));
            tags.first_mismatch(&moved, range)
        };
        differing.map(|granule| address(pa.pfn(), granule))
    }
}

const GRANULE: usize = GRANULE_SIZE as usize;

/// The granules of a page that bytes of it touch.
fn granules(offset: usize, len: usize) -> Range<usize> {
    offset / GRANULE..(offset + len).div_ceil(GRANULE)
}

fn address(pfn: Pfn, granule: usize) -> Pa {
    pfn.base() + granule as u64 * GRANULE_SIZE
}

fn granule_start(pa: Pa) -> Pa {
    Pa(pa.0 - pa.0 % GRANULE_SIZE)
}

fn whole_granules(one: Pa, other: Pa, len: u64) -> (Pa, Pa, u64) {
    (
        granule_start(one),
        granule_start(other),
        len.next_multiple_of(GRANULE_SIZE),
    )
}

/// Bytes from the address to the end of its page.
fn bytes_after(pa: Pa) -> u64 {
    PAGE_SIZE - pa.page_offset()
}

/// Bytes of the page that ends at or holds the byte before the address, up to the address.
fn bytes_before(pa: Pa) -> u64 {
    (pa.0 - 1) % PAGE_SIZE + 1
}

#[cfg(test)]
mod tests;
