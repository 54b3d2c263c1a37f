//! The registers that turn stage 1 and its tag checks on: `SCTLR_ELx` and `TCR_ELx`.
//!
//! Models the fields that decide what a walk of stage 1 reads and what of a pointer is its address. Left out: `TTBRn_ELx` and
//! `MAIR_ELx`, whose bits are read where they are used. The invariant is that of [`regs`](super).

use bitfield_struct::bitfield;

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
