//! A VMM with one MTE guest, as the founding thread's sequences need it.

use tagvisor_arch::{Ipa, PAGE_SIZE, Tag, Va};
use tagvisor_host::{
    Backing, Config, Errno, GuestExit, GuestOp, Machine, MapSpec, MmId, Policy, Property, Prot, SlotArgs, VcpuId, VmId,
};

pub(crate) const IPA: u64 = 0x5000_0000;
pub(crate) const RW: Prot = Prot::READ.union(Prot::WRITE);

pub(crate) struct Guest {
    pub(crate) machine: Machine,
    pub(crate) vmm: MmId,
    pub(crate) vm: VmId,
    pub(crate) cpu: VcpuId,
    /// Guest RAM in the VMM.
    pub(crate) ram: Va,
}

pub(crate) fn policy(name: &str, knobs: &[(&str, &str)]) -> Policy {
    knobs.iter().fold(Policy::profile(name).unwrap(), |p, (knob, value)| {
        p.with(knob, value).unwrap()
    })
}

pub(crate) fn config(policy: Policy) -> Config {
    Config {
        policy,
        memory: 1 << 20,
        zone_device: 1 << 20,
        mmio: 1 << 20,
        swap: 1 << 20,
        ..Config::default()
    }
}

pub(crate) fn anon(pages: u64) -> MapSpec {
    MapSpec {
        pages,
        backing: Backing::Anon,
        shared: false,
        prot: RW,
        pgoff: 0,
    }
}

/// A VMM with `pages` pages of anonymous RAM at [`IPA`], without `PROT_MTE` as QEMU does.
pub(crate) fn guest(config: &Config, pages: u64) -> Guest {
    let mut machine = Machine::new(config).unwrap();
    let vmm = machine.create_process("vmm");
    let ram = machine.mmap(vmm, anon(pages), None).unwrap();
    let vm = machine.create_vm(vmm).unwrap();
    machine.enable_cap_arm_mte(vm).unwrap();
    let cpu = machine.create_vcpu(vm).unwrap();
    let mut guest = Guest {
        machine,
        vmm,
        vm,
        cpu,
        ram,
    };
    guest.slot(1, IPA, ram, pages).unwrap();
    guest
}

pub(crate) fn guest_with(knobs: &[(&str, &str)]) -> Guest {
    guest(&config(policy("linux-6.12", knobs)), 8)
}

impl Guest {
    pub(crate) fn slot(&mut self, id: u32, ipa: u64, userspace_addr: Va, pages: u64) -> Result<(), Errno> {
        let args = SlotArgs {
            id,
            ipa: Ipa(ipa),
            userspace_addr,
            pages,
            flags: 0,
        };
        self.machine.set_user_memory_region(self.vm, args)
    }

    pub(crate) fn page(&self, n: u64) -> Va {
        self.ram + n * PAGE_SIZE
    }

    pub(crate) fn ldg(&mut self, ipa: u64) -> Result<u64, GuestExit> {
        self.machine.guest(self.cpu, GuestOp::Ldg { ptr: Va(ipa) })
    }

    pub(crate) fn stg(&mut self, ipa: u64, tag: u8) -> Result<u64, GuestExit> {
        self.machine.guest(
            self.cpu,
            GuestOp::Stg {
                ptr: Va(ipa),
                tag: Tag::new(tag),
            },
        )
    }

    /// The properties violated so far, by number.
    pub(crate) fn violated(&self) -> Vec<&'static str> {
        self.machine.violations().iter().map(|v| v.property.id()).collect()
    }

    pub(crate) fn violates(&self, property: Property) -> bool {
        self.machine.violations().iter().any(|v| v.property == property)
    }
}
