//! P8 sanity, P9 trap.
//!
//! **Models** what must be true of a kernel at rest: no lock is held, no notifier is half way, and every reference to a
//! page belongs to somebody; the zero page is like any page of zeros; and a path that finds what it holds impossible warns. And of a guest without MTE: it reaches no
//! tag. **Leaves out** crashes (a step that cannot go on is a fault of the model), and deadlocks, which the explorer
//! reports.
//!
//! **Keeps**: it counts references from the tables that hold them, never from the paths that took them.

use std::collections::BTreeMap;

use tagvisor_arch::{Pfn, Va};

use crate::file::Cached;
use crate::ids::{Actor, MmId, VcpuId, VmId};
use crate::log::Key;
use crate::mm::Pte;
use crate::page::{PageFlags, PageMapping};
use crate::state::Host;
use crate::verdict::Property;

impl Host {
    /// No operation is under way: locks and references (P8).
    pub(super) fn audit_sanity(&mut self) {
        self.audit_locks();
        self.audit_references();
    }

    fn audit_locks(&mut self) {
        let mut held = Vec::new();
        for (i, mm) in self.mms.iter().enumerate() {
            if !mm.mmap_lock.is_free_for_write() {
                held.push((i as u64, format!("mmap_lock of {}", self.mm(MmId(i as u32)).name)));
            }
        }
        for (i, kvm) in self.vms.iter().enumerate() {
            let subject = 1 << 32 | i as u64;
            if !kvm.mmu_lock.is_free_for_write() {
                held.push((subject, format!("mmu_lock of VM {i}")));
            }
            if kvm.slots_lock {
                held.push((2 << 32 | subject, format!("slots_lock of VM {i}")));
            }
            if kvm.mmu_invalidate_in_progress != 0 {
                held.push((4 << 32 | subject, format!("a notifier invalidation of VM {i}")));
            }
        }
        for (subject, what) in held {
            let summary = format!("{what} was taken and never given back");
            self.report(Property::Sanity, 1 << 63 | subject, summary, &[Key::Always]);
        }
    }

    /// Who holds a reference to each page: page tables, and the page cache of files.
    fn references(&self) -> BTreeMap<Pfn, u32> {
        let mut held = BTreeMap::new();
        for mm in &self.mms {
            for pte in mm.ptes.values() {
                if let Pte::Present { pfn, .. } = *pte
                    && self.is_counted(pfn)
                {
                    *held.entry(pfn).or_default() += 1;
                }
            }
        }
        for file in &self.files {
            for cached in file.cache.values() {
                if let Cached::Page(pfn) = *cached {
                    *held.entry(pfn).or_default() += 1;
                }
            }
        }
        held
    }

    fn audit_references(&mut self) {
        let held = self.references();
        let mut wrong = Vec::new();
        for (pfn, page) in self.pages.iter(&self.mem) {
            // A page that is held and yet free belongs to nobody any more: the worst of all.
            let of_somebody =
                page.mapping != PageMapping::None || held.contains_key(&pfn) || !self.pfn_is_map_memory(pfn);
            if !of_somebody || page.flags.contains(PageFlags::RESERVED) {
                continue;
            }
            let known = held.get(&pfn).copied().unwrap_or(0);
            if page.refcount != known {
                wrong.push((pfn, page.refcount, known));
            }
        }
        for (pfn, count, known) in wrong {
            let what = if count > known { "leaked" } else { "lost" };
            let summary = format!(
                "a reference of pfn {:#x} was {what}: its count is {count}, but only {known} can be accounted for",
                pfn.0
            );
            self.report(Property::Sanity, pfn.0, summary, &[Key::Frame(pfn)]);
        }
    }

    /// A kernel path met what it holds impossible: `WARN_ON_ONCE`, a panic where `panic_on_warn` is set (P8).
    pub(crate) fn ledger_warned(&mut self, pfn: Pfn, summary: String) {
        if self.ledger.enabled {
            self.report(Property::Sanity, 1 << 62 | pfn.0, summary, &[Key::Frame(pfn)]);
        }
    }

    /// KSM keeps a page apart from the zero page. That page belongs to all: while it is flagged, whoever did it, no page of
    /// zeros is like it any more (P8).
    pub(crate) fn ledger_kept_apart(&mut self, pfn: Pfn, kpage: Pfn, at: (MmId, Va)) {
        let untagged = !self.has_flag(pfn, PageFlags::MTE_TAGGED);
        if self.ledger.enabled && kpage == self.zero_pfn && untagged && self.mem.page_is_zero(pfn) {
            let summary = format!(
                "{} is all zero and has no tags, and yet differs from the zero page: PG_mte_tagged of pfn {:#x} is set",
                self.place(at.0, at.1),
                kpage.0
            );
            let keys = [Key::page(at.0, at.1), Key::Frame(kpage)];
            self.report(Property::Sanity, kpage.0, summary, &keys);
        }
    }

    /// A vCPU reached a tag (P9).
    pub(crate) fn ledger_guest_tag(&mut self, actor: Actor, pfn: Pfn, verb: &str) {
        if let Actor::Vcpu(VcpuId { vm, .. }) = actor
            && self.ledger.enabled
            && !self.vm(vm).mte
        {
            let summary = format!(
                "{} of a VM without MTE {verb} a tag of pfn {:#x}",
                self.actor_name(actor),
                pfn.0
            );
            self.report(Property::Trap, vm.0.into(), summary, &[Key::Frame(pfn)]);
        }
    }

    /// A VM got MTE: every vCPU that it has must know (P9).
    pub(crate) fn ledger_vcpus(&mut self, vm: VmId) {
        let mte = self.vm(vm).mte;
        let odd = self.vcpus[vm.0 as usize].iter().position(|vcpu| vcpu.ata() != mte);
        if let Some(index) = odd.filter(|_| self.ledger.enabled) {
            let index = index as u32;
            let who = self.actor_name(Actor::Vcpu(VcpuId { vm, index }));
            let summary = format!(
                "{who} was made before its VM had MTE: the ID registers tell of it now, and HCR_EL2.ATA keeps it from tags"
            );
            self.report(Property::Trap, 1 << 33 | u64::from(vm.0), summary, &[Key::Always]);
        }
    }

    /// A vCPU read a register that tells of MTE (P9).
    pub(crate) fn ledger_guest_register(&mut self, vcpu: VcpuId, register: &str) {
        let VmId(number) = vcpu.vm;
        if self.ledger.enabled && !self.vm(vcpu.vm).mte {
            let who = self.actor_name(Actor::Vcpu(vcpu));
            let summary = format!("{who} of a VM without MTE reads {register}, and finds MTE");
            self.report(Property::Trap, 1 << 32 | u64::from(number), summary, &[Key::Always]);
        }
    }
}
