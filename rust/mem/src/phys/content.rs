//! The content of one frame by itself, for whoever keeps many memories that differ in little.
//!
//! A page of an explored machine is nearly empty, so what is kept is its words that are not 0, and its tags unless all are.
//! Left out: where the content came from. Invariants: equal content has equal values; once watched, every frame that a
//! write, a copy or a tag reached is told.

use tagvisor_arch::{PageTags, Pfn};

use super::{PhysMem, WORD};

/// Data and tags of a frame.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FrameContent {
    tags: Option<Box<PageTags>>,
    /// Index and value of the words that are not 0.
    words: Box<[(u16, u64)]>,
}

/// Which frames were written, if anybody watches.
#[derive(Clone, Debug, Default)]
pub(super) struct Changed {
    pub(super) watched: bool,
    frames: Vec<u32>,
}

impl Changed {
    #[inline]
    pub(super) fn note(&mut self, frame: u32) {
        if self.watched && self.frames.last() != Some(&frame) {
            self.frames.push(frame);
        }
    }
}

impl PhysMem {
    /// From now on [`PhysMem::take_changed`] knows what changed; the first time all frames are told.
    pub fn watch(&mut self) {
        self.changed.watched = true;
        for frame in 0..self.frames.len() as u32 {
            self.frames.frame_mut(frame).walked = true;
            self.changed.note(frame);
        }
    }

    /// Calls `each` with every frame that was written since this was called last.
    pub fn take_changed(&mut self, mut each: impl FnMut(Pfn)) {
        let mut frames = std::mem::take(&mut self.changed.frames);
        frames.sort_unstable();
        frames.dedup();
        for frame in frames.drain(..) {
            each(self.frames.frame(frame).pfn);
        }
        self.changed.frames = frames;
    }

    /// What a frame holds; `None` if its data and tags are all 0.
    pub fn content(&self, pfn: Pfn) -> Option<FrameContent> {
        let frame = self.frame_index(pfn)?;
        let tags = &self.tags[frame as usize];
        let tags = (*tags != PageTags::ZERO).then(|| Box::new(*tags));
        let mut words = Vec::new();
        if !self.data.is_untouched(frame) {
            let (all, _) = self.data.data(frame).as_chunks::<WORD>();
            // Whole cache lines of zeros, which most are, are passed over at once.
            for (line, chunk) in all.chunks_exact(8).enumerate() {
                if *chunk != [[0; WORD]; 8] {
                    let found = chunk.iter().enumerate().filter(|(_, word)| **word != [0; WORD]);
                    words.extend(found.map(|(i, word)| ((line * 8 + i) as u16, u64::from_le_bytes(*word))));
                }
            }
        }
        (tags.is_some() || !words.is_empty()).then(|| FrameContent {
            tags,
            words: words.into(),
        })
    }

    /// Makes a frame hold that, or nothing; this is not told as a change.
    ///
    /// # Panics
    /// If the page frame lies outside the regions.
    pub fn set_content(&mut self, pfn: Pfn, content: Option<&FrameContent>) {
        let frame = match (self.frame_index(pfn), content) {
            (None, None) => return,
            (Some(frame), _) => frame,
            (None, Some(_)) => self.touch(pfn),
        };
        self.descriptors.forget_all();
        self.tags[frame as usize] = content
            .and_then(|content| content.tags.as_deref().copied())
            .unwrap_or(PageTags::ZERO);
        match content.filter(|content| !content.words.is_empty()) {
            None => self.data.clear(frame),
            Some(content) => {
                let (all, _) = self.data.data_mut(frame).as_chunks_mut::<WORD>();
                all.fill([0; WORD]);
                for (index, word) in &content.words {
                    all[usize::from(*index)] = word.to_le_bytes();
                }
            }
        }
    }
}
