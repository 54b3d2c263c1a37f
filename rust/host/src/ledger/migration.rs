//! P7 migration.
//!
//! **Models** what a guest relies on that is migrated: what it wrote on one host it reads on the other. And what a VMM that migrates a guest relies on: once it has read a page's tags with `KVM_ARM_MTE_COPY_TAGS` while
//! the slot logs writes, whatever changes them afterwards shows in the slot's dirty log. A guest's own tag stores go
//! through stage 2, which logs them; `KVM_ARM_MTE_COPY_TAGS` to the guest does not.
//!
//! **Keeps**: a page that left the log's slot, or whose log was switched off, is on its way no longer.

use tagvisor_arch::{Ipa, PageTags, Va};

use crate::ids::{Actor, MmId, VmId};
use crate::log::Key;
use crate::state::Host;
use crate::verdict::Property;

impl Host {
    /// What every tag read at a page must return.
    pub(crate) fn ledger_wanted(&self, at: (MmId, Va)) -> Option<PageTags> {
        let content = self.ledger.find(self.home(at, false)).filter(|_| self.ledger.enabled)?;
        Some(self.ledger.get(content).want)
    }

    /// The content at a page is that of a guest that came here: what it wrote on its source host counts.
    pub(crate) fn ledger_adopted(&mut self, at: (MmId, Va), tags: &PageTags) {
        if self.ledger.enabled {
            let content = self.content_to_write(at);
            self.ledger.adopt(content, *tags, Actor::Migrated);
        }
    }

    /// The VMM read a page's tags.
    pub(crate) fn ledger_tags_read_by_vmm(&mut self, vm: VmId, ipa: Ipa) {
        if self.ledger.enabled && self.slot_logs_dirty(vm, ipa) {
            self.ledger.migrating.insert((vm.0, ipa.gfn().0));
        }
    }

    /// The VMM wrote a page's tags past stage 2: will the log show it?
    pub(crate) fn ledger_tags_changed_by_vmm(&mut self, vm: VmId, ipa: Ipa) {
        if !self.ledger.enabled || !self.ledger.migrating.contains(&(vm.0, ipa.gfn().0)) {
            return;
        }
        let slot = self.vm(vm).memslot(ipa.gfn()).filter(|s| s.logs_dirty());
        let Some((slot, hva)) = slot.map(|s| (s, s.hva(ipa.gfn()))) else {
            self.ledger.migrating.remove(&(vm.0, ipa.gfn().0));
            return;
        };
        if slot.dirty.contains(&(ipa.gfn().0 - slot.base_gfn.0)) {
            return;
        }
        let summary = format!(
            "tags of ipa {} change after the VMM has read them, and the slot's dirty log does not show it",
            ipa.page()
        );
        let key = Key::page(self.vm(vm).mm, hva);
        self.report(Property::Migration, ipa.gfn().0, summary, &[key]);
    }
}
