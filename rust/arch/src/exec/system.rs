//! System instructions: `DC`, `AT`, `TLBI`, `MRS`, `MSR`, and who may execute them.
//!
//! Models UNDEFINED and trapped accesses as far as tags and translation depend on them: `SCTLR_EL1.{DZE,UCI}`,
//! `HCR_EL2.{ATA,TDZ,TID5}`. Left out: other trap controls (`TVM`, `TID3`, `TPCP`, fine-grained traps). The invariant: a
//! trapped instruction does nothing.

use super::instruction::System;
use super::registers::{Access, register_at};
use super::{Core, Stop};
use crate::addr::Va;
use crate::exception::Exception;
use crate::insn::{self, DcOp, Mmu};
use crate::translate::AtKind;

/// What an executed instruction asks of the machine around the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Translation controls may have changed.
    Controls,
    /// `AT`, whose answer goes to `PAR_EL1`.
    At(AtKind, Va),
    /// `TLBI`.
    Tlbi(TlbiOp),
}

/// A `TLBI` instruction: its encoding and its operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlbiOp {
    /// op1: 0 for EL1&0, 4 for what only EL2 may do.
    pub op1: u8,
    /// `CRm`: 3 and 7 by address, 0 and 4 by IPA; shareability makes no difference to one processing element.
    pub crm: u8,
    /// op2.
    pub op2: u8,
    /// The register operand.
    pub operand: u64,
}

impl Core {
    pub(super) fn system<M: Mmu>(&mut self, mmu: &mut M, op: System) -> Result<Effect, Stop> {
        match op {
            System::Pstate { op1, op2, value } => self.set_pstate(op1, op2, value).map(|()| Effect::None),
            System::Move { read, encoding, t } => self.move_register(read, encoding, t),
            System::Sys {
                op1,
                crn: 7,
                crm: 8,
                op2,
                t,
            } => self.at(op1, op2, t),
            System::Sys {
                op1,
                crn: 7,
                crm,
                op2,
                t,
            } => self.dc(mmu, (op1, crm, op2), t).map(|()| Effect::None),
            System::Sys {
                op1,
                crn: 8 | 9,
                crm,
                op2,
                t,
            } if is_tlbi(op1, crm, op2) => {
                let least = if op1 == 0 { 1 } else { 2 };
                if self.cpu.el < least {
                    return Err(Exception::Undefined.into());
                }
                let operand = self.get(t);
                Ok(Effect::Tlbi(TlbiOp { op1, crm, op2, operand }))
            }
            System::Sys { .. } => Err(Stop::NotModelled),
        }
    }

    fn set_pstate(&mut self, op1: u8, op2: u8, value: bool) -> Result<(), Stop> {
        match (op1, op2) {
            (3, 4) => self.cpu.tco = value,
            (0, 3 | 4) if self.cpu.el == 0 => return Err(Exception::Undefined.into()),
            (0, 3) => self.uao = value,
            (0, 4) => self.cpu.pan = value,
            _ => return Err(Stop::NotModelled),
        }
        Ok(())
    }

    fn move_register(&mut self, read: bool, encoding: u16, t: u8) -> Result<Effect, Stop> {
        let register = register_at(encoding).ok_or(Stop::NotModelled)?;
        let el = self.cpu.el;
        let write = if read {
            None
        } else {
            Some(register.write.ok_or(Exception::Undefined)?)
        };
        match register.access {
            Access::Anyone => {}
            Access::From(least) if el >= least => {}
            Access::Tags if el == 1 && !self.sys.hcr_el2.ata() => return Err(trap(2, encoding, t, read)),
            Access::Gmid if el == 1 && self.sys.hcr_el2.tid5() => return Err(trap(2, encoding, t, read)),
            Access::Tags | Access::Gmid if el >= 1 => {}
            _ => return Err(Exception::Undefined.into()),
        }
        match write {
            None => {
                let value = (register.read)(self);
                self.set(t, value);
                Ok(Effect::None)
            }
            Some(write) => {
                write(self, self.get(t));
                Ok(Effect::Controls)
            }
        }
    }

    fn at(&mut self, op1: u8, op2: u8, t: u8) -> Result<Effect, Stop> {
        let kind = match (op1, op2) {
            (0, 0) => "S1E1R",
            (0, 1) => "S1E1W",
            (0, 2) => "S1E0R",
            (0, 3) => "S1E0W",
            (4, 0) => "S1E2R",
            (4, 1) => "S1E2W",
            (4, 4) => "S12E1R",
            (4, 5) => "S12E1W",
            (4, 6) => "S12E0R",
            (4, 7) => "S12E0W",
            _ => return Err(Stop::NotModelled),
        };
        if self.cpu.el < if op1 == 4 { 2 } else { 1 } {
            return Err(Exception::Undefined.into());
        }
        let kind = AtKind::parse(kind).ok_or(Stop::NotModelled)?;
        Ok(Effect::At(kind, Va(self.get(t))))
    }

    fn dc<M: Mmu>(&mut self, mmu: &mut M, (op1, crm, op2): (u8, u8, u8), t: u8) -> Result<(), Stop> {
        let va = Va(self.get(t));
        let encoding = 1 << 14 | u16::from(op1) << 11 | 7 << 7 | u16::from(crm) << 3 | u16::from(op2);
        let trapped = |to| Err(trap(to, encoding, t, false));
        let (el, sctlr, hcr) = (self.cpu.el, self.sys.sctlr_el1, self.sys.hcr_el2);
        match (op1, crm, op2) {
            (3, 4, 1 | 3 | 4) if el == 0 && !sctlr.dze() => return trapped(1),
            (3, 4, 1 | 3 | 4) if el < 2 && hcr.tdz() => return trapped(2),
            (3, 4, 1) => insn::dc_zva(&mut self.cpu, mmu, va)?,
            (3, 4, 3) => insn::dc_gva(&self.cpu, mmu, va, va.tag())?,
            (3, 4, 4) => insn::dc_gzva(&self.cpu, mmu, va, va.tag())?,
            (0, 6, 1 | 3 | 5) if el == 0 => return Err(Exception::Undefined.into()),
            (0, 6, 1 | 3 | 5) => insn::dc_maintenance(&self.cpu, mmu, va, DcOp::Invalidate)?,
            (3, 10 | 12 | 13 | 14, 1 | 3 | 5) | (3, 11, 1) if el == 0 && !sctlr.uci() => return trapped(1),
            (3, 10 | 12 | 13 | 14, 1 | 3 | 5) | (3, 11, 1) => {
                insn::dc_maintenance(&self.cpu, mmu, va, DcOp::Clean)?;
            }
            _ => return Err(Stop::NotModelled),
        }
        Ok(())
    }
}

/// Whether EL1 or EL2 has such a `TLBI`: by address, by a range of them, by IPA, or of everything.
const fn is_tlbi(op1: u8, crm: u8, op2: u8) -> bool {
    match (op1, crm) {
        (0, 1 | 3 | 7) => matches!(op2, 0..=3 | 5 | 7),
        (0, 2 | 5 | 6) => matches!(op2, 1 | 3 | 5 | 7),
        (4, 0) => matches!(op2, 1 | 2 | 5 | 6),
        (4, 1 | 3 | 7) => matches!(op2, 0 | 1 | 4..=6),
        (4, 2 | 5 | 6) => matches!(op2, 1 | 5),
        (4, 4) => op2 < 8,
        _ => false,
    }
}

/// `SystemAccessTrap` with the syndrome of Arm ARM D24.2, "ISS encoding for an exception from MSR, MRS, or System
/// instruction". The encoding is op0, op1, `CRn`, `CRm`, op2 from the top.
fn trap(to: u8, encoding: u16, t: u8, read: bool) -> Stop {
    let encoding = u32::from(encoding);
    let (op0, op1, crn) = (encoding >> 14, encoding >> 11 & 7, encoding >> 7 & 0xf);
    let (crm, op2) = (encoding >> 3 & 0xf, encoding & 7);
    let iss = op0 << 20 | op2 << 17 | op1 << 14 | crn << 10 | u32::from(t) << 5 | crm << 1 | u32::from(read);
    Exception::Trapped { to, iss }.into()
}
