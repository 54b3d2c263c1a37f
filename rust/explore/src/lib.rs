//! tagvisor explore.
