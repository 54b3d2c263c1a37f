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
    /// Where it stops; to the end of its operations without.
    pub until: Option<Stop>,
}

/// A place in an actor's way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stop {
    /// The path, as the log names it.
    pub path: String,
    /// The step of that path.
    pub step: String,
    /// Behind the step, not before it: whatever a policy makes the next one.
    pub after: bool,
}

impl Stop {
    fn is(&self, at: Option<(&'static str, &'static str)>) -> bool {
        at == Some((self.path.as_str(), self.step.as_str()))
    }
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
        /// The step it was to stop at.
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
    until: Option<&Stop>,
    turn: usize,
) -> Result<(), ScheduleError> {
    let mut moved = false;
    while !runner.finished(actor) {
        runner.begin(actor);
        let next = runner.task.next_step(host);
        // A turn that begins where the last one stopped runs at least one step.
        let stop = until.filter(|stop| stop.is(next));
        if moved && stop.is_some_and(|stop| !stop.after) {
            return Ok(());
        }
        if runner.step(actor, host) == Progress::Blocked {
            let (path, step) = next.expect("a blocked task has a step to run");
            let who = actor.name.clone();
            return Err(ScheduleError::Waits { turn, who, path, step });
        }
        moved = true;
        if stop.is_some_and(|stop| stop.after) {
            return Ok(());
        }
    }
    match until {
        None => Ok(()),
        Some(Stop { path, step, .. }) => Err(ScheduleError::NeverThere {
            turn,
            who: actor.name.clone(),
            path: path.clone(),
            step: step.clone(),
        }),
    }
}
