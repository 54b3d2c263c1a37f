//! Executing instructions by their encoding, on the registers of one processing element.
//!
//! Models what the rest of the crate models, with its A64 encodings: loads, stores, pairs, exclusives, atomics and
//! compare-and-swap of general and vector registers; the tag instructions; `DC`; `MRS` and `MSR` of the registers
//! that translation and tags depend on; `AT`, `TLBI`, hints and barriers. Left out: every other instruction, which is refused by
//! name ([`Stop::NotModelled`]), and what happens at the target of an exception. The invariant: an instruction that
//! does not complete leaves registers and memory as they were, `TFSR_ELx` apart.

mod decode;
mod instruction;
mod memory;
mod registers;
mod system;

pub use registers::{Register, register};
pub use system::{Effect, TlbiOp};

use crate::addr::Va;
use crate::exception::Exception;
use crate::fault::Fault;
use crate::features::Features;
use crate::insn::{Cpu, ElControls, Mmu};
use crate::regs::SysRegs;
use instruction::{Address, Base, Instruction, Offset};

/// The registers of a processing element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Core {
    /// What tags depend on.
    pub cpu: Cpu,
    /// What translation depends on; change it by [`Core::set_sys`].
    sys: SysRegs,
    /// The optional features.
    features: Features,
    /// X0 to X30.
    pub x: [u64; 31],
    /// `SP_EL0`, `SP_EL1`, `SP_EL2`; each level uses its own.
    pub sp: [u64; 3],
    /// V0 to V31.
    pub v: [u128; 32],
    /// The address of the instruction.
    pub pc: u64,
    /// Condition flags in bits 3:0.
    pub nzcv: u8,
    /// `PSTATE.UAO`: unprivileged accesses of EL1 are privileged.
    pub uao: bool,
    /// `PAR_EL1`.
    pub par: u64,
    /// The local exclusive monitor: address and size.
    monitor: Option<(u64, u8)>,
}

/// Why an instruction did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It took an exception.
    Exception(Exception),
    /// It is none that the model knows; nothing happened.
    NotModelled,
}

impl From<Exception> for Stop {
    fn from(exception: Exception) -> Self {
        Self::Exception(exception)
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Exception(fault.into())
    }
}

impl Core {
    /// A processor at EL1 with all registers 0; `seed` is that of the random tags `GCR_EL1.RRND` selects.
    pub fn new(features: Features, seed: u64) -> Self {
        let mut core = Self {
            features,
            ..Self::default()
        };
        (core.cpu.el, core.cpu.entropy) = (1, seed);
        core
    }

    /// The optional features.
    pub const fn features(&self) -> Features {
        self.features
    }

    /// What translation depends on.
    pub const fn sys(&self) -> &SysRegs {
        &self.sys
    }

    /// Replaces what translation depends on, and works out what follows for tags.
    pub fn set_sys(&mut self, sys: SysRegs) {
        self.sys = sys;
        self.cpu.controls = ElControls::all(&sys, self.features);
    }

    /// Executes one instruction; `PC` moves on if it completes.
    ///
    /// # Errors
    /// [`Stop`].
    pub fn execute<M: Mmu>(&mut self, mmu: &mut M, word: u32) -> Result<Effect, Stop> {
        let instruction = decode::decode(word).ok_or(Stop::NotModelled)?;
        let effect = match instruction {
            Instruction::Memory(op) => self.memory(mmu, op).map(|()| Effect::None),
            Instruction::Tags(op) => self.tags(mmu, op).map(|()| Effect::None),
            Instruction::Register(op) => {
                self.register_form(op);
                Ok(Effect::None)
            }
            Instruction::System(op) => self.system(mmu, op),
            Instruction::ClearMonitor => {
                self.monitor = None;
                Ok(Effect::None)
            }
            Instruction::Nothing => Ok(Effect::None),
            Instruction::Undefined => Err(Exception::Undefined.into()),
        }?;
        self.pc = self.pc.wrapping_add(4);
        Ok(effect)
    }

    /// A general register; number 31 is the zero register.
    fn get(&self, number: u8) -> u64 {
        self.x.get(number as usize).copied().unwrap_or(0)
    }

    fn set(&mut self, number: u8, value: u64) {
        if let Some(register) = self.x.get_mut(number as usize) {
            *register = value;
        }
    }

    /// A base register; number 31 is the stack pointer, whose alignment may be asked for.
    fn base(&self, number: u8) -> Result<u64, Exception> {
        if number != 31 {
            return Ok(self.get(number));
        }
        let sp = self.sp[self.cpu.el as usize];
        if self.cpu.controls[self.cpu.el as usize].aligned_sp && !sp.is_multiple_of(16) {
            return Err(Exception::SpAlignment);
        }
        Ok(sp)
    }

    fn get_or_sp(&self, number: u8) -> u64 {
        match number {
            31 => self.sp[self.cpu.el as usize],
            _ => self.get(number),
        }
    }

    fn set_or_sp(&mut self, number: u8, value: u64) {
        match number {
            31 => self.sp[self.cpu.el as usize] = value,
            _ => self.set(number, value),
        }
    }

    /// The address of an access, and what its base register is afterwards.
    fn address(&self, address: Address) -> Result<(Va, Option<(u8, u64)>), Exception> {
        let offset = match address.offset {
            Offset::Immediate(offset) => offset.cast_unsigned(),
            Offset::Register { number, extend, shift } => extend.apply(self.get(number)) << shift,
        };
        Ok(match address.base {
            Base::Pc => (Va(self.pc.wrapping_add(offset)), None),
            Base::Plain(base) => (Va(self.base(base)?.wrapping_add(offset)), None),
            Base::Pre(base) => {
                let va = self.base(base)?.wrapping_add(offset);
                (Va(va), Some((base, va)))
            }
            Base::Post(base) => {
                let va = self.base(base)?;
                (Va(va), Some((base, va.wrapping_add(offset))))
            }
        })
    }

    fn write_back(&mut self, write_back: Option<(u8, u64)>) {
        if let Some((base, value)) = write_back {
            self.set_or_sp(base, value);
        }
    }
}

#[cfg(test)]
mod tests;
