//! The hypervisor's registers: `HCR_EL2`, `VTCR_EL2` and `VTTBR_EL2`.
//!
//! Models the fields that decide what a walk of stage 2 reads and what EL2 takes from the levels below. Left out: E2H and all
//! that it changes. The invariant is that of [`regs`](super).

use bitfield_struct::bitfield;

use crate::addr::Pa;

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

impl VttbrEl2 {
    /// A register that points to the start-level table of the machine `vmid`.
    #[inline]
    pub fn for_table(table: Pa, vmid: u16) -> Self {
        Self::new().with_baddr(table.0).with_vmid(vmid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vttbr_holds_the_table_address_and_the_vmid() {
        let vttbr = VttbrEl2::for_table(Pa(0x4800_2000), 0x1234);

        assert_eq!(u64::from(vttbr), 0x1234_0000_4800_2000);
        assert_eq!(vttbr.baddr(), 0x4800_2000);
    }
}
