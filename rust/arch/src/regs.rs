//! System registers, as values with named fields.
//!
//! A register has only the fields that something in tagvisor reads or sets; the other bits are carried along
//! unchanged by the conversions from and to `u64`. Names and bit positions are those of the Arm ARM, chapter D24,
//! where every register has a section of its own name.
//!
//! Left out: traps, access rules, reset values and RES1 bits. The invariant: `u64::from(Reg::from(x)) == x`.

mod stage1;
mod stage2;

pub use stage1::{SctlrEl1, TcrEl1, TcrEl2};
pub use stage2::{HcrEl2, VtcrEl2, VttbrEl2};

use bitfield_struct::bitfield;

/// `GCR_EL1`, Tag Control Register.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct GcrEl1 {
    /// Exclude, bits 15:0: bit `t` keeps `IRG`, `ADDG` and `SUBG` from producing tag `t`.
    #[bits(16)]
    pub exclude: u16,
    /// RRND, bit 16: the random tag comes from an IMPLEMENTATION DEFINED source instead of `RGSR_EL1`.
    pub rrnd: bool,
    #[bits(47)]
    __: u64,
}

/// `RGSR_EL1`, Random Allocation Tag Seed Register.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct RgsrEl1 {
    /// TAG, bits 3:0: the tag the last `IRG` produced, from which the next one starts.
    #[bits(4)]
    pub tag: u8,
    #[bits(4)]
    __: u8,
    /// SEED, bits 23:8: the state of the linear feedback shift register. A seed of 0 stays 0.
    #[bits(16)]
    pub seed: u16,
    #[bits(40)]
    __: u64,
}

impl SysRegs {
    /// The current ASID: of the `TTBR` that `TCR_EL1.A1` selects, as wide as AS says.
    pub const fn asid(&self) -> u16 {
        let ttbr = if self.tcr_el1.a1() {
            self.ttbr1_el1
        } else {
            self.ttbr0_el1
        };
        let asid = (ttbr >> 48) as u16;
        if self.tcr_el1.wide_asid() { asid } else { asid & 0xff }
    }

    /// The current VMID, as wide as `VTCR_EL2.VS` says; `None` while stage 2 is off.
    pub const fn vmid(&self) -> Option<u16> {
        let vmid = self.vttbr_el2.vmid();
        match (self.hcr_el2.vm() || self.hcr_el2.dc(), self.vtcr_el2.wide_vmid()) {
            (false, _) => None,
            (true, true) => Some(vmid),
            (true, false) => Some(vmid & 0xff),
        }
    }
}

/// `TFSR_EL1`, `TFSRE0_EL1` and `TFSR_EL2`, Tag Fault Status Registers: sticky until software clears them.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Tfsr {
    /// TF0, bit 0: a tag check failed in the lower half of the address space.
    pub tf0: bool,
    /// TF1, bit 1: a tag check failed in the upper half.
    pub tf1: bool,
    #[bits(62)]
    __: u64,
}

/// The registers that translation and tag checks depend on, as software wrote them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs)] // each is the register of its name
pub struct SysRegs {
    pub sctlr_el1: SctlrEl1,
    pub tcr_el1: TcrEl1,
    pub ttbr0_el1: u64,
    pub ttbr1_el1: u64,
    pub mair_el1: u64,
    pub hcr_el2: HcrEl2,
    pub vtcr_el2: VtcrEl2,
    pub vttbr_el2: VttbrEl2,
    pub sctlr_el2: SctlrEl1,
    pub tcr_el2: TcrEl2,
    pub ttbr0_el2: u64,
    pub mair_el2: u64,
}

/// `ESR_ELx` for a data abort, Exception Syndrome Register.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Esr {
    /// DFSC, bits 5:0: data fault status code.
    #[bits(6)]
    pub dfsc: u8,
    /// `WnR`, bit 6: the access was a write.
    pub wnr: bool,
    /// S1PTW, bit 7: stage 2 refused a read of a stage-1 table.
    pub s1ptw: bool,
    /// CM, bit 8: a cache maintenance or address translation instruction.
    pub cm: bool,
    #[bits(5)]
    __: u8,
    /// ISV with SAS, SSE, SRT, SF and AR, bits 24:14, see [`Syndrome`](crate::Syndrome).
    #[bits(11)]
    pub access: u16,
    /// IL, bit 25: a 32-bit instruction.
    pub il: bool,
    /// EC, bits 31:26: exception class.
    #[bits(6)]
    pub ec: u8,
    #[bits(9)]
    __: u16,
    /// `TagAccess`, bit 41: a stage-2 permission fault because of `NoTagAccess` (`FEAT_MTE_PERM`).
    pub tag_access: bool,
    /// `TnD`, bit 42: a stage-1 permission fault of a tag store to canonically tagged memory (`FEAT_MTE_CANONICAL_TAGS`).
    pub tnd: bool,
    #[bits(21)]
    __: u32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tag_control_fields_stand_where_the_arm_arm_puts_them() {
        assert_eq!(u64::from(GcrEl1::new().with_exclude(0xfffe).with_rrnd(true)), 0x1_fffe);
        assert_eq!(u64::from(RgsrEl1::new().with_tag(0xc).with_seed(0x527c)), 0x52_7c0c);
        assert_eq!(u64::from(SctlrEl1::new().with_tcf0(1).with_tcf(1)), 1 << 38 | 1 << 40);
        assert_eq!(u64::from(SctlrEl1::new().with_ata0(true).with_ata(true)), 3 << 42);
        assert_eq!(u64::from(TcrEl1::new().with_tbi0(true).with_tbi1(true)), 3 << 37);
        assert_eq!(u64::from(HcrEl2::new().with_vm(true).with_dc(true)), 1 << 12 | 1);
        assert_eq!(u64::from(HcrEl2::new().with_ata(true).with_dct(true)), 3 << 56);
    }

    proptest! {
        #[test]
        fn registers_carry_every_bit_they_are_given(bits: u64) {
            prop_assert_eq!(u64::from(SctlrEl1::from(bits)), bits);
            prop_assert_eq!(u64::from(HcrEl2::from(bits)), bits);
            prop_assert_eq!(u64::from(VtcrEl2::from(bits)), bits);
            prop_assert_eq!(u64::from(Esr::from(bits)), bits);
        }
    }
}
