//! The encodings (Arm ARM C4.1): from a word to what it asks for.
//!
//! One function per encoding group, each returning `None` for what is unallocated or not modelled. Left out: features that
//! only matter to other instructions. The invariant: decoding looks at the word alone; whether it may execute at an exception
//! level is decided later.

mod load_store;

use super::instruction::{Instruction, RegisterForm, System};
use load_store::load_store;

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
