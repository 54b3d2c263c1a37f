//! The instructions that work on tags in registers: `IRG`, `ADDG`, `SUBG`, `GMI`, `SUBP`, `SUBPS`.
//!
//! With `GCR_EL1.RRND` = 1 the source of random tags is IMPLEMENTATION DEFINED; here it is a generator that the caller seeds.
//! Left out: nothing else. The invariant: only `IRG` changes state, and only the generator it draws from.

use super::Cpu;
use crate::addr::Va;
use crate::regs::RgsrEl1;
use crate::tag::{Tag, choose_non_excluded_tag};

/// `IRG Xd, Xn, Xm`: the pointer `xn` with a random tag that neither `GCR_EL1.Exclude` nor `xm` excludes.
///
/// Arm ARM C6.2, IRG. The seed advances even where every tag is excluded and the answer is tag 0. Without access to
/// allocation tags the answer is tag 0 and `RGSR_EL1` stays.
pub fn irg(cpu: &mut Cpu, xn: u64, xm: u64) -> u64 {
    if !cpu.ata() {
        return Va(xn).with_tag(Tag::ZERO).0;
    }
    let exclude = cpu.gcr.exclude() | xm as u16;
    if cpu.gcr.rrnd() {
        let start = cpu.random_tag();
        return Va(xn).with_tag(choose_non_excluded_tag(start, 0, exclude)).0;
    }
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

/// `SUBPS Xd, Xn, Xm`: as [`subp`], with the flags NZCV of the subtraction in bits 3:0.
pub fn subps(xn: u64, xm: u64) -> (u64, u8) {
    let (left, right) = (Va(xn).untagged().0, Va(xm).untagged().0);
    let (difference, borrow) = left.overflowing_sub(right);
    let (_, overflow) = left.cast_signed().overflowing_sub(right.cast_signed());
    let flags = [difference >> 63 != 0, difference == 0, !borrow, overflow];
    (
        difference,
        flags.iter().fold(0, |nzcv, &flag| nzcv << 1 | u8::from(flag)),
    )
}

/// The tag `ADDG` and `SUBG` give: 0 without access to allocation tags.
fn offset_tag(cpu: &Cpu, xn: u64, tag_imm: u8) -> Tag {
    if !cpu.ata() {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::insn::test_guest::sync_cpu;
    use crate::regs::GcrEl1;

    fn cpu_excluding(exclude: u16) -> Cpu {
        Cpu {
            gcr: GcrEl1::new().with_exclude(exclude),
            ..sync_cpu()
        }
    }

    /// The tags of as many `IRG` as `want` has digits, and the register they leave.
    fn irg_run(cpu: &mut Cpu, xm: u64, count: usize) -> String {
        (0..count)
            .map(|_| Va(irg(cpu, 0x5000_0000, xm)).tag().to_string())
            .collect()
    }

    /// Seed, exclude, start tag, 32 tags and `RGSR_EL1` afterwards: recorded from QEMU 10.0.2.
    const IRG_RUNS: [(u16, u16, u8, &str, u64); 13] = [
        (0x1, 0x0000, 0, "119f04894b6cd6d6140d053fe5f2e57c", 0x52_7c0c),
        (0x1, 0x0001, 0, "119f159a6d9f1a2b7a758dc991beb35a", 0x52_7c0a),
        (0x1, 0x5555, 0, "111df7f175b79b9b17f9f95db9d3b9d7", 0x52_7c07),
        (0x1, 0x0ff0, 0, "111f0c01c3ecdede1c0d0d3fedf2edfc", 0x52_7c0c),
        (0x1, 0x7fff, 0, "ffffffffffffffffffffffffffffffff", 0x52_7c0f),
        (0x1, 0xfffe, 0, "00000000000000000000000000000000", 0x52_7c00),
        (0x1, 0xffff, 0, "00000000000000000000000000000000", 0x52_7c00),
        (0x1, 0x0000, 9, "aa289d12d4f56f6fad969ec87e8b7e05", 0x52_7c05),
        (0xace1, 0x0000, 0, "24bf69d96f2056e68dca01f23dc1156a", 0x41_400a),
        (0x8000, 0x0000, 0, "004ff1b30b0b3fa634209b20f2f0e1a4", 0xa9_3e04),
        (0x0, 0x0000, 0, "00000000000000000000000000000000", 0x00),
        (0x0, 0x0001, 0, "11111111111111111111111111111111", 0x01),
        (0x0, 0x0000, 9, "99999999999999999999999999999999", 0x09),
    ];

    #[test]
    fn irg_gives_the_recorded_tags_and_leaves_the_recorded_seed() {
        for (seed, exclude, start, want, rgsr_after) in IRG_RUNS {
            let mut cpu = cpu_excluding(exclude);
            cpu.rgsr = RgsrEl1::new().with_seed(seed).with_tag(start);

            let got = irg_run(&mut cpu, 0, 32);

            assert_eq!(got, want, "seed {seed:#x}, exclude {exclude:#06x}, start {start}");
            assert_eq!(
                u64::from(cpu.rgsr),
                rgsr_after,
                "seed {seed:#x}, exclude {exclude:#06x}"
            );
        }
    }

    #[test]
    fn irg_excludes_what_gcr_and_the_mask_register_exclude() {
        let mut cpu = cpu_excluding(0x0001);
        cpu.rgsr = RgsrEl1::new().with_seed(1);

        assert_eq!(irg_run(&mut cpu, 0xff02, 16), "2244537272772563");
    }

    #[test]
    fn irg_without_tag_access_gives_tag_0_and_keeps_rgsr() {
        let mut cpu = Cpu::with_sync_checks(1, false);
        cpu.rgsr = RgsrEl1::new().with_seed(0xace1).with_tag(9);

        assert_eq!(irg(&mut cpu, 0xab00_0000_5000_0000, 0), 0xa000_0000_5000_0000);
        assert_eq!(u64::from(cpu.rgsr), 0xac_e109);
    }

    /// Exclude, xn, imm, tag offset, result: recorded from QEMU 10.0.2.
    const ADDG: [(u16, u64, u64, u8, u64); 8] = [
        (0x0001, 0x0000_0000_5000_0000, 0, 0, 0x0100_0000_5000_0000),
        (0x0001, 0x0f00_0000_5000_0000, 0, 1, 0x0100_0000_5000_0000),
        (0xfffe, 0x0700_0000_5000_0000, 0, 5, 0x0000_0000_5000_0000),
        (0xffff, 0x0700_0000_5000_0000, 0, 5, 0x0000_0000_5000_0000),
        (0x00f0, 0x0100_0000_5000_0000, 0, 5, 0x0a00_0000_5000_0000),
        (0x00f0, 0x0000_0000_5000_0000, 0, 15, 0x0300_0000_5000_0000),
        (0x0000, 0xaeff_ffff_ffff_fff8, 16, 1, 0xaf00_0000_0000_0008),
        (0x5555, 0xaeff_ffff_ffff_fff8, 1008, 15, 0xab00_0000_0000_03e8),
    ];

    #[test]
    fn addg_answers_as_recorded() {
        for (exclude, xn, imm, tag_imm, want) in ADDG {
            let got = addg(&cpu_excluding(exclude), xn, imm, tag_imm);

            assert_eq!(got, want, "{xn:#018x} + {imm}, tag + {tag_imm}, exclude {exclude:#06x}");
        }
    }

    #[test]
    fn subg_subtracts_the_address_and_still_adds_the_tag() {
        assert_eq!(
            subg(&cpu_excluding(0x8000), 0xa100_0000_0000_1000, 16, 1),
            0xa200_0000_0000_0ff0
        );
        assert_eq!(
            subg(&cpu_excluding(0x0001), 0xaeff_ffff_ffff_fff8, 16, 1),
            0xafff_ffff_ffff_ffe8
        );
    }

    #[test]
    fn addg_and_subg_without_tag_access_give_tag_0() {
        let cpu = Cpu::with_sync_checks(1, false);

        assert_eq!(addg(&cpu, 0xa500_0000_0000_1000, 16, 3), 0xa000_0000_0000_1010);
        assert_eq!(subg(&cpu, 0xa500_0000_0000_1000, 16, 3), 0xa000_0000_0000_0ff0);
    }

    #[test]
    fn gmi_adds_the_tag_to_the_mask() {
        assert_eq!(gmi(0x0500_0000_0000_1000, 0), 0x20);
        assert_eq!(gmi(0x0f00_0000_0000_1000, 0xffff_ffff_ffff_8000), 0xffff_ffff_ffff_8000);
    }

    #[test]
    fn subp_ignores_the_top_bytes_and_sign_extends() {
        assert_eq!(
            subp(0x0500_0000_0000_1000, 0x0700_0000_0000_2000),
            0xffff_ffff_ffff_f000
        );
        assert_eq!(subp(0x00ff_ffff_ffff_fff0, 0), 0xffff_ffff_ffff_fff0);
        assert_eq!(
            subp(0x0080_0000_0000_0000, 0x007f_ffff_ffff_ffff),
            0xff00_0000_0000_0001
        );
        assert_eq!(subp(5, 5), 0);
    }

    #[test]
    fn subps_sets_the_flags_of_the_56_bit_difference() {
        assert_eq!(subps(5, 5), (0, 0b0110));
        assert_eq!(subps(0xff00_0000_0000_0004, 5), (u64::MAX, 0b1000));
        assert_eq!(subps(6, 0x0100_0000_0000_0005), (1, 0b0010));
        // The addresses are sign extended from bit 55, so the difference never overflows 64 bits.
        assert_eq!(subps(0x007f_ffff_ffff_ffff, 0x0080_0000_0000_0000).1, 0b0000);
    }

    #[test]
    fn irg_from_the_other_source_depends_on_its_seed_alone_and_leaves_rgsr() {
        let tags = |entropy| {
            let mut cpu = cpu_excluding(0x00ff);
            cpu.gcr.set_rrnd(true);
            cpu.entropy = entropy;
            let tags = irg_run(&mut cpu, 0, 64);
            assert_eq!(u64::from(cpu.rgsr), 0);
            tags
        };

        assert_eq!(tags(1), tags(1));
        assert_ne!(tags(1), tags(2));
        assert!("89abcdef".chars().all(|tag| tags(1).contains(tag)), "{}", tags(1));
        assert!(tags(1).chars().all(|tag| tag >= '8'));
    }

    proptest! {
        #[test]
        fn irg_never_gives_an_excluded_tag(seed: u16, start in 0u8..16, exclude: u16, xm: u64) {
            let mut cpu = cpu_excluding(exclude);
            cpu.rgsr = RgsrEl1::new().with_seed(seed).with_tag(start);
            let excluded = exclude | xm as u16;
            prop_assume!(excluded != u16::MAX);

            let tag = Va(irg(&mut cpu, 0, xm)).tag();

            prop_assert_eq!(excluded >> tag.get() & 1, 0);
            prop_assert_eq!(cpu.rgsr.tag(), tag.get());
        }

        #[test]
        fn subg_undoes_the_address_of_addg(xn: u64, imm in 0u64..1024, tag_imm in 0u8..16) {
            let cpu = sync_cpu();

            let back = subg(&cpu, addg(&cpu, xn, imm, tag_imm), imm, 0);

            prop_assert_eq!(subp(back, xn), 0);
        }
    }
}
