//! The explorer as Python starts it.

use pyo3::prelude::*;
use tagvisor_explore::{Actor, Exploration, Finding, ScheduleError, Stop, Turn};
use tagvisor_host::Property;

use crate::enter::{check_signals, enter};
use crate::errors::{ArgumentError, Refusal};
use crate::machine::{Line, Machine, Verdict, line, verdict};
use crate::op::Op;

/// Distinct states, steps run, whether all were looked at, and the finding: a violation, or the steps of a deadlock.
type Outcome = (u64, u64, bool, Option<Verdict>, Option<Vec<Line>>);

/// Path and step to stop at, and whether behind it.
type Place = (String, String, bool);

/// Runs the actors' operations in every order of their steps. The machine is copied, not changed.
#[pyfunction]
pub(crate) fn explore(
    py: Python<'_>,
    machine: &Machine,
    actors: Vec<(String, Vec<Bound<'_, Op>>)>,
    properties: Vec<String>,
    max_states: u64,
) -> PyResult<Outcome> {
    let wanted = properties.iter().map(|p| property(p)).collect::<PyResult<Vec<_>>>()?;
    let actors = actors
        .into_iter()
        .map(|(name, ops)| actor(machine, name, &ops))
        .collect::<PyResult<Vec<_>>>()?;
    let start = machine.with(py, |machine| Ok(machine.host().clone()))?;
    let found = enter(py, || {
        let mut interrupted = Ok(());
        let found = tagvisor_explore::explore(&start, &actors, &wanted, max_states, &mut |_| {
            interrupted = check_signals();
            interrupted.is_ok()
        });
        interrupted?;
        Ok(found?)
    })?;
    Ok(outcome(&found))
}

fn property(number: &str) -> PyResult<Property> {
    let known = Property::ALL.into_iter().find(|p| p.id() == number);
    known.ok_or_else(|| ArgumentError::new_err(("properties", number.to_owned(), "P1 to P9")))
}

/// Runs the actors' operations on the machine itself, turn by turn: who, and the path and step to stop at, before or after
/// it.
#[pyfunction]
pub(crate) fn schedule(
    py: Python<'_>,
    machine: &Machine,
    actors: Vec<(String, Vec<Bound<'_, Op>>)>,
    turns: Vec<(usize, Option<Place>)>,
) -> PyResult<()> {
    let actors = actors
        .into_iter()
        .map(|(name, ops)| actor(machine, name, &ops))
        .collect::<PyResult<Vec<_>>>()?;
    let stop = |(path, step, after)| Stop { path, step, after };
    let turns: Vec<_> = turns
        .into_iter()
        .map(|(who, until)| Turn {
            who,
            until: until.map(stop),
        })
        .collect();
    machine.with(py, |machine| {
        tagvisor_explore::schedule(machine.host_mut(), &actors, &turns).map_err(|error| schedule_error(&error))
    })
}

fn schedule_error(error: &ScheduleError) -> Refusal {
    Refusal::Argument {
        argument: "turns",
        value: error.to_string(),
        expected: "turns that every actor can take, to the end of its operations".to_owned(),
    }
}

fn actor(machine: &Machine, name: String, ops: &[Bound<'_, Op>]) -> PyResult<Actor> {
    let on = |op: &Bound<'_, Op>| {
        let strange = || ArgumentError::new_err(("actors", op.clone().unbind(), "operations of this very Host"));
        op.get().on(machine).ok_or_else(strange)
    };
    let ops = ops.iter().map(on).collect::<PyResult<_>>()?;
    Ok(Actor { name, ops })
}

fn outcome(found: &Exploration) -> Outcome {
    let (violation, deadlock) = match &found.finding {
        None => (None, None),
        Some(Finding::Violation(violation)) => (Some(verdict(violation)), None),
        Some(Finding::Deadlock(steps)) => (None, Some(steps.iter().map(line).collect())),
    };
    (found.states, found.transitions, found.complete, violation, deadlock)
}
