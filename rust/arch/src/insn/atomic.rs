//! Atomic read-modify-write: `LDADD` and its kin, `SWP`, `CAS`, `CASP`.
//!
//! Models the checks and the result. Left out: ordering. Where the architecture leaves it open, a compare-and-swap that
//! fails its comparison is not tag checked under store-only checking (`Unpredictable_STOREONLYTAGCHECKEDCAS`). The invariant:
//! an atomic lies in one granule, so one tag decides.

use super::access::checked_span;
use super::{Cpu, MemOp, Mmu};
use crate::access::{AccessDesc, TagUse};
use crate::addr::Va;
use crate::fault::Fault;

/// What an atomic writes (`MemAtomicOp`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is the operation of its name
pub enum AtomicOp {
    Add,
    Clear,
    Xor,
    Set,
    SignedMax,
    SignedMin,
    UnsignedMax,
    UnsignedMin,
    Swap,
}

impl AtomicOp {
    /// The new value; only the low `size` bytes of both count.
    fn apply(self, old: u128, operand: u128, size: u8) -> u128 {
        let shift = 128 - 8 * u32::from(size);
        let signed = |value: u128| (value << shift).cast_signed();
        match self {
            Self::Add => old.wrapping_add(operand),
            Self::Clear => old & !operand,
            Self::Xor => old ^ operand,
            Self::Set => old | operand,
            Self::SignedMax if signed(old) >= signed(operand) => old,
            Self::SignedMin if signed(old) <= signed(operand) => old,
            Self::UnsignedMax if old << shift >= operand << shift => old,
            Self::UnsignedMin if old << shift <= operand << shift => old,
            Self::SignedMax | Self::SignedMin | Self::UnsignedMax | Self::UnsignedMin | Self::Swap => operand,
        }
    }
}

/// `LD<op>` and `SWP`: the old value.
pub fn atomic<M: Mmu>(
    cpu: &mut Cpu,
    mmu: &mut M,
    va: Va,
    op: MemOp,
    what: AtomicOp,
    operand: u128,
) -> Result<u128, Fault> {
    read_modify_write(cpu, mmu, va, op, |old| Some(what.apply(old, operand, op.size)))
}

/// `CAS` and `CASP`: the old value; `new` is stored if it equals `expected`. Write permission is needed either way.
pub fn compare_and_swap<M: Mmu>(
    cpu: &mut Cpu,
    mmu: &mut M,
    va: Va,
    op: MemOp,
    expected: u128,
    new: u128,
) -> Result<u128, Fault> {
    let shift = 128 - 8 * u32::from(op.size);
    read_modify_write(cpu, mmu, va, op, |old| {
        (old << shift == expected << shift).then_some(new)
    })
}

/// `MemAtomic`. Under store-only checking an atomic is checked as the store it turns out to be.
fn read_modify_write<M: Mmu>(
    cpu: &mut Cpu,
    mmu: &mut M,
    va: Va,
    op: MemOp,
    modify: impl FnOnce(u128) -> Option<u128>,
) -> Result<u128, Fault> {
    let access = op.access(cpu, va, true, true)?;
    let store_only = cpu.controls[op.el as usize].store_only;
    let unchecked = AccessDesc {
        tags: TagUse::None,
        ..access
    };
    let span = checked_span(cpu, mmu, va, if store_only { &unchecked } else { &access })?;
    let part = span.first;
    let mut bytes = [0; 16];
    mmu.read(part.found.pa, &mut bytes[..op.size as usize]);
    let old = u128::from_le_bytes(bytes);
    if let Some(new) = modify(old) {
        if store_only {
            let as_store = AccessDesc { read: false, ..access };
            part.check_tags(cpu, mmu, &as_store)?;
        }
        mmu.write(part.found.pa, &new.to_le_bytes()[..op.size as usize]);
    }
    Ok(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::FaultKind;
    use crate::insn::access::Order;
    use crate::insn::test_guest::Page::{Tagged, TaggedReadOnly};
    use crate::insn::test_guest::{Guest, pointer, sync_cpu};
    use crate::insn::{Tcf, load, store};
    use crate::tag::Tag;

    fn op(size: u8) -> MemOp {
        MemOp {
            element: size,
            order: Order::Atomic,
            ..MemOp::plain(&sync_cpu(), size)
        }
    }

    /// What is in memory after an atomic on `old`, of `size` bytes.
    fn after(what: AtomicOp, size: u8, old: u64, operand: u64) -> u64 {
        let (mut cpu, mut guest) = (sync_cpu(), Guest::new(&[Tagged]));
        let ptr = pointer(0x20, 0);
        store(&mut cpu, &mut guest, ptr, size, old.into()).unwrap();
        let got = atomic(&mut cpu, &mut guest, ptr, op(size), what, operand.into());
        assert_eq!(got, Ok(old.into()));
        load(&mut cpu, &mut guest, ptr, size).unwrap() as u64
    }

    #[test]
    fn operations_work_on_the_width_of_the_access() {
        assert_eq!(after(AtomicOp::Add, 1, 0xff, 2), 1);
        assert_eq!(after(AtomicOp::Clear, 2, 0xffff, 0x0ff0), 0xf00f);
        assert_eq!(after(AtomicOp::Xor, 4, 0xff, 0x0f), 0xf0);
        assert_eq!(after(AtomicOp::Set, 8, 0xf0, 0x0f), 0xff);
        assert_eq!(after(AtomicOp::Swap, 8, 1, 2), 2);
        assert_eq!(after(AtomicOp::SignedMax, 1, 0x80, 1), 1);
        assert_eq!(after(AtomicOp::SignedMin, 1, 0x80, 1), 0x80);
        assert_eq!(after(AtomicOp::UnsignedMax, 1, 0x80, 1), 0x80);
        assert_eq!(after(AtomicOp::UnsignedMin, 1, 0x80, 1), 1);
    }

    #[test]
    fn compare_and_swap_stores_only_on_a_match() {
        let (mut cpu, mut guest) = (sync_cpu(), Guest::new(&[Tagged]));
        let ptr = pointer(0x10, 0);
        store(&mut cpu, &mut guest, ptr, 8, 5).unwrap();

        assert_eq!(compare_and_swap(&mut cpu, &mut guest, ptr, op(8), 4, 9), Ok(5));
        assert_eq!(load(&mut cpu, &mut guest, ptr, 8), Ok(5));
        assert_eq!(compare_and_swap(&mut cpu, &mut guest, ptr, op(8), 5, 9), Ok(5));
        assert_eq!(load(&mut cpu, &mut guest, ptr, 8), Ok(9));
    }

    #[test]
    fn tag_check_fault_of_an_atomic_is_a_reads_even_in_asymmetric_mode() {
        let (mut cpu, mut guest) = (sync_cpu(), Guest::new(&[Tagged]).with_tags(0, Tag::new(7)));
        cpu.controls[1].tcf = Tcf::Asymmetric;

        let fault = atomic(&mut cpu, &mut guest, pointer(0, 6), op(8), AtomicOp::Swap, 1).unwrap_err();

        assert_eq!((fault.kind, fault.esr(1)), (FaultKind::TagCheck, 0x9600_0011));
        assert!(guest.data_is_untouched());
    }

    #[test]
    fn atomic_needs_write_permission_and_reports_a_write() {
        let mut guest = Guest::new(&[TaggedReadOnly]);

        let fault = atomic(&mut sync_cpu(), &mut guest, pointer(0, 0), op(4), AtomicOp::Add, 1).unwrap_err();

        assert_eq!(fault.esr(1) & 0x7f, 0x4f);
    }

    #[test]
    fn atomic_across_16_bytes_is_misaligned_and_inside_them_is_not() {
        let mut guest = Guest::new(&[Tagged]);
        let mut add = |offset| atomic(&mut sync_cpu(), &mut guest, pointer(offset, 0), op(8), AtomicOp::Add, 1);

        assert!(add(0x18).is_ok() && add(0x15).is_ok());
        assert_eq!(add(0x19).unwrap_err().kind, FaultKind::Alignment);
    }

    #[test]
    fn store_only_checks_an_atomic_as_a_store_and_a_failed_comparison_not_at_all() {
        let (mut cpu, mut guest) = (sync_cpu(), Guest::new(&[Tagged]).with_tags(0, Tag::new(7)));
        cpu.controls[1].store_only = true;
        let ptr = pointer(0, 6);

        let fault = atomic(&mut cpu, &mut guest, ptr, op(8), AtomicOp::Swap, 1).unwrap_err();
        assert_eq!(fault.esr(1), 0x9600_0051, "WnR = 1");
        assert!(compare_and_swap(&mut cpu, &mut guest, ptr, op(8), 1, 2).is_ok());
        cpu.controls[1].tcf = Tcf::Asymmetric;
        assert!(atomic(&mut cpu, &mut guest, ptr, op(8), AtomicOp::Swap, 1).is_ok());
        assert!(cpu.tfsr[1].tf0());
    }
}
