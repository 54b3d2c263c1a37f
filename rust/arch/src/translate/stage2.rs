//! Stage 2: what `VTCR_EL2`, `VTTBR_EL2` and the tables of the hypervisor make of an IPA.
//!
//! Models the second half of a translation, and the same for the tables of stage 1 (S1PTW, `HCR_EL2.PTW`), with the memory
//! type of both stages combined. Left out: what [`translate`](super) leaves out. The invariant: a fault says which IPA was
//! refused, of the access or of the table.

use std::array;

use super::{DBM, Trace, Translated, updated_desc};
use crate::access::{AccessDesc, Grants, TagUse};
use crate::addr::{Ipa, Pa, Va};
use crate::attr::{MemTag, MemoryAttributes, Shareability};
use crate::fault::{Access, Fault, FaultKind, Stage};
use crate::features::Features;
use crate::regs::SysRegs;
use crate::walk::{DescriptorSource, Found, LastTable, Level, Regime, TableKey, Under, WalkFault, read_physical, walk};

/// `S2AP[0]`: may be read.
const S2AP_READ: u64 = 1 << 6;
/// `S2AP[1]`: may be written.
const S2AP_WRITE: u64 = 1 << 7;

/// Stage 2 as the registers have it; without a regime every walk is a Translation fault at level 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stage2Controls {
    regime: Option<Regime>,
    /// See [`Stage2Controls::id`].
    id: Under,
    fwb: bool,
    ptw: bool,
    /// What each `MemAttr[3:0]` says by itself, without FWB; shareability is the descriptor's.
    own: [MemoryAttributes; 16],
    mte_perm: bool,
    shareability: Shareability,
}

impl Stage2Controls {
    pub(super) fn new(sys: &SysRegs, features: Features) -> Self {
        let hcr = sys.hcr_el2;
        let mte_perm = features.contains(Features::MTE_PERM);
        let regime = Regime::stage2(sys.vtcr_el2, sys.vttbr_el2);
        Self {
            regime,
            id: regime.map_or_else(Under::default, |regime| Under {
                root: regime.table,
                geometry: regime.geometry()
                    | u32::from(hcr.ptw()) << 28
                    | u32::from(hcr.fwb()) << 29
                    | u32::from(mte_perm) << 30
                    | 1 << 31,
            }),
            fwb: hcr.fwb(),
            ptw: hcr.ptw(),
            own: array::from_fn(|mem_attr| {
                let own = MemoryAttributes::from_stage2(mem_attr as u8, Shareability::Non, mte_perm);
                if hcr.cd() && !own.is_device() {
                    MemoryAttributes::NORMAL_NC
                } else {
                    own
                }
            }),
            mte_perm,
            shareability: Shareability::from_bits(sys.vtcr_el2.sh0()),
        }
    }

    /// `AArch64.S2Translate`, of an address whose stage-1 type is `stage1`.
    #[inline]
    pub(super) fn translate<S: DescriptorSource>(
        &self,
        src: &mut S,
        ipa: Ipa,
        stage1: MemoryAttributes,
        va: Va,
        access: &AccessDesc,
        trace: &mut impl Trace,
    ) -> Result<Translated, Fault> {
        let fault = |kind, level| fault_of(access, va, ipa, kind, level);
        let (regime, found) = self
            .walk(src, ipa, trace)
            .map_err(|WalkFault { kind, level }| fault(kind, level))?;
        let Found { level, desc, .. } = found;
        let (attrs, device) = self.attributes(regime, desc, stage1);
        if device && access.misaligned_for_device() {
            return Err(fault(FaultKind::Alignment, level));
        }
        let managed = regime.hd && desc & DBM != 0;
        if let Some(refused) = access.refused_by(grants(desc, managed)) {
            return Err(Fault {
                access: refused,
                ..fault(FaultKind::Permission, level)
            });
        }
        if self.refuses_tags(desc, stage1, access) {
            let stores = access.stores_tags();
            return Err(Fault {
                tags_refused: true,
                access: if stores { Access::Write } else { Access::Read },
                ..fault(FaultKind::Permission, level)
            });
        }
        let updated = updated_desc(regime, desc, access.dirties(), desc | S2AP_WRITE);
        if updated != desc {
            src.write_descriptor(Pa(found.entry), updated);
        }
        Ok(Translated {
            pa: Pa(found.address),
            ipa,
            attrs,
            size: found.size,
            stage1_size: found.size,
            grants: grants(updated, false),
            not_global: false,
        })
    }

    /// All that decides where stage-1 tables lie, and whether a walk may read them.
    pub(super) const fn id(&self) -> Under {
        self.id
    }

    /// Where a stage-1 table entry lies, for a walk that reads it or, with `update`, writes it. A fault (S1PTW) is one of the
    /// access that the walk is for.
    pub(super) fn locate<S: DescriptorSource>(
        &self,
        src: &mut S,
        entry: Ipa,
        update: bool,
        va: Va,
        access: &AccessDesc,
        trace: &mut impl Trace,
    ) -> Result<Pa, Box<Fault>> {
        let fault = |kind, level| {
            Box::new(Fault {
                s1ptw: true,
                ..fault_of(access, va, entry, kind, level)
            })
        };
        let (regime, found) = self
            .walk(src, entry, trace)
            .map_err(|WalkFault { kind, level }| fault(kind, level))?;
        let Found { level, desc, .. } = found;
        let managed = regime.hd && desc & DBM != 0;
        let writable = desc & S2AP_WRITE != 0 || managed;
        let refused = desc & S2AP_READ == 0 || update && !writable || self.ptw && self.is_device(regime, desc);
        if refused {
            return Err(fault(FaultKind::Permission, level));
        }
        let updated = updated_desc(regime, desc, update, desc | S2AP_WRITE);
        if updated != desc {
            src.write_descriptor(Pa(found.entry), updated);
        }
        Ok(Pa(found.address))
    }

    /// The walk of an IPA that is in range, from the last table on if memory knows which that is.
    #[inline]
    fn walk<S: DescriptorSource, T: Trace>(
        &self,
        src: &mut S,
        ipa: Ipa,
        trace: &mut T,
    ) -> Result<(&Regime, Found), WalkFault> {
        const UNMAPPED: WalkFault = WalkFault {
            kind: FaultKind::Translation,
            level: 0,
        };
        let regime = self.regime.as_ref().ok_or(UNMAPPED)?;
        if ipa.0 >> regime.input_bits != 0 {
            return Err(UNMAPPED);
        }
        if T::LOOKS {
            return Ok((regime, Self::walk_all_levels(src, regime, ipa, trace)?));
        }
        let key = TableKey::new(src, regime, ipa.0, Under::default());
        if let Some(table) = src.kept_table(&key) {
            return Ok((regime, table.walk(src, regime, ipa.0)?));
        }
        let found = Self::walk_all_levels(src, regime, ipa, trace)?;
        if let Some(table) = LastTable::of(regime, &found) {
            src.keep_table(key, table, Pa(found.entry));
        }
        Ok((regime, found))
    }

    #[inline(never)]
    fn walk_all_levels<S: DescriptorSource>(
        src: &mut S,
        regime: &Regime,
        ipa: Ipa,
        trace: &mut impl Trace,
    ) -> Result<Found, WalkFault> {
        walk(regime, ipa.0, |entry, level| {
            let (desc_pa, desc) = (Pa(entry), read_physical(src, Pa(entry), level)?);
            trace.see(Stage::Two, Level { level, desc_pa, desc });
            Ok(desc)
        })
    }

    /// Whether stage 2 makes the memory of a stage-1 table Device.
    fn is_device(&self, regime: &Regime, desc: u64) -> bool {
        let table = MemoryAttributes::default_cacheable(MemTag::Untagged);
        self.attributes(regime, desc, table).1
    }

    /// The combined memory type, and whether stage 2 makes it Device: of its own type, or under FWB of what it forces.
    fn attributes(&self, regime: &Regime, desc: u64, stage1: MemoryAttributes) -> (MemoryAttributes, bool) {
        let mem_attr = (desc >> 2 & 0xf) as u8;
        let shareability = if regime.ds {
            self.shareability
        } else {
            Shareability::from_bits((desc >> 8) as u8)
        };
        if self.fwb {
            let attrs = stage1.forced_by(mem_attr, shareability, self.mte_perm);
            return (attrs, attrs.is_device());
        }
        let own = MemoryAttributes {
            shareability,
            ..self.own[usize::from(mem_attr)]
        };
        let device = own.is_device();
        (stage1.under(own), device)
    }

    /// `NoTagAccess` of a leaf, for an access that needs the tags of memory that stage 1 made Tagged
    /// (`AArch64.S2CheckPermissions`, `s2tag_na`).
    fn refuses_tags(&self, desc: u64, stage1: MemoryAttributes, access: &AccessDesc) -> bool {
        let no_tag_access = match (self.mte_perm, self.fwb) {
            (false, _) => false,
            (true, false) => desc >> 2 & 0xf == 0b0100,
            (true, true) => desc >> 3 & 0b111 == 0b111,
        };
        no_tag_access && stage1.tags == MemTag::Allocation && access.tags != TagUse::None
    }
}

/// Out of line, where a walk that succeeds does not pay for it.
#[cold]
fn fault_of(access: &AccessDesc, va: Va, ipa: Ipa, kind: FaultKind, level: i8) -> Fault {
    Fault {
        level,
        ipa,
        ..access.fault(kind, Stage::Two, va)
    }
}

/// `AArch64.S2DirectBasePermissions`, with the two-bit XN of `FEAT_XNX`. `managed`: a write may mark it dirty.
fn grants(desc: u64, managed: bool) -> Grants {
    let exec = match desc >> 53 & 3 {
        0 => Grants::EL0_EXEC.union(Grants::EXEC),
        1 => Grants::EL0_EXEC,
        3 => Grants::EXEC,
        _ => Grants::empty(),
    };
    exec | Grants::ALL_READ.only_if(desc & S2AP_READ != 0)
        | Grants::ALL_WRITE.only_if(desc & S2AP_WRITE != 0 || managed)
}
