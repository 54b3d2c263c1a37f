//! The explorer: runs the steps of several actors in every order.
//!
//! **Models** a scheduler that may switch at every step of every kernel path: a state is the host and each actor's task;
//! a transition runs one step of one actor. The paths are the host's own tables, unchanged. Search is breadth first, so the
//! first violation found has the fewest steps. **Leaves out** reductions (partial order, symmetry), weak memory, and
//! fairness: a waiting actor may wait for ever, but an end where every unfinished actor waits is reported as a deadlock.
//!
//! **Keeps**: states are told apart by their whole encoding, never by a hash alone, so "complete" means every reachable
//! state was looked at.

mod actor;
mod schedule;
mod search;
mod space;
mod store;
mod symmetry;

pub use actor::Actor;
pub use schedule::{ScheduleError, Stop, Turn, schedule};
pub use search::{Exploration, ExploreError, Finding, Options, explore};
