//! Each promise about flags, locks, references and traps, once kept and once broken by hand.

use tagvisor_arch::{Cpu, Ipa, Pfn, Tag, Va};

use crate::config::Config;
use crate::ids::{MmId, VcpuId, VmId};
use crate::ioctl::SlotArgs;
use crate::machine::Machine;
use crate::mm::{Backing, Prot};
use crate::ops::{GuestOp, MapSpec};
use crate::page::PageFlags;
use crate::policy::Policy;
use crate::verdict::Property;

const IPA: u64 = 0x5000_0000;

struct Setup {
    machine: Machine,
    vmm: MmId,
    ram: Va,
    vm: VmId,
    cpu: VcpuId,
}

/// A guest over one page that the VMM has written: present, and not flagged.
fn setup(mte: bool) -> Setup {
    let config = Config {
        policy: Policy::profile("linux-6.12").unwrap(),
        memory: 1 << 20,
        ..Config::default()
    };
    let mut machine = Machine::new(&config).unwrap();
    let vmm = machine.create_process("vmm");
    let ram = machine.mmap(vmm, anon(Prot::READ | Prot::WRITE), None).unwrap();
    machine.user_store(vmm, ram, 8, 0x42).unwrap();
    let vm = machine.create_vm(vmm).unwrap();
    if mte {
        machine.enable_cap_arm_mte(vm).unwrap();
    }
    let cpu = machine.create_vcpu(vm).unwrap();
    let slot = SlotArgs {
        id: 0,
        ipa: Ipa(IPA),
        userspace_addr: ram,
        pages: 1,
        flags: 0,
    };
    machine.set_user_memory_region(vm, slot).unwrap();
    Setup {
        machine,
        vmm,
        ram,
        vm,
        cpu,
    }
}

fn anon(prot: Prot) -> MapSpec {
    MapSpec {
        pages: 1,
        backing: Backing::Anon,
        shared: false,
        prot,
        pgoff: 0,
    }
}

impl Setup {
    fn pfn(&self) -> Pfn {
        self.machine.pagemap(self.vmm, self.ram).pfn.unwrap()
    }

    fn guest_tags(&mut self) {
        let ptr = Va(IPA);
        let tag = Tag::new(5);
        self.machine.guest(self.cpu, GuestOp::Stg { ptr, tag }).unwrap();
        self.machine.guest(self.cpu, GuestOp::Ldg { ptr }).unwrap();
    }

    /// The property found broken, and what is said of it.
    fn broken(&mut self) -> Option<(Property, String)> {
        self.machine.check().err().map(|v| (v.property, v.summary))
    }
}

#[test]
fn a_kernel_at_rest_keeps_every_promise() {
    let mut setup = setup(true);
    assert_eq!(setup.broken(), None);
    setup.guest_tags();
    setup.machine.evict(setup.vmm, setup.ram).unwrap();
    setup.guest_tags();
    assert_eq!(setup.broken(), None);
}

#[test]
fn a_flag_without_tags_breaks_p3_at_rest() {
    let mut setup = setup(true);
    let pfn = setup.pfn();
    setup.machine.host_mut().set_flag(pfn, PageFlags::MTE_TAGGED, true);
    let (property, summary) = setup.broken().unwrap();
    assert_eq!(property, Property::FlagTags);
    assert!(summary.contains("PG_mte_tagged"), "{summary}");
}

#[test]
fn a_flag_without_tags_breaks_p3_as_soon_as_a_fault_believes_it() {
    let mut setup = setup(true);
    let pfn = setup.pfn();
    setup.machine.host_mut().set_flag(pfn, PageFlags::MTE_TAGGED, true);
    let _ = setup.machine.guest(setup.cpu, GuestOp::Load { ptr: Va(IPA), size: 8 });
    let first = &setup.machine.violations()[0];
    assert_eq!(first.property, Property::FlagTags);
    assert!(first.summary.starts_with("vcpu0 finds PG_mte_tagged"), "{first}");
}

#[test]
fn a_stage_2_mapping_of_an_unflagged_page_breaks_p4() {
    let mut setup = setup(true);
    let (pfn, at) = (setup.pfn(), (setup.vmm, setup.ram));
    setup.machine.host_mut().ledger_mapped(setup.vm, Ipa(IPA), pfn, at);
    assert_eq!(setup.broken().unwrap().0, Property::MappingFlag);
}

#[test]
fn a_tagged_pte_of_an_unflagged_page_breaks_p4() {
    let mut setup = setup(true);
    let prot = Prot::READ | Prot::WRITE | Prot::MTE;
    let tagged = setup.machine.mmap(setup.vmm, anon(prot), None).unwrap();
    setup.machine.user_stg(setup.vmm, tagged, Tag::new(0)).unwrap();
    assert_eq!(setup.broken(), None);
    let pfn = setup.machine.pagemap(setup.vmm, tagged).pfn.unwrap();
    setup.machine.host_mut().set_flag(pfn, PageFlags::MTE_TAGGED, false);
    assert_eq!(setup.broken().unwrap().0, Property::MappingFlag);
}

#[test]
fn a_leaked_lock_breaks_p8() {
    let mut setup = setup(true);
    assert!(setup.machine.host_mut().mm_mut(setup.vmm).mmap_lock.try_read());
    let (property, summary) = setup.broken().unwrap();
    assert_eq!(property, Property::Sanity);
    assert!(summary.contains("mmap_lock of vmm"), "{summary}");
}

#[test]
fn a_leaked_reference_breaks_p8() {
    let mut setup = setup(true);
    let pfn = setup.pfn();
    setup.machine.host_mut().page_mut(pfn).refcount += 1;
    let (property, summary) = setup.broken().unwrap();
    assert_eq!(property, Property::Sanity);
    assert!(summary.contains("leaked: its count is 2, but only 1"), "{summary}");
}

#[test]
fn a_guest_without_mte_that_reaches_tags_breaks_p9() {
    let mut setup = setup(false);
    setup.guest_tags();
    assert_eq!(setup.broken(), None, "its tag instructions reach nothing");
    setup.machine.host_mut().vcpu_mut(setup.cpu).cpu = Cpu::with_sync_checks(1, true);
    setup.guest_tags();
    let (property, summary) = setup.broken().unwrap();
    assert_eq!(property, Property::Trap);
    assert!(summary.contains("vcpu0 of a VM without MTE"), "{summary}");
}
