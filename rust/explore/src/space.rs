//! The space a search moves in: what the numbers of a state stand for, and one machine that can be put into any state.
//!
//! **Models** nothing. Each part of the host that ever changes has a place in the list of numbers, given when it first
//! changes; places 0 to the number of actors are the actors' own. A value gets its number, for its place, when it is first
//! seen. **Leaves out** parts that never change. To go from one state to another only the parts with other numbers are put
//! back.
//!
//! **Keeps**: number 0 of a part is its value at the start, so a state that was stored before a part first changed, and has no
//! number for it, means the same as ever.

use indexmap::IndexSet;
use rustc_hash::{FxBuildHasher, FxHashMap};
use tagvisor_host::{Host, Part, PartValue, Progress};

use crate::actor::{Actor, Runner};

type Values<T> = IndexSet<T, FxBuildHasher>;

/// No state has this number anywhere: what is loaded there is unknown.
const UNKNOWN: u32 = u32::MAX;

/// The values, and a machine in one of the states.
pub(crate) struct Space<'a> {
    actors: &'a [Actor],
    places: FxHashMap<Part, usize>,
    parts: Vec<Part>,
    values: Vec<Values<PartValue>>,
    runner_values: Vec<Values<Runner>>,
    /// The start, for the values of parts that have not changed yet.
    start: Host,
    pub(crate) host: Host,
    runners: Vec<Runner>,
    /// The numbers of the state that is loaded.
    loaded: Vec<u32>,
    changed: Vec<Part>,
}

impl<'a> Space<'a> {
    pub(crate) fn new(start: &Host, actors: &'a [Actor]) -> Self {
        let mut host = start.clone();
        host.watch();
        host.take_touched(|_| {});
        let runners: Vec<_> = actors.iter().map(|_| Runner::new()).collect();
        Self {
            actors,
            places: FxHashMap::default(),
            parts: Vec::new(),
            values: Vec::new(),
            runner_values: runners.iter().map(|r| Values::from_iter([r.clone()])).collect(),
            start: start.clone(),
            host,
            loaded: vec![0; runners.len()],
            runners,
            changed: Vec::new(),
        }
    }

    /// Numbers of a state: the actors' and those of all parts with a place.
    fn width(&self) -> usize {
        self.actors.len() + self.parts.len()
    }

    /// Puts the machine into a state.
    pub(crate) fn load(&mut self, state: &[u32]) {
        let (actors, width) = (self.actors.len(), self.width());
        for at in 0..width {
            let number = state.get(at).copied().unwrap_or(0);
            if self.loaded[at] == number {
                continue;
            }
            self.loaded[at] = number;
            if at < actors {
                self.runners[at].clone_from(&self.runner_values[at][number as usize]);
            } else {
                let place = at - actors;
                self.host
                    .set_part(self.parts[place], &self.values[place][number as usize]);
            }
        }
    }

    /// Runs one step of an actor in the state that is loaded, which is lost. False if it is finished or waits.
    pub(crate) fn step(&mut self, who: usize) -> bool {
        if self.runners[who].finished(&self.actors[who]) {
            return false;
        }
        self.loaded[who] = UNKNOWN;
        if self.runners[who].step(&self.actors[who], &mut self.host) == Progress::Blocked {
            self.forget_changes();
            return false;
        }
        if self.runners.iter().all(Runner::idle) {
            self.host.ledger_quiesce();
        }
        if self.finished() {
            self.host.audit();
        }
        true
    }

    /// A step that waits has changed nothing, but may have looked as if.
    fn forget_changes(&mut self) {
        let Self {
            host, loaded, places, ..
        } = self;
        let actors = self.actors.len();
        host.take_touched(|part| {
            if let Some(place) = places.get(&part) {
                loaded[actors + place] = UNKNOWN;
            }
        });
    }

    /// Are all actors at their end?
    pub(crate) fn finished(&self) -> bool {
        self.runners.iter().zip(self.actors).all(|(r, a)| r.finished(a))
    }

    /// The numbers of the state after a step of `who` from the state `before`.
    pub(crate) fn number(&mut self, before: &[u32], who: usize, state: &mut Vec<u32>) {
        state.clear();
        state.extend_from_slice(before);
        let actors = self.actors.len();
        let runner = number_of(&mut self.runner_values[who], &self.runners[who]);
        (state[who], self.loaded[who]) = (runner, runner);
        let mut changed = std::mem::take(&mut self.changed);
        self.host.take_touched(|part| changed.push(part));
        for part in changed.drain(..) {
            let place = self.place_of(part);
            let number = number_of(&mut self.values[place], &self.host.part(part));
            let at = actors + place;
            if state.len() <= at {
                state.resize(at + 1, 0);
            }
            (state[at], self.loaded[at]) = (number, number);
        }
        self.changed = changed;
    }

    fn place_of(&mut self, part: Part) -> usize {
        if let Some(place) = self.places.get(&part) {
            return *place;
        }
        let place = self.parts.len();
        self.places.insert(part, place);
        self.parts.push(part);
        self.values.push(Values::from_iter([self.start.part(part)]));
        self.loaded.push(UNKNOWN);
        place
    }

    /// Bytes of the values, roughly: they are few beside the states.
    pub(crate) fn values(&self) -> usize {
        let parts: usize = self.values.iter().map(IndexSet::len).sum();
        let runners: usize = self.runner_values.iter().map(IndexSet::len).sum();
        parts + runners
    }
}

fn number_of<T: Clone + Eq + std::hash::Hash>(values: &mut Values<T>, value: &T) -> u32 {
    let number = values
        .get_index_of(value)
        .unwrap_or_else(|| values.insert_full(value.clone()).0);
    u32::try_from(number).expect("fewer than 2^32 values of a part")
}
