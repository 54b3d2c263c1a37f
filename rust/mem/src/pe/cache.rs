//! The TLB of a processing element, and what a checking one notices.
//!
//! Models three ways to run: without a TLB; with one that keeps what it has until a `TLBI` removes it; and with one that
//! also compares each use with the tables, and each removal with what the tables say by then. Left out: walk caches. The
//! invariant: checking changes no answer.

use tagvisor_arch::{Grants, Ipa, MemTag, Pa, SysRegs, Translated, Va};

use crate::tlb::{Context, Regime, Tlb, TlbEntry};

/// log2 of the sets of 4 entries.
const SET_BITS: u32 = 8;
/// Reports kept; a loop over a stale page would fill memory with them.
const MOST_REPORTS: usize = 1000;

/// How translations are cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TlbMode {
    /// Not at all: every access walks.
    #[default]
    Off,
    /// As hardware may: until invalidated.
    On,
    /// As `On`, with every use and removal compared with the tables.
    Check,
}

/// What is wrong with the use of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StaleUse {
    /// An access was translated by an entry that the tables no longer agree with: a `TLBI` is missing.
    Used,
    /// A descriptor went from one valid translation to another that needs a break before make (Arm ARM D8.17): it was still
    /// cached when the new one was there.
    NotBroken,
}

/// What a checking TLB noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlbReport {
    /// What happened.
    pub what: StaleUse,
    /// For an access or a removal of this address.
    pub va: Va,
    /// Where the entry leads.
    pub cached: Pa,
    /// Where the tables lead now; `None` for a fault.
    pub now: Option<Pa>,
}

/// What a hit needs besides the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cached {
    pub(super) grants: Grants,
    pub(super) tags: MemTag,
    pub(super) device: bool,
    pub(super) no_tag_access: bool,
    /// The memory type, as `PAR_EL1` has it.
    mair: u8,
}

/// The contexts of both regimes under the registers in force.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contexts {
    el10: Context,
    el2: Context,
}

impl From<&SysRegs> for Contexts {
    fn from(sys: &SysRegs) -> Self {
        let el10 = Context {
            regime: Regime::El10,
            vmid: sys.vmid(),
            asid: sys.asid(),
        };
        Self {
            el10,
            el2: Context {
                regime: Regime::El2,
                vmid: None,
                asid: 0,
            },
        }
    }
}

impl Contexts {
    pub(super) const fn of(&self, el: u8) -> Context {
        if el == 2 { self.el2 } else { self.el10 }
    }
}

/// The TLB, if there is one.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    pub(super) mode: TlbMode,
    pub(super) tlb: Tlb<Cached>,
    reports: Vec<TlbReport>,
}

impl Cache {
    pub(super) fn new(mode: TlbMode) -> Self {
        Self {
            mode,
            tlb: Tlb::new(SET_BITS),
            reports: Vec::new(),
        }
    }

    pub(super) fn reports(&self) -> &[TlbReport] {
        &self.reports
    }

    /// Compares an entry that is used for `va` with what the tables say now.
    pub(super) fn check_use(&mut self, entry: &TlbEntry<Cached>, va: Va, now: Option<&Translated>) {
        let same = now.is_some_and(|now| {
            let narrowed = !now.grants.contains(entry.payload.grants);
            now.pa == entry.translate(va) && now.attrs.to_mair() == entry.payload.mair && !narrowed
        });
        if !same {
            self.report(StaleUse::Used, entry, va, now);
        }
    }

    /// Compares an entry that is on its way out, or that a new one overlaps, with what the tables say now.
    pub(super) fn check_break(&mut self, entry: &TlbEntry<Cached>, va: Va, now: Option<&Translated>) {
        let made_without_break = now.is_some_and(|now| {
            now.pa != entry.translate(va)
                || now.attrs.to_mair() != entry.payload.mair
                || now.size.ilog2() != entry.bits
                || now.not_global == entry.global
        });
        if made_without_break {
            self.report(StaleUse::NotBroken, entry, va, now);
        }
    }

    fn report(&mut self, what: StaleUse, entry: &TlbEntry<Cached>, va: Va, now: Option<&Translated>) {
        if self.reports.len() < MOST_REPORTS {
            self.reports.push(TlbReport {
                what,
                va,
                cached: entry.translate(va),
                now: now.map(|now| now.pa),
            });
        }
    }
}

/// The entry for a translation of `va`.
pub(super) fn entry_of(context: Context, va: Va, found: &Translated, stage1: bool) -> TlbEntry<Cached> {
    let bits = found.size.ilog2();
    let start = |address: u64| address >> bits << bits;
    TlbEntry {
        context,
        global: !found.not_global,
        va: Va(start(va.0)),
        bits,
        stage1_bits: stage1.then(|| found.stage1_size.ilog2()),
        ipa: Ipa(start(found.ipa.0)),
        pa: Pa(start(found.pa.0)),
        payload: Cached {
            grants: found.grants,
            tags: found.attrs.tags,
            device: found.attrs.is_device(),
            no_tag_access: found.attrs.no_tag_access,
            mair: found.attrs.to_mair(),
        },
    }
}
