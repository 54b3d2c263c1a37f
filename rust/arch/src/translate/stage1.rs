//! Stage 1: what `TCR_ELx`, `TTBRn_ELx`, `MAIR_ELx` and the tables they point to make of a pointer.
//!
//! Models the EL1&0 regime with both halves and the EL2 regime, on or off; where the tables lie is [`tables`](super::tables)'s.
//! Left out: what [`translate`](super) leaves out. The invariant: the update of a leaf is the last thing that may fail.

use super::tables::{Refused, Tables};
use super::{Controls, DBM, Trace, Translated, updated_desc};
use crate::access::{AccessDesc, AccessKind, Grants};
use crate::addr::{Ipa, PA_MAX_BITS, Pa, Va};
use crate::attr::{MemTag, MemoryAttributes, Shareability};
use crate::fault::{Fault, FaultKind, Stage};
use crate::features::Features;
use crate::regs::SysRegs;
use crate::walk::{DescriptorSource, Found, Regime, WalkFault};

/// `AP[2]`: read-only.
const AP2: u64 = 1 << 7;
/// `AP[1]`: EL0 too.
const AP1: u64 = 1 << 6;
/// nG: belongs to the current ASID.
const NG: u64 = 1 << 11;
const PXN: u64 = 1 << 53;
/// UXN, and XN in a regime without EL0.
const UXN: u64 = 1 << 54;
const AP_TABLE_RO: u64 = 1 << 62;
const AP_TABLE_NO_EL0: u64 = 1 << 61;
const UXN_TABLE: u64 = 1 << 60;
const PXN_TABLE: u64 = 1 << 59;
/// The memory type of fetches with stage 1 off and the instruction cache on: Write-Through, read-allocate.
const MAIR_WRITE_THROUGH: u8 = 0xaa;

/// One half of a stage-1 address space; EL2 has the same one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Half {
    /// `None`: every walk is a Translation fault at level 0.
    regime: Option<Regime>,
    /// The top byte is ignored.
    tbi: bool,
    /// Pointers have a tag whether or not the top byte is ignored (`FEAT_MTE4`).
    mtx: bool,
    /// Bits 59:56 are that tag and no address bits (`FEAT_MTE_NO_ADDRESS_TAGS`).
    tag_is_no_address: bool,
    /// Memory without allocation tags has canonical ones (`FEAT_MTE_CANONICAL_TAGS`).
    canonical_tags: bool,
    hpd: bool,
    e0pd: bool,
    shareability: Shareability,
}

/// A stage-1 regime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stage1 {
    pub(super) enabled: bool,
    /// With stage 1 off: `HCR_EL2.DC`, and then DCT.
    default_cacheable: Option<bool>,
    cacheable: bool,
    fetch_cacheable: bool,
    wxn: bool,
    epan: bool,
    mair: u64,
    /// EL1&0, which has an unprivileged level and two halves.
    unprivileged: bool,
    halves: [Half; 2],
}

impl Half {
    /// The lower or upper half of EL1&0.
    pub(crate) fn el1(sys: &SysRegs, features: Features, upper: bool) -> Self {
        let tcr = sys.tcr_el1;
        let (ttbr, tbi, mtx, hpd, e0pd, sh) = if upper {
            let high = (tcr.tbi1(), tcr.mtx1(), tcr.hpd1(), tcr.e0pd1());
            (sys.ttbr1_el1, high.0, high.1, high.2, high.3, tcr.sh1())
        } else {
            let low = (tcr.tbi0(), tcr.mtx0(), tcr.hpd0(), tcr.e0pd0());
            (sys.ttbr0_el1, low.0, low.1, low.2, low.3, tcr.sh0())
        };
        Self {
            regime: Regime::stage1_el1(tcr, ttbr, upper),
            hpd,
            e0pd,
            shareability: Shareability::from_bits(sh),
            ..Self::with_pointers(tbi, mtx, features)
        }
    }

    /// Either half of EL2.
    pub(crate) fn el2(sys: &SysRegs, features: Features) -> Self {
        let tcr = sys.tcr_el2;
        Self {
            regime: Regime::stage1_el2(tcr, sys.ttbr0_el2),
            hpd: tcr.hpd(),
            shareability: Shareability::from_bits(tcr.sh0()),
            ..Self::with_pointers(tcr.tbi(), tcr.mtx(), features)
        }
    }

    /// What the top byte of a pointer means.
    fn with_pointers(tbi: bool, mtx: bool, features: Features) -> Self {
        Self {
            regime: None,
            tbi,
            mtx: mtx && features.has_mtx(),
            tag_is_no_address: mtx && features.contains(Features::MTE_NO_ADDRESS_TAGS),
            canonical_tags: mtx && features.contains(Features::MTE_CANONICAL_TAGS),
            hpd: false,
            e0pd: false,
            shareability: Shareability::Non,
        }
    }

    /// Whether pointers have a logical tag (`EffectiveTBI`, `EffectiveMTX`).
    pub(crate) fn has_tag(&self) -> bool {
        self.tbi || self.mtx
    }

    /// The pointer with what is no address made canonical: the top byte, or the tag alone.
    fn address(&self, va: Va) -> u64 {
        const TAG: u64 = 0xf << 56;
        let upper = va.0 >> 55 & 1 != 0;
        match (self.tbi, self.tag_is_no_address) {
            (true, _) => va.untagged().0,
            (false, true) if upper => va.0 | TAG,
            (false, true) => va.0 & !TAG,
            (false, false) => va.0,
        }
    }

    /// The output address with stage 1 off: an ignored top byte is none of it.
    fn flat_address(&self, va: Va) -> u64 {
        if self.tbi { va.0 << 8 >> 8 } else { self.address(va) }
    }

    /// `AArch64.VAIsOutOfRange`, negated: the bits above the input size are all those of the half.
    fn contains(&self, va: Va, regime: &Regime, two_halves: bool) -> bool {
        let above = self.address(va).cast_signed() >> regime.input_bits;
        above == if two_halves && va.0 >> 55 & 1 != 0 { -1 } else { 0 }
    }
}

impl Stage1 {
    pub(super) fn el1(sys: &SysRegs, features: Features) -> Self {
        let (sctlr, hcr) = (sys.sctlr_el1, sys.hcr_el2);
        Self {
            enabled: sctlr.m() && !hcr.dc(),
            default_cacheable: hcr.dc().then_some(hcr.dct()),
            cacheable: sctlr.c(),
            fetch_cacheable: sctlr.i(),
            wxn: sctlr.wxn(),
            epan: sctlr.epan(),
            mair: sys.mair_el1,
            unprivileged: true,
            halves: [false, true].map(|upper| Half::el1(sys, features, upper)),
        }
    }

    pub(super) fn el2(sys: &SysRegs, features: Features) -> Self {
        let sctlr = sys.sctlr_el2;
        Self {
            enabled: sctlr.m(),
            default_cacheable: None,
            cacheable: sctlr.c(),
            fetch_cacheable: sctlr.i(),
            wxn: sctlr.wxn(),
            epan: false,
            mair: sys.mair_el2,
            unprivileged: false,
            halves: [Half::el2(sys, features); 2],
        }
    }

    /// Whether an access of `el` gets as far as the tables, or to its output address with stage 1 off.
    pub(super) fn accepts(&self, va: Va, el: u8) -> bool {
        let half = self.half(va);
        if self.enabled {
            self.regime(half, va, el).is_some()
        } else {
            half.flat_address(va) >> PA_MAX_BITS == 0
        }
    }

    pub(super) fn ignores_top_byte(&self) -> bool {
        self.halves.iter().all(|half| half.tbi)
    }

    /// The geometry of the walk, unless a level-0 fault comes before it.
    #[inline]
    fn regime<'a>(&self, half: &'a Half, va: Va, el: u8) -> Option<&'a Regime> {
        let regime = half.regime.as_ref()?;
        (half.contains(va, regime, self.unprivileged) && !(el == 0 && half.e0pd)).then_some(regime)
    }

    fn half(&self, va: Va) -> &Half {
        &self.halves[(va.0 >> 55 & 1) as usize]
    }

    /// The leaf's memory type. With DS the descriptor's SH bits are address bits, and SH comes from `TCR_ELx`.
    fn attributes(&self, half: &Half, regime: &Regime, desc: u64) -> MemoryAttributes {
        let attr = (self.mair >> (8 * (desc >> 2 & 7))) as u8;
        let shareability = if regime.ds {
            half.shareability
        } else {
            Shareability::from_bits((desc >> 8) as u8)
        };
        MemoryAttributes::from_mair(attr, shareability, half.canonical_tags)
    }

    /// Normal memory is Non-cacheable, and so not Tagged, with `SCTLR_ELx.C` (or I) clear; a fetch never is from Device memory.
    fn as_cached(&self, attrs: MemoryAttributes, access: &AccessDesc) -> MemoryAttributes {
        let as_it_is = match access.kind {
            AccessKind::Fetch => self.fetch_cacheable && !attrs.is_device(),
            _ => self.cacheable || attrs.is_device(),
        };
        if as_it_is { attrs } else { MemoryAttributes::NORMAL_NC }
    }

    /// `AArch64.S1DirectBasePermissions`. `writable` is what the leaf says of writing, or will once it is marked dirty.
    fn grants(&self, desc: u64, table: u64, writable: bool) -> Grants {
        let writable = writable && table & AP_TABLE_RO == 0;
        let exec_unless = |leaf, in_table| desc & leaf == 0 && table & in_table == 0;
        if !self.unprivileged {
            let exec = exec_unless(UXN, UXN_TABLE) && !(self.wxn && writable);
            return Grants::READ
                | Grants::PAN_READ
                | (Grants::WRITE | Grants::PAN_WRITE).only_if(writable)
                | Grants::EXEC.only_if(exec);
        }
        let el0 = desc & AP1 != 0 && table & AP_TABLE_NO_EL0 == 0;
        let el0_exec = exec_unless(UXN, UXN_TABLE);
        let under_pan = !(el0 || self.epan && el0_exec);
        let exec = exec_unless(PXN, PXN_TABLE) && !(el0 && writable);
        Grants::EL0_READ.only_if(el0)
            | Grants::EL0_WRITE.only_if(el0 && writable)
            | Grants::EL0_EXEC.only_if(el0_exec && !(self.wxn && el0 && writable))
            | Grants::READ
            | Grants::WRITE.only_if(writable)
            | Grants::EXEC.only_if(exec && !(self.wxn && writable))
            | Grants::PAN_READ.only_if(under_pan)
            | Grants::PAN_WRITE.only_if(under_pan && writable)
    }

    /// With stage 1 off the address is its own output (`AArch64.S1DisabledOutput`).
    pub(super) fn disabled(&self, va: Va, access: &AccessDesc) -> Result<Translated, Fault> {
        let half = self.half(va);
        let address = half.flat_address(va);
        if address >> PA_MAX_BITS != 0 {
            return Err(access.fault(FaultKind::AddressSize, Stage::One, va));
        }
        let untagged = MemTag::without_allocation_tags(half.canonical_tags);
        let attrs = match (self.default_cacheable, access.kind) {
            (Some(true), _) => MemoryAttributes::default_cacheable(MemTag::Allocation),
            (Some(false), _) => MemoryAttributes::default_cacheable(untagged),
            (None, AccessKind::Fetch) if self.fetch_cacheable => {
                MemoryAttributes::from_mair(MAIR_WRITE_THROUGH, Shareability::Outer, half.canonical_tags)
            }
            (None, AccessKind::Fetch) => MemoryAttributes::NORMAL_NC,
            (None, _) => MemoryAttributes {
                tags: untagged,
                ..MemoryAttributes::DEVICE_NGNRNE
            },
        };
        if attrs.is_device() && access.misaligned_for_device() {
            return Err(access.fault(FaultKind::Alignment, Stage::One, va));
        }
        if attrs.tags == MemTag::Canonical && access.stores_tags() {
            return Err(Fault {
                tags_refused: true,
                ..access.fault(FaultKind::Permission, Stage::One, va)
            });
        }
        Ok(Translated {
            pa: Pa(address),
            ipa: Ipa(address),
            attrs,
            size: 1 << PA_MAX_BITS,
            stage1_size: 1 << PA_MAX_BITS,
            grants: Grants::all(),
            not_global: false,
        })
    }
}

/// Stage 1 alone, which is what `AT S1E*` does (`AArch64.S1Translate`).
#[inline]
pub(super) fn translate<S: DescriptorSource>(
    src: &mut S,
    controls: &Controls,
    va: Va,
    access: &AccessDesc,
    trace: &mut impl Trace,
) -> Result<Translated, Fault> {
    let one = controls.stage1(access.el);
    let fault = |kind, level| fault_of(access, va, kind, level);
    let half = one.half(va);
    let Some(regime) = one.regime(half, va, access.el) else {
        return Err(fault(FaultKind::Translation, 0));
    };
    let mut tables = Tables {
        src,
        under: controls.stage2.as_ref().filter(|_| one.unprivileged),
        va,
        access,
        trace,
    };
    let found = tables.walk(regime).map_err(|refused| match refused {
        Refused::Walk(WalkFault { kind, level }) => fault(kind, level),
        Refused::Stage2(fault) => *fault,
    })?;
    let Found { level, desc, .. } = found;
    let table = if half.hpd { 0 } else { found.table_bits };
    let attrs = one.attributes(half, regime, desc);
    if attrs.is_device() && access.misaligned_for_device() {
        return Err(fault(FaultKind::Alignment, level));
    }
    let managed = regime.hd && desc & DBM != 0;
    if let Some(refused) = access.refused_by(one.grants(desc, table, desc & AP2 == 0 || managed)) {
        return Err(Fault {
            access: refused,
            ..fault(FaultKind::Permission, level)
        });
    }
    if attrs.tags == MemTag::Canonical && access.stores_tags() {
        return Err(Fault {
            tags_refused: true,
            ..fault(FaultKind::Permission, level)
        });
    }
    let updated = updated_desc(regime, desc, access.dirties(), desc & !AP2);
    if updated != desc {
        tables.update(&found, updated).map_err(|fault| *fault)?;
    }
    Ok(Translated {
        pa: Pa(found.address),
        ipa: Ipa(found.address),
        attrs: one.as_cached(attrs, access),
        size: found.size,
        stage1_size: found.size,
        grants: one.grants(updated, table, updated & AP2 == 0),
        not_global: one.unprivileged && desc & NG != 0,
    })
}

/// Out of line, where a walk that succeeds does not pay for it.
#[cold]
fn fault_of(access: &AccessDesc, va: Va, kind: FaultKind, level: i8) -> Fault {
    Fault {
        level,
        ..access.fault(kind, Stage::One, va)
    }
}
