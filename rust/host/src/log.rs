//! The step log: what the kernel did, in the order it did it, in words.
//!
//! **Models** nothing; it is what a counterexample is printed from. A line names who acted, the kernel path and step,
//! and what happened; its keys (page frames, swap slots, addresses) let a violation pick the lines that led to it.
//!
//! **Keeps**: with the log off no text is formatted and nothing else changes.

use tagvisor_arch::{Pfn, Va};

use crate::file::FileId;
use crate::ids::{Actor, MmId};
use crate::swap::SwpEntry;

/// What a line is about; two lines belong to one story when they share a key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Key {
    /// Set-up that every story needs (a VM, a memslot).
    Always,
    Frame(Pfn),
    Slot(SwpEntry),
    Page(MmId, u64),
    File(FileId, u64),
}

impl Key {
    pub(crate) fn page(mm: MmId, va: Va) -> Self {
        Self::Page(mm, va.vpn())
    }
}

/// One numbered line of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StepLine {
    /// Line number, from 1.
    pub n: u32,
    /// Who acted: `vmm`, `vcpu0`, `kswapd`.
    pub actor: String,
    /// The kernel path, e.g. `user_mem_abort`.
    pub path: &'static str,
    /// The step of the path, e.g. `read_lock(mmu_lock)`.
    pub step: &'static str,
    /// What happened.
    pub text: String,
}

/// Where the running step stands, for the lines it writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) actor: Actor,
    pub(crate) path: &'static str,
    pub(crate) step: &'static str,
}

/// Lines kept at least; twice as many at most, so that a long run does not fill memory.
const KEPT: usize = 100_000;

/// The latest lines, with their keys.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) enabled: bool,
    pub(crate) origin: Origin,
    lines: Vec<StepLine>,
    keys: Vec<Vec<Key>>,
    /// Lines dropped because they were the oldest.
    dropped: u32,
}

impl Log {
    pub(crate) fn new(enabled: bool) -> Self {
        let origin = Origin {
            actor: Actor::Process(MmId(0)),
            path: "",
            step: "",
        };
        Self {
            enabled,
            origin,
            lines: Vec::new(),
            keys: Vec::new(),
            dropped: 0,
        }
    }

    pub(crate) fn lines(&self) -> &[StepLine] {
        &self.lines
    }

    pub(crate) fn push(&mut self, actor: String, keys: &[Key], text: String) {
        let Origin { path, step, .. } = self.origin;
        if self.lines.len() == 2 * KEPT {
            self.lines.drain(..KEPT);
            self.keys.drain(..KEPT);
            self.dropped = self.dropped.saturating_add(KEPT as u32);
        }
        let n = self.dropped.saturating_add(self.lines.len() as u32 + 1);
        self.lines.push(StepLine {
            n,
            actor,
            path,
            step,
            text,
        });
        self.keys.push(keys.to_vec());
    }

    /// The lines that led to something about `seed`: walking back, a line belongs when it shares a key, and its own
    /// keys are followed from there on.
    pub(crate) fn story(&self, seed: &[Key]) -> Vec<StepLine> {
        let mut wanted = seed.to_vec();
        let mut story = Vec::new();
        for (line, keys) in self.lines.iter().zip(&self.keys).rev() {
            if keys.iter().any(|k| *k == Key::Always || wanted.contains(k)) {
                wanted.extend(keys.iter().filter(|k| !wanted.contains(k)).copied().collect::<Vec<_>>());
                story.push(line.clone());
            }
        }
        story.reverse();
        for (n, line) in story.iter_mut().enumerate() {
            line.n = u32::try_from(n).unwrap_or(u32::MAX - 1) + 1;
        }
        story
    }
}

/// Writes a log line about the given keys, formatting only when the log is on.
macro_rules! note {
    ($host:expr, [$($key:expr),*], $($text:tt)+) => {
        if $host.log.enabled {
            let text = format!($($text)+);
            $host.log_push(&[$($key),*], text);
        }
    };
}
pub(crate) use note;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_follows_keys_backwards_and_leaves_strangers_out() {
        let mut log = Log::new(true);
        log.push(
            "kswapd".into(),
            &[Key::Frame(Pfn(1)), Key::Slot(SwpEntry { device: 0, offset: 7 })],
            "saved".into(),
        );
        log.push("kswapd".into(), &[Key::Frame(Pfn(9))], "somebody else".into());
        log.push(
            "kswapd".into(),
            &[Key::Slot(SwpEntry { device: 0, offset: 7 }), Key::Frame(Pfn(2))],
            "restored".into(),
        );

        let story = log.story(&[Key::Frame(Pfn(2))]);

        assert_eq!(
            story.iter().map(|l| (l.n, l.text.as_str())).collect::<Vec<_>>(),
            [(1, "saved"), (2, "restored")]
        );
    }

    #[test]
    fn a_long_log_forgets_its_oldest_lines_and_keeps_counting() {
        let mut log = Log::new(true);
        for _ in 0..=2 * KEPT {
            log.push("vmm".into(), &[], String::new());
        }
        assert_eq!(
            (log.lines().len(), log.lines().last().unwrap().n),
            (KEPT + 1, 2 * KEPT as u32 + 1)
        );
    }
}
