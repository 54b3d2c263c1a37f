//! The MMU notifier: how KVM hears that host mappings go away.
//!
//! **Models** `kvm_mmu_notifier_invalidate_range_start` and `_end` (`virt/kvm/kvm_main.c`): start raises
//! `mmu_invalidate_in_progress` and unmaps stage 2, end bumps `mmu_invalidate_seq`; both under `mmu_lock` for write, VM by
//! VM. **Leaves out** the range kept for retry: any invalidation makes any fault of that VM retry.
//!
//! **Keeps**: between start and end no fault of the VM installs a mapping.

use tagvisor_arch::PAGE_SIZE;

use crate::ids::VmId;
use crate::log::{Key, note};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, Step};

pub(super) static INVALIDATE_RANGE_START: Path = Path {
    name: "mmu_notifier_invalidate_range_start",
    steps: &[Step {
        name: "kvm_unmap_gfn_range under mmu_lock",
        run: unmap_gfn_range,
    }],
};
pub(super) static INVALIDATE_RANGE_END: Path = Path {
    name: "mmu_notifier_invalidate_range_end",
    steps: &[Step {
        name: "mmu_invalidate_seq++ under mmu_lock",
        run: bump_seq,
    }],
};

/// The next VM of the process from `l.index` on, which the notifier reaches; `l.index` then is past it.
fn next_vm(host: &Host, l: &mut Locals) -> Option<VmId> {
    let found = (l.index..host.vms.len() as u32).find(|i| {
        let vm = &host.vms[*i as usize];
        vm.alive && vm.mm == l.mm
    })?;
    l.index = found;
    Some(VmId(found))
}

fn unmap_gfn_range(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some(vm) = next_vm(host, l) else {
        return Flow::Return(0);
    };
    if !host.vm(vm).mmu_lock.is_free_for_write() {
        return Flow::Blocked;
    }
    host.vm_mut(vm).mmu_invalidate_in_progress += 1;
    host.stats.notifier_invalidations += 1;
    for va in host.mm(l.mm).touched(l.va, l.end) {
        for gfn in host.vm(vm).gfns_of(va) {
            if let Some(size) = host.stage2_unmap(vm, gfn) {
                note!(
                    host,
                    [Key::page(l.mm, va)],
                    "ipa {} unmapped from stage 2{}, TLB invalidated",
                    gfn.base(),
                    if size > PAGE_SIZE { ", with its block" } else { "" }
                );
            }
        }
    }
    l.index += 1;
    Flow::To("kvm_unmap_gfn_range under mmu_lock")
}

fn bump_seq(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some(vm) = next_vm(host, l) else {
        return Flow::Return(0);
    };
    if !host.vm(vm).mmu_lock.is_free_for_write() {
        return Flow::Blocked;
    }
    let kvm = host.vm_mut(vm);
    kvm.mmu_invalidate_in_progress -= 1;
    kvm.mmu_invalidate_seq += 1;
    l.index += 1;
    Flow::To("mmu_invalidate_seq++ under mmu_lock")
}

/// Locals of a call to either path for a range of pages.
pub(super) fn range(l: &Locals) -> Locals {
    Locals { index: 0, ..*l }
}
