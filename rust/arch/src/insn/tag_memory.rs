//! The instructions that read and write allocation tags in memory.
//!
//! None of them is tag-checked. Where tags cannot be reached, because tag access is disabled or the memory is not Tagged,
//! reads give 0 (or the canonical tag) and writes are ignored, but address, alignment and permission are checked all the
//! same and the zeroing forms still zero. Left out: that the multiple-granule forms are UNDEFINED at EL0, which is the
//! decoder's. The invariant: every check comes before the first write.

use super::{Cpu, Mmu, Part, Span, Translation, align_down, alignment_fault, tag_access};
use crate::access::AccessKind;
use crate::addr::{GRANULE_SIZE, Pa, Va};
use crate::attr::MemTag;
use crate::fault::Fault;
use crate::features::{DC_BLOCK_SIZE, GM_BLOCK_SIZE};
use crate::tag::Tag;

const GRANULE: usize = GRANULE_SIZE as usize;
const DC_BLOCK: usize = DC_BLOCK_SIZE as usize;
/// The syndrome size of `LDGM` and `STGM`: of the register they move, as 256 does not fit and ISV is 0 anyway.
const GM_REGISTER_SIZE: u64 = 8;

/// `LDG`: the tag of the granule `va` lies in (`AArch64.MemTag`).
pub fn ldg<M: Mmu>(cpu: &Cpu, mmu: &mut M, va: Va) -> Result<Tag, Fault> {
    let va = align_down(va, GRANULE_SIZE);
    let found = mmu.translate(va, &tag_access(cpu, AccessKind::Tag, false, GRANULE_SIZE))?;
    Ok(match found.tags {
        MemTag::Allocation if cpu.ata() => mmu.tag(found.pa),
        MemTag::Canonical if cpu.ata() => va.canonical_tag(),
        _ => Tag::ZERO,
    })
}

/// `STG`: sets the tag of one granule.
pub fn stg<M: Mmu>(cpu: &Cpu, mmu: &mut M, va: Va, tag: Tag) -> Result<(), Fault> {
    store_granules(cpu, mmu, va, tag, GRANULE, None)
}

/// `ST2G`: sets the tags of two granules.
pub fn st2g<M: Mmu>(cpu: &Cpu, mmu: &mut M, va: Va, tag: Tag) -> Result<(), Fault> {
    store_granules(cpu, mmu, va, tag, 2 * GRANULE, None)
}

/// `STZG`: sets the tag of one granule and zeroes it.
pub fn stzg<M: Mmu>(cpu: &Cpu, mmu: &mut M, va: Va, tag: Tag) -> Result<(), Fault> {
    store_granules(cpu, mmu, va, tag, GRANULE, Some(&[0; GRANULE]))
}

/// `STZ2G`: sets the tags of two granules and zeroes them.
pub fn stz2g<M: Mmu>(cpu: &Cpu, mmu: &mut M, va: Va, tag: Tag) -> Result<(), Fault> {
    store_granules(cpu, mmu, va, tag, 2 * GRANULE, Some(&[0; 2 * GRANULE]))
}

/// `STGP`: stores a pair of registers and sets the granule's tag to the logical tag of `va`.
pub fn stgp<M: Mmu>(cpu: &Cpu, mmu: &mut M, va: Va, low: u64, high: u64) -> Result<(), Fault> {
    let pair = (u128::from(high) << 64 | u128::from(low)).to_le_bytes();
    store_granules(cpu, mmu, va, va.tag(), GRANULE, Some(&pair))
}

/// `LDGM`: the tags of the 256-byte block `va` lies in, granule `i` in bits `4i + 3` to `4i`.
pub fn ldgm<M: Mmu>(cpu: &Cpu, mmu: &mut M, va: Va) -> Result<u64, Fault> {
    let va = align_down(va, GM_BLOCK_SIZE);
    let found = mmu.translate(va, &tag_access(cpu, AccessKind::Tag, false, GM_REGISTER_SIZE))?;
    Ok(match found.tags {
        MemTag::Allocation if cpu.ata() => mmu.tag_block(found.pa),
        MemTag::Canonical if cpu.ata() => u64::from(va.canonical_tag().get()) * 0x1111_1111_1111_1111,
        _ => 0,
    })
}

/// `STGM`: sets the tags of the 256-byte block `va` lies in, laid out as by [`ldgm`].
pub fn stgm<M: Mmu>(cpu: &Cpu, mmu: &mut M, va: Va, bits: u64) -> Result<(), Fault> {
    let va = align_down(va, GM_BLOCK_SIZE);
    let found = mmu.translate(va, &tag_access(cpu, AccessKind::Tag, true, GM_REGISTER_SIZE))?;
    if cpu.ata() && found.tags == MemTag::Allocation {
        mmu.set_tag_block(found.pa, bits);
    }
    Ok(())
}

/// `STZGM`: sets the tags of the 64-byte block `va` lies in and zeroes it.
pub fn stzgm<M: Mmu>(cpu: &Cpu, mmu: &mut M, va: Va, tag: Tag) -> Result<(), Fault> {
    let va = align_down(va, DC_BLOCK_SIZE);
    let found = mmu.translate(va, &tag_access(cpu, AccessKind::Tag, true, DC_BLOCK_SIZE))?;
    mmu.write(found.pa, &[0; DC_BLOCK]);
    set_tags(cpu, mmu, found, DC_BLOCK_SIZE, tag);
    Ok(())
}

/// The tag stores: `size` bytes of whole granules get `tag`, and `data` if the instruction stores any.
fn store_granules<M: Mmu>(
    cpu: &Cpu,
    mmu: &mut M,
    va: Va,
    tag: Tag,
    size: usize,
    data: Option<&[u8]>,
) -> Result<(), Fault> {
    let access = tag_access(cpu, AccessKind::Tag, true, size as u64);
    if !va.0.is_multiple_of(GRANULE_SIZE) {
        return Err(alignment_fault(&access, va));
    }
    for (at, Part { found, len, .. }) in Span::translate(mmu, va, &access)?.parts() {
        if let Some(data) = data {
            mmu.write(found.pa, &data[at..at + len as usize]);
        }
        set_tags(cpu, mmu, found, len, tag);
    }
    Ok(())
}

/// Gives every granule of `len` bytes `tag`, if tags can be reached.
pub(super) fn set_tags<M: Mmu>(cpu: &Cpu, mmu: &mut M, found: Translation, len: u64, tag: Tag) {
    if cpu.ata() && found.tags == MemTag::Allocation {
        for granule in granules(found.pa, len) {
            mmu.set_tag(granule, tag);
        }
    }
}

/// The granules of `len` bytes from `start`, both multiples of the granule size.
fn granules(start: Pa, len: u64) -> impl Iterator<Item = Pa> {
    (0..len / GRANULE_SIZE).map(move |index| start + index * GRANULE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Access, FaultKind, Stage};
    use crate::insn::test_guest::Page::{Tagged, TaggedReadOnly, Unmapped, Untagged};
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
            (read.va, read.access, read.syndrome.is_valid()),
            (pointer(0x10, 3), Access::Read, false)
        );
        assert_eq!((written.va, written.access), (pointer(0x10, 3), Access::Write));
    }

    #[test]
    fn misaligned_tag_store_faults_before_translation() {
        let mut guest = Guest::new(&[Unmapped]);
        let cpu = Cpu::with_sync_checks(1, false);

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
        let cpu = Cpu::with_sync_checks(1, false);
        let mut guest = Guest::new(&[Tagged]).with_tags(0, SEVEN);

        assert_eq!(ldg(&cpu, &mut guest, pointer(0, 0)), Ok(Tag::ZERO));
        stzg(&cpu, &mut guest, pointer(0, 0), Tag::new(9)).unwrap();

        assert_eq!(guest.tags[0].is_uniform(), Some(SEVEN));
        assert_eq!(guest.data[0], 0);
    }
}
