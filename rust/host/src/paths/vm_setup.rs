//! `KVM_ENABLE_CAP(KVM_CAP_ARM_MTE)` and `KVM_CREATE_VCPU`, which two threads of a VMM may call at once.
//!
//! **Models** `kvm_vm_ioctl_enable_cap` (arch/arm64/kvm/arm.c) by K29, and `kvm_vm_ioctl_create_vcpu` (`virt/kvm/kvm_main.c`):
//! the vCPU is counted under `kvm->lock`, and made after that lock was dropped; `HCR_EL2.ATA` says whether the VM had MTE
//! then. **Leaves out** `KVM_ARM_VCPU_INIT` as a call of its own, features and the limit on vCPUs.
//!
//! **Keeps**: with the lock, a capability that was given is seen by every vCPU.

use crate::errno::Errno;
use crate::ids::VcpuId;
use crate::kvm::Vcpu;
use crate::log::{Key, note};
use crate::part::Tracked;
use crate::paths::outline::outline;
use crate::policy::{CapArmMte, GuestMemfd};
use crate::state::Host;
use crate::step::{Flow, Io, Locals};

outline! {
    /// 5.14 and later.
    pub(super) ENABLE_CAP_LOCKED = "kvm_vm_ioctl_enable_cap" {
        "system_supports_mte" => system_supports_mte,
        "mutex_lock(&kvm->lock)" => mutex_lock,
        "kvm->created_vcpus?" => no_vcpu_yet,
        "KVM_ARCH_FLAG_MTE_ENABLED" => set_mte_enabled,
        "mutex_unlock(&kvm->lock)" => unlock_and_return,
    }
}
outline! {
    /// The series, and 5.14 before its release: nothing holds back a vCPU between check and flag.
    pub(super) ENABLE_CAP_UNLOCKED = "kvm_vm_ioctl_enable_cap" {
        "system_supports_mte" => system_supports_mte,
        "kvm->created_vcpus?" => no_vcpu_yet,
        "kvm->arch.mte_enabled = true" => set_mte_enabled,
        "return" => |_, l, _| Flow::Return(l.ret),
    }
}
outline! {
    /// Every version.
    pub(super) CREATE_VCPU = "kvm_vm_ioctl_create_vcpu" {
        "mutex_lock(&kvm->lock)" => mutex_lock,
        "kvm->created_vcpus++" => count_vcpu,
        "mutex_unlock(&kvm->lock)" => mutex_unlock,
        "vcpu_reset_hcr" => vcpu_reset_hcr,
    }
}

fn mutex_lock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let held = &mut host.vm_mut(l.vm).lock;
    if std::mem::replace(held, true) {
        Flow::Blocked
    } else {
        Flow::Next
    }
}

fn mutex_unlock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    host.vm_mut(l.vm).lock = false;
    Flow::Next
}

fn unlock_and_return(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    host.vm_mut(l.vm).lock = false;
    Flow::Return(l.ret)
}

fn system_supports_mte(host: &mut Host, _: &mut Locals, _: &mut Io) -> Flow {
    match host.policy.cap_arm_mte {
        CapArmMte::Present => Flow::Next,
        CapArmMte::Absent => Flow::Return(Errno::Einval.ret()),
    }
}

/// No vCPU was made yet; nor, since 7.2, a `guest_memfd` slot (K30).
fn no_vcpu_yet(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let kvm = host.vm(l.vm);
    let gmem = host.policy.guest_memfd == GuestMemfd::Refused && kvm.slots.values().any(|slot| slot.gmem.is_some());
    let refused = kvm.created_vcpus > 0 || gmem;
    l.ret = if refused { Errno::Einval.ret() } else { 0 };
    Flow::Next
}

fn set_mte_enabled(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if l.ret == 0 {
        host.vm_mut(l.vm).mte = true;
        note!(host, [Key::Always], "KVM_CAP_ARM_MTE enabled for VM {}", l.vm.0);
        host.ledger_vcpus(l.vm);
    }
    Flow::Next
}

fn count_vcpu(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    host.vm_mut(l.vm).created_vcpus += 1;
    Flow::Next
}

/// The vCPU comes to be, with `HCR_EL2.ATA` set iff the VM has MTE now. Answers its number.
fn vcpu_reset_hcr(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (tlb_bits, seed) = (host.tlb_bits, host.seed);
    let index = host.vcpus[l.vm.0 as usize].len() as u32;
    let kvm = host.vm(l.vm);
    let seed = (seed + u64::from(index)) as u16;
    let vcpu = Vcpu::new(kvm.mte, kvm.mte_perm, kvm.stage2, tlb_bits, seed);
    host.vcpus[l.vm.0 as usize].push(Tracked::new(vcpu));
    if !host.vm(l.vm).mte {
        let who = host.actor_name(crate::ids::Actor::Vcpu(VcpuId { vm: l.vm, index }));
        note!(host, [Key::Always], "{who} made, HCR_EL2.ATA clear");
    }
    Flow::Return(i64::from(index))
}
