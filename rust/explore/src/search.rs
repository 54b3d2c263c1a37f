//! Breadth-first search over interleavings.

use tagvisor_host::{Host, Progress, Property, StepLine, Violation};
use thiserror::Error;

use crate::actor::{Actor, Runner};
use crate::space::Space;
use crate::store::{Link, ROOT, Store};
use crate::symmetry;

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

/// How a search is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Stop after this many distinct states.
    pub max_states: u64,
    /// Are states one that differ only in which of several like vCPUs is where?
    pub mirrors: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_states: u64::from(u32::MAX),
            mirrors: true,
        }
    }
}

/// How many states are taken from the queue between two calls of `go_on`: a few milliseconds' work.
const STATES_PER_POLL: u64 = 128;

/// Runs the actors' steps from `start` in every order, until a finding, the most states allowed, or `go_on` (called
/// with the number of states now and then) says stop. A violation counts if its property is `wanted`; none named is all.
pub fn explore(
    start: &Host,
    actors: &[Actor],
    wanted: &[Property],
    options: Options,
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
    let mirrors = options.mirrors && !symmetry::draws(actors);
    if mirrors {
        first.level_vcpus();
    }
    let search = Search {
        first: &first,
        actors,
        wanted,
        store: Store::default(),
        space: Space::new(&first, actors, mirrors),
        transitions: 0,
    };
    Ok(search.run(options.max_states, go_on))
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
            let counts = |v: &Violation| self.wanted.is_empty() || self.wanted.contains(&v.property);
            if self.space.host.violations().iter().any(counts) {
                let (steps, broken) = self.schedule(link);
                let violation = broken.expect("the schedule breaks it again");
                return Some(Finding::Violation(Violation { steps, ..violation }));
            }
            self.space.host.clear_violations();
            self.space.number(state, next, None);
            self.store.insert(next, link);
        }
        if moved {
            return None;
        }
        self.space.load(state);
        if self.space.finished() {
            return None;
        }
        let (steps, _) = self.schedule(self.store.link(index));
        Some(Finding::Deadlock(steps))
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

    /// Walks the links back to the start, then runs that schedule with the log on: one line a step, and what it breaks.
    fn schedule(&mut self, last: Link) -> (Vec<StepLine>, Option<Violation>) {
        let mut way = Vec::new();
        let mut link = last;
        while link.before != ROOT {
            way.push(link);
            link = self.store.link(link.before);
        }
        way.reverse();
        let order = self.unmirrored(&way);
        retell(self.first, self.actors, self.wanted, &order)
    }

    /// Who really moved: a stored state is one of several mirror images, in which actors have changed places.
    fn unmirrored(&mut self, way: &[Link]) -> Vec<usize> {
        let mut who: Vec<_> = (0..self.actors.len()).collect();
        let (mut state, mut next, mut moved) = (Vec::new(), Vec::new(), Vec::new());
        let mut order = Vec::with_capacity(way.len());
        for link in way {
            let at = usize::from(link.who);
            order.push(who[at]);
            self.store.get(link.before, &mut state);
            state.resize(state.len().max(self.actors.len()), 0);
            self.space.load(&state);
            self.space.step(at);
            self.space.number(&state, &mut next, Some(&mut moved));
            who = moved.iter().map(|from| who[*from]).collect();
        }
        order
    }
}

/// Runs a schedule step by step, one line each.
///
/// # Panics
/// If an actor waits or is finished.
fn retell(start: &Host, actors: &[Actor], wanted: &[Property], order: &[usize]) -> (Vec<StepLine>, Option<Violation>) {
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
        let rests = |(r, a): (&Runner, &Actor)| r.finished(a) || a.forever && r.idle();
        if runners.iter().zip(actors).all(rests) {
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
    let counts = |v: &&Violation| wanted.is_empty() || wanted.contains(&v.property);
    let broken = host.violations().iter().find(counts).cloned();
    (lines, broken)
}
