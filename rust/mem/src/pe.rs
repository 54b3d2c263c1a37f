//! One processing element over tagged physical memory, and no kernel.
//!
//! [`Pe`] joins the architecture's registers and instructions to memory: what a test bench has. An address no region backs
//! is an external abort. Left out: what happens at an exception's target, time, and other observers. The invariant: what
//! translation makes of an address depends on registers and descriptors alone; they are worked out anew whenever a
//! register changes.

use tagvisor_arch::{
    AccessDesc, AccessKind, AtKind, Controls, Core, Effect, Fault, FaultKind, Features, Level, MemOp, Mmu, Pa,
    Register, Stage, Stop, SysRegs, Tag, Translated, Translation, Va, at, insn, par, translate,
};

use crate::phys::PhysMem;
use crate::region::{MemError, Region};

/// A processing element and its memory.
#[derive(Clone, Debug)]
pub struct Pe {
    core: Core,
    controls: Controls,
    mem: PhysMem,
}

impl Pe {
    /// A processing element at EL1, all registers, memory and tags 0.
    ///
    /// `seed` is that of the random tags which `GCR_EL1.RRND` = 1 selects.
    ///
    /// # Errors
    /// [`MemError`] if the regions cannot be.
    pub fn new(regions: Vec<Region>, features: Features, seed: u64) -> Result<Self, MemError> {
        Ok(Self {
            core: Core::new(features, seed),
            controls: Controls::new(&SysRegs::default(), features),
            mem: PhysMem::new(regions)?,
        })
    }

    /// The registers.
    pub const fn core(&self) -> &Core {
        &self.core
    }

    /// The registers that no translation depends on, to change; for the others see [`Pe::set_register`].
    pub const fn core_mut(&mut self) -> &mut Core {
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
    }

    /// Executes one instruction at the current exception level.
    ///
    /// # Errors
    /// [`Stop`]: the exception it takes, or that it is not modelled.
    pub fn execute(&mut self, word: u32) -> Result<(), Stop> {
        let mut mmu = PeMmu {
            mem: &mut self.mem,
            controls: &self.controls,
        };
        match self.core.execute(&mut mmu, word)? {
            Effect::None | Effect::Tlbi(_) => {}
            Effect::Controls => self.work_out_controls(),
            Effect::At(kind, va) => self.core.par = self.at(kind, va, &mut |_, _| ()),
        }
        Ok(())
    }

    /// Fetches an instruction at the current exception level, without executing it.
    ///
    /// # Errors
    /// The fault it takes.
    pub fn fetch(&mut self, va: Va) -> Result<(), Fault> {
        let access = AccessDesc::new(AccessKind::Fetch, self.core.cpu.el, false, 4);
        self.mmu().translate(va, &access).map(|_| ())
    }

    /// `AT`: `PAR_EL1` for an address. `trace` sees every descriptor that is read.
    pub fn at(&mut self, kind: AtKind, va: Va, trace: &mut impl FnMut(Stage, Level)) -> u64 {
        par(&at(&mut self.mem, &self.controls, kind, va, trace))
    }

    /// Translates and tag-checks an access of `size` bytes, without data.
    ///
    /// # Errors
    /// The fault it takes.
    pub fn check(&mut self, va: Va, size: u8, write: bool) -> Result<(), Fault> {
        let access = if write {
            tagvisor_arch::Access::Write
        } else {
            tagvisor_arch::Access::Read
        };
        let (cpu, mut mmu) = self.split();
        insn::probe(cpu, &mut mmu, va, size, access)
    }

    /// A checked load of 1, 2, 4 or 8 bytes.
    ///
    /// # Errors
    /// The fault it takes.
    #[inline]
    pub fn load(&mut self, va: Va, size: u8) -> Result<u64, Fault> {
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
        let (cpu, mut mmu) = self.split();
        let op = MemOp::plain(cpu, size);
        insn::store_with(cpu, &mut mmu, va, op, &value.to_le_bytes()[..size as usize])
    }

    fn split(&mut self) -> (&mut insn::Cpu, PeMmu<'_>) {
        let mmu = PeMmu {
            mem: &mut self.mem,
            controls: &self.controls,
        };
        (&mut self.core.cpu, mmu)
    }

    fn mmu(&mut self) -> PeMmu<'_> {
        self.split().1
    }
}

/// Memory as the processing element sees it.
struct PeMmu<'a> {
    mem: &'a mut PhysMem,
    controls: &'a Controls,
}

impl PeMmu<'_> {
    /// An external abort where nothing answers.
    fn backed(&self, va: Va, access: &AccessDesc, found: &Translated) -> Result<(), Fault> {
        match self.mem.region_of(found.pa.pfn()) {
            Some(region) if region.online => Ok(()),
            _ => Err(access.fault(FaultKind::SyncExternalAbort, Stage::One, va)),
        }
    }
}

impl Mmu for PeMmu<'_> {
    fn translate(&mut self, va: Va, access: &AccessDesc) -> Result<Translation, Fault> {
        let found = translate(self.mem, self.controls, va, access, &mut |_, _| ())?;
        self.backed(va, access, &found)?;
        Ok(Translation {
            pa: found.pa,
            tags: found.attrs.tags,
        })
    }

    fn read(&mut self, pa: Pa, buf: &mut [u8]) {
        self.mem.read(pa, buf);
    }

    fn write(&mut self, pa: Pa, buf: &[u8]) {
        self.mem.write(pa, buf);
    }

    fn tag(&mut self, pa: Pa) -> Tag {
        self.mem.tag(pa)
    }

    fn set_tag(&mut self, pa: Pa, tag: Tag) {
        self.mem.set_tag(pa, tag);
    }
}
