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

/// `SCTLR_EL1`, and the fields of `SCTLR_EL2` (with `HCR_EL2.E2H` = 0) that stand at the same places.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct SctlrEl1 {
    /// M, bit 0: stage-1 translation on.
    pub m: bool,
    /// A, bit 1: every access must be aligned.
    pub a: bool,
    /// C, bit 2: data accesses may be cacheable.
    pub c: bool,
    /// SA, bit 3: EL1 may not use a stack pointer that is not aligned to 16 as a base.
    pub sa: bool,
    /// SA0, bit 4: nor may EL0.
    pub sa0: bool,
    __: bool,
    /// nAA, bit 6: ordered accesses may cross 16 bytes (`FEAT_LSE2`).
    pub naa: bool,
    #[bits(5)]
    __: u8,
    /// I, bit 12: instruction fetches may be cacheable.
    pub i: bool,
    __: bool,
    /// DZE, bit 14: EL0 may execute `DC ZVA`, `DC GVA` and `DC GZVA`.
    pub dze: bool,
    #[bits(4)]
    __: u8,
    /// WXN, bit 19: writable memory is not executable.
    pub wxn: bool,
    #[bits(6)]
    __: u8,
    /// UCI, bit 26: EL0 may execute cache maintenance by address.
    pub uci: bool,
    #[bits(11)]
    __: u16,
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
    #[bits(13)]
    __: u16,
    /// EPAN, bit 57: PAN also covers memory that EL0 may only execute.
    pub epan: bool,
    /// TCSO0, bit 58: loads of EL0 are not tag checked (`FEAT_MTE_STORE_ONLY`).
    pub tcso0: bool,
    /// TCSO, bit 59: loads of EL1 are not tag checked (`FEAT_MTE_STORE_ONLY`).
    pub tcso: bool,
    #[bits(4)]
    __: u8,
}

/// `TCR_EL1`, Translation Control Register.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct TcrEl1 {
    /// T0SZ, bits 5:0: the lower half of the address space has `64 - T0SZ` bits.
    #[bits(6)]
    pub t0sz: u8,
    __: bool,
    /// EPD0, bit 7: no walks for the lower half.
    pub epd0: bool,
    #[bits(4)]
    __: u8,
    /// SH0, bits 13:12: shareability of the walks, and of what they map if DS.
    #[bits(2)]
    pub sh0: u8,
    /// TG0, bits 15:14: granule of the lower half (0 4 KiB, 1 64 KiB, 2 16 KiB).
    #[bits(2)]
    pub tg0: u8,
    /// T1SZ, bits 21:16: as T0SZ, for the upper half.
    #[bits(6)]
    pub t1sz: u8,
    /// A1, bit 22: the ASID is that of `TTBR1_EL1`, not of `TTBR0_EL1`.
    pub a1: bool,
    /// EPD1, bit 23: no walks for the upper half.
    pub epd1: bool,
    #[bits(4)]
    __: u8,
    /// SH1, bits 29:28: as SH0.
    #[bits(2)]
    pub sh1: u8,
    /// TG1, bits 31:30: granule of the upper half (1 16 KiB, 2 4 KiB, 3 64 KiB).
    #[bits(2)]
    pub tg1: u8,
    /// IPS, bits 34:32: output address size.
    #[bits(3)]
    pub ips: u8,
    __: bool,
    /// AS, bit 36: ASIDs have 16 bits, not 8.
    pub wide_asid: bool,
    /// TBI0, bit 37: the top byte of addresses in the lower half is ignored.
    pub tbi0: bool,
    /// TBI1, bit 38: the same for the upper half.
    pub tbi1: bool,
    /// HA, bit 39: hardware sets the access flag.
    pub ha: bool,
    /// HD, bit 40: hardware manages dirty state.
    pub hd: bool,
    /// HPD0, bit 41: the lower half's tables have no permissions of their own.
    pub hpd0: bool,
    /// HPD1, bit 42: the same for the upper half.
    pub hpd1: bool,
    #[bits(12)]
    __: u16,
    /// E0PD0, bit 55: EL0 may not use the lower half.
    pub e0pd0: bool,
    /// E0PD1, bit 56: EL0 may not use the upper half.
    pub e0pd1: bool,
    /// TCMA0, bit 57: pointers into the lower half with tag 0 are not checked.
    pub tcma0: bool,
    /// TCMA1, bit 58: pointers into the upper half with tag 15 are not checked.
    pub tcma1: bool,
    /// DS, bit 59: 52-bit addresses with the 4 KiB and 16 KiB granules (`FEAT_LPA2`).
    pub ds: bool,
    /// MTX0, bit 60: bits 59:56 of pointers into the lower half are a logical tag even where TBI0 is 0, and memory there that
    /// is not Tagged has canonical tags (`FEAT_MTE_NO_ADDRESS_TAGS`, `FEAT_MTE_CANONICAL_TAGS`).
    pub mtx0: bool,
    /// MTX1, bit 61: the same for the upper half.
    pub mtx1: bool,
    #[bits(2)]
    __: u8,
}

/// `TCR_EL2` with `HCR_EL2.E2H` = 0: one half, other places.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct TcrEl2 {
    /// T0SZ, bits 5:0.
    #[bits(6)]
    pub t0sz: u8,
    #[bits(6)]
    __: u8,
    /// SH0, bits 13:12.
    #[bits(2)]
    pub sh0: u8,
    /// TG0, bits 15:14.
    #[bits(2)]
    pub tg0: u8,
    /// PS, bits 18:16.
    #[bits(3)]
    pub ps: u8,
    __: bool,
    /// TBI, bit 20.
    pub tbi: bool,
    /// HA, bit 21.
    pub ha: bool,
    /// HD, bit 22.
    pub hd: bool,
    __: bool,
    /// HPD, bit 24.
    pub hpd: bool,
    #[bits(5)]
    __: u8,
    /// TCMA, bit 30.
    pub tcma: bool,
    __: bool,
    /// DS, bit 32.
    pub ds: bool,
    /// MTX, bit 33.
    pub mtx: bool,
    #[bits(30)]
    __: u32,
}

/// `HCR_EL2`, Hypervisor Configuration Register.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct HcrEl2 {
    /// VM, bit 0: stage-2 translation on.
    pub vm: bool,
    __: bool,
    /// PTW, bit 2: a stage-1 walk may not read its tables from Device memory.
    pub ptw: bool,
    #[bits(9)]
    __: u16,
    /// DC, bit 12: with stage 1 off, its memory type is Normal Write-Back instead of Device.
    pub dc: bool,
    #[bits(15)]
    __: u16,
    /// TDZ, bit 28: traps `DC ZVA`, `DC GVA` and `DC GZVA` to EL2.
    pub tdz: bool,
    #[bits(3)]
    __: u8,
    /// CD, bit 32: data accesses are not cacheable at stage 2.
    pub cd: bool,
    #[bits(13)]
    __: u16,
    /// FWB, bit 46: stage 2's memory type is combined as `FEAT_S2FWB` says.
    pub fwb: bool,
    #[bits(9)]
    __: u16,
    /// ATA, bit 56: EL1 and EL0 may access allocation tags, subject to `SCTLR_EL1`.
    pub ata: bool,
    /// DCT, bit 57: the memory type that DC gives is Tagged.
    pub dct: bool,
    /// TID5, bit 58: traps reads of `GMID_EL1` to EL2.
    pub tid5: bool,
    #[bits(5)]
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
    /// VS, bit 19: VMIDs have 16 bits, not 8.
    pub wide_vmid: bool,
    __: bool,
    /// HA, bit 21: hardware sets the access flag.
    pub ha: bool,
    /// HD, bit 22: hardware manages dirty state.
    pub hd: bool,
    #[bits(9)]
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

impl VttbrEl2 {
    /// A register that points to the start-level table of the machine `vmid`.
    #[inline]
    pub fn for_table(table: Pa, vmid: u16) -> Self {
        Self::new().with_baddr(table.0).with_vmid(vmid)
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
