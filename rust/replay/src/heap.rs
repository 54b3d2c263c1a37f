//! The heap of the replayed program: which allocation tags its allocator gives.
//!
//! Models the colouring of Scudo, Android's allocator (LLVM D70762 and `combined.h` of `scudo/standalone`):
//!
//! * an allocation gets a random tag of 1 to 15;
//! * the 16-byte granule before it, where the chunk header lies, has tag 0, and so has the granule after it,
//!   so a linear overflow or underflow of a granule is always caught;
//! * on free the payload is retagged at random, never with the tag it had, so the first use after free is
//!   always caught; the next allocation at the same address keeps that tag;
//! * a resize in place keeps the tag; a moved one is an allocation and a free;
//! * sizes are rounded up to granules, so an overflow inside the last granule passes, as on hardware;
//! * an allocation above [`LARGEST_COLOURED`] goes to the secondary allocator, which gives no colour.
//!
//! The recorded addresses are kept: chunks lie where the recorded program's allocator put them. That differs
//! from Scudo's own layout in that chunks of different sizes are neighbours, that freed memory is merged and
//! cut again (so a reused address starts at the same place less often), and that large allocations share
//! pages with small ones. Where a neighbour's payload begins in a granule that Scudo would leave empty (a
//! recording of an allocator without inline headers), the neighbour's tag stands.
//!
//! A recording has addresses, not pointers, so each access's logical tag is reconstructed: a pointer that
//! reaches a granule carries the tag of the allocation that last owned it, and the granule behind an
//! allocation is reached by overflowing that allocation. A stale pointer to memory that was handed out again
//! is therefore taken for a good one.
//!
//! Leaves out quarantine (off by default in Scudo), odd/even tags (off since D152984) and the primary's
//! size classes.
//!
//! Invariant: chunks on record do not overlap.

use crate::rng::SplitMix64;
use std::collections::BTreeMap;
use tagvisor_arch::{GRANULE_SIZE, Tag};

/// The largest size that is coloured: the largest class of Scudo's primary on Android holds 64 KiB.
pub const LARGEST_COLOURED: u64 = 64 << 10;

/// A chunk that is or was allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Bytes asked for.
    pub size: u64,
    /// The tag of pointers to it.
    pub tag: Tag,
    /// The tag its memory has got on free, or `tag` while it is live.
    pub memory: Tag,
    /// Allocated, not yet freed.
    pub live: bool,
}

impl Chunk {
    fn coloured(&self) -> bool {
        self.size <= LARGEST_COLOURED
    }

    /// Bytes of whole granules.
    fn payload(&self) -> u64 {
        self.size.next_multiple_of(GRANULE_SIZE)
    }
}

/// A change of tags over a range of whole granules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    /// First byte, on a granule.
    pub addr: u64,
    /// Length, whole granules.
    pub bytes: u64,
    /// The allocation tag the memory gets, if it changes.
    pub memory: Option<Tag>,
    /// The logical tag of pointers that reach it from now on, if it changes.
    pub pointer: Option<Tag>,
    /// Only pages that are in use already are painted: the rest of a fresh mapping is zero anyway.
    pub only_mapped: bool,
}

/// A call that a correct program does not make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeapFault {
    /// The pointer was never returned, or its chunk has been cut up since.
    UnknownPointer,
    /// The chunk is free already.
    DoubleFree,
}

/// What an address is to the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In an allocation: its pointer and itself.
    Inside(u64, Chunk),
    /// Behind an allocation, with the distance from its end.
    After(u64, Chunk, u64),
    /// Before an allocation, with the distance to its start.
    Before(u64, Chunk, u64),
    /// Not near any allocation.
    Elsewhere,
}

/// The allocator's state.
#[derive(Clone, Debug)]
pub struct Heap {
    chunks: BTreeMap<u64, Chunk>,
    live: usize,
    rng: SplitMix64,
}

impl Heap {
    /// An empty heap; the seed decides all tags.
    pub fn new(seed: u64) -> Self {
        Self {
            chunks: BTreeMap::new(),
            live: 0,
            rng: SplitMix64::new(seed),
        }
    }

    /// `malloc` returned `ptr` for `size` bytes; what changes goes to `out`, in order.
    pub fn malloc(&mut self, ptr: u64, size: u64, out: &mut Vec<Paint>) {
        let same_start = self.chunks.get(&ptr).filter(|chunk| !chunk.live && chunk.coloured());
        let reuse = same_start.map(|chunk| chunk.memory);
        let coloured = size <= LARGEST_COLOURED;
        let tag = match reuse {
            _ if !coloured => Tag::ZERO,
            Some(tag) => tag,
            None => self.random_tag(Tag::ZERO),
        };
        self.forget_overlaps(ptr, size);
        let chunk = Chunk {
            size,
            tag,
            memory: tag,
            live: true,
        };
        self.put(ptr, chunk);
        self.paint_chunk(ptr, chunk, out);
    }

    /// `free(ptr)` was called.
    pub fn free(&mut self, ptr: u64, out: &mut Vec<Paint>) -> Result<(), HeapFault> {
        let chunk = *self.chunks.get(&ptr).ok_or(HeapFault::UnknownPointer)?;
        if !chunk.live {
            return Err(HeapFault::DoubleFree);
        }
        let memory = if chunk.coloured() {
            self.random_tag(chunk.tag)
        } else {
            Tag::ZERO
        };
        self.put(
            ptr,
            Chunk {
                memory,
                live: false,
                ..chunk
            },
        );
        if chunk.coloured() && chunk.payload() > 0 {
            out.push(Paint {
                addr: granule(ptr),
                bytes: chunk.payload(),
                memory: Some(memory),
                pointer: None,
                only_mapped: false,
            });
        }
        Ok(())
    }

    /// `realloc(old, size)` returned `new`.
    pub fn realloc(&mut self, old: u64, new: u64, size: u64, out: &mut Vec<Paint>) -> Result<(), HeapFault> {
        match self.chunks.get(&old).copied() {
            Some(chunk) if old == new && chunk.live => {
                let coloured = size <= LARGEST_COLOURED;
                let tag = match (coloured, chunk.coloured()) {
                    (true, true) => chunk.tag,
                    (true, false) => self.random_tag(Tag::ZERO),
                    (false, _) => Tag::ZERO,
                };
                self.forget_overlaps(new, size);
                let resized = Chunk {
                    size,
                    tag,
                    memory: tag,
                    live: true,
                };
                self.put(new, resized);
                self.paint_chunk(new, resized, out);
                self.paint_cut_off_end(new, chunk, resized, out);
                Ok(())
            }
            _ => {
                // The new chunk first, as the data is copied into it before the old one is released.
                self.malloc(new, size, out);
                self.free(old, out)
            }
        }
    }

    /// What an address is to the heap: for reports, not for checks.
    pub fn place(&self, addr: u64) -> Place {
        let before = self.chunks.range(..=addr).next_back();
        if let Some((&ptr, &chunk)) = before {
            let end = ptr + chunk.size;
            if addr < end {
                return Place::Inside(ptr, chunk);
            }
            if addr - end < 2 * GRANULE_SIZE {
                return Place::After(ptr, chunk, addr - end);
            }
        }
        match self.chunks.range(addr..).next() {
            Some((&ptr, &chunk)) if ptr - addr <= GRANULE_SIZE => Place::Before(ptr, chunk, ptr - addr),
            _ => Place::Elsewhere,
        }
    }

    /// Allocations that are live now.
    pub fn live_chunks(&self) -> usize {
        self.live
    }

    /// A tag of 1 to 15 other than `exclude`, each as likely.
    fn random_tag(&mut self, exclude: Tag) -> Tag {
        let others = if exclude == Tag::ZERO { 15 } else { 14 };
        let drawn = 1 + self.rng.below(others) as u8;
        let skip = exclude != Tag::ZERO && drawn >= exclude.get();
        Tag::new(drawn + u8::from(skip))
    }

    fn put(&mut self, ptr: u64, chunk: Chunk) {
        let was = self.chunks.insert(ptr, chunk);
        self.live += usize::from(chunk.live);
        self.live -= usize::from(was.is_some_and(|chunk| chunk.live));
    }

    /// Drops the records that a chunk at `ptr` replaces, itself included.
    fn forget_overlaps(&mut self, ptr: u64, size: u64) {
        let end = ptr + size.next_multiple_of(GRANULE_SIZE).max(1);
        while let Some((&start, chunk)) = self.chunks.range(..end).next_back() {
            if start != ptr && start + chunk.payload() <= ptr {
                break;
            }
            let gone = self.chunks.remove(&start);
            self.live -= usize::from(gone.is_some_and(|chunk| chunk.live));
        }
    }

    fn paint_chunk(&self, ptr: u64, chunk: Chunk, out: &mut Vec<Paint>) {
        let (start, end) = (granule(ptr), granule(ptr) + chunk.payload());
        if !chunk.coloured() {
            out.push(Paint {
                addr: start,
                bytes: end - start,
                memory: Some(Tag::ZERO),
                pointer: Some(Tag::ZERO),
                only_mapped: true,
            });
            return;
        }
        let paint = |addr, bytes, memory, pointer| Paint {
            addr,
            bytes,
            memory: Some(memory),
            pointer,
            only_mapped: false,
        };
        if start >= GRANULE_SIZE && !self.owned(start - GRANULE_SIZE) {
            // Reached by overflowing the neighbour in front, if there is one, else by underflowing this one.
            let behind_another = self.ends_at(start - GRANULE_SIZE);
            let pointer = (!behind_another).then_some(chunk.tag);
            out.push(paint(start - GRANULE_SIZE, GRANULE_SIZE, Tag::ZERO, pointer));
        }
        if end > start {
            out.push(paint(start, end - start, chunk.tag, Some(chunk.tag)));
        }
        if !self.owned(end) {
            out.push(paint(end, GRANULE_SIZE, Tag::ZERO, Some(chunk.tag)));
        }
    }

    /// What a shrinking resize cuts off can still be reached by the old, larger extent's pointers.
    fn paint_cut_off_end(&self, ptr: u64, was: Chunk, now: Chunk, out: &mut Vec<Paint>) {
        let (from, to) = (
            granule(ptr) + now.payload() + GRANULE_SIZE,
            granule(ptr) + was.payload(),
        );
        if was.coloured() && now.coloured() && from < to && !self.owned(from) {
            out.push(Paint {
                addr: from,
                bytes: to - from,
                memory: Some(Tag::ZERO),
                pointer: None,
                only_mapped: false,
            });
        }
    }

    /// True when the granule at `addr` is payload of a live allocation.
    fn owned(&self, addr: u64) -> bool {
        let last = addr + GRANULE_SIZE - 1;
        self.chunks
            .range(..=last)
            .next_back()
            .is_some_and(|(&ptr, chunk)| chunk.live && granule(ptr) + chunk.payload() > addr)
    }

    /// True when a coloured chunk's payload ends where the granule at `addr` begins.
    fn ends_at(&self, addr: u64) -> bool {
        self.chunks
            .range(..addr)
            .next_back()
            .is_some_and(|(&ptr, chunk)| chunk.coloured() && granule(ptr) + chunk.payload() == addr)
    }
}

fn granule(addr: u64) -> u64 {
    addr & !(GRANULE_SIZE - 1)
}

#[cfg(test)]
mod tests;
