//! `UFFDIO_MOVE`: a page goes to where it is missing, and takes its tags along.

use crate::common::{Guest, IPA, RW, anon, config, guest, policy};
use tagvisor_arch::{PAGE_SIZE, Tag, Va};
use tagvisor_host::{Advice, Config, Errno, GuestExit, MapSpec, Prot, SwapKind};

const MTE: Prot = RW.union(Prot::MTE);

/// A guest whose RAM user space brings, and a staging area with a page tagged 5 that holds 42, `PROT_MTE` both.
fn staged(profile: &str, swap_kind: SwapKind) -> (Guest, Va) {
    let config = Config {
        swap_kind,
        ..config(policy(profile, &[]))
    };
    let mut g = guest(&config, 2);
    let (vmm, ram) = (g.vmm, g.ram);
    g.machine.mprotect(vmm, ram, 2, MTE).unwrap();
    g.machine.uffd_register(vmm, ram, 2).unwrap();
    let from = g.machine.mmap(vmm, MapSpec { prot: MTE, ..anon(1) }, None).unwrap();
    g.machine.user_store(vmm, from, 8, 42).unwrap();
    g.machine.user_stg(vmm, from, Tag::new(5)).unwrap();
    (g, from)
}

fn arrived(g: &mut Guest, from: Va) {
    assert_eq!(g.ldg(IPA), Ok(5));
    let at = Va(g.ram.0 | 5 << 56);
    assert_eq!(g.machine.user_load(g.vmm, at, 8), Ok(42));
    assert_eq!(g.machine.user_load(g.vmm, from, 8), Ok(0), "nothing is left there");
    assert_eq!(g.machine.user_ldg(g.vmm, from), Ok(Tag::ZERO));
    assert_eq!(g.machine.check(), Ok(()));
}

#[test]
fn data_and_tags_arrive_together() {
    for profile in ["linux-6.8", "linux-6.12", "linux-7.3"] {
        let (mut g, from) = staged(profile, SwapKind::Nvme);
        assert_eq!(g.ldg(IPA), Err(GuestExit::Errno(Errno::Efault)));
        g.machine.uffd_move(g.vmm, g.ram, from).unwrap();
        assert_eq!(g.machine.uffd_read(g.vmm), []);
        arrived(&mut g, from);
    }
    let (mut g, from) = staged("linux-6.6", SwapKind::Nvme);
    assert_eq!(
        g.machine.uffd_move(g.vmm, g.ram, from),
        Err(Errno::Einval),
        "no such ioctl"
    );
}

#[test]
fn a_swapped_page_moves_with_its_slot_and_saved_tags() {
    for swap_kind in [SwapKind::Nvme, SwapKind::Zram] {
        for in_cache in [true, false] {
            let (mut g, from) = staged("linux-6.12", swap_kind);
            if in_cache {
                g.machine.madvise(g.vmm, from, 1, Advice::Pageout).unwrap();
            } else {
                g.machine.evict(g.vmm, from).unwrap();
            }
            let entry = g.machine.pagemap(g.vmm, from).entry;
            assert!(entry.is_some());
            g.machine.uffd_move(g.vmm, g.ram, from).unwrap();
            assert_eq!(g.machine.pagemap(g.vmm, g.ram).entry, entry);
            arrived(&mut g, from);
        }
    }
}

#[test]
fn moved_it_can_be_swapped_out_and_comes_back_where_it_is() {
    let (mut g, from) = staged("linux-6.12", SwapKind::Zram);
    g.machine.uffd_move(g.vmm, g.ram, from).unwrap();
    g.machine.evict(g.vmm, g.ram).unwrap();
    arrived(&mut g, from);
}

#[test]
fn a_guest_that_had_the_page_at_its_old_place_has_it_no_more() {
    let (mut g, from) = staged("linux-6.12", SwapKind::Nvme);
    let other = IPA + 16 * PAGE_SIZE;
    g.slot(2, other, from, 1).unwrap();
    assert_eq!(g.ldg(other), Ok(5));
    g.stg(other + 16, 7).unwrap();
    g.machine.uffd_move(g.vmm, g.ram, from).unwrap();
    assert_eq!(
        (g.ldg(IPA + 16), g.ldg(other + 16), g.ldg(other)),
        (Ok(7), Ok(0), Ok(0))
    );
    assert_eq!(g.machine.check(), Ok(()));
}

#[test]
fn what_is_refused() {
    let (mut g, from) = staged("linux-6.12", SwapKind::Nvme);
    let (vmm, ram) = (g.vmm, g.ram);
    let m = &mut g.machine;
    let plain = m.mmap(vmm, anon(1), None).unwrap();
    m.user_store(vmm, plain, 8, 1).unwrap();
    assert_eq!(
        m.uffd_move(vmm, ram, plain),
        Err(Errno::Einval),
        "PROT_MTE on one side only"
    );
    let read_only = m
        .mmap(
            vmm,
            MapSpec {
                prot: Prot::READ | Prot::MTE,
                ..anon(1)
            },
            None,
        )
        .unwrap();
    assert_eq!(m.uffd_move(vmm, ram, read_only), Err(Errno::Einval), "other access");
    let empty = m.mmap(vmm, MapSpec { prot: MTE, ..anon(1) }, None).unwrap();
    assert_eq!(m.uffd_move(vmm, ram, empty), Err(Errno::Enoent), "nothing there");
    assert_eq!(m.uffd_move(vmm, empty, from), Err(Errno::Einval), "not registered");
    assert_eq!(m.uffd_move(vmm, ram, Va(0x1000)), Err(Errno::Enoent), "no mapping");
    assert_eq!(m.uffd_move(vmm, ram, ram), Err(Errno::Einval));
    assert_eq!(m.uffd_move(vmm, ram + 1, from), Err(Errno::Einval));
    let child = m.fork(vmm, "child");
    assert_eq!(m.uffd_move(vmm, ram, from), Err(Errno::Ebusy), "shared with a child");
    m.exit(child);
    m.user_store(vmm, Va(from.0 | 5 << 56), 8, 42).unwrap();
    m.uffd_move(vmm, ram, from).unwrap();
    m.user_store(vmm, from, 8, 1).unwrap();
    assert_eq!(m.uffd_move(vmm, ram, from), Err(Errno::Eexist));
    assert_eq!(m.check(), Ok(()));
}

#[test]
fn a_page_of_a_huge_page_moves_alone() {
    let mut m = tagvisor_host::Machine::new(&Config {
        memory: 16 << 20,
        ..config(policy("linux-6.12", &[]))
    })
    .unwrap();
    m.set_transparent_hugepage(true, false);
    let mm = m.create_process("p");
    let a = m.mmap(mm, MapSpec { prot: MTE, ..anon(512) }, None).unwrap();
    m.madvise(mm, a, 512, Advice::Hugepage).unwrap();
    let to = m.mmap(mm, MapSpec { prot: MTE, ..anon(1) }, None).unwrap();
    m.uffd_register(mm, to, 1).unwrap();
    for page in [6, 7] {
        m.user_stg(mm, a + page * PAGE_SIZE, Tag::new(page as u8)).unwrap();
        m.user_store(mm, a + page * PAGE_SIZE + 16, 8, page).unwrap();
    }
    m.uffd_move(mm, to, a + 7 * PAGE_SIZE).unwrap();
    let tag = |m: &mut tagvisor_host::Machine, va| m.user_ldg(mm, va).map(Tag::get);
    assert_eq!((tag(&mut m, to), tag(&mut m, a + 6 * PAGE_SIZE)), (Ok(7), Ok(6)));
    assert_eq!(tag(&mut m, a + 7 * PAGE_SIZE), Ok(0));
    assert_eq!(m.check(), Ok(()));
}
