//! Stage 2: what `VTCR_EL2`, `VTTBR_EL2` and the tables of the hypervisor make of an IPA.
//!
//! Models the second half of a translation, and the same for the tables of stage 1 (S1PTW, `HCR_EL2.PTW`), with the memory
//! type of both stages combined. Left out: what [`translate`](super) leaves out. The invariant: a fault says which IPA was
//! refused, of the access or of the table.

use super::{DBM, Translated, updated_desc};
use crate::access::{AccessDesc, Grants, TagUse};
use crate::addr::{Ipa, Pa, Va};
use crate::attr::{MemTag, MemoryAttributes, Shareability};
use crate::fault::{Access, Fault, FaultKind, Stage};
use crate::features::Features;
use crate::regs::SysRegs;
use crate::walk::{DescriptorSource, Found, Level, Regime, WalkFault, read_physical, walk};

/// `S2AP[0]`: may be read.
const S2AP_READ: u64 = 1 << 6;
/// `S2AP[1]`: may be written.
const S2AP_WRITE: u64 = 1 << 7;

/// Stage 2 as the registers have it; without a regime every walk is a Translation fault at level 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stage2Controls {
    regime: Option<Regime>,
    fwb: bool,
    ptw: bool,
    cache_disabled: bool,
    mte_perm: bool,
    shareability: Shareability,
}

impl Stage2Controls {
    pub(super) fn new(sys: &SysRegs, features: Features) -> Self {
        Self {
            regime: Regime::stage2(sys.vtcr_el2, sys.vttbr_el2),
            fwb: sys.hcr_el2.fwb(),
            ptw: sys.hcr_el2.ptw(),
            cache_disabled: sys.hcr_el2.cd(),
            mte_perm: features.contains(Features::MTE_PERM),
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
        trace: &mut impl FnMut(Stage, Level),
    ) -> Result<Translated, Fault> {
        let fault = |kind, level| Fault {
            level,
            ipa,
            ..access.fault(kind, Stage::Two, va)
        };
        let (regime, found) = self
            .walk(src, ipa, trace)
            .map_err(|WalkFault { kind, level }| fault(kind, level))?;
        let Level { level, desc, desc_pa } = found.leaf;
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
            src.write_descriptor(desc_pa, updated);
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

    /// Where a stage-1 table entry lies, for a walk that reads it or, with `update`, writes it. A fault (S1PTW) is one of the
    /// access that the walk is for.
    #[inline]
    pub(super) fn locate<S: DescriptorSource>(
        &self,
        src: &mut S,
        entry: Ipa,
        update: bool,
        va: Va,
        access: &AccessDesc,
        trace: &mut impl FnMut(Stage, Level),
    ) -> Result<Pa, Fault> {
        let fault = |kind, level| Fault {
            level,
            ipa: entry,
            s1ptw: true,
            ..access.fault(kind, Stage::Two, va)
        };
        let (regime, found) = self
            .walk(src, entry, trace)
            .map_err(|WalkFault { kind, level }| fault(kind, level))?;
        let Level { level, desc, desc_pa } = found.leaf;
        let managed = regime.hd && desc & DBM != 0;
        let writable = desc & S2AP_WRITE != 0 || managed;
        let refused = desc & S2AP_READ == 0 || update && !writable || self.ptw && self.is_device(regime, desc);
        if refused {
            return Err(fault(FaultKind::Permission, level));
        }
        let updated = updated_desc(regime, desc, update, desc | S2AP_WRITE);
        if updated != desc {
            src.write_descriptor(desc_pa, updated);
        }
        Ok(Pa(found.address))
    }

    /// The walk of an IPA that is in range.
    #[inline]
    fn walk<S: DescriptorSource>(
        &self,
        src: &mut S,
        ipa: Ipa,
        trace: &mut impl FnMut(Stage, Level),
    ) -> Result<(&Regime, Found), WalkFault> {
        const UNMAPPED: WalkFault = WalkFault {
            kind: FaultKind::Translation,
            level: 0,
        };
        let regime = self.regime.as_ref().ok_or(UNMAPPED)?;
        if ipa.0 >> regime.input_bits != 0 {
            return Err(UNMAPPED);
        }
        let found = walk(regime, ipa.0, |entry, level| {
            let step = read_physical(src, Pa(entry), level)?;
            trace(Stage::Two, step);
            Ok::<_, WalkFault>(step)
        })?;
        Ok((regime, found))
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
        let own = MemoryAttributes::from_stage2(mem_attr, shareability, self.mte_perm);
        let device = own.is_device();
        let own = if self.cache_disabled && !device {
            MemoryAttributes {
                shareability,
                ..MemoryAttributes::NORMAL_NC
            }
        } else {
            own
        };
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
