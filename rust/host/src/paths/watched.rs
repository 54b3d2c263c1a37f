//! Memory as an instruction sees it, with the ledger watching.
//!
//! **Models** an instruction's way to data and tags over either translation: a guest's stage 2 or a process' page table.
//! Which page of which process a frame belongs to is learned when it is translated, so that every tag read and written is
//! told to the ledger in its owner's terms.
//!
//! **Keeps**: every tag that an instruction reads or writes passes here.

use tagvisor_arch::{AccessDesc, Fault, Pa, Pfn, Tag, Translation, Va, insn};

use crate::ids::{Actor, MmId};
use crate::page::PageFlags;
use crate::state::Host;

/// Whose a page is: process and address; nobody's when no memslot backs it.
pub(super) type Owner = Option<(MmId, Va)>;

/// A translation regime.
pub(super) trait Regime {
    /// Translates one page, and tells whose it is: process and address.
    fn translate(&self, host: &mut Host, ptr: Va, access: &AccessDesc) -> Result<(Translation, Owner), Fault>;
}

/// The memory of one instruction.
pub(super) struct Watched<'a, R> {
    host: &'a mut Host,
    regime: R,
    actor: Actor,
    /// Pages translated so far, at most two, and whose they are.
    seen: [Option<(Pfn, Owner)>; 2],
}

impl<'a, R: Regime> Watched<'a, R> {
    pub(super) fn new(host: &'a mut Host, regime: R, actor: Actor) -> Self {
        Self {
            host,
            regime,
            actor,
            seen: [None; 2],
        }
    }

    fn owner(&self, pa: Pa) -> Owner {
        self.seen.iter().flatten().find(|(pfn, _)| *pfn == pa.pfn())?.1
    }
}

impl<R: Regime> insn::Mmu for Watched<'_, R> {
    fn translate(&mut self, ptr: Va, access: &AccessDesc) -> Result<Translation, Fault> {
        let (found, owner) = self.regime.translate(self.host, ptr, access)?;
        let pfn = found.pa.pfn();
        let free = usize::from(self.seen[0].is_some_and(|(seen, _)| seen != pfn));
        self.seen[free] = Some((pfn, owner));
        if self.host.is_counted(pfn) {
            self.host.set_flag(pfn, PageFlags::YOUNG, true);
        }
        Ok(found)
    }

    fn read(&mut self, pa: Pa, buf: &mut [u8]) {
        self.host.mem.read(pa, buf);
    }

    fn write(&mut self, pa: Pa, buf: &[u8]) {
        self.host.mem.write(pa, buf);
    }

    fn tag(&mut self, pa: Pa) -> Tag {
        let tag = self.host.mem.tag(pa);
        self.host.ledger_guest_tag(self.actor, pa.pfn(), "reads");
        if let Some(at) = self.owner(pa) {
            self.host.ledger_tag_read(pa.pfn(), pa.granule(), tag, at, self.actor);
        }
        tag
    }

    fn set_tag(&mut self, pa: Pa, tag: Tag) {
        self.host.mem.set_tag(pa, tag);
        self.host.ledger_guest_tag(self.actor, pa.pfn(), "writes");
        if let Some(at) = self.owner(pa) {
            self.host
                .ledger_tag_written(pa.pfn(), pa.granule(), tag, at, self.actor);
        }
    }
}
