//! Where the fields of the system registers stand, against the figures of Arm ARM D24 written out as masks.
//!
//! Models nothing: every field is set to all ones in a register of zeroes. Left out: `ESR_ELx`, which the tests of faults
//! check by value. The invariant: no two fields of a register overlap.

use tagvisor_arch::{GcrEl1, HcrEl2, RgsrEl1, SctlrEl1, TcrEl1, TcrEl2, Tfsr, VtcrEl2, VttbrEl2};

/// The bits `high` to `low`.
const fn bits(high: u32, low: u32) -> u64 {
    u64::MAX >> (63 - high) & u64::MAX << low
}

const fn bit(at: u32) -> u64 {
    bits(at, at)
}

/// Checks every field of a register, and that none overlaps another.
#[track_caller]
fn check(register: &str, fields: &[(&str, u64, u64)]) {
    let mut seen = 0;
    for &(field, value, expected) in fields {
        assert_eq!(value, expected, "{register}.{field}");
        assert_eq!(seen & value, 0, "{register}.{field} overlaps");
        seen |= value;
    }
}

#[test]
fn sctlr() {
    let new = SctlrEl1::new;
    check(
        "SCTLR_ELx",
        &[
            ("M", new().with_m(true).into(), bit(0)),
            ("A", new().with_a(true).into(), bit(1)),
            ("C", new().with_c(true).into(), bit(2)),
            ("SA", new().with_sa(true).into(), bit(3)),
            ("SA0", new().with_sa0(true).into(), bit(4)),
            ("nAA", new().with_naa(true).into(), bit(6)),
            ("I", new().with_i(true).into(), bit(12)),
            ("DZE", new().with_dze(true).into(), bit(14)),
            ("WXN", new().with_wxn(true).into(), bit(19)),
            ("UCI", new().with_uci(true).into(), bit(26)),
            ("TCF0", new().with_tcf0(3).into(), bits(39, 38)),
            ("TCF", new().with_tcf(3).into(), bits(41, 40)),
            ("ATA0", new().with_ata0(true).into(), bit(42)),
            ("ATA", new().with_ata(true).into(), bit(43)),
            ("EPAN", new().with_epan(true).into(), bit(57)),
            ("TCSO0", new().with_tcso0(true).into(), bit(58)),
            ("TCSO", new().with_tcso(true).into(), bit(59)),
        ],
    );
}

#[test]
fn tcr_el1() {
    let new = TcrEl1::new;
    check(
        "TCR_EL1",
        &[
            ("T0SZ", new().with_t0sz(63).into(), bits(5, 0)),
            ("EPD0", new().with_epd0(true).into(), bit(7)),
            ("SH0", new().with_sh0(3).into(), bits(13, 12)),
            ("TG0", new().with_tg0(3).into(), bits(15, 14)),
            ("T1SZ", new().with_t1sz(63).into(), bits(21, 16)),
            ("EPD1", new().with_epd1(true).into(), bit(23)),
            ("SH1", new().with_sh1(3).into(), bits(29, 28)),
            ("TG1", new().with_tg1(3).into(), bits(31, 30)),
            ("IPS", new().with_ips(7).into(), bits(34, 32)),
            ("TBI0", new().with_tbi0(true).into(), bit(37)),
            ("TBI1", new().with_tbi1(true).into(), bit(38)),
            ("HA", new().with_ha(true).into(), bit(39)),
            ("HD", new().with_hd(true).into(), bit(40)),
            ("HPD0", new().with_hpd0(true).into(), bit(41)),
            ("HPD1", new().with_hpd1(true).into(), bit(42)),
            ("E0PD0", new().with_e0pd0(true).into(), bit(55)),
            ("E0PD1", new().with_e0pd1(true).into(), bit(56)),
            ("TCMA0", new().with_tcma0(true).into(), bit(57)),
            ("TCMA1", new().with_tcma1(true).into(), bit(58)),
            ("DS", new().with_ds(true).into(), bit(59)),
            ("MTX0", new().with_mtx0(true).into(), bit(60)),
            ("MTX1", new().with_mtx1(true).into(), bit(61)),
        ],
    );
}

#[test]
fn tcr_el2() {
    let new = TcrEl2::new;
    check(
        "TCR_EL2",
        &[
            ("T0SZ", new().with_t0sz(63).into(), bits(5, 0)),
            ("SH0", new().with_sh0(3).into(), bits(13, 12)),
            ("TG0", new().with_tg0(3).into(), bits(15, 14)),
            ("PS", new().with_ps(7).into(), bits(18, 16)),
            ("TBI", new().with_tbi(true).into(), bit(20)),
            ("HA", new().with_ha(true).into(), bit(21)),
            ("HD", new().with_hd(true).into(), bit(22)),
            ("HPD", new().with_hpd(true).into(), bit(24)),
            ("TCMA", new().with_tcma(true).into(), bit(30)),
            ("DS", new().with_ds(true).into(), bit(32)),
            ("MTX", new().with_mtx(true).into(), bit(33)),
        ],
    );
}

#[test]
fn hcr_el2() {
    let new = HcrEl2::new;
    check(
        "HCR_EL2",
        &[
            ("VM", new().with_vm(true).into(), bit(0)),
            ("PTW", new().with_ptw(true).into(), bit(2)),
            ("DC", new().with_dc(true).into(), bit(12)),
            ("TDZ", new().with_tdz(true).into(), bit(28)),
            ("CD", new().with_cd(true).into(), bit(32)),
            ("FWB", new().with_fwb(true).into(), bit(46)),
            ("ATA", new().with_ata(true).into(), bit(56)),
            ("DCT", new().with_dct(true).into(), bit(57)),
            ("TID5", new().with_tid5(true).into(), bit(58)),
        ],
    );
}

#[test]
fn vtcr_el2_and_vttbr_el2() {
    let new = VtcrEl2::new;
    check(
        "VTCR_EL2",
        &[
            ("T0SZ", new().with_t0sz(63).into(), bits(5, 0)),
            ("SL0", new().with_sl0(3).into(), bits(7, 6)),
            ("IRGN0", new().with_irgn0(3).into(), bits(9, 8)),
            ("ORGN0", new().with_orgn0(3).into(), bits(11, 10)),
            ("SH0", new().with_sh0(3).into(), bits(13, 12)),
            ("TG0", new().with_tg0(3).into(), bits(15, 14)),
            ("PS", new().with_ps(7).into(), bits(18, 16)),
            ("HA", new().with_ha(true).into(), bit(21)),
            ("HD", new().with_hd(true).into(), bit(22)),
            ("DS", new().with_ds(true).into(), bit(32)),
            ("SL2", new().with_sl2(true).into(), bit(33)),
        ],
    );
    let new = VttbrEl2::new;
    check(
        "VTTBR_EL2",
        &[
            ("BADDR", new().with_baddr(bits(47, 0)).into(), bits(47, 0)),
            ("VMID", new().with_vmid(0xffff).into(), bits(63, 48)),
        ],
    );
}

#[test]
fn tag_registers() {
    check(
        "GCR_EL1",
        &[
            ("Exclude", GcrEl1::new().with_exclude(0xffff).into(), bits(15, 0)),
            ("RRND", GcrEl1::new().with_rrnd(true).into(), bit(16)),
        ],
    );
    check(
        "RGSR_EL1",
        &[
            ("TAG", RgsrEl1::new().with_tag(0xf).into(), bits(3, 0)),
            ("SEED", RgsrEl1::new().with_seed(0xffff).into(), bits(23, 8)),
        ],
    );
    check(
        "TFSR_ELx",
        &[
            ("TF0", Tfsr::new().with_tf0(true).into(), bit(0)),
            ("TF1", Tfsr::new().with_tf1(true).into(), bit(1)),
        ],
    );
}
