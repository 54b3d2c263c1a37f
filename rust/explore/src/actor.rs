//! Actors, and how far each has come.

use tagvisor_host::{Host, Op, Progress, Task};

/// An actor: operations done one after the other, once or for ever.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Actor {
    /// Name in the schedule, e.g. `vcpu0`.
    pub name: String,
    /// What it does.
    pub ops: Vec<Op>,
    /// Does it begin again at its end?
    pub forever: bool,
}

impl Actor {
    /// An actor that does its operations once.
    pub fn once(name: impl Into<String>, ops: Vec<Op>) -> Self {
        Self {
            name: name.into(),
            ops,
            forever: false,
        }
    }

    /// An actor that never stops.
    pub fn forever(name: impl Into<String>, ops: Vec<Op>) -> Self {
        Self {
            forever: true,
            ..Self::once(name, ops)
        }
    }
}

/// One actor's place in its program.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Runner {
    pub(crate) task: Task,
    /// Operations begun.
    begun: usize,
}

impl Runner {
    pub(crate) fn new() -> Self {
        Self {
            task: Task::new(Op::Nothing),
            begun: 0,
        }
    }

    /// Is no operation under way?
    pub(crate) fn idle(&self) -> bool {
        self.begun == 0 || self.task.is_done()
    }

    /// Are all operations done? Never of an actor that begins again.
    pub(crate) fn finished(&self, actor: &Actor) -> bool {
        !actor.forever && self.begun == actor.ops.len() && self.idle() || actor.ops.is_empty()
    }

    /// Begins the next operation if none is under way.
    pub(crate) fn begin(&mut self, actor: &Actor) {
        if self.idle() {
            if self.begun == actor.ops.len() {
                self.begun = 0;
            }
            self.task.restart(actor.ops[self.begun].clone());
            self.begun += 1;
        }
    }

    /// Runs one step of an actor that is not finished.
    pub(crate) fn step(&mut self, actor: &Actor, host: &mut Host) -> Progress {
        self.begin(actor);
        self.task.step(host)
    }

    /// An operation that is over leaves nothing behind but its number, and the last one of a program that begins again not
    /// even that.
    pub(crate) fn settle(&mut self, actor: &Actor) {
        if self.idle() {
            self.task.settle();
            if actor.forever && self.begun == actor.ops.len() {
                self.begun = 0;
            }
        }
    }
}
