//! A vCPU's registers, and a guest that turned its own stage 1 on.

use crate::common::{Guest, IPA, config, guest, policy};
use tagvisor_arch::{FaultKind, PAGE_SIZE, Va};
use tagvisor_host::{Errno, GuestExit, GuestOp, MmId, Property, VcpuId};

fn boot(kernel: &str) -> Guest {
    guest(&config(policy(kernel, &[])), 8)
}

/// A vCPU of a second VM, without the capability.
fn without_mte(guest: &mut Guest) -> VcpuId {
    let mm: MmId = guest.machine.create_process("other");
    let vm = guest.machine.create_vm(mm).unwrap();
    guest.machine.create_vcpu(vm).unwrap()
}

#[test]
fn id_registers_tell_of_mte_only_where_it_is() {
    let mut guest = boot("linux-6.12");
    let other = without_mte(&mut guest);
    let pfr1 = |guest: &mut Guest, cpu| guest.machine.guest_mrs(cpu, "ID_AA64PFR1_EL1");
    let cpu = guest.cpu;
    assert_eq!(pfr1(&mut guest, cpu), Ok(0x321));
    assert_eq!(pfr1(&mut guest, other), Ok(0x21));
    assert_eq!(guest.machine.guest_mrs(other, "GCR_EL1"), Err(GuestExit::Undefined));
    assert_eq!(guest.machine.vcpu_get_reg(other, "RGSR_EL1"), Err(Errno::Enoent));
    assert_eq!(guest.machine.vcpu_get_reg(cpu, "HCR_EL2"), Err(Errno::Enoent));
    assert_eq!(
        guest.machine.vcpu_set_reg(cpu, "ID_AA64PFR1_EL1", 0x21),
        Err(Errno::Einval)
    );
    guest.machine.vcpu_set_reg(cpu, "GCR_EL1", 0x1fffe).unwrap();
    assert_eq!(guest.machine.guest_mrs(cpu, "GCR_EL1"), Ok(0x1fffe));
}

/// B41: before 7.0 a guest without MTE read `GMID_EL1` and found it.
#[test]
fn gmid_is_trapped_since_7_0() {
    for (kernel, answer) in [("linux-6.12", Ok(6)), ("linux-7.0", Err(GuestExit::Undefined))] {
        let mut guest = boot(kernel);
        let (cpu, other) = (guest.cpu, without_mte(&mut guest));
        assert_eq!(guest.machine.guest_mrs(cpu, "GMID_EL1"), Ok(6));
        assert_eq!(guest.machine.check(), Ok(()));
        assert_eq!(guest.machine.guest_mrs(other, "GMID_EL1"), answer, "{kernel}");
        let found = guest.machine.check().err().map(|v| v.property);
        assert_eq!(found, answer.is_ok().then_some(Property::Trap), "{kernel}");
    }
}

/// One table of 1 GiB blocks in the guest's first page: the identity, and its second GiB again, untagged, in the third.
fn turn_stage1_on(guest: &mut Guest) {
    const BLOCK: u64 = 1 << 10 | 3 << 8 | 1;
    let (mm, table) = (guest.vmm, guest.ram);
    let gib = |n: u64, attr: u64| n << 30 | BLOCK | attr << 2;
    for (entry, value) in [(1, gib(1, 0)), (2, gib(1, 1))] {
        guest.machine.user_store(mm, table + 8 * entry, 8, value).unwrap();
    }
    let cpu = guest.cpu;
    let sctlr = guest.machine.vcpu_get_reg(cpu, "SCTLR_EL1").unwrap();
    for (name, value) in [
        ("MAIR_EL1", 0xfff0),
        ("TCR_EL1", 0x0022_0080_3519),
        ("TTBR0_EL1", IPA),
        ("SCTLR_EL1", sctlr | 0x1005),
    ] {
        guest.machine.vcpu_set_reg(cpu, name, value).unwrap();
    }
}

#[test]
fn stage_1_is_walked_in_guest_memory() {
    let mut guest = boot("linux-6.12");
    turn_stage1_on(&mut guest);
    let (page, alias) = (IPA + PAGE_SIZE, IPA + PAGE_SIZE + (1 << 30));
    guest.stg(page, 5).unwrap();
    assert_eq!(guest.ldg(page), Ok(5));
    assert_eq!(guest.ldg(alias), Ok(0), "an untagged mapping has no tags to load");
    let load = |ptr| GuestOp::Load { ptr: Va(ptr), size: 8 };
    let exit = guest.machine.guest(guest.cpu, load(page)).unwrap_err();
    assert!(matches!(exit, GuestExit::Exception(f) if f.kind == FaultKind::TagCheck));
    assert_eq!(guest.machine.guest(guest.cpu, load(alias)), Ok(0), "nor any to check");
    let exit = guest.machine.guest(guest.cpu, load(3 << 30)).unwrap_err();
    assert!(matches!(exit, GuestExit::Exception(f) if f.kind == FaultKind::Translation));
    // The host takes the table away: the walk itself faults at stage 2, and gets it back.
    let (vmm, ram) = (guest.vmm, guest.ram);
    guest.machine.evict(vmm, ram).unwrap();
    assert_eq!(guest.ldg(page), Ok(5));
    assert_eq!(guest.machine.check(), Ok(()));
}
