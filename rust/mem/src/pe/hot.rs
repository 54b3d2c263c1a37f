//! The hot path of single accesses: pages that were accessed before, in few instructions.
//!
//! Models nothing of its own: a hit here is one that the TLB has, inside a page, of memory that is no Device, with the
//! permission and, if tags are checked, with matching tags. Everything else goes the long way, which also decides what a
//! mismatch means. Left out: checking TLBs, which look at every use. The invariant: what is near was put there in the same
//! state (context, exception level, PAN, tag controls) that it is found in.

use tagvisor_arch::{AccessDesc, AccessKind, GRANULE_SIZE, Grants, MemTag, Mmu, PAGE_SHIFT, PAGE_SIZE, Tcf, Va};

use super::Pe;
use super::cache::{Contexts, TlbMode};
use crate::tlb::{Context, MicroTlb, MicroTlbEntry, TlbFlags};

/// log2 of the pages that are near.
const NEAR_BITS: u32 = 14;
/// States told apart; with one more, all is forgotten.
const MOST_STATES: usize = 64;
/// A page number of a whole pointer has 52 bits; the state's number stands above.
const STATE_SHIFT: u32 = 52;
/// The number of no state: nothing is near.
const UNKNOWN: u64 = 0xfff << STATE_SHIFT;
/// A pointer without its top byte.
const WITHOUT_TOP_BYTE: u64 = u64::MAX >> 8;

/// What a near translation depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    context: Context,
    el: u8,
    pan: bool,
    stage1: bool,
    /// Tags are compared.
    checked: bool,
    /// Tags may be accessed.
    ata: bool,
    /// What of a pointer is its address.
    address: u64,
}

/// The near pages, and the number of the current state.
#[derive(Clone, Debug)]
pub(super) struct Hot {
    near: MicroTlb,
    on: bool,
    states: Vec<State>,
    /// Shifted; [`UNKNOWN`] if the state has to be looked at again.
    current: u64,
    /// Of the current state.
    address: u64,
}

impl Hot {
    pub(super) fn new(mode: TlbMode) -> Self {
        Self {
            near: MicroTlb::new(NEAR_BITS),
            on: mode == TlbMode::On,
            states: Vec::new(),
            current: UNKNOWN,
            address: 0,
        }
    }

    /// Registers may have changed.
    pub(super) const fn forget_state(&mut self) {
        self.current = UNKNOWN;
    }

    /// Translations were invalidated.
    pub(super) fn forget_translations(&mut self) {
        self.near.invalidate_all();
        self.current = UNKNOWN;
    }

    /// What a page is near as: its number with the state's. Top bytes that are no address make no difference, and others one.
    #[inline]
    const fn key(&self, va: Va) -> u64 {
        (va.0 & self.address) >> PAGE_SHIFT | self.current
    }

    fn number_of(&mut self, state: State) -> u64 {
        let known = self.states.iter().position(|known| *known == state);
        let number = known.unwrap_or_else(|| {
            if self.states.len() == MOST_STATES {
                self.states.clear();
                self.near.invalidate_all();
            }
            self.states.push(state);
            self.states.len() - 1
        });
        (number as u64) << STATE_SHIFT
    }
}

impl Pe {
    /// The aligned 8 bytes of a near page that is checked and passes: what most loads are, in the fewest instructions.
    #[inline]
    pub(super) fn near_word(&self, va: Va) -> Option<u64> {
        let entry = self.near(va, TlbFlags::CHECKED_READ)?;
        if !va.0.is_multiple_of(8) {
            return None;
        }
        self.mem.frame_word_if_tagged(entry.frame, va, va.tag())
    }

    /// The frame of a near page, for an access that passes.
    #[inline]
    pub(super) fn hit(&self, va: Va, size: u8, write: bool) -> Option<u32> {
        let entry = self.near(va, if write { TlbFlags::WRITE } else { TlbFlags::READ })?;
        let (offset, size) = (va.page_offset(), u64::from(size));
        if offset + size > PAGE_SIZE {
            return None;
        }
        if entry.flags.contains(TlbFlags::CHECKED) {
            let tag_of = |offset: u64| self.mem.frame_tag(entry.frame, (offset / GRANULE_SIZE) as usize);
            if tag_of(offset) != va.tag() {
                return None;
            }
            // Three granules or more: the middle ones are looked at the long way.
            let crosses = offset % GRANULE_SIZE + size > GRANULE_SIZE;
            if crosses && (size > GRANULE_SIZE || tag_of(offset + size - 1) != va.tag()) {
                return None;
            }
        }
        Some(entry.frame)
    }

    /// The frame of a near page whose tags can be accessed.
    #[inline]
    pub(super) fn tag_hit(&self, va: Va, write: bool) -> Option<u32> {
        let need = if write { TlbFlags::WRITE } else { TlbFlags::READ };
        Some(self.near(va, need | TlbFlags::TAG_ACCESS)?.frame)
    }

    #[inline]
    fn near(&self, va: Va, need: TlbFlags) -> Option<MicroTlbEntry> {
        let entry = *self.hot.near.lookup(self.hot.key(va))?;
        entry.flags.contains(need).then_some(entry)
    }

    /// Puts the page of an access near, if the TLB has it or walking succeeds; what goes wrong is found out the long way.
    pub(super) fn bring_near(&mut self, va: Va, write: bool) {
        if !self.hot.on {
            return;
        }
        self.look_at_state();
        let need = if write { TlbFlags::WRITE } else { TlbFlags::READ };
        if self.hot.current == UNKNOWN || self.near(va, need).is_some() {
            return;
        }
        let (el, pan) = (self.core.cpu.el, self.core.cpu.pan);
        let access = AccessDesc {
            pan: pan && el == 1,
            ..AccessDesc::new(AccessKind::Data, el, write, 1)
        };
        let (_, mut mmu) = self.split();
        if mmu.translate(va, &access).is_err() {
            return;
        }
        let Some(entry) = mmu.hit(va, &access) else { return };
        let held = entry.payload;
        let pfn = entry.translate(va).pfn();
        let tagged = held.tags == MemTag::Allocation;
        // Memory without tag storage ignores tag stores, and canonical tags lie nowhere: the long way knows.
        if held.tags == MemTag::Canonical || tagged && !mmu.mem.has_tags(pfn) || held.no_tag_access || held.device {
            return;
        }
        let (read, written) = match (el, access.pan) {
            (0, _) => (Grants::EL0_READ, Grants::EL0_WRITE),
            (_, false) => (Grants::READ, Grants::WRITE),
            (_, true) => (Grants::PAN_READ, Grants::PAN_WRITE),
        };
        let mut flags = TlbFlags::empty();
        flags.set(TlbFlags::READ, held.grants.contains(read));
        flags.set(TlbFlags::WRITE, held.grants.contains(written));
        let state = self.hot.states[(self.hot.current >> STATE_SHIFT) as usize];
        flags.set(TlbFlags::TAGGED, tagged);
        flags.set(TlbFlags::CHECKED, tagged && state.checked);
        flags.set(TlbFlags::TAG_ACCESS, tagged && state.ata);
        flags.set(
            TlbFlags::CHECKED_READ,
            flags.contains(TlbFlags::READ | TlbFlags::CHECKED),
        );
        let frame = self.mem.touch(pfn);
        let page = self.hot.key(va);
        self.hot.near.fill(MicroTlbEntry { page, frame, flags });
    }

    /// Works out what the registers mean for near pages.
    fn look_at_state(&mut self) {
        let cpu = &self.core.cpu;
        let controls = &cpu.controls[cpu.el as usize];
        // A strict level checks alignment first, which is done the long way.
        if self.hot.current != UNKNOWN || controls.strict_alignment {
            return;
        }
        let any_top_byte = self.controls.ignores_top_byte(cpu.el);
        let state = State {
            context: Contexts::from(self.core.sys()).of(cpu.el),
            el: cpu.el,
            pan: cpu.pan,
            stage1: self.controls.has_stage1(cpu.el),
            checked: controls.ata && !cpu.tco && controls.tcf != Tcf::None,
            ata: controls.ata,
            address: if any_top_byte { WITHOUT_TOP_BYTE } else { u64::MAX },
        };
        self.hot.current = self.hot.number_of(state);
        self.hot.address = state.address;
    }
}
