//! Memory attributes: what each stage says about a page's type, and what the two say together.
//!
//! Models the MAIR encodings of stage 1, `MemAttr[3:0]` of stage 2 with and without `HCR_EL2.FWB`, shareability, and
//! whether memory has allocation tags, canonical tags (`FEAT_MTE_CANONICAL_TAGS`) or none, and whether stage 2 forbids
//! access to them (`FEAT_MTE_PERM`). Left out: the XS attribute. Reserved encodings read as Non-cacheable. The invariant: only
//! Normal Write-Back with read and write allocation in both domains ever has allocation tags.

/// Type and cacheability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemType {
    /// Device memory: 0 nGnRnE, 1 nGnRE, 2 nGRE, 3 GRE.
    Device(u8),
    /// Normal memory, outer and inner cacheability as the nibbles of a MAIR attribute.
    Normal {
        /// Outer cacheability and allocation hints.
        outer: u8,
        /// Inner cacheability and allocation hints.
        inner: u8,
    },
}

/// A nibble of a MAIR attribute: Non-cacheable.
const NC: u8 = 0b0100;
/// A nibble of a MAIR attribute: Write-Back, non-transient, read and write allocation.
const WB_RWA: u8 = 0b1111;
/// The MAIR attribute of Tagged Normal memory.
const MAIR_TAGGED: u8 = 0xf0;
/// `PAR_EL1.ATTR` of Tagged memory whose tags stage 2 keeps.
const MAIR_NO_TAG_ACCESS: u8 = 0xe0;
/// `MemAttr[3:0]` with `FEAT_MTE_PERM` and FWB = 0: Write-Back, `NoTagAccess`.
const S2_NO_TAG_ACCESS: u8 = 0b0100;
/// Normal Write-Back in both domains, with read and write allocation: what Tagged memory must be.
const WRITE_BACK: MemType = MemType::Normal {
    outer: WB_RWA,
    inner: WB_RWA,
};

/// Who shares the memory, as the two bits SH.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shareability {
    /// Nobody.
    Non,
    /// The outer domain.
    Outer,
    /// The inner domain.
    Inner,
}

impl Shareability {
    /// From SH; the reserved encoding 1 reads as non-shareable.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            2 => Self::Outer,
            3 => Self::Inner,
            _ => Self::Non,
        }
    }

    /// SH.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Non => 0,
            Self::Outer => 2,
            Self::Inner => 3,
        }
    }

    /// The wider of two (`S2CombineS1Shareability`).
    const fn combine(self, other: Self) -> Self {
        match (self, other) {
            (Self::Outer, _) | (_, Self::Outer) => Self::Outer,
            (Self::Inner, _) | (_, Self::Inner) => Self::Inner,
            _ => Self::Non,
        }
    }
}

/// What a tag check compares with (`MemTagType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemTag {
    /// Nothing: accesses are not checked.
    Untagged,
    /// The allocation tags of the memory.
    Allocation,
    /// Copies of bit 55 of the address (`FEAT_MTE_CANONICAL_TAGS`, `TCR_ELx.MTXn`).
    Canonical,
}

impl MemTag {
    /// The tags of memory whose stage-1 type is not Tagged.
    pub(crate) const fn without_allocation_tags(mtx: bool) -> Self {
        if mtx { Self::Canonical } else { Self::Untagged }
    }
}

/// What a translation says about memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryAttributes {
    /// Type and cacheability.
    pub kind: MemType,
    /// Shareability as configured; see [`MemoryAttributes::effective_shareability`].
    pub shareability: Shareability,
    /// Which tags it has.
    pub tags: MemTag,
    /// Stage 2 forbids access to its allocation tags (`NoTagAccess`, `FEAT_MTE_PERM`).
    pub no_tag_access: bool,
}

impl MemoryAttributes {
    /// A stage-1 attribute of `MAIR_ELx` (`S1DecodeMemAttrs`); `mtx` is that of the half of the address space.
    pub const fn from_mair(attr: u8, shareability: Shareability, mtx: bool) -> Self {
        let kind = match attr {
            0..0x10 => MemType::Device(attr >> 2 & 3),
            MAIR_TAGGED => WRITE_BACK,
            // Write-Through with XS = 0.
            0xa0 => MemType::Normal {
                outer: 0b1010,
                inner: 0b1010,
            },
            attr => MemType::Normal {
                outer: nibble(attr >> 4),
                inner: nibble(attr & 0xf),
            },
        };
        Self {
            kind,
            shareability,
            tags: match attr {
                MAIR_TAGGED => MemTag::Allocation,
                _ => MemTag::without_allocation_tags(mtx),
            },
            no_tag_access: false,
        }
    }

    /// What `HCR_EL2.DC` makes of a disabled stage 1: Write-Back, with allocation tags if `DCT`.
    pub const fn default_cacheable(tags: MemTag) -> Self {
        Self {
            kind: WRITE_BACK,
            shareability: Shareability::Non,
            tags,
            no_tag_access: false,
        }
    }

    /// Data accesses with stage 1 off.
    pub const DEVICE_NGNRNE: Self = Self {
        kind: MemType::Device(0),
        shareability: Shareability::Outer,
        tags: MemTag::Untagged,
        no_tag_access: false,
    };

    /// Normal Non-cacheable (`NormalNCMemAttr`).
    pub const NORMAL_NC: Self = Self {
        kind: MemType::Normal { outer: NC, inner: NC },
        shareability: Shareability::Outer,
        tags: MemTag::Untagged,
        no_tag_access: false,
    };

    /// Whether the type is one of the Device types.
    #[inline]
    pub const fn is_device(&self) -> bool {
        matches!(self.kind, MemType::Device(_))
    }

    /// Stage 2's own part, `MemAttr[3:0]` with `HCR_EL2.FWB` = 0 (`S2DecodeMemAttrs`).
    pub const fn from_stage2(mem_attr: u8, shareability: Shareability, mte_perm: bool) -> Self {
        let kind = match mem_attr & 0xf {
            device @ 0..4 => MemType::Device(device),
            S2_NO_TAG_ACCESS if mte_perm => WRITE_BACK,
            attr => MemType::Normal {
                outer: stage2_nibble(attr >> 2),
                inner: stage2_nibble(attr & 3),
            },
        };
        Self {
            kind,
            shareability,
            tags: MemTag::Untagged,
            no_tag_access: mte_perm && mem_attr & 0xf == S2_NO_TAG_ACCESS,
        }
    }

    /// This stage-1 type under a stage-2 one, `HCR_EL2.FWB` = 0 (`S2CombineS1MemAttrs`).
    #[must_use]
    pub fn under(self, stage2: Self) -> Self {
        let kind = match (self.kind, stage2.kind) {
            (MemType::Device(one), MemType::Device(two)) => MemType::Device(one.min(two)),
            (MemType::Device(_), _) => self.kind,
            (_, MemType::Device(_)) => stage2.kind,
            (MemType::Normal { outer, inner }, MemType::Normal { outer: o2, inner: i2 }) => MemType::Normal {
                outer: combine_nibbles(outer, o2),
                inner: combine_nibbles(inner, i2),
            },
        };
        Self {
            no_tag_access: stage2.no_tag_access && self.tags == MemTag::Allocation,
            ..self.with_kind(kind, stage2.shareability)
        }
    }

    /// This stage-1 type under `MemAttr[3:0]` with `HCR_EL2.FWB` = 1 (`AArch64.S2ApplyFWBMemAttrs`).
    ///
    /// Bit 3 means something only with `FEAT_MTE_PERM` and `MemAttr` 111x: no access to tags.
    #[must_use]
    pub fn forced_by(self, mem_attr: u8, shareability: Shareability, mte_perm: bool) -> Self {
        let kind = match (mem_attr & 7, self.kind) {
            (device @ 0..4, MemType::Device(one)) => MemType::Device(one.min(device)),
            (device @ 0..4, MemType::Normal { .. }) => MemType::Device(device),
            (6, MemType::Device(_)) => WRITE_BACK,
            (6, MemType::Normal { outer, inner }) => MemType::Normal {
                outer: force_write_back(outer),
                inner: force_write_back(inner),
            },
            (7, _) | (_, MemType::Device(_)) => self.kind,
            (_, MemType::Normal { .. }) => MemType::Normal { outer: NC, inner: NC },
        };
        let found = self.with_kind(kind, shareability);
        Self {
            no_tag_access: mte_perm && mem_attr & 0b1110 == 0b1110 && found.tags == MemTag::Allocation,
            ..found
        }
    }

    /// The combined type: Tagged survives only where nothing was taken away (`S2MemTagType`).
    fn with_kind(self, kind: MemType, stage2: Shareability) -> Self {
        Self {
            kind,
            shareability: self.shareability.combine(stage2),
            tags: match self.tags {
                MemTag::Allocation if kind != WRITE_BACK => MemTag::Untagged,
                tags => tags,
            },
            no_tag_access: false,
        }
    }

    /// Device and Non-cacheable memory is outer shareable whatever SH says (`EffectiveShareability`).
    pub fn effective_shareability(&self) -> Shareability {
        match self.kind {
            MemType::Device(_) | MemType::Normal { outer: NC, inner: NC } => Shareability::Outer,
            MemType::Normal { .. } => self.shareability,
        }
    }

    /// `PAR_EL1.ATTR`, a MAIR attribute (`EncodePARAttrs`).
    pub const fn to_mair(self) -> u8 {
        match self.kind {
            _ if matches!(self.tags, MemTag::Allocation) && self.no_tag_access => MAIR_NO_TAG_ACCESS,
            _ if matches!(self.tags, MemTag::Allocation) => MAIR_TAGGED,
            MemType::Device(device) => device << 2,
            MemType::Normal { outer, inner } => outer << 4 | inner,
        }
    }
}

/// A reserved nibble reads as Non-cacheable.
const fn nibble(bits: u8) -> u8 {
    if bits == 0 { NC } else { bits }
}

/// Stage-2 cacheability as a nibble without hints of its own (`S2DecodeCacheability`).
const fn stage2_nibble(bits: u8) -> u8 {
    match bits {
        0b10 => 0b1011,
        0b11 => WB_RWA,
        _ => NC,
    }
}

/// Write-Back rather than Write-Through: bit 2 of a nibble that is not Non-cacheable.
const fn is_write_back(nibble: u8) -> bool {
    nibble & 0b0100 != 0
}

/// The weaker of both cacheabilities, with stage 1's hints (`S2CombineS1AttrHints`).
const fn combine_nibbles(stage1: u8, stage2: u8) -> u8 {
    if stage1 == NC || stage2 == NC {
        NC
    } else if is_write_back(stage2) {
        stage1
    } else {
        stage1 & 0b1011
    }
}

/// Stage 1's hints, forced to Write-Back.
const fn force_write_back(stage1: u8) -> u8 {
    if stage1 == NC { WB_RWA } else { stage1 | 0b0100 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage1(attr: u8) -> MemoryAttributes {
        MemoryAttributes::from_mair(attr, Shareability::Non, false)
    }

    fn combined(attr: u8, mem_attr: u8) -> u8 {
        stage1(attr)
            .under(MemoryAttributes::from_stage2(mem_attr, Shareability::Inner, false))
            .to_mair()
    }

    #[test]
    fn the_weaker_cacheability_wins_and_keeps_stage_1_hints() {
        assert_eq!(combined(0xff, 0b1111), 0xff);
        assert_eq!(combined(0xff, 0b1010), 0xbb);
        assert_eq!(combined(0xf4, 0b1111), 0xf4);
        assert_eq!(combined(0x77, 0b1110), 0x73, "transient hints stay");
        assert_eq!(combined(0xff, 0b0101), 0x44);
    }

    #[test]
    fn device_beats_normal_and_the_stricter_device_wins() {
        assert_eq!(combined(0xff, 1), 0x04);
        assert_eq!(combined(0x08, 0b1111), 0x08);
        assert_eq!(combined(0x0c, 2), 0x08);
    }

    #[test]
    fn tagged_survives_write_back_only() {
        assert_eq!(combined(0xf0, 0b1111), 0xf0);
        assert_eq!(combined(0xf0, 0b1110), 0xfb, "inner Write-Through is not Tagged");
        assert_eq!(combined(0xf0, 0b0101), 0x44);
    }

    #[test]
    fn forced_write_back_makes_even_device_normal() {
        let forced = |attr: u8, mem_attr| stage1(attr).forced_by(mem_attr, Shareability::Non, false).to_mair();

        assert_eq!(forced(0x04, 6), 0xff);
        assert_eq!(forced(0x44, 6), 0xff);
        assert_eq!(forced(0xbb, 6), 0xff);
        assert_eq!(forced(0xf0, 6), 0xf0);
        assert_eq!(forced(0xbb, 7), 0xbb);
        assert_eq!(forced(0xff, 5), 0x44);
        assert_eq!(forced(0x08, 5), 0x08);
        assert_eq!(forced(0xff, 2), 0x08);
        assert_eq!(forced(0x0c, 1), 0x04);
    }

    #[test]
    fn device_and_non_cacheable_are_outer_shareable() {
        assert_eq!(stage1(0x04).effective_shareability(), Shareability::Outer);
        assert_eq!(stage1(0x44).effective_shareability(), Shareability::Outer);
        assert_eq!(stage1(0xff).effective_shareability(), Shareability::Non);
        assert_eq!(
            MemoryAttributes::from_mair(0xff, Shareability::Inner, false)
                .under(MemoryAttributes::from_stage2(15, Shareability::Outer, false))
                .shareability,
            Shareability::Outer
        );
    }

    #[test]
    fn shareability_round_trips_and_reserved_encodings_read_as_weaker() {
        assert!(
            [0, 2, 3]
                .iter()
                .all(|&bits| Shareability::from_bits(bits).bits() == bits)
        );
        assert_eq!(Shareability::from_bits(1), Shareability::Non);
        assert_eq!(stage1(0x40).to_mair(), 0x44);
        assert_eq!(stage1(0xa0).to_mair(), 0xaa);
        assert_eq!(
            MemoryAttributes::from_stage2(4, Shareability::Non, false).to_mair(),
            0x44
        );
        assert_eq!(MemoryAttributes::NORMAL_NC.to_mair(), 0x44);
    }
}
