//! Shared set-up of the criterion benches.
//!
//! Models nothing: what is measured, and its native floor, is `tagvisor_replay::bench` and
//! `tagvisor_replay::floor`, the same code that `tagvisor bench` runs. Leaves out medians and ratios, which
//! criterion's own report and `tagvisor bench` give.
//!
//! Invariant: ours and floor get the same records, in one process.

pub use tagvisor_replay::bench::{Accesses, Checked, Walks, roomy_engine};

/// The seed of every bench: addresses and tags are the same in each run.
pub const SEED: u64 = 1;
