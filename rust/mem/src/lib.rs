//! tagvisor mem.
