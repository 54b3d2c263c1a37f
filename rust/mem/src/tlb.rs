//! Caches of translations.
//!
//! [`MicroTlb`] answers in a handful of instructions and is emptied whenever its context would change. Left out: any link
//! to the translation tables; whoever changes them invalidates. The invariant is each cache's own.

mod micro;

pub use micro::{MicroTlb, MicroTlbEntry, TlbFlags};
