//! The hot path of single accesses: pages that were accessed before, in few instructions.
//!
//! Models nothing of its own: a hit here is one that the TLB has, inside a page, of memory that is no Device, with the
//! permission and, if tags are checked, with matching tags. Everything else goes the long way, which also decides what a
//! mismatch means. Left out: checking TLBs, which look at every use. The invariant: what is near was put there in the same
//! state (context, exception level, PAN) that it is found in.

use tagvisor_arch::{AccessDesc, AccessKind, GRANULE_SIZE, Grants, MemTag, PAGE_SIZE, Va};

use super::Pe;
use super::cache::{Contexts, TlbMode};
use crate::tlb::{Context, MicroTlb, MicroTlbEntry, TlbFlags};

/// log2 of the pages that are near.
const NEAR_BITS: u32 = 14;
/// States told apart; with one more, all is forgotten.
const MOST_STATES: usize = 64;
/// A virtual page number has 44 bits; the state's number stands above.
const STATE_SHIFT: u32 = 44;

/// What a near translation depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    context: Context,
    el: u8,
    pan: bool,
    stage1: bool,
}

/// The near pages, and what the current state means for them.
#[derive(Clone, Debug)]
pub(super) struct Hot {
    near: MicroTlb,
    on: bool,
    states: Vec<State>,
    /// The number of the current state, shifted; `None` if it has to be looked at again.
    current: Option<u64>,
    /// Tags are compared at the current level.
    checked: bool,
    /// Tags may be accessed at the current level.
    ata: bool,
    /// The top byte of every pointer is ignored; otherwise only canonical pointers are near.
    any_top_byte: bool,
}

impl Hot {
    pub(super) fn new(mode: TlbMode) -> Self {
        Self {
            near: MicroTlb::new(NEAR_BITS),
            on: mode == TlbMode::On,
            states: Vec::new(),
            current: None,
            checked: false,
            ata: false,
            any_top_byte: false,
        }
    }

    /// Registers may have changed.
    pub(super) const fn forget_state(&mut self) {
        self.current = None;
    }

    /// Translations were invalidated.
    pub(super) fn forget_translations(&mut self) {
        self.near.invalidate_all();
        self.current = None;
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
    /// The frame of a near page, for an access that passes.
    #[inline]
    pub(super) fn hit(&self, va: Va, size: u8, write: bool) -> Option<u32> {
        let entry = self.near(va, write)?;
        let offset = va.page_offset();
        let last = offset + u64::from(size) - 1;
        if last >= PAGE_SIZE {
            return None;
        }
        if self.hot.checked && entry.flags.contains(TlbFlags::TAGGED) {
            let tag_of = |offset: u64| self.mem.frame_tag(entry.frame, (offset / GRANULE_SIZE) as usize);
            if tag_of(offset) != va.tag() || tag_of(last) != va.tag() {
                return None;
            }
        }
        // Three granules or more: the middle ones are looked at the long way.
        (size <= 16).then_some(entry.frame)
    }

    /// The frame of a near page whose tags can be accessed.
    #[inline]
    pub(super) fn tag_hit(&self, va: Va, write: bool) -> Option<u32> {
        let entry = self.near(va, write)?;
        (self.hot.ata && entry.flags.contains(TlbFlags::TAGGED)).then_some(entry.frame)
    }

    #[inline]
    fn near(&self, va: Va, write: bool) -> Option<&MicroTlbEntry> {
        let state = self.hot.current?;
        if !(self.hot.any_top_byte || va.untagged() == va) {
            return None;
        }
        let need = if write { TlbFlags::WRITE } else { TlbFlags::READ };
        let entry = self.hot.near.lookup(va.vpn() | state)?;
        entry.flags.contains(need).then_some(entry)
    }

    /// Puts the page of an access near, if the TLB has it or walking succeeds; what goes wrong is found out the long way.
    pub(super) fn bring_near(&mut self, va: Va, write: bool) {
        if !self.hot.on {
            return;
        }
        self.look_at_state();
        if self.near(va, write).is_some() {
            return;
        }
        let Some(state) = self.hot.current else { return };
        let (el, pan) = (self.core.cpu.el, self.core.cpu.pan);
        let access = AccessDesc {
            pan: pan && el == 1,
            ..AccessDesc::new(AccessKind::Data, el, write, 1)
        };
        let (_, mut mmu) = self.split();
        if tagvisor_arch::Mmu::translate(&mut mmu, va, &access).is_err() {
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
        flags.set(TlbFlags::TAGGED, tagged);
        let frame = mmu.mem.touch(pfn);
        self.hot.near.fill(MicroTlbEntry {
            page: va.vpn() | state,
            frame,
            flags,
        });
    }

    /// Works out what the registers mean for near pages.
    fn look_at_state(&mut self) {
        if self.hot.current.is_some() {
            return;
        }
        let cpu = &self.core.cpu;
        let controls = &cpu.controls[cpu.el as usize];
        // A strict level checks alignment first, which is done the long way.
        if controls.strict_alignment {
            return;
        }
        self.hot.checked = controls.ata && !cpu.tco && controls.tcf != tagvisor_arch::Tcf::None;
        self.hot.ata = controls.ata;
        self.hot.any_top_byte = self.controls.ignores_top_byte(cpu.el);
        let state = State {
            context: Contexts::from(self.core.sys()).of(cpu.el),
            el: cpu.el,
            pan: cpu.pan,
            stage1: self.controls.has_stage1(cpu.el),
        };
        self.hot.current = Some(self.hot.number_of(state));
    }
}
