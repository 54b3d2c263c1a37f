//! System registers, as values with named fields.
//!
//! A register has only the fields that something in tagvisor reads or sets; the other bits are carried along
//! unchanged by the conversions from and to `u64`. Names and bit positions are those of the Arm ARM, chapter D24,
//! where every register has a section of its own name.
//!
//! Left out: traps, access rules, reset values and RES1 bits. The invariant: `u64::from(Reg::from(x)) == x`.

use bitfield_struct::bitfield;

use crate::addr::Pa;

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

/// `SCTLR_EL1`, System Control Register.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct SctlrEl1 {
    /// M, bit 0: stage-1 translation on.
    pub m: bool,
    #[bits(37)]
    __: u64,
    /// TCF0, bits 39:38: effect of a tag check fault in EL0 (0 none, 1 synchronous, 2 asynchronous, 3 asymmetric).
    #[bits(2)]
    pub tcf0: u8,
    /// TCF, bits 41:40: effect of a tag check fault in EL1, encoded as TCF0.
    #[bits(2)]
    pub tcf: u8,
    /// ATA0, bit 42: EL0 may access allocation tags.
    pub ata0: bool,
    /// ATA, bit 43: EL1 may access allocation tags.
    pub ata: bool,
    #[bits(20)]
    __: u32,
}

/// `TCR_EL1`, Translation Control Register.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct TcrEl1 {
    /// T0SZ, bits 5:0: the lower half of the address space has `64 - T0SZ` bits.
    #[bits(6)]
    pub t0sz: u8,
    #[bits(31)]
    __: u32,
    /// TBI0, bit 37: the top byte of addresses in the lower half is ignored.
    pub tbi0: bool,
    /// TBI1, bit 38: the same for the upper half.
    pub tbi1: bool,
    #[bits(25)]
    __: u32,
}

/// `HCR_EL2`, Hypervisor Configuration Register.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct HcrEl2 {
    /// VM, bit 0: stage-2 translation on.
    pub vm: bool,
    #[bits(11)]
    __: u16,
    /// DC, bit 12: with stage 1 off, its memory type is Normal Write-Back instead of Device.
    pub dc: bool,
    #[bits(43)]
    __: u64,
    /// ATA, bit 56: EL1 and EL0 may access allocation tags, subject to `SCTLR_EL1`.
    pub ata: bool,
    /// DCT, bit 57: the memory type that DC gives is Tagged.
    pub dct: bool,
    #[bits(6)]
    __: u8,
}

/// `VTCR_EL2`, Virtualization Translation Control Register.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct VtcrEl2 {
    /// T0SZ, bits 5:0: IPAs have `64 - T0SZ` bits.
    #[bits(6)]
    pub t0sz: u8,
    /// SL0, bits 7:6: start level; with the 4 KiB granule 0, 1, 2, 3 mean level 2, 1, 0, 3.
    #[bits(2)]
    pub sl0: u8,
    /// IRGN0, bits 9:8: inner cacheability of the walks.
    #[bits(2)]
    pub irgn0: u8,
    /// ORGN0, bits 11:10: outer cacheability of the walks.
    #[bits(2)]
    pub orgn0: u8,
    /// SH0, bits 13:12: shareability of the walks.
    #[bits(2)]
    pub sh0: u8,
    /// TG0, bits 15:14: translation granule (0 4 KiB, 1 64 KiB, 2 16 KiB).
    #[bits(2)]
    pub tg0: u8,
    /// PS, bits 18:16: physical address size.
    #[bits(3)]
    pub ps: u8,
    #[bits(13)]
    __: u16,
    /// DS, bit 32: 52-bit addresses with the 4 KiB and 16 KiB granules (`FEAT_LPA2`).
    pub ds: bool,
    /// SL2, bit 33: with DS and the 4 KiB granule, start at level -1.
    pub sl2: bool,
    #[bits(30)]
    __: u32,
}

/// `VTTBR_EL2`, Virtualization Translation Table Base Register.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct VttbrEl2 {
    /// BADDR, bits 47:1, as the address itself. Bit 0 is `CnP`, which needs a shared TLB to mean something and is
    /// ignored here: the walk aligns the base to the size of the start-level table.
    #[bits(48)]
    pub baddr: u64,
    /// VMID, bits 63:48.
    #[bits(16)]
    pub vmid: u16,
}

impl VttbrEl2 {
    /// A register that points to the start-level table of the machine `vmid`.
    #[inline]
    pub fn for_table(table: Pa, vmid: u16) -> Self {
        Self::new().with_baddr(table.0).with_vmid(vmid)
    }
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
    #[bits(8)]
    __: u8,
    /// SF, bit 15, valid with ISV: the register moved is 64 bits wide.
    pub sf: bool,
    #[bits(6)]
    __: u8,
    /// SAS, bits 23:22, valid with ISV: log2 of the access size.
    #[bits(2)]
    pub sas: u8,
    /// ISV, bit 24: SAS, SSE, SRT, SF and AR are valid.
    pub isv: bool,
    /// IL, bit 25: a 32-bit instruction.
    pub il: bool,
    /// EC, bits 31:26: exception class.
    #[bits(6)]
    pub ec: u8,
    __: u32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn vtcr_of_a_40_bit_guest_has_the_architectural_bits() {
        let vtcr = VtcrEl2::new()
            .with_t0sz(24)
            .with_sl0(1)
            .with_irgn0(1)
            .with_orgn0(1)
            .with_sh0(3)
            .with_tg0(2)
            .with_ps(2);

        assert_eq!(
            u64::from(vtcr),
            0x18 | 1 << 6 | 1 << 8 | 1 << 10 | 3 << 12 | 2 << 14 | 2 << 16
        );
        assert_eq!(u64::from(VtcrEl2::new().with_ds(true).with_sl2(true)), 3 << 32);
    }

    #[test]
    fn vttbr_holds_the_table_address_and_the_vmid() {
        let vttbr = VttbrEl2::for_table(Pa(0x4800_2000), 0x1234);

        assert_eq!(u64::from(vttbr), 0x1234_0000_4800_2000);
        assert_eq!(vttbr.baddr(), 0x4800_2000);
    }

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
