//! The architecture against recorded answers of QEMU 10.0.2, bit for bit where tagvisor models the bit.

mod alu;
mod rows;
mod sequences;
mod walk;
