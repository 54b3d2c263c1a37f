//! The machine as Python drives it: one method per system call, ioctl, instruction and question.
//!
//! Names are the host's. Things are named by their numbers (a process, a VM, a vCPU's index), addresses are plain
//! integers; the façade in `python/tagvisor` hands out objects instead and checks ranges first.

mod kvm;
mod mm;
mod swap;

pub(crate) use mm::map_spec;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use tagvisor_host::{Config, PagemapEntry, Prot, StepLine, SwapKind, Violation};

use crate::decide::PyDecider;
use crate::enter::enter;
use crate::errors::{ArgumentError, Refusal};
use crate::policy::policy_of;

/// Number, actor, path, step and text of a line of the log.
pub(crate) type Line = (u32, String, &'static str, &'static str, String);
/// Property's number and title, summary, steps.
pub(crate) type Verdict = (&'static str, &'static str, String, Vec<Line>);
/// Present, swap, frame number, swap slot, `PG_mte_tagged`, swap device.
type Pagemap = (bool, bool, Option<u64>, Option<u64>, bool, Option<u8>);

/// An arm64 Linux host with MTE and KVM. One thread at a time is in it; others wait.
#[pyclass(frozen, module = "tagvisor._native")]
pub(crate) struct Machine {
    /// No other machine of this process has it: operations are made for one machine.
    id: u64,
    /// Poisoned by a panic: a machine that stopped in the middle of a step refuses further use.
    inner: Mutex<tagvisor_host::Machine>,
    /// Who decides at each kernel event, if anybody.
    decider: OnceLock<Arc<PyDecider>>,
}

impl Machine {
    /// Runs `work` on the machine, behind the door.
    pub(crate) fn with<T, F>(&self, py: Python<'_>, work: F) -> PyResult<T>
    where
        F: FnOnce(&mut tagvisor_host::Machine) -> Result<T, Refusal> + Send,
        T: Send,
    {
        let answer = enter(py, || {
            let mut machine = self.inner.lock().map_err(|_| Refusal::Poisoned)?;
            work(&mut machine)
        });
        match self.decider.get().and_then(|decider| decider.take_error()) {
            Some(error) => Err(error),
            None => answer,
        }
    }

    /// What tells it from other machines.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

#[pymethods]
impl Machine {
    #[new]
    #[pyo3(signature = (policy_name, policy_values, *, memory, zone_device, mmio, swap, zswap, ledger, log, tlb_bits, seed, init_on_free))]
    #[allow(clippy::too_many_arguments, clippy::fn_params_excessive_bools)] // the fields of `Config`, by keyword
    fn new(
        py: Python<'_>,
        policy_name: String,
        policy_values: Vec<(String, String)>,
        memory: u64,
        zone_device: u64,
        mmio: u64,
        swap: Vec<(u64, String, Option<i16>)>,
        zswap: u64,
        ledger: bool,
        log: bool,
        tlb_bits: u32,
        seed: u64,
        init_on_free: bool,
    ) -> PyResult<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let swap_areas = swap.into_iter().map(swap::area).collect::<PyResult<Vec<_>>>()?;
        enter(py, || {
            let policy = policy_of(policy_name, &policy_values)?;
            let config = Config {
                policy,
                memory,
                zone_device,
                mmio,
                swap: 0,
                swap_kind: SwapKind::Nvme,
                swap_areas,
                zswap,
                ledger,
                log,
                tlb_bits,
                init_on_free,
                seed,
            };
            Ok(Self {
                id: NEXT.fetch_add(1, Ordering::Relaxed),
                inner: Mutex::new(tagvisor_host::Machine::new(&config)?),
                decider: OnceLock::new(),
            })
        })
    }

    /// Asks `decide(knob, event)` about every knob at each kernel event from now on; once a machine.
    fn set_decider(&self, py: Python<'_>, decide: Py<PyAny>) -> PyResult<()> {
        let decider = Arc::new(PyDecider::new(decide));
        if self.decider.set(Arc::clone(&decider)).is_err() {
            return Err(ArgumentError::new_err((
                "decide",
                "a second one",
                "one decider a machine",
            )));
        }
        self.with(py, |machine| {
            machine.host_mut().set_decider(decider);
            Ok(())
        })
    }

    /// Audits everything; the first violation.
    fn check(&self, py: Python<'_>) -> PyResult<Option<Verdict>> {
        self.with(py, |machine| Ok(machine.check().err().as_ref().map(verdict)))
    }

    /// The violations found so far.
    fn violations(&self, py: Python<'_>) -> PyResult<Vec<Verdict>> {
        self.with(py, |machine| Ok(machine.violations().iter().map(verdict).collect()))
    }

    /// The numbered steps so far.
    fn log(&self, py: Python<'_>) -> PyResult<Vec<Line>> {
        self.with(py, |machine| Ok(machine.log().iter().map(line).collect()))
    }

    /// Counters by name.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = PyDict::new(py);
        for (name, value) in self.with(py, |machine| Ok(machine.stats().entries()))? {
            stats.set_item(name, value)?;
        }
        Ok(stats)
    }

    /// Panics on purpose, in the middle of a step as far as the machine can tell: how the tests see that a fault of
    /// ours becomes `InternalError` and that the machine then refuses further use.
    fn _panic_on_purpose(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |_| panic!("on purpose"))
    }
}

fn unknown(argument: &'static str, value: &str, expected: &'static str) -> PyErr {
    ArgumentError::new_err((argument, value.to_owned(), expected))
}

pub(crate) fn parse_prot(letters: &str) -> PyResult<Prot> {
    letters.chars().try_fold(Prot::empty(), |prot, letter| match letter {
        'r' => Ok(prot | Prot::READ),
        'w' => Ok(prot | Prot::WRITE),
        'm' => Ok(prot | Prot::MTE),
        _ => Err(unknown("prot", letters, "letters of 'rwm'")),
    })
}

fn pagemap(entry: PagemapEntry) -> Pagemap {
    let PagemapEntry {
        present,
        swap,
        pfn,
        entry,
        device,
        mte_tagged,
    } = entry;
    (present, swap, pfn.map(|p| p.0), entry, mte_tagged, device)
}

pub(crate) fn line(step: &StepLine) -> Line {
    (step.n, step.actor.clone(), step.path, step.step, step.text.clone())
}

pub(crate) fn verdict(violation: &Violation) -> Verdict {
    let Violation {
        property,
        summary,
        steps,
    } = violation;
    (
        property.id(),
        property.title(),
        summary.clone(),
        steps.iter().map(line).collect(),
    )
}
