//! The `change_pte` notifier: KVM is told what a new PTE shows, and maps it at once.
//!
//! **Models** `set_pte_at_notify` as copy-on-write and KSM call it between the two ends of an invalidation, and
//! `kvm_set_spte_gfn` (arch/arm64/kvm/mmu.c): read-only, without memory for tables, whether or not the guest ever touched
//! the page; K20 says what becomes of the page's tags first. **Leaves out** the page-table lock, which is held over the
//! notifier and the write of the PTE: here the PTE is written first, and the notifier maps nothing once that is gone.
//!
//! **Keeps**: no mapping is made of a page that the VMM's PTE does not show.

use tagvisor_arch::desc::MemAttr;

use crate::ids::VmId;
use crate::log::{Key, note};
use crate::mm::Pte;
use crate::page::PageFlags;
use crate::paths::outline::outline;
use crate::policy::ChangePte;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, PathId};

outline! {
    /// Up to 6.9; afterwards there is no such notifier.
    pub(super) CHANGE_PTE = "kvm_mmu_notifier_change_pte" {
        "kvm_handle_hva_range" => next_gfn,
        "sanitise_mte_tags?" => sanitise,
        "kvm_pgtable_stage2_map" => stage2_map,
        "mmu_unlock" => mmu_unlock,
    }
}

/// Locals of a call for the page `l.pfn` that the PTE at `l.va` shows now.
pub(super) fn call(l: &Locals) -> Flow {
    Flow::Call(PathId::ChangePte, Locals { index: 0, ..*l })
}

fn still_shown(host: &Host, l: &Locals) -> bool {
    matches!(host.mm(l.mm).pte(l.va), Some(Pte::Present { pfn, .. }) if Some(pfn) == l.pfn)
}

/// The next guest page that the address backs, of any VM of the process; `l.index` counts them.
fn next_gfn(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (mm, va) = (l.mm, l.va.page());
    let vms = (0..).map(VmId).zip(&host.vms).filter(|(_, vm)| vm.alive && vm.mm == mm);
    let mut gfns = vms.flat_map(|(id, vm)| vm.gfns_of(va).into_iter().map(move |gfn| (id, gfn)));
    let Some((vm, gfn)) = gfns.nth(l.index as usize).filter(|_| still_shown(host, l)) else {
        return Flow::Return(0);
    };
    (l.vm, l.ipa) = (vm, gfn.base());
    if host.vm_mut(vm).mmu_lock.try_write() {
        Flow::Next
    } else {
        Flow::Blocked
    }
}

/// K20: sanitised now, left to the next fault, or not looked at.
fn sanitise(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let tagged = l.pfn.is_some_and(|pfn| host.has_flag(pfn, PageFlags::MTE_TAGGED));
    match host.policy.change_pte {
        _ if !host.vm(l.vm).mte => Flow::Next,
        ChangePte::Sanitise => Flow::Call(PathId::SanitiseMteTags, Locals { only_page: true, ..*l }),
        ChangePte::Defer if !tagged => Flow::To("mmu_unlock"),
        ChangePte::Defer | ChangePte::Map | ChangePte::None => Flow::Next,
    }
}

fn stage2_map(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some(pfn) = l.pfn.filter(|_| still_shown(host, l)) else {
        return Flow::Next;
    };
    let attrs = Host::stage2_attrs(MemAttr::NormalWb, false);
    if host.stage2_map_in_place(l.vm, l.ipa, pfn, attrs).is_none() {
        return Flow::Next;
    }
    note!(
        host,
        [Key::page(l.mm, l.va), Key::Frame(pfn)],
        "ipa {} mapped Normal Write-Back, read-only, to pfn {:#x}, for the PTE shows it now",
        l.ipa.page(),
        pfn.0
    );
    if host.vm(l.vm).mte {
        host.ledger_mapped(l.vm, l.ipa, pfn, (l.mm, l.va));
    }
    Flow::Next
}

fn mmu_unlock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    host.vm_mut(l.vm).mmu_lock.write_unlock();
    l.index += 1;
    Flow::To("kvm_handle_hva_range")
}
