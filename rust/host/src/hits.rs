//! Runs of accesses that need nothing of the host: TLB hits whose tags match.
//!
//! **Models** what a processor does between two exceptions. [`Machine::guest_check`] decides one access;
//! [`Machine::guest_check_hits`] decides how many of a run pass before one has to take that way. It changes nothing, and
//! each access's lookups depend on no other's, so that the processor it runs on has many of them in flight at once.
//!
//! **Keeps**: an access counts as a hit exactly if `guest_check` would answer `Ok` without the real path.

use tagvisor_arch::{GRANULE_SIZE, PAGE_SIZE, PageTags, Tag, Va};
use tagvisor_mem::{Tlb, TlbFlags};

use crate::ids::VcpuId;
use crate::machine::Machine;

/// Accesses that one pass over the TLB hands to one pass over the tags.
const RUN: usize = 512;

impl Machine {
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
            let in_tlb = translate_run(tlb, tags, pointers, stores, &mut frames);
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
fn translate_run(tlb: &Tlb, tags: &[PageTags], pointers: &[u64], stores: &[u8], frames: &mut [u32; RUN]) -> usize {
    let (mut count, mut moves) = (0, 0);
    // Programs stay on a page for a while: the entry of the access before is looked at first.
    let (mut vpn, mut found, mut flags) = (u64::MAX, 0, TlbFlags::empty());
    for ((frame, &ptr), &store) in frames.iter_mut().zip(pointers).zip(stores) {
        let access = if store == 0 { TlbFlags::READ } else { TlbFlags::WRITE };
        if Va(ptr).vpn() != vpn {
            vpn = Va(ptr).vpn();
            moves += 1;
            let Some(entry) = tlb.lookup(vpn) else { break };
            (found, flags) = (entry.frame, entry.flags);
        }
        if !flags.contains(access | TlbFlags::TAGGED) {
            break;
        }
        *frame = found;
        count += 1;
    }
    if moves > count / 2 {
        bring_near(tags, &frames[..count], pointers);
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
        let page = tags[frame as usize].as_bytes();
        let (first, bytes) = (ptr % PAGE_SIZE, u64::from(size));
        debug_assert!(bytes > 0 && first + bytes <= PAGE_SIZE, "an access inside one page");
        let last = first + bytes - 1;
        // The outer granules' tags and the pointer's, two to a byte: bits above the low four are somebody else's.
        let tag_at = |offset: u64| page[(offset / 32 % 128) as usize] >> (offset / GRANULE_SIZE % 2 * 4);
        let tag = Va(ptr).tag().get();
        if ((tag_at(first) ^ tag) | (tag_at(last) ^ tag)) & 0xf != 0 {
            break;
        }
        // Accesses of more than two granules are rare: their inner granules are worth a loop only then.
        if bytes > GRANULE_SIZE + 1 && !uniform(&tags[frame as usize], first, last, Tag::new(tag)) {
            break;
        }
        count += 1;
    }
    count
}

fn uniform(page: &PageTags, first: u64, last: u64, tag: Tag) -> bool {
    (first / GRANULE_SIZE..=last / GRANULE_SIZE).all(|granule| page.get(granule as usize) == tag)
}
