//! The space a search moves in: what the numbers of a state stand for, and one machine that can be put into any state.
//!
//! **Models** nothing. Each part of the host that ever changes has a place in the list of numbers, given when it first
//! changes; the first places are the actors' own. A value gets its number, for its place, when it is first seen; mirror images
//! share theirs. **Leaves out** parts that never change. To go from one state to another only the parts with other numbers
//! are put back.
//!
//! **Keeps**: number 0 of a part is its value at the start, so a state that was stored before a part first changed, and has no
//! number for it, means the same as ever.

use indexmap::IndexSet;
use rustc_hash::{FxBuildHasher, FxHashMap};
use tagvisor_host::{Host, Part, PartValue, Progress, VcpuId};

use crate::actor::{Actor, Runner};
use crate::symmetry::{self, Group};

type Values<T> = IndexSet<T, FxBuildHasher>;

/// No state has this number anywhere: what is loaded there is unknown.
const UNKNOWN: u32 = u32::MAX;

/// The values, and a machine in one of the states.
pub(crate) struct Space<'a> {
    actors: &'a [Actor],
    groups: Vec<Group>,
    /// Of an actor with mirror images: its vCPU, and the one that its values are kept for.
    mirrored: Vec<Option<(u32, u32)>>,
    places: FxHashMap<Part, usize>,
    parts: Vec<Part>,
    /// Which values a place has its numbers from.
    values_of: Vec<usize>,
    values: Vec<Values<PartValue>>,
    /// Likewise for actors.
    runner_values_of: Vec<usize>,
    runner_values: Vec<Values<Runner>>,
    /// The start, for the values of parts that have not changed yet.
    start: Host,
    pub(crate) host: Host,
    runners: Vec<Runner>,
    /// The numbers of the state that is loaded.
    loaded: Vec<u32>,
    changed: Vec<Part>,
    order: Vec<(u32, u32, usize)>,
}

impl<'a> Space<'a> {
    /// `mirrors`: are mirror images one state?
    pub(crate) fn new(start: &Host, actors: &'a [Actor], mirrors: bool) -> Self {
        let groups = if mirrors {
            symmetry::groups(start, actors)
        } else {
            Vec::new()
        };
        let mut mirrored = vec![None; actors.len()];
        let mut runner_values_of: Vec<_> = (0..actors.len()).collect();
        for group in &groups {
            let (first, kept_for) = group[0];
            for (who, vcpu) in group {
                mirrored[*who] = Some((vcpu.index, kept_for.index));
                runner_values_of[*who] = first;
            }
        }
        let mut host = start.clone();
        host.watch();
        host.take_touched(|_| {});
        let runners: Vec<_> = actors.iter().map(|_| Runner::new()).collect();
        Self {
            actors,
            groups,
            mirrored,
            places: FxHashMap::default(),
            parts: Vec::new(),
            values_of: Vec::new(),
            values: Vec::new(),
            runner_values_of,
            runner_values: runners.iter().map(|r| Values::from_iter([r.clone()])).collect(),
            start: start.clone(),
            host,
            loaded: vec![0; runners.len()],
            runners,
            changed: Vec::new(),
            order: Vec::new(),
        }
    }

    /// Puts the machine into a state.
    pub(crate) fn load(&mut self, state: &[u32]) {
        let actors = self.actors.len();
        for at in 0..actors + self.parts.len() {
            let number = state.get(at).copied().unwrap_or(0);
            if self.loaded[at] == number {
                continue;
            }
            self.loaded[at] = number;
            if at < actors {
                self.runners[at].clone_from(&self.runner_values[self.runner_values_of[at]][number as usize]);
                if let Some((own, _)) = self.mirrored[at] {
                    self.runners[at].task.rename_vcpu(own);
                }
            } else {
                let place = at - actors;
                let values = &self.values[self.values_of[place]];
                self.host.set_part(self.parts[place], &values[number as usize]);
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
        self.runners[who].settle(&self.actors[who]);
        while let Some((vm, seq)) = self.host.restart_seq() {
            for (at, runner) in self.runners.iter_mut().enumerate() {
                if runner.task.renumber_seq(vm, seq) {
                    self.loaded[at] = UNKNOWN;
                }
            }
        }
        if self.runners.iter().all(Runner::idle) {
            self.host.ledger_quiesce();
        }
        if self.at_rest() {
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

    /// Are those that have an end at it, and the others between two operations?
    fn at_rest(&self) -> bool {
        let rests = |(r, a): (&Runner, &Actor)| r.finished(a) || a.forever && r.idle();
        self.runners.iter().zip(self.actors).all(rests)
    }

    /// The numbers of the state after a step from the state `before`. Of mirror images, the one in order; `moved` then says
    /// where each actor's place went.
    pub(crate) fn number(&mut self, before: &[u32], state: &mut Vec<u32>, moved: Option<&mut Vec<usize>>) {
        state.clear();
        state.extend_from_slice(before);
        for (who, number) in state.iter_mut().enumerate().take(self.actors.len()) {
            if self.loaded[who] == UNKNOWN {
                *number = self.number_of_runner(who);
                self.loaded[who] = *number;
            }
        }
        let actors = self.actors.len();
        let mut changed = std::mem::take(&mut self.changed);
        self.host.take_touched(|part| changed.push(part));
        for part in changed.drain(..) {
            let place = self.place_of(part);
            let number = number_of(&mut self.values[self.values_of[place]], &self.host.part(part));
            let at = actors + place;
            if state.len() <= at {
                state.resize(at + 1, 0);
            }
            (state[at], self.loaded[at]) = (number, number);
        }
        self.changed = changed;
        self.put_in_order(state, moved);
    }

    fn number_of_runner(&mut self, who: usize) -> u32 {
        let (runner, values) = (
            &mut self.runners[who],
            &mut self.runner_values[self.runner_values_of[who]],
        );
        let Some((own, kept_for)) = self.mirrored[who] else {
            return number_of(values, runner);
        };
        runner.task.rename_vcpu(kept_for);
        let number = number_of(values, runner);
        runner.task.rename_vcpu(own);
        number
    }

    /// Sorts the members of each group by their numbers.
    fn put_in_order(&mut self, state: &mut [u32], mut moved: Option<&mut Vec<usize>>) {
        if let Some(moved) = &mut moved {
            moved.clear();
            moved.extend(0..self.actors.len());
        }
        for group in &self.groups {
            let actors = self.actors.len();
            let place = |vcpu: VcpuId| self.places.get(&Part::Vcpu(vcpu)).map(|place| actors + place);
            self.order.clear();
            for (who, vcpu) in group {
                let registers = place(*vcpu).and_then(|at| state.get(at).copied()).unwrap_or(0);
                self.order.push((state[*who], registers, *who));
            }
            self.order.sort_unstable();
            for ((who, vcpu), (runner, registers, from)) in group.iter().zip(&self.order) {
                state[*who] = *runner;
                if let Some(slot) = place(*vcpu).and_then(|at| state.get_mut(at)) {
                    *slot = *registers;
                }
                if let Some(moved) = &mut moved {
                    moved[*who] = *from;
                }
            }
        }
    }

    fn place_of(&mut self, part: Part) -> usize {
        if let Some(place) = self.places.get(&part) {
            return *place;
        }
        let mirrors = self
            .groups
            .iter()
            .find(|group| group.iter().any(|(_, v)| Part::Vcpu(*v) == part));
        // All mirror images get a place at once, and numbers of the same values.
        let all: Vec<_> = match mirrors {
            Some(group) => group.iter().map(|(_, vcpu)| Part::Vcpu(*vcpu)).collect(),
            None => vec![part],
        };
        self.values.push(Values::from_iter([self.start.part(part)]));
        for one in all {
            self.places.insert(one, self.parts.len());
            self.parts.push(one);
            self.values_of.push(self.values.len() - 1);
            self.loaded.push(UNKNOWN);
        }
        self.places[&part]
    }

    /// How many distinct values the parts of states have.
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
