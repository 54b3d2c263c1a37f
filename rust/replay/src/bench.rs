//! The built-in benchmarks: what a step of the machine costs, beside its native floor in the same process.
//!
//! Models a measurement, not a workload: ours and floor alternate for several rounds on the same records and
//! the medians are compared, so that a busy or throttled machine slows both. Each row names the ratio to reach.
//!
//! Leaves out statistics beyond the median; `benches/` has criterion for those who want distributions.
//!
//! Invariant: what a benchmark does is a function of its name and seed; only the times differ from run to run.

use crate::engine::{Engine, Options};
use crate::floor::{FlatTags, touch_pages};
use crate::record::{Columns, Event, Op};
use crate::rng::SplitMix64;
use std::hint::black_box;
use std::time::Instant;
use tagvisor_arch::{PAGE_SIZE, PageTags, Tag};
use tagvisor_host::Config;

/// A benchmark that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Benchmark {
    /// Its name.
    pub name: &'static str,
    /// One operation of it, in words.
    pub unit: &'static str,
    /// What it shows.
    pub summary: &'static str,
    /// The ratio to the floor that is to be reached.
    pub goal_ratio: f64,
}

/// All benchmarks, in the order of reports.
pub const BENCHMARKS: [Benchmark; 5] = [
    Benchmark {
        name: "replay.seq",
        unit: "access",
        summary: "checked 8-byte loads in replay, sequential over 64 MiB; floor: record read, tag lookup, compare",
        goal_ratio: 4.0,
    },
    Benchmark {
        name: "replay.random",
        unit: "access",
        summary: "checked 8-byte loads in replay, random over 64 MiB; floor: record read, tag lookup, compare",
        goal_ratio: 4.0,
    },
    Benchmark {
        name: "heap.colour",
        unit: "granule",
        summary: "tags of fresh allocations written through the guest (STG); floor: nibble store per granule",
        goal_ratio: 10.0,
    },
    Benchmark {
        name: "mem.fill",
        unit: "page",
        summary: "a page's 256 tags filled; floor: memory fill of 128 bytes",
        goal_ratio: 2.0,
    },
    Benchmark {
        name: "stage2.fault",
        unit: "fault",
        summary: "first touch of a guest page, whole kernel path; floor: zeroing its data and its tags",
        goal_ratio: 20.0,
    },
];

/// A benchmark's figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Which benchmark.
    pub benchmark: Benchmark,
    /// Nanoseconds per operation, median of the rounds.
    pub ours_ns: f64,
    /// Nanoseconds per operation of the floor, likewise.
    pub floor_ns: f64,
}

impl Row {
    /// How many floors ours costs.
    pub fn ratio(&self) -> f64 {
        self.ours_ns / self.floor_ns
    }
}

const ROUNDS: usize = 7;
const REGION: u64 = 64 << 20;
/// Size of one allocation of the region, header granule included.
const CHUNK: u64 = 64 << 10;
const HEAP: u64 = 0x5555_0000_0000;

/// Runs the benchmark of that name; None if there is none.
pub fn run(name: &str, seed: u64) -> Option<Row> {
    let benchmark = *BENCHMARKS.iter().find(|benchmark| benchmark.name == name)?;
    let (ours_ns, floor_ns) = match benchmark.name {
        "replay.seq" => checked(Checked::sequential(seed)),
        "replay.random" => checked(Checked::random(seed)),
        "heap.colour" => heap_colour(seed),
        "mem.fill" => mem_fill(),
        _ => stage2_fault(seed),
    };
    Some(Row {
        benchmark,
        ours_ns,
        floor_ns,
    })
}

/// Alternates ours and floor; the median time of each over `operations`, in nanoseconds.
fn interleave(operations: u32, mut ours: impl FnMut() -> f64, mut floor: impl FnMut() -> f64) -> (f64, f64) {
    let rounds: Vec<(f64, f64)> = (0..ROUNDS).map(|_| (ours(), floor())).collect();
    let (ours, floor) = rounds.into_iter().unzip();
    let median = |mut times: Vec<f64>| {
        times.sort_unstable_by(f64::total_cmp);
        times[ROUNDS / 2] / f64::from(operations)
    };
    (median(ours), median(floor))
}

/// Nanoseconds that `work` takes.
fn time<T>(work: impl FnOnce() -> T) -> f64 {
    let start = Instant::now();
    black_box(work());
    start.elapsed().as_secs_f64() * 1e9
}

/// `work`, with a clock around each call.
fn timed(mut work: impl FnMut()) -> impl FnMut() -> f64 {
    move || time(&mut work)
}

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

fn checked(setting: Checked) -> (f64, f64) {
    let loads = setting.loads() as u32;
    let setting = std::cell::RefCell::new(setting);
    interleave(
        loads,
        || time(|| setting.borrow_mut().run_ours()),
        || time(|| setting.borrow().run_floor()),
    )
}

fn heap_colour(seed: u64) -> (f64, f64) {
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

fn mem_fill() -> (f64, f64) {
    const PAGES: usize = 16384;
    let mut pages = vec![PageTags::ZERO; PAGES];
    let mut flat = FlatTags::new(PAGES, |_| 0);
    let ours = || {
        for page in &mut pages {
            black_box(page).fill(black_box(Tag::new(7)));
        }
    };
    interleave(PAGES as u32, timed(ours), timed(|| flat.fill(black_box(7))))
}

fn stage2_fault(seed: u64) -> (f64, f64) {
    const PAGES: u64 = 4096;
    let engine = roomy_engine(PAGES as u32, seed);
    let mut touches = Columns::default();
    for page in 0..PAGES {
        touches.push(Event {
            op: Op::Store,
            size: 8,
            addr: HEAP + page * PAGE_SIZE,
        });
    }
    interleave(
        PAGES as u32,
        || {
            let mut fresh = engine.clone();
            time(|| fresh.step(touches.as_batch()).map(|counters| counters.stage2_faults))
        },
        || time(|| touch_pages(PAGES as usize)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_unknown_ones_are_refused() {
        let mut names: Vec<_> = BENCHMARKS.iter().map(|benchmark| benchmark.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), BENCHMARKS.len());
        assert_eq!(run("no.such", 1), None);
    }

    #[test]
    fn medians_are_per_operation() {
        let (mut a, mut b) = (0.0, 0.0);
        let (ours, floor) = interleave(
            10,
            || {
                a += 100.0;
                a
            },
            || {
                b += 10.0;
                b
            },
        );
        assert!((ours - 40.0).abs() < 1e-9 && (floor - 4.0).abs() < 1e-9);
    }

    #[test]
    fn small_benchmarks_give_times() {
        for name in ["mem.fill", "stage2.fault"] {
            let row = run(name, 1).unwrap();
            assert!(row.ours_ns > 0.0 && row.floor_ns > 0.0 && row.ratio() > 0.0, "{row:?}");
        }
    }
}
