//! One processing element over tagged physical memory, and no kernel.
//!
//! [`Pe`] joins the architecture's registers and instructions to memory and a TLB: what a test bench has. An address no
//! region backs is an external abort. Left out: what happens at an exception's target, time, and other observers. The
//! invariant: with the TLB off, what translation makes of an address depends on registers and descriptors alone; with it
//! on, on what it made of the address when it was last walked, until a `TLBI` says otherwise.

mod cache;
mod hot;
mod mmu;

pub use cache::{StaleUse, TlbMode, TlbReport};

use tagvisor_arch::{
    Access, AccessDesc, AccessKind, AtKind, Controls, Core, Cpu, Effect, Fault, FaultKind, Features, MemOp, Mmu,
    PAGE_SIZE, Register, Stop, SysRegs, Tag, Trace, Untraced, Va, at, insn, par,
};

use crate::phys::PhysMem;
use crate::region::{MemError, Region};
use cache::Cache;
use hot::Hot;
use mmu::PeMmu;

/// A processing element and its memory.
#[derive(Clone, Debug)]
pub struct Pe {
    core: Core,
    controls: Controls,
    mem: PhysMem,
    cache: Cache,
    hot: Hot,
}

impl Pe {
    /// A processing element at EL1, all registers, memory and tags 0.
    ///
    /// `seed` is that of the random tags which `GCR_EL1.RRND` = 1 selects.
    ///
    /// # Errors
    /// [`MemError`] if the regions cannot be.
    pub fn new(regions: Vec<Region>, features: Features, tlb: TlbMode, seed: u64) -> Result<Self, MemError> {
        Ok(Self {
            core: Core::new(features, seed),
            controls: Controls::new(&SysRegs::default(), features),
            mem: PhysMem::new(regions)?,
            cache: Cache::new(tlb),
            hot: Hot::new(tlb),
        })
    }

    /// The registers.
    pub const fn core(&self) -> &Core {
        &self.core
    }

    /// The registers that no translation depends on, to change; for the others see [`Pe::set_register`].
    pub const fn core_mut(&mut self) -> &mut Core {
        self.hot.forget_state();
        &mut self.core
    }

    /// The memory.
    pub const fn memory(&self) -> &PhysMem {
        &self.mem
    }

    /// The memory, to change behind the processing element's back.
    pub const fn memory_mut(&mut self) -> &mut PhysMem {
        &mut self.mem
    }

    /// Writes a system register, as software at a level that may does. Says whether it can be written.
    pub fn set_register(&mut self, register: &Register, value: u64) -> bool {
        let Some(write) = register.write else { return false };
        write(&mut self.core, value);
        self.work_out_controls();
        true
    }

    fn work_out_controls(&mut self) {
        self.controls = Controls::new(self.core.sys(), self.core.features());
        self.hot.forget_state();
    }

    /// Executes one instruction at the current exception level.
    ///
    /// # Errors
    /// [`Stop`]: the exception it takes, or that it is not modelled.
    pub fn execute(&mut self, word: u32) -> Result<(), Stop> {
        let context = self.core.sys().into();
        let mut mmu = PeMmu {
            mem: &mut self.mem,
            controls: &self.controls,
            cache: &mut self.cache,
            context,
        };
        match self.core.execute(&mut mmu, word)? {
            Effect::None => self.hot.forget_state(),
            Effect::Controls => self.work_out_controls(),
            Effect::At(kind, va) => self.translate_for_software(kind, va)?,
            Effect::Tlbi(op) => {
                mmu.invalidate(op);
                self.hot.forget_translations();
            }
        }
        Ok(())
    }

    /// `AT` as an instruction (`AArch64.AT`): an external abort is taken, and so is a stage-2 fault on a stage-1 table if EL1
    /// asked, for whom stage 2 does not exist.
    fn translate_for_software(&mut self, kind: AtKind, va: Va) -> Result<(), Stop> {
        let found = at(&mut self.mem, &self.controls, kind, va, &mut Untraced);
        if let Err(fault) = found {
            let external = fault.kind == FaultKind::SyncExternalAbortOnWalk;
            if external || fault.s1ptw && self.core.cpu.el == 1 {
                // The core took the instruction for complete.
                self.core.pc = self.core.pc.wrapping_sub(4);
                return Err(fault.into());
            }
        }
        self.core.par = par(&found);
        Ok(())
    }

    /// Fetches an instruction at the current exception level, without executing it.
    ///
    /// # Errors
    /// The fault it takes.
    pub fn fetch(&mut self, va: Va) -> Result<(), Fault> {
        let access = AccessDesc::new(AccessKind::Fetch, self.core.cpu.el, false, 4);
        self.split().1.translate(va, &access).map(|_| ())
    }

    /// `AT`: `PAR_EL1` for an address, from the tables and not from the TLB. `trace` sees every descriptor that is read.
    pub fn at(&mut self, kind: AtKind, va: Va, trace: &mut impl Trace) -> u64 {
        par(&at(&mut self.mem, &self.controls, kind, va, trace))
    }

    /// Translates and tag-checks an access of `size` bytes, without data.
    ///
    /// # Errors
    /// The fault it takes.
    #[inline]
    pub fn check(&mut self, va: Va, size: u8, write: bool) -> Result<(), Fault> {
        if self.hit(va, size, write).is_some() {
            return Ok(());
        }
        self.check_slowly(va, size, write)
    }

    fn check_slowly(&mut self, va: Va, size: u8, write: bool) -> Result<(), Fault> {
        self.bring_near(va, write);
        let (cpu, mut mmu) = self.split();
        insn::probe(
            cpu,
            &mut mmu,
            va,
            size,
            if write { Access::Write } else { Access::Read },
        )
    }

    /// A checked load of 1, 2, 4 or 8 bytes.
    ///
    /// # Errors
    /// The fault it takes.
    #[inline]
    pub fn load(&mut self, va: Va, size: u8) -> Result<u64, Fault> {
        match self.near_word(va) {
            Some(word) if size == 8 => Ok(word),
            _ => self.load_anywhere(va, size),
        }
    }

    fn load_anywhere(&mut self, va: Va, size: u8) -> Result<u64, Fault> {
        match self.hit(va, size, false) {
            // A word may be read around what is asked for, if it lies in the page.
            Some(frame) if va.page_offset() <= PAGE_SIZE - 8 => {
                let word = self.mem.frame_read_u64(frame, va.page_offset() as usize);
                Ok(word & u64::MAX >> (64 - 8 * u32::from(size)))
            }
            _ => self.load_slowly(va, size),
        }
    }

    fn load_slowly(&mut self, va: Va, size: u8) -> Result<u64, Fault> {
        self.bring_near(va, false);
        let (cpu, mut mmu) = self.split();
        let mut bytes = [0; 8];
        let op = MemOp::plain(cpu, size);
        insn::load_with(cpu, &mut mmu, va, op, &mut bytes[..size as usize])?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// A checked store of the low 1, 2, 4 or 8 bytes.
    ///
    /// # Errors
    /// The fault it takes.
    #[inline]
    pub fn store(&mut self, va: Va, size: u8, value: u64) -> Result<(), Fault> {
        match self.hit(va, size, true) {
            Some(frame) if size == 8 => {
                self.mem.frame_write_u64(frame, va.page_offset() as usize, value);
                Ok(())
            }
            _ => self.store_slowly(va, size, value),
        }
    }

    fn store_slowly(&mut self, va: Va, size: u8, value: u64) -> Result<(), Fault> {
        self.bring_near(va, true);
        let (cpu, mut mmu) = self.split();
        let op = MemOp::plain(cpu, size);
        insn::store_with(cpu, &mut mmu, va, op, &value.to_le_bytes()[..size as usize])
    }

    /// `LDG`.
    ///
    /// # Errors
    /// The fault it takes.
    pub fn ldg(&mut self, va: Va) -> Result<Tag, Fault> {
        let (cpu, mut mmu) = self.split();
        insn::ldg(cpu, &mut mmu, va)
    }

    /// `STG`.
    ///
    /// # Errors
    /// The fault it takes.
    pub fn stg(&mut self, va: Va, tag: Tag) -> Result<(), Fault> {
        let (cpu, mut mmu) = self.split();
        insn::stg(cpu, &mut mmu, va, tag)
    }

    /// `LDGM`, executed above EL0.
    ///
    /// # Errors
    /// The fault it takes.
    #[inline]
    pub fn ldgm(&mut self, va: Va) -> Result<u64, Fault> {
        if let Some(frame) = self.tag_hit(va, false) {
            return Ok(self.mem.frame_tag_block(frame, va.granule()));
        }
        self.bring_near(va, false);
        let (cpu, mut mmu) = self.split();
        insn::ldgm(cpu, &mut mmu, va)
    }

    /// `STGM`, executed above EL0.
    ///
    /// # Errors
    /// The fault it takes.
    #[inline]
    pub fn stgm(&mut self, va: Va, bits: u64) -> Result<(), Fault> {
        if let Some(frame) = self.tag_hit(va, true) {
            self.mem.set_frame_tag_block(frame, va.granule(), bits);
            return Ok(());
        }
        self.bring_near(va, true);
        let (cpu, mut mmu) = self.split();
        insn::stgm(cpu, &mut mmu, va, bits)
    }

    /// What the checking TLB has noticed, oldest first.
    pub fn tlb_reports(&self) -> &[TlbReport] {
        self.cache.reports()
    }

    fn split(&mut self) -> (&mut Cpu, PeMmu<'_>) {
        let mmu = PeMmu {
            context: self.core.sys().into(),
            mem: &mut self.mem,
            controls: &self.controls,
            cache: &mut self.cache,
        };
        (&mut self.core.cpu, mmu)
    }
}

#[cfg(test)]
mod tests;
