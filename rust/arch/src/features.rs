//! What the modelled processor implements, and the ID registers that say so.
//!
//! Always there, as on QEMU's `max`: 52-bit addresses (`FEAT_LPA`, `FEAT_LVA`, `FEAT_LPA2`), `FEAT_TTST`, `FEAT_XNX`, `FEAT_HAFDBS`,
//! `FEAT_S2FWB`, `FEAT_LSE`, `FEAT_LSE2`, `FEAT_LRCPC2`, `FEAT_MTE3`. The parts of `FEAT_MTE4` and `FEAT_MTE_PERM` are options, off by default.
//! Left out: ID registers that no tag or translation feature stands in. The invariant: what an option turns off leaves no
//! trace in behaviour or ID registers.

use bitflags::bitflags;

bitflags! {
    /// Optional features.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Features: u8 {
        /// `FEAT_MTE_CANONICAL_TAGS`: memory that is not Tagged is checked against copies of address bit 55 where
        /// `TCR_ELx.MTXn` says so, and a tag store to it is a permission fault (`AArch64.CanonicalTagCheck`).
        const MTE_CANONICAL_TAGS = 1 << 0;
        /// `FEAT_MTE_NO_ADDRESS_TAGS`: with `TCR_ELx.MTXn` bits 59:56 are a tag even without top-byte-ignore (`EffectiveMTX`,
        /// `AArch64.VAIsOutOfRange`).
        const MTE_NO_ADDRESS_TAGS = 1 << 1;
        /// `FEAT_MTE_STORE_ONLY`: `SCTLR_ELx.TCSO` turns the checks of loads off (`StoreOnlyTagCheckingEnabled`).
        const MTE_STORE_ONLY = 1 << 2;
        /// `FEAT_MTE_TAGGED_FAR`: FAR bits 63:60 are defined after a tag check fault (`AArch64.AbortSyndrome`).
        const MTE_TAGGED_FAR = 1 << 3;
        /// `FEAT_MTE_PERM`: stage 2 can forbid access to tags (`AArch64.S2CheckPermissions`).
        const MTE_PERM = 1 << 4;
    }
}

/// Bytes whose tags `LDGM` and `STGM` move.
pub const GM_BLOCK_SIZE: u64 = 256;
/// Bytes that `DC ZVA`, `DC GVA`, `DC GZVA` and `STZGM` act on.
pub const DC_BLOCK_SIZE: u64 = 64;

/// `GMID_EL1.BS`: log2 of the words in the block of `LDGM` and `STGM`.
pub const GMID_EL1: u64 = (GM_BLOCK_SIZE.ilog2() - 2) as u64;
/// `DCZID_EL0.BS`: log2 of the words in the block of `DC ZVA`. `DZP` is [`dczid_el0`](Features::dczid_el0)'s.
const DCZID_BS: u64 = (DC_BLOCK_SIZE.ilog2() - 2) as u64;

impl Features {
    /// The option of Arm's name, `FEAT_` included; `None` if it is none.
    pub fn named(name: &str) -> Option<Self> {
        Self::from_name(name.strip_prefix("FEAT_")?)
    }

    /// The names of all options.
    pub fn names() -> impl Iterator<Item = String> {
        Self::all().iter_names().map(|(name, _)| format!("FEAT_{name}"))
    }

    /// Whether `TCR_ELx.MTXn` exists: either of its two meanings does.
    pub(crate) const fn has_mtx(self) -> bool {
        self.intersects(Self::MTE_CANONICAL_TAGS.union(Self::MTE_NO_ADDRESS_TAGS))
    }

    /// `ID_AA64PFR1_EL1`: MTE (11:8) is 3; `MTE_frac` (43:40) 0, asynchronous faults.
    pub const fn id_aa64pfr1_el1(self) -> u64 {
        let mtex = self.contains(Self::MTE_CANONICAL_TAGS.union(Self::MTE_NO_ADDRESS_TAGS)) as u64;
        3 << 8 | mtex << 52
    }

    /// `ID_AA64PFR2_EL1`: MTEPERM (3:0), MTESTOREONLY (7:4), MTEFAR (11:8).
    pub const fn id_aa64pfr2_el1(self) -> u64 {
        self.contains(Self::MTE_PERM) as u64
            | (self.contains(Self::MTE_STORE_ONLY) as u64) << 4
            | (self.contains(Self::MTE_TAGGED_FAR) as u64) << 8
    }

    /// `DCZID_EL0`: the block size, and DZP (bit 4) where `DC ZVA` is trapped or disabled.
    pub const fn dczid_el0(prohibited: bool) -> u64 {
        DCZID_BS | (prohibited as u64) << 4
    }
}

/// `ID_AA64MMFR0_EL1`: `PARange` 6 (52 bits), `TGran16`, `TGran64`, `TGran4` and their stage-2 fields with 52-bit support.
pub const ID_AA64MMFR0_EL1: u64 = 6 | 2 << 20 | 1 << 28 | 3 << 32 | 2 << 36 | 3 << 40;
/// `ID_AA64MMFR1_EL1`: HAFDBS 2, PAN 3 (EPAN), XNX 1, and 16-bit VMIDs.
pub const ID_AA64MMFR1_EL1: u64 = 2 | 2 << 4 | 3 << 20 | 1 << 28;
/// `ID_AA64MMFR2_EL1`: UAO 1, `VARange` 1, ST 1, AT 1 (LSE2), FWB 1, E0PD 1.
pub const ID_AA64MMFR2_EL1: u64 = 1 << 4 | 1 << 16 | 1 << 28 | 1 << 32 | 1 << 40 | 1 << 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_arms_names() {
        assert_eq!(Features::named("FEAT_MTE_PERM"), Some(Features::MTE_PERM));
        assert_eq!(Features::named("MTE_PERM"), None);
        assert_eq!(Features::named("FEAT_MTE_NOPE"), None);
        assert_eq!(Features::names().count(), 5);
    }

    #[test]
    fn id_registers_show_exactly_the_options() {
        let none = Features::default();
        assert_eq!((none.id_aa64pfr1_el1(), none.id_aa64pfr2_el1()), (0x300, 0));
        assert_eq!(Features::all().id_aa64pfr1_el1(), 1 << 52 | 0x300);
        assert_eq!(Features::all().id_aa64pfr2_el1(), 0x111);
    }

    #[test]
    fn memory_model_features_stand_in_their_fields() {
        let field = |register: u64, low: u32| register >> low & 0xf;

        // PARange, TGran16, TGran64, TGran4, TGran16_2, TGran64_2, TGran4_2.
        let mmfr0 = [0, 20, 24, 28, 32, 36, 40].map(|low| field(ID_AA64MMFR0_EL1, low));
        assert_eq!(mmfr0, [6, 2, 0, 1, 3, 2, 3]);
        // HAFDBS, VMIDBits, PAN, XNX.
        assert_eq!([0, 4, 20, 28].map(|low| field(ID_AA64MMFR1_EL1, low)), [2, 2, 3, 1]);
        // UAO, VARange, ST, AT, FWB, E0PD.
        assert_eq!([4, 16, 28, 32, 40, 60].map(|low| field(ID_AA64MMFR2_EL1, low)), [1; 6]);
        let fields = |register: u64| (0..16).filter(|index| field(register, index * 4) != 0).count();
        assert_eq!(
            [ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1, ID_AA64MMFR2_EL1].map(fields),
            [6, 4, 6]
        );
    }

    #[test]
    fn block_sizes_are_given_in_words() {
        assert_eq!(GMID_EL1, 6);
        assert_eq!((Features::dczid_el0(false), Features::dczid_el0(true)), (4, 0x14));
    }
}
