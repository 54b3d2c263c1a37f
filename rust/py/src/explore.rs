//! The explorer as Python starts it.

use pyo3::prelude::*;
use tagvisor_explore::{Actor, Exploration, Finding, Options, ScheduleError, Stop, Turn};
use tagvisor_host::Property;

use crate::enter::{check_signals, enter};
use crate::errors::{ArgumentError, Refusal};
use crate::machine::{Line, Machine, Verdict, line, verdict};
use crate::op::Op;

/// Distinct states, steps run, whether all were looked at, bytes of the states, distinct values of their parts, and the
/// finding: a violation, or the steps of a deadlock.
type Outcome = (u64, u64, bool, u64, u64, Option<Verdict>, Option<Vec<Line>>);

/// Name, operations, and whether they begin again at their end.
type PyActor<'py> = (String, Vec<Bound<'py, Op>>, bool);

/// Path and step to stop at, and whether behind it.
type Place = (String, String, bool);

/// Runs the actors' operations in every order of their steps. The machine is copied, not changed.
#[pyfunction]
pub(crate) fn explore(
    py: Python<'_>,
    machine: &Machine,
    actors: Vec<PyActor<'_>>,
    properties: Vec<String>,
    max_states: u64,
    mirrors: bool,
) -> PyResult<Outcome> {
    let options = Options { max_states, mirrors };
    let wanted = properties.iter().map(|p| property(p)).collect::<PyResult<Vec<_>>>()?;
    let actors = actors
        .into_iter()
        .map(|(name, ops, forever)| actor(machine, name, &ops, forever))
        .collect::<PyResult<Vec<_>>>()?;
    let start = machine.with(py, |machine| Ok(machine.host().clone()))?;
    let found = enter(py, || {
        let mut interrupted = Ok(());
        let found = tagvisor_explore::explore(&start, &actors, &wanted, options, &mut |_| {
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
    actors: Vec<PyActor<'_>>,
    turns: Vec<(usize, Option<Place>)>,
) -> PyResult<()> {
    let actors = actors
        .into_iter()
        .map(|(name, ops, forever)| actor(machine, name, &ops, forever))
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

fn actor(machine: &Machine, name: String, ops: &[Bound<'_, Op>], forever: bool) -> PyResult<Actor> {
    let on = |op: &Bound<'_, Op>| {
        let strange = || ArgumentError::new_err(("actors", op.clone().unbind(), "operations of this very Host"));
        op.get().on(machine).ok_or_else(strange)
    };
    let ops = ops.iter().map(on).collect::<PyResult<_>>()?;
    Ok(Actor { name, ops, forever })
}

fn outcome(found: &Exploration) -> Outcome {
    let (violation, deadlock) = match &found.finding {
        None => (None, None),
        Some(Finding::Violation(violation)) => (Some(verdict(violation)), None),
        Some(Finding::Deadlock(steps)) => (None, Some(steps.iter().map(line).collect())),
    };
    (
        found.states,
        found.transitions,
        found.complete,
        found.bytes,
        found.values,
        violation,
        deadlock,
    )
}
