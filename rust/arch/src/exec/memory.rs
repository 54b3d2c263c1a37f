//! Loads, stores, atomics and tag instructions with their registers.
//!
//! Models which registers an instruction reads and writes, base register writeback, the exclusive monitor and the syndrome
//! that describes a single-register access. The monitor is local and remembers the address; with another address a store
//! exclusive fails before any check of memory, which the architecture allows. Left out: global monitors, and that another
//! observer clears one. The invariant: registers change only once memory has agreed.

use super::instruction::{Address, Base, Data, Form, Memory, Offset, RegisterForm, Tags};
use super::{Core, Stop};
use crate::addr::Va;
use crate::exception::Exception;
use crate::fault::Syndrome;
use crate::insn::{self, MemOp, Mmu, Order};
use crate::tag::Tag;

/// A pair of vector registers.
const LARGEST: usize = 32;

impl Core {
    pub(super) fn memory<M: Mmu>(&mut self, mmu: &mut M, op: Memory) -> Result<(), Stop> {
        match op {
            Memory::Move {
                form,
                data,
                size,
                register,
                vector,
                address,
            } => {
                let (va, write_back) = self.address(address)?;
                let op = self.mem_op(form, data, size, register, vector, address);
                let registers = match form {
                    Form::Pair { second }
                    | Form::Exclusive {
                        second: Some(second), ..
                    } => [register, second],
                    _ => [register, 31],
                };
                let moved = Moved {
                    size,
                    vector,
                    registers,
                    data,
                };
                match (data, form) {
                    (Data::Store, Form::Exclusive { status, .. }) => {
                        self.store_exclusive(mmu, va, op, moved, status)?;
                    }
                    (Data::Store, _) => self.store(mmu, va, op, moved)?,
                    (_, Form::Exclusive { .. }) => {
                        self.load(mmu, va, op, moved)?;
                        self.monitor = Some((va.0, op.size));
                    }
                    _ => self.load(mmu, va, op, moved)?,
                }
                self.write_back(write_back);
            }
            Memory::Atomic {
                op,
                size,
                base,
                operand,
                result,
            } => {
                let va = Va(self.base(base)?);
                let access = self.atomic_op(size, base);
                let operand = self.get(operand).into();
                let old = insn::atomic(&mut self.cpu, mmu, va, access, op, operand)?;
                self.set(result, old as u64);
            }
            Memory::Swap {
                pair,
                size,
                base,
                expected,
                new,
            } => {
                let va = Va(self.base(base)?);
                let joined = |low: u8| {
                    if pair {
                        u128::from(self.get(low)) & width(size) | u128::from(self.get(low + 1)) << (8 * size)
                    } else {
                        self.get(low).into()
                    }
                };
                let access = self.atomic_op(if pair { 2 * size } else { size }, base);
                let (before, after) = (joined(expected), joined(new));
                let old = insn::compare_and_swap(&mut self.cpu, mmu, va, access, before, after)?;
                self.set(expected, (old & width(size)) as u64);
                if pair {
                    self.set(expected + 1, (old >> (8 * size) & width(size)) as u64);
                }
            }
        }
        Ok(())
    }

    fn mem_op(&self, form: Form, data: Data, size: u8, register: u8, vector: bool, address: Address) -> MemOp {
        let pair = matches!(form, Form::Pair { .. } | Form::Exclusive { second: Some(_), .. });
        let el = match form {
            Form::Unprivileged if self.cpu.el == 1 && !self.uao => 0,
            _ => self.cpu.el,
        };
        let order = match form {
            Form::Ordered => Order::Ordered,
            Form::Exclusive { .. } => Order::Atomic,
            _ => Order::Plain,
        };
        let total = if pair { 2 * size } else { size };
        MemOp {
            size: total,
            // The registers of a pair are accesses of their own, those of an exclusive pair one.
            element: if order == Order::Atomic { total } else { size },
            el,
            checked: !unchecked(address),
            order,
            syndrome: syndrome(form, data, size, register, vector, address),
        }
    }

    fn atomic_op(&self, size: u8, base: u8) -> MemOp {
        MemOp {
            size,
            element: size,
            el: self.cpu.el,
            checked: base != 31,
            order: Order::Atomic,
            syndrome: Syndrome::NONE,
        }
    }

    fn load<M: Mmu>(&mut self, mmu: &mut M, va: Va, op: MemOp, moved: Moved) -> Result<(), Stop> {
        let mut bytes = [0; LARGEST];
        insn::load_with(&mut self.cpu, mmu, va, op, &mut bytes[..op.size as usize])?;
        for (&register, bytes) in moved
            .registers
            .iter()
            .zip(bytes[..op.size as usize].chunks(moved.size.into()))
        {
            let mut value = [0; 16];
            value[..bytes.len()].copy_from_slice(bytes);
            let value = u128::from_le_bytes(value);
            if moved.vector {
                self.v[register as usize] = value;
            } else {
                self.set(register, moved.data.extend(value as u64, moved.size));
            }
        }
        Ok(())
    }

    fn store<M: Mmu>(&mut self, mmu: &mut M, va: Va, op: MemOp, moved: Moved) -> Result<(), Stop> {
        let mut bytes = [0; LARGEST];
        let size = moved.size as usize;
        for (&register, bytes) in moved.registers.iter().zip(bytes[..op.size as usize].chunks_mut(size)) {
            let value = if moved.vector {
                self.v[register as usize]
            } else {
                self.get(register).into()
            };
            bytes.copy_from_slice(&value.to_le_bytes()[..size]);
        }
        Ok(insn::store_with(
            &mut self.cpu,
            mmu,
            va,
            op,
            &bytes[..op.size as usize],
        )?)
    }

    fn store_exclusive<M: Mmu>(
        &mut self,
        mmu: &mut M,
        va: Va,
        op: MemOp,
        moved: Moved,
        status: u8,
    ) -> Result<(), Stop> {
        let passes = self.monitor == Some((va.0, op.size));
        if passes {
            self.store(mmu, va, op, moved)?;
        }
        self.monitor = None;
        self.set(status, u64::from(!passes));
        Ok(())
    }

    pub(super) fn tags<M: Mmu>(&mut self, mmu: &mut M, op: Tags) -> Result<(), Stop> {
        match op {
            Tags::Load { register, base, offset } => {
                let va = Va(self.base(base)?.wrapping_add(offset.cast_unsigned()));
                let tag = insn::ldg(&self.cpu, mmu, va)?;
                self.set(register, Va(self.get(register)).with_tag(tag).0);
            }
            Tags::Store {
                granules,
                zero,
                register,
                address,
            } => {
                let (va, write_back) = self.address(address)?;
                let tag = Va(self.get_or_sp(register)).tag();
                match (granules, zero) {
                    (1, false) => insn::stg(&self.cpu, mmu, va, tag)?,
                    (1, true) => insn::stzg(&self.cpu, mmu, va, tag)?,
                    (_, false) => insn::st2g(&self.cpu, mmu, va, tag)?,
                    (_, true) => insn::stz2g(&self.cpu, mmu, va, tag)?,
                }
                self.write_back(write_back);
            }
            Tags::StorePair { first, second, address } => {
                let (va, write_back) = self.address(address)?;
                insn::stgp(&self.cpu, mmu, va, self.get(first), self.get(second))?;
                self.write_back(write_back);
            }
            Tags::LoadMultiple { .. } | Tags::StoreMultiple { .. } | Tags::StoreZeroMultiple { .. }
                if self.cpu.el == 0 =>
            {
                return Err(Exception::Undefined.into());
            }
            Tags::LoadMultiple { register, base } => {
                let bits = insn::ldgm(&self.cpu, mmu, Va(self.base(base)?))?;
                self.set(register, bits);
            }
            Tags::StoreMultiple { register, base } => {
                insn::stgm(&self.cpu, mmu, Va(self.base(base)?), self.get(register))?;
            }
            Tags::StoreZeroMultiple { register, base } => {
                let tag = Tag::new(self.get(register) as u8);
                insn::stzgm(&self.cpu, mmu, Va(self.base(base)?), tag)?;
            }
        }
        Ok(())
    }

    pub(super) fn register_form(&mut self, op: RegisterForm) {
        match op {
            RegisterForm::Addg {
                subtract,
                d,
                n,
                offset,
                tag_offset,
            } => {
                let apply = if subtract { insn::subg } else { insn::addg };
                self.set_or_sp(d, apply(&self.cpu, self.get_or_sp(n), offset, tag_offset));
            }
            RegisterForm::Irg { d, n, m } => {
                let (pointer, exclude) = (self.get_or_sp(n), self.get(m));
                let tagged = insn::irg(&mut self.cpu, pointer, exclude);
                self.set_or_sp(d, tagged);
            }
            RegisterForm::Gmi { d, n, m } => self.set(d, insn::gmi(self.get_or_sp(n), self.get(m))),
            RegisterForm::Subp { flags, d, n, m } => {
                let (difference, nzcv) = insn::subps(self.get_or_sp(n), self.get_or_sp(m));
                self.set(d, difference);
                if flags {
                    self.nzcv = nzcv;
                }
            }
        }
    }
}

/// What a load or store moves.
#[derive(Clone, Copy)]
struct Moved {
    size: u8,
    vector: bool,
    registers: [u8; 2],
    data: Data,
}

impl Data {
    /// The loaded bytes as a 64-bit register holds them.
    fn extend(self, value: u64, size: u8) -> u64 {
        let above = 64 - 8 * u32::from(size.min(8));
        match self {
            Self::LoadSigned { wide } => {
                let extended = ((value << above).cast_signed() >> above).cast_unsigned();
                if wide { extended } else { extended & 0xffff_ffff }
            }
            Self::Load | Self::Store => value,
        }
    }
}

/// A mask of `size` bytes.
fn width(size: u8) -> u128 {
    (1 << (8 * size)) - 1
}

/// Accesses that are not tag checked: literals, and the stack pointer with an immediate offset and without writeback.
fn unchecked(address: Address) -> bool {
    matches!(
        (address.base, address.offset),
        (Base::Pc, _) | (Base::Plain(31), Offset::Immediate(_))
    )
}

/// `LSInstructionSyndrome`: a single general register without writeback. A sign-extending load names the width it extends to.
fn syndrome(form: Form, data: Data, size: u8, register: u8, vector: bool, address: Address) -> Syndrome {
    let described = matches!(form, Form::Single | Form::Unprivileged | Form::Ordered)
        && matches!(address.base, Base::Plain(_) | Base::Pc);
    if vector || !described {
        return Syndrome::NONE;
    }
    let (signed, wide) = match data {
        Data::LoadSigned { wide } => (true, wide),
        _ => (false, size == 8),
    };
    Syndrome::new(size, register, signed, wide, form == Form::Ordered)
}
