//! tagvisor arch.
