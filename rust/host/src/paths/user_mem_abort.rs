//! The stage-2 fault path.
//!
//! **Models** `kvm_handle_guest_abort` and `user_mem_abort` (arch/arm64/kvm/mmu.c): the VMA is looked at under `mmap_lock`,
//! the page is brought in with no lock held, and under `mmu_lock` a changed notifier sequence sends the guest back to fault
//! again. K24 says when the sequence is sampled and when `VM_MTE_ALLOWED` is read: three tables of the same steps. A huge page
//! is mapped as a block where IPA and VMM address are aligned alike and no write is logged, and then all of it is
//! sanitised. **Leaves out** nested virtualisation, blocks of device memory, the memory cache for tables.
//!
//! **Keeps**: `sanitise_mte_tags` runs before the mapping exists, and under K19 = no never on a permission fault, not even
//! one that maps a block where a page was.

use tagvisor_arch::desc::MemAttr;
use tagvisor_arch::{Ipa, PAGE_SIZE, Pfn};

use crate::errno::Errno;
use crate::hugetlb::{HPAGE_PAGES, HPAGE_SIZE, compound_head};
use crate::kvm::SLOT_READONLY;
use crate::log::{Key, note};
use crate::mm::VmFlags;
use crate::ops::{Op, OpResult};
use crate::page::PageFlags;
use crate::paths::outline::outline;
use crate::policy::{
    FaultLock, FaultSnapshot, MemoryFaultExit, SanitisePermission, SanitiseSize, SharedBacking, Untaggable,
};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, PathId};
use crate::thp::pmd_address;

outline! {
    /// Every version.
    pub(super) KVM_HANDLE_GUEST_ABORT = "kvm_handle_guest_abort" {
        "gfn_to_memslot" => gfn_to_memslot,
    }
}
outline! {
    /// v10 of the series to 6.1.26: what the VMM maps between the unlock and the sample goes unnoticed.
    pub(super) SEQ_AFTER_UNLOCK = "user_mem_abort" {
        "mmap_read_lock" => super::fault::mmap_read_lock,
        "vma_lookup" => vma_lookup,
        "mmap_read_unlock" => mmap_read_unlock,
        "mmu_seq = mmu_notifier_seq" => sample_seq,
        "__gfn_to_pfn_memslot" => |_, l, _| Flow::Call(PathId::GetUserPages, *l),
        "kvm_is_device_pfn" => kvm_is_device_pfn,
        "kvm_fault_lock" => kvm_fault_lock,
        "mmu_notifier_retry" => mmu_invalidate_retry,
        "sanitise_mte_tags?" => kvm_vma_mte_allowed,
        "kvm_pgtable_stage2_map" => kvm_pgtable_stage2_map,
        "kvm_fault_unlock" => kvm_fault_unlock,
    }
}
outline! {
    /// 6.2: the same, and the VMA is looked into when it may be gone.
    pub(super) VMA_AFTER_UNLOCK = "user_mem_abort" {
        "mmap_read_lock" => super::fault::mmap_read_lock,
        "vma_lookup" => vma_lookup,
        "mmap_read_unlock" => mmap_read_unlock,
        "mmu_seq = mmu_invalidate_seq" => sample_seq,
        "__gfn_to_pfn_memslot" => |_, l, _| Flow::Call(PathId::GetUserPages, *l),
        "kvm_is_device_pfn" => kvm_is_device_pfn,
        "kvm_fault_lock" => kvm_fault_lock,
        "mmu_invalidate_retry" => mmu_invalidate_retry,
        "vma->vm_flags" => vma_used_after_unlock,
        "kvm_vma_mte_allowed" => kvm_vma_mte_allowed,
        "kvm_pgtable_stage2_map" => kvm_pgtable_stage2_map,
        "kvm_fault_unlock" => kvm_fault_unlock,
    }
}
outline! {
    /// 6.3 and later, 6.1.27.
    pub(super) UNDER_MMAP_LOCK = "user_mem_abort" {
        "mmap_read_lock" => super::fault::mmap_read_lock,
        "vma_lookup" => vma_lookup,
        "mmu_seq = mmu_invalidate_seq" => sample_seq,
        "mmap_read_unlock" => mmap_read_unlock,
        "__gfn_to_pfn_memslot" => |_, l, _| Flow::Call(PathId::GetUserPages, *l),
        "kvm_is_device_pfn" => kvm_is_device_pfn,
        "kvm_fault_lock" => kvm_fault_lock,
        "mmu_invalidate_retry" => mmu_invalidate_retry,
        "kvm_vma_mte_allowed" => kvm_vma_mte_allowed,
        "kvm_pgtable_stage2_map" => kvm_pgtable_stage2_map,
        "kvm_fault_unlock" => kvm_fault_unlock,
    }
}

/// A fault outside every slot, or a write to a read-only one, goes to the VMM: as MMIO when the instruction has a
/// syndrome, as -ENOSYS when it has none (tag and DC instructions).
fn gfn_to_memslot(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let slot = host.vm(l.vm).memslot(l.ipa.gfn()).cloned();
    if let Some(slot) = slot.filter(|s| !(l.write && s.flags & SLOT_READONLY != 0)) {
        l.mm = host.vm(l.vm).mm;
        l.va = slot.hva(l.ipa.gfn());
        l.device = slot.device;
        l.readonly = slot.flags & SLOT_READONLY != 0;
        l.logging = slot.logs_dirty();
        host.stats.stage2_faults += 1;
        let path = if let Some((file, first)) = slot.gmem {
            (l.file, l.file_page) = (file, first + (l.ipa.gfn().0 - slot.base_gfn.0));
            PathId::GmemAbort
        } else {
            PathId::UserMemAbort
        };
        note!(
            host,
            [Key::page(l.mm, l.va)],
            "stage-2 {} fault at ipa {}: {}",
            if l.permission { "permission" } else { "translation" },
            l.ipa.page(),
            host.place(l.mm, l.va)
        );
        return Flow::Tail(path, *l);
    }
    let Op::Guest(_, op) = io.op else {
        unreachable!("only guests fault at stage 2")
    };
    match op.as_mmio() {
        Some((len, value)) => {
            io.result = OpResult::Mmio {
                write: value.is_some(),
                ipa: l.ipa,
                len,
                value: value.unwrap_or(0),
            };
            Flow::Return(1)
        }
        None => Flow::Return(Errno::Enosys.ret()),
    }
}

/// `kvm_prepare_memory_fault_exit`, where the policy has it of such memory: what the VMM is told of the failed fault.
pub(super) fn kvm_prepare_memory_fault_exit(host: &Host, l: &Locals, io: &mut Io, size: u64) {
    let told = match host.policy.memory_fault_exit {
        MemoryFaultExit::None => false,
        MemoryFaultExit::Gmem => host.vm(l.vm).memslot(l.ipa.gfn()).is_some_and(|s| s.gmem.is_some()),
        MemoryFaultExit::All => true,
    };
    if told {
        let gpa = if size > PAGE_SIZE {
            Ipa(l.ipa.0 / size * size)
        } else {
            l.ipa.page()
        };
        let errno = Errno::Efault;
        io.result = OpResult::MemoryFault {
            errno,
            flags: 0,
            gpa,
            size,
        };
    }
}

/// `vma_pagesize`.
const fn vma_pagesize(l: &Locals) -> u64 {
    if l.block { HPAGE_SIZE } else { PAGE_SIZE }
}

fn vma_lookup(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let vma = host.mm(l.mm).vma(l.va);
    let Some((flags, hugetlb)) = vma.map(|(_, v)| (v.flags, host.is_hugetlb(v))) else {
        host.mm_mut(l.mm).mmap_lock.read_unlock();
        kvm_prepare_memory_fault_exit(host, l, io, 0);
        return Flow::Return(Errno::Efault.ret());
    };
    l.mte_allowed = flags.contains(VmFlags::MTE_ALLOWED);
    l.shared = flags.contains(VmFlags::SHARED);
    l.pfnmap = flags.contains(VmFlags::PFNMAP);
    l.block = !l.logging && hugetlb && host.fault_supports_stage2_huge_mapping(l);
    Flow::Next
}

pub(super) fn sample_seq(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    // 0 is "not sampled".
    l.seq = host.vm(l.vm).mmu_invalidate_seq + 1;
    Flow::Next
}

fn mmap_read_unlock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    host.mm_mut(l.mm).mmap_lock.read_unlock();
    Flow::Next
}

/// The VMA found before may be freed by now. What it said then is still what its memory says, most likely.
fn vma_used_after_unlock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let now = host.mm(l.mm).vma(l.va).map(|(_, v)| v.flags);
    let then = |flags: VmFlags| {
        (
            flags.contains(VmFlags::MTE_ALLOWED),
            flags.contains(VmFlags::SHARED),
            flags.contains(VmFlags::PFNMAP),
        )
    };
    if now.map(then) != Some((l.mte_allowed, l.shared, l.pfnmap)) {
        note!(
            host,
            [Key::page(l.mm, l.va)],
            "the VMA of {} is read after it was freed",
            host.place(l.mm, l.va)
        );
    }
    Flow::Next
}

/// K22 by frame: which memory is mapped as Device? Under K23 = slot only what the slot said when it was added counts.
fn kvm_is_device_pfn(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    if l.ret < 0 && l.out == super::fault::HWPOISON {
        host.mm_mut(l.mm).sigbus = true;
        // kvm_send_hwpoison_signal: with a signal pending KVM_RUN ends as for any other.
        return Flow::Return(Errno::Eintr.ret());
    }
    if l.ret < 0 {
        kvm_prepare_memory_fault_exit(host, l, io, vma_pagesize(l));
        return Flow::Return(Errno::Efault.ret());
    }
    let pfn = tagvisor_arch::Pfn(l.ret.unsigned_abs());
    l.pfn = Some(pfn);
    // __gfn_to_pfn_memslot: never writable through a read-only slot, whatever the VMM's PTE allows.
    // While the slot logs writes, a read is mapped read-only.
    l.writable = l.out == 1 && !l.readonly && (l.write || !l.logging);
    let mte = host.vm(l.vm).mte;
    l.device = match host.policy.untaggable {
        Untaggable::Device | Untaggable::DeviceElseRefuse | Untaggable::NoTagAccess
            if host.policy.checked_at.at_fault() || !mte =>
        {
            !host.pfn_is_map_memory(pfn)
        }
        Untaggable::Refuse => l.pfnmap && !host.pfn_is_map_memory(pfn),
        // pfn_valid: device memory has no struct page whatever the policy says.
        _ => l.device || !host.pfn_valid(pfn),
    };
    Flow::Next
}

pub(super) fn kvm_fault_lock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let exclusive = host.policy.fault_lock == FaultLock::Exclusive;
    let lock = &mut host.vm_mut(l.vm).mmu_lock;
    let taken = if exclusive { lock.try_write() } else { lock.try_read() };
    if taken { Flow::Next } else { Flow::Blocked }
}

pub(super) fn mmu_invalidate_retry(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let kvm = host.vm(l.vm);
    if kvm.mmu_invalidate_in_progress == 0 && kvm.mmu_invalidate_seq + 1 == l.seq {
        l.seq = 0;
        return Flow::Next;
    }
    host.stats.stage2_retries += 1;
    note!(
        host,
        [Key::page(l.mm, l.va)],
        "a notifier ran since mmu_seq was sampled: the guest faults again"
    );
    (l.ret, l.writable, l.seq) = (0, false, 0);
    Flow::To("kvm_fault_unlock")
}

/// K21 to K23 and K18: may the page be in an MTE guest, and are its tags fit to be seen?
fn kvm_vma_mte_allowed(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    l.ret = 0;
    l.block = !l.device && (l.block || host.transparent_hugepage_adjust(l));
    let permission = l.permission && host.policy.sanitise_permission == SanitisePermission::No;
    if permission || l.device || !host.vm(l.vm).mte {
        return Flow::Next;
    }
    let pfn = l.pfn.expect("brought in");
    let policy = &host.policy;
    l.no_tags = host.vm(l.vm).mte_perm && !l.mte_allowed;
    let refused = policy.checked_at.at_fault()
        && (policy.shared_backing == SharedBacking::Refused && l.shared
            || match policy.untaggable {
                Untaggable::Cacheable => false,
                Untaggable::Device | Untaggable::RefuseOffline => !host.pfn_online(pfn),
                Untaggable::NoTagAccess if l.no_tags => false,
                Untaggable::DeviceElseRefuse | Untaggable::NoTagAccess | Untaggable::Refuse => !l.mte_allowed,
            });
    if refused {
        note!(
            host,
            [Key::page(l.mm, l.va), Key::Frame(pfn)],
            "{} may not back an MTE guest: -EFAULT",
            host.place(l.mm, l.va)
        );
        kvm_prepare_memory_fault_exit(host, l, io, vma_pagesize(l));
        l.ret = Errno::Efault.ret();
        return Flow::To("kvm_fault_unlock");
    }
    if l.no_tags {
        return Flow::Next;
    }
    if !l.block || host.tags_by_head(pfn) {
        // One page, or a huge page with one flag for all of it.
        let only_page = !l.block && host.policy.sanitise_size == SanitiseSize::Mapped;
        return Flow::Call(PathId::SanitiseMteTags, Locals { only_page, ..*l });
    }
    // The next page of the block; the step that maps comes back here until all of it is done.
    let index = u64::from(l.index);
    l.index += 1;
    let (va, pfn) = (pmd_address(l.va) + index * PAGE_SIZE, Pfn(compound_head(pfn).0 + index));
    Flow::Call(
        PathId::SanitiseMteTags,
        Locals {
            va,
            pfn: Some(pfn),
            ..*l
        },
    )
}

/// The memory type of what the fault maps, and its name.
const fn memory_type(l: &Locals) -> (MemAttr, &'static str) {
    match (l.device, l.no_tags) {
        (true, _) => (MemAttr::DeviceNgnre, "Device-nGnRE"),
        (_, true) => (MemAttr::NormalNoTagAccess, "Normal Write-Back, NoTagAccess"),
        _ => (MemAttr::NormalWb, "Normal Write-Back"),
    }
}

impl Host {
    /// `fault_supports_stage2_huge_mapping`: the slot has all of the huge page's range, and guest and VMM addresses agree in
    /// their low bits.
    fn fault_supports_stage2_huge_mapping(&self, l: &Locals) -> bool {
        let Some(slot) = self.vm(l.vm).memslot(l.ipa.gfn()) else {
            return false;
        };
        let base = pmd_address(l.va);
        let (first, end) = (slot.userspace_addr, slot.userspace_addr + slot.pages * PAGE_SIZE);
        let agrees = slot.base_gfn.base().0 % HPAGE_SIZE == first.0 % HPAGE_SIZE;
        agrees && base >= first && base + HPAGE_SIZE <= end
    }

    /// `transparent_hugepage_adjust`: the VMM has a PMD there, with the rights that the guest will have, and no dirty log
    /// wants pages.
    fn transparent_hugepage_adjust(&self, l: &Locals) -> bool {
        l.pfn.is_some_and(|pfn| {
            !l.logging
                && self.is_thp(pfn)
                && self.fault_supports_stage2_huge_mapping(l)
                && self.pmd_mapped(l.mm, l.va.page(), pfn, l.writable)
        })
    }

    /// `kvm_pgtable_stage2_map` of what the fault found; `None` when out of memory.
    fn stage2_map_fault(&mut self, l: &Locals, pfn: Pfn) -> Option<()> {
        let (mem, _) = memory_type(l);
        let attrs = Self::stage2_attrs(mem, l.writable);
        let tagged = self.vm(l.vm).mte && mem == MemAttr::NormalWb;
        if !l.block {
            self.stage2_map(l.vm, l.ipa.page(), pfn, attrs)?;
            if tagged {
                self.ledger_mapped(l.vm, l.ipa, pfn, (l.mm, l.va));
            }
            return Some(());
        }
        let (ipa, va, head) = (
            Ipa(l.ipa.0 / HPAGE_SIZE * HPAGE_SIZE),
            pmd_address(l.va),
            compound_head(pfn),
        );
        self.stage2_map_block(l.vm, ipa, head, attrs)?;
        let watched = if tagged && self.has_ledger() { HPAGE_PAGES } else { 0 };
        for index in 0..watched {
            let at = index * PAGE_SIZE;
            self.ledger_mapped(l.vm, ipa + at, Pfn(head.0 + index), (l.mm, va + at));
        }
        Some(())
    }
}

pub(super) fn kvm_pgtable_stage2_map(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("brought in");
    if l.index > 0 && u64::from(l.index) < HPAGE_PAGES {
        return Flow::To(if host.policy.fault_snapshot == FaultSnapshot::SeqAfterUnlock {
            "sanitise_mte_tags?"
        } else {
            "kvm_vma_mte_allowed"
        });
    }
    if l.permission && l.block == l.fault_block {
        host.stage2_relax_perms(l.vm, l.ipa, pfn);
    } else if host.stage2_map_fault(l, pfn).is_none() {
        l.ret = Errno::Enomem.ret();
        return Flow::Next;
    }
    let (_, kind) = memory_type(l);
    let access = if l.writable { "read-write" } else { "read-only" };
    let block = if l.block { ", in a block of 2 MiB" } else { "" };
    note!(
        host,
        [Key::page(l.mm, l.va), Key::Frame(pfn)],
        "ipa {} mapped {kind}, {access}, to pfn {:#x}{block}",
        l.ipa.page(),
        pfn.0
    );
    l.ret = 0;
    Flow::Next
}

/// `kvm_release_faultin_page` (dirty if mapped writable), `mark_page_dirty`, unlock.
pub(super) fn kvm_fault_unlock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("brought in");
    if l.ret == 0 && l.writable {
        let pages = if l.block { HPAGE_PAGES } else { 1 };
        let first = if l.block { compound_head(pfn) } else { pfn };
        if host.pfn_is_map_memory(pfn) {
            for index in 0..pages {
                host.set_flag(Pfn(first.0 + index), PageFlags::DIRTY, true);
            }
        }
        host.mark_page_dirty(l.vm, l.ipa);
    }
    if host.policy.fault_lock == FaultLock::Exclusive {
        host.vm_mut(l.vm).mmu_lock.write_unlock();
    } else {
        host.vm_mut(l.vm).mmu_lock.read_unlock();
    }
    release_pfn(host, l, pfn)
}

/// Drops the GUP reference; the page is freed if the VMM let go of it meanwhile.
fn release_pfn(host: &mut Host, l: &Locals, pfn: tagvisor_arch::Pfn) -> Flow {
    if host.put_page(pfn) {
        // The fault's own result is 0 here: it found a notifier and the guest retries.
        return Flow::Tail(PathId::FreeUnrefPage, Locals { entry: None, ..*l });
    }
    Flow::Return(l.ret)
}
