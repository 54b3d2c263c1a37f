//! The semantics of the MTE instructions and of tag-checked loads, stores and atomics.
//!
//! Register forms ([`irg`], [`addg`], ...) are plain functions. Memory forms are generic over an [`Mmu`], which the
//! caller implements over its TLB, tables and memory; what is decided here is the order of checks, the tag check itself
//! and what reaches memory. The rules were compared with recorded runs of QEMU 10.0.2, instruction by instruction
//! (`tests/qemu`, `tagvisor verify`).
//!
//! The order of checks: alignment that the instruction demands, then for every page the access touches translation, alignment
//! that Device memory demands and permission, then the tag check for every granule.
//!
//! Left out: base register writeback and decoding, which are [`exec`](mod@crate::exec)'s. The invariant: an instruction that
//! returns a [`Fault`] has changed neither memory nor registers, `TFSR` apart. The architecture would let a faulting store
//! have written part of its bytes; QEMU and this crate do not.

mod access;
mod alu;
mod atomic;
mod cpu;
mod dc;
mod tag_memory;
#[cfg(test)]
pub(crate) mod test_guest;

pub use access::{MemOp, Order, load, load_with, probe, store, store_with};
pub use alu::{addg, gmi, irg, subg, subp, subps};
pub use atomic::{AtomicOp, atomic, compare_and_swap};
pub use cpu::{Cpu, ElControls, Tcf};
pub use dc::{DcOp, dc_gva, dc_gzva, dc_maintenance, dc_zva};
pub use tag_memory::{ldg, ldgm, st2g, stg, stgm, stgp, stz2g, stzg, stzgm};

use crate::access::{AccessDesc, AccessKind, TagUse};
use crate::addr::{GRANULE_SIZE, PAGE_SIZE, Pa, Va};
use crate::attr::MemTag;
use crate::fault::{Fault, FaultKind, Stage};
use crate::tag::Tag;

/// What translation makes of a pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The physical address of the pointer, page offset included.
    pub pa: Pa,
    /// The tags the memory has.
    pub tags: MemTag,
}

/// Translation, data and tags of the machine an instruction runs on.
pub trait Mmu {
    /// Translates `va` for an access that stays in its page. Alignment that Device memory demands and permissions are
    /// checked, in this order in each stage.
    ///
    /// # Errors
    /// The fault, made by [`AccessDesc::fault`] so that it describes the whole instruction even where only a part of it
    /// lies in this page.
    fn translate(&mut self, va: Va, access: &AccessDesc) -> Result<Translation, Fault>;
    /// Reads bytes that lie in one page.
    fn read(&mut self, pa: Pa, buf: &mut [u8]);
    /// Writes bytes that lie in one page.
    fn write(&mut self, pa: Pa, buf: &[u8]);
    /// The allocation tag of the granule at `pa`.
    fn tag(&mut self, pa: Pa) -> Tag;
    /// Sets the allocation tag of the granule at `pa`.
    fn set_tag(&mut self, pa: Pa, tag: Tag);

    /// The tags of the 16 granules from `pa` on, which is aligned to them, the first in the lowest bits.
    fn tag_block(&mut self, pa: Pa) -> u64 {
        (0..16).fold(0, |bits, index| {
            bits | u64::from(self.tag(pa + index * GRANULE_SIZE).get()) << (4 * index)
        })
    }

    /// Sets the tags of the 16 granules from `pa` on, laid out as by [`Mmu::tag_block`].
    fn set_tag_block(&mut self, pa: Pa, bits: u64) {
        for index in 0..16 {
            self.set_tag(pa + index * GRANULE_SIZE, Tag::new((bits >> (4 * index)) as u8));
        }
    }
}

/// The part of an access that lies in one page.
#[derive(Clone, Copy)]
struct Part {
    va: Va,
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
    fn translate<M: Mmu>(mmu: &mut M, va: Va, access: &AccessDesc) -> Result<Self, Fault> {
        let size = u64::from(access.size);
        let in_first_page = size.min(PAGE_SIZE - va.page_offset());
        let first = Part {
            va,
            found: mmu.translate(va, access)?,
            len: in_first_page,
        };
        let mut second = None;
        if in_first_page < size {
            // The address may wrap around the top of the address space, as the architecture's does.
            let va = Va(va.0.wrapping_add(in_first_page));
            second = Some(Part {
                va,
                found: mmu.translate(va, access)?,
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

impl Part {
    /// Compares the logical tag with the tag of every granule of the part, if the access is tag checked.
    ///
    /// FAR is the pointer itself if its own granule is wrong, else the start of the first granule that is.
    #[inline]
    fn check_tags<M: Mmu>(self, cpu: &mut Cpu, mmu: &mut M, access: &AccessDesc) -> Result<(), Fault> {
        if access.tags != TagUse::Checked || !cpu.takes_tag_faults(access.el) {
            return Ok(());
        }
        let logical = self.va.tag();
        match self.found.tags {
            MemTag::Untagged => Ok(()),
            MemTag::Canonical if logical == self.va.canonical_tag() => Ok(()),
            MemTag::Canonical => cpu.tag_check_fault(self.va, access),
            MemTag::Allocation => {
                let lead = self.va.0 % GRANULE_SIZE;
                let mut offset = 0;
                while offset < self.len {
                    if mmu.tag(self.found.pa + offset) != logical {
                        return cpu.tag_check_fault(self.va + offset, access);
                    }
                    offset += GRANULE_SIZE - if offset == 0 { lead } else { 0 };
                }
                Ok(())
            }
        }
    }
}

/// An access to tags, which is one only where tags are enabled.
fn tag_access(cpu: &Cpu, kind: AccessKind, write: bool, size: u64) -> AccessDesc {
    AccessDesc {
        tags: if cpu.ata() { TagUse::Access } else { TagUse::None },
        pan: cpu.pan_applies(cpu.el),
        ..AccessDesc::new(kind, cpu.el, write, size as u8)
    }
}

/// An alignment fault that no memory type is to blame for.
fn alignment_fault(access: &AccessDesc, va: Va) -> Fault {
    access.fault(FaultKind::Alignment, Stage::One, va)
}

/// The pointer rounded down to a block of `size` bytes; the top byte stays.
fn align_down(va: Va, size: u64) -> Va {
    Va(va.0 & !(size - 1))
}
