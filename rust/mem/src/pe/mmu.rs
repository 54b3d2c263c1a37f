//! Memory as the instructions of a processing element see it: through the TLB if there is one, else through the tables.
//!
//! Models that a TLB hit decides permissions, type and tags by what was cached, and that what a hit would refuse is walked
//! anew, which the architecture allows. Left out: nothing else. The invariant: a translation is cached only if memory
//! answers there.

use tagvisor_arch::{
    AccessDesc, AccessKind, Controls, DescriptorSource, Fault, FaultKind, Granule, Ipa, MemTag, Mmu, PAGE_SHIFT,
    PAGE_SIZE, Pa, Stage, Tag, TagUse, TlbiOp, Translated, Translation, Untraced, Va, translate,
};

use super::cache::{Cache, Cached, Contexts, TlbMode, entry_of};
use crate::phys::PhysMem;
use crate::tlb::{TlbEntry, Tlbi};

/// Memory as the processing element sees it.
pub(super) struct PeMmu<'a> {
    pub(super) mem: &'a mut PhysMem,
    pub(super) controls: &'a Controls,
    pub(super) cache: &'a mut Cache,
    pub(super) context: Contexts,
}

impl PeMmu<'_> {
    /// The entry that translates the access without another walk.
    pub(super) fn hit(&mut self, va: Va, access: &AccessDesc) -> Option<TlbEntry<Cached>> {
        let entry = *self.cache.tlb.lookup(self.context.of(access.el), va)?;
        let Cached {
            grants,
            tags,
            device,
            no_tag_access,
            ..
        } = entry.payload;
        let refused = access.refused_by(grants).is_some()
            || device && access.kind != AccessKind::Fetch
            || no_tag_access && access.tags != TagUse::None
            || tags == MemTag::Canonical && access.tags == TagUse::Access
            || entry.stage1_bits.is_some() != self.controls.has_stage1(access.el)
            || !self.controls.accepts(va, access.el)
            || !self.answers(entry.translate(va));
        (!refused).then_some(entry)
    }

    /// Walks the tables, as an access does.
    fn walk(&mut self, va: Va, access: &AccessDesc) -> Result<Translated, Fault> {
        let found = translate(self.mem, self.controls, va, access, &mut Untraced)?;
        if self.answers(found.pa) {
            return Ok(found);
        }
        Err(access.fault(FaultKind::SyncExternalAbort, Stage::One, va))
    }

    /// Whether there is anything at a physical address.
    fn answers(&self, pa: Pa) -> bool {
        self.mem.region_of(pa.pfn()).is_some_and(|region| region.online)
    }

    /// What the tables say now, without asking for permissions and without updating them.
    fn look(&mut self, va: Va, el: u8) -> Option<Translated> {
        let access = AccessDesc::new(AccessKind::DcClean, el.max(1), false, 1);
        translate(&mut ReadOnly(self.mem), self.controls, va, &access, &mut Untraced).ok()
    }

    fn fill(&mut self, va: Va, access: &AccessDesc, found: &Translated) {
        let context = self.context.of(access.el);
        let entry = entry_of(context, va, found, self.controls.has_stage1(access.el));
        if self.cache.mode == TlbMode::Check {
            let others: Vec<_> = self
                .cache
                .tlb
                .overlapping(context, entry.va, found.size)
                .copied()
                .collect();
            for other in others.iter().filter(|other| other.bits != entry.bits) {
                self.cache.check_break(other, va, Some(found));
            }
        }
        self.cache.tlb.fill(entry);
    }

    /// Executes a `TLBI`.
    pub(super) fn invalidate(&mut self, op: TlbiOp) {
        let Some(operation) = self.operation(op) else { return };
        if self.cache.mode == TlbMode::Check {
            let current = [self.context.of(1), self.context.of(2)];
            let leaving = self.cache.tlb.entries().filter(|entry| operation.removes(entry));
            // Another context's tables cannot be looked at: their registers are not in force.
            let leaving: Vec<_> = leaving
                .filter(|entry| current.contains(&entry.context))
                .copied()
                .collect();
            for entry in leaving {
                let el = if entry.context == current[1] { 2 } else { 1 };
                let now = self.look(entry.va, el);
                self.cache.check_break(&entry, entry.va, now.as_ref());
            }
        }
        self.cache.tlb.invalidate(operation);
    }

    /// The operation of an encoding (Arm ARM C5.5): by op1, `CRm` and op2. `None` for one that concerns nothing cached here.
    fn operation(&self, TlbiOp { op1, crm, op2, operand }: TlbiOp) -> Option<Tlbi> {
        let vmid = self.context.of(1).vmid;
        let asid = (operand >> 48) as u16;
        let range = Range::of(operand);
        let (va, bytes) = match crm {
            2 | 5 | 6 => (range.va, range.bytes),
            // VA[55:12] in bits 43:0.
            _ => (Va(operand << PAGE_SHIFT), PAGE_SIZE),
        };
        Some(match (op1, crm, op2) {
            (0, 1 | 3 | 7, 0) => Tlbi::Vmalle1 { vmid },
            (0, 1 | 3 | 7, 2) => Tlbi::Aside1 { vmid, asid },
            (0, 1..=3 | 5..=7, 1 | 5) => Tlbi::Vae1 { vmid, asid, va, bytes },
            (0, 1..=3 | 5..=7, 3 | 7) => Tlbi::Vaae1 { vmid, va, bytes },
            (4, 1 | 3 | 7, 4) => Tlbi::Alle1,
            (4, 1 | 3 | 7, 6) => Tlbi::Vmalls12e1 { vmid },
            (4, 1 | 3 | 7, 0) => Tlbi::Alle2,
            (4, 1..=3 | 5..=7, 1 | 5) => Tlbi::Vae2 { va, bytes },
            (4, 0 | 4, 0 | 1 | 4 | 5) => Tlbi::Ipas2e1 {
                vmid: vmid?,
                // IPA[51:12] in bits 39:0.
                ipa: Ipa((operand & ((1 << 40) - 1)) << PAGE_SHIFT),
                bytes: PAGE_SIZE,
            },
            (4, 0 | 4, 2 | 3 | 6 | 7) => Tlbi::Ipas2e1 {
                vmid: vmid?,
                ipa: range.ipa,
                bytes: range.bytes,
            },
            _ => return None,
        })
    }
}

/// The operand of a range form: base in units of the granule (36:0), NUM (43:39), SCALE (45:44), TG (47:46).
struct Range {
    va: Va,
    ipa: Ipa,
    bytes: u64,
}

impl Range {
    fn of(operand: u64) -> Self {
        const BASE_BITS: u32 = 37;
        let shift = match operand >> 46 & 3 {
            2 => Granule::Kib16.bits(),
            3 => Granule::Kib64.bits(),
            _ => Granule::Kib4.bits(),
        };
        let (num, scale) = (operand >> 39 & 0x1f, operand >> 44 & 3);
        let base = operand << (64 - BASE_BITS);
        Self {
            va: Va((base.cast_signed() >> (64 - BASE_BITS) << shift).cast_unsigned()),
            ipa: Ipa(base >> (64 - BASE_BITS) << shift),
            bytes: (num + 1) << (5 * scale + 1 + u64::from(shift)),
        }
    }
}

impl Mmu for PeMmu<'_> {
    fn translate(&mut self, va: Va, access: &AccessDesc) -> Result<Translation, Fault> {
        if self.cache.mode != TlbMode::Off
            && let Some(entry) = self.hit(va, access)
        {
            if self.cache.mode == TlbMode::Check {
                let now = self.look(va, access.el);
                self.cache.check_use(&entry, va, now.as_ref());
            }
            return Ok(Translation {
                pa: entry.translate(va),
                tags: entry.payload.tags,
            });
        }
        let found = self.walk(va, access)?;
        // What a fetch makes of a memory type is not what data accesses make of it.
        if self.cache.mode != TlbMode::Off && access.kind != AccessKind::Fetch {
            self.fill(va, access, &found);
        }
        Ok(Translation {
            pa: found.pa,
            tags: found.attrs.tags,
        })
    }

    fn read(&mut self, pa: Pa, buf: &mut [u8]) {
        self.mem.read(pa, buf);
    }

    fn write(&mut self, pa: Pa, buf: &[u8]) {
        self.mem.write(pa, buf);
    }

    fn tag(&mut self, pa: Pa) -> Tag {
        self.mem.tag(pa)
    }

    fn set_tag(&mut self, pa: Pa, tag: Tag) {
        self.mem.set_tag(pa, tag);
    }

    fn tag_block(&mut self, pa: Pa) -> u64 {
        self.mem.tag_block(pa)
    }

    fn set_tag_block(&mut self, pa: Pa, bits: u64) {
        self.mem.set_tag_block(pa, bits);
    }
}

/// Memory whose descriptors are looked at and not updated.
struct ReadOnly<'a>(&'a mut PhysMem);

impl DescriptorSource for ReadOnly<'_> {
    fn read_descriptor(&mut self, pa: Pa) -> Option<u64> {
        self.0.read_descriptor(pa)
    }

    fn write_descriptor(&mut self, _: Pa, _: u64) {}
}
