//! Translation through both stages, on hand-made tables.
//!
//! One bench for all: 39-bit spaces of 4 KiB pages, whose stage-1 pages lie at IPA [`IPA`] and whose stage-2 pages lie at PA
//! [`PA`]. Every table of stage 1 has a stage-2 page of its own. What the walk itself does is tested in `walk`.

mod at;
mod granules;
mod halves;
mod hierarchical;
mod memory_types;
mod permissions;
mod stage1_off;
mod tables;
mod tags;
mod updates;

use std::collections::BTreeMap;

use super::{Controls, Translated, translate};
use crate::access::{AccessDesc, AccessKind, TagUse};
use crate::addr::{Pa, Va};
use crate::fault::{Access, Fault, FaultKind, Stage};
use crate::features::Features;
use crate::regs::{HcrEl2, SctlrEl1, SysRegs, TcrEl1, TcrEl2, VtcrEl2, VttbrEl2};
use crate::walk::{DescriptorSource, Level};

/// The first page of the lower half that is mapped, by entry 1 of level 1.
const VA: u64 = 0x4000_0000;
/// Where stage 1 puts it.
const IPA: u64 = 0x8000_0000;
/// Where stage 2 puts that.
const PA: u64 = 0xc000_0000;
/// The tables of stage 1, level 1 to 3, each a page; as IPAs and, through stage 2, as physical addresses.
const S1_TABLES: u64 = 0x10_0000;
/// The tables of stage 2: level 1, then levels 2 and 3 for data and for the tables of stage 1.
const S2_TABLES: u64 = 0x20_0000;
const PAGE: u64 = 0x1000;

const AF: u64 = 1 << 10;
const NG: u64 = 1 << 11;
const DBM: u64 = 1 << 51;
/// Stage 1: EL0 too, and read-only.
const AP1: u64 = 1 << 6;
const AP2: u64 = 1 << 7;
const PXN: u64 = 1 << 53;
const UXN: u64 = 1 << 54;
/// Stage 2: read and write.
const S2_R: u64 = 1 << 6;
const S2_W: u64 = 1 << 7;
/// Attribute indices of [`MAIR`].
const ATTR_WB: u64 = 0;
const ATTR_TAGGED: u64 = 1 << 2;
const ATTR_DEVICE: u64 = 2 << 2;
const ATTR_NC: u64 = 3 << 2;
const ATTR_WT: u64 = 4 << 2;
/// Write-Back, Tagged, Device-nGnRE, Non-cacheable, Write-Through with read allocation alone.
const MAIR: u64 = 0xaa_4404_f0ff;
/// Stage 2 `MemAttr`, FWB = 0.
const S2_WB: u64 = 0xf << 2;
const S2_DEVICE: u64 = 1 << 2;
/// A stage-2 page that allows everything.
const S2_ALL: u64 = S2_WB | S2_R | S2_W | AF;

/// Words that are not named are 0; nothing answers in `absent`.
#[derive(Clone, Default)]
struct Tables {
    words: BTreeMap<u64, u64>,
    absent: Option<u64>,
}

impl DescriptorSource for Tables {
    fn read_descriptor(&mut self, pa: Pa) -> Option<u64> {
        if self.absent == Some(pa.0 & !(PAGE - 1)) {
            return None;
        }
        Some(self.words.get(&pa.0).copied().unwrap_or(0))
    }

    fn write_descriptor(&mut self, pa: Pa, desc: u64) {
        assert_ne!(self.words.insert(pa.0, desc), Some(desc), "a needless update of {pa}");
    }
}

/// Registers and tables.
#[derive(Clone)]
struct Bench {
    sys: SysRegs,
    features: Features,
    tables: Tables,
}

impl Bench {
    /// Stage 1 on, of both EL1&0 and EL2; stage 2 off.
    fn new() -> Self {
        let sctlr = SctlrEl1::new().with_m(true).with_c(true).with_i(true);
        let sys = SysRegs {
            sctlr_el1: sctlr,
            tcr_el1: TcrEl1::new().with_t0sz(25).with_t1sz(25).with_tg1(2).with_ips(5),
            ttbr0_el1: S1_TABLES,
            ttbr1_el1: S1_TABLES,
            mair_el1: MAIR,
            hcr_el2: HcrEl2::new(),
            vtcr_el2: VtcrEl2::new().with_t0sz(25).with_sl0(1).with_ps(5),
            vttbr_el2: VttbrEl2::for_table(Pa(S2_TABLES), 1),
            sctlr_el2: sctlr,
            tcr_el2: TcrEl2::new().with_t0sz(25).with_ps(5),
            ttbr0_el2: S1_TABLES,
            mair_el2: MAIR,
        };
        let table = |at: u64| at | 0b11;
        let words = [
            (S1_TABLES + 8, table(S1_TABLES + PAGE)),
            (S1_TABLES + PAGE, table(S1_TABLES + 2 * PAGE)),
            // Data: IPA 0x8000_0000, entry 2 of level 1.
            (S2_TABLES + 16, table(S2_TABLES + PAGE)),
            (S2_TABLES + PAGE, table(S2_TABLES + 2 * PAGE)),
            // Tables of stage 1: IPA 0x10_0000, entry 0 of levels 1 and 2.
            (S2_TABLES, table(S2_TABLES + 3 * PAGE)),
            (S2_TABLES + 3 * PAGE, table(S2_TABLES + 4 * PAGE)),
        ];
        let mut bench = Self {
            sys,
            features: Features::empty(),
            tables: Tables {
                words: words.into(),
                absent: None,
            },
        };
        for level in 1..=3 {
            bench = bench.s2_table(level, S2_ALL);
        }
        bench
    }

    /// With stage 2 on, and page 0 allowed everything there.
    fn two_stages() -> Self {
        let mut bench = Self::new();
        bench.sys.hcr_el2.set_vm(true);
        bench.s2(0, S2_ALL)
    }

    fn with_sys(mut self, change: impl FnOnce(&mut SysRegs)) -> Self {
        change(&mut self.sys);
        self
    }

    fn with_features(mut self, features: Features) -> Self {
        self.features = features;
        self
    }

    fn set(mut self, at: u64, desc: u64) -> Self {
        self.tables.words.insert(at, desc);
        self
    }

    /// The stage-1 leaf of a page.
    fn s1(self, page: u64, bits: u64) -> Self {
        self.set(s1_leaf(page), (IPA + page * PAGE) | bits | 0b11)
    }

    /// The stage-2 leaf of a page of data.
    fn s2(self, page: u64, bits: u64) -> Self {
        self.set(s2_leaf(page), (PA + page * PAGE) | bits | 0b11)
    }

    /// The stage-2 leaf of the stage-1 table of a level.
    fn s2_table(self, level: u64, bits: u64) -> Self {
        self.set(s2_leaf_of_table(level), (S1_TABLES + (level - 1) * PAGE) | bits | 0b11)
    }

    fn word(&self, at: u64) -> u64 {
        self.tables.words[&at]
    }

    fn translate_at(&mut self, va: u64, access: &AccessDesc) -> Result<Translated, Fault> {
        let controls = Controls::new(&self.sys, self.features);
        translate(&mut self.tables, &controls, Va(va), access, &mut |_, _| ())
    }

    /// Translates the first page at offset 0x238.
    fn translate(&mut self, access: &AccessDesc) -> Result<Translated, Fault> {
        self.translate_at(VA + 0x238, access)
    }

    #[track_caller]
    fn ok(&mut self, access: &AccessDesc) -> Translated {
        self.translate(access).expect("a translation")
    }

    /// The fault of an access that changes no descriptor.
    #[track_caller]
    fn fault(&mut self, access: &AccessDesc) -> Fault {
        let before = self.tables.words.clone();
        let fault = self.translate(access).expect_err("a fault");
        assert_eq!(self.tables.words, before, "a descriptor changed before {fault}");
        fault
    }

    /// What kind of fault, of which stage and level.
    #[track_caller]
    fn kind(&mut self, access: &AccessDesc) -> (FaultKind, Stage, i8) {
        let fault = self.fault(access);
        (fault.kind, fault.stage, fault.level)
    }
}

const fn s1_leaf(page: u64) -> u64 {
    S1_TABLES + 2 * PAGE + 8 * page
}

const fn s2_leaf(page: u64) -> u64 {
    S2_TABLES + 2 * PAGE + 8 * page
}

const fn s2_leaf_of_table(level: u64) -> u64 {
    S2_TABLES + 4 * PAGE + 8 * (S1_TABLES / PAGE + level - 1)
}

const fn read(el: u8) -> AccessDesc {
    AccessDesc::new(AccessKind::Data, el, false, 8)
}

const fn write(el: u8) -> AccessDesc {
    AccessDesc::new(AccessKind::Data, el, true, 8)
}

const fn fetch(el: u8) -> AccessDesc {
    AccessDesc::new(AccessKind::Fetch, el, false, 4)
}

fn tag_store(el: u8) -> AccessDesc {
    AccessDesc {
        tags: TagUse::Access,
        ..AccessDesc::new(AccessKind::Tag, el, true, 16)
    }
}
