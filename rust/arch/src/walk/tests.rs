//! The walker on hand-made tables, and against a naive walk that spells out every level by itself.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::addr::Ipa;
use crate::desc::{MemAttr, S2Attrs, leaf_desc, table_desc};
use crate::fault::Access;

const L1: Pa = Pa(0x4800_0000);
const L2: Pa = Pa(0x4800_2000);
const L3: Pa = Pa(0x4800_3000);
const RW: S2Attrs = S2Attrs {
    mem: MemAttr::NormalWb,
    read: true,
    write: true,
    exec: true,
    af: true,
};

/// Words that are not named are 0; below `L1` nothing answers.
#[derive(Default)]
struct Tables(BTreeMap<Pa, u64>);

impl Tables {
    fn with(mut self, table: Pa, index: u64, desc: u64) -> Self {
        self.0.insert(table + 8 * index, desc);
        self
    }
}

impl DescriptorSource for Tables {
    fn read_descriptor(&mut self, pa: Pa) -> Option<u64> {
        (pa >= L1).then(|| self.0.get(&pa).copied().unwrap_or(0))
    }

    fn write_descriptor(&mut self, pa: Pa, _: u64) {
        unreachable!("walk_stage2 updates no descriptor, such as that at {pa}");
    }
}

/// 40-bit IPAs, start level 1, two concatenated tables, 40-bit output.
fn forty_bits() -> Stage2 {
    let vtcr = VtcrEl2::new().with_t0sz(24).with_sl0(1).with_ps(2);
    Stage2 {
        vtcr,
        vttbr: VttbrEl2::for_table(L1, 1),
    }
}

fn walk_40(mut tables: Tables, ipa: u64) -> Result<Walk, WalkFault> {
    walk_stage2(&mut tables, &forty_bits(), Ipa(ipa))
}

fn fault(kind: FaultKind, level: i8) -> WalkFault {
    WalkFault { kind, level }
}

#[test]
fn walk_l3_page_reads_three_descriptors() {
    let tables = Tables::default()
        .with(L1, 1, table_desc(L2))
        .with(L2, 8, table_desc(L3))
        .with(L3, 3, leaf_desc(3, Pa(0x5100_3000), RW));

    let walk = walk_40(tables, 0x4100_3abc).unwrap();

    assert_eq!((walk.pa, walk.size, walk.attrs), (Pa(0x5100_3abc), 4096, RW));
    let read: Vec<_> = walk.levels.iter().map(|step| (step.level, step.desc_pa)).collect();
    assert_eq!(read, [(1, L1 + 8), (2, L2 + 64), (3, L3 + 24)]);
}

#[test]
fn walk_l2_block_keeps_the_offset_in_the_block() {
    let tables = Tables::default()
        .with(L1, 1, table_desc(L2))
        .with(L2, 8, leaf_desc(2, Pa(0x6000_0000), RW));

    let walk = walk_40(tables, 0x4112_3456).unwrap();

    assert_eq!((walk.pa, walk.size, walk.leaf_level()), (Pa(0x6012_3456), 2 << 20, 2));
}

#[test]
fn walk_second_concatenated_table_resolves_ipa_bit_39() {
    let second_table = L1 + 4096;
    let tables = Tables::default().with(second_table, 0, leaf_desc(1, Pa(0x8000_0000), RW));

    let walk = walk_40(tables, 1 << 39 | 0x123).unwrap();

    assert_eq!(walk.pa, Pa(0x8000_0123));
}

#[test]
fn walk_base_is_aligned_down_to_the_concatenated_tables() {
    let mut tables = Tables::default().with(L1, 0, leaf_desc(1, Pa(0x8000_0000), RW));
    let off_by_a_page = VttbrEl2::for_table(L1 + 4096, 1);
    let regime = Stage2 {
        vttbr: off_by_a_page,
        ..forty_bits()
    };

    let walk = walk_stage2(&mut tables, &regime, Ipa(0)).unwrap();

    assert_eq!(walk.levels[0].desc_pa, L1);
}

#[test]
fn walk_l1_invalid_raises_translation_fault_level_1() {
    assert_eq!(
        walk_40(Tables::default(), 0x4100_0000),
        Err(fault(FaultKind::Translation, 1))
    );
}

#[test]
fn walk_l2_block_without_af_raises_access_flag_fault() {
    let unused = S2Attrs { af: false, ..RW };
    let tables = Tables::default()
        .with(L1, 1, table_desc(L2))
        .with(L2, 8, leaf_desc(2, Pa(0x6000_0000), unused));

    assert_eq!(walk_40(tables, 0x4100_0000), Err(fault(FaultKind::AccessFlag, 2)));
}

#[test]
fn walk_ipa_above_t0sz_raises_translation_fault_level_0() {
    assert_eq!(
        walk_40(Tables::default(), 1 << 40),
        Err(fault(FaultKind::Translation, 0))
    );
}

#[test]
fn walk_l1_block_above_ps_raises_address_size_fault_level_1() {
    let tables = Tables::default().with(L1, 1, leaf_desc(1, Pa(1 << 40), RW));

    assert_eq!(walk_40(tables, 0x4000_0000), Err(fault(FaultKind::AddressSize, 1)));
}

#[test]
fn walk_table_above_ps_raises_address_size_fault_of_the_level_that_names_it() {
    let tables = Tables::default().with(L1, 1, table_desc(Pa(1 << 40)));

    assert_eq!(walk_40(tables, 0x4000_0000), Err(fault(FaultKind::AddressSize, 1)));
}

#[test]
fn walk_address_size_beats_access_flag() {
    let unused = S2Attrs { af: false, ..RW };
    let tables = Tables::default().with(L1, 1, leaf_desc(1, Pa(1 << 40), unused));

    assert_eq!(walk_40(tables, 0x4000_0000), Err(fault(FaultKind::AddressSize, 1)));
}

#[test]
fn walk_start_table_above_ps_raises_address_size_fault_level_0() {
    let regime = Stage2 {
        vttbr: VttbrEl2::for_table(Pa(1 << 40), 1),
        ..forty_bits()
    };

    let answer = walk_stage2(&mut Tables::default(), &regime, Ipa(0));

    assert_eq!(answer, Err(fault(FaultKind::AddressSize, 0)));
}

#[test]
fn walk_table_outside_memory_raises_external_abort_of_the_level_read() {
    let tables = Tables::default().with(L1, 1, table_desc(Pa(0x1000)));

    let answer = walk_40(tables, 0x4000_0000);

    assert_eq!(answer, Err(fault(FaultKind::SyncExternalAbortOnWalk, 2)));
}

/// T0SZ and SL0 around every limit of the 4 KiB granule.
const LEGAL: [(u8, u8, bool); 12] = [
    (16, 2, true),
    (15, 2, false),
    (24, 2, true),
    (25, 2, false),
    (21, 1, true),
    (20, 1, false),
    (33, 1, true),
    (34, 1, false),
    (30, 0, true),
    (29, 0, false),
    (48, 3, true),
    (49, 3, false),
];

#[test]
fn walk_with_illegal_t0sz_or_sl0_raises_translation_fault_level_0() {
    for (t0sz, sl0, legal) in LEGAL {
        let vtcr = VtcrEl2::new().with_t0sz(t0sz).with_sl0(sl0).with_ps(5);
        let regime = Stage2 {
            vtcr,
            vttbr: VttbrEl2::for_table(L1, 1),
        };

        let answer = walk_stage2(&mut Tables::default(), &regime, Ipa(0));

        let level = if legal { [2, 1, 0, 3][usize::from(sl0)] } else { 0 };
        assert_eq!(
            answer,
            Err(fault(FaultKind::Translation, level)),
            "T0SZ {t0sz}, SL0 {sl0}"
        );
    }
}

#[test]
fn walk_with_ds_starts_at_level_minus_1_and_gathers_a_52_bit_address() {
    let vtcr = VtcrEl2::new().with_t0sz(12).with_sl2(true).with_ds(true).with_ps(6);
    let regime = Stage2 {
        vtcr,
        vttbr: VttbrEl2::for_table(L1, 1),
    };
    let block = 5 << 39 | 1 << 48 | 0b11 << 8 | 1 << 10 | 0b01;
    let mut tables = Tables::default().with(L1, 1, table_desc(L2)).with(L2, 0, block);

    let walk = walk_stage2(&mut tables, &regime, Ipa(1 << 48 | 0x1234)).unwrap();
    let unmapped = walk_stage2(&mut tables, &regime, Ipa(2 << 48)).unwrap_err();

    assert_eq!(walk.pa, Pa(5 << 39 | 1 << 48 | 3 << 50 | 0x1234));
    assert_eq!((walk.size, walk.leaf_level()), (1 << 39, 0));
    assert_eq!(unmapped, fault(FaultKind::Translation, -1));
    assert_eq!(unmapped.kind.fsc(unmapped.level), 0b10_1011);
}

#[test]
fn walk_of_64_kib_tables_takes_bits_51_to_48_from_vttbr_and_descriptor() {
    // The table has two entries, but with 52-bit addresses no table is aligned to less than 64 bytes.
    let regime = Stage2 {
        vtcr: VtcrEl2::new().with_t0sz(34).with_tg0(1).with_sl0(1).with_ps(6),
        vttbr: VttbrEl2::for_table(L1 + (0b100 << 2), 1),
    };
    let block = 3 << 29 | 0b1010 << 12 | 1 << 10 | 0b01;
    let mut tables = Tables::default().with(Pa(L1.0 | 0b100 << 48), 1, block);

    let walk = walk_stage2(&mut tables, &regime, Ipa(1 << 29 | 0x42)).unwrap();

    assert_eq!(walk.pa, Pa(0b1010 << 48 | 3 << 29 | 0x42));
}

#[test]
fn walk_through_a_4_tib_block_beyond_ps_raises_address_size_fault_though_its_base_is_in_range() {
    let regime = Stage2 {
        vtcr: VtcrEl2::new().with_t0sz(21).with_tg0(1).with_sl0(2).with_ps(2),
        vttbr: VttbrEl2::for_table(L1, 1),
    };
    let mut tables = Tables::default().with(L1, 0, 1 << 10 | 0b01);

    let low = walk_stage2(&mut tables, &regime, Ipa(0xff_ffff_0000)).map(|walk| walk.pa);
    let high = walk_stage2(&mut tables, &regime, Ipa(1 << 40));

    assert_eq!(low, Ok(Pa(0xff_ffff_0000)));
    assert_eq!(high, Err(fault(FaultKind::AddressSize, 1)));
}

#[test]
fn permission_check_allows_what_s2ap_says_and_names_the_leaf_level() {
    let read_only = S2Attrs { write: false, ..RW };
    let tables = Tables::default().with(L1, 1, leaf_desc(1, Pa(0x8000_0000), read_only));
    let walk = walk_40(tables, 0x4000_0000).unwrap();

    assert_eq!(check_s2_permission(&walk, Access::Read), Ok(()));
    assert_eq!(
        check_s2_permission(&walk, Access::Write),
        Err(fault(FaultKind::Permission, 1))
    );
    assert_eq!(check_s2_permission(&walk, Access::Fetch), Ok(()));
}

/// A memory in which every word is some descriptor, drawn from the address and a seed.
#[derive(Clone, Copy, Debug)]
struct RandomTables {
    seed: u64,
}

impl DescriptorSource for RandomTables {
    fn read_descriptor(&mut self, pa: Pa) -> Option<u64> {
        let mut word = (pa.0 ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ word >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word ^= word >> 32;
        if word >> 56 == 0 {
            return None;
        }
        // Mostly valid, mostly tables or pages, mostly accessed, and mostly below 2^36.
        let often = |bits: u64, shift: u32| if (word >> shift).is_multiple_of(8) { 0 } else { bits };
        let address = if (word >> 44).is_multiple_of(4) {
            u64::MAX
        } else {
            0xfff0_000f_ffff_ffff
        };
        Some((word << 12 & !0xfff ^ word >> 20 & 0xffc | often(1, 50) | often(2, 53) | often(1 << 10, 47)) & address)
    }

    fn write_descriptor(&mut self, pa: Pa, _: u64) {
        unreachable!("walk_stage2 updates no descriptor, such as that at {pa}");
    }
}

/// The output address, or the fault, of a walk written out level by level in plain arithmetic.
fn naive_walk(src: &mut RandomTables, regime: &Stage2, ipa: u64) -> Result<u64, (FaultKind, u8)> {
    let raw = u64::from(regime.vtcr);
    let t0sz = raw % 64;
    let (start, smallest, largest) = match raw / 64 % 4 {
        0 => (2, 22, 34),
        1 => (1, 31, 43),
        2 => (0, 40, 48),
        _ => (3, 13, 25),
    };
    let input_bits = 64 - t0sz;
    if !(16..=48).contains(&input_bits) || input_bits < smallest || input_bits > largest {
        return Err((FaultKind::Translation, 0));
    }
    if u128::from(ipa) >= 1u128 << input_bits {
        return Err((FaultKind::Translation, 0));
    }
    let limit = 1u64 << [32, 36, 40, 42, 44, 48, 48, 48][(raw >> 16 & 7) as usize];
    let entry_bytes = [1u64 << 39, 1 << 30, 1 << 21, 1 << 12];
    let start_entries = ((1u64 << input_bits) / entry_bytes[start]).max(1);
    let base = u64::from(regime.vttbr) & 0xffff_ffff_ffff;
    let mut table = base - base % (8 * start_entries);
    if table >= limit {
        return Err((FaultKind::AddressSize, 0));
    }
    let mut index = ipa / entry_bytes[start];
    for level in start..4 {
        let at = level as u8;
        let Some(desc) = src.read_descriptor(Pa(table + 8 * index)) else {
            return Err((FaultKind::SyncExternalAbortOnWalk, at));
        };
        let address = desc & 0xffff_ffff_f000;
        match (level, desc % 4) {
            (0..3, 3) => {
                if address >= limit {
                    return Err((FaultKind::AddressSize, at));
                }
                table = address;
                index = ipa % entry_bytes[level] / entry_bytes[level + 1];
            }
            (3, 3) | (1 | 2, 1) => {
                let output = address - address % entry_bytes[level];
                if output >= limit {
                    return Err((FaultKind::AddressSize, at));
                }
                if desc / 1024 % 2 == 0 {
                    return Err((FaultKind::AccessFlag, at));
                }
                return Ok(output + ipa % entry_bytes[level]);
            }
            _ => return Err((FaultKind::Translation, at)),
        }
    }
    unreachable!("level 3 has no tables")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn walk_agrees_with_a_naive_walk(seed: u64, resolved in 0u8..16, sl0 in 0u8..4, ps in 0u8..8, base in 0u64..1 << 36, ipa: u64) {
        // The start level resolves 1 to 13 bits; 0, 14 and 15 are illegal, as is some of the rest for level 0 and 3.
        let below_start = [21, 30, 39, 12][usize::from(sl0)];
        let t0sz = 64 - (below_start + resolved);
        let vtcr = VtcrEl2::new().with_t0sz(t0sz).with_sl0(sl0).with_ps(ps);
        let regime = Stage2 { vtcr, vttbr: VttbrEl2::new().with_baddr(base) };
        // One IPA in sixteen may lie above the input size.
        let ipa = ipa >> t0sz.saturating_sub(u8::from(seed % 16 == 0));
        let mut memory = RandomTables { seed };

        let got = walk_stage2(&mut memory, &regime, Ipa(ipa));

        let got = got.map(|walk| walk.pa.0).map_err(|fault| (fault.kind, fault.level.cast_unsigned()));
        prop_assert_eq!(got, naive_walk(&mut memory, &regime, ipa));
    }
}
