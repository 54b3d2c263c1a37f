//! Which page frame has which index: an open-addressed table of indices over the frames in the order they were made.
//!
//! A slot holds 4 bytes, an index; the page frame number to check it against stands with the frame. Left out: removal, for a
//! frame once made stays. Invariants: an index never changes; at most half of the slots are taken, so that every search
//! ends; nobody goes through the slots in order, so that their order reaches no answer.

use tagvisor_arch::Pfn;

/// A slot without an index.
const EMPTY: u32 = u32::MAX;
const FIRST_BITS: u32 = 5;

/// What is known of a frame besides its content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) pfn: Pfn,
    /// Index of the region it lies in.
    pub(super) region: u32,
    /// Whether the table walker keeps words of it (see `descriptors`), or somebody watches (see `content`).
    pub(super) walked: bool,
}

/// The frames, and the way from page frame number to index.
#[derive(Clone, Debug)]
pub(super) struct Frames {
    /// `2^bits` of them.
    slots: Vec<u32>,
    bits: u32,
    made: Vec<Frame>,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            slots: vec![EMPTY; 1 << FIRST_BITS],
            bits: FIRST_BITS,
            made: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.made.len()
    }

    /// # Panics
    /// If there is no such frame.
    #[inline]
    pub(super) fn frame(&self, index: u32) -> &Frame {
        &self.made[index as usize]
    }

    /// # Panics
    /// If there is no such frame.
    #[inline]
    pub(super) fn frame_mut(&mut self, index: u32) -> &mut Frame {
        &mut self.made[index as usize]
    }

    /// The index of the page frame, if it has one.
    #[inline]
    pub(super) fn find(&self, pfn: Pfn) -> Option<u32> {
        let mut slot = self.first_slot(pfn);
        loop {
            let index = *self.slots.get(slot)?;
            // No frame has the index of an empty slot.
            if self.made.get(index as usize)?.pfn == pfn {
                return Some(index);
            }
            slot = self.next_slot(slot);
        }
    }

    /// Adds a page frame that is not there yet.
    pub(super) fn add(&mut self, pfn: Pfn, region: u32) -> u32 {
        let index = u32::try_from(self.made.len()).expect("2^32 touched frames are 16 TiB of data");
        self.made.push(Frame {
            pfn,
            region,
            walked: false,
        });
        if self.made.len() * 2 > self.slots.len() {
            self.bits += 1;
            self.slots = vec![EMPTY; 1 << self.bits];
            (0..=index).for_each(|index| self.enter(index));
        } else {
            self.enter(index);
        }
        index
    }

    fn enter(&mut self, index: u32) {
        let mut slot = self.first_slot(self.frame(index).pfn);
        while self.slots[slot] != EMPTY {
            slot = self.next_slot(slot);
        }
        self.slots[slot] = index;
    }

    /// Multiplying by the golden ratio puts neighbours far apart and evenly.
    #[inline]
    fn first_slot(&self, pfn: Pfn) -> usize {
        (pfn.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - self.bits)) as usize
    }

    #[inline]
    fn next_slot(&self, slot: usize) -> usize {
        (slot + 1) & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_keep_their_index_and_region_as_the_table_grows() {
        let mut frames = Frames::new();

        for i in 0..1000 {
            assert_eq!(frames.add(Pfn(1 << 36 | i << 20), i as u32 % 3), i as u32);
        }

        for i in 0..1000 {
            assert_eq!(frames.find(Pfn(1 << 36 | i << 20)), Some(i as u32));
            assert_eq!(frames.frame(i as u32).region, i as u32 % 3);
        }
        assert_eq!(frames.find(Pfn(1)), None);
        assert!(frames.slots.len() >= 2 * frames.len());
    }

    proptest! {
        #[test]
        fn table_answers_like_a_map(pfns in prop::collection::vec(prop_oneof![0u64..200, (0u64..200).prop_map(|n| n << 34)], 0..200)) {
            let (mut frames, mut model) = (Frames::new(), BTreeMap::new());

            for &pfn in &pfns {
                let known = frames.find(Pfn(pfn));
                prop_assert_eq!(known, model.get(&pfn).copied());
                if known.is_none() {
                    model.insert(pfn, frames.add(Pfn(pfn), 0));
                }
            }

            prop_assert_eq!(frames.len(), model.len());
            for pfn in pfns {
                prop_assert_eq!(frames.find(Pfn(pfn)), model.get(&pfn).copied());
            }
        }
    }
}
