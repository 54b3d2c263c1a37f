//! Step tables: how a kernel path is written down, and the loop that runs one.
//!
//! **Models** a kernel path as a table of named steps over a plain-data [`Frame`]. A step is one atomic action of the
//! kernel: it gets the host and its locals and says what comes next ([`Flow`]). A policy that differs in the *order* of
//! steps selects another table of the same steps.
//!
//! **Keeps**: a step that answers [`Flow::Blocked`] has changed nothing, so a scheduler may simply try it again; all that
//! a running path remembers is in its [`Task`], which can be copied, compared and hashed.

use tagvisor_arch::{Ipa, Pfn, Va};

use crate::ids::{Actor, MmId, VcpuId, VmId};
use crate::ops::{Op, OpResult};
use crate::paths::PathId;
use crate::state::Host;
use crate::swap::SwpEntry;

/// The integer locals of a path; a callee starts from a copy of its caller's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Locals {
    pub(crate) mm: MmId,
    pub(crate) va: Va,
    /// End of a range of pages (exclusive).
    pub(crate) end: Va,
    pub(crate) vm: VmId,
    pub(crate) vcpu: VcpuId,
    pub(crate) ipa: Ipa,
    pub(crate) pfn: Option<Pfn>,
    pub(crate) entry: Option<SwpEntry>,
    /// `mmu_seq`, as sampled.
    pub(crate) seq: u64,
    pub(crate) write: bool,
    pub(crate) writable: bool,
    /// The fault was a stage-2 permission fault.
    pub(crate) permission: bool,
    pub(crate) device: bool,
    pub(crate) mte_allowed: bool,
    pub(crate) shared: bool,
    pub(crate) pfnmap: bool,
    /// Swap-in bypasses the swap cache (`SWP_SYNCHRONOUS_IO`).
    pub(crate) bypass: bool,
    /// Cursor over a range.
    pub(crate) index: u32,
    /// What the last callee returned.
    pub(crate) ret: i64,
    /// The last callee's second result.
    pub(crate) out: u64,
}

/// One activation of a path: which table, how far, and its locals.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Frame {
    pub(crate) path: PathId,
    pub(crate) pc: u8,
    pub(crate) l: Locals,
}

/// What outlives the frames of a task: who acts, on what, and the answer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Io {
    pub(crate) actor: Actor,
    pub(crate) op: Op,
    pub(crate) result: OpResult,
}

/// What a step says comes next.
pub(crate) enum Flow {
    /// The next step of the table; past the last one the path returns 0.
    Next,
    /// The step of that name in this table.
    To(&'static str),
    /// Another path, with these locals; afterwards the next step.
    Call(PathId, Locals),
    /// Another path in place of this one: its value goes to this path's caller.
    Tail(PathId, Locals),
    /// A lock is held or a bit not yet seen; nothing was changed.
    Blocked,
    /// Back to the caller with a value (negative errno on failure).
    Return(i64),
}

/// A step: its name, which counterexamples print, and its action.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&mut Host, &mut Locals, &mut Io) -> Flow,
}

/// A kernel path.
pub(crate) struct Path {
    pub(crate) name: &'static str,
    pub(crate) steps: &'static [Step],
}

impl Path {
    fn position(&self, name: &str) -> u8 {
        let at = self.steps.iter().position(|s| s.name == name);
        u8::try_from(at.unwrap_or_else(|| panic!("no step {name:?} in {}", self.name))).expect("short tables")
    }
}

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
            },
        };
        task.restart(op);
        task
    }

    /// Reuses the task's memory for another operation.
    pub fn restart(&mut self, op: Op) {
        let (path, l) = op.entry();
        self.frames.clear();
        self.frames.push(Frame { path, pc: 0, l });
        self.io.actor = op.actor();
        self.io.op = op;
        self.io.result = OpResult::None;
    }

    /// The answer, once done.
    pub fn result(&self) -> &OpResult {
        &self.io.result
    }

    /// Is the operation finished?
    pub fn is_done(&self) -> bool {
        self.frames.is_empty()
    }

    /// Path and step that would run next, e.g. `("user_mem_abort", "mmu_invalidate_retry")`.
    pub fn next_step(&self, host: &Host) -> Option<(&'static str, &'static str)> {
        let frame = self.frames.last()?;
        let path = frame.path.table(&host.policy);
        Some((path.name, path.steps[usize::from(frame.pc)].name))
    }

    /// Runs one step.
    pub fn step(&mut self, host: &mut Host) -> Progress {
        let Some(frame) = self.frames.last_mut() else {
            return Progress::Done;
        };
        let path = frame.path.table(&host.policy);
        let step = &path.steps[usize::from(frame.pc)];
        host.log.origin = crate::log::Origin {
            actor: self.io.actor,
            path: path.name,
            step: step.name,
        };
        match (step.run)(host, &mut frame.l, &mut self.io) {
            Flow::Next if usize::from(frame.pc) + 1 == path.steps.len() => self.pop(0),
            Flow::Next => frame.pc += 1,
            Flow::To(name) => frame.pc = path.position(name),
            Flow::Call(callee, l) => {
                frame.pc += 1;
                self.frames.push(Frame { path: callee, pc: 0, l });
            }
            Flow::Tail(callee, l) => *frame = Frame { path: callee, pc: 0, l },
            Flow::Blocked => return Progress::Blocked,
            Flow::Return(value) => self.pop(value),
        }
        self.return_from_finished(host);
        if self.frames.is_empty() {
            Progress::Done
        } else {
            Progress::Running
        }
    }

    /// A path may end in a call: its caller then gets the callee's value.
    fn return_from_finished(&mut self, host: &Host) {
        while let Some(frame) = self.frames.last()
            && usize::from(frame.pc) == frame.path.table(&host.policy).steps.len()
        {
            self.pop(frame.l.ret);
        }
    }

    /// Returns `value` to the caller.
    fn pop(&mut self, value: i64) {
        let Some(done) = self.frames.pop() else { return };
        let Some(caller) = self.frames.last_mut() else {
            if self.io.result == OpResult::None {
                self.io.result = OpResult::from_ret(value);
            }
            return;
        };
        caller.l.ret = value;
        caller.l.out = done.l.out;
    }

    /// Runs to the end. Alone nobody can hold a lock for ever, so a blocked step is a deadlock: a bug.
    ///
    /// # Panics
    /// When a step blocks.
    pub fn run(&mut self, host: &mut Host) {
        loop {
            match self.step(host) {
                Progress::Running => {}
                Progress::Done => return,
                Progress::Blocked => panic!("deadlock: {:?} waits with nobody else running", self.next_step(host)),
            }
        }
    }
}
