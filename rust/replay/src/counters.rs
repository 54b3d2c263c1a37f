//! What a replay cost: counters, samples over time, and the first mismatches.
//!
//! Models the figures that decide between policies: faults, tag maintenance, swap traffic and the memory that
//! saved tags take. Leaves out time: how long a replay took is the caller's to measure, so that equal runs give
//! equal results.
//!
//! Invariant: counters only grow, except those that say "now".

use crate::heap::Place;
use tagvisor_arch::Tag;

/// Makes the struct and its list of names from one place.
macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)*) => {
        /// Totals since the replay began.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $($(#[doc = $doc])+ pub $name: u64,)* }

        impl Counters {
            /// Names and values, in a fixed order.
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Events of the trace done, heap events included.
    events,
    /// Loads and stores.
    accesses,
    /// Loads.
    loads,
    /// Stores.
    stores,
    /// Granules whose allocation tag was compared with a pointer's.
    tag_checks,
    /// Accesses whose tags differed.
    mismatches,
    /// Allocations.
    mallocs,
    /// Releases of live allocations.
    frees,
    /// Resizes.
    reallocs,
    /// Releases or resizes of what is not a live allocation.
    invalid_frees,
    /// Allocations live now.
    live_chunks,
    /// Pages of the guest in use.
    pages,
    /// Stage-2 faults.
    stage2_faults,
    /// Pages written to swap.
    swap_outs,
    /// Pages read from swap.
    swap_ins,
    /// Times that a page's tags were saved.
    tag_saves,
    /// Times that saved tags were restored.
    tag_restores,
    /// Pages whose tags were cleared.
    page_tag_clears,
    /// Invalidations that reached the VM.
    notifier_invalidations,
    /// Pages of saved tags now.
    saved_tag_pages,
    /// Bytes of saved tags now.
    saved_tag_bytes,
    /// The most bytes of saved tags there were.
    saved_tag_bytes_peak,
    /// Pages resident now.
    resident_pages,
}

/// A point of the time series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Accesses done.
    pub accesses: u64,
    /// Bytes of saved tags.
    pub saved_tag_bytes: u64,
    /// Pages resident.
    pub resident_pages: u64,
    /// Pages written to swap so far.
    pub swap_outs: u64,
    /// Stage-2 faults so far.
    pub stage2_faults: u64,
}

/// An access whose logical and allocation tag differed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The event's number in the trace, from 0.
    pub event: u64,
    /// The first byte accessed, as the program addressed it.
    pub addr: u64,
    /// Bytes accessed.
    pub size: u32,
    /// A store?
    pub write: bool,
    /// The pointer's tag.
    pub logical: Tag,
    /// The tag of the first granule that differed.
    pub allocation: Tag,
    /// What the address is to the program's heap.
    pub place: Place,
}

impl Mismatch {
    /// The place in words, as a sanitizer would say it.
    pub fn describe(&self) -> String {
        match self.place {
            Place::Inside(ptr, chunk) if chunk.live => {
                let (at, size) = (self.addr - ptr, chunk.size);
                format!("{at} bytes into a live allocation of {size} bytes at {ptr:#x}")
            }
            Place::Inside(ptr, chunk) => {
                let (at, size) = (self.addr - ptr, chunk.size);
                format!("{at} bytes into an allocation of {size} bytes at {ptr:#x} that was freed")
            }
            Place::After(ptr, chunk, by) => {
                format!(
                    "{by} bytes past the end of an allocation of {} bytes at {ptr:#x}",
                    chunk.size
                )
            }
            Place::Before(ptr, chunk, by) => {
                format!("{by} bytes before an allocation of {} bytes at {ptr:#x}", chunk.size)
            }
            Place::Elsewhere => "not near any allocation".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::Chunk;

    fn at(place: Place) -> Mismatch {
        Mismatch {
            event: 0,
            addr: 0x5018,
            size: 8,
            write: false,
            logical: Tag::new(3),
            allocation: Tag::ZERO,
            place,
        }
    }

    #[test]
    fn places_are_described_as_a_sanitizer_would() {
        let live = Chunk {
            size: 8,
            tag: Tag::new(3),
            memory: Tag::new(3),
            live: true,
        };
        let freed = Chunk { live: false, ..live };
        assert_eq!(
            at(Place::After(0x5010, live, 0)).describe(),
            "0 bytes past the end of an allocation of 8 bytes at 0x5010"
        );
        assert_eq!(
            at(Place::Inside(0x5010, freed)).describe(),
            "8 bytes into an allocation of 8 bytes at 0x5010 that was freed"
        );
    }

    #[test]
    fn names_of_counters_are_distinct() {
        let mut names: Vec<_> = Counters::default()
            .entries()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
