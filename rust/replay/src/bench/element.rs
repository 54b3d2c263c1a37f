//! Benchmarks of the bare processing element: accesses that hit its TLB, walks that miss it, blocks of tags.
//!
//! Models nothing: the machine is EL1 with both stages on and synchronous checks, 64 MiB of Tagged memory with a tag for each
//! 64 KiB. Left out: faults, which no access here takes. The invariant: ours and floor get the same pointers in the same
//! order.

use std::cell::RefCell;

use tagvisor_arch::{AtKind, Features, Level, PAGE_SIZE, Pa, Stage, Tag, Trace, Untraced, Va, register};
use tagvisor_mem::{Pe, Region, TlbMode};

use super::{interleave, time};
use crate::floor::{PagedMemory, WalkedMemory};
use crate::rng::SplitMix64;

const REGION: u64 = 64 << 20;
const CHUNK: u64 = 64 << 10;
const RAM: u64 = 0x4000_0000;
/// Where the tables lie; everything behind the data.
const TABLES: u64 = RAM + (96 << 20);
/// Virtual, intermediate and physical address of the data.
const DATA: u64 = RAM;
const BLOCK: u64 = 256;

/// Page or table, accessed, inner shareable.
const LEAF: u64 = 0b11 | 1 << 10 | 3 << 8;
/// Stage 2: Write-Back, readable and writable.
const STAGE2_LEAF: u64 = LEAF | 0xf << 2 | 3 << 6;

fn tag_at(offset: u64) -> Tag {
    Tag::new((offset / CHUNK % 15 + 1) as u8)
}

/// Builds a 4 KiB-granule table tree that maps `pages` pages of `from` on to themselves; the root's address.
///
/// `levels` counts from the last one; the root covers what one table does.
fn identity_tables(pe: &mut Pe, next: &mut u64, levels: u32, from: u64, bytes: u64, leaf: u64) -> u64 {
    let mut table = || {
        let table = *next;
        *next += PAGE_SIZE;
        table
    };
    let root = table();
    for address in (from..from + bytes).step_by(PAGE_SIZE as usize) {
        let mut at = root;
        for level in (0..levels).rev() {
            let slot = Pa(at + (address >> (12 + 9 * level) & 511) * 8);
            if level == 0 {
                pe.memory_mut().write_u64(slot, address | leaf);
                break;
            }
            let found = pe.memory().read_u64(slot);
            at = if found == 0 {
                let below = table();
                pe.memory_mut().write_u64(slot, below | 3);
                below
            } else {
                found & !3
            };
        }
    }
    root
}

/// The machine: 48-bit addresses in 4 levels of stage 1, 39-bit in 3 levels of stage 2.
fn element(tlb: TlbMode) -> (Pe, [u64; 2]) {
    let ram = Region::ram(Pa(RAM), 256 << 20, "ram");
    let mut pe = Pe::new(vec![ram], Features::default(), tlb, 1).expect("one region");
    let mut next = TABLES;
    let stage1 = identity_tables(&mut pe, &mut next, 4, DATA, REGION, LEAF);
    // Stage 2 maps the tables of stage 1 as well.
    let stage2 = identity_tables(&mut pe, &mut next, 3, RAM, 128 << 20, STAGE2_LEAF);
    for (name, value) in [
        ("MAIR_EL1", 0xf0),
        ("TCR_EL1", 0x10 | 2 << 32 | 3 << 37),
        ("TTBR0_EL1", stage1),
        ("VTCR_EL2", 0x19 | 1 << 6 | 2 << 16),
        ("VTTBR_EL2", stage2),
        ("HCR_EL2", 1 << 31 | 1 << 56 | 1),
        ("SCTLR_EL1", 1 | 1 << 2 | 1 << 12 | 1 << 40 | 1 << 43),
    ] {
        let register = register(name).expect("a register of that name");
        assert!(pe.set_register(register, value), "{name}");
    }
    (pe, [stage1, stage2])
}

/// Accesses all over the region: a processing element that has been there before, and the floor's memory.
pub struct Accesses {
    pe: Pe,
    floor: PagedMemory,
    pointers: Vec<u64>,
}

impl Accesses {
    /// One access at each multiple of 8.
    pub fn sequential(seed: u64) -> Self {
        Self::new(seed, REGION / 8, |_, i| i * 8)
    }

    /// As many at random multiples of 8.
    pub fn random(seed: u64) -> Self {
        Self::new(seed, REGION / 8, |rng, _| rng.below(REGION / 8) * 8)
    }

    /// One at the start of each block of 16 granules.
    pub fn blocks(seed: u64) -> Self {
        Self::new(seed, REGION / BLOCK, |_, i| i * BLOCK)
    }

    fn new(seed: u64, count: u64, mut place: impl FnMut(&mut SplitMix64, u64) -> u64) -> Self {
        let (mut pe, _) = element(TlbMode::On);
        for chunk in (0..REGION).step_by(CHUNK as usize) {
            pe.memory_mut().fill_tags(Pa(DATA + chunk), CHUNK, tag_at(chunk));
        }
        for page in (0..REGION).step_by(PAGE_SIZE as usize) {
            let pointer = Va(DATA + page).with_tag(tag_at(page));
            pe.store(pointer, 8, page)
                .expect("every page is mapped, writable and has this tag");
        }
        let mut rng = SplitMix64::new(seed);
        let pointers = (0..count).map(|i| {
            let offset = place(&mut rng, i);
            Va(DATA + offset).with_tag(tag_at(offset)).0
        });
        Self {
            pointers: pointers.collect(),
            floor: PagedMemory::new(DATA / PAGE_SIZE, (REGION / PAGE_SIZE) as usize, |page| {
                tag_at(page as u64 * PAGE_SIZE).get()
            }),
            pe,
        }
    }

    /// How many accesses.
    pub fn count(&self) -> u64 {
        self.pointers.len() as u64
    }

    /// Checked loads of 8 bytes; their sum.
    #[inline(never)]
    pub fn load_all(&mut self) -> u64 {
        let mut sum = 0_u64;
        for &pointer in &self.pointers {
            sum = sum.wrapping_add(self.pe.load(Va(pointer), 8).expect("a hit"));
        }
        sum
    }

    /// The same by the floor.
    pub fn load_all_by_floor(&self) -> u64 {
        self.floor.load_all(&self.pointers)
    }

    /// Checks without data.
    #[inline(never)]
    pub fn check_all(&mut self) {
        for &pointer in &self.pointers {
            self.pe.check(Va(pointer), 8, false).expect("a hit");
        }
    }

    /// `STGM`, which gives every granule the tag it has.
    #[inline(never)]
    pub fn stgm_all(&mut self) {
        for &pointer in &self.pointers {
            let tags = u64::from(Va(pointer).tag().get()) * 0x1111_1111_1111_1111;
            self.pe.stgm(Va(pointer), tags).expect("a hit");
        }
    }

    /// `LDGM`; the sum of what it read.
    #[inline(never)]
    pub fn ldgm_all(&mut self) -> u64 {
        let mut sum = 0_u64;
        for &pointer in &self.pointers {
            sum = sum.wrapping_add(self.pe.ldgm(Va(pointer)).expect("a hit"));
        }
        sum
    }
}

pub(super) fn access(setting: &mut Accesses) -> (f64, f64) {
    assert_eq!(setting.load_all(), setting.load_all_by_floor());
    let count = setting.count() as u32;
    let setting = RefCell::new(setting);
    interleave(
        count,
        || time(|| setting.borrow_mut().load_all()),
        || time(|| setting.borrow().load_all_by_floor()),
    )
}

pub(super) fn check(setting: &mut Accesses) -> (f64, f64) {
    let setting = RefCell::new(setting);
    let count = setting.borrow().count() as u32;
    interleave(
        count,
        || time(|| setting.borrow_mut().check_all()),
        || time(|| setting.borrow().load_all_by_floor()),
    )
}

pub(super) fn stgm(setting: &mut Accesses) -> (f64, f64) {
    beside_loads(setting, Accesses::stgm_all)
}

pub(super) fn ldgm(setting: &mut Accesses) -> (f64, f64) {
    beside_loads(setting, |setting| {
        std::hint::black_box(setting.ldgm_all());
    })
}

fn beside_loads(setting: &mut Accesses, instruction: fn(&mut Accesses)) -> (f64, f64) {
    let setting = RefCell::new(setting);
    let count = setting.borrow().count() as u32;
    interleave(
        count,
        || time(|| instruction(*setting.borrow_mut())),
        || time(|| setting.borrow_mut().load_all()),
    )
}

/// Walks of both stages over 16 MiB, at random. The tables stay as they are, so that ours may begin at the last table of
/// each stage, as its memory allows while that is exact, and then reads two descriptors; the floor reads all 19.
pub struct Walks {
    pe: Pe,
    floor: WalkedMemory,
    addresses: Vec<u64>,
}

impl Walks {
    /// Addresses by the seed.
    pub fn new(seed: u64) -> Self {
        const WALKS: u64 = 1 << 16;
        const SPAN: u64 = 16 << 20;
        let (pe, [stage1, stage2]) = element(TlbMode::Off);
        let words = (0..(16 << 20) / 8).map(|word| pe.memory().read_u64(Pa(TABLES + word * 8)));
        let floor = WalkedMemory::new(words.collect(), TABLES, stage1, stage2);
        let mut rng = SplitMix64::new(seed);
        Self {
            pe,
            floor,
            addresses: (0..WALKS).map(|_| DATA + rng.below(SPAN / 8) * 8).collect(),
        }
    }

    /// How many walks.
    pub fn count(&self) -> u64 {
        self.addresses.len() as u64
    }

    /// The sum of the pages found.
    #[inline(never)]
    pub fn walk_all(&mut self) -> u64 {
        self.walk_all_seen_by(&mut Untraced)
    }

    /// The same, with every descriptor read: a walk that somebody looks at begins at no table that memory keeps.
    #[inline(never)]
    pub fn walk_all_from_root(&mut self) -> u64 {
        self.walk_all_seen_by(&mut |_: Stage, _: Level| {})
    }

    #[inline]
    fn walk_all_seen_by(&mut self, trace: &mut impl Trace) -> u64 {
        const PAGE: u64 = 0x000f_ffff_ffff_f000;
        let kind = AtKind {
            both: true,
            el: 1,
            write: false,
        };
        let mut sum = 0_u64;
        for &address in &self.addresses {
            sum = sum.wrapping_add(self.pe.at(kind, Va(address), trace) & PAGE);
        }
        sum
    }

    /// The same by the floor.
    pub fn walk_all_by_floor(&self) -> u64 {
        self.floor.walk_all(&self.addresses)
    }
}

pub(super) fn walk(setting: &mut Walks, ours: fn(&mut Walks) -> u64) -> (f64, f64) {
    assert_eq!(ours(setting), setting.walk_all_by_floor());
    let count = setting.count() as u32;
    let setting = RefCell::new(setting);
    interleave(
        count,
        || time(|| ours(*setting.borrow_mut())),
        || time(|| setting.borrow().walk_all_by_floor()),
    )
}
