//! The instructions that work on tags in registers: `IRG`, `ADDG`, `SUBG`, `GMI`, `SUBP`.
//!
//! Left out: the flags of `SUBPS`, and an IMPLEMENTATION DEFINED source of random tags (`GCR_EL1.RRND` = 1 uses
//! `RGSR_EL1` as well, as QEMU does). The invariant: only `IRG` changes state, and only `RGSR_EL1`.

use super::Cpu;
use crate::addr::Va;
use crate::regs::RgsrEl1;
use crate::tag::{Tag, choose_non_excluded_tag};

/// `IRG Xd, Xn, Xm`: the pointer `xn` with a random tag that neither `GCR_EL1.Exclude` nor `xm` excludes.
///
/// Arm ARM C6.2, IRG. The seed advances even where every tag is excluded and the answer is tag 0. Without access to
/// allocation tags the answer is tag 0 and `RGSR_EL1` stays.
pub fn irg(cpu: &mut Cpu, xn: u64, xm: u64) -> u64 {
    if !cpu.ata {
        return Va(xn).with_tag(Tag::ZERO).0;
    }
    let exclude = cpu.gcr.exclude() | xm as u16;
    let start = Tag::new(cpu.rgsr.tag());
    let offset = random_tag(&mut cpu.rgsr);
    let tag = choose_non_excluded_tag(start, offset, exclude);
    cpu.rgsr.set_tag(tag.get());
    Va(xn).with_tag(tag).0
}

/// `ADDG Xd, Xn, #imm, #tag_imm`: address plus `imm` bytes, tag moved `tag_imm` allowed tags on.
///
/// Arm ARM C6.2, ADDG. The sum is over 64 bits and a carry into the tag is lost under the new tag.
pub fn addg(cpu: &Cpu, xn: u64, imm: u64, tag_imm: u8) -> u64 {
    Va(xn.wrapping_add(imm)).with_tag(offset_tag(cpu, xn, tag_imm)).0
}

/// `SUBG Xd, Xn, #imm, #tag_imm`: as [`addg`], with `imm` subtracted. The tag still moves up.
pub fn subg(cpu: &Cpu, xn: u64, imm: u64, tag_imm: u8) -> u64 {
    Va(xn.wrapping_sub(imm)).with_tag(offset_tag(cpu, xn, tag_imm)).0
}

/// `GMI Xd, Xn, Xm`: the exclusion mask `mask` with the tag of `xn` added. Works without access to allocation tags.
pub fn gmi(xn: u64, mask: u64) -> u64 {
    mask | 1 << Va(xn).tag().get()
}

/// `SUBP Xd, Xn, Xm`: the distance of two pointers whose top bytes are ignored.
pub fn subp(xn: u64, xm: u64) -> u64 {
    Va(xn).untagged().0.wrapping_sub(Va(xm).untagged().0)
}

/// The tag `ADDG` and `SUBG` give: 0 without access to allocation tags.
fn offset_tag(cpu: &Cpu, xn: u64, tag_imm: u8) -> Tag {
    if !cpu.ata {
        return Tag::ZERO;
    }
    choose_non_excluded_tag(Va(xn).tag(), tag_imm, cpu.gcr.exclude())
}

/// Four bits from the generator, first bit lowest (`AArch64.RandomTag`).
fn random_tag(rgsr: &mut RgsrEl1) -> u8 {
    (0..4).fold(0, |tag, bit| tag | next_random_tag_bit(rgsr) << bit)
}

/// One step of the 16-bit linear feedback shift register in `RGSR_EL1.SEED` (`AArch64.NextRandomTagBit`).
fn next_random_tag_bit(rgsr: &mut RgsrEl1) -> u8 {
    let lfsr = rgsr.seed();
    let top = (lfsr >> 5 ^ lfsr >> 3 ^ lfsr >> 2 ^ lfsr) & 1;
    rgsr.set_seed(top << 15 | lfsr >> 1);
    top as u8
}
