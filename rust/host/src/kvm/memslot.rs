//! Memslots.
//!
//! **Models** `kvm_set_memory_region` (`virt/kvm/kvm_main.c)`: create, delete, move, change of flags, with the checks of
//! `kvm_arch_prepare_memory_region` (arch/arm64/kvm/mmu.c) that K21 to K23 decide. **Leaves out** address spaces, memory
//! attributes.
//!
//! **Keeps**: slots of a VM do not overlap; a change that is refused changes nothing.

use std::collections::BTreeSet;

use tagvisor_arch::{Gfn, PAGE_SIZE, Va};

use super::IPA_BITS;
use crate::errno::Errno;
use crate::file::{FileId, FileKind};
use crate::ids::VmId;
use crate::log::{Key, note};
use crate::mm::VmFlags;
use crate::policy::{GuestMemfd, SharedBacking, Untaggable};
use crate::state::Host;

/// `KVM_MEM_LOG_DIRTY_PAGES`.
pub const SLOT_DIRTY_LOG: u32 = 1;
/// `KVM_MEM_READONLY`.
pub const SLOT_READONLY: u32 = 2;
/// `KVM_MEM_GUEST_MEMFD`.
pub const SLOT_GUEST_MEMFD: u32 = 4;

/// `KVM_USER_MEM_SLOTS` is larger; a scenario that needs more is a mistake.
pub(super) const MAX_SLOTS: u32 = 512;

/// A memory slot: guest frames backed by a range of the VMM's address space.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Memslot {
    /// First guest frame.
    pub base_gfn: Gfn,
    /// Number of pages.
    pub pages: u64,
    /// Address in the VMM.
    pub userspace_addr: Va,
    /// [`SLOT_DIRTY_LOG`], [`SLOT_READONLY`].
    pub flags: u32,
    /// Pages written since the log was read, by their number in the slot; empty without [`SLOT_DIRTY_LOG`].
    pub(crate) dirty: BTreeSet<u64>,
    /// K23 = slot with K22 = device: what lay there when the slot was added was device memory.
    pub(crate) device: bool,
    /// [`SLOT_GUEST_MEMFD`]: the file that backs it, and its page behind the slot's first.
    pub(crate) gmem: Option<(FileId, u64)>,
}

impl Memslot {
    pub(super) fn contains(&self, gfn: Gfn) -> bool {
        (self.base_gfn.0..self.base_gfn.0 + self.pages).contains(&gfn.0)
    }

    /// Is `mark_page_dirty_in_slot` of use: does the slot log writes?
    pub(crate) fn logs_dirty(&self) -> bool {
        self.flags & SLOT_DIRTY_LOG != 0
    }

    /// `__gfn_to_hva_memslot`.
    pub(crate) fn hva(&self, gfn: Gfn) -> Va {
        self.userspace_addr + (gfn.0 - self.base_gfn.0) * PAGE_SIZE
    }
}

/// What a `KVM_SET_USER_MEMORY_REGION` does (`enum kvm_mr_change`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    Create,
    Move,
    FlagsOnly,
}

impl Host {
    /// `kvm_set_memory_region`. `pages` 0 deletes the slot.
    pub(crate) fn kvm_set_memory_region(&mut self, vm: VmId, id: u32, mut slot: Memslot) -> Result<(), Errno> {
        if id >= MAX_SLOTS || slot.flags & !self.valid_slot_flags(&slot) != 0 {
            return Err(Errno::Einval);
        }
        if slot.userspace_addr.page_offset() != 0 {
            return Err(Errno::Einval);
        }
        let old = self.vm(vm).slots.get(&id).cloned();
        if slot.pages == 0 {
            let old = old.ok_or(Errno::Einval)?;
            self.flush_shadow_memslot(vm, &old);
            self.vm_mut(vm).slots.remove(&id);
            note!(
                self,
                [Key::Always],
                "memslot {id} deleted, its pages unmapped from stage 2"
            );
            return Ok(());
        }
        let change = match &old {
            None => Change::Create,
            // A guest_memfd slot is made and deleted, never changed.
            Some(old) if old.gmem.is_some() || slot.gmem.is_some() => return Err(Errno::Einval),
            Some(old) => {
                let same_memory = old.pages == slot.pages && old.userspace_addr == slot.userspace_addr;
                if !same_memory || (old.flags ^ slot.flags) & SLOT_READONLY != 0 {
                    return Err(Errno::Einval);
                }
                match (old.base_gfn == slot.base_gfn, old.flags == slot.flags) {
                    (true, true) => return Ok(()),
                    (true, false) => Change::FlagsOnly,
                    (false, _) => Change::Move,
                }
            }
        };
        if change != Change::FlagsOnly && self.overlaps(vm, id, &slot) {
            return Err(Errno::Eexist);
        }
        self.kvm_gmem_bind(vm, &slot)?;
        slot.device = self.kvm_arch_prepare_memory_region(vm, &slot)?;
        if let Some(old) = old {
            if slot.logs_dirty() {
                slot.dirty.clone_from(&old.dirty);
            }
            if change == Change::Move {
                self.flush_shadow_memslot(vm, &old);
            }
        }
        let (mm, gfn, hva, pages, logs) = (
            self.vm(vm).mm,
            slot.base_gfn,
            slot.userspace_addr,
            slot.pages,
            slot.logs_dirty(),
        );
        note!(
            self,
            [Key::Always],
            "memslot {id}: {pages} pages at ipa {} backed by {}{}",
            gfn.base(),
            self.place(mm, hva),
            match (logs, slot.gmem) {
                (_, Some((file, _))) => format!(", from guest_memfd {}", file.0),
                (true, None) => ", writes logged".to_owned(),
                (false, None) => String::new(),
            }
        );
        self.vm_mut(vm).slots.insert(id, slot);
        // kvm_arch_commit_memory_region
        if logs {
            self.kvm_mmu_wp_memory_region(vm, id);
        }
        Ok(())
    }

    /// `check_memory_region_flags`: private memory is not logged, and its writes cannot be emulated. K30: kernels without
    /// `guest_memfd` do not know the flag.
    fn valid_slot_flags(&self, slot: &Memslot) -> u32 {
        match (slot.gmem, self.policy.guest_memfd) {
            (Some(_), GuestMemfd::Unsanitised | GuestMemfd::Refused) => SLOT_GUEST_MEMFD,
            _ => SLOT_DIRTY_LOG | SLOT_READONLY,
        }
    }

    /// `kvm_gmem_bind`: the file is a `guest_memfd` of this VM and large enough. K30: behind an MTE VM it is refused since
    /// 7.2.
    fn kvm_gmem_bind(&self, vm: VmId, slot: &Memslot) -> Result<(), Errno> {
        let Some((file, first)) = slot.gmem else {
            return Ok(());
        };
        let known = self
            .files
            .get(file.0 as usize)
            .filter(|f| f.kind == FileKind::GuestMemfd);
        let fits = known.is_some_and(|f| first.checked_add(slot.pages).is_some_and(|end| end <= f.pages));
        let own = self.vm(vm).guest_memfds.contains(&file);
        let refused = self.vm(vm).mte && self.policy.guest_memfd == GuestMemfd::Refused;
        if own && fits && !refused {
            Ok(())
        } else {
            Err(Errno::Einval)
        }
    }

    fn overlaps(&self, vm: VmId, id: u32, slot: &Memslot) -> bool {
        let hits =
            |s: &Memslot| s.base_gfn.0 < slot.base_gfn.0 + slot.pages && slot.base_gfn.0 < s.base_gfn.0 + s.pages;
        self.vm(vm).slots.iter().any(|(other, s)| *other != id && hits(s))
    }

    /// The checks on every VMA under a slot (holes are skipped). Answers whether the slot is device memory for ever, which
    /// only K23 = slot with K22 = device believes.
    fn kvm_arch_prepare_memory_region(&mut self, vm: VmId, slot: &Memslot) -> Result<bool, Errno> {
        let end = slot.base_gfn.0.checked_add(slot.pages);
        if end.is_none_or(|e| e > 1 << (IPA_BITS - 12)) {
            return Err(Errno::Efault);
        }
        let policy = self.policy.clone();
        let mte_checked = self.vm(vm).mte && policy.checked_at.at_slot();
        let mut device = false;
        for (_, vma) in self.mm(self.vm(vm).mm).vmas_in(slot.userspace_addr, slot.pages) {
            // Whoever writes to device memory is not logged.
            if vma.flags.contains(VmFlags::PFNMAP) && slot.logs_dirty() {
                return Err(Errno::Einval);
            }
            if !mte_checked {
                continue;
            }
            if policy.shared_backing == SharedBacking::Refused && vma.flags.contains(VmFlags::SHARED) {
                return Err(Errno::Einval);
            }
            let allowed = vma.flags.contains(VmFlags::MTE_ALLOWED);
            match policy.untaggable {
                Untaggable::Cacheable | Untaggable::RefuseOffline => {}
                Untaggable::Device => device |= !allowed,
                Untaggable::NoTagAccess if self.vm(vm).mte_perm => {}
                Untaggable::DeviceElseRefuse | Untaggable::NoTagAccess | Untaggable::Refuse if allowed => {}
                Untaggable::DeviceElseRefuse | Untaggable::NoTagAccess | Untaggable::Refuse => {
                    return Err(Errno::Einval);
                }
            }
        }
        Ok(device)
    }

    /// `kvm_arch_flush_shadow_memslot`: the slot's pages are unmapped from stage 2.
    fn flush_shadow_memslot(&mut self, vm: VmId, slot: &Memslot) {
        for gfn in self.mapped_gfns(vm, slot) {
            self.stage2_unmap(vm, gfn);
        }
    }

    /// Guest frames of a slot that may be mapped at stage 2: those whose page in the VMM has a PTE, or that the
    /// `guest_memfd` has a page for.
    pub(super) fn mapped_gfns(&self, vm: VmId, slot: &Memslot) -> Vec<Gfn> {
        if let Some((file, first)) = slot.gmem {
            let cached = self.file(file).cache.range(first..first + slot.pages);
            return cached
                .map(|(index, _)| Gfn(slot.base_gfn.0 + (index - first)))
                .collect();
        }
        let hva = slot.userspace_addr;
        let touched = self.mm(self.vm(vm).mm).touched(hva, hva + slot.pages * PAGE_SIZE);
        touched
            .into_iter()
            .map(|va| Gfn(slot.base_gfn.0 + (va - hva) / PAGE_SIZE))
            .collect()
    }
}
