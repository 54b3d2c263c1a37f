//! Swap beside a guest, in every order: zswap's writeback, swapoff of one of two devices, tags that cannot be saved.

use tagvisor_arch::{Ipa, PAGE_SIZE, Tag, Va};
use tagvisor_explore::{Actor, Options, explore};
use tagvisor_host::{
    Backing, Config, GuestOp, Machine, MapSpec, MmId, Op, Policy, Prot, SlotArgs, SwapArea, SwapKind, VcpuId,
};

const IPA: u64 = 0x5000_0000;

/// A guest with one tagged page, on two swap devices behind zswap.
fn machine(profile: &str) -> (Machine, MmId, Va, VcpuId) {
    let area = |kind| SwapArea {
        bytes: 4 * PAGE_SIZE,
        kind,
        priority: None,
    };
    let mut machine = Machine::new(&Config {
        policy: Policy::profile(profile).unwrap(),
        memory: 1 << 20,
        swap_areas: vec![area(SwapKind::Nvme), area(SwapKind::Zram)],
        zswap: 4 * PAGE_SIZE,
        log: false,
        ..Config::default()
    })
    .unwrap();
    let vmm = machine.create_process("vmm");
    let spec = MapSpec {
        pages: 1,
        backing: Backing::Anon,
        shared: false,
        prot: Prot::READ | Prot::WRITE,
        pgoff: 0,
    };
    let ram = machine.mmap(vmm, spec, None).unwrap();
    let vm = machine.create_vm(vmm).unwrap();
    machine.enable_cap_arm_mte(vm).unwrap();
    let cpu = machine.create_vcpu(vm).unwrap();
    let slot = SlotArgs {
        id: 1,
        ipa: Ipa(IPA),
        userspace_addr: ram,
        pages: 1,
        flags: 0,
    };
    machine.set_user_memory_region(vm, slot).unwrap();
    machine
        .guest(
            cpu,
            GuestOp::Stg {
                ptr: Va(IPA),
                tag: Tag::new(5),
            },
        )
        .unwrap();
    machine.user_store(vmm, ram + 8, 8, 7).unwrap();
    (machine, vmm, ram, cpu)
}

/// No order of the steps of `op` and of a guest that reads and writes a tag breaks a promise.
fn holds(machine: &Machine, cpu: VcpuId, op: Op) {
    let guest = |op| Op::Guest(cpu, op);
    let actors = [
        Actor {
            forever: false,
            name: "vcpu0".into(),
            ops: vec![
                guest(GuestOp::Ldg { ptr: Va(IPA) }),
                guest(GuestOp::Stg {
                    ptr: Va(IPA),
                    tag: Tag::new(6),
                }),
                guest(GuestOp::Ldg { ptr: Va(IPA) }),
            ],
        },
        Actor {
            forever: false,
            name: "kernel".into(),
            ops: vec![op.clone(), op],
        },
    ];
    let outcome = explore(machine.host(), &actors, &[], Options::default(), &mut |_| true).unwrap();
    assert!(outcome.finding.is_none(), "{:?}", outcome.finding);
    assert!(outcome.complete);
}

#[test]
fn zswap_writes_back_what_a_guest_swaps_in() {
    for profile in ["linux-6.1", "linux-6.12", "linux-7.3"] {
        let (mut machine, vmm, ram, cpu) = machine(profile);
        machine.evict(vmm, ram).unwrap();
        assert_eq!(machine.stats().zswap_pages, 1);
        holds(&machine, cpu, Op::ZswapShrink(1));
    }
}

#[test]
fn a_device_is_turned_off_while_a_guest_swaps_in() {
    for profile in ["linux-6.1", "linux-6.12", "linux-7.3"] {
        let (mut machine, vmm, ram, cpu) = machine(profile);
        machine.evict(vmm, ram).unwrap();
        let device = machine.pagemap(vmm, ram).device.unwrap();
        holds(&machine, cpu, Op::Swapoff(device));
    }
}

#[test]
fn a_page_whose_tags_cannot_be_saved_the_first_time() {
    for profile in ["linux-6.1", "linux-6.12", "linux-7.3"] {
        let (mut machine, vmm, ram, cpu) = machine(profile);
        machine.fail_tag_saves(1, 0);
        holds(&machine, cpu, Op::Evict(vmm, ram));
    }
}

#[test]
fn a_page_is_moved_to_where_a_guest_waits_for_it() {
    let (mut machine, vmm, ram, cpu) = machine("linux-6.12");
    let spec = MapSpec {
        pages: 1,
        backing: Backing::Anon,
        shared: false,
        prot: Prot::READ | Prot::WRITE,
        pgoff: 0,
    };
    let from = machine.mmap(vmm, spec, None).unwrap();
    machine.user_store(vmm, from, 8, 1).unwrap();
    machine.madvise(vmm, ram, 1, tagvisor_host::Advice::Dontneed).unwrap();
    machine.uffd_register(vmm, ram, 1).unwrap();
    holds(&machine, cpu, Op::UffdMove { mm: vmm, to: ram, from });
    // And away from under a guest that uses it.
    machine.uffd_move(vmm, ram, from).unwrap();
    machine.uffd_register(vmm, from, 1).unwrap();
    machine
        .guest(
            cpu,
            GuestOp::Stg {
                ptr: Va(IPA),
                tag: Tag::new(5),
            },
        )
        .unwrap();
    let away = Op::UffdMove {
        mm: vmm,
        to: from,
        from: ram,
    };
    let back = Op::UffdMove { mm: vmm, to: ram, from };
    let actors = [
        Actor {
            forever: false,
            name: "vcpu0".into(),
            ops: vec![
                Op::Guest(cpu, GuestOp::Ldg { ptr: Va(IPA) }),
                Op::Guest(
                    cpu,
                    GuestOp::Stg {
                        ptr: Va(IPA),
                        tag: Tag::new(6),
                    },
                ),
            ],
        },
        Actor {
            forever: false,
            name: "vmm".into(),
            ops: vec![away, back],
        },
    ];
    let outcome = explore(machine.host(), &actors, &[], Options::default(), &mut |_| true).unwrap();
    assert!(outcome.finding.is_none(), "{:?}", outcome.finding);
    assert!(outcome.complete);
}
