//! The dirty log of a memslot.
//!
//! **Models** `mark_page_dirty_in_slot`, `kvm_mmu_wp_memory_region` and `KVM_GET_DIRTY_LOG` (`virt/kvm/kvm_main.c`,
//! arch/arm64/kvm/mmu.c): while a slot logs, pages are mapped writable only by a write fault, which marks them; reading
//! the log clears it and write-protects what it showed. **Leaves out** the dirty ring, `KVM_CLEAR_DIRTY_LOG`.
//!
//! **Keeps**: a page that the log calls clean is not writable at stage 2.

use tagvisor_arch::{Gfn, Ipa};

use super::memslot::MAX_SLOTS;
use crate::errno::Errno;
use crate::ids::VmId;
use crate::log::{Key, note};
use crate::state::Host;

/// `KVM_GET_DIRTY_LOG` rounds the bitmap up to words of this many pages.
const WORD: u64 = 64;

impl Host {
    /// `memslot_is_logging`.
    pub(crate) fn slot_logs_dirty(&self, vm: VmId, ipa: Ipa) -> bool {
        self.vm(vm).memslot(ipa.gfn()).is_some_and(super::Memslot::logs_dirty)
    }

    /// `mark_page_dirty_in_slot`: nothing if the slot does not log.
    pub(crate) fn mark_page_dirty(&mut self, vm: VmId, ipa: Ipa) {
        let gfn = ipa.gfn();
        if let Some(slot) = self.vm_mut(vm).slots.values_mut().find(|s| s.contains(gfn))
            && slot.logs_dirty()
        {
            slot.dirty.insert(gfn.0 - slot.base_gfn.0);
        }
    }

    /// `kvm_mmu_wp_memory_region`: logging was switched on. `kvm_mmu_split_huge_pages` of the slot follows for a VM that asked
    /// for it; otherwise a block stays until a write fault breaks it.
    pub(super) fn kvm_mmu_wp_memory_region(&mut self, vm: VmId, id: u32) {
        let slot = self.vm(vm).slots[&id].clone();
        let split = self.vm(vm).split_page_chunk_size > 0;
        for gfn in self.mapped_gfns(vm, &slot) {
            self.stage2_wrprotect(vm, gfn);
            if split {
                self.stage2_split(vm, gfn);
            }
        }
    }

    /// `KVM_GET_DIRTY_LOG`: the bitmap, least significant bit first, cleared by the call. -ENOENT for a slot without one.
    pub(crate) fn kvm_get_dirty_log(&mut self, vm: VmId, id: u32) -> Result<Vec<u8>, Errno> {
        if id >= MAX_SLOTS {
            return Err(Errno::Einval);
        }
        let slot = self.vm_mut(vm).slots.get_mut(&id).filter(|s| s.logs_dirty());
        let slot = slot.ok_or(Errno::Enoent)?;
        let (first, dirty) = (slot.base_gfn.0, std::mem::take(&mut slot.dirty));
        let mut bitmap = vec![0u8; usize::try_from(slot.pages.div_ceil(WORD) * WORD / 8).expect("64-bit host")];
        for page in &dirty {
            bitmap[(page / 8) as usize] |= 1 << (page % 8);
            self.stage2_wrprotect(vm, Gfn(first + page));
        }
        note!(
            self,
            [Key::Always],
            "dirty log of memslot {id} read: {} pages",
            dirty.len()
        );
        Ok(bitmap)
    }
}
