//! Caches of translations, near and architectural.
//!
//! [`MicroTlb`] answers in a handful of instructions and is emptied whenever its context would change. [`Tlb`] is asked
//! when that misses: it knows VMIDs, ASIDs, leaf sizes and every `TLBI`. Left out: any link to the translation tables;
//! whoever changes them invalidates. The invariant is each cache's own.

mod architectural;
mod entry;
mod micro;
mod tlbi;

pub use architectural::Tlb;
pub use entry::{Context, Regime, TlbEntry};
pub use micro::{MicroTlb, MicroTlbEntry, TlbFlags};
pub use tlbi::Tlbi;
