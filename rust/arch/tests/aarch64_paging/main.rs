//! Tables that the public `aarch64-paging` crate built, walked by this one.
//!
//! The crate lays out tables with the 4 KiB granule for a machine of its own; it knows nothing of this one, so the two
//! agree only if both read the architecture alike. Models random mappings, remappings and unmappings of pages and
//! blocks from each start level, of stage 2 and of both halves of stage 1. Left out: what the crate cannot build, which is
//! concatenated start tables, level -1 and other granules.
//!
//! The invariant: what was mapped is found, with its address, size, type and permissions, and nothing else is.

mod stage1;
mod stage2;

use std::ops::Range;

use proptest::prelude::*;
use tagvisor_arch::{DescriptorSource, Pa};

const TABLES: u64 = 0x4800_0000;
const BLOCK_PAGES: u64 = 512;
/// Pages from the start of each window that are looked at, one by one.
const WINDOW_PAGES: u64 = 4 * BLOCK_PAGES;

/// The tables as bytes in memory; there is nothing around them.
struct Image(Vec<u8>);

impl DescriptorSource for Image {
    fn read_descriptor(&mut self, pa: Pa) -> Option<u64> {
        let start = usize::try_from(pa.0.checked_sub(TABLES)?).ok()?;
        let bytes = self.0.get(start..start + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    fn write_descriptor(&mut self, pa: Pa, _: u64) {
        unreachable!("nothing here updates no descriptor, such as that at {pa}");
    }
}

/// Some pages of a window, or whole blocks.
fn pages() -> impl Strategy<Value = Range<u64>> {
    let some = (0..WINDOW_PAGES - 64, 1..64_u64).prop_map(|(at, len)| at..at + len);
    let blocks = (0..4_u64, 1..=4_u64).prop_map(|(at, len)| at * BLOCK_PAGES..(at + len).min(4) * BLOCK_PAGES);
    prop_oneof![some, blocks]
}

/// Frames of 1 TiB and above: the crate subtracts offsets in blocks of up to 512 GiB from them.
fn pfn() -> impl Strategy<Value = u64> {
    let block = (0x8_0000..0x10_0000_u64).prop_map(|block| block * BLOCK_PAGES);
    prop_oneof![(1_u64 << 28..1 << 30), block]
}
