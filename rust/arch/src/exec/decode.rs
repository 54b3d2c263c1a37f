//! The encodings (Arm ARM C4.1): from a word to what it asks for.
//!
//! One function per encoding group, each returning `None` for what is unallocated or not modelled. Left out: features that
//! only matter to other instructions. The invariant: decoding looks at the word alone; whether it may execute at an exception
//! level is decided later.

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

/// The instruction a word encodes, if it is modelled.
pub(super) fn decode(word: u32) -> Option<Instruction> {
    match field(word, 28, 25) {
        0b1000 | 0b1001 => add_tag(word).map(Instruction::Register),
        0b1101 => two_sources(word).map(Instruction::Register),
        0b1010 | 0b1011 => system(word),
        0b0100 | 0b0110 | 0b1100 | 0b1110 => load_store(word),
        _ => None,
    }
}

/// Bits `high` to `low`.
const fn field(word: u32, high: u32, low: u32) -> u32 {
    word << (31 - high) >> (31 - high + low)
}

const fn bit(word: u32, at: u32) -> bool {
    field(word, at, at) != 0
}

/// A register number.
const fn reg(word: u32, low: u32) -> u8 {
    field(word, low + 4, low) as u8
}

/// A signed immediate in bits `high` to `low`.
const fn signed(word: u32, high: u32, low: u32) -> i64 {
    ((word << (31 - high)).cast_signed() >> (31 - high + low)) as i64
}

/// `ADDG`, `SUBG`.
fn add_tag(word: u32) -> Option<RegisterForm> {
    let subtract = match field(word, 31, 22) {
        0b10_0100_0110 => false,
        0b11_0100_0110 => true,
        _ => return None,
    };
    (field(word, 15, 14) == 0).then_some(RegisterForm::Addg {
        subtract,
        d: reg(word, 0),
        n: reg(word, 5),
        offset: u64::from(field(word, 21, 16)) * 16,
        tag_offset: field(word, 13, 10) as u8,
    })
}

/// `SUBP`, `SUBPS`, `IRG`, `GMI`.
fn two_sources(word: u32) -> Option<RegisterForm> {
    let (d, n, m) = (reg(word, 0), reg(word, 5), reg(word, 16));
    Some(match (field(word, 31, 21), field(word, 15, 10)) {
        (0b100_1101_0110, 0b0000) => RegisterForm::Subp { flags: false, d, n, m },
        (0b101_1101_0110, 0b0000) => RegisterForm::Subp { flags: true, d, n, m },
        (0b100_1101_0110, 0b0100) => RegisterForm::Irg { d, n, m },
        (0b100_1101_0110, 0b0101) => RegisterForm::Gmi { d, n, m },
        _ => return None,
    })
}

fn system(word: u32) -> Option<Instruction> {
    if field(word, 31, 22) != 0b11_0101_0100 {
        return None;
    }
    let (read, op0, op1) = (bit(word, 21), field(word, 20, 19), field(word, 18, 16) as u8);
    let (crn, crm) = (field(word, 15, 12) as u8, field(word, 11, 8) as u8);
    let (op2, t) = (field(word, 7, 5) as u8, reg(word, 0));
    Some(match (op0, crn) {
        (0, 2) if !read && op1 == 3 && t == 31 => Instruction::Nothing,
        (0, 3) if !read && op1 == 3 && t == 31 => barrier(crm, op2)?,
        (0, 4) if !read && t == 31 => Instruction::System(System::Pstate {
            op1,
            op2,
            value: crm & 1 != 0,
        }),
        (1, _) if !read => Instruction::System(System::Sys { op1, crn, crm, op2, t }),
        (2 | 3, _) => Instruction::System(System::Move {
            read,
            encoding: field(word, 20, 5) as u16,
            t,
        }),
        _ => return None,
    })
}

/// `CLREX`, `DSB` with and without nXS, `DMB`, `ISB`, `SB`.
fn barrier(crm: u8, op2: u8) -> Option<Instruction> {
    match (op2, crm) {
        (2, _) => Some(Instruction::ClearMonitor),
        (4..=6, _) | (1, 0b0010 | 0b0110 | 0b1010 | 0b1110) | (7, 0) => Some(Instruction::Nothing),
        _ => None,
    }
}

fn load_store(word: u32) -> Option<Instruction> {
    let memory = match (field(word, 29, 27), field(word, 25, 24)) {
        (0b001, 0b00) if !bit(word, 26) => exclusive_or_ordered(word)?,
        (0b011, 0b00) => return literal(word),
        (0b011, 0b01) if bit(word, 21) => return tags(word).map(Instruction::Tags),
        (0b011, 0b01) if field(word, 11, 10) == 0 && !bit(word, 26) => ordered_unscaled(word)?,
        (0b101, _) => return pair(word),
        (0b111, _) => return one_register(word),
        _ => return None,
    };
    Some(Instruction::Memory(memory))
}

/// `LDXR`, `LDAR`, `CAS`, `CASP` and their kin (C4.1.94, "Load/store exclusive", "ordered", "Compare and swap").
fn exclusive_or_ordered(word: u32) -> Option<Memory> {
    let log2 = field(word, 31, 30);
    let (register, base, second, status) = (reg(word, 0), reg(word, 5), reg(word, 10), reg(word, 16));
    let data = if bit(word, 22) { Data::Load } else { Data::Store };
    let address = Address {
        base: Base::Plain(base),
        offset: Offset::Immediate(0),
    };
    let form = match (bit(word, 23), bit(word, 21)) {
        (false, true) if log2 < 2 => {
            return (second == 31 && status % 2 == 0 && register % 2 == 0).then_some(Memory::Swap {
                pair: true,
                size: 4 << log2,
                base,
                expected: status,
                new: register,
            });
        }
        (true, true) => {
            return (second == 31).then_some(Memory::Swap {
                pair: false,
                size: 1 << log2,
                base,
                expected: status,
                new: register,
            });
        }
        (false, pair) => Form::Exclusive {
            status,
            second: pair.then_some(second),
        },
        (true, false) => Form::Ordered,
    };
    Some(Memory::Move {
        form,
        data,
        size: 1 << log2,
        register,
        vector: false,
        address,
    })
}

/// `LDR` and `LDRSW` of a literal; a prefetch is a hint.
fn literal(word: u32) -> Option<Instruction> {
    let vector = bit(word, 26);
    let (data, size) = match (vector, field(word, 31, 30)) {
        (false, 0b00) => (Data::Load, 4),
        (false, 0b01) => (Data::Load, 8),
        (false, 0b10) => (Data::LoadSigned { wide: true }, 4),
        (false, _) => return Some(Instruction::Nothing),
        (true, log2 @ 0..=2) => (Data::Load, 4 << log2),
        (true, _) => return None,
    };
    Some(Instruction::Memory(Memory::Move {
        form: Form::Single,
        data,
        size,
        register: reg(word, 0),
        vector,
        address: Address {
            base: Base::Pc,
            offset: Offset::Immediate(signed(word, 23, 5) * 4),
        },
    }))
}

/// What `size` and `opc` of a single-register form mean: data and bytes. `None` in the answer is a prefetch.
fn data_and_size(word: u32) -> Option<(Option<Data>, u8)> {
    let (log2, opc) = (field(word, 31, 30), field(word, 23, 22));
    if bit(word, 26) {
        let data = if opc & 1 == 0 { Data::Store } else { Data::Load };
        return match (log2, opc) {
            (_, 0 | 1) => Some((Some(data), 1 << log2)),
            (0, _) => Some((Some(data), 16)),
            _ => None,
        };
    }
    let data = match (opc, log2) {
        (0, _) => Some(Data::Store),
        (1, _) => Some(Data::Load),
        (2, 0..=2) => Some(Data::LoadSigned { wide: true }),
        (3, 0..=1) => Some(Data::LoadSigned { wide: false }),
        (2, _) => None,
        _ => return None,
    };
    Some((data, 1 << log2))
}

/// `LDAPUR`, `STLUR` (`FEAT_LRCPC2`).
fn ordered_unscaled(word: u32) -> Option<Memory> {
    let (data, size) = data_and_size(word)?;
    Some(Memory::Move {
        form: Form::Ordered,
        data: data?,
        size,
        register: reg(word, 0),
        vector: false,
        address: Address {
            base: Base::Plain(reg(word, 5)),
            offset: Offset::Immediate(signed(word, 20, 12)),
        },
    })
}

/// Register pairs and `STGP`.
fn pair(word: u32) -> Option<Instruction> {
    let (opc, vector, load) = (field(word, 31, 30), bit(word, 26), bit(word, 22));
    let (n, second, register) = (reg(word, 5), reg(word, 10), reg(word, 0));
    let no_allocate = field(word, 24, 23) == 0;
    let base = match field(word, 24, 23) {
        0b01 => Base::Post(n),
        0b11 => Base::Pre(n),
        _ => Base::Plain(n),
    };
    let scaled = |size: u8| Address {
        base,
        offset: Offset::Immediate(signed(word, 21, 15) * i64::from(size)),
    };
    let (data, size) = match (vector, opc) {
        (false, 0b01) if no_allocate => return None,
        (false, 0b01) if !load => {
            return Some(Instruction::Tags(Tags::StorePair {
                first: register,
                second,
                address: scaled(16),
            }));
        }
        (false, 0b01) => (Data::LoadSigned { wide: true }, 4),
        (_, 0b11) => return None,
        (false, _) => (
            if load { Data::Load } else { Data::Store },
            if opc == 0 { 4 } else { 8 },
        ),
        (true, _) => (if load { Data::Load } else { Data::Store }, 4 << opc),
    };
    Some(Instruction::Memory(Memory::Move {
        form: Form::Pair { second },
        data,
        size,
        register,
        vector,
        address: scaled(size),
    }))
}

/// One register: immediate, register offset, unprivileged; and the atomics.
fn one_register(word: u32) -> Option<Instruction> {
    if field(word, 25, 24) == 0 && bit(word, 21) && field(word, 11, 10) == 0 {
        return atomic(word).map(Instruction::Memory);
    }
    let (data, size) = data_and_size(word)?;
    let n = reg(word, 5);
    let unscaled = Offset::Immediate(signed(word, 20, 12));
    let (form, base, offset) = match (field(word, 25, 24), bit(word, 21), field(word, 11, 10)) {
        (1, ..) => {
            let scaled = i64::from(field(word, 21, 10)) * i64::from(size);
            (Form::Single, Base::Plain(n), Offset::Immediate(scaled))
        }
        (0, false, 0) => (Form::Single, Base::Plain(n), unscaled),
        (0, false, 1) => (Form::Single, Base::Post(n), unscaled),
        (0, false, 2) if !bit(word, 26) => (Form::Unprivileged, Base::Plain(n), unscaled),
        (0, false, 3) => (Form::Single, Base::Pre(n), unscaled),
        (0, true, 2) => (Form::Single, Base::Plain(n), register_offset(word, size)?),
        _ => return None,
    };
    let Some(data) = data else {
        // A prefetch, which has neither indexed nor unprivileged forms.
        return matches!((form, base), (Form::Single, Base::Plain(_))).then_some(Instruction::Nothing);
    };
    Some(Instruction::Memory(Memory::Move {
        form,
        data,
        size,
        register: reg(word, 0),
        vector: bit(word, 26),
        address: Address { base, offset },
    }))
}

fn register_offset(word: u32, size: u8) -> Option<Offset> {
    Some(Offset::Register {
        number: reg(word, 16),
        extend: match field(word, 15, 13) {
            0b010 => Extend::Uxtw,
            0b011 | 0b111 => Extend::Lsl,
            0b110 => Extend::Sxtw,
            _ => return None,
        },
        shift: if bit(word, 12) { size.trailing_zeros() } else { 0 },
    })
}

/// `LD<op>`, `SWP` and `LDAPR`.
fn atomic(word: u32) -> Option<Memory> {
    if bit(word, 26) {
        return None;
    }
    let (size, base) = (1 << field(word, 31, 30), reg(word, 5));
    let op = match (bit(word, 15), field(word, 14, 12)) {
        (false, 0) => AtomicOp::Add,
        (false, 1) => AtomicOp::Clear,
        (false, 2) => AtomicOp::Xor,
        (false, 3) => AtomicOp::Set,
        (false, 4) => AtomicOp::SignedMax,
        (false, 5) => AtomicOp::SignedMin,
        (false, 6) => AtomicOp::UnsignedMax,
        (false, _) => AtomicOp::UnsignedMin,
        (true, 0) => AtomicOp::Swap,
        (true, 4) if field(word, 23, 22) == 0b10 && reg(word, 16) == 31 => {
            return Some(Memory::Move {
                form: Form::Ordered,
                data: Data::Load,
                size,
                register: reg(word, 0),
                vector: false,
                address: Address {
                    base: Base::Plain(base),
                    offset: Offset::Immediate(0),
                },
            });
        }
        _ => return None,
    };
    Some(Memory::Atomic {
        op,
        size,
        base,
        operand: reg(word, 16),
        result: reg(word, 0),
    })
}

/// "Load/store memory tags".
fn tags(word: u32) -> Option<Tags> {
    if field(word, 31, 30) != 0b11 || bit(word, 26) {
        return None;
    }
    let (register, base, offset) = (reg(word, 0), reg(word, 5), signed(word, 20, 12) * 16);
    let indexed = match field(word, 11, 10) {
        1 => Base::Post(base),
        2 => Base::Plain(base),
        _ => Base::Pre(base),
    };
    let store = |granules, zero| Tags::Store {
        granules,
        zero,
        register,
        address: Address {
            base: indexed,
            offset: Offset::Immediate(offset),
        },
    };
    Some(match (field(word, 23, 22), field(word, 11, 10)) {
        (0, 0) if offset == 0 => Tags::StoreZeroMultiple { register, base },
        (1, 0) => Tags::Load { register, base, offset },
        (2, 0) if offset == 0 => Tags::StoreMultiple { register, base },
        (3, 0) if offset == 0 => Tags::LoadMultiple { register, base },
        (_, 0) => return None,
        (0, _) => store(1, false),
        (1, _) => store(1, true),
        (2, _) => store(2, false),
        (_, _) => store(2, true),
    })
}
