//! What an instruction asks for, once its word is decoded.
//!
//! Plain values: register numbers, widths, addressing. Left out: what the words look like, which is the decoder's, and what
//! the instructions do, which is `memory` and `system`. The invariant: a register number is below 32.

use crate::insn::AtomicOp;

/// An instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    Memory(Memory),
    Tags(Tags),
    Register(RegisterForm),
    System(System),
    /// `CLREX`.
    ClearMonitor,
    /// Hints, barriers and prefetches.
    Nothing,
    /// Allocated, and UNDEFINED with these registers.
    Undefined,
}

/// Where an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) base: Base,
    pub(super) offset: Offset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// A register without writeback.
    Plain(u8),
    /// Pre-indexed: the base is written back.
    Pre(u8),
    /// Post-indexed: the offset counts for the writeback only.
    Post(u8),
    Pc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offset {
    Immediate(i64),
    Register { number: u8, extend: Extend, shift: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extend {
    Uxtw,
    Lsl,
    Sxtw,
}

impl Extend {
    pub(super) const fn apply(self, value: u64) -> u64 {
        match self {
            Self::Lsl => value,
            Self::Uxtw => value & 0xffff_ffff,
            Self::Sxtw => (value.cast_signed() as i32 as i64).cast_unsigned(),
        }
    }
}

/// What a load or store moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    Store,
    Load,
    /// A load that is sign-extended to 64 or 32 bits.
    LoadSigned {
        wide: bool,
    },
}

/// Which kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A plain access of one register.
    Single,
    /// `LDTR`, `STTR`.
    Unprivileged,
    /// Load-acquire, store-release.
    Ordered,
    /// Two registers.
    Pair { second: u8 },
    /// `LDXR`, `STXR` with the status register; two registers if `second`.
    Exclusive { status: u8, second: Option<u8> },
}

/// A load or store, an atomic or a compare-and-swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    Move {
        form: Form,
        data: Data,
        /// Bytes of a register.
        size: u8,
        register: u8,
        vector: bool,
        address: Address,
    },
    Atomic {
        op: AtomicOp,
        size: u8,
        base: u8,
        operand: u8,
        result: u8,
    },
    /// `CAS`, or `CASP` of register pairs.
    Swap {
        pair: bool,
        size: u8,
        base: u8,
        expected: u8,
        new: u8,
    },
}

/// A tag instruction on memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tags {
    Load {
        register: u8,
        base: u8,
        offset: i64,
    },
    Store {
        granules: u8,
        zero: bool,
        register: u8,
        address: Address,
    },
    StorePair {
        first: u8,
        second: u8,
        address: Address,
    },
    LoadMultiple {
        register: u8,
        base: u8,
    },
    StoreMultiple {
        register: u8,
        base: u8,
    },
    StoreZeroMultiple {
        register: u8,
        base: u8,
    },
}

/// A tag instruction on registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RegisterForm {
    Addg {
        subtract: bool,
        d: u8,
        n: u8,
        offset: u64,
        tag_offset: u8,
    },
    Irg {
        d: u8,
        n: u8,
        m: u8,
    },
    Gmi {
        d: u8,
        n: u8,
        m: u8,
    },
    Subp {
        flags: bool,
        d: u8,
        n: u8,
        m: u8,
    },
}

/// A system instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum System {
    /// `SYS`: `DC`, `AT`, `TLBI`.
    Sys { op1: u8, crn: u8, crm: u8, op2: u8, t: u8 },
    /// `MRS`, `MSR`; the encoding as [`Register`](super::Register) has it.
    Move { read: bool, encoding: u16, t: u8 },
    /// `MSR TCO`, `PAN`, `UAO` with an immediate.
    Pstate { op1: u8, op2: u8, value: bool },
}
