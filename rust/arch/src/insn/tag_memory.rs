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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insn::test_guest::Page::{Device, Tagged, TaggedReadOnly, Unmapped, Untagged};
    use crate::insn::test_guest::{Guest, pointer, sync_cpu};

    const SEVEN: Tag = Tag::new(7);

    /// Tags of the first granules of a page, as digits.
    fn digits(guest: &Guest, page: usize, count: usize) -> String {
        guest.tags[page].iter().take(count).map(|tag| tag.to_string()).collect()
    }

    #[test]
    fn stg_tags_one_granule_and_st2g_two() {
        let mut guest = Guest::new(&[Tagged]);

        stg(&sync_cpu(), &mut guest, pointer(0x10, 0), SEVEN).unwrap();
        st2g(&sync_cpu(), &mut guest, pointer(0x30, 0), Tag::new(9)).unwrap();

        assert_eq!(digits(&guest, 0, 6), "070990");
        assert!(guest.data_is_untouched());
    }

    #[test]
    fn ldg_reads_the_granule_the_pointer_lies_in() {
        let mut guest = Guest::new(&[Tagged]);
        guest.tags[0].set(1, SEVEN);

        assert_eq!(ldg(&sync_cpu(), &mut guest, pointer(0x1f, 3)), Ok(SEVEN));
    }

    #[test]
    fn ldg_fault_reports_the_granule_and_stg_fault_the_pointer() {
        let mut guest = Guest::new(&[Unmapped]);

        let read = ldg(&sync_cpu(), &mut guest, pointer(0x1f, 3)).unwrap_err();
        let written = stg(&sync_cpu(), &mut guest, pointer(0x10, 3), SEVEN).unwrap_err();

        assert_eq!(
            (read.va, read.access, read.isv),
            (pointer(0x10, 3), Access::Read, false)
        );
        assert_eq!((written.va, written.access), (pointer(0x10, 3), Access::Write));
    }

    #[test]
    fn misaligned_tag_store_faults_before_translation() {
        let mut guest = Guest::new(&[Unmapped]);
        let cpu = Cpu {
            ata: false,
            ..sync_cpu()
        };

        let fault = stg(&cpu, &mut guest, pointer(0x8, 0), SEVEN).unwrap_err();

        assert_eq!((fault.kind, fault.stage), (FaultKind::Alignment, Stage::One));
        assert_eq!(fault.esr(0), 0x9200_0061);
    }

    #[test]
    fn tag_store_to_a_read_only_page_raises_permission_fault_and_ldg_does_not() {
        let mut guest = Guest::new(&[TaggedReadOnly]);

        let fault = stg(&sync_cpu(), &mut guest, pointer(0, 0), SEVEN).unwrap_err();

        assert_eq!(fault.esr(1), 0x9200_004f);
        assert_eq!(ldg(&sync_cpu(), &mut guest, pointer(0, 0)), Ok(Tag::ZERO));
    }

    #[test]
    fn st2g_whose_second_page_is_unmapped_tags_nothing() {
        let mut guest = Guest::new(&[Tagged, Unmapped]);

        let fault = st2g(&sync_cpu(), &mut guest, pointer(0xff0, 0), SEVEN).unwrap_err();

        assert_eq!((fault.kind, fault.va), (FaultKind::Translation, pointer(0x1000, 0)));
        assert_eq!(guest.tags[0].is_uniform(), Some(Tag::ZERO));
    }

    #[test]
    fn stz2g_across_pages_zeroes_and_tags_both_sides() {
        let mut guest = Guest::new(&[Tagged, Tagged]);

        stz2g(&sync_cpu(), &mut guest, pointer(0xff0, 0), SEVEN).unwrap();

        assert_eq!((guest.tags[0].get(255), guest.tags[1].get(0)), (SEVEN, SEVEN));
        assert!(guest.data[0xff0..0x1010].iter().all(|&byte| byte == 0));
        assert_eq!((guest.data[0xfef], guest.data[0x1010]), (0xee, 0xee));
    }

    #[test]
    fn stgp_stores_the_pair_and_tags_with_the_pointers_tag() {
        let mut guest = Guest::new(&[Tagged]);

        stgp(&sync_cpu(), &mut guest, pointer(0x10, 7), 0x0102_0304_0506_0708, 0x1112).unwrap();

        assert_eq!(digits(&guest, 0, 3), "070");
        assert_eq!(guest.data[0x10..0x19], [8, 7, 6, 5, 4, 3, 2, 1, 0x12]);
    }

    #[test]
    fn stgm_puts_the_lowest_nibble_in_the_first_granule_of_the_block() {
        let mut guest = Guest::new(&[Tagged]);

        stgm(&sync_cpu(), &mut guest, pointer(0x120, 0), 0x0123_4567_89ab_cdef).unwrap();

        assert_eq!(digits(&guest, 0, 33), "0000000000000000fedcba98765432100");
        assert_eq!(
            ldgm(&sync_cpu(), &mut guest, pointer(0x1ff, 0)),
            Ok(0x0123_4567_89ab_cdef)
        );
    }

    #[test]
    fn stzgm_zeroes_and_tags_64_bytes() {
        let mut guest = Guest::new(&[Tagged]);

        stzgm(&sync_cpu(), &mut guest, pointer(0x78, 0), SEVEN).unwrap();

        assert_eq!(digits(&guest, 0, 9), "000077770");
        assert!(guest.data[0x40..0x80].iter().all(|&byte| byte == 0));
        assert_eq!((guest.data[0x3f], guest.data[0x80]), (0xee, 0xee));
    }

    #[test]
    fn dc_gva_tags_its_block_and_dc_gzva_zeroes_it_too() {
        let mut guest = Guest::new(&[Tagged]);

        dc_gva(&sync_cpu(), &mut guest, pointer(0x01, 0), SEVEN).unwrap();
        assert!(guest.data_is_untouched());
        dc_gzva(&sync_cpu(), &mut guest, pointer(0x7f, 0), SEVEN).unwrap();

        assert_eq!(digits(&guest, 0, 9), "777777770");
        assert!(guest.data[0x40..0x80].iter().all(|&byte| byte == 0));
        assert_eq!((guest.data[0x3f], guest.data[0x80]), (0xee, 0xee));
    }

    #[test]
    fn memory_without_tags_reads_tag_0_ignores_tag_writes_and_still_zeroes() {
        let mut guest = Guest::new(&[Untagged]).with_tags(0, SEVEN);

        assert_eq!(ldg(&sync_cpu(), &mut guest, pointer(0, 0)), Ok(Tag::ZERO));
        assert_eq!(ldgm(&sync_cpu(), &mut guest, pointer(0, 0)), Ok(0));
        stgm(&sync_cpu(), &mut guest, pointer(0, 0), 0).unwrap();
        stzg(&sync_cpu(), &mut guest, pointer(0, 0), Tag::new(9)).unwrap();

        assert_eq!(guest.tags[0].is_uniform(), Some(SEVEN), "stored tags are out of reach");
        assert_eq!((guest.data[0x0f], guest.data[0x10]), (0, 0xee));
    }

    #[test]
    fn disabled_tag_access_acts_like_memory_without_tags() {
        let cpu = Cpu {
            ata: false,
            ..sync_cpu()
        };
        let mut guest = Guest::new(&[Tagged]).with_tags(0, SEVEN);

        assert_eq!(ldg(&cpu, &mut guest, pointer(0, 0)), Ok(Tag::ZERO));
        dc_gzva(&cpu, &mut guest, pointer(0, 0), Tag::new(9)).unwrap();

        assert_eq!(guest.tags[0].is_uniform(), Some(SEVEN));
        assert_eq!(guest.data[0], 0);
    }

    #[test]
    fn dc_zva_checks_every_granule_of_the_block_as_a_store() {
        let mut guest = Guest::new(&[Tagged]).with_tags(0, SEVEN);
        guest.tags[0].set(6, Tag::new(8));

        let fault = dc_zva(&sync_cpu(), &mut guest, pointer(0x45, 7)).unwrap_err();

        assert_eq!((fault.kind, fault.va), (FaultKind::TagCheck, pointer(0x60, 7)));
        assert_eq!(fault.esr(1), 0x9600_0051, "WnR = 1; QEMU's 0 is quirk Q1");
        assert!(guest.data_is_untouched());
    }

    #[test]
    fn dc_zva_zeroes_its_block_and_keeps_its_tags() {
        let mut guest = Guest::new(&[Tagged]).with_tags(0, SEVEN);

        dc_zva(&sync_cpu(), &mut guest, pointer(0x45, 7)).unwrap();

        assert!(guest.data[0x40..0x80].iter().all(|&byte| byte == 0));
        assert_eq!(guest.tags[0].is_uniform(), Some(SEVEN));
    }

    #[test]
    fn dc_instructions_refuse_device_memory_even_aligned() {
        let mut guest = Guest::new(&[Device]);

        let fault = dc_zva(&sync_cpu(), &mut guest, pointer(0x40, 0)).unwrap_err();

        assert_eq!((fault.kind, fault.stage), (FaultKind::Alignment, Stage::Two));
    }

    #[test]
    fn dc_fault_reports_the_pointer_as_given() {
        let mut guest = Guest::new(&[Unmapped]);

        let fault = dc_gva(&sync_cpu(), &mut guest, pointer(0x45, 7), SEVEN).unwrap_err();

        assert_eq!(fault.va, pointer(0x45, 7));
    }
}
