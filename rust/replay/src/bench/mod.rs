//! The built-in benchmarks: what a step of the machine costs, beside its native floor in the same process.
//!
//! Models a measurement, not a workload: ours and floor alternate for several rounds on the same records and
//! the medians are compared, so that a busy or throttled machine slows both. Each row names the ratio to reach.
//!
//! Leaves out statistics beyond the median; `benches/` has criterion for those who want distributions.
//!
//! Invariant: what a benchmark does is a function of its name and seed; only the times differ from run to run.

mod element;
mod host;
mod replay;
mod tags;

pub use element::{Accesses, Walks};
pub use replay::{Checked, roomy_engine};

use std::hint::black_box;
use std::time::Instant;

/// A benchmark that can be asked for.
#[derive(Clone, Copy, Debug)]
pub struct Benchmark {
    /// Its name.
    pub name: &'static str,
    /// One operation of it, in words.
    pub unit: &'static str,
    /// What it shows.
    pub summary: &'static str,
    /// The ratio to the floor that is to be reached.
    pub goal_ratio: f64,
    /// What QEMU needs for the same, as measured once on a machine of the kind that `benches/README.md` names.
    pub qemu: &'static str,
    /// Nanoseconds per operation of ours and of the floor, from a seed.
    measure: fn(u64) -> (f64, f64),
}

/// All benchmarks, in the order of reports.
pub const BENCHMARKS: [Benchmark; 17] = [
    Benchmark {
        name: "replay.seq",
        unit: "access",
        summary: "checked 8-byte loads in replay, sequential over 64 MiB; floor: record read, tag lookup, compare",
        goal_ratio: 4.0,
        qemu: "42 ns (user mode 10.0)",
        measure: |seed| replay::checked(Checked::sequential(seed)),
    },
    Benchmark {
        name: "replay.random",
        unit: "access",
        summary: "checked 8-byte loads in replay, random over 64 MiB; floor: record read, tag lookup, compare",
        goal_ratio: 4.0,
        qemu: "287 ns (user mode 10.0)",
        measure: |seed| replay::checked(Checked::random(seed)),
    },
    Benchmark {
        name: "heap.colour",
        unit: "granule",
        summary: "tags of fresh allocations written through the guest (STG); floor: nibble store per granule",
        goal_ratio: 10.0,
        qemu: "37 ns (STG, user mode 10.0)",
        measure: replay::heap_colour,
    },
    Benchmark {
        name: "stage2.fault",
        unit: "fault",
        summary: "first touch of a guest page, whole kernel path, ledger off; floor: memset of 4 KiB, another page each time",
        goal_ratio: 8.0,
        qemu: "",
        measure: |_| host::stage2_fault(false),
    },
    Benchmark {
        name: "stage2.fault.ledger",
        unit: "fault",
        summary: "the same, ledger on; the same floor",
        goal_ratio: 24.0,
        qemu: "",
        measure: |_| host::stage2_fault(true),
    },
    Benchmark {
        name: "swap.pair",
        unit: "pair",
        summary: "a tagged page to swap (MADV_PAGEOUT, zram) and back at the guest's next access, ledger off; floor: memset of \
                  4 KiB, another page each time",
        goal_ratio: 25.0,
        qemu: "",
        measure: |_| host::swap_pair(false),
    },
    Benchmark {
        name: "swap.pair.ledger",
        unit: "pair",
        summary: "the same, ledger on; the same floor",
        goal_ratio: 75.0,
        qemu: "",
        measure: |_| host::swap_pair(true),
    },
    Benchmark {
        name: "access.seq",
        unit: "access",
        summary: "Pe::load of 8 bytes, a TLB hit and checked, sequential over 64 MiB; floor: page lookup, permission test, \
                  tag compare, load",
        goal_ratio: 1.5,
        qemu: "62 ns (system mode 10.0, both stages)",
        measure: |seed| element::access(&mut Accesses::sequential(seed)),
    },
    Benchmark {
        name: "access.random",
        unit: "access",
        summary: "the same at random addresses; the same floor",
        goal_ratio: 1.2,
        qemu: "877 ns (system mode 10.0, both stages)",
        measure: |seed| element::access(&mut Accesses::random(seed)),
    },
    Benchmark {
        name: "access.walk",
        unit: "walk",
        summary: "a walk of 4 levels of stage 1 under 3 of stage 2, no TLB, from the last-level tables that memory keeps: two \
                  descriptors are read; floor: the dependent loads of all 19",
        goal_ratio: 2.0,
        qemu: "1 020 ns (AT S12E1R at random, system mode 10.0)",
        measure: |seed| element::walk(&mut Walks::new(seed), Walks::walk_all),
    },
    Benchmark {
        name: "access.walk.root",
        unit: "walk",
        summary: "the same, each walk from the root and through all 19 descriptors, as one that is traced; the same floor",
        goal_ratio: 2.0,
        qemu: "1 020 ns (AT S12E1R at random, system mode 10.0)",
        measure: |seed| element::walk(&mut Walks::new(seed), Walks::walk_all_from_root),
    },
    Benchmark {
        name: "access.stgm",
        unit: "instruction",
        summary: "Pe::stgm, 16 granules; floor: ours for a checked 8-byte load at the same places",
        goal_ratio: 2.0,
        qemu: "105 ns (system mode 10.0, both stages)",
        measure: |seed| element::stgm(&mut Accesses::blocks(seed)),
    },
    Benchmark {
        name: "access.ldgm",
        unit: "instruction",
        summary: "Pe::ldgm, 16 granules; floor: ours for a checked 8-byte load at the same places",
        goal_ratio: 2.0,
        qemu: "119 ns (system mode 10.0, both stages)",
        measure: |seed| element::ldgm(&mut Accesses::blocks(seed)),
    },
    Benchmark {
        name: "access.check",
        unit: "access",
        summary: "Pe::check of 8 bytes, as the bulk calls of Python do it; floor: page lookup, permission test, tag compare, load",
        goal_ratio: 1.5,
        qemu: "",
        measure: |seed| element::check(&mut Accesses::sequential(seed)),
    },
    Benchmark {
        name: "tags.fill",
        unit: "page",
        summary: "a page's 256 tags filled; floor: memory fill of 128 bytes",
        goal_ratio: 1.3,
        qemu: "282 ns (DC GVA, user mode 7.2)",
        measure: |_| tags::fill(),
    },
    Benchmark {
        name: "tags.copy",
        unit: "page",
        summary: "a page's 256 tags copied; floor: memory copy of 128 bytes",
        goal_ratio: 1.3,
        qemu: "",
        measure: |_| tags::copy(),
    },
    Benchmark {
        name: "tags.compare",
        unit: "page",
        summary: "a page's 256 tags compared, the first difference found; floor: comparison of 128 bytes",
        goal_ratio: 1.3,
        qemu: "",
        measure: |_| tags::compare(),
    },
];

/// A benchmark's figures.
#[derive(Clone, Copy, Debug)]
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

/// Runs the benchmark of that name; None if there is none.
pub fn run(name: &str, seed: u64) -> Option<Row> {
    let benchmark = *BENCHMARKS.iter().find(|benchmark| benchmark.name == name)?;
    let (ours_ns, floor_ns) = (benchmark.measure)(seed);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_unknown_ones_are_refused() {
        let mut names: Vec<_> = BENCHMARKS.iter().map(|benchmark| benchmark.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), BENCHMARKS.len());
        assert!(run("no.such", 1).is_none());
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
        for name in ["tags.fill", "stage2.fault"] {
            let row = run(name, 1).unwrap();
            assert!(row.ours_ns > 0.0 && row.floor_ns > 0.0 && row.ratio() > 0.0, "{row:?}");
        }
    }
}
