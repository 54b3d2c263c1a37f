//! Stage-2 translation table descriptors of the 4 KiB granule (Arm ARM D8.3, `VMSAv8-64` descriptor formats).
//!
//! [`table_desc`] and [`leaf_desc`] write the words a hypervisor puts into memory; [`decode`] reads them back. The walker
//! takes tables of every granule and has its own reading ([`walk_stage2`](crate::walk_stage2)). Memory types are those of
//! `HCR_EL2.FWB` = 0. Left out: 52-bit descriptors, the contiguous and dirty-bit-modifier bits, and `FEAT_XNX`, so
//! "executable" is bit 54 alone. The invariant: `decode` undoes `leaf_desc`.

use crate::addr::{PAGE_SHIFT, Pa};

/// log2 of the entries in one table: 9 address bits are resolved at each level.
const LEVEL_BITS: u32 = 9;
/// The last level of lookup, `FINAL_LEVEL`.
pub(crate) const FINAL_LEVEL: u8 = 3;

const VALID: u64 = 1 << 0;
/// A table at levels 0 to 2, a page at level 3; clear for a block.
const TABLE_OR_PAGE: u64 = 1 << 1;
const MEM_ATTR_SHIFT: u32 = 2;
const S2AP_READ: u64 = 1 << 6;
const S2AP_WRITE: u64 = 1 << 7;
/// SH = inner shareable, as KVM maps all guest memory.
const SH_INNER: u64 = 0b11 << 8;
const AF: u64 = 1 << 10;
const XN: u64 = 1 << 54;
/// Output and next-level table addresses, bits 47:12. Bits 51:48 are RES0 without `FEAT_LPA2` and are not looked at.
const ADDRESS: u64 = (1 << 48) - (1 << PAGE_SHIFT);

/// Address bits below the index of `level`: log2 of what one entry maps.
const fn level_shift(level: u8) -> u32 {
    PAGE_SHIFT + LEVEL_BITS * (FINAL_LEVEL - level) as u32
}

/// A memory type, `MemAttr[3:0]` with `HCR_EL2.FWB` = 0 (Arm ARM D8.6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemAttr {
    /// Normal, inner and outer write-back: the only type under which tags can be reached.
    NormalWb,
    /// Normal, inner and outer non-cacheable.
    NormalNc,
    /// Normal, write-back, `NoTagAccess`: its tags may not be accessed (`FEAT_MTE_PERM`; reserved without).
    NormalNoTagAccess,
    /// Device-nGnRE, what KVM gives to device memory.
    DeviceNgnre,
    /// Any other encoding, as its four bits.
    Other(u8),
}

impl MemAttr {
    /// The four bits of the encoding.
    pub const fn bits(self) -> u8 {
        match self {
            Self::NormalWb => 0b1111,
            Self::NormalNc => 0b0101,
            Self::NormalNoTagAccess => 0b0100,
            Self::DeviceNgnre => 0b0001,
            Self::Other(bits) => bits & 0xf,
        }
    }

    /// The memory type of an encoding; only the low four bits count.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 0xf {
            0b1111 => Self::NormalWb,
            0b0101 => Self::NormalNc,
            0b0100 => Self::NormalNoTagAccess,
            0b0001 => Self::DeviceNgnre,
            bits => Self::Other(bits),
        }
    }

    /// Whether the type is one of the Device types, `0b00xx`.
    pub const fn is_device(self) -> bool {
        self.bits() & 0b1100 == 0
    }
}

/// What a leaf descriptor says about the memory it maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct S2Attrs {
    /// Memory type.
    pub mem: MemAttr,
    /// `S2AP[0]`: may be read.
    pub read: bool,
    /// `S2AP[1]`: may be written.
    pub write: bool,
    /// XN clear: may be executed.
    pub exec: bool,
    /// AF, the access flag.
    pub af: bool,
}

impl S2Attrs {
    /// What a leaf descriptor says, without `FEAT_XNX`: the two-bit XN reads as bit 54 alone.
    pub const fn from_desc(desc: u64) -> Self {
        Self {
            mem: MemAttr::from_bits((desc >> MEM_ATTR_SHIFT) as u8),
            read: desc & S2AP_READ != 0,
            write: desc & S2AP_WRITE != 0,
            exec: desc & XN == 0,
            af: desc & AF != 0,
        }
    }
}

/// A descriptor of a 4 KiB table as a hypervisor reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Desc {
    /// Bit 0 clear, or an encoding that is reserved at this level.
    Invalid,
    /// Points to the table of the next level.
    Table(Pa),
    /// Maps memory: a block at levels 1 and 2, a page at level 3.
    Leaf {
        /// Output address of the first byte mapped.
        pa: Pa,
        /// Bytes mapped: 1 GiB, 2 MiB or 4 KiB.
        size: u64,
        /// Type and permissions.
        attrs: S2Attrs,
    },
}

/// The descriptor that points to a next-level table.
///
/// # Panics
/// If `next` is not aligned to 4 KiB or does not fit in 48 bits.
pub fn table_desc(next: Pa) -> u64 {
    assert!(
        next.0 & !ADDRESS == 0,
        "table at {next} cannot be named by a descriptor"
    );
    next.0 | TABLE_OR_PAGE | VALID
}

/// The descriptor that maps `pa` at `level`: a page at level 3, a block at levels 1 and 2.
///
/// # Panics
/// If `level` has no leaf, or if `pa` is not aligned to what the level maps or does not fit in 48 bits.
pub fn leaf_desc(level: u8, pa: Pa, attrs: S2Attrs) -> u64 {
    assert!(
        (1..=FINAL_LEVEL).contains(&level),
        "no leaf descriptor at level {level}"
    );
    assert!(
        pa.0 & !leaf_address_mask(level) == 0,
        "{pa} cannot be mapped at level {level}"
    );
    let flag = |set: bool, bit: u64| if set { bit } else { 0 };
    pa.0 | u64::from(attrs.mem.bits()) << MEM_ATTR_SHIFT
        | flag(attrs.read, S2AP_READ)
        | flag(attrs.write, S2AP_WRITE)
        | flag(!attrs.exec, XN)
        | flag(attrs.af, AF)
        | SH_INNER
        | flag(level == FINAL_LEVEL, TABLE_OR_PAGE)
        | VALID
}

/// What the word `desc` in a 4 KiB table of `level` means (Arm ARM `AArch64.DecodeDescriptorType`,
/// `AArch64.BlockDescSupported`).
///
/// # Panics
/// If `level` is not a level of lookup.
pub fn decode(level: u8, desc: u64) -> Desc {
    assert!(level <= FINAL_LEVEL, "no lookup at level {level}");
    match (level, desc & VALID != 0, desc & TABLE_OR_PAGE != 0) {
        (0..FINAL_LEVEL, true, true) => Desc::Table(Pa(desc & ADDRESS)),
        (1..FINAL_LEVEL, true, false) | (FINAL_LEVEL, true, true) => Desc::Leaf {
            pa: Pa(desc & leaf_address_mask(level)),
            size: 1 << level_shift(level),
            attrs: S2Attrs::from_desc(desc),
        },
        // A 512 GiB block needs FEAT_LPA2, and 0b01 is reserved at the last level.
        _ => Desc::Invalid,
    }
}

/// The output address bits of a leaf: below the size it maps they are RES0 and not looked at.
const fn leaf_address_mask(level: u8) -> u64 {
    ADDRESS & !((1 << level_shift(level)) - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RW: S2Attrs = S2Attrs {
        mem: MemAttr::NormalWb,
        read: true,
        write: true,
        exec: true,
        af: true,
    };

    #[test]
    fn page_of_normal_memory_has_the_bits_kvm_writes() {
        assert_eq!(leaf_desc(3, Pa(0x5100_0000), RW), 0x5100_07ff);
    }

    #[test]
    fn block_differs_from_a_page_in_bit_1() {
        assert_eq!(leaf_desc(2, Pa(0x5100_0000), RW), 0x5100_07fd);
    }

    #[test]
    fn execute_never_is_bit_54() {
        let data = S2Attrs { exec: false, ..RW };

        assert_eq!(leaf_desc(3, Pa(0), data) ^ leaf_desc(3, Pa(0), RW), 1 << 54);
    }

    #[test]
    fn table_decodes_at_levels_0_to_2_only() {
        let table = table_desc(Pa(0x4800_2000));

        assert_eq!(table, 0x4800_2003);
        assert!((0..3).all(|level| decode(level, table) == Desc::Table(Pa(0x4800_2000))));
        assert!(matches!(decode(3, table), Desc::Leaf { size: 4096, .. }));
    }

    #[test]
    fn reserved_encodings_decode_as_invalid() {
        let block = leaf_desc(2, Pa(0), RW);

        assert_eq!(decode(0, block), Desc::Invalid, "512 GiB block without FEAT_LPA2");
        assert_eq!(decode(3, block), Desc::Invalid, "0b01 at the last level");
        assert_eq!(decode(3, block & !1), Desc::Invalid, "bit 0 clear");
    }

    #[test]
    fn output_address_bits_below_a_block_and_above_47_are_not_looked_at() {
        let noisy = leaf_desc(2, Pa(0x4020_0000), RW) | 0xf << 48 | 0x1f << 12;

        assert!(matches!(
            decode(2, noisy),
            Desc::Leaf {
                pa: Pa(0x4020_0000),
                size: 0x20_0000,
                ..
            }
        ));
    }

    #[test]
    #[should_panic(expected = "cannot be mapped at level 2")]
    fn misaligned_block_is_a_bug() {
        leaf_desc(2, Pa(0x1000), RW);
    }

    #[test]
    #[should_panic(expected = "no leaf descriptor at level 0")]
    fn leaf_at_level_0_is_a_bug() {
        leaf_desc(0, Pa(0), RW);
    }

    #[test]
    fn memory_types_round_trip_through_their_encoding() {
        assert!((0..16).all(|bits| MemAttr::from_bits(bits).bits() == bits));
        assert_eq!(MemAttr::from_bits(0b1111), MemAttr::NormalWb);
        assert!(MemAttr::DeviceNgnre.is_device() && !MemAttr::NormalNc.is_device());
    }

    proptest! {
        #[test]
        fn decode_undoes_leaf_desc(level in 1u8..=3, frame in 0u64..1 << 36, mem in 0u8..16, flags: [bool; 4]) {
            let size = 1 << level_shift(level);
            let pa = Pa((frame << PAGE_SHIFT) / size * size);
            let [read, write, exec, af] = flags;
            let attrs = S2Attrs { mem: MemAttr::from_bits(mem), read, write, exec, af };

            prop_assert_eq!(decode(level, leaf_desc(level, pa, attrs)), Desc::Leaf { pa, size, attrs });
        }
    }
}
