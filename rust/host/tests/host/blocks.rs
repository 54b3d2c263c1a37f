//! Block mappings at stage 2: when a huge page becomes one, what breaks it, what merges it again, and its tags.

use crate::common::{Guest, IPA, RW, anon, config, guest, policy};
use tagvisor_arch::{Ipa, PAGE_SIZE, Tag, Va};
use tagvisor_host::{
    Advice, Backing, Config, Errno, GuestExit, GuestOp, Machine, MapSpec, MmId, Property, SlotArgs, Stats, VmId,
};

const HPAGE: u64 = 512;
const DIRTY_LOG: u32 = 1;
/// Where [`thp`] puts its huge page.
const BLOCK: u64 = IPA + 0x1000_0000;
/// Its address in the VMM.
const ALIGNED: Va = Va(0x7000_0020_0000);

fn big(kernel: &str) -> Config {
    Config {
        memory: 32 << 20,
        swap: 8 << 20,
        ..config(policy(kernel, &[]))
    }
}

/// A guest with a transparent huge page behind [`BLOCK`], and its address in the VMM.
fn thp(kernel: &str) -> (Guest, Va) {
    let mut g = guest(&big(kernel), 8);
    g.machine.set_transparent_hugepage(true, false);
    let a = g.machine.mmap(g.vmm, anon(HPAGE), Some(ALIGNED)).unwrap();
    g.machine.madvise(g.vmm, a, HPAGE, Advice::Hugepage).unwrap();
    g.machine.user_store(g.vmm, a, 8, 1).unwrap();
    g.slot(2, BLOCK, a, HPAGE).unwrap();
    (g, a)
}

fn flags(g: &mut Guest, a: Va, flags: u32) {
    let args = SlotArgs {
        id: 2,
        ipa: Ipa(BLOCK),
        userspace_addr: a,
        pages: HPAGE,
        flags,
    };
    g.machine.set_user_memory_region(g.vm, args).unwrap();
}

fn page(n: u64) -> u64 {
    BLOCK + n * PAGE_SIZE
}

/// Blocks mapped, broken, and mapped over a table.
fn blocks(g: &Guest) -> (u64, u64, u64) {
    let Stats {
        stage2_blocks,
        stage2_block_splits,
        stage2_block_merges,
        ..
    } = g.machine.stats();
    (stage2_blocks, stage2_block_splits, stage2_block_merges)
}

fn faults(g: &Guest) -> u64 {
    g.machine.stats().stage2_faults
}

/// A store next to the granule that [`Guest::stg`] tags.
fn store(g: &mut Guest, ipa: u64) {
    let store = GuestOp::Store {
        ptr: Va(ipa + 64),
        size: 8,
        value: 7,
    };
    g.machine.guest(g.cpu, store).unwrap();
}

#[test]
fn one_fault_maps_512_pages_of_a_huge_page_and_sanitises_all_of_them() {
    for kernel in ["linux-5.14", "linux-6.1", "linux-6.12", "linux-7.3"] {
        let (mut g, a) = thp(kernel);
        let clears = g.machine.stats().page_tag_clears;
        g.stg(page(3), 5).unwrap();
        assert_eq!(g.machine.stats().page_tag_clears, clears + HPAGE, "{kernel}");
        let before = faults(&g);
        g.stg(page(511), 6).unwrap();
        store(&mut g, page(100));
        assert_eq!((g.ldg(page(3)), g.ldg(page(511))), (Ok(5), Ok(6)));
        assert_eq!(faults(&g), before, "{kernel}: the block has them");
        assert_eq!(blocks(&g), (1, 0, 0), "{kernel}");
        assert!(g.machine.pagemap(g.vmm, a + 200 * PAGE_SIZE).mte_tagged);
        assert_eq!(g.machine.check(), Ok(()), "{kernel}");
    }
}

#[test]
fn addresses_that_are_not_aligned_alike_and_slots_that_end_inside_are_mapped_by_pages() {
    let (mut g, a) = thp("linux-6.12");
    g.slot(3, BLOCK + 0x1000_1000, a, HPAGE).unwrap();
    g.slot(4, BLOCK + 0x2000_0000, a, HPAGE - 1).unwrap();
    for ipa in [BLOCK + 0x1000_1000, BLOCK + 0x2000_0000] {
        g.stg(ipa, 5).unwrap();
        let before = faults(&g);
        g.ldg(ipa + PAGE_SIZE).unwrap();
        assert_eq!(faults(&g), before + 1);
    }
    assert_eq!(blocks(&g), (0, 0, 0));
    assert_eq!(g.machine.check(), Ok(()));
}

#[test]
fn a_vm_without_mte_has_blocks_too_and_sanitises_nothing() {
    let (mut g, a) = thp("linux-6.12");
    let vm = g.machine.create_vm(g.vmm).unwrap();
    let cpu = g.machine.create_vcpu(vm).unwrap();
    let args = SlotArgs {
        id: 1,
        ipa: Ipa(IPA),
        userspace_addr: a,
        pages: HPAGE,
        flags: 0,
    };
    g.machine.set_user_memory_region(vm, args).unwrap();
    let clears = g.machine.stats().page_tag_clears;
    let load = |page: u64| GuestOp::Load {
        ptr: Va(IPA + page * PAGE_SIZE),
        size: 8,
    };
    assert_eq!(g.machine.guest(cpu, load(0)), Ok(1));
    assert_eq!(g.machine.guest(cpu, load(400)), Ok(0));
    assert_eq!(blocks(&g), (1, 0, 0));
    assert_eq!(g.machine.stats().page_tag_clears, clears);
}

#[test]
fn whoever_unmaps_one_page_unmaps_the_block_and_the_rest_comes_back_by_pages() {
    for kernel in ["linux-6.1", "linux-6.12", "linux-7.3"] {
        let (mut g, a) = thp(kernel);
        g.stg(page(3), 5).unwrap();
        g.machine.madvise(g.vmm, a + PAGE_SIZE, 1, Advice::Dontneed).unwrap();
        let before = faults(&g);
        assert_eq!(g.ldg(page(3)), Ok(5));
        assert_eq!(g.ldg(page(4)), Ok(0));
        assert_eq!(faults(&g), before + 2, "{kernel}: page by page");
        assert_eq!(g.ldg(page(1)), Ok(0));
        assert_eq!(blocks(&g), (1, 0, 0), "{kernel}: the VMM has no PMD there any more");
        g.machine.evict(g.vmm, a + 3 * PAGE_SIZE).unwrap();
        assert_eq!(g.ldg(page(3)), Ok(5));
        assert_eq!(g.machine.check(), Ok(()), "{kernel}");

        g.machine.madvise(g.vmm, a, HPAGE, Advice::Collapse).ok();
        assert_eq!(g.ldg(page(3)), Ok(5));
    }
}

#[test]
fn logging_write_protects_the_block_and_the_first_write_breaks_it() {
    for kernel in ["linux-5.14", "linux-6.1", "linux-6.12", "linux-7.3"] {
        let (mut g, a) = thp(kernel);
        g.stg(page(3), 5).unwrap();
        flags(&mut g, a, DIRTY_LOG);
        let before = faults(&g);
        assert_eq!(g.ldg(page(3)), Ok(5));
        assert_eq!((faults(&g), blocks(&g)), (before, (1, 0, 0)), "{kernel}: reads go on");

        store(&mut g, page(3));
        assert_eq!((faults(&g), blocks(&g)), (before + 1, (1, 1, 0)), "{kernel}");
        assert_eq!(g.ldg(page(4)), Ok(0));
        assert_eq!(faults(&g), before + 2, "{kernel}: the rest faults again");
        let log = g.machine.get_dirty_log(g.vm, 2).unwrap();
        assert_eq!((log[0], log[1..].iter().all(|byte| *byte == 0)), (1 << 3, true));
        store(&mut g, page(4));
        assert_eq!(g.machine.get_dirty_log(g.vm, 2).unwrap()[0], 1 << 4, "{kernel}");
        assert_eq!(g.ldg(page(3)), Ok(5));
        assert_eq!(g.machine.check(), Ok(()), "{kernel}");
    }
}

#[test]
fn a_fault_after_logging_merges_the_pages_into_a_block_and_frees_the_table() {
    for kernel in ["linux-5.14", "linux-6.1", "linux-6.12", "linux-7.3"] {
        let (mut g, a) = thp(kernel);
        g.stg(page(3), 5).unwrap();
        flags(&mut g, a, DIRTY_LOG);
        let free = g.machine.stats().free_pages;
        store(&mut g, page(3));
        assert_eq!(g.machine.stats().free_pages, free - 1, "{kernel}: the table");
        flags(&mut g, a, 0);
        let before = faults(&g);
        store(&mut g, page(4));
        assert_eq!(
            (blocks(&g), g.machine.stats().free_pages),
            ((2, 1, 1), free),
            "{kernel}"
        );
        store(&mut g, page(5));
        assert_eq!((faults(&g), g.ldg(page(3))), (before + 1, Ok(5)), "{kernel}");
        assert_eq!(g.machine.check(), Ok(()), "{kernel}");
    }
}

#[test]
fn eager_splitting_leaves_all_pages_mapped_read_only() {
    let (mut g, a) = thp("linux-6.12");
    assert_eq!(
        g.machine.enable_cap_eager_split(g.vm, 1 << 21),
        Err(Errno::Einval),
        "slots"
    );
    let old = Machine::new(&big("linux-6.4")).map(|mut m| {
        let mm: MmId = m.create_process("vmm");
        let vm: VmId = m.create_vm(mm).unwrap();
        m.enable_cap_eager_split(vm, 1 << 21)
    });
    assert_eq!(old.unwrap(), Err(Errno::Einval), "none before 6.5");

    let vm = g.machine.create_vm(g.vmm).unwrap();
    g.machine.enable_cap_arm_mte(vm).unwrap();
    assert_eq!(g.machine.enable_cap_eager_split(vm, 3 << 12), Err(Errno::Einval));
    g.machine.enable_cap_eager_split(vm, 1 << 21).unwrap();
    (g.cpu, g.vm) = (g.machine.create_vcpu(vm).unwrap(), vm);
    flags(&mut g, a, 0);
    g.stg(page(3), 5).unwrap();
    let before = faults(&g);
    flags(&mut g, a, DIRTY_LOG);
    assert_eq!(blocks(&g), (1, 1, 0));
    assert_eq!((g.ldg(page(3)), g.ldg(page(400))), (Ok(5), Ok(0)));
    assert_eq!(faults(&g), before, "still mapped");
    store(&mut g, page(400));
    assert_eq!((faults(&g), blocks(&g)), (before + 1, (1, 1, 0)));
    assert_eq!(g.machine.check(), Ok(()));
}

/// A frame's tags are an earlier guest's; the guest reads one page of the huge page while writes are logged, and writes to
/// it afterwards. The fault is one of permission, and what it maps is a block, 511 pages of which nobody sanitised.
#[test]
fn a_merge_by_a_permission_fault_shows_tags_nobody_cleared() {
    for kernel in ["linux-5.14", "linux-6.1", "linux-6.12", "linux-7.3"] {
        for (knobs, leaks) in [(&[][..], true), (&[("K19", "yes")][..], false)] {
            let mut g = guest(
                &Config {
                    policy: policy(kernel, knobs),
                    ..big(kernel)
                },
                8,
            );
            let m = &mut g.machine;
            m.set_transparent_hugepage(true, false);
            let other = m.create_process("other");
            let mte = MapSpec {
                prot: RW | tagvisor_host::Prot::MTE,
                ..anon(HPAGE)
            };
            let b = m.mmap(other, mte, Some(ALIGNED)).unwrap();
            m.madvise(other, b, HPAGE, Advice::Hugepage).unwrap();
            m.user_stg(other, b + 9 * PAGE_SIZE, Tag::new(9)).unwrap();
            m.exit(other);
            let a = m.mmap(g.vmm, anon(HPAGE), Some(ALIGNED)).unwrap();
            m.madvise(g.vmm, a, HPAGE, Advice::Hugepage).unwrap();
            m.user_store(g.vmm, a, 8, 1).unwrap();
            flags(&mut g, a, DIRTY_LOG);
            assert_eq!(g.ldg(page(3)), Ok(0));
            flags(&mut g, a, 0);
            store(&mut g, page(3));
            assert_eq!(blocks(&g), (1, 0, 1), "{kernel} {knobs:?}");

            assert_eq!(g.ldg(page(9)), Ok(if leaks { 9 } else { 0 }), "{kernel} {knobs:?}");
            assert_eq!(g.violates(Property::NoLeak), leaks, "{kernel} {knobs:?}");
            assert_eq!(g.violates(Property::MappingFlag), leaks, "{kernel} {knobs:?}");
        }
    }
}

/// A guest whose [`BLOCK`] is a page of hugetlb.
fn hugetlb(kernel: &str) -> (Guest, Va) {
    let mut g = guest(&big(kernel), 8);
    assert_eq!(g.machine.set_nr_hugepages(1), 1);
    let spec = MapSpec {
        backing: Backing::Hugetlb,
        ..anon(HPAGE)
    };
    let a = g.machine.mmap(g.vmm, spec, None).unwrap();
    (g, a)
}

#[test]
fn a_page_of_hugetlb_is_a_block() {
    for kernel in ["linux-6.1", "linux-7.3"] {
        let (mut g, a) = hugetlb(kernel);
        g.slot(2, BLOCK, a, HPAGE).unwrap();
        let clears = g.machine.stats().page_tag_clears;
        g.stg(page(7), 3).unwrap();
        assert_eq!(g.machine.stats().page_tag_clears, clears + HPAGE, "{kernel}");
        let before = faults(&g);
        assert_eq!((g.ldg(page(7)), g.ldg(page(500))), (Ok(3), Ok(0)));
        assert_eq!((faults(&g), blocks(&g)), (before, (1, 0, 0)), "{kernel}");
        assert!(g.machine.pagemap(g.vmm, a + 500 * PAGE_SIZE).mte_tagged);
        assert_eq!(g.machine.check(), Ok(()), "{kernel}");
    }
}

/// Since 6.13 the head's flag speaks for the whole huge page, and only what is mapped is cleared: while writes are logged
/// that is one page.
#[test]
fn a_page_of_hugetlb_mapped_by_pages_is_flagged_whole_and_cleared_in_part() {
    for (kernel, leaks) in [("linux-6.1", false), ("linux-7.3", true)] {
        let mut g = guest(&big(kernel), 8);
        g.machine.set_nr_hugepages(1);
        let spec = MapSpec {
            backing: Backing::Hugetlb,
            ..anon(HPAGE)
        };
        let b = g.machine.mmap(g.vmm, spec, None).unwrap();
        g.slot(2, BLOCK, b, HPAGE).unwrap();
        g.stg(page(9), 9).unwrap();
        g.slot(2, BLOCK, b, 0).unwrap();
        g.machine.munmap(g.vmm, b, HPAGE).unwrap();
        if kernel == "linux-6.1" {
            // Nobody clears the flags of a huge page that goes back to the pool: let it be a page like any other first.
            g.machine.set_nr_hugepages(0);
            g.machine.set_nr_hugepages(1);
        }
        let a = g.machine.mmap(g.vmm, spec, None).unwrap();
        flags(&mut g, a, DIRTY_LOG);
        assert_eq!(g.ldg(page(3)), Ok(0));
        assert_eq!(g.ldg(page(9)), Ok(if leaks { 9 } else { 0 }), "{kernel}");
        assert_eq!(g.violates(Property::NoLeak), leaks, "{kernel}");
        assert_eq!(blocks(&g).1, 0);
    }
}

#[test]
fn deleting_the_slot_unmaps_the_block() {
    let (mut g, a) = thp("linux-6.12");
    g.stg(page(3), 5).unwrap();
    g.slot(2, BLOCK, a, 0).unwrap();
    assert!(matches!(g.ldg(page(3)), Err(GuestExit::Errno(Errno::Enosys))));
    flags(&mut g, a, 0);
    assert_eq!(g.ldg(page(3)), Ok(5));
    assert_eq!(blocks(&g), (2, 0, 0));
}

#[test]
fn a_fork_of_the_vmm_takes_the_block_and_a_write_copies_one_page() {
    let (mut g, a) = thp("linux-6.12");
    g.stg(page(3), 5).unwrap();
    let child = g.machine.fork(g.vmm, "child");
    store(&mut g, page(4));
    assert_eq!(g.ldg(page(3)), Ok(5));
    assert_eq!(g.machine.user_load(child, a + 4 * PAGE_SIZE + 64, 8), Ok(0));
    assert_eq!(g.machine.check(), Ok(()));
}
