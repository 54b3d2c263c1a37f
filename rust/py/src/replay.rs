//! Replay for Python: an engine that takes columns, and the benchmarks.
//!
//! A batch runs without the GIL, in chunks; between two of them Python's signals are looked at, so that Ctrl-C
//! ends a call in the middle of a batch with the engine whole and its counters telling how far it went.

mod trace;

use std::sync::Mutex;

use numpy::{PyArray1, PyReadonlyArray1, ToPyArray};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tagvisor_host::Config;
use tagvisor_replay::bench::{BENCHMARKS, run as run_benchmark};
use tagvisor_replay::counters::{Counters, Mismatch, Sample};
use tagvisor_replay::engine::{BootError, Engine, Options, ReplayError};
use tagvisor_replay::record::Batch;

use crate::enter::enter;
use crate::errors::{ArgumentError, Refusal};
use crate::policy::policy_of;

pub(crate) use trace::LackeyImporter;

/// Events between two looks at signals. A chunk in which every event swaps a page out and one in takes tens of
/// milliseconds, an ordinary one less than one.
const CHUNK: usize = 8 << 10;

/// Event, address, size, store, logical tag, allocation tag, the place in words.
type MismatchFields = (u64, u64, u32, bool, u8, u8, String);

/// A guest with a recorded program in it.
#[pyclass(frozen, module = "tagvisor._native")]
pub(crate) struct Replay {
    /// Poisoned by a panic: an engine that stopped in the middle of an event refuses further use.
    engine: Mutex<Engine>,
}

impl Replay {
    fn with<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&mut Engine) -> T + Send) -> PyResult<T> {
        enter(py, || {
            let mut engine = self.engine.lock().map_err(|_| Refusal::Poisoned)?;
            Ok(work(&mut engine))
        })
    }
}

#[pymethods]
impl Replay {
    #[new]
    #[pyo3(signature = (policy_name, policy_values, *, memory, swap, guest_pages, limit, tlb_bits, ledger, seed, sample_every))]
    #[allow(clippy::too_many_arguments)] // the machine's and the engine's choices, by keyword
    fn new(
        py: Python<'_>,
        policy_name: String,
        policy_values: Vec<(String, String)>,
        memory: u64,
        swap: u64,
        guest_pages: u32,
        limit: Option<u64>,
        tlb_bits: u32,
        ledger: bool,
        seed: u64,
        sample_every: u64,
    ) -> PyResult<Self> {
        enter(py, || {
            let policy = policy_of(policy_name, &policy_values)?;
            let config = Config {
                policy,
                memory,
                swap,
                ledger,
                log: false,
                tlb_bits,
                seed,
                ..Config::default()
            };
            let options = Options {
                guest_pages,
                limit,
                seed,
                sample_every,
            };
            let engine = Engine::boot(&config, options).map_err(|error| match error {
                BootError::Config(error) => Refusal::from(error),
                BootError::Refused { call, errno } => Refusal::Linux { errno, call },
            })?;
            Ok(Self {
                engine: Mutex::new(engine),
            })
        })
    }

    /// Does a batch of events. Returns what cannot be replayed, in words, or None.
    fn step(
        &self,
        py: Python<'_>,
        op: PyReadonlyArray1<'_, u8>,
        size: PyReadonlyArray1<'_, u32>,
        addr: PyReadonlyArray1<'_, u64>,
    ) -> PyResult<Option<String>> {
        let contiguous = |_| ArgumentError::new_err(("columns", "strided arrays", "contiguous arrays"));
        let (op, size, addr) = (
            op.as_slice().map_err(contiguous)?,
            size.as_slice().map_err(contiguous)?,
            addr.as_slice().map_err(contiguous)?,
        );
        let batch = Batch::new(op, size, addr)
            .map_err(|error| ArgumentError::new_err(("columns", error.to_string(), "columns of one length")))?;
        for first in (0..batch.len()).step_by(CHUNK) {
            let done: Result<Counters, ReplayError> = self.with(py, |engine| engine.step(batch.slice(first, CHUNK)))?;
            if let Err(error) = done {
                return Ok(Some(error.to_string()));
            }
            py.check_signals()?;
        }
        Ok(None)
    }

    /// Totals since the beginning, by name.
    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = self.with(py, |engine| engine.counters())?;
        let dict = PyDict::new(py);
        for (name, value) in counters.entries() {
            dict.set_item(name, value)?;
        }
        Ok(dict)
    }

    /// The first mismatches.
    fn mismatches(&self, py: Python<'_>) -> PyResult<Vec<MismatchFields>> {
        let fields = |found: &Mismatch| {
            (
                found.event,
                found.addr,
                found.size,
                found.write,
                found.logical.get(),
                found.allocation.get(),
                found.describe(),
            )
        };
        self.with(py, |engine| engine.mismatches().iter().map(fields).collect())
    }

    /// The time series, an array a column, by name.
    fn samples<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let samples: Vec<Sample> = self.with(py, |engine| engine.samples().to_vec())?;
        let column = |field: fn(&Sample) -> u64| -> Bound<'py, PyArray1<u64>> {
            samples.iter().map(field).collect::<Vec<_>>().to_pyarray(py)
        };
        let dict = PyDict::new(py);
        dict.set_item("accesses", column(|sample| sample.accesses))?;
        dict.set_item("saved_tag_bytes", column(|sample| sample.saved_tag_bytes))?;
        dict.set_item("resident_pages", column(|sample| sample.resident_pages))?;
        dict.set_item("swap_outs", column(|sample| sample.swap_outs))?;
        dict.set_item("stage2_faults", column(|sample| sample.stage2_faults))?;
        Ok(dict)
    }

    /// Violations that the ledger has noticed: property and summary.
    fn violations(&self, py: Python<'_>) -> PyResult<Vec<(&'static str, String)>> {
        self.with(py, |engine| {
            let found = engine.machine().violations().iter();
            found
                .map(|violation| (violation.property.id(), violation.summary.clone()))
                .collect()
        })
    }
}

/// Name, unit, summary, goal and QEMU's figure of every benchmark.
#[pyfunction]
pub(crate) fn benchmarks() -> Vec<(&'static str, &'static str, &'static str, f64, &'static str)> {
    BENCHMARKS
        .iter()
        .map(|b| (b.name, b.unit, b.summary, b.goal_ratio, b.qemu))
        .collect()
}

/// Runs one benchmark: nanoseconds per operation, ours and the floor's; None if there is none of that name.
#[pyfunction]
pub(crate) fn bench(py: Python<'_>, name: &str, seed: u64) -> PyResult<Option<(f64, f64)>> {
    enter(py, || {
        Ok(run_benchmark(name, seed).map(|row| (row.ours_ns, row.floor_ns)))
    })
}
