//! The processing element with its TLB: the machine of the tests and what they do to it.
//!
//! Models EL1 with stage 1 on, 39 bits, four pages of data, and stage 2 on request. Left out: everything that `tagvisor_arch`
//! tests by itself. The invariant: a test starts with nothing cached.

use tagvisor_arch::{FaultKind, Features, PAGE_SIZE, Pa, Stop, Tag, Va, register};

use super::{Pe, StaleUse, TlbMode};
use crate::region::{Region, RegionKind};

mod invalidation;
mod near;
mod outside;
mod random;
mod stale;

const RAM: u64 = 0x4000_0000;
/// Stage-1 tables: level 1, 2 and 3 of the lower half, 39 bits.
const TABLES: [u64; 3] = [RAM, RAM + PAGE_SIZE, RAM + 2 * PAGE_SIZE];
/// Stage-2 tables of the same shape.
const STAGE2: [u64; 3] = [RAM + 4 * PAGE_SIZE, RAM + 6 * PAGE_SIZE, RAM + 7 * PAGE_SIZE];
/// Pages to map.
const DATA: u64 = RAM + 0x10_0000;
/// The virtual page 0 of the tests.
const VA: u64 = 0x20_0000;

/// `MAIR_EL1` index 0 Tagged, 1 Device-nGnRE, 2 Write-Back.
const MAIR: u64 = 0x00ff_04f0;
/// Page, accessed, inner shareable, EL0 too.
const PAGE: u64 = 0b11 | 1 << 10 | 3 << 8 | 1 << 6;
const NOT_GLOBAL: u64 = 1 << 11;
const READ_ONLY: u64 = 1 << 7;

const TLBI_VMALLE1: u32 = 0xd508_871f;

fn set(pe: &mut Pe, name: &str, value: u64) {
    let register = register(name).unwrap_or_else(|| panic!("no register {name}"));
    assert!(pe.set_register(register, value));
}

/// EL1 with stage 1 on, synchronous checks and top-byte-ignore.
fn element(tlb: TlbMode) -> Pe {
    let regions = vec![
        Region::ram(Pa(RAM), 64 << 20, "ram"),
        Region {
            kind: RegionKind::RamNoTags,
            ..Region::ram(Pa(RAM + (64 << 20)), 1 << 20, "plain")
        },
    ];
    let mut pe = Pe::new(regions, Features::default(), tlb, 1).expect("a legal map");
    set(&mut pe, "MAIR_EL1", MAIR);
    set(&mut pe, "TCR_EL1", 0x19 | 2 << 32 | 3 << 37);
    set(&mut pe, "TTBR0_EL1", TABLES[0]);
    set(&mut pe, "HCR_EL2", 1 << 31 | 1 << 56);
    set(&mut pe, "SCTLR_EL1", 1 | 1 << 2 | 1 << 12 | 1 << 40 | 1 << 38 | 3 << 42);
    let [one, two, three] = TABLES;
    pe.memory_mut().write_u64(Pa(one), two | 3);
    pe.memory_mut().write_u64(Pa(two + 8), three | 3);
    pe
}

/// Maps virtual page `page` to data page `data`.
fn map(pe: &mut Pe, page: u64, data: u64, attributes: u64) {
    let pa = DATA + data * PAGE_SIZE;
    pe.memory_mut()
        .write_u64(Pa(TABLES[2] + 8 * page), pa | PAGE | attributes);
}

fn put(pe: &mut Pe, data: u64, value: u64) {
    pe.memory_mut().write_u64(Pa(DATA + data * PAGE_SIZE), value);
}

fn load(pe: &mut Pe, page: u64) -> Result<u64, FaultKind> {
    pe.load(Va(VA + page * PAGE_SIZE), 8).map_err(|fault| fault.kind)
}

fn tlbi(pe: &mut Pe, word: u32, operand: u64) {
    pe.core_mut().x[0] = operand;
    pe.execute(word).unwrap_or_else(|stop| panic!("{word:#x}: {stop:?}"));
}

/// Two data pages with a value each, and page 0 mapped to the first.
fn with_two_pages(tlb: TlbMode) -> Pe {
    let mut pe = element(tlb);
    put(&mut pe, 0, 0xaaaa);
    put(&mut pe, 1, 0xbbbb);
    map(&mut pe, 0, 0, 0);
    pe
}

/// Puts both stages on: stage 2 maps the first 2 MiB of RAM to themselves, but IPA page `ipa_page` of the data to another.
fn under_stage2(pe: &mut Pe, ipa_page: u64, data: u64) {
    let [one, two, three] = STAGE2;
    let leaf = |pa: u64| pa | 0b11 | 0xf << 2 | 3 << 6 | 1 << 10;
    pe.memory_mut().write_u64(Pa(one + 8), two | 3);
    pe.memory_mut().write_u64(Pa(two), three | 3);
    for page in 0..512 {
        pe.memory_mut()
            .write_u64(Pa(three + 8 * page), leaf(RAM + page * PAGE_SIZE));
    }
    let data_pages = (DATA - RAM) / PAGE_SIZE;
    pe.memory_mut()
        .write_u64(Pa(three + 8 * (data_pages + ipa_page)), leaf(DATA + data * PAGE_SIZE));
    set(pe, "VTCR_EL2", 0x19 | 1 << 6 | 2 << 16);
    set(pe, "VTTBR_EL2", 3 << 48 | one);
    set(pe, "HCR_EL2", 1 << 31 | 1 << 56 | 1);
}
