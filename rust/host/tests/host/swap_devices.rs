//! Several swap devices side by side.

use crate::common::{Guest, IPA, RW, anon, config, guest, policy};
use tagvisor_arch::{PAGE_SIZE, Tag};
use tagvisor_host::{Advice, Backing, Config, Errno, FileKind, Machine, MapSpec, Prot, SwapArea, SwapKind};

const fn area(pages: u64, kind: SwapKind, priority: Option<i16>) -> SwapArea {
    SwapArea {
        bytes: pages * PAGE_SIZE,
        kind,
        priority,
    }
}

fn with(profile: &str, areas: &[SwapArea]) -> Config {
    Config {
        swap_areas: areas.to_vec(),
        ..config(policy(profile, &[]))
    }
}

const ZRAM_AND_NVME: [SwapArea; 2] = [area(2, SwapKind::Zram, Some(10)), area(64, SwapKind::Nvme, Some(5))];

/// A guest with a tagged page on each device: pages 0 and 1 on zram, page 2 on the disk.
fn on_both(profile: &str) -> Guest {
    let mut g = guest(&with(profile, &ZRAM_AND_NVME), 3);
    for page in 0..3 {
        g.stg(IPA + page * PAGE_SIZE, page as u8 + 1).unwrap();
        let gone = g.machine.evict(g.vmm, g.page(page)).unwrap();
        assert_eq!(gone.device, Some(u8::from(page == 2)), "{profile}");
    }
    g
}

fn tags_are_there(g: &mut Guest) {
    for page in 0..3 {
        assert_eq!(g.ldg(IPA + page * PAGE_SIZE), Ok(page + 1));
    }
    assert_eq!(g.machine.check(), Ok(()));
}

fn used(m: &Machine) -> Vec<u64> {
    m.swaps().iter().map(|area| area.used).collect()
}

#[test]
fn the_one_with_priority_is_filled_first_and_each_keeps_its_ways() {
    for profile in ["linux-5.14", "linux-6.1", "linux-6.12", "linux-7.3"] {
        let mut g = on_both(profile);
        assert_eq!((used(&g.machine), g.machine.stats().saved_tag_pages), (vec![2, 1], 3));
        tags_are_there(&mut g);
        assert_eq!(
            used(&g.machine),
            [0, 1],
            "{profile}: the disk keeps its slot, zram does not"
        );
    }
}

#[test]
fn swapoff_of_one_device_leaves_the_other_alone() {
    for profile in ["linux-5.14", "linux-6.1", "linux-6.12", "linux-7.3"] {
        for device in [0, 1] {
            let mut g = on_both(profile);
            g.machine.swapoff_device(device).unwrap();

            let left = if device == 0 { vec![0, 1] } else { vec![2, 0] };
            assert_eq!(used(&g.machine), left, "{profile}");
            assert_eq!(g.machine.stats().saved_tag_pages, left.iter().sum::<u64>());
            for page in 0..3 {
                let brought_back = (page == 2) == (device == 1);
                assert_eq!(g.machine.pagemap(g.vmm, g.page(page)).present, brought_back);
            }
            tags_are_there(&mut g);
            let page = g.page(2 - 2 * u64::from(device));
            let gone = g.machine.evict(g.vmm, page).unwrap();
            assert_eq!(gone.device, Some(1 - device), "the one that is on");
            tags_are_there(&mut g);
        }
    }
}

#[test]
fn swapoff_of_one_device_takes_the_pages_of_files_too() {
    let mut m = Machine::new(&with("linux-6.12", &ZRAM_AND_NVME)).unwrap();
    let mm = m.create_process("p");
    let file = m.create_file(FileKind::Shmem, 4);
    let spec = MapSpec {
        backing: Backing::File(file),
        shared: true,
        prot: RW | Prot::MTE,
        ..anon(4)
    };
    let a = m.mmap(mm, spec, None).unwrap();
    for page in 0..4 {
        m.user_stg(mm, a + page * PAGE_SIZE, Tag::new(page as u8 + 1)).unwrap();
        m.evict(mm, a + page * PAGE_SIZE).unwrap();
    }
    assert_eq!(used(&m), [2, 2]);
    m.swapoff_device(1).unwrap();
    assert_eq!((used(&m), m.stats().saved_tag_pages), (vec![2, 0], 2));
    for page in 0..4 {
        assert_eq!(m.user_ldg(mm, a + page * PAGE_SIZE), Ok(Tag::new(page as u8 + 1)));
    }
    assert_eq!(m.check(), Ok(()));
}

#[test]
fn a_device_is_turned_off_once_and_on_again() {
    let mut g = on_both("linux-6.12");
    assert_eq!(g.machine.swapon(0), Err(Errno::Ebusy));
    g.machine.swapoff_device(0).unwrap();
    assert_eq!(g.machine.swapoff_device(0), Err(Errno::Einval));
    assert_eq!(g.machine.swapoff_device(7), Err(Errno::Einval));
    assert_eq!(g.machine.swapon(7), Err(Errno::Einval));
    g.machine.swapon(0).unwrap();
    let gone = g.machine.evict(g.vmm, g.ram).unwrap();
    assert_eq!(gone.device, Some(0), "its priority is the higher one");
    tags_are_there(&mut g);
    g.machine.swapoff().unwrap();
    assert_eq!(used(&g.machine), [0, 0]);
    tags_are_there(&mut g);
}

#[test]
fn without_priorities_older_kernels_fill_the_first_and_newer_ones_take_turns() {
    for (profile, devices) in [("linux-6.12", [0, 0]), ("linux-7.3", [0, 1])] {
        let areas = [area(8, SwapKind::Zram, None), area(8, SwapKind::Nvme, None)];
        let mut g = guest(&with(profile, &areas), 2);
        for page in 0..2 {
            g.machine.user_store(g.vmm, g.page(page), 8, 1).unwrap();
            let gone = g.machine.evict(g.vmm, g.page(page)).unwrap();
            assert_eq!(gone.device, Some(devices[page as usize]), "{profile}");
        }
    }
}

#[test]
fn a_forked_page_on_each_device_comes_back_to_both_processes() {
    let mut m = Machine::new(&with("linux-6.12", &ZRAM_AND_NVME)).unwrap();
    let parent = m.create_process("parent");
    let prot = RW | Prot::MTE;
    let a = m.mmap(parent, MapSpec { prot, ..anon(4) }, None).unwrap();
    for page in 0..4 {
        m.user_stg(parent, a + page * PAGE_SIZE, Tag::new(page as u8 + 1))
            .unwrap();
    }
    let child = m.fork(parent, "child");
    m.memcg_reclaim(4);
    assert_eq!(used(&m), [2, 2]);
    m.swapoff_device(0).unwrap();
    m.madvise(parent, a, 4, Advice::Dontneed).unwrap();
    for page in 0..4 {
        assert_eq!(m.user_ldg(child, a + page * PAGE_SIZE), Ok(Tag::new(page as u8 + 1)));
    }
    assert_eq!(m.check(), Ok(()));
}

#[test]
fn what_swapon_refuses_names_the_argument() {
    for areas in [
        vec![area(0, SwapKind::Zram, None)],
        vec![area(1, SwapKind::Zram, Some(-3))],
        vec![ZRAM_AND_NVME[0]; 24],
    ] {
        assert_eq!(with("linux-6.12", &areas).validate().unwrap_err().argument, "swap");
    }
}
