//! A policy that decides anew at each kernel event.
//!
//! **Models** nothing: it is how a user's program answers in place of a value. An *event* is an entry to the kernel that
//! asks the policy: a stage-2 fault, a page fault, a system call, an ioctl, a reclaim. When one begins the decider is asked
//! about every knob; what it answers holds until the event ends, for the paths inside too. Without a decider nothing is
//! asked, and an access that takes no fault never asks.
//!
//! **Keeps**: an event runs under one policy from its first step to its last; what a decider answers wrongly counts as no
//! answer, and it is told.

use std::fmt;
use std::sync::Arc;

use crate::paths;
use crate::policy::{KnobError, Policy};
use crate::state::Host;
use crate::step::PathId;

/// Answers in place of a policy's values.
pub trait Decider: Send + Sync {
    /// The value of the knob for this event; `None` leaves it as it is.
    fn decide(&self, knob: &'static str, event: &'static str) -> Option<String>;
    /// An answer that the knob cannot take.
    fn refused(&self, error: KnobError);
}

/// Who is asked, and the policies of the events that the running one is inside of.
#[derive(Clone)]
pub(crate) struct Deciding {
    decider: Arc<dyn Decider>,
    outer: Vec<Policy>,
    /// What holds between events.
    base: Policy,
}

impl fmt::Debug for Deciding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deciding")
            .field("outer", &self.outer)
            .finish_non_exhaustive()
    }
}

impl Deciding {
    fn decided(&self, policy: &Policy, event: &'static str) -> Policy {
        let mut decided = policy.clone();
        for knob in Policy::knobs() {
            if let Some(value) = self.decider.decide(knob.id, event) {
                match decided.with(knob.id, &value) {
                    Ok(changed) => decided = changed,
                    Err(error) => self.decider.refused(error),
                }
            }
        }
        decided
    }
}

/// Is the path an entry to the kernel?
const fn is_event(path: PathId) -> bool {
    matches!(
        path,
        PathId::UserMemAbort
            | PathId::HandleMmFault
            | PathId::ShrinkFolioList
            | PathId::Munmap
            | PathId::Mprotect
            | PathId::MadviseDontneed
            | PathId::MadviseFree
            | PathId::MadvisePageout
            | PathId::MadviseWillneed
            | PathId::MadviseRemove
            | PathId::MadvisePopulate
            | PathId::MadviseCollapse
            | PathId::DoMovePages
            | PathId::SoftOffline
            | PathId::MemoryFailure
            | PathId::KsmDoScan
            | PathId::UnmergeKsmPages
            | PathId::ShmemUndoRange
            | PathId::DupMm
            | PathId::ExitMmap
            | PathId::AccessRemoteTags
            | PathId::CopyTagsFrom
            | PathId::CopyTagsTo
            | PathId::Swapoff
            | PathId::ZswapShrink
            | PathId::UffdioMove
            | PathId::DumpTagRange
            | PathId::GmemAbort
            | PathId::UffdioCopy
    )
}

impl Host {
    /// Asks `decider` from now on.
    pub fn set_decider(&mut self, decider: Arc<dyn Decider>) {
        self.deciding = Some(Box::new(Deciding {
            decider,
            outer: Vec::new(),
            base: self.policy.clone(),
        }));
    }

    /// Does somebody decide anew at each event?
    pub fn has_decider(&self) -> bool {
        self.deciding.is_some()
    }

    /// A path begins.
    #[inline]
    pub(crate) fn path_begins(&mut self, path: PathId) {
        if let Some(deciding) = &mut self.deciding
            && is_event(path)
        {
            let event = paths::table(path, &self.policy).name;
            let policy = deciding.decided(&self.policy, event);
            deciding.outer.push(std::mem::replace(&mut self.policy, policy));
        }
    }

    /// A path ended.
    #[inline]
    pub(crate) fn path_ends(&mut self, path: PathId) {
        if let Some(deciding) = &mut self.deciding
            && is_event(path)
            && let Some(outer) = deciding.outer.pop()
        {
            self.policy = outer;
        }
    }

    /// A system call or ioctl that is not a path of steps begins; it holds until the next event.
    pub(crate) fn call_begins(&mut self, event: &'static str) {
        if let Some(deciding) = &self.deciding {
            self.policy = deciding.decided(&deciding.base, event);
        }
    }

    /// An operation begins, outside every event.
    pub(crate) fn operation_begins(&mut self) {
        if let Some(deciding) = &mut self.deciding {
            deciding.outer.clear();
            self.policy = deciding.base.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::config::Config;
    use crate::machine::Machine;
    use crate::mm::{Backing, Prot};
    use crate::ops::MapSpec;

    /// Answers `K1` at reclaim, and writes down what it was asked.
    #[derive(Default)]
    struct Asked {
        events: Mutex<Vec<(&'static str, &'static str)>>,
        refused: Mutex<Vec<String>>,
        answer: &'static str,
    }

    impl Decider for Asked {
        fn decide(&self, knob: &'static str, event: &'static str) -> Option<String> {
            self.events.lock().unwrap().push((knob, event));
            (knob == "K1" && event == "handle_mm_fault").then(|| self.answer.to_owned())
        }

        fn refused(&self, error: KnobError) {
            self.refused.lock().unwrap().push(error.to_string());
        }
    }

    /// A tagged page goes out and comes back; how many pages of tags are saved afterwards.
    fn round_trip(answer: &'static str) -> (u64, Arc<Asked>, Policy) {
        let asked = Arc::new(Asked {
            answer,
            ..Asked::default()
        });
        let mut machine = Machine::new(&Config {
            memory: 1 << 20,
            swap: 1 << 20,
            ..Config::default()
        })
        .unwrap();
        machine.host_mut().set_decider(asked.clone());
        let app = machine.create_process("app");
        let spec = MapSpec {
            pages: 1,
            backing: Backing::Anon,
            shared: false,
            prot: Prot::READ | Prot::WRITE | Prot::MTE,
            pgoff: 0,
        };
        let va = machine.mmap(app, spec, None).unwrap();
        machine.user_stg(app, va, tagvisor_arch::Tag::new(5)).unwrap();
        machine.evict(app, va).unwrap();
        machine.user_ldg(app, va).unwrap();
        (machine.stats().saved_tag_pages, asked, machine.policy().clone())
    }

    #[test]
    fn an_answer_holds_for_its_event_only() {
        let (saved, asked, policy) = round_trip("restore");
        assert_eq!(saved, 0, "erased at the restore inside the fault");
        assert_eq!(policy, Policy::profile("linux-6.12").unwrap());
        let events = asked.events.lock().unwrap();
        assert!(events.contains(&("K1", "shrink_folio_list")));
        assert!(events.contains(&("K18", "handle_mm_fault")));
        assert!(!events.iter().any(|(_, event)| *event == "mte_restore_tags"));
        assert_eq!(round_trip("slot-free").0, 1);
    }

    #[test]
    fn an_answer_that_is_no_value_is_told_and_changes_nothing() {
        let (saved, asked, _) = round_trip("never");
        assert_eq!(saved, 1);
        assert!(asked.refused.lock().unwrap()[0].contains("slot-free"));
    }
}
