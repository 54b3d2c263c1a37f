//! The address spaces of a virtual machine, each as its own type, and the geometry of pages and granules.
//!
//! A guest virtual address ([`Va`]) is a full 64-bit pointer and keeps its logical tag and top byte; stage 1 turns it
//! into an intermediate physical address ([`Ipa`]), stage 2 into a physical address ([`Pa`]). [`Gfn`] and [`Pfn`] are
//! the page numbers of the last two.
//!
//! Page numbers count 4 KiB pages, whatever the translation granule ([`Granule`]). The invariant: no operation mixes two
//! spaces. Subtracting gives a distance, adding takes one, and leaving a space takes a named method. Arithmetic that would
//! wrap is a bug of the caller and overflows as plain integers do.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};

use crate::Tag;

/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page of the 4 KiB translation granule.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// Bytes that share one allocation tag (Arm ARM D10.1, `LOG2_TAG_GRANULE` = 4).
pub const GRANULE_SIZE: u64 = 16;
/// A translation granule: the size of a page and of a table (Arm ARM D8.2, `TGx`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granule {
    /// 4 KiB.
    Kib4,
    /// 16 KiB.
    Kib16,
    /// 64 KiB.
    Kib64,
}

impl Granule {
    /// log2 of the page size (`TGxGranuleBits`).
    pub const fn bits(self) -> u32 {
        match self {
            Self::Kib4 => 12,
            Self::Kib16 => 14,
            Self::Kib64 => 16,
        }
    }

    /// Address bits that one level of lookup resolves: a table of 8-byte descriptors fills one page.
    pub const fn stride(self) -> u32 {
        self.bits() - 3
    }

    /// log2 of what one entry at `level` maps (`TranslationSize`); levels are -1 to 3.
    pub const fn level_shift(self, level: i8) -> u32 {
        self.bits() + self.stride() * (3 - level).cast_unsigned() as u32
    }
}

/// Granules, and so allocation tags, in a page.
pub const GRANULES_PER_PAGE: usize = (PAGE_SIZE / GRANULE_SIZE) as usize;
/// Bytes that hold the tags of a page, two to a byte (Linux: `MTE_PAGE_TAG_STORAGE`).
pub const PAGE_TAG_BYTES: usize = GRANULES_PER_PAGE / 2;
/// Implemented physical address size in bits, `AArch64.PAMax()`: `ID_AA64MMFR0_EL1.PARange` = 6 as on QEMU's `max`.
pub const PA_MAX_BITS: u32 = 52;

const TAG_SHIFT: u32 = 56;
const TAG_MASK: u64 = 0xf << TAG_SHIFT;

/// Defines one address space: a `u64` newtype in fixed-width hex with distance arithmetic.
macro_rules! address_space {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#018x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#018x})"), self.0)
            }
        }

        impl Add<u64> for $name {
            type Output = Self;
            #[inline]
            fn add(self, distance: u64) -> Self {
                Self(self.0 + distance)
            }
        }

        impl AddAssign<u64> for $name {
            #[inline]
            fn add_assign(&mut self, distance: u64) {
                self.0 += distance;
            }
        }

        impl Sub for $name {
            type Output = u64;
            #[inline]
            fn sub(self, origin: Self) -> u64 {
                self.0 - origin.0
            }
        }
    };
}

address_space! {
    /// A virtual address: the whole pointer, logical tag in bits 59:56 and the rest of the top byte included.
    Va
}
address_space! {
    /// An intermediate physical address: what stage 1 produces and stage 2 takes.
    Ipa
}
address_space! {
    /// A physical address: where data and allocation tags lie.
    Pa
}
address_space! {
    /// A physical page frame number.
    Pfn
}
address_space! {
    /// A guest frame number: the page number of an [`Ipa`].
    Gfn
}

impl Va {
    /// The logical address tag, bits 59:56 (`AArch64.AllocationTagFromAddress`).
    #[inline]
    pub const fn tag(self) -> Tag {
        Tag::new((self.0 >> TAG_SHIFT) as u8)
    }

    /// The tag of a pointer nobody tagged: copies of bit 55 (`AArch64.CanonicalTagCheck`).
    #[inline]
    pub const fn canonical_tag(self) -> Tag {
        Tag::new(if self.0 >> 55 & 1 == 0 { 0 } else { 0xf })
    }

    /// The same pointer with another logical tag; bits 63:60 stay (`AArch64.AddressWithAllocationTag`).
    #[inline]
    #[must_use]
    pub const fn with_tag(self, tag: Tag) -> Self {
        Self(self.0 & !TAG_MASK | (tag.get() as u64) << TAG_SHIFT)
    }

    /// The canonical address under top-byte-ignore: bits 63:56 become copies of bit 55.
    #[inline]
    #[must_use]
    pub const fn untagged(self) -> Self {
        Self((self.0.cast_signed() << 8 >> 8).cast_unsigned())
    }

    /// The pointer rounded down to its page; the top byte stays.
    #[inline]
    #[must_use]
    pub const fn page(self) -> Self {
        Self(self.0 & !(PAGE_SIZE - 1))
    }

    /// Offset in the page.
    #[inline]
    pub const fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }

    /// The virtual page number, bits 55:12. Pointers that differ only in the top byte share it, and no page number
    /// comes near `u64::MAX`.
    #[inline]
    pub const fn vpn(self) -> u64 {
        self.0 << 8 >> (8 + PAGE_SHIFT)
    }

    /// Index of the granule in its page.
    #[inline]
    pub const fn granule(self) -> usize {
        (self.page_offset() / GRANULE_SIZE) as usize
    }
}

impl Ipa {
    /// The address rounded down to its page.
    #[inline]
    #[must_use]
    pub const fn page(self) -> Self {
        Self(self.0 & !(PAGE_SIZE - 1))
    }

    /// Offset in the page.
    #[inline]
    pub const fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }

    /// The guest frame the address lies in.
    #[inline]
    pub const fn gfn(self) -> Gfn {
        Gfn(self.0 >> PAGE_SHIFT)
    }
}

impl Gfn {
    /// The first address of the guest frame.
    #[inline]
    pub const fn base(self) -> Ipa {
        Ipa(self.0 << PAGE_SHIFT)
    }
}

impl Pa {
    /// The page frame the address lies in.
    #[inline]
    pub const fn pfn(self) -> Pfn {
        Pfn(self.0 >> PAGE_SHIFT)
    }

    /// Offset in the page.
    #[inline]
    pub const fn page_offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }

    /// Index of the granule in its page.
    #[inline]
    pub const fn granule(self) -> usize {
        (self.page_offset() / GRANULE_SIZE) as usize
    }
}

impl Pfn {
    /// The first address of the page frame.
    #[inline]
    pub const fn base(self) -> Pa {
        Pa(self.0 << PAGE_SHIFT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_is_bits_59_to_56_of_the_pointer() {
        let pointer = Va(0xab00_0000_5000_1234);

        assert_eq!(pointer.tag(), Tag::new(0xb));
    }

    #[test]
    fn with_tag_keeps_the_rest_of_the_top_byte() {
        let pointer = Va(0xab00_0000_5000_1234);

        assert_eq!(pointer.with_tag(Tag::new(5)), Va(0xa500_0000_5000_1234));
    }

    #[test]
    fn untagged_copies_bit_55_into_the_top_byte() {
        assert_eq!(Va(0xab7f_0000_0000_0001).untagged(), Va(0x007f_0000_0000_0001));
        assert_eq!(Va(0xab80_0000_0000_0001).untagged(), Va(0xff80_0000_0000_0001));
    }

    #[test]
    fn page_keeps_the_tag_and_vpn_drops_it() {
        let pointer = Va(0xab00_0000_5000_1234);

        assert_eq!(pointer.page(), Va(0xab00_0000_5000_1000));
        assert_eq!(pointer.page_offset(), 0x234);
        assert_eq!(pointer.vpn(), 0x5_0001);
    }

    #[test]
    fn the_largest_vpn_is_far_from_the_empty_tlb_marker() {
        assert_eq!(Va(u64::MAX).vpn(), (1 << 44) - 1);
    }

    #[test]
    fn granule_counts_16_bytes_inside_the_page() {
        assert_eq!(Va(0x5000_1fff).granule(), 255);
        assert_eq!(Pa(0x5000_1010).granule(), 1);
    }

    #[test]
    fn page_numbers_and_addresses_convert_both_ways() {
        assert_eq!(Ipa(0x4000_1fff).gfn(), Gfn(0x4_0001));
        assert_eq!(Ipa(0x4000_1fff).page(), Gfn(0x4_0001).base());
        assert_eq!(Pa(0x4000_1fff).pfn().base(), Pa(0x4000_1000));
    }

    #[test]
    fn distances_add_in_place_and_ipas_have_a_page_offset() {
        let mut ipa = Ipa(0x4000_0ff0);
        ipa += 0x20;

        assert_eq!((ipa, ipa.page_offset()), (Ipa(0x4000_1010), 0x10));
    }

    #[test]
    fn last_byte_of_a_page_lies_in_it() {
        assert_eq!(Va(0xab00_0000_5000_1fff).page(), Va(0xab00_0000_5000_1000));
        assert_eq!(Ipa(0x4000_1fff).page(), Ipa(0x4000_1000));
        assert_eq!(Va(0x1fff).page_offset(), 0xfff);
        assert_eq!(Pa(0x1fff).page_offset(), 0xfff);
    }

    #[test]
    fn addresses_print_as_fixed_width_hex() {
        assert_eq!(Ipa(0x5000).to_string(), "0x0000000000005000");
        assert_eq!(format!("{:?}", Pfn(0x5)), "Pfn(0x0000000000000005)");
    }

    #[test]
    fn subtraction_gives_the_distance_and_addition_takes_one() {
        let (low, high) = (Pa(0x1000), Pa(0x1230));

        assert_eq!(high - low, 0x230);
        assert_eq!(low + 0x230, high);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "overflow")]
    fn addition_past_the_top_of_a_space_is_a_bug() {
        let _ = Ipa(u64::MAX) + 1;
    }
}
