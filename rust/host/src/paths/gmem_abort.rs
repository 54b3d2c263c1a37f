//! The stage-2 fault path of a `guest_memfd` memslot.
//!
//! **Models** `gmem_abort` (arch/arm64/kvm/mmu.c) and `kvm_gmem_get_pfn` (`virt/kvm/guest_memfd.c`): the page comes from the
//! file, not through the VMM's page table, so no VMA is looked at. Nor are tags: the page is mapped as the allocator left
//! it (K30). **Leaves out** private memory of confidential guests, huge folios.
//!
//! **Keeps**: the notifier sequence is sampled before the page is got, and rechecked under `mmu_lock`.

use tagvisor_arch::PAGE_SIZE;

use crate::errno::Errno;
use crate::file::Cached;
use crate::log::{Key, note};
use crate::page::PageMapping;
use crate::paths::outline::outline;
use crate::paths::user_mem_abort::{
    kvm_fault_lock, kvm_fault_unlock, kvm_pgtable_stage2_map, kvm_prepare_memory_fault_exit, mmu_invalidate_retry,
    sample_seq,
};
use crate::state::Host;
use crate::step::{Flow, Io, Locals};

outline! {
    /// 6.18 and later.
    pub(super) GMEM_ABORT = "gmem_abort" {
        "mmu_seq = mmu_invalidate_seq" => sample_seq,
        "kvm_gmem_get_pfn" => kvm_gmem_get_pfn,
        "kvm_fault_lock" => kvm_fault_lock,
        "mmu_invalidate_retry" => mmu_invalidate_retry,
        "kvm_pgtable_stage2_map" => kvm_pgtable_stage2_map,
        "kvm_fault_unlock" => kvm_fault_unlock,
    }
}

/// The page of the file, with a reference; a new one is zeroed, its tags stay as they were.
fn kvm_gmem_get_pfn(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let index = l.file_page;
    let pfn = if let Some(Cached::Page(pfn)) = host.file(l.file).cache.get(&index).copied() {
        pfn
    } else {
        let Some(pfn) = host.alloc_page(PageMapping::File(l.file, index)) else {
            kvm_prepare_memory_fault_exit(host, l, io, PAGE_SIZE);
            return Flow::Return(Errno::Enomem.ret());
        };
        host.mem.zero_page(pfn);
        host.file_mut(l.file).cache.insert(index, Cached::Page(pfn));
        note!(
            host,
            [Key::Frame(pfn), Key::page(l.mm, l.va), Key::File(l.file, index)],
            "pfn {:#x} allocated for page {index} of guest_memfd {}, its tags left as they were",
            pfn.0,
            l.file.0
        );
        pfn
    };
    host.page_mut(pfn).refcount += 1;
    (l.pfn, l.writable, l.device) = (Some(pfn), true, false);
    Flow::Next
}
