//! Breadth-first search over interleavings.

use tagvisor_host::{Host, Progress, Property, StepLine, Violation};
use thiserror::Error;

use crate::actor::{Actor, Runner};
use crate::space::Space;
use crate::store::{Link, ROOT, Store};

/// What the search found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// A property does not hold; the steps are the shortest schedule that shows it.
    Violation(Violation),
    /// Every unfinished actor waits for another.
    Deadlock(Vec<StepLine>),
}

/// The outcome of a search.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Exploration {
    /// Distinct states looked at.
    pub states: u64,
    /// Steps run.
    pub transitions: u64,
    /// Bytes that the states take.
    pub bytes: u64,
    /// Distinct values of the states' parts.
    pub values: u64,
    /// Was every reachable state looked at? False after a finding, at the limit, or when stopped.
    pub complete: bool,
    /// The first finding, if any.
    pub finding: Option<Finding>,
}

/// A machine or a question the explorer cannot take.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ExploreError {
    /// Without the ledger there is nothing to find.
    #[error("the machine has ledger=False: expected ledger=True, the explorer decides by the ledger")]
    NoLedger,
    /// The TLB is not part of the encoded state.
    #[error("the machine has tlb_bits={0}: expected 0, a TLB is not part of an explored state")]
    Tlb(u32),
    /// Who decides at each event need not decide the same in every order.
    #[error("the machine's policy decides at each event: expected one of plain values")]
    Decider,
    /// Nobody acts.
    #[error("no actor has an operation: expected at least one")]
    NoActors,
}

/// How many states are taken from the queue between two calls of `go_on`: a few milliseconds' work.
const STATES_PER_POLL: u64 = 128;

/// Runs the actors' steps from `start` in every order, until a finding, `max_states` distinct states, or `go_on` (called
/// with the number of states now and then) says stop. A violation counts if its property is `wanted`; none named is all.
pub fn explore(
    start: &Host,
    actors: &[Actor],
    wanted: &[Property],
    max_states: u64,
    go_on: &mut dyn FnMut(u64) -> bool,
) -> Result<Exploration, ExploreError> {
    if !start.has_ledger() {
        return Err(ExploreError::NoLedger);
    }
    if start.tlb_bits() > 0 {
        return Err(ExploreError::Tlb(start.tlb_bits()));
    }
    if start.has_decider() {
        return Err(ExploreError::Decider);
    }
    if actors.iter().all(|a| a.ops.is_empty()) {
        return Err(ExploreError::NoActors);
    }
    let mut first = start.clone();
    first.forget_verdicts();
    let search = Search {
        first: &first,
        actors,
        wanted,
        store: Store::default(),
        space: Space::new(&first, actors),
        transitions: 0,
    };
    Ok(search.run(max_states, go_on))
}

struct Search<'a> {
    first: &'a Host,
    actors: &'a [Actor],
    wanted: &'a [Property],
    store: Store,
    space: Space<'a>,
    transitions: u64,
}

impl Search<'_> {
    /// States are numbered in the order of discovery, which is that of a breadth-first search: the next to look at is the
    /// next number.
    fn run(mut self, max_states: u64, go_on: &mut dyn FnMut(u64) -> bool) -> Exploration {
        let (mut state, mut next) = (vec![0; self.actors.len()], Vec::new());
        self.store.insert(&state, Link { before: ROOT, who: 0 });
        let mut index = 0;
        while index < self.store.len() as u32 {
            self.store.get(index, &mut state);
            if let Some(finding) = self.expand(index, &mut state, &mut next) {
                return self.outcome(false, Some(finding));
            }
            index += 1;
            let states = self.store.len() as u64;
            if states >= max_states || (u64::from(index).is_multiple_of(STATES_PER_POLL) && !go_on(states)) {
                return self.outcome(false, None);
            }
        }
        self.outcome(true, None)
    }

    /// Takes every step that can be taken in a state; what it breaks, if anything.
    fn expand(&mut self, index: u32, state: &mut Vec<u32>, next: &mut Vec<u32>) -> Option<Finding> {
        state.resize(state.len().max(self.actors.len()), 0);
        let mut moved = false;
        for who in 0..self.actors.len() {
            self.space.load(state);
            if !self.space.step(who) {
                continue;
            }
            moved = true;
            self.transitions += 1;
            let link = Link {
                before: index,
                who: who as u8,
            };
            let counts = |v: &&Violation| self.wanted.is_empty() || self.wanted.contains(&v.property);
            if let Some(violation) = self.space.host.violations().iter().find(counts) {
                let steps = self.schedule(link);
                return Some(Finding::Violation(Violation {
                    steps,
                    ..violation.clone()
                }));
            }
            self.space.number(state, who, next);
            self.store.insert(next, link);
        }
        if moved {
            return None;
        }
        self.space.load(state);
        if self.space.finished() {
            return None;
        }
        Some(Finding::Deadlock(self.schedule(self.store.link(index))))
    }

    fn outcome(&self, complete: bool, finding: Option<Finding>) -> Exploration {
        Exploration {
            states: self.store.len() as u64,
            transitions: self.transitions,
            bytes: self.store.memory() as u64,
            values: self.space.values() as u64,
            complete,
            finding,
        }
    }

    /// Walks the links back to the start, then runs that schedule with the log on: one line a step.
    fn schedule(&self, last: Link) -> Vec<StepLine> {
        let mut order = Vec::new();
        let mut link = last;
        while link.before != ROOT {
            order.push(usize::from(link.who));
            link = self.store.link(link.before);
        }
        order.reverse();
        retell(self.first, self.actors, &order)
    }
}

/// Runs a schedule step by step, one line each.
///
/// # Panics
/// If an actor waits or is finished.
fn retell(start: &Host, actors: &[Actor], order: &[usize]) -> Vec<StepLine> {
    let mut host = start.clone();
    host.log_on();
    let mut runners: Vec<_> = actors.iter().map(|_| Runner::new()).collect();
    let mut lines = Vec::with_capacity(order.len());
    for &who in order {
        let said = host.log().len();
        let progress = runners[who].step(&actors[who], &mut host);
        assert_ne!(progress, Progress::Blocked, "the schedule ran before");
        if runners.iter().all(Runner::idle) {
            host.ledger_quiesce();
        }
        if runners.iter().zip(actors).all(|(r, a)| r.finished(a)) {
            host.audit();
        }
        let (path, step) = host.last_step();
        let texts: Vec<_> = host.log()[said..].iter().map(|l| l.text.as_str()).collect();
        lines.push(StepLine {
            n: u32::try_from(lines.len()).unwrap_or(u32::MAX - 1) + 1,
            actor: actors[who].name.clone(),
            path,
            step,
            text: texts.join("; "),
        });
    }
    lines
}
