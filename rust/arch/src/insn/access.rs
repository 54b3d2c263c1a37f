//! Tag-checked loads and stores of 1 to 32 bytes.
//!
//! An access may be misaligned and may cross granules and one page boundary. Left out: single-copy atomicity. The
//! invariant: both pages are translated and every granule is checked before the first byte is read or written.

use super::{Cpu, Mmu, Span, alignment_fault};
use crate::access::{AccessDesc, AccessKind, TagUse};
use crate::addr::{GRANULE_SIZE, Va};
use crate::fault::{Access, Fault, Syndrome};

/// The most bytes an instruction moves: a pair of vector registers.
const LARGEST: usize = 32;

/// What alignment an access needs beyond what memory demands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A plain load or store: none.
    Plain,
    /// Load-acquire or store-release: inside 16 bytes, unless `SCTLR_ELx.nAA`.
    Ordered,
    /// Atomic or exclusive: inside 16 bytes (`FEAT_LSE2`).
    Atomic,
}

/// A load or store instruction, apart from its address and data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemOp {
    /// Bytes in all.
    pub size: u8,
    /// Bytes of one register of a pair: what must be aligned where alignment counts.
    pub element: u8,
    /// The exception level whose rules and permissions count: 0 for `LDTR` and `STTR` at EL1.
    pub el: u8,
    /// Subject to tag checks: not the stack pointer with an immediate offset, nor a literal load.
    pub checked: bool,
    /// Alignment.
    pub order: Order,
    /// What a stage-2 fault says of it.
    pub syndrome: Syndrome,
}

impl MemOp {
    /// A load or store of one register of 1, 2, 4 or 8 bytes; more are a pair of 8, which no syndrome describes.
    #[inline]
    pub fn plain(cpu: &Cpu, size: u8) -> Self {
        Self {
            size,
            element: size.min(8).next_power_of_two(),
            el: cpu.el,
            checked: true,
            order: Order::Plain,
            syndrome: match size {
                1 | 2 | 4 | 8 => Syndrome::new(size, 0, false, size == 8, false),
                _ => Syndrome::NONE,
            },
        }
    }

    /// What the instruction demands of memory at `va`, once the alignment that the instruction itself needs is checked
    /// (`AArch64.UnalignedAccessFaults`).
    #[inline]
    pub(super) fn access(self, cpu: &Cpu, va: Va, read: bool, write: bool) -> Result<AccessDesc, Fault> {
        let checked = self.checked && cpu.is_tag_checked(va, self.el, write);
        let access = AccessDesc {
            read,
            aligned: va.0 & u64::from(self.element - 1) == 0,
            pan: cpu.pan_applies(self.el),
            tags: if checked { TagUse::Checked } else { TagUse::None },
            syndrome: self.syndrome,
            ..AccessDesc::new(AccessKind::Data, self.el, write, self.size)
        };
        if !access.aligned && self.must_be_aligned(cpu, va) {
            return Err(alignment_fault(&access, va));
        }
        Ok(access)
    }

    #[cold]
    fn must_be_aligned(self, cpu: &Cpu, va: Va) -> bool {
        let controls = &cpu.controls[cpu.el as usize];
        let inside_16_bytes = va.0 % GRANULE_SIZE + u64::from(self.size) <= GRANULE_SIZE;
        controls.strict_alignment
            || match self.order {
                Order::Plain => false,
                Order::Ordered => !inside_16_bytes && !controls.unaligned_ordered,
                Order::Atomic => !inside_16_bytes,
            }
    }
}

/// Loads `size` bytes (1, 2, 4, 8 or 16), little-endian. 16 bytes are a pair (`LDP`), which the syndrome does not describe.
#[inline]
pub fn load<M: Mmu>(cpu: &mut Cpu, mmu: &mut M, va: Va, size: u8) -> Result<u128, Fault> {
    debug_assert!(matches!(size, 1 | 2 | 4 | 8 | 16), "no load of {size} bytes");
    let mut bytes = [0; 16];
    load_with(cpu, mmu, va, MemOp::plain(cpu, size), &mut bytes[..size as usize])?;
    Ok(u128::from_le_bytes(bytes))
}

/// Stores the low `size` bytes (1, 2, 4, 8 or 16) of `value`, little-endian. 16 bytes are a pair (`STP`).
#[inline]
pub fn store<M: Mmu>(cpu: &mut Cpu, mmu: &mut M, va: Va, size: u8, value: u128) -> Result<(), Fault> {
    debug_assert!(matches!(size, 1 | 2 | 4 | 8 | 16), "no store of {size} bytes");
    let op = MemOp::plain(cpu, size);
    store_with(cpu, mmu, va, op, &value.to_le_bytes()[..size as usize])
}

/// Any load: `bytes` is as long as `op.size`.
#[inline]
pub fn load_with<M: Mmu>(cpu: &mut Cpu, mmu: &mut M, va: Va, op: MemOp, bytes: &mut [u8]) -> Result<(), Fault> {
    debug_assert!(bytes.len() == op.size as usize && bytes.len() <= LARGEST);
    let access = op.access(cpu, va, true, false)?;
    for (at, part) in checked_span(cpu, mmu, va, &access)?.parts() {
        mmu.read(part.found.pa, &mut bytes[at..at + part.len as usize]);
    }
    Ok(())
}

/// Any store: `bytes` is as long as `op.size`.
#[inline]
pub fn store_with<M: Mmu>(cpu: &mut Cpu, mmu: &mut M, va: Va, op: MemOp, bytes: &[u8]) -> Result<(), Fault> {
    debug_assert!(bytes.len() == op.size as usize && bytes.len() <= LARGEST);
    let access = op.access(cpu, va, false, true)?;
    for (at, part) in checked_span(cpu, mmu, va, &access)?.parts() {
        mmu.write(part.found.pa, &bytes[at..at + part.len as usize]);
    }
    Ok(())
}

/// Translates and checks an access of 1 to 255 bytes without moving data: what a trace replay needs of it.
///
/// A size no instruction has stands for several accesses in one record, and its syndrome describes none of them.
#[inline]
pub fn probe<M: Mmu>(cpu: &mut Cpu, mmu: &mut M, va: Va, size: u8, access: Access) -> Result<(), Fault> {
    let write = access == Access::Write;
    let access = MemOp::plain(cpu, size).access(cpu, va, !write, write)?;
    checked_span(cpu, mmu, va, &access).map(|_| ())
}

/// Translates all of an access, then checks all of it.
#[inline]
pub(super) fn checked_span<M: Mmu>(cpu: &mut Cpu, mmu: &mut M, va: Va, access: &AccessDesc) -> Result<Span, Fault> {
    let span = Span::translate(mmu, va, access)?;
    for (_, part) in span.parts() {
        part.check_tags(cpu, mmu, access)?;
    }
    Ok(span)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fault::{FaultKind, Stage};
    use crate::insn::test_guest::Page::{Canonical, Device, Tagged, TaggedReadOnly, Unmapped, Untagged};
    use crate::insn::test_guest::{Guest, pointer, sync_cpu};
    use crate::insn::{ElControls, Tcf};
    use crate::tag::Tag;

    /// An EL1 processor with synchronous checks, but for one control.
    fn with_controls(change: impl FnOnce(&mut ElControls)) -> Cpu {
        let mut cpu = sync_cpu();
        change(&mut cpu.controls[1]);
        cpu
    }

    #[test]
    fn load_returns_what_store_wrote_across_two_pages() {
        let (mut cpu, ptr) = (sync_cpu(), pointer(0xffd, 0));
        let mut guest = Guest::new(&[Tagged, Tagged]);
        let value = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;

        store(&mut cpu, &mut guest, ptr, 16, value).unwrap();

        assert_eq!(load(&mut cpu, &mut guest, ptr, 16), Ok(value));
        assert_eq!(guest.data[0xffd..0x1000], [0x77, 0x66, 0x55]);
    }

    #[test]
    fn load_with_another_tag_raises_tag_check_fault_at_the_pointer() {
        let mut guest = Guest::new(&[Tagged]).with_tags(0, Tag::new(7));
        let ptr = pointer(0x13, 6);

        let fault = load(&mut sync_cpu(), &mut guest, ptr, 4).unwrap_err();

        assert_eq!(
            (fault.kind, fault.stage, fault.va),
            (FaultKind::TagCheck, Stage::One, ptr)
        );
        assert_eq!(fault.esr(1), 0x9600_0011);
    }

    #[test]
    fn store_whose_second_granule_differs_reports_its_start_and_writes_nothing() {
        let mut guest = Guest::new(&[Tagged]).with_tags(0, Tag::new(7));
        guest.tags[0].set(2, Tag::new(8));

        let fault = store(&mut sync_cpu(), &mut guest, pointer(0x1c, 7), 8, 0).unwrap_err();

        assert_eq!((fault.kind, fault.va), (FaultKind::TagCheck, pointer(0x20, 7)));
        assert_eq!(fault.esr(1), 0x9600_0051);
        assert!(guest.data_is_untouched());
    }

    #[test]
    fn store_whose_second_page_differs_in_tag_writes_nothing() {
        let mut guest = Guest::new(&[Tagged, Tagged]).with_tags(0, Tag::new(7));

        let fault = store(&mut sync_cpu(), &mut guest, pointer(0xffc, 7), 8, 0).unwrap_err();

        assert_eq!((fault.kind, fault.va), (FaultKind::TagCheck, pointer(0x1000, 7)));
        assert!(guest.data_is_untouched());
    }

    #[test]
    fn store_whose_second_page_is_unmapped_faults_before_the_tag_check_of_the_first() {
        let mut guest = Guest::new(&[Tagged, Unmapped]).with_tags(0, Tag::new(7));

        let fault = store(&mut sync_cpu(), &mut guest, pointer(0xffc, 6), 8, 0).unwrap_err();

        assert_eq!((fault.kind, fault.va), (FaultKind::Translation, pointer(0x1000, 6)));
        assert!(guest.data_is_untouched());
    }

    #[test]
    fn access_over_a_tagged_and_an_untagged_page_checks_the_tagged_one_only() {
        let mut guest = Guest::new(&[Untagged, Tagged]).with_tags(1, Tag::new(7));

        assert_eq!(
            load(&mut sync_cpu(), &mut guest, pointer(0xffc, 7), 8).map(|_| ()),
            Ok(())
        );
        let fault = load(&mut sync_cpu(), &mut guest, pointer(0xffc, 6), 8).unwrap_err();

        assert_eq!((fault.kind, fault.va), (FaultKind::TagCheck, pointer(0x1000, 6)));
    }

    #[test]
    fn permission_fault_beats_tag_check_and_loads_from_read_only_pages_are_checked() {
        let mut guest = Guest::new(&[TaggedReadOnly]).with_tags(0, Tag::new(7));

        let stored = store(&mut sync_cpu(), &mut guest, pointer(0, 6), 8, 0).unwrap_err();
        let loaded = load(&mut sync_cpu(), &mut guest, pointer(0, 6), 8).unwrap_err();

        assert_eq!((stored.kind, stored.syndrome.is_valid()), (FaultKind::Permission, true));
        assert_eq!(loaded.kind, FaultKind::TagCheck);
    }

    #[test]
    fn tag_checks_are_off_under_tco_without_tcf_without_ata_and_without_tbi() {
        let unchecked = [
            Cpu {
                tco: true,
                ..sync_cpu()
            },
            with_controls(|controls| controls.tcf = Tcf::None),
            with_controls(|controls| controls.ata = false),
            with_controls(|controls| controls.tagged = [false; 2]),
        ];
        let mut guest = Guest::new(&[Tagged]).with_tags(0, Tag::new(7));

        for mut cpu in unchecked {
            assert!(load(&mut cpu, &mut guest, pointer(0, 0), 8).is_ok(), "{cpu:?}");
        }
    }

    #[test]
    fn asynchronous_checks_note_the_fault_and_let_the_access_pass() {
        let mut guest = Guest::new(&[Tagged]).with_tags(0, Tag::new(7));
        let mut cpu = with_controls(|controls| controls.tcf = Tcf::Async);

        store(&mut cpu, &mut guest, pointer(0, 6), 8, 5).unwrap();

        assert!(cpu.tfsr[1].tf0() && !cpu.tfsr[1].tf1());
        assert_eq!(guest.data[0], 5);
    }

    #[test]
    fn asymmetric_checks_are_synchronous_for_loads_alone() {
        let mut guest = Guest::new(&[Tagged]).with_tags(0, Tag::new(7));
        let mut cpu = with_controls(|controls| controls.tcf = Tcf::Asymmetric);

        assert!(load(&mut cpu, &mut guest, pointer(0, 6), 8).is_err());
        assert_eq!(u64::from(cpu.tfsr[1]), 0);
        assert!(store(&mut cpu, &mut guest, pointer(0, 6), 8, 5).is_ok());
        assert!(cpu.tfsr[1].tf0());
    }

    #[test]
    fn match_all_tags_are_not_checked_in_their_half() {
        let mut guest = Guest::new(&[Tagged]).with_tags(0, Tag::new(7));
        let mut cpu = with_controls(|controls| controls.tcma = [true, false]);

        assert!(load(&mut cpu, &mut guest, pointer(0, 0), 8).is_ok());
        assert!(load(&mut cpu, &mut guest, pointer(0, 15), 8).is_err());
    }

    #[test]
    fn canonical_tags_are_copies_of_bit_55() {
        let mut guest = Guest::new(&[Canonical]).with_tags(0, Tag::new(7));

        assert!(load(&mut sync_cpu(), &mut guest, pointer(0, 0), 8).is_ok());
        let fault = load(&mut sync_cpu(), &mut guest, pointer(4, 7), 8).unwrap_err();

        assert_eq!((fault.kind, fault.va), (FaultKind::TagCheck, pointer(4, 7)));
    }

    #[test]
    fn store_only_checking_lets_loads_pass() {
        let mut guest = Guest::new(&[Tagged]).with_tags(0, Tag::new(7));
        let mut cpu = with_controls(|controls| controls.store_only = true);

        assert!(load(&mut cpu, &mut guest, pointer(0, 6), 8).is_ok());
        assert!(store(&mut cpu, &mut guest, pointer(0, 6), 8, 0).is_err());
    }

    #[test]
    fn strict_alignment_is_checked_before_translation() {
        let mut guest = Guest::new(&[Unmapped]);
        let mut cpu = with_controls(|controls| controls.strict_alignment = true);

        let fault = load(&mut cpu, &mut guest, pointer(4, 0), 8).unwrap_err();

        assert_eq!((fault.kind, fault.stage), (FaultKind::Alignment, Stage::One));
        let aligned = load(&mut cpu, &mut guest, pointer(8, 0), 8).unwrap_err();
        assert_eq!(aligned.kind, FaultKind::Translation);
    }

    #[test]
    fn ordered_accesses_stay_inside_16_bytes_unless_naa_lets_them() {
        let mut guest = Guest::new(&[Tagged]);
        let mut cpu = sync_cpu();
        let ordered = MemOp {
            order: Order::Ordered,
            ..MemOp::plain(&cpu, 8)
        };
        let mut bytes = [0; 8];
        let mut at = |cpu: &mut Cpu, offset| load_with(cpu, &mut guest, pointer(offset, 0), ordered, &mut bytes);

        assert!(at(&mut cpu, 4).is_ok());
        assert_eq!(at(&mut cpu, 12).unwrap_err().kind, FaultKind::Alignment);
        cpu.controls[1].unaligned_ordered = true;
        assert!(at(&mut cpu, 12).is_ok());
    }

    #[test]
    fn misaligned_access_to_device_memory_raises_alignment_fault_of_stage_2() {
        let mut guest = Guest::new(&[Device]);

        let fault = store(&mut sync_cpu(), &mut guest, pointer(2, 0), 4, 0).unwrap_err();

        assert_eq!((fault.kind, fault.stage), (FaultKind::Alignment, Stage::Two));
        assert!(store(&mut sync_cpu(), &mut guest, pointer(4, 0), 4, 0).is_ok());
    }

    #[test]
    fn pair_on_device_memory_needs_the_alignment_of_one_register() {
        let mut guest = Guest::new(&[Device]);

        assert!(load(&mut sync_cpu(), &mut guest, pointer(8, 0), 16).is_ok());
        assert!(load(&mut sync_cpu(), &mut guest, pointer(4, 0), 16).is_err());
    }

    #[test]
    fn only_single_register_accesses_are_described_in_the_syndrome() {
        let mut guest = Guest::new(&[]);

        let single = load(&mut sync_cpu(), &mut guest, pointer(0, 0), 8).unwrap_err();
        let pair = load(&mut sync_cpu(), &mut guest, pointer(0, 0), 16).unwrap_err();

        assert_eq!((single.syndrome.is_valid(), pair.syndrome.is_valid()), (true, false));
    }

    #[test]
    fn plain_access_is_described_as_one_of_register_0_without_sign_extension() {
        let mut guest = Guest::new(&[]);
        let mut esr = |size| {
            load(&mut sync_cpu(), &mut guest, pointer(0, 0), size)
                .unwrap_err()
                .esr(1)
        };

        assert_eq!(
            [1, 2, 4, 8].map(&mut esr),
            [0x9300_0007, 0x9340_0007, 0x9380_0007, 0x93c0_8007]
        );
    }

    #[test]
    fn probe_checks_every_granule_of_a_long_access_and_moves_nothing() {
        let mut guest = Guest::new(&[Tagged, Tagged]);
        guest.tags[1].set(3, Tag::new(9));
        let ptr = pointer(0xfff, 0);

        let fault = probe(&mut sync_cpu(), &mut guest, ptr, 0x42, Access::Write).unwrap_err();

        assert_eq!((fault.kind, fault.va), (FaultKind::TagCheck, pointer(0x1030, 0)));
        assert!(probe(&mut sync_cpu(), &mut guest, ptr, 0x31, Access::Write).is_ok());
        assert!(guest.data_is_untouched());
    }

    proptest! {
        #[test]
        fn access_faults_at_the_first_byte_whose_tag_differs(
            offset in 0u64..0x1ff0,
            size in prop::sample::select(vec![1u8, 2, 4, 8, 16]),
            tags in prop::collection::vec(0u8..3, 512),
            logical in 0u8..3,
        ) {
            let mut guest = Guest::new(&[Tagged, Tagged]);
            for (granule, &tag) in tags.iter().enumerate() {
                guest.tags[granule / 256].set(granule % 256, Tag::new(tag));
            }

            let answer = load(&mut sync_cpu(), &mut guest, pointer(offset, logical), size);

            let mut bytes = offset..offset + u64::from(size);
            let first_bad = bytes.find(|byte| tags[(byte / 16) as usize] != logical);
            prop_assert_eq!(answer.err().map(|fault| fault.va), first_bad.map(|byte| pointer(byte, logical)));
        }
    }
}
