//! Breadth-first search over interleavings.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use rustc_hash::{FxHashSet, FxHasher};
use tagvisor_host::{Host, Progress, Property, StepLine, Violation};
use thiserror::Error;

use crate::actor::{Actor, Runner};

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

#[derive(Clone)]
struct State {
    host: Host,
    runners: Vec<Runner>,
}

impl State {
    /// Runs one step of an actor; `None` if it is finished or waits.
    fn step(&self, who: usize, actors: &[Actor]) -> Option<Self> {
        if self.runners[who].finished(&actors[who]) {
            return None;
        }
        let mut next = self.clone();
        if next.runners[who].step(&actors[who], &mut next.host) == Progress::Blocked {
            return None;
        }
        if next.runners.iter().all(Runner::idle) {
            next.host.ledger_quiesce();
        }
        Some(next)
    }

    fn finished(&self, actors: &[Actor]) -> bool {
        self.runners.iter().zip(actors).all(|(r, a)| r.finished(a))
    }

    fn encode(&self) -> Box<[u8]> {
        let mut bytes = Bytes(Vec::with_capacity(4096));
        self.runners.hash(&mut bytes);
        self.host.encode(&mut bytes.0);
        bytes.0.into_boxed_slice()
    }
}

/// Collects what `Hash` feeds it: an encoding, not a hash.
struct Bytes(Vec<u8>);

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        let mut hasher = FxHasher::default();
        hasher.write(&self.0);
        hasher.finish()
    }
}

/// The start was reached from nowhere.
const ROOT: u32 = u32::MAX;

/// How a queued state was reached: index of the state before, and who moved.
#[derive(Clone, Copy)]
struct Link {
    before: u32,
    who: u8,
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
    let mut host = start.clone();
    host.forget_verdicts();
    let first = State {
        host,
        runners: actors.iter().map(|_| Runner::new()).collect(),
    };
    let mut search = Search {
        actors,
        links: vec![],
        visited: FxHashSet::default(),
        queue: VecDeque::new(),
    };
    search.visit(first.clone(), Link { before: ROOT, who: 0 });

    let (mut transitions, mut taken) = (0, 0_u64);
    while let Some((index, state)) = search.queue.pop_front() {
        let mut moved = false;
        for who in 0..actors.len() {
            let Some(mut next) = state.step(who, actors) else {
                continue;
            };
            (moved, transitions) = (true, transitions + 1);
            if next.finished(actors) {
                next.host.audit();
            }
            let link = Link {
                before: index,
                who: who as u8,
            };
            let counts = |v: &&Violation| wanted.is_empty() || wanted.contains(&v.property);
            if let Some(violation) = next.host.violations().iter().find(counts) {
                let steps = search.schedule(&first, link);
                let finding = Finding::Violation(Violation {
                    steps,
                    ..violation.clone()
                });
                return Ok(search.outcome(transitions, false, Some(finding)));
            }
            search.visit(next, link);
        }
        if !moved && !state.finished(actors) {
            let steps = search.schedule(&first, search.links[index as usize]);
            return Ok(search.outcome(transitions, false, Some(Finding::Deadlock(steps))));
        }
        taken += 1;
        let states = search.links.len() as u64;
        if states >= max_states || (taken.is_multiple_of(STATES_PER_POLL) && !go_on(states)) {
            return Ok(search.outcome(transitions, false, None));
        }
    }
    Ok(search.outcome(transitions, true, None))
}

struct Search<'a> {
    actors: &'a [Actor],
    /// One link per distinct state, in the order of discovery.
    links: Vec<Link>,
    visited: FxHashSet<Box<[u8]>>,
    queue: VecDeque<(u32, State)>,
}

impl Search<'_> {
    fn visit(&mut self, state: State, link: Link) {
        if self.visited.insert(state.encode()) {
            let index = u32::try_from(self.links.len()).expect("fewer than 2^32 states");
            self.links.push(link);
            self.queue.push_back((index, state));
        }
    }

    fn outcome(&self, transitions: u64, complete: bool, finding: Option<Finding>) -> Exploration {
        Exploration {
            states: self.links.len() as u64,
            transitions,
            complete,
            finding,
        }
    }

    /// Walks the links back to the start, then runs that schedule again with the log on: one line a step.
    fn schedule(&self, first: &State, last: Link) -> Vec<StepLine> {
        let mut order = Vec::new();
        let mut link = last;
        while link.before != ROOT {
            order.push(link.who);
            link = self.links[link.before as usize];
        }
        order.reverse();
        let mut state = first.clone();
        state.host.log_on();
        let mut lines = Vec::with_capacity(order.len());
        for who in order.into_iter().map(usize::from) {
            let said = state.host.log().len();
            state = state.step(who, self.actors).expect("the schedule ran before");
            lines.push(self.line(&state, who, said, lines.len()));
        }
        lines
    }

    fn line(&self, state: &State, who: usize, said: usize, before: usize) -> StepLine {
        let (path, step) = state.host.last_step();
        let texts: Vec<_> = state.host.log()[said..].iter().map(|l| l.text.as_str()).collect();
        let n = u32::try_from(before).unwrap_or(u32::MAX - 1) + 1;
        StepLine {
            n,
            actor: self.actors[who].name.clone(),
            path,
            step,
            text: texts.join("; "),
        }
    }
}
