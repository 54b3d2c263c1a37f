//! The instructions that read and write allocation tags in memory, and the `DC` instructions that zero or tag a block.
//!
//! None of them but `DC ZVA` is tag-checked. Where tags cannot be reached, because tag access is disabled or the memory
//! is not Tagged, reads give 0 and writes are ignored, but address, alignment and permission are checked all the same and
//! the zeroing forms still zero. Left out: that the multiple-granule forms are UNDEFINED at EL0. The invariant: every
//! check comes before the first write.

use super::{Cpu, Mmu, Part, Request, Span, Translation};
use crate::addr::{GRANULE_SIZE, Pa, Va};
use crate::fault::{Access, Fault, FaultKind, Stage};
use crate::tag::Tag;

/// Bytes whose tags `LDGM` and `STGM` move: `GMID_EL1.BS` = 6.
pub const GM_BLOCK_SIZE: u64 = 256;
/// Bytes that `DC ZVA`, `DC GVA`, `DC GZVA` and `STZGM` act on: `DCZID_EL0.BS` = 4.
pub const DC_BLOCK_SIZE: u64 = 64;

const GRANULE: usize = GRANULE_SIZE as usize;
const DC_BLOCK: usize = DC_BLOCK_SIZE as usize;
/// The syndrome size of `LDGM` and `STGM`: of the register they move, as 256 does not fit and ISV is 0 anyway.
const GM_REGISTER_SIZE: u8 = 8;

/// `LDG`: the allocation tag of the granule `ptr` lies in.
pub fn ldg<M: Mmu>(cpu: &Cpu, mmu: &mut M, ptr: Va) -> Result<Tag, Fault> {
    let ptr = align_down(ptr, GRANULE_SIZE);
    let found = Request::undescribed(ptr, Access::Read, GRANULE_SIZE as u8).translate(cpu, mmu)?;
    if !reaches_tags(cpu, found) {
        return Ok(Tag::ZERO);
    }
    Ok(mmu.tag(found.pa))
}

/// `STG`: sets the tag of one granule.
pub fn stg<M: Mmu>(cpu: &Cpu, mmu: &mut M, ptr: Va, tag: Tag) -> Result<(), Fault> {
    store_granules(cpu, mmu, ptr, tag, GRANULE, None)
}

/// `ST2G`: sets the tags of two granules.
pub fn st2g<M: Mmu>(cpu: &Cpu, mmu: &mut M, ptr: Va, tag: Tag) -> Result<(), Fault> {
    store_granules(cpu, mmu, ptr, tag, 2 * GRANULE, None)
}

/// `STZG`: sets the tag of one granule and zeroes it.
pub fn stzg<M: Mmu>(cpu: &Cpu, mmu: &mut M, ptr: Va, tag: Tag) -> Result<(), Fault> {
    store_granules(cpu, mmu, ptr, tag, GRANULE, Some(&[0; GRANULE]))
}

/// `STZ2G`: sets the tags of two granules and zeroes them.
pub fn stz2g<M: Mmu>(cpu: &Cpu, mmu: &mut M, ptr: Va, tag: Tag) -> Result<(), Fault> {
    store_granules(cpu, mmu, ptr, tag, 2 * GRANULE, Some(&[0; 2 * GRANULE]))
}

/// `STGP`: stores a pair of registers and sets the granule's tag to the logical tag of `ptr`.
pub fn stgp<M: Mmu>(cpu: &Cpu, mmu: &mut M, ptr: Va, low: u64, high: u64) -> Result<(), Fault> {
    let pair = (u128::from(high) << 64 | u128::from(low)).to_le_bytes();
    store_granules(cpu, mmu, ptr, ptr.tag(), GRANULE, Some(&pair))
}

/// `LDGM`: the tags of the 256-byte block `ptr` lies in, granule `i` in bits `4i + 3` to `4i`.
pub fn ldgm<M: Mmu>(cpu: &Cpu, mmu: &mut M, ptr: Va) -> Result<u64, Fault> {
    let ptr = align_down(ptr, GM_BLOCK_SIZE);
    let found = Request::undescribed(ptr, Access::Read, GM_REGISTER_SIZE).translate(cpu, mmu)?;
    if !reaches_tags(cpu, found) {
        return Ok(0);
    }
    Ok(granules(found.pa, GM_BLOCK_SIZE)
        .zip((0..).step_by(4))
        .fold(0, |bits, (granule, shift)| {
            bits | u64::from(mmu.tag(granule).get()) << shift
        }))
}

/// `STGM`: sets the tags of the 256-byte block `ptr` lies in, laid out as by [`ldgm`].
pub fn stgm<M: Mmu>(cpu: &Cpu, mmu: &mut M, ptr: Va, bits: u64) -> Result<(), Fault> {
    let ptr = align_down(ptr, GM_BLOCK_SIZE);
    let found = Request::undescribed(ptr, Access::Write, GM_REGISTER_SIZE).translate(cpu, mmu)?;
    if reaches_tags(cpu, found) {
        for (granule, shift) in granules(found.pa, GM_BLOCK_SIZE).zip((0..).step_by(4)) {
            mmu.set_tag(granule, Tag::new((bits >> shift) as u8));
        }
    }
    Ok(())
}

/// `STZGM`: sets the tags of the 64-byte block `ptr` lies in and zeroes it.
pub fn stzgm<M: Mmu>(cpu: &Cpu, mmu: &mut M, ptr: Va, tag: Tag) -> Result<(), Fault> {
    let ptr = align_down(ptr, DC_BLOCK_SIZE);
    let found = Request::undescribed(ptr, Access::Write, DC_BLOCK_SIZE as u8).translate(cpu, mmu)?;
    mmu.write(found.pa, &[0; DC_BLOCK]);
    set_tags(cpu, mmu, found, DC_BLOCK_SIZE, tag);
    Ok(())
}

/// `DC GVA`: sets the tags of the 64-byte block `ptr` lies in. The instruction takes `tag` from its pointer.
pub fn dc_gva<M: Mmu>(cpu: &Cpu, mmu: &mut M, ptr: Va, tag: Tag) -> Result<(), Fault> {
    let found = translate_dc_block(cpu, mmu, ptr)?;
    set_tags(cpu, mmu, found, DC_BLOCK_SIZE, tag);
    Ok(())
}

/// `DC GZVA`: sets the tags of the 64-byte block `ptr` lies in and zeroes it.
pub fn dc_gzva<M: Mmu>(cpu: &Cpu, mmu: &mut M, ptr: Va, tag: Tag) -> Result<(), Fault> {
    let found = translate_dc_block(cpu, mmu, ptr)?;
    mmu.write(found.pa, &[0; DC_BLOCK]);
    set_tags(cpu, mmu, found, DC_BLOCK_SIZE, tag);
    Ok(())
}

/// `DC ZVA`: zeroes the 64-byte block `ptr` lies in, tag-checked as a store to every byte of it.
///
/// Arm ARM `AArch64.MemZero`: `WnR` is 1, and FAR is the first granule that is wrong. QEMU 10.0.2 reports `WnR` = 0 and the
/// start of the block whichever granule is wrong (quirk Q1 of the recorded vectors); this is the architecture's answer.
pub fn dc_zva<M: Mmu>(cpu: &Cpu, mmu: &mut M, ptr: Va) -> Result<(), Fault> {
    let found = translate_dc_block(cpu, mmu, ptr)?;
    dc_request(align_down(ptr, DC_BLOCK_SIZE)).check_tags(cpu, mmu, found, DC_BLOCK_SIZE)?;
    mmu.write(found.pa, &[0; DC_BLOCK]);
    Ok(())
}

/// The tag stores: `size` bytes of whole granules get `tag`, and `data` if the instruction stores any.
fn store_granules<M: Mmu>(
    cpu: &Cpu,
    mmu: &mut M,
    ptr: Va,
    tag: Tag,
    size: usize,
    data: Option<&[u8]>,
) -> Result<(), Fault> {
    let request = Request::undescribed(ptr, Access::Write, size as u8);
    if !ptr.0.is_multiple_of(GRANULE_SIZE) {
        return Err(request.fault(FaultKind::Alignment, Stage::One));
    }
    for (at, Part { found, len, .. }) in Span::translate(request, cpu, mmu)?.parts() {
        if let Some(data) = data {
            mmu.write(found.pa, &data[at..at + len as usize]);
        }
        set_tags(cpu, mmu, found, len, tag);
    }
    Ok(())
}

fn dc_request(ptr: Va) -> Request {
    Request::undescribed(ptr, Access::Write, DC_BLOCK_SIZE as u8)
}

/// Translates the block a `DC` instruction names. Faults report the pointer as given; Device memory is refused, whatever
/// the pointer's alignment (`AArch64.S2HasAlignmentFault` for `AccessType_DCZero`).
fn translate_dc_block<M: Mmu>(cpu: &Cpu, mmu: &mut M, ptr: Va) -> Result<Translation, Fault> {
    let request = dc_request(ptr);
    let found = request.translate(cpu, mmu)?;
    if found.device {
        return Err(request.device_alignment_fault());
    }
    Ok(Translation {
        pa: Pa(found.pa.0 & !(DC_BLOCK_SIZE - 1)),
        ..found
    })
}

/// Whether the access gets at tags at all: enabled, and the memory has them.
fn reaches_tags(cpu: &Cpu, found: Translation) -> bool {
    cpu.ata && found.tagged
}

/// Gives every granule of `len` bytes `tag`, if tags can be reached.
fn set_tags<M: Mmu>(cpu: &Cpu, mmu: &mut M, found: Translation, len: u64, tag: Tag) {
    if reaches_tags(cpu, found) {
        for granule in granules(found.pa, len) {
            mmu.set_tag(granule, tag);
        }
    }
}

/// The granules of `len` bytes from `start`, both multiples of the granule size.
fn granules(start: Pa, len: u64) -> impl Iterator<Item = Pa> {
    (0..len / GRANULE_SIZE).map(move |index| start + index * GRANULE_SIZE)
}

/// The pointer rounded down to a block of `size` bytes; the top byte stays.
fn align_down(ptr: Va, size: u64) -> Va {
    Va(ptr.0 & !(size - 1))
}
