//! Walks that begin at a kept table, against walks that begin at the root.
//!
//! A clone of a machine has nothing kept and too few reads before it to keep any, so that it walks every level: what a
//! machine that has walked for long answers, and how it leaves the tables, must be the same, whatever was done to tables,
//! registers and memory map in between. Left out: the TLB, which is off.

use proptest::prelude::*;
use tagvisor_arch::{AtKind, Features, PAGE_SIZE, Pa, Untraced, Va, register};
use tagvisor_mem::{Pe, Region, TlbMode};

/// Above what 32 bits can address.
const RAM: Pa = Pa(0x1_4000_0000);
/// Half of the pages lie in a region of their own that may go offline.
const PAGES: u64 = 20;
/// Table or page, accessed, for all.
const VALID: u64 = 0b11 | 1 << 10 | 3 << 8 | 0xf << 2 | 3 << 6;
const READ: AtKind = AtKind {
    both: true,
    el: 1,
    write: false,
};

/// Page numbers of the tables, upper levels first: two of each kind, which registers or descriptors may choose.
const STAGE1: [[u64; 3]; 2] = [[0, 1, 2], [11, 12, 13]];
const STAGE2: [[u64; 3]; 2] = [[3, 4, 5], [14, 15, 16]];

fn page(number: u64) -> Pa {
    RAM + number * PAGE_SIZE
}

fn set(pe: &mut Pe, name: &str, value: u64) {
    let register = register(name).expect("a register of that name");
    assert!(pe.set_register(register, value), "{name}");
}

fn write(pe: &mut Pe, table: u64, slot: u64, desc: u64) {
    pe.memory_mut().write_u64(page(table) + slot * 8, desc);
}

/// Both stages in 3 levels; all pages of the memory are mapped on to themselves, by the second tables on to their neighbours.
fn machine() -> Pe {
    let regions = [0, 1].map(|half| Region::ram(page(half * PAGES / 2), PAGES / 2 * PAGE_SIZE, format!("ram{half}")));
    let mut pe = Pe::new(regions.into(), Features::default(), TlbMode::Off, 1).expect("two regions");
    for tables in [STAGE1, STAGE2] {
        for (other, [root, middle, last]) in tables.into_iter().enumerate() {
            write(&mut pe, root, RAM.0 >> 30, page(middle).0 | VALID);
            write(&mut pe, middle, 0, page(last).0 | VALID);
            for number in 0..PAGES {
                write(&mut pe, last, number, page(number ^ other as u64).0 | VALID);
            }
        }
    }
    // The last table of stage 1 is Device memory with FWB, which a walk may not read with PTW.
    let [_, _, table] = STAGE1[0];
    write(
        &mut pe,
        STAGE2[0][2],
        table,
        page(table).0 | VALID & !(0xf << 2) | 9 << 2,
    );
    for (name, value) in [
        ("MAIR_EL1", 0xf0ff),
        ("TCR_EL1", tcr(0)),
        ("TTBR0_EL1", page(STAGE1[0][0]).0),
        ("VTCR_EL2", vtcr(0)),
        ("VTTBR_EL2", page(STAGE2[0][0]).0),
        ("HCR_EL2", hcr(0)),
        ("SCTLR_EL1", 1 | 1 << 2 | 1 << 12),
    ] {
        set(&mut pe, name, value);
    }
    for number in (0..PAGES).cycle().take(64) {
        pe.check(Va(page(number).0), 8, false).expect("all pages are mapped");
    }
    pe
}

/// 39 bits; HA and HD by the choice, and output addresses of 40 or 32 bits.
const fn tcr(choice: u64) -> u64 {
    0x19 | output_size(choice) << 32 | (choice & 3) << 39
}

/// The same of stage 2, from level 1.
const fn vtcr(choice: u64) -> u64 {
    0x19 | 1 << 6 | output_size(choice) << 16 | (choice & 3) << 21
}

const fn output_size(choice: u64) -> u64 {
    if choice < 8 { 2 } else { 0 }
}

/// Stage 2; PTW and FWB by the choice.
const fn hcr(choice: u64) -> u64 {
    1 << 31 | 1 | (choice & 1) << 2 | (choice >> 1 & 1) << 46
}

#[derive(Clone, Debug)]
enum Op {
    Walk {
        number: u64,
        write: bool,
    },
    /// Leads to another page, or has other bits only.
    Write {
        table: u64,
        slot: u64,
        to: Option<u64>,
        bits: u64,
    },
    /// What the machine started with.
    Restore {
        table: u64,
        slot: u64,
    },
    Zero(u64),
    Copy(u64, u64),
    Set(&'static str, u64),
    Online(u64, bool),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let table = || prop::sample::select([STAGE1, STAGE2].as_flattened().as_flattened().to_vec());
    let slot = || prop_oneof![Just(0), Just(RAM.0 >> 30), 0..PAGES];
    let bits = prop_oneof![
        4 => Just(VALID),
        1 => Just(0),
        1 => Just(VALID & !(1 << 10)),
        1 => Just(VALID & !(1 << 6)),
        1 => Just(VALID & !(1 << 7) | 1 << 51),
        // Device memory in stage 2.
        3 => Just(VALID & !(0xf << 2)),
        1 => Just(VALID | 1 << 61),
    ];
    let root = |of: [[u64; 3]; 2]| (0usize..2).prop_map(move |other| page(of[other][0]).0);
    prop::collection::vec(
        prop_oneof![
            24 => (0..PAGES, any::<bool>()).prop_map(|(number, write)| Op::Walk { number, write }),
            6 => (table(), slot(), prop::option::of(0..PAGES), bits)
                .prop_map(|(table, slot, to, bits)| Op::Write { table, slot, to, bits }),
            8 => (table(), slot()).prop_map(|(table, slot)| Op::Restore { table, slot }),
            1 => table().prop_map(Op::Zero),
            1 => (table(), table()).prop_map(|(from, to)| Op::Copy(from, to)),
            1 => root(STAGE1).prop_map(|root| Op::Set("TTBR0_EL1", root)),
            1 => root(STAGE2).prop_map(|root| Op::Set("VTTBR_EL2", root)),
            2 => (0u64..10).prop_map(|choice| Op::Set("TCR_EL1", tcr(choice))),
            2 => (0u64..10).prop_map(|choice| Op::Set("VTCR_EL2", vtcr(choice))),
            4 => (0u64..4).prop_map(|choice| Op::Set("HCR_EL2", hcr(choice))),
            1 => (0u64..2, prop::bool::weighted(0.7)).prop_map(|(half, online)| Op::Online(half, online)),
        ],
        1..150,
    )
}

/// All words that tables have here.
fn words(pe: &Pe) -> Vec<u64> {
    let slots = (0..PAGES).flat_map(|table| (0..PAGES).map(move |slot| page(table) + slot * 8));
    slots.map(|slot| pe.memory().read_u64(slot)).collect()
}

#[test]
fn every_descriptor_is_shown_to_who_looks() {
    let mut pe = machine();
    let mut seen = 0;

    pe.at(READ, Va(page(7).0), &mut |_, _| seen += 1);

    assert_eq!(seen, 3 * (3 + 1) + 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn walks_from_a_kept_table_are_walks_from_the_root(ops in ops()) {
        let origin = machine();
        let original = |table, slot: u64| origin.memory().read_u64(page(table) + slot * 8);
        let mut pe = machine();

        for op in ops {
            match op {
                Op::Walk { number, write } => {
                    let va = Va(page(number).0);
                    let mut plain = pe.clone();
                    prop_assert_eq!(
                        pe.at(READ, va, &mut Untraced),
                        plain.at(READ, va, &mut Untraced)
                    );
                    prop_assert_eq!(pe.check(va, 8, write), plain.check(va, 8, write));
                    prop_assert_eq!(words(&pe), words(&plain));
                }
                Op::Write { table, slot, to, bits } => {
                    let to = to.map_or(original(table, slot) & !VALID, |to| page(to).0);
                    write(&mut pe, table, slot, to | bits);
                }
                Op::Restore { table, slot } => write(&mut pe, table, slot, original(table, slot)),
                Op::Zero(table) => pe.memory_mut().zero_page(page(table).pfn()),
                Op::Copy(from, to) => pe.memory_mut().copy_page(page(from).pfn(), page(to).pfn()),
                Op::Set(name, value) => set(&mut pe, name, value),
                Op::Online(half, online) => {
                    pe.memory_mut().set_online(page(half * PAGES / 2), online).expect("a region starts there");
                }
            }
        }
    }
}
