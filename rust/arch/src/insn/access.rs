//! Tag-checked loads and stores of 1 to 16 bytes.
//!
//! An access may be misaligned and may cross granules and one page boundary. Left out: atomics and exclusives. The
//! invariant: both pages are translated and every granule is checked before the first byte is read or written.

use super::{Cpu, Mmu, Request, Span};
use crate::addr::Va;
use crate::fault::{Access, Fault};

/// Loads `size` bytes (1, 2, 4, 8 or 16), little-endian. 16 bytes are a pair (`LDP`), which the syndrome does not describe.
#[inline]
pub fn load<M: Mmu>(cpu: &Cpu, mmu: &mut M, ptr: Va, size: u8) -> Result<u128, Fault> {
    debug_assert!(matches!(size, 1 | 2 | 4 | 8 | 16), "no load of {size} bytes");
    let span = checked_span(cpu, mmu, ptr, size, Access::Read)?;
    let mut bytes = [0; 16];
    for (at, part) in span.parts() {
        mmu.read(part.found.pa, &mut bytes[at..at + part.len as usize]);
    }
    Ok(u128::from_le_bytes(bytes))
}

/// Stores the low `size` bytes (1, 2, 4, 8 or 16) of `value`, little-endian. 16 bytes are a pair (`STP`).
#[inline]
pub fn store<M: Mmu>(cpu: &Cpu, mmu: &mut M, ptr: Va, size: u8, value: u128) -> Result<(), Fault> {
    debug_assert!(matches!(size, 1 | 2 | 4 | 8 | 16), "no store of {size} bytes");
    let span = checked_span(cpu, mmu, ptr, size, Access::Write)?;
    let bytes = value.to_le_bytes();
    for (at, part) in span.parts() {
        mmu.write(part.found.pa, &bytes[at..at + part.len as usize]);
    }
    Ok(())
}

/// Translates and checks an access of 1 to 255 bytes without moving data: what a trace replay needs of it.
#[inline]
pub fn probe<M: Mmu>(cpu: &Cpu, mmu: &mut M, ptr: Va, size: u8, access: Access) -> Result<(), Fault> {
    checked_span(cpu, mmu, ptr, size, access).map(|_| ())
}

/// Translates all of an access, then checks all of it.
#[inline]
fn checked_span<M: Mmu>(cpu: &Cpu, mmu: &mut M, ptr: Va, size: u8, access: Access) -> Result<Span, Fault> {
    let request = Request {
        ptr,
        access,
        isv: size <= 8,
        size,
    };
    let span = Span::translate(request, cpu, mmu)?;
    // Each register of a pair is an access of its own, so 8 bytes is the most that must be aligned.
    let aligned = ptr.0 & (u64::from(size.min(8)).next_power_of_two() - 1) == 0;
    if !aligned && span.parts().any(|(_, part)| part.found.device) {
        return Err(request.device_alignment_fault());
    }
    for (_, part) in span.parts() {
        part.request.check_tags(cpu, mmu, part.found, part.len)?;
    }
    Ok(span)
}
