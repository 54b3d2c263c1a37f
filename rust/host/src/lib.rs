//! tagvisor host.
