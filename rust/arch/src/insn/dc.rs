//! The `DC` instructions: zero a block, tag it, or maintain the caches.
//!
//! `DC ZVA` is tag-checked, `DC GVA` and `DC GZVA` are tag stores. The maintenance forms translate and check permissions;
//! in a model without caches data and tags are always coherent, so they change neither (cleaning an allocation tag writes
//! back what memory already has, and an invalidation is done as clean and invalidate, which `HCR_EL2.VM` asks for). Left out:
//! operations by set and way. The invariant: every check comes before the first write.

use super::tag_memory::set_tags;
use super::{Cpu, Mmu, Part, Translation, align_down, tag_access};
use crate::access::{AccessDesc, AccessKind, TagUse};
use crate::addr::{Pa, Va};
use crate::fault::Fault;
use crate::features::DC_BLOCK_SIZE;
use crate::tag::Tag;

const DC_BLOCK: usize = DC_BLOCK_SIZE as usize;

/// What a maintenance instruction does to data, tags or both: all the same here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DcOp {
    /// `DC CVAC`, `CGVAC`, `CGDVAC`, `CIVAC`, `CIGVAC`, `CIGDVAC` and those to other points.
    Clean,
    /// `DC IVAC`, `IGVAC`, `IGDVAC`.
    Invalidate,
}

/// `DC GVA`: sets the tags of the 64-byte block `va` lies in. The instruction takes `tag` from its pointer.
pub fn dc_gva<M: Mmu>(cpu: &Cpu, mmu: &mut M, va: Va, tag: Tag) -> Result<(), Fault> {
    let found = translate_block(mmu, va, &tag_access(cpu, AccessKind::DcZero, true, DC_BLOCK_SIZE))?;
    set_tags(cpu, mmu, found, DC_BLOCK_SIZE, tag);
    Ok(())
}

/// `DC GZVA`: sets the tags of the 64-byte block `va` lies in and zeroes it.
pub fn dc_gzva<M: Mmu>(cpu: &Cpu, mmu: &mut M, va: Va, tag: Tag) -> Result<(), Fault> {
    let found = translate_block(mmu, va, &tag_access(cpu, AccessKind::DcZero, true, DC_BLOCK_SIZE))?;
    mmu.write(found.pa, &[0; DC_BLOCK]);
    set_tags(cpu, mmu, found, DC_BLOCK_SIZE, tag);
    Ok(())
}

/// `DC ZVA`: zeroes the 64-byte block `va` lies in, tag-checked as a store to every byte of it.
///
/// Arm ARM `AArch64.DataMemZero`: `WnR` is 1, and FAR may be the first granule that is wrong, which it is here. QEMU 10.0.2 reports
/// `WnR` = 0 and the start of the block whichever granule is wrong (quirk Q1 of the recorded vectors).
pub fn dc_zva<M: Mmu>(cpu: &mut Cpu, mmu: &mut M, va: Va) -> Result<(), Fault> {
    let checked = cpu.is_tag_checked(va, cpu.el, true);
    let access = AccessDesc {
        pan: cpu.pan_applies(cpu.el),
        tags: if checked { TagUse::Checked } else { TagUse::None },
        ..AccessDesc::new(AccessKind::DcZero, cpu.el, true, DC_BLOCK_SIZE as u8)
    };
    let found = translate_block(mmu, va, &access)?;
    let block = Part {
        va: align_down(va, DC_BLOCK_SIZE),
        found,
        len: DC_BLOCK_SIZE,
    };
    block.check_tags(cpu, mmu, &access)?;
    mmu.write(found.pa, &[0; DC_BLOCK]);
    Ok(())
}

/// Cache maintenance by address: checks what the architecture checks, and changes nothing.
pub fn dc_maintenance<M: Mmu>(cpu: &Cpu, mmu: &mut M, va: Va, op: DcOp) -> Result<(), Fault> {
    let kind = match op {
        DcOp::Clean => AccessKind::DcClean,
        DcOp::Invalidate => AccessKind::DcInvalidate,
    };
    mmu.translate(va, &AccessDesc::new(kind, cpu.el, false, 1)).map(|_| ())
}

/// Translates the block a `DC` instruction names. Faults report the pointer as given.
fn translate_block<M: Mmu>(mmu: &mut M, va: Va, access: &AccessDesc) -> Result<Translation, Fault> {
    let found = mmu.translate(va, access)?;
    Ok(Translation {
        pa: Pa(found.pa.0 & !(DC_BLOCK_SIZE - 1)),
        ..found
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{FaultKind, Stage};
    use crate::insn::test_guest::Page::{Device, Tagged, TaggedReadOnly, Unmapped};
    use crate::insn::test_guest::{Guest, pointer, sync_cpu};

    const SEVEN: Tag = Tag::new(7);

    /// Tags of the first granules of a page, as digits.
    fn digits(guest: &Guest, page: usize, count: usize) -> String {
        guest.tags[page].iter().take(count).map(|tag| tag.to_string()).collect()
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
    fn dc_zva_checks_every_granule_of_the_block_as_a_store() {
        let mut guest = Guest::new(&[Tagged]).with_tags(0, SEVEN);
        guest.tags[0].set(6, Tag::new(8));

        let fault = dc_zva(&mut sync_cpu(), &mut guest, pointer(0x45, 7)).unwrap_err();

        assert_eq!((fault.kind, fault.va), (FaultKind::TagCheck, pointer(0x60, 7)));
        assert_eq!(fault.esr(1), 0x9600_0051, "WnR = 1; QEMU's 0 is quirk Q1");
        assert!(guest.data_is_untouched());
    }

    #[test]
    fn dc_zva_zeroes_its_block_and_keeps_its_tags() {
        let mut guest = Guest::new(&[Tagged]).with_tags(0, SEVEN);

        dc_zva(&mut sync_cpu(), &mut guest, pointer(0x45, 7)).unwrap();

        assert!(guest.data[0x40..0x80].iter().all(|&byte| byte == 0));
        assert_eq!(guest.tags[0].is_uniform(), Some(SEVEN));
    }

    #[test]
    fn dc_instructions_refuse_device_memory_even_aligned() {
        let mut guest = Guest::new(&[Device]);

        let fault = dc_zva(&mut sync_cpu(), &mut guest, pointer(0x40, 0)).unwrap_err();

        assert_eq!((fault.kind, fault.stage), (FaultKind::Alignment, Stage::Two));
    }

    #[test]
    fn dc_fault_reports_the_pointer_as_given() {
        let mut guest = Guest::new(&[Unmapped]);

        let fault = dc_gva(&sync_cpu(), &mut guest, pointer(0x45, 7), SEVEN).unwrap_err();

        assert_eq!(fault.va, pointer(0x45, 7));
    }
    #[test]
    fn maintenance_checks_permission_and_changes_nothing() {
        let mut guest = Guest::new(&[TaggedReadOnly]).with_tags(0, SEVEN);

        let refused = dc_maintenance(&sync_cpu(), &mut guest, pointer(0, 0), DcOp::Invalidate).unwrap_err();

        assert_eq!(refused.esr(1), 0x9200_014f, "CM and WnR");
        assert_eq!(
            dc_maintenance(&sync_cpu(), &mut guest, pointer(0, 0), DcOp::Clean),
            Ok(())
        );
        assert!(guest.data_is_untouched());
        assert_eq!(guest.tags[0].is_uniform(), Some(SEVEN));
    }
}
