//! P3 flag implies tags, P4 mapping implies flag.
//!
//! **Models** nothing of the kernel: it looks at what `PG_mte_tagged` promises. Whoever finds the flag set takes the tags
//! for those of the page's content, and whoever can reach a page through a tagged mapping counts on the flag. The shared
//! zero page is nobody's, and its tags were cleared at boot: neither property is about it.
//!
//! **Keeps**: a finding is told once a frame, at the step that made or believed the promise.

use tagvisor_arch::{Ipa, Pfn, Va};

use crate::ids::{MmId, VmId};
use crate::log::Key;
use crate::mm::Pte;
use crate::page::PageFlags;
use crate::state::Host;
use crate::verdict::Property;

impl Host {
    /// Are the tags in the frame initialised for what is at the address, all of them?
    fn tags_belong(&self, pfn: Pfn, at: (MmId, Va)) -> bool {
        let provenance = self.ledger.provenance(pfn);
        if provenance.initialised_for_all() {
            return true;
        }
        let content = self.ledger.find(self.home(at, false));
        content.is_some_and(|content| self.ledger.holds_all(&provenance, content))
    }

    /// Somebody looked at `PG_mte_tagged` of the page at an address, found it set, and believes it (P3).
    pub(crate) fn ledger_flag_believed(&mut self, pfn: Pfn, at: (MmId, Va)) {
        if !self.ledger.enabled || !self.mem.has_tags(pfn) || self.has_flag(pfn, PageFlags::RESERVED) {
            return;
        }
        if !self.tags_belong(pfn, at) {
            let who = self.actor_name(self.log.origin.actor);
            let what = format!("{who} finds PG_mte_tagged of pfn {:#x} set", pfn.0);
            self.report_flag_without_tags(pfn, at, &what);
        }
    }

    /// The same for the source of a copy, if it is what is mapped at the address.
    pub(crate) fn ledger_copy_believed(&mut self, from: Pfn, at: (MmId, Va)) {
        let mapped = matches!(self.mm(at.0).pte(at.1), Some(Pte::Present { pfn, .. }) if pfn == from);
        if mapped {
            self.ledger_flag_believed(from, at);
        }
    }

    fn report_flag_without_tags(&mut self, pfn: Pfn, at: (MmId, Va), what: &str) {
        let summary = format!(
            "{what}, but its tags were never initialised for {}",
            self.place(at.0, at.1)
        );
        let keys = [Key::Frame(pfn), Key::page(at.0, at.1)];
        self.report(Property::FlagTags, pfn.0, summary, &keys);
    }

    /// A Normal Write-Back stage-2 mapping of taggable memory was made for an MTE VM: is the page flagged (P4)?
    pub(super) fn ledger_mapped_flag(&mut self, vm: VmId, ipa: Ipa, pfn: Pfn, at: (MmId, Va)) {
        if !self.has_flag(pfn, PageFlags::MTE_TAGGED) && !self.has_flag(pfn, PageFlags::RESERVED) {
            let summary = format!(
                "ipa {} of MTE VM {} is mapped Normal Write-Back to pfn {:#x}, whose PG_mte_tagged is clear",
                ipa.page(),
                vm.0,
                pfn.0
            );
            let keys = [Key::Frame(pfn), Key::page(at.0, at.1)];
            self.report(Property::MappingFlag, pfn.0, summary, &keys);
        }
    }

    /// No operation is under way: every present page of every process (P3, P4).
    pub(super) fn audit_flags(&mut self) {
        for mm in (0..self.mms.len()).map(|i| MmId(i as u32)) {
            let present: Vec<(Va, Pfn, bool)> = self
                .mm(mm)
                .ptes
                .iter()
                .filter_map(|(vpn, pte)| match *pte {
                    Pte::Present {
                        pfn,
                        tagged,
                        special: false,
                        ..
                    } => Some((Va(vpn << 12), pfn, tagged)),
                    _ => None,
                })
                .collect();
            for (va, pfn, tagged) in present {
                let flagged = self.has_flag(pfn, PageFlags::MTE_TAGGED);
                if !self.mem.has_tags(pfn) || self.has_flag(pfn, PageFlags::RESERVED) {
                    continue;
                }
                if flagged && !self.tags_belong(pfn, (mm, va)) {
                    let what = format!("PG_mte_tagged of pfn {:#x} is set", pfn.0);
                    self.report_flag_without_tags(pfn, (mm, va), &what);
                } else if tagged && !flagged {
                    let summary = format!(
                        "{} is mapped Tagged to pfn {:#x}, whose PG_mte_tagged is clear",
                        self.place(mm, va),
                        pfn.0
                    );
                    let keys = [Key::Frame(pfn), Key::page(mm, va)];
                    self.report(Property::MappingFlag, pfn.0, summary, &keys);
                }
            }
        }
    }
}
