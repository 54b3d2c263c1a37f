//! One interleaving, told by hand: who runs, and up to which step.
//!
//! **Models** nothing of its own: the steps are the host's, as in the search.
//!
//! **Keeps**: a schedule runs whole or not at all; afterwards no operation is under way.

use tagvisor_host::{Host, Progress};
use thiserror::Error;

use crate::actor::{Actor, Runner};

/// A stretch of the schedule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Turn {
    /// Index of the actor that runs.
    pub who: usize,
    /// Path and step before which it stops; to the end of its operations without.
    pub until: Option<(String, String)>,
}

/// A schedule that cannot be run.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// Somebody else has what it needs.
    #[error("turn {turn}: {who} waits in {path}: {step} for another actor")]
    Waits {
        /// Number of the turn, from 1.
        turn: usize,
        /// The actor.
        who: String,
        /// Where it waits.
        path: &'static str,
        /// At which step.
        step: &'static str,
    },
    /// The actor finished without coming to the step.
    #[error("turn {turn}: {who} never comes to {path}: {step}")]
    NeverThere {
        /// Number of the turn, from 1.
        turn: usize,
        /// The actor.
        who: String,
        /// The path it was to stop in.
        path: String,
        /// The step it was to stop before.
        step: String,
    },
    /// An actor has operations left when the schedule ends.
    #[error("{who} is not finished when the schedule ends")]
    Unfinished {
        /// The actor.
        who: String,
    },
}

/// Runs the actors' steps on `host` turn by turn. When it cannot, the host is as it was.
pub fn schedule(host: &mut Host, actors: &[Actor], turns: &[Turn]) -> Result<(), ScheduleError> {
    let mut next = host.clone();
    let mut runners: Vec<_> = actors.iter().map(|_| Runner::new()).collect();
    for (turn, Turn { who, until }) in turns.iter().enumerate() {
        let turn = turn + 1;
        run_turn(&mut next, &mut runners[*who], &actors[*who], until.as_ref(), turn)?;
        if runners.iter().all(Runner::idle) {
            next.ledger_quiesce();
        }
    }
    if let Some((_, actor)) = runners.iter().zip(actors).find(|(r, a)| !r.finished(a)) {
        return Err(ScheduleError::Unfinished {
            who: actor.name.clone(),
        });
    }
    *host = next;
    Ok(())
}

fn run_turn(
    host: &mut Host,
    runner: &mut Runner,
    actor: &Actor,
    until: Option<&(String, String)>,
    turn: usize,
) -> Result<(), ScheduleError> {
    let mut moved = false;
    while !runner.finished(actor) {
        runner.begin(actor);
        let next = runner.task.next_step(host);
        // A turn that begins where the last one stopped runs at least one step.
        if let (Some((path, step)), Some(until), true) = (next, until, moved)
            && (path, step) == (until.0.as_str(), until.1.as_str())
        {
            return Ok(());
        }
        if runner.step(actor, host) == Progress::Blocked {
            let (path, step) = next.expect("a blocked task has a step to run");
            let who = actor.name.clone();
            return Err(ScheduleError::Waits { turn, who, path, step });
        }
        moved = true;
    }
    match until {
        None => Ok(()),
        Some((path, step)) => Err(ScheduleError::NeverThere {
            turn,
            who: actor.name.clone(),
            path: path.clone(),
            step: step.clone(),
        }),
    }
}
