//! The races that decided how `PG_mte_tagged` may be set.

use tagvisor_arch::{Ipa, Tag, Va};
use tagvisor_explore::{Actor, Exploration, ExploreError, Finding, Options, explore};
use tagvisor_host::{
    Advice, Backing, Config, GuestOp, Machine, MapSpec, MmId, Op, Part, Policy, Property, Prot, SlotArgs, UserOp,
    VcpuId,
};

const IPA: u64 = 0x5000_0000;

/// A frame with stale tags on top of the free list, a VM with two vCPUs over one page of RAM the VMM has written.
fn machine(knobs: &[(&str, &str)]) -> (Machine, MmId, Va, [VcpuId; 2]) {
    let base = Policy::profile("linux-6.12").unwrap();
    let policy = knobs.iter().fold(base, |p, (knob, value)| p.with(knob, value).unwrap());
    let mut machine = Machine::new(&Config {
        policy,
        memory: 1 << 20,
        ..Config::default()
    })
    .unwrap();
    let vmm = machine.create_process("vmm");
    let rw = Prot::READ | Prot::WRITE;
    let old = MapSpec {
        pages: 1,
        backing: Backing::Anon,
        shared: false,
        prot: rw | Prot::MTE,
        pgoff: 0,
    };
    let earlier = machine.mmap(vmm, old, None).unwrap();
    machine.user_stg(vmm, earlier, Tag::new(0xc)).unwrap();
    machine.munmap(vmm, earlier, 1).unwrap();
    let ram = machine.mmap(vmm, MapSpec { prot: rw, ..old }, None).unwrap();
    machine.user_store(vmm, ram, 8, 1).unwrap();
    let vm = machine.create_vm(vmm).unwrap();
    machine.enable_cap_arm_mte(vm).unwrap();
    let cpus = [machine.create_vcpu(vm).unwrap(), machine.create_vcpu(vm).unwrap()];
    let slot = SlotArgs {
        id: 0,
        ipa: Ipa(IPA),
        userspace_addr: ram,
        pages: 1,
        flags: 0,
    };
    machine.set_user_memory_region(vm, slot).unwrap();
    (machine, vmm, ram, cpus)
}

fn two_vcpus(knobs: &[(&str, &str)]) -> Exploration {
    two_vcpus_for(knobs, &[])
}

fn two_vcpus_for(knobs: &[(&str, &str)], wanted: &[Property]) -> Exploration {
    let (machine, _, _, cpus) = machine(knobs);
    let ops = |cpu, tag| {
        vec![
            Op::Guest(
                cpu,
                GuestOp::Stg {
                    ptr: Va(IPA),
                    tag: Tag::new(tag),
                },
            ),
            Op::Guest(cpu, GuestOp::Ldg { ptr: Va(IPA) }),
        ]
    };
    let actors = [
        Actor::once("vcpu0", ops(cpus[0], 5)),
        Actor::once("vcpu1", vec![Op::Guest(cpus[1], GuestOp::Ldg { ptr: Va(IPA) })]),
    ];
    explore(machine.host(), &actors, wanted, Options::default(), &mut |_| true).unwrap()
}

fn violated(outcome: &Exploration) -> Option<Property> {
    match outcome.finding.as_ref()? {
        Finding::Violation(v) => Some(v.property),
        Finding::Deadlock(steps) => panic!("deadlock: {steps:?}"),
    }
}

#[test]
fn pg_mte_lock_holds_in_every_order() {
    let outcome = two_vcpus(&[]);
    assert_eq!((violated(&outcome), outcome.complete), (None, true));
    assert!(outcome.states > 100, "{outcome:?}");
}

#[test]
fn test_and_set_then_clear_leaks_stale_tags_to_the_second_fault() {
    let outcome = two_vcpus_for(&[("K18", "test-and-set")], &[Property::NoLeak]);
    assert_eq!(violated(&outcome), Some(Property::NoLeak));
}

#[test]
fn the_flag_that_promised_too_much_is_found_before_the_leak() {
    let early = two_vcpus(&[("K18", "test-and-set")]);
    let late = two_vcpus_for(&[("K18", "test-and-set")], &[Property::NoLeak]);
    assert_eq!(violated(&early), Some(Property::FlagTags));
    assert!(early.states < late.states, "{} {}", early.states, late.states);
}

#[test]
fn test_clear_set_without_a_lock_loses_the_tag_written_in_between() {
    let outcome = two_vcpus(&[("K18", "test-clear-set")]);
    assert_eq!(violated(&outcome), Some(Property::NoLoss));
    let Some(Finding::Violation(loss)) = &outcome.finding else {
        unreachable!()
    };
    let clears = loss.steps.iter().filter(|s| s.step == "mte_clear_page_tags").count();
    let store = loss.steps.iter().position(|s| s.text.contains("STG")).unwrap();
    let last_clear = loss
        .steps
        .iter()
        .rposition(|s| s.step == "mte_clear_page_tags")
        .unwrap();
    assert_eq!(clears, 2, "both faults clear");
    assert!(
        store < last_clear,
        "the tag was written before the second clear: {loss}"
    );
}

#[test]
fn an_exclusive_mmu_lock_closes_both_races() {
    for protocol in ["test-and-set", "test-clear-set"] {
        let outcome = two_vcpus(&[("K18", protocol), ("mmu_lock", "exclusive")]);
        assert_eq!((violated(&outcome), outcome.complete), (None, true), "{protocol}");
    }
}

#[test]
fn a_fault_and_a_reclaim_of_the_page_agree_in_every_order() {
    let (machine, vmm, ram, cpus) = machine(&[]);
    let actors = [
        Actor::once(
            "vcpu0",
            vec![
                Op::Guest(
                    cpus[0],
                    GuestOp::Stg {
                        ptr: Va(IPA),
                        tag: Tag::new(5),
                    },
                ),
                Op::Guest(cpus[0], GuestOp::Ldg { ptr: Va(IPA) }),
            ],
        ),
        Actor::once("kswapd", vec![Op::Evict(vmm, ram), Op::Evict(vmm, ram)]),
    ];
    let outcome = explore(machine.host(), &actors, &[], Options::default(), &mut |_| true).unwrap();
    assert_eq!(
        (violated(&outcome), outcome.complete),
        (None, true),
        "{:?}",
        outcome.finding
    );
}

#[test]
fn a_vmm_that_discards_its_page_races_a_fault_without_harm() {
    let (machine, vmm, ram, cpus) = machine(&[]);
    let actors = [
        Actor::once("vcpu0", vec![Op::Guest(cpus[0], GuestOp::Ldg { ptr: Va(IPA) })]),
        Actor::once(
            "vmm",
            vec![
                Op::Madvise(vmm, ram, 1, Advice::Dontneed),
                Op::User(
                    vmm,
                    UserOp::Store {
                        ptr: ram,
                        size: 8,
                        value: 2,
                    },
                ),
            ],
        ),
    ];
    let outcome = explore(machine.host(), &actors, &[], Options::default(), &mut |_| true).unwrap();
    assert_eq!(
        (violated(&outcome), outcome.complete),
        (None, true),
        "{:?}",
        outcome.finding
    );
}

#[test]
fn the_same_search_gives_the_same_outcome() {
    assert_eq!(
        two_vcpus(&[("K18", "test-clear-set")]),
        two_vcpus(&[("K18", "test-clear-set")])
    );
}

#[test]
fn limits_and_stops_are_not_called_complete() {
    let (machine, _, _, cpus) = machine(&[]);
    let actors = [0, 1].map(|i| Actor {
        forever: false,
        name: format!("vcpu{i}"),
        ops: vec![Op::Guest(cpus[i], GuestOp::Ldg { ptr: Va(IPA) })],
    });
    let outcome = explore(
        machine.host(),
        &actors,
        &[],
        Options {
            max_states: 10,
            ..Options::default()
        },
        &mut |_| true,
    )
    .unwrap();
    assert!(!outcome.complete && outcome.finding.is_none());
}

#[test]
fn machines_the_explorer_cannot_judge_are_refused() {
    let blind = Machine::new(&Config {
        ledger: false,
        ..Config::default()
    })
    .unwrap();
    let cached = Machine::new(&Config {
        tlb_bits: 4,
        ..Config::default()
    })
    .unwrap();
    let actor = [Actor::once("vmm", vec![Op::Swapoff(0)])];
    assert_eq!(
        explore(blind.host(), &actor, &[], Options::default(), &mut |_| true),
        Err(ExploreError::NoLedger)
    );
    assert_eq!(
        explore(cached.host(), &actor, &[], Options::default(), &mut |_| true),
        Err(ExploreError::Tlb(4))
    );
}

#[test]
fn a_search_asks_now_and_then_whether_to_go_on() {
    let (machine, _, _, cpus) = machine(&[]);
    let actors = [0, 1].map(|i| Actor {
        forever: false,
        name: format!("vcpu{i}"),
        ops: vec![Op::Guest(cpus[i], GuestOp::Ldg { ptr: Va(IPA) })],
    });
    let mut asked = 0;
    let outcome = explore(machine.host(), &actors, &[], Options::default(), &mut |_| {
        asked += 1;
        false
    });
    assert_eq!((asked, outcome.unwrap().complete), (1, false));
}

#[test]
fn what_lies_in_zone_device_memory_is_part_of_a_state() {
    let mut machine = Machine::new(&Config {
        memory: 1 << 20,
        zone_device: 1 << 20,
        ..Config::default()
    })
    .unwrap();
    let vmm = machine.create_process("vmm");
    let rw = Prot::READ | Prot::WRITE;
    let pmem = MapSpec {
        pages: 1,
        backing: Backing::ZoneDevice,
        shared: true,
        prot: rw,
        pgoff: 0,
    };
    let at = machine.mmap(vmm, pmem, None).unwrap();
    let state = |value| {
        let mut machine = machine.clone();
        machine.user_store(vmm, at, 8, value).unwrap();
        let frame = machine.pagemap(vmm, at).pfn.unwrap();
        machine.host().part(Part::Frame(frame))
    };
    assert_ne!(state(1), state(2));
    assert_eq!(state(1), state(1));
}

/// One thread of a VMM asks for MTE, another one makes a vCPU (B16).
fn capability_and_vcpu(lock: &str) -> Exploration {
    let policy = Policy::profile("linux-5.14").unwrap().with("K29", lock).unwrap();
    let mut machine = Machine::new(&Config {
        policy,
        memory: 1 << 20,
        ..Config::default()
    })
    .unwrap();
    let vmm = machine.create_process("vmm");
    let vm = machine.create_vm(vmm).unwrap();
    let actor = |name: &str, op| Actor {
        forever: false,
        name: name.into(),
        ops: vec![op],
    };
    let actors = [
        actor("thread 1", Op::EnableCapMte(vm)),
        actor("thread 2", Op::CreateVcpu(vm)),
    ];
    explore(machine.host(), &actors, &[], Options::default(), &mut |_| true).unwrap()
}

#[test]
fn a_capability_given_without_the_lock_misses_a_vcpu_made_meanwhile() {
    let found = capability_and_vcpu("unlocked");
    assert_eq!(violated(&found), Some(Property::Trap));
    let Some(Finding::Violation(violation)) = &found.finding else {
        unreachable!()
    };
    assert!(violation.summary.contains("HCR_EL2.ATA"), "{violation}");

    let held = capability_and_vcpu("kvm-lock");
    assert_eq!((violated(&held), held.complete), (None, true));
}
