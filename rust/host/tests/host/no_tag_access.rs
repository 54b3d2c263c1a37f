//! `KVM_CAP_ARM_MTE_PERM` as proposed: memory that may not have tags, mapped `NoTagAccess` behind an MTE guest.

use crate::common::{Guest, IPA, anon, config, guest, policy};
use tagvisor_arch::{Ipa, PAGE_SIZE, Va};
use tagvisor_host::{Backing, Errno, FileKind, GuestExit, GuestOp, MEMORY_FAULT_TAG_ACCESS, MapSpec, Policy, VcpuId};

/// Where the memory without tags is.
const FILE: u64 = IPA + 0x10_0000;

fn refused(ipa: u64) -> GuestExit {
    GuestExit::MemoryFault {
        errno: Errno::Efault,
        flags: MEMORY_FAULT_TAG_ACCESS,
        gpa: Ipa(ipa),
        size: PAGE_SIZE,
    }
}

/// A guest with two pages of a file of ramfs, and whether it may have them. With `capable` the VM has the capability.
fn over_a_file(kernel: &str, capable: bool, tlb_bits: u32) -> (Guest, Result<(), Errno>) {
    let mut config = config(policy(kernel, &[]));
    config.tlb_bits = tlb_bits;
    let mut g = guest(&config, 2);
    let vm = g.machine.create_vm(g.vmm).unwrap();
    g.machine.enable_cap_arm_mte(vm).unwrap();
    if capable {
        g.machine.enable_cap_arm_mte_perm(vm).unwrap();
    }
    (g.vm, g.cpu) = (vm, g.machine.create_vcpu(vm).unwrap());
    g.slot(1, IPA, g.ram, 2).unwrap();
    let file = g.machine.create_file(FileKind::Ramfs, 2);
    let spec = MapSpec {
        backing: Backing::File(file),
        shared: true,
        ..anon(2)
    };
    let a = g.machine.mmap(g.vmm, spec, None).unwrap();
    let added = g.slot(2, FILE, a, 2);
    (g, added)
}

fn access(g: &mut Guest, ptr: u64, value: Option<u64>) -> Result<u64, GuestExit> {
    let (ptr, size) = (Va(ptr), 8);
    let op = match value {
        Some(value) => GuestOp::Store { ptr, size, value },
        None => GuestOp::Load { ptr, size },
    };
    g.machine.guest(g.cpu, op)
}

#[test]
fn tags_and_checked_accesses_exit_and_unchecked_data_pass() {
    for tlb_bits in [0, 6] {
        let (mut g, added) = over_a_file("mte-perm-series", true, tlb_bits);
        assert_eq!(added, Ok(()));
        assert_eq!(g.ldg(FILE + 64), Err(refused(FILE)));
        assert_eq!(g.stg(FILE + PAGE_SIZE, 3), Err(refused(FILE + PAGE_SIZE)));
        assert_eq!(access(&mut g, FILE, Some(7)), Err(refused(FILE)), "checked");

        g.machine.set_tco(g.cpu, true);
        assert_eq!(access(&mut g, FILE, Some(7)), Ok(0));
        assert_eq!(access(&mut g, FILE, None), Ok(7));
        assert_eq!(
            g.ldg(FILE),
            Err(refused(FILE)),
            "what was accessed is none the less without tags"
        );
        g.machine.set_tco(g.cpu, false);
        assert_eq!(
            access(&mut g, FILE, None),
            Err(refused(FILE)),
            "no TLB entry lets it pass"
        );

        g.stg(IPA, 5).unwrap();
        assert_eq!(g.ldg(IPA), Ok(5), "other memory has its tags");
        assert_eq!(g.machine.check(), Ok(()));
    }
}

#[test]
fn without_the_capability_it_is_refused_as_ever() {
    let (_, added) = over_a_file("mte-perm-series", false, 0);
    assert_eq!(added, Err(Errno::Einval));
    for kernel in ["linux-6.13", "linux-7.3"] {
        let (mut g, added) = over_a_file(kernel, false, 0);
        assert_eq!(added, Err(Errno::Einval), "{kernel}");
        let vm = g.machine.create_vm(g.vmm).unwrap();
        assert_eq!(g.machine.enable_cap_arm_mte_perm(vm), Err(Errno::Einval), "{kernel}");
    }
    let (mut g, _) = over_a_file("mte-perm-series", true, 0);
    assert_eq!(g.machine.enable_cap_arm_mte_perm(g.vm), Err(Errno::Einval), "a vCPU");
}

#[test]
fn a_file_mapped_under_a_live_slot_keeps_the_guest_running() {
    for (capable, expected) in [(true, refused(IPA)), (false, GuestExit::Errno(Errno::Efault))] {
        let (mut g, _) = over_a_file("mte-perm-series", capable, 0);
        g.stg(IPA, 5).unwrap();
        let file = g.machine.create_file(FileKind::Ramfs, 1);
        let spec = MapSpec {
            backing: Backing::File(file),
            shared: true,
            ..anon(1)
        };
        g.machine.mmap(g.vmm, spec, Some(g.ram)).unwrap();
        assert_eq!(g.ldg(IPA), Err(expected));
        g.machine.set_tco(g.cpu, true);
        assert_eq!(access(&mut g, IPA, None).is_ok(), capable);
        assert_eq!(g.machine.check(), Ok(()));
    }
}

/// KVM hides `FEAT_MTE_PERM` from a guest.
#[test]
fn the_guests_id_registers_do_not_tell_of_it() {
    let (mut g, _) = over_a_file("mte-perm-series", true, 0);
    let other: Policy = policy("linux-6.13", &[]);
    let mut plain = guest(&config(other), 2);
    let pfr = |g: &mut Guest, cpu: VcpuId| g.machine.guest_mrs(cpu, "ID_AA64PFR1_EL1");
    let (with, cpu) = (g.cpu, plain.cpu);
    assert_eq!(pfr(&mut g, with), pfr(&mut plain, cpu));
}
