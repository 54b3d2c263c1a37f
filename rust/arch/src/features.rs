//! What the modelled processor implements, and the ID registers that say so.
//!
//! Always there, as on QEMU's `max`: 52-bit addresses (`FEAT_LPA`, `FEAT_LVA`, `FEAT_LPA2`), `FEAT_TTST`, `FEAT_XNX`, `FEAT_HAFDBS`,
//! `FEAT_S2FWB`, `FEAT_LSE`, `FEAT_LSE2`, `FEAT_LRCPC2`, `FEAT_MTE3`. The parts of `FEAT_MTE4` and `FEAT_MTE_PERM` are options, off by default.
//! Left out: ID registers that no tag or translation feature stands in. The invariant: what an option turns off leaves no
//! trace in behaviour or ID registers.

use bitfield_struct::bitfield;
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

/// `GMID_EL1`, Multiple tag transfer ID register.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct GmidEl1 {
    /// BS, bits 3:0: log2 of the words whose tags `LDGM` and `STGM` move.
    #[bits(4)]
    pub bs: u8,
    #[bits(60)]
    __: u64,
}

/// `DCZID_EL0`, Data Cache Zero ID register.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct DczidEl0 {
    /// BS, bits 3:0: log2 of the words in the block of `DC ZVA`.
    #[bits(4)]
    pub bs: u8,
    /// DZP, bit 4: `DC ZVA`, `DC GVA` and `DC GZVA` are prohibited here.
    pub dzp: bool,
    #[bits(59)]
    __: u64,
}

/// `ID_AA64PFR1_EL1`, as far as it is about tags.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct IdAa64pfr1El1 {
    __: u8,
    /// MTE, bits 11:8: 3 with asymmetric checks.
    #[bits(4)]
    pub mte: u8,
    #[bits(28)]
    __: u32,
    /// `MTE_frac`, bits 43:40: 0 with asynchronous checks.
    #[bits(4)]
    pub mte_frac: u8,
    __: u8,
    /// MTEX, bits 55:52: canonical tags and no address tags.
    #[bits(4)]
    pub mtex: u8,
    __: u8,
}

/// `ID_AA64PFR2_EL1`, as far as it is about tags.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct IdAa64pfr2El1 {
    /// MTEPERM, bits 3:0.
    #[bits(4)]
    pub mteperm: u8,
    /// MTESTOREONLY, bits 7:4.
    #[bits(4)]
    pub mtestoreonly: u8,
    /// MTEFAR, bits 11:8.
    #[bits(4)]
    pub mtefar: u8,
    #[bits(52)]
    __: u64,
}

/// `ID_AA64MMFR0_EL1`, as far as it is about translation.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct IdAa64mmfr0El1 {
    /// `PARange`, bits 3:0: 6 is 52 bits.
    #[bits(4)]
    pub parange: u8,
    __: u16,
    /// `TGran16`, bits 23:20: 2 with 52-bit addresses.
    #[bits(4)]
    pub tgran16: u8,
    /// `TGran64`, bits 27:24: 0 is supported.
    #[bits(4)]
    pub tgran64: u8,
    /// `TGran4`, bits 31:28: 1 with 52-bit addresses.
    #[bits(4)]
    pub tgran4: u8,
    /// `TGran16_2`, bits 35:32: 3 with 52-bit addresses at stage 2.
    #[bits(4)]
    pub tgran16_2: u8,
    /// `TGran64_2`, bits 39:36: 2 is supported at stage 2.
    #[bits(4)]
    pub tgran64_2: u8,
    /// `TGran4_2`, bits 43:40: 3 with 52-bit addresses at stage 2.
    #[bits(4)]
    pub tgran4_2: u8,
    #[bits(20)]
    __: u32,
}

/// `ID_AA64MMFR1_EL1`, as far as it is about translation.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct IdAa64mmfr1El1 {
    /// HAFDBS, bits 3:0: 2 with access flag and dirty state.
    #[bits(4)]
    pub hafdbs: u8,
    /// `VMIDBits`, bits 7:4: 2 is 16.
    #[bits(4)]
    pub vmidbits: u8,
    #[bits(4)]
    __: u8,
    /// HPDS, bits 15:12: tables' permissions can be disabled.
    #[bits(4)]
    pub hpds: u8,
    #[bits(4)]
    __: u8,
    /// PAN, bits 23:20: 3 with EPAN.
    #[bits(4)]
    pub pan: u8,
    #[bits(4)]
    __: u8,
    /// XNX, bits 31:28: two bits of XN at stage 2.
    #[bits(4)]
    pub xnx: u8,
    __: u32,
}

/// `ID_AA64MMFR2_EL1`, as far as it is about translation.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct IdAa64mmfr2El1 {
    #[bits(4)]
    __: u8,
    /// UAO, bits 7:4.
    #[bits(4)]
    pub uao: u8,
    __: u8,
    /// `VARange`, bits 19:16: 1 is 52 bits with the 64 KiB granule.
    #[bits(4)]
    pub varange: u8,
    __: u8,
    /// ST, bits 31:28: small tables (`FEAT_TTST`).
    #[bits(4)]
    pub st: u8,
    /// AT, bits 35:32: unaligned atomics inside 16 bytes (`FEAT_LSE2`).
    #[bits(4)]
    pub at: u8,
    #[bits(4)]
    __: u8,
    /// FWB, bits 43:40.
    #[bits(4)]
    pub fwb: u8,
    __: u16,
    /// E0PD, bits 63:60.
    #[bits(4)]
    pub e0pd: u8,
}

/// What the modelled processor has in `GMID_EL1`.
pub const GMID_EL1: GmidEl1 = GmidEl1::new().with_bs((GM_BLOCK_SIZE.ilog2() - 2) as u8);
/// What it has in `ID_AA64MMFR0_EL1`.
pub const ID_AA64MMFR0_EL1: IdAa64mmfr0El1 = IdAa64mmfr0El1::new()
    .with_parange(6)
    .with_tgran16(2)
    .with_tgran4(1)
    .with_tgran16_2(3)
    .with_tgran64_2(2)
    .with_tgran4_2(3);
/// What it has in `ID_AA64MMFR1_EL1`.
pub const ID_AA64MMFR1_EL1: IdAa64mmfr1El1 = IdAa64mmfr1El1::new()
    .with_hafdbs(2)
    .with_vmidbits(2)
    .with_hpds(1)
    .with_pan(3)
    .with_xnx(1);
/// What it has in `ID_AA64MMFR2_EL1`.
pub const ID_AA64MMFR2_EL1: IdAa64mmfr2El1 = IdAa64mmfr2El1::new()
    .with_uao(1)
    .with_varange(1)
    .with_st(1)
    .with_at(1)
    .with_fwb(1)
    .with_e0pd(1);

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

    /// `ID_AA64PFR1_EL1`.
    pub const fn id_aa64pfr1_el1(self) -> IdAa64pfr1El1 {
        let mtex = self.contains(Self::MTE_CANONICAL_TAGS.union(Self::MTE_NO_ADDRESS_TAGS));
        IdAa64pfr1El1::new().with_mte(3).with_mtex(mtex as u8)
    }

    /// `ID_AA64PFR2_EL1`.
    pub const fn id_aa64pfr2_el1(self) -> IdAa64pfr2El1 {
        IdAa64pfr2El1::new()
            .with_mteperm(self.contains(Self::MTE_PERM) as u8)
            .with_mtestoreonly(self.contains(Self::MTE_STORE_ONLY) as u8)
            .with_mtefar(self.contains(Self::MTE_TAGGED_FAR) as u8)
    }

    /// `DCZID_EL0`, where `DC ZVA` is prohibited or is not.
    pub const fn dczid_el0(prohibited: bool) -> DczidEl0 {
        DczidEl0::new()
            .with_bs((DC_BLOCK_SIZE.ilog2() - 2) as u8)
            .with_dzp(prohibited)
    }
}

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
        let words = |features: Features| {
            let (pfr1, pfr2) = (features.id_aa64pfr1_el1(), features.id_aa64pfr2_el1());
            (u64::from(pfr1), u64::from(pfr2))
        };
        assert_eq!(words(none), (0x300, 0));
        assert_eq!(words(Features::all()), (1 << 52 | 0x300, 0x111));
    }

    #[test]
    fn block_sizes_are_given_in_words() {
        assert_eq!(u64::from(GMID_EL1), 6);
        assert_eq!([false, true].map(|dzp| u64::from(Features::dczid_el0(dzp))), [4, 0x14]);
    }

    #[test]
    fn translation_features_stand_where_the_arm_arm_puts_them() {
        assert_eq!(
            u64::from(ID_AA64MMFR0_EL1),
            6 | 2 << 20 | 1 << 28 | 3 << 32 | 2 << 36 | 3 << 40
        );
        assert_eq!(u64::from(ID_AA64MMFR1_EL1), 2 | 2 << 4 | 1 << 12 | 3 << 20 | 1 << 28);
        let mmfr2 = 1 << 4 | 1 << 16 | 1 << 28 | 1 << 32 | 1 << 40 | 1 << 60;
        assert_eq!(u64::from(ID_AA64MMFR2_EL1), mmfr2);
    }
}
