//! Runs of accesses that need nothing of the host: TLB hits whose tags match.
//!
//! **Models** what a processor does between two exceptions. [`Machine::guest_check`] decides one access;
//! [`Machine::guest_check_hits`] decides how many of a run pass before one has to take that way, and [`GuestPage`] does so
//! for accesses that stay on a page. Neither changes anything. Where accesses go all over memory, each one's look-ups depend
//! on no other's, so that the processor has many of them in flight at once.
//!
//! **Keeps**: an access counts as a hit exactly if `guest_check` would answer `Ok` without the real path.

use tagvisor_arch::{GRANULE_SIZE, PAGE_SIZE, PageTags, Tag, Va};
use tagvisor_mem::{MicroTlb, TlbFlags};

use crate::ids::VcpuId;
use crate::machine::Machine;

/// Accesses that one pass over the TLB hands to one pass over the tags.
const RUN: usize = 512;

/// A guest page as a TLB hit finds it.
#[derive(Clone, Copy, Debug)]
pub struct GuestPage<'a> {
    tags: &'a PageTags,
    writable: bool,
}

impl GuestPage<'_> {
    /// Does an access pass that is of `bytes` bytes, at least one, all inside the page, at `offset`, through a pointer with
    /// that tag?
    #[inline]
    pub fn passes(&self, offset: u64, bytes: u32, tag: Tag, write: bool) -> bool {
        (self.writable || !write) && tags_match(self.tags, offset, bytes.into(), tag)
    }
}

impl Machine {
    /// The page of an address, if it is in the vCPU's TLB as Tagged memory.
    #[inline]
    pub fn guest_page(&self, vcpu: VcpuId, address: Va) -> Option<GuestPage<'_>> {
        let entry = self.host().vcpu(vcpu).tlb.lookup(address.vpn())?;
        let tagged = entry.flags.contains(TlbFlags::READ | TlbFlags::TAGGED);
        tagged.then(|| GuestPage {
            tags: &self.host().mem.tag_slab()[entry.frame as usize],
            writable: entry.flags.contains(TlbFlags::WRITE),
        })
    }

    /// How many of the accesses from the first on are TLB hits with matching tags.
    ///
    /// Access `i` is of `sizes[i]` bytes at `pointers[i]`, a store if `stores[i]` is not 0. The shortest slice rules. Each
    /// access is of at least one byte and inside one page: whoever makes the run has seen to that.
    pub fn guest_check_hits(&self, vcpu: VcpuId, pointers: &[u64], sizes: &[u32], stores: &[u8]) -> usize {
        let tlb = &self.host().vcpu(vcpu).tlb;
        let tags = self.host().mem.tag_slab();
        let mut frames = [0; RUN];
        let mut passed = 0;
        let runs = pointers.chunks(RUN).zip(sizes.chunks(RUN)).zip(stores.chunks(RUN));
        for ((pointers, sizes), stores) in runs {
            let in_tlb = translate_run(tlb, pointers, stores, &mut frames);
            bring_near(tags, &frames[..in_tlb], pointers);
            let matching = check_run(tags, &frames[..in_tlb], pointers, sizes);
            passed += matching;
            if matching < pointers.len() {
                break;
            }
        }
        passed
    }
}

/// Translates accesses until one is no TLB hit that may be checked; how many there were.
#[inline]
fn translate_run(tlb: &MicroTlb, pointers: &[u64], stores: &[u8], frames: &mut [u32; RUN]) -> usize {
    let mut count = 0;
    for ((frame, &ptr), &store) in frames.iter_mut().zip(pointers).zip(stores) {
        let access = if store == 0 { TlbFlags::READ } else { TlbFlags::WRITE };
        let Some(entry) = tlb.lookup(Va(ptr).vpn()) else { break };
        if !entry.flags.contains(access | TlbFlags::TAGGED) {
            break;
        }
        *frame = entry.frame;
        count += 1;
    }
    count
}

/// Touches the tags of accesses all over memory before they are compared, in a loop so short that many cache misses are under
/// way at once: without it random accesses take half as long again.
#[inline]
fn bring_near(tags: &[PageTags], frames: &[u32], pointers: &[u64]) {
    let touched = frames.iter().zip(pointers).fold(0, |all, (&frame, &ptr)| {
        all ^ tags[frame as usize].as_bytes()[(ptr / 32 % 128) as usize]
    });
    std::hint::black_box(touched);
}

/// Compares tags until some differ; how many accesses passed.
#[inline]
fn check_run(tags: &[PageTags], frames: &[u32], pointers: &[u64], sizes: &[u32]) -> usize {
    let mut count = 0;
    for ((&frame, &ptr), &size) in frames.iter().zip(pointers).zip(sizes) {
        if !tags_match(&tags[frame as usize], ptr % PAGE_SIZE, size.into(), Va(ptr).tag()) {
            break;
        }
        count += 1;
    }
    count
}

/// Has every granule of an access inside a page the pointer's tag?
#[inline]
fn tags_match(page: &PageTags, first: u64, bytes: u64, tag: Tag) -> bool {
    debug_assert!(bytes > 0 && first + bytes <= PAGE_SIZE, "an access inside one page");
    let last = first + bytes - 1;
    // The outer granules' tags, two to a byte: bits above the low four are somebody else's.
    let packed = page.as_bytes();
    let tag_at = |offset: u64| packed[(offset / 32 % 128) as usize] >> (offset / GRANULE_SIZE % 2 * 4);
    let differ = (tag_at(first) ^ tag.get()) | (tag_at(last) ^ tag.get());
    // Accesses of more than two granules are rare: their inner granules are worth a loop only then.
    differ.trailing_zeros() >= 4 && (bytes <= GRANULE_SIZE + 1 || uniform(page, first, last, tag))
}

fn uniform(page: &PageTags, first: u64, last: u64, tag: Tag) -> bool {
    (first / GRANULE_SIZE..=last / GRANULE_SIZE).all(|granule| page.get(granule as usize) == tag)
}
