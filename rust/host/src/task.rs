//! Tasks: the loop that runs step tables.
//!
//! **Models** a thread in the kernel: a stack of frames, each a path with its place and its locals. Run directly, the loop
//! goes to the end; run by the explorer, every step is a place to switch.
//!
//! **Keeps**: all that a running path remembers is in its [`Task`], which can be copied, compared and hashed.

use crate::ids::{Actor, VmId};
use crate::log::Origin;
use crate::ops::{Op, OpResult};
use crate::paths::{self, ptl};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId};

/// One activation of a path: which table, how far, and its locals.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Frame {
    pub(crate) path: PathId,
    pub(crate) pc: u8,
    pub(crate) l: Locals,
}

fn position(path: &Path, name: &str) -> u8 {
    let at = path.steps.iter().position(|s| s.name == name);
    u8::try_from(at.unwrap_or_else(|| panic!("no step {name:?} in {}", path.name))).expect("short tables")
}

/// A sample of `mmu_invalidate_seq` that is not the current one.
const STALE: u64 = u64::MAX;

/// What running one step did to a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// More steps to go.
    Running,
    /// The next step waits for a lock; nothing was changed.
    Blocked,
    /// The operation is done; its answer stands in the task.
    Done,
}

/// An operation under way: a stack of frames.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Task {
    pub(crate) frames: Vec<Frame>,
    pub(crate) io: Io,
}

impl Task {
    /// The task that carries out `op`.
    pub fn new(op: Op) -> Self {
        let mut task = Self {
            frames: Vec::with_capacity(8),
            io: Io {
                actor: op.actor(),
                op: Op::Nothing,
                result: OpResult::None,
                ptl: None,
            },
        };
        task.restart(op);
        task
    }

    /// Reuses the task's memory for another operation.
    pub fn restart(&mut self, op: Op) {
        let (path, l) = paths::entry(&op);
        self.frames.clear();
        self.frames.push(Frame { path, pc: 0, l });
        self.io.actor = op.actor();
        self.io.op = op;
        self.io.result = OpResult::None;
    }

    /// Forgets an operation that is done, its answer too.
    pub fn settle(&mut self) {
        self.frames.clear();
        self.io.op = Op::Nothing;
        self.io.result = OpResult::None;
    }

    /// The answer, once done.
    pub fn result(&self) -> &OpResult {
        &self.io.result
    }

    /// Gives what a vCPU does to another vCPU of its VM.
    pub fn rename_vcpu(&mut self, index: u32) {
        if let Actor::Vcpu(vcpu) = &mut self.io.actor {
            vcpu.index = index;
        }
        if let Op::Guest(vcpu, _) = &mut self.io.op {
            vcpu.index = index;
            self.frames.iter_mut().for_each(|frame| frame.l.vcpu.index = index);
        }
    }

    /// `mmu_invalidate_seq` only ever grows, and only whether it grew since a fault sampled it decides anything: begins the
    /// count anew, and remembers of each fault whether its sample is the current one. True if this task changed.
    pub fn renumber_seq(&mut self, vm: VmId, seq: u64) -> bool {
        let mut changed = false;
        for frame in &mut self.frames {
            let sampled = matches!(frame.path, PathId::UserMemAbort | PathId::GmemAbort) && frame.l.seq != 0;
            if sampled && frame.l.vm == vm {
                let renumbered = if frame.l.seq == seq + 1 { 1 } else { STALE };
                changed |= renumbered != frame.l.seq;
                frame.l.seq = renumbered;
            }
        }
        changed
    }

    /// Is the operation finished?
    pub fn is_done(&self) -> bool {
        self.frames.is_empty()
    }

    /// Path and step that would run next, e.g. `("user_mem_abort", "mmu_invalidate_retry")`.
    pub fn next_step(&self, host: &Host) -> Option<(&'static str, &'static str)> {
        let frame = self.frames.last()?;
        let path = paths::table(frame.path, &host.policy);
        Some((path.name, path.steps[usize::from(frame.pc)].name))
    }

    /// Runs one step.
    pub fn step(&mut self, host: &mut Host) -> Progress {
        let Some(frame) = self.frames.last_mut() else {
            return Progress::Done;
        };
        let path = paths::table(frame.path, &host.policy);
        let step = &path.steps[usize::from(frame.pc)];
        host.log.origin = Origin {
            actor: self.io.actor,
            path: path.name,
            step: step.name,
        };
        if !host.ptl.is_empty() && ptl::takes(frame.path, step.name) && host.ptl_blocks(&frame.l, self.io.ptl) {
            return Progress::Blocked;
        }
        let last = usize::from(frame.pc) + 1 == path.steps.len();
        match (step.run)(host, &mut frame.l, &mut self.io) {
            Flow::Next if last => return self.pop(host, 0),
            Flow::Next => frame.pc += 1,
            Flow::To(name) => frame.pc = position(path, name),
            Flow::Call(callee, l) if !last => {
                frame.pc += 1;
                self.frames.push(Frame { path: callee, pc: 0, l });
                host.path_begins(callee);
            }
            // A path may end in a call: its caller then gets the callee's value.
            Flow::Call(callee, l) | Flow::Tail(callee, l) => {
                host.path_ends(frame.path);
                *frame = Frame { path: callee, pc: 0, l };
                host.path_begins(callee);
            }
            Flow::Blocked => return Progress::Blocked,
            Flow::Return(value) => return self.pop(host, value),
        }
        Progress::Running
    }

    /// Returns `value` to the caller.
    fn pop(&mut self, host: &mut Host, value: i64) -> Progress {
        let Some(done) = self.frames.pop() else {
            return Progress::Done;
        };
        host.path_ends(done.path);
        let Some(caller) = self.frames.last_mut() else {
            if self.io.result == OpResult::None {
                self.io.result = OpResult::from_ret(value);
            }
            return Progress::Done;
        };
        caller.l.ret = value;
        caller.l.out = done.l.out;
        Progress::Running
    }

    fn waits_for_a_page(&self, host: &Host) -> bool {
        self.next_step(host) == Some(("handle_mm_fault", "schedule"))
    }

    /// Runs to the end. Alone nobody can hold a lock for ever, so a blocked step is a deadlock: a bug.
    ///
    /// # Panics
    /// When a step blocks.
    pub fn run(&mut self, host: &mut Host) {
        host.operation_begins();
        if let Some(frame) = self.frames.first() {
            host.path_begins(frame.path);
        }
        loop {
            match self.step(host) {
                Progress::Running => {}
                Progress::Done => return,
                // userfaultfd: the page will not come while this runs.
                Progress::Blocked if self.waits_for_a_page(host) => {
                    self.frames.last_mut().expect("it waits").l.alone = true;
                }
                Progress::Blocked => panic!("deadlock: {:?} waits with nobody else running", self.next_step(host)),
            }
        }
    }
}
