//! The encodings of loads and stores (Arm ARM C4.1.94, "Loads and Stores").
//!
//! One function per encoding group. Left out: what [`decode`](super) leaves out. The invariant: a prefetch is an instruction that
//! does nothing.

use super::{bit, field, reg, signed};
use crate::exec::instruction::{Address, Base, Data, Extend, Form, Instruction, Memory, Offset, Tags};
use crate::insn::AtomicOp;

pub(super) fn load_store(word: u32) -> Option<Instruction> {
    let memory = match (field(word, 29, 27), field(word, 25, 24)) {
        (0b001, 0b00) if !bit(word, 26) => return exclusive_or_ordered(word),
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
///
/// A pair of `CASP` that starts with an odd register is UNDEFINED (C6.2, "CASP": `if Rs<0> == '1' then UNDEFINED`, and so Rt).
fn exclusive_or_ordered(word: u32) -> Option<Instruction> {
    let log2 = field(word, 31, 30);
    let (register, base, second, status) = (reg(word, 0), reg(word, 5), reg(word, 10), reg(word, 16));
    let data = if bit(word, 22) { Data::Load } else { Data::Store };
    let address = Address {
        base: Base::Plain(base),
        offset: Offset::Immediate(0),
    };
    let form = match (bit(word, 23), bit(word, 21)) {
        (false, true) if log2 < 2 => {
            let swap = if status % 2 == 0 && register % 2 == 0 {
                Instruction::Memory(Memory::Swap {
                    pair: true,
                    size: 4 << log2,
                    base,
                    expected: status,
                    new: register,
                })
            } else {
                Instruction::Undefined
            };
            return (second == 31).then_some(swap);
        }
        (true, true) => {
            let swap = Memory::Swap {
                pair: false,
                size: 1 << log2,
                base,
                expected: status,
                new: register,
            };
            return (second == 31).then_some(Instruction::Memory(swap));
        }
        (false, pair) => Form::Exclusive {
            status,
            second: pair.then_some(second),
        },
        (true, false) => Form::Ordered,
    };
    Some(Instruction::Memory(Memory::Move {
        form,
        data,
        size: 1 << log2,
        register,
        vector: false,
        address,
    }))
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
