//! Benchmarks of replay.
//!
//! Models nothing: each sets up records for both sides. Left out: what a benchmark is; that is the parent's. The invariant: a
//! setting, once made, does the same work each time it runs.

use std::hint::black_box;

use tagvisor_arch::PAGE_SIZE;
use tagvisor_host::Config;

use super::{interleave, time};
use crate::engine::{Engine, Options};
use crate::floor::FlatTags;
use crate::record::{Columns, Event, Op};
use crate::rng::SplitMix64;

const REGION: u64 = 64 << 20;
/// Size of one allocation of the region, header granule included.
const CHUNK: u64 = 64 << 10;
const HEAP: u64 = 0x5555_0000_0000;

/// A machine with room for everything, as fast as it goes: no ledger, no log, a TLB that covers the region.
pub fn roomy_engine(guest_pages: u32, seed: u64) -> Engine {
    let config = Config {
        memory: 1 << 30,
        ledger: false,
        log: false,
        tlb_bits: 16,
        ..Config::default()
    };
    let options = Options {
        guest_pages,
        limit: None,
        seed,
        sample_every: 0,
    };
    Engine::boot(&config, options).expect("the benchmark's machine is one that can be")
}

/// Checked loads over one region: an engine that has coloured it, and the same loads for either side.
pub struct Checked {
    engine: Engine,
    flat: FlatTags,
    /// As a trace has them: program addresses.
    ours: Columns,
    /// As the floor wants them: offsets with the tag in bits 59:56.
    floor: Columns,
}

impl Checked {
    /// One load of 8 bytes at each multiple of 8.
    pub fn sequential(seed: u64) -> Self {
        Self::new(seed, |_, i| i * 8)
    }

    /// As many loads of 8 bytes at random multiples of 8.
    pub fn random(seed: u64) -> Self {
        Self::new(seed, |rng, _| rng.below(REGION / 8) * 8)
    }

    fn new(seed: u64, mut place: impl FnMut(&mut SplitMix64, u64) -> u64) -> Self {
        let mut engine = roomy_engine((REGION / PAGE_SIZE) as u32 + 16, seed);
        let mut allocations = Columns::default();
        for at in (0..REGION).step_by(CHUNK as usize) {
            // The chunk's first granule is its header; the loads keep off it.
            let event = Event {
                op: Op::Malloc,
                size: (CHUNK - 16) as u32,
                addr: HEAP + at + 16,
            };
            allocations.push(event);
        }
        engine
            .step(allocations.as_batch())
            .expect("a heap of 64 MiB fits the guest");

        let chunk_tag = |at: u64| at / CHUNK % 15 + 1;
        let pages_per_chunk = (CHUNK / PAGE_SIZE) as usize;
        let flat = FlatTags::new((REGION / PAGE_SIZE) as usize, |page| {
            (page / pages_per_chunk % 15 + 1) as u8
        });
        let mut rng = SplitMix64::new(seed);
        let (mut ours, mut floor) = (Columns::default(), Columns::default());
        for i in 0..REGION / 8 {
            let at = place(&mut rng, i);
            let at = if at % CHUNK < 16 { at + 16 } else { at };
            ours.push(Event {
                op: Op::Load,
                size: 8,
                addr: HEAP + at,
            });
            floor.push(Event {
                op: Op::Load,
                size: 8,
                addr: chunk_tag(at) << 56 | at,
            });
        }
        Self {
            engine,
            flat,
            ours,
            floor,
        }
    }

    /// Number of loads.
    pub fn loads(&self) -> u64 {
        self.ours.len() as u64
    }

    /// The loads through the machine; a mismatch would be a mistake of the benchmark.
    pub fn run_ours(&mut self) {
        let counters = self.engine.step(self.ours.as_batch()).expect("every load is possible");
        assert_eq!(counters.mismatches, 0, "the loads keep inside their allocations");
    }

    /// The loads on flat tags.
    pub fn run_floor(&self) {
        let bad = self.flat.mismatches(&self.floor.as_batch());
        assert_eq!(bad, 0, "the loads carry the tags of the flat memory");
    }
}

pub(super) fn checked(setting: Checked) -> (f64, f64) {
    let loads = setting.loads() as u32;
    let setting = std::cell::RefCell::new(setting);
    interleave(
        loads,
        || time(|| setting.borrow_mut().run_ours()),
        || time(|| setting.borrow().run_floor()),
    )
}

pub(super) fn heap_colour(seed: u64) -> (f64, f64) {
    const CHUNKS: u64 = 4096;
    const SIZE: u64 = 1024;
    let mut engine = roomy_engine(1 << 16, seed);
    let (mut allocate, mut release) = (Columns::default(), Columns::default());
    for i in 0..CHUNKS {
        let addr = HEAP + 16 + i * (SIZE + 16);
        allocate.push(Event {
            op: Op::Malloc,
            size: SIZE as u32,
            addr,
        });
        release.push(Event {
            op: Op::Free,
            size: 0,
            addr,
        });
    }
    engine.step(allocate.as_batch()).expect("the heap fits the guest");
    let granules = CHUNKS * (SIZE / 16);
    let mut flat = FlatTags::new((granules * 16 / PAGE_SIZE) as usize, |_| 0);
    // A release colours the same granules once; allocating again is left out of the clock.
    interleave(
        granules as u32,
        || {
            let taken = time(|| engine.step(release.as_batch()).map(|counters| counters.frees));
            engine.step(allocate.as_batch()).expect("the heap fits the guest");
            taken
        },
        || time(|| flat.store_each(black_box(7))),
    )
}
