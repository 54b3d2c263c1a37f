//! Replay: a recorded program's accesses, at native speed, in a guest whose host is under memory pressure.
//!
//! Models the guest side of a workload: [`record`] is the event stream, [`lackey`] imports it from a real
//! program, [`heap`] gives its allocations tags as Android's allocator does, [`layout`] places its pages in the
//! guest, [`engine`] sends every access through the machine, [`counters`] say what it cost.
//!
//! Leaves out host policies: which kernel the host runs is decided by whoever builds the machine.
//!
//! Invariant: the same machine, seed and events give the same counters, however the events are cut into batches.

pub mod bench;
pub mod counters;
pub mod engine;
pub mod floor;
pub mod heap;
pub mod lackey;
pub mod layout;
pub mod record;
pub mod rng;
