//! Paths that put another page in a page's place (migration, KSM, reclaim, splits), against guests and processes that use it.

use tagvisor_arch::{Ipa, PAGE_SIZE, Tag, Va};
use tagvisor_explore::{Actor, Exploration, Finding, Options, explore};
use tagvisor_host::{
    Advice, Backing, Config, GuestOp, Machine, MapSpec, MmId, Op, Policy, Prot, SlotArgs, UserOp, VcpuId,
};

const IPA: u64 = 0x5000_0000;
const RW: Prot = Prot::READ.union(Prot::WRITE);

struct Scene {
    machine: Machine,
    vmm: MmId,
    ram: Va,
    cpu: VcpuId,
}

/// A VM over pages that all hold the same data; the guest has tagged the first.
fn scene(kernel: &str, pages: u64) -> Scene {
    let mut machine = Machine::new(&Config {
        policy: Policy::profile(kernel).unwrap(),
        memory: 1 << 20,
        ..Config::default()
    })
    .unwrap();
    let vmm = machine.create_process("vmm");
    let anon = MapSpec {
        pages,
        backing: Backing::Anon,
        shared: false,
        prot: RW,
        pgoff: 0,
    };
    let ram = machine.mmap(vmm, anon, None).unwrap();
    for page in 0..pages {
        machine.user_store(vmm, ram + page * PAGE_SIZE, 8, 1).unwrap();
    }
    let vm = machine.create_vm(vmm).unwrap();
    machine.enable_cap_arm_mte(vm).unwrap();
    let cpu = machine.create_vcpu(vm).unwrap();
    let slot = SlotArgs {
        id: 0,
        ipa: Ipa(IPA),
        userspace_addr: ram,
        pages,
        flags: 0,
    };
    machine.set_user_memory_region(vm, slot).unwrap();
    let mut scene = Scene { machine, vmm, ram, cpu };
    let stg = scene.stg(0, 5);
    scene.machine.run(stg);
    scene
}

impl Scene {
    fn stg(&self, page: u64, tag: u8) -> Op {
        let ptr = Va(IPA + page * PAGE_SIZE);
        let tag = Tag::new(tag);
        Op::Guest(self.cpu, GuestOp::Stg { ptr, tag })
    }

    fn ldg(&self, page: u64) -> Op {
        let ptr = Va(IPA + page * PAGE_SIZE);
        Op::Guest(self.cpu, GuestOp::Ldg { ptr })
    }

    fn store(&self, page: u64) -> Op {
        let ptr = self.ram + page * PAGE_SIZE;
        let (size, value) = (8, 2);
        Op::User(self.vmm, UserOp::Store { ptr, size, value })
    }

    fn at(&self, page: u64) -> Va {
        self.ram + page * PAGE_SIZE
    }

    /// Every order; nothing is found, and nobody waits for ever.
    fn holds(&self, actors: Vec<(&str, Vec<Op>)>) -> Exploration {
        let outcome = self.holds_in(u64::from(u32::MAX), actors);
        assert!(outcome.complete, "{} states were not enough", outcome.states);
        outcome
    }

    /// The same in so many states, the nearest first.
    fn holds_in(&self, max_states: u64, actors: Vec<(&str, Vec<Op>)>) -> Exploration {
        let options = Options {
            max_states,
            ..Options::default()
        };
        let actors: Vec<Actor> = actors.into_iter().map(|(name, ops)| Actor::once(name, ops)).collect();
        let outcome = explore(self.machine.host(), &actors, &[], options, &mut |_| true).unwrap();
        match &outcome.finding {
            None => {}
            Some(Finding::Violation(found)) => panic!("{found}"),
            Some(Finding::Deadlock(steps)) => panic!("deadlock: {steps:?}"),
        }
        outcome
    }
}

const KERNELS: [&str; 3] = ["linux-6.1", "linux-6.12", "linux-7.3"];

#[test]
fn a_page_that_moves_keeps_the_tags_a_guest_writes_meanwhile() {
    for kernel in KERNELS {
        let s = scene(kernel, 1);
        let outcome = s.holds(vec![
            ("kcompactd", vec![Op::Migrate(s.vmm, s.at(0))]),
            ("vcpu0", vec![s.stg(0, 7), s.ldg(0)]),
        ]);
        assert!(outcome.states > 100, "{kernel}: {}", outcome.states);
    }
}

#[test]
fn a_page_that_moves_while_it_is_reclaimed_is_found_by_the_guest() {
    let s = scene("linux-6.12", 1);
    s.holds(vec![
        ("kcompactd", vec![Op::Migrate(s.vmm, s.at(0))]),
        ("kswapd", vec![Op::Evict(s.vmm, s.at(0))]),
        ("vcpu0", vec![s.ldg(0)]),
    ]);
}

/// ksmd looks at each page again and again, so not every order can be tried.
const MANY: u64 = 20_000;

#[test]
fn pages_are_merged_and_taken_apart_while_a_guest_tags_one() {
    for kernel in KERNELS {
        let mut s = scene(kernel, 3);
        s.machine.madvise(s.vmm, s.at(1), 2, Advice::Mergeable).unwrap();
        let actors = vec![("ksmd", vec![Op::KsmScan]), ("vcpu0", vec![s.stg(1, 7), s.ldg(2)])];
        s.holds_in(MANY, actors);
    }
}

#[test]
fn pages_are_merged_while_their_owner_writes_and_forgets_them() {
    let mut s = scene("linux-6.12", 3);
    s.machine.madvise(s.vmm, s.at(1), 2, Advice::Mergeable).unwrap();
    let forgets = Op::Madvise(s.vmm, s.at(2), 1, Advice::Dontneed);
    s.holds_in(
        MANY,
        vec![("ksmd", vec![Op::KsmScan]), ("vmm", vec![s.store(1), forgets])],
    );
}

#[test]
fn memory_fails_while_the_guest_and_its_vmm_use_it() {
    let s = scene("linux-6.12", 1);
    s.holds(vec![
        ("root", vec![Op::Madvise(s.vmm, s.at(0), 1, Advice::Hwpoison)]),
        ("vcpu0", vec![s.ldg(0)]),
    ]);
    s.holds(vec![
        ("root", vec![Op::Madvise(s.vmm, s.at(0), 1, Advice::SoftOffline)]),
        ("vcpu0", vec![s.stg(0, 7), s.ldg(0)]),
    ]);
}

#[test]
fn a_huge_page_is_split_while_the_guest_tags_a_page_of_it() {
    const HPAGE: u64 = 512;
    let mut machine = Machine::new(&Config {
        policy: Policy::profile("linux-6.12").unwrap(),
        memory: 8 << 20,
        ..Config::default()
    })
    .unwrap();
    machine.set_transparent_hugepage(true, true);
    let vmm = machine.create_process("vmm");
    let anon = MapSpec {
        pages: HPAGE,
        backing: Backing::Anon,
        shared: false,
        prot: RW,
        pgoff: 0,
    };
    let ram = machine.mmap(vmm, anon, None).unwrap();
    machine.madvise(vmm, ram, HPAGE, Advice::Hugepage).unwrap();
    for page in 0..4 {
        machine.user_store(vmm, ram + page * PAGE_SIZE, 8, 1).unwrap();
    }
    let vm = machine.create_vm(vmm).unwrap();
    machine.enable_cap_arm_mte(vm).unwrap();
    let cpu = machine.create_vcpu(vm).unwrap();
    let slot = SlotArgs {
        id: 0,
        ipa: Ipa(IPA),
        userspace_addr: ram,
        pages: HPAGE,
        flags: 0,
    };
    machine.set_user_memory_region(vm, slot).unwrap();
    let mut s = Scene { machine, vmm, ram, cpu };
    let touch = s.stg(2, 5);
    s.machine.run(touch);
    // A state has 512 of everything, and the split goes through each: the nearest ones.
    let pageout = Op::Madvise(s.vmm, s.at(3), 1, Advice::Pageout);
    s.holds_in(
        1_500,
        vec![("vmm", vec![pageout]), ("vcpu0", vec![s.stg(2, 7), s.ldg(2)])],
    );
}
