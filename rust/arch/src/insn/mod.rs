//! The semantics of the MTE instructions and of tag-checked loads and stores.
//!
//! Register forms ([`irg`], [`addg`], ...) are plain functions. Memory forms are generic over an [`Mmu`], which the
//! caller implements over its TLB, tables and memory; what is decided here is the order of checks, the tag check itself
//! and what reaches memory. The rules were compared with recorded runs of QEMU 10.0.2, instruction by instruction
//! (`tests/qemu`).
//!
//! The order of checks: alignment of the tag stores, then address size, then translation and stage-2 permission for
//! every page the access touches, then alignment on Device memory, then the tag check for every granule.
//! The architecture ranks Device alignment above permission (`R_XCHFJ`); here permission comes out of the same
//! [`Mmu::translate`] call and so comes first, which only shows for a misaligned access that both would refuse.
//!
//! Left out: decoding, base register writeback, exclusives and acquire/release ordering, asynchronous and asymmetric tag
//! check modes, `TCMA`, and that `LDGM`, `STGM` and `STZGM` are UNDEFINED at EL0. The invariant: an instruction that
//! returns a [`Fault`] has changed nothing. The architecture would let a faulting store have written part of its bytes;
//! QEMU and this crate do not.

mod access;
mod alu;
mod tag_memory;
#[cfg(test)]
mod test_guest;

pub use access::{load, probe, store};
pub use alu::{addg, gmi, irg, subg, subp};
pub use tag_memory::{
    DC_BLOCK_SIZE, GM_BLOCK_SIZE, dc_gva, dc_gzva, dc_zva, ldg, ldgm, st2g, stg, stgm, stgp, stz2g, stzg, stzgm,
};

use crate::addr::{GRANULE_SIZE, Ipa, PA_MAX_BITS, PAGE_SIZE, Pa, Va};
use crate::fault::{Access, Fault, FaultKind, Stage};
use crate::regs::{GcrEl1, RgsrEl1};
use crate::tag::Tag;

/// What both translation stages make of a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The physical address of the pointer, page offset included.
    pub pa: Pa,
    /// The combined memory type is Normal Write-Back Tagged: tags exist and are checked.
    pub tagged: bool,
    /// The combined memory type is Device.
    pub device: bool,
}

/// Translation, data and tags of the machine an instruction runs on.
pub trait Mmu {
    /// Translates `ptr` for an access that stays in its page, permission checks included.
    ///
    /// `isv` and `size` describe the instruction for the syndrome; an implementation puts them, `ptr` and `access` into
    /// the fault it returns. `size` is that of the whole instruction even where only a part of it lies in this page.
    fn translate(&mut self, ptr: Va, access: Access, isv: bool, size: u8) -> Result<Translation, Fault>;
    /// Reads bytes that lie in one page.
    fn read(&mut self, pa: Pa, buf: &mut [u8]);
    /// Writes bytes that lie in one page.
    fn write(&mut self, pa: Pa, buf: &[u8]);
    /// The allocation tag of the granule at `pa`.
    fn tag(&mut self, pa: Pa) -> Tag;
    /// Sets the allocation tag of the granule at `pa`.
    fn set_tag(&mut self, pa: Pa, tag: Tag);
}

/// The effect of a tag check fault, `SCTLR_EL1.TCF` or `TCF0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Tcf {
    /// Tag check faults have no effect.
    #[default]
    None,
    /// Tag check faults are taken synchronously.
    Sync,
}

/// The part of a processing element's state that MTE instructions depend on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cpu {
    /// `GCR_EL1`.
    pub gcr: GcrEl1,
    /// `RGSR_EL1`.
    pub rgsr: RgsrEl1,
    /// `PSTATE.TCO`, tag check override.
    pub tco: bool,
    /// The tag check mode of the current exception level.
    pub tcf: Tcf,
    /// The top byte of addresses is ignored (`TCR_EL1.TBI0`, `TBI1`).
    pub tbi: bool,
    /// Allocation tag access is enabled at the current exception level, the conjunction of `SCTLR_EL1.ATA` (or `ATA0`)
    /// and `HCR_EL2.ATA` (`AArch64.AllocationTagAccessIsEnabled`).
    pub ata: bool,
    /// The current exception level, from which [`Fault::esr`] tells the exception class.
    pub el: u8,
}

impl Cpu {
    /// Whether an access to Tagged memory is compared (`AArch64.AccessIsTagChecked`, `AArch64.EffectiveTCF`). With the
    /// top byte in use as address there is no logical tag to compare.
    #[inline]
    fn checks_tags(&self) -> bool {
        self.ata && self.tbi && !self.tco && self.tcf == Tcf::Sync
    }
}

/// One instruction's demand on memory: what a syndrome would say about it.
#[derive(Clone, Copy)]
struct Request {
    ptr: Va,
    access: Access,
    isv: bool,
    size: u8,
}

impl Request {
    /// A demand of an instruction that the syndrome does not describe (ISV = 0): tag, pair and `DC` instructions.
    fn undescribed(ptr: Va, access: Access, size: u8) -> Self {
        Self {
            ptr,
            access,
            isv: false,
            size,
        }
    }

    /// The same demand at another pointer.
    fn at(self, ptr: Va) -> Self {
        Self { ptr, ..self }
    }

    /// A fault of this demand that no translation table is to blame for.
    #[cold]
    fn fault(self, kind: FaultKind, stage: Stage) -> Fault {
        let Self { ptr, access, isv, size } = self;
        // Stage 1 is the identity map, so the IPA is the pointer without its top byte.
        let ipa = Ipa(ptr.untagged().0);
        Fault {
            kind,
            stage,
            level: 0,
            access,
            va: ptr,
            ipa,
            isv,
            size,
        }
    }

    /// Translates the page `ptr` lies in.
    fn translate<M: Mmu>(self, cpu: &Cpu, mmu: &mut M) -> Result<Translation, Fault> {
        // Stage 1 off: the bits above the implemented address size, those of an ignored top byte apart, must be 0
        // (Arm ARM `AArch64.S1DisabledOutput`).
        let address = if cpu.tbi { self.ptr.0 << 8 >> 8 } else { self.ptr.0 };
        if address >> PA_MAX_BITS != 0 {
            return Err(self.fault(FaultKind::AddressSize, Stage::One));
        }
        mmu.translate(self.ptr, self.access, self.isv, self.size)
    }

    /// The fault for Device memory that does not take this access. Stage 1 gives Normal memory, so a Device type is
    /// stage 2's doing and the fault its (`AArch64.S2HasAlignmentFault`).
    fn device_alignment_fault(self) -> Fault {
        self.fault(FaultKind::Alignment, Stage::Two)
    }

    /// Compares the logical tag with the allocation tag of every granule of `len` bytes in one page.
    ///
    /// FAR is the pointer itself if its own granule is wrong, else the start of the first granule that is.
    #[inline]
    fn check_tags<M: Mmu>(self, cpu: &Cpu, mmu: &mut M, found: Translation, len: u64) -> Result<(), Fault> {
        if !(found.tagged && cpu.checks_tags()) {
            return Ok(());
        }
        let logical = self.ptr.tag();
        let lead = self.ptr.0 % GRANULE_SIZE;
        let mut offset = 0;
        while offset < len {
            if mmu.tag(found.pa + offset) != logical {
                return Err(self.at(self.ptr + offset).fault(FaultKind::TagCheck, Stage::One));
            }
            offset += GRANULE_SIZE - if offset == 0 { lead } else { 0 };
        }
        Ok(())
    }
}

/// The part of an access that lies in one page.
#[derive(Clone, Copy)]
struct Part {
    request: Request,
    found: Translation,
    len: u64,
}

/// An access of at most a page's size, translated: one part, or two where it crosses into the next page.
struct Span {
    first: Part,
    second: Option<Part>,
}

impl Span {
    /// Translates every page the access touches, before anything else happens to any of them.
    #[inline]
    fn translate<M: Mmu>(request: Request, cpu: &Cpu, mmu: &mut M) -> Result<Self, Fault> {
        let size = u64::from(request.size);
        let in_first_page = size.min(PAGE_SIZE - request.ptr.page_offset());
        let found = request.translate(cpu, mmu)?;
        let first = Part {
            request,
            found,
            len: in_first_page,
        };
        let mut second = None;
        if in_first_page < size {
            // The address may wrap around the top of the address space, as the architecture's does.
            let request = request.at(Va(request.ptr.0.wrapping_add(in_first_page)));
            let found = request.translate(cpu, mmu)?;
            second = Some(Part {
                request,
                found,
                len: size - in_first_page,
            });
        }
        Ok(Self { first, second })
    }

    /// The parts in address order, each with the index of its first byte in the access.
    fn parts(&self) -> impl Iterator<Item = (usize, Part)> + use<> {
        let split = self.first.len as usize;
        std::iter::once((0, self.first)).chain(self.second.map(|part| (split, part)))
    }
}
