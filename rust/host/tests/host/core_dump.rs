//! Tags that leave memory otherwise than by swap: core dumps and hibernation.

use crate::common::{Guest, IPA, RW, anon, config, guest, policy};
use tagvisor_arch::{PAGE_SIZE, Tag, Va};
use tagvisor_host::{Backing, Config, Errno, FileKind, Machine, MapSpec, MmId, Property, Prot};

const MTE: Prot = RW.union(Prot::MTE);

fn machine(profile: &str) -> (Machine, MmId) {
    let mut m = Machine::new(&config(policy(profile, &[]))).unwrap();
    let mm = m.create_process("p");
    (m, mm)
}

fn map(m: &mut Machine, mm: MmId, pages: u64) -> Va {
    m.mmap(
        mm,
        MapSpec {
            prot: MTE,
            ..anon(pages)
        },
        None,
    )
    .unwrap()
}

/// A process with 512 pages of hugetlb, the first and the last of them tagged 5.
fn huge(profile: &str) -> (Machine, MmId, Va) {
    let mut m = Machine::new(&Config {
        memory: 16 << 20,
        ..config(policy(profile, &[]))
    })
    .unwrap();
    let mm = m.create_process("p");
    m.set_nr_hugepages(1);
    let spec = MapSpec {
        backing: Backing::Hugetlb,
        prot: MTE,
        ..anon(512)
    };
    let a = m.mmap(mm, spec, None).unwrap();
    for page in [0, 511] {
        m.user_stg(mm, a + page * PAGE_SIZE, Tag::new(5)).unwrap();
    }
    (m, mm, a)
}

#[test]
fn a_core_dump_has_the_tags_of_pages_in_memory_and_in_swap_and_zeros_for_the_rest() {
    for profile in ["linux-5.18", "linux-6.1", "linux-6.12", "linux-7.3"] {
        let (mut m, mm) = machine(profile);
        let a = map(&mut m, mm, 4);
        let plain = m.mmap(mm, anon(1), None).unwrap();
        m.user_store(mm, plain, 8, 1).unwrap();
        m.user_stg(mm, a + 16, Tag::new(3)).unwrap();
        m.user_stg(mm, a + PAGE_SIZE, Tag::new(4)).unwrap();
        m.evict(mm, a + PAGE_SIZE).unwrap();
        m.user_load(mm, a + 2 * PAGE_SIZE, 8).unwrap();

        let dump = m.core_dump(mm);
        assert_eq!(dump.len(), 1, "{profile}: one VM_MTE mapping");
        assert_eq!((dump[0].va, dump[0].pages, dump[0].tags.len()), (a, 4, 4 * 256));
        let tagged: Vec<(usize, u8)> = (0..).zip(dump[0].tags.clone()).filter(|(_, tag)| *tag != 0).collect();
        assert_eq!(tagged, [(1, 3), (256, 4)]);
        assert!(
            !m.pagemap(mm, a + 3 * PAGE_SIZE).present,
            "nothing is brought in for a dump"
        );
        assert_eq!(m.check(), Ok(()));
    }
    let (mut m, mm) = machine("linux-5.16");
    map(&mut m, mm, 1);
    assert_eq!(m.core_dump(mm), []);
}

#[test]
fn what_is_dumped_of_a_mapping_differs() {
    for (profile, pages) in [
        ("linux-5.18", 2),
        ("linux-6.1.0", 2),
        ("linux-6.1.18", 0),
        ("linux-6.2", 0),
    ] {
        let (mut m, mm) = machine(profile);
        let never_touched = map(&mut m, mm, 2);
        let dump = m.core_dump(mm);
        assert_eq!(
            (dump[0].va, dump[0].pages, dump[0].tags.len()),
            (never_touched, 2, pages * 256),
            "{profile}"
        );
    }
    let (mut m, mm) = machine("linux-6.12");
    let file = m.create_file(FileKind::Shmem, 1);
    let spec = MapSpec {
        backing: Backing::File(file),
        shared: true,
        prot: MTE,
        ..anon(1)
    };
    let a = m.mmap(mm, spec, None).unwrap();
    m.user_stg(mm, a, Tag::new(9)).unwrap();
    assert_eq!(m.core_dump(mm)[0].tags[0], 9, "a memfd is anonymous shared memory");
}

#[test]
fn protection_does_not_count() {
    let (mut m, mm) = machine("linux-6.12");
    let a = map(&mut m, mm, 1);
    m.user_stg(mm, a, Tag::new(3)).unwrap();
    m.mprotect(mm, a, 1, Prot::empty()).unwrap();
    m.evict(mm, a).unwrap();
    assert_eq!(m.core_dump(mm)[0].tags[0], 3);
}

#[test]
fn of_a_huge_page_only_the_first_page_is_dumped() {
    let (mut m, mm, a) = huge("linux-6.13");
    let dump = m.core_dump(mm);
    assert_eq!((dump[0].tags[0], dump[0].tags[511 * 256]), (5, 0));
    assert_eq!(m.user_ldg(mm, a + 511 * PAGE_SIZE), Ok(Tag::new(5)));
    let lost = m.check().unwrap_err();
    assert_eq!(lost.property, Property::NoLoss);
    assert!(lost.summary.contains("debugger reads tag 0"), "{}", lost.summary);
}

/// Tags in memory, in swap, and in the swap cache.
fn busy_guest(profile: &str) -> Guest {
    let mut g = guest(&config(policy(profile, &[])), 3);
    for page in 0..3 {
        g.stg(IPA + page * PAGE_SIZE, page as u8 + 1).unwrap();
    }
    for page in 1..3 {
        let at = g.page(page);
        g.machine.evict(g.vmm, at).unwrap();
    }
    let at = g.page(2);
    g.machine.user_load(g.vmm, at, 8).unwrap();
    g
}

fn tags_are_there(g: &mut Guest) {
    for page in 0..3 {
        assert_eq!(g.ldg(IPA + page * PAGE_SIZE), Ok(page + 1));
    }
    assert_eq!(g.machine.check(), Ok(()));
}

#[test]
fn tags_survive_hibernation_in_memory_and_in_swap() {
    for (profile, zero_page) in [("linux-5.14", 1), ("linux-6.1", 0), ("linux-6.12", 0), ("linux-7.3", 0)] {
        let mut g = busy_guest(profile);
        assert_eq!(
            g.machine.hibernate(),
            Ok(2 + zero_page),
            "{profile}: two pages are in memory"
        );
        tags_are_there(&mut g);
        assert_eq!(g.machine.hibernate(), Ok(3 + zero_page));
        tags_are_there(&mut g);
    }
}

#[test]
fn what_was_left_in_frames_nobody_has_does_not_come_back() {
    let (mut m, mm) = machine("linux-6.12");
    let a = map(&mut m, mm, 1);
    m.user_stg(mm, a, Tag::new(3)).unwrap();
    m.munmap(mm, a, 1).unwrap();
    assert_eq!(m.hibernate(), Ok(0));
    let b = map(&mut m, mm, 1);
    assert_eq!(m.user_ldg(mm, b), Ok(Tag::ZERO));
    m.user_store(mm, b, 8, 1).unwrap();
    assert_eq!(m.user_ldg(mm, b), Ok(Tag::ZERO));
    assert_eq!(m.check(), Ok(()));
}

#[test]
fn without_memory_for_tags_or_without_swap_nothing_happens() {
    let mut g = busy_guest("linux-6.12");
    g.machine.fail_tag_saves(1, 1);
    assert_eq!(g.machine.hibernate(), Err(Errno::Enomem));
    tags_are_there(&mut g);
    g.machine.swapoff().unwrap();
    assert_eq!(g.machine.hibernate(), Err(Errno::Enodev));
    tags_are_there(&mut g);
}

#[test]
fn of_a_huge_page_only_the_first_pages_tags_survive_hibernation() {
    let (mut m, mm, a) = huge("linux-6.13");
    assert_eq!(m.hibernate(), Ok(2), "the first page, and the zero page");
    assert_eq!(m.user_ldg(mm, a), Ok(Tag::new(5)));
    assert_ne!(m.user_ldg(mm, a + 511 * PAGE_SIZE), Ok(Tag::new(5)));
    assert!(m.check().is_err());
}
