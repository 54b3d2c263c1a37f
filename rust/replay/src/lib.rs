//! tagvisor replay.
