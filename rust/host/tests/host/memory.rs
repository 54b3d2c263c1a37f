//! Files, fork, copy-on-write, advice and ptrace, as recorded kernels answer, with a silent ledger.

use crate::common::{Guest, IPA, RW, anon, config, guest, guest_with, policy};
use tagvisor_arch::{PAGE_SIZE, PageTags, Tag, Tcf, Va};
use tagvisor_host::{Advice, Backing, Config, Errno, FileId, FileKind, Machine, MapSpec, MmId, Prot, Signal, SwapKind};

const MTE: Prot = RW.union(Prot::MTE);

fn machine(kernel: &str, swap_kind: SwapKind) -> (Machine, MmId) {
    let mut machine = Machine::new(&Config {
        swap_kind,
        ..config(policy(kernel, &[]))
    })
    .unwrap();
    let mm = machine.create_process("p");
    (machine, mm)
}

/// Every kernel that has recordings, on both kinds of swap.
fn everywhere(test: impl Fn(Machine, MmId)) {
    for kernel in ["linux-5.14", "linux-6.1", "linux-6.12", "linux-7.3"] {
        for swap in [SwapKind::Nvme, SwapKind::Zram] {
            let (machine, mm) = machine(kernel, swap);
            test(machine, mm);
        }
    }
}

fn file_of(file: FileId, pages: u64, shared: bool, prot: Prot) -> MapSpec {
    MapSpec {
        pages,
        backing: Backing::File(file),
        pgoff: 0,
        prot,
        shared,
    }
}

fn seq(first: u8) -> PageTags {
    let mut tags = PageTags::ZERO;
    for granule in 0..256 {
        tags.set(granule, Tag::new(first.wrapping_add(granule as u8) % 16));
    }
    tags
}

fn silent(machine: &mut Machine) {
    assert_eq!(machine.check(), Ok(()));
}

#[test]
fn after_fork_each_process_has_the_tags_and_writes_its_own() {
    everywhere(|mut m, parent| {
        let a = m.mmap(parent, MapSpec { prot: MTE, ..anon(2) }, None).unwrap();
        m.user_fill_tags(parent, a, &seq(0)).unwrap();
        let child = m.fork(parent, "child");
        assert_eq!(m.user_tags(child, a), Ok(seq(0)));

        m.user_stg(child, a, Tag::new(9)).unwrap();
        m.user_stg(parent, a + 16, Tag::new(7)).unwrap();

        assert_eq!(m.user_ldg(child, a), Ok(Tag::new(9)));
        assert_eq!(m.user_ldg(child, a + 16), Ok(Tag::new(1)));
        assert_eq!(m.user_ldg(parent, a), Ok(Tag::new(0)));
        assert_eq!(m.user_ldg(parent, a + 16), Ok(Tag::new(7)));
        silent(&mut m);
        m.exit(child);
        silent(&mut m);
        assert_eq!(m.stats().resident_pages, 1, "the child's copies went with it");
        assert_eq!(m.user_load(child, a, 8), Err(Signal::SegvMapErr { addr: a }));
    });
}

#[test]
fn a_page_shared_by_fork_goes_to_swap_once_and_comes_back_to_both() {
    everywhere(|mut m, parent| {
        let a = m.mmap(parent, MapSpec { prot: MTE, ..anon(1) }, None).unwrap();
        m.user_fill_tags(parent, a, &seq(3)).unwrap();
        let child = m.fork(parent, "child");
        m.madvise(parent, a, 1, Advice::Pageout).unwrap();
        assert!(m.pagemap(parent, a).present, "mapped twice: MADV_PAGEOUT leaves it");

        assert_eq!(m.memcg_reclaim(16), 1);

        assert!(m.pagemap(parent, a).swap && m.pagemap(child, a).swap);
        assert_eq!(m.stats().tag_saves, 1);
        assert_eq!(m.user_tags(child, a), Ok(seq(3)));
        m.user_stg(child, a, Tag::new(0xf)).unwrap();
        assert_eq!(m.user_tags(parent, a), Ok(seq(3)));
        silent(&mut m);
        m.exit(child);
        m.munmap(parent, a, 1).unwrap();
        assert_eq!((m.stats().swap_slots_used, m.stats().saved_tag_pages), (0, 0));
    });
}

#[test]
fn shmem_keeps_its_tags_in_swap_and_shows_them_in_every_mapping() {
    everywhere(|mut m, mm| {
        let file = m.create_file(FileKind::Shmem, 4);
        let a = m.mmap(mm, file_of(file, 4, true, MTE), None).unwrap();
        let b = m.mmap(mm, file_of(file, 4, true, RW), None).unwrap();
        m.user_fill_tags(mm, a, &seq(5)).unwrap();
        m.user_store(mm, Va(a.0 | 5 << 56), 8, 0x77).unwrap();
        let gone = m.evict(mm, a).unwrap();
        assert!(
            !gone.present && !gone.swap,
            "a shmem page's swap entry is not in the page table"
        );
        assert_eq!(m.stats().swap_slots_used, 1);

        assert_eq!(m.user_load(mm, b, 8), Ok(0x77));
        assert_eq!(m.user_ldg(mm, b), Ok(Tag::ZERO), "not PROT_MTE");
        assert_eq!(m.user_tags(mm, a), Ok(seq(5)));
        assert_eq!(m.stats().swap_slots_used, 0, "freed at swap-in");
        m.mprotect(mm, b, 1, MTE).unwrap();
        assert_eq!(m.user_tags(mm, b), Ok(seq(5)));
        silent(&mut m);
    });
}

#[test]
fn a_private_mapping_of_a_file_copies_tags_when_it_is_written() {
    everywhere(|mut m, mm| {
        let file = m.create_file(FileKind::Shmem, 2);
        let shared = m.mmap(mm, file_of(file, 2, true, MTE), None).unwrap();
        let private = m.mmap(mm, file_of(file, 2, false, MTE), None).unwrap();
        m.user_fill_tags(mm, shared, &seq(1)).unwrap();
        assert_eq!(m.user_tags(mm, private), Ok(seq(1)));

        m.user_stg(mm, private, Tag::new(0xc)).unwrap();
        m.user_stg(mm, shared + 16, Tag::new(0xd)).unwrap();

        assert_eq!(m.user_ldg(mm, shared), Ok(Tag::new(1)));
        assert_eq!(m.user_ldg(mm, private), Ok(Tag::new(0xc)));
        assert_eq!(m.user_ldg(mm, private + 16), Ok(Tag::new(2)));
        silent(&mut m);
        m.madvise(mm, private, 1, Advice::Dontneed).unwrap();
        assert_eq!(m.user_ldg(mm, private + 16), Ok(Tag::new(0xd)), "the file's page again");
        silent(&mut m);
    });
}

#[test]
fn a_hole_in_a_file_reads_as_zeros_everywhere_and_beyond_the_end_is_sigbus() {
    everywhere(|mut m, mm| {
        let file = m.create_file(FileKind::Shmem, 2);
        let a = m.mmap(mm, file_of(file, 3, true, MTE), None).unwrap();
        m.user_fill_tags(mm, a, &seq(1)).unwrap();
        m.user_fill_tags(mm, a + PAGE_SIZE, &seq(2)).unwrap();
        m.evict(mm, a + PAGE_SIZE).unwrap();

        m.madvise(mm, a, 2, Advice::Remove).unwrap();

        assert_eq!(m.stats().swap_slots_used, 0);
        assert_eq!(m.user_tags(mm, a), Ok(PageTags::ZERO));
        assert_eq!(m.user_tags(mm, a + PAGE_SIZE), Ok(PageTags::ZERO));
        let end = a + 2 * PAGE_SIZE;
        assert_eq!(m.user_load(mm, end, 8), Err(Signal::SigBus { addr: end }));
        silent(&mut m);
    });
}

#[test]
fn madv_free_gives_up_what_is_not_written_again() {
    everywhere(|mut m, mm| {
        let a = m.mmap(mm, MapSpec { prot: MTE, ..anon(2) }, None).unwrap();
        for page in 0..2 {
            m.user_fill_tags(mm, a + page * PAGE_SIZE, &seq(1)).unwrap();
        }
        m.madvise(mm, a, 2, Advice::Free).unwrap();
        assert_eq!(m.user_tags(mm, a), Ok(seq(1)), "still there");
        m.user_stg(mm, a + PAGE_SIZE, Tag::new(1)).unwrap();

        assert!(!m.evict(mm, a).unwrap().swap);
        for _ in 0..2 {
            m.evict(mm, a + PAGE_SIZE).unwrap();
        }

        assert!(m.pagemap(mm, a + PAGE_SIZE).swap, "written since: kept");
        assert_eq!(m.user_tags(mm, a), Ok(PageTags::ZERO));
        assert_eq!(m.user_tags(mm, a + PAGE_SIZE), Ok(seq(1)));
        silent(&mut m);
    });
}

#[test]
fn advice_is_refused_as_the_kernel_refuses_it() {
    let (mut m, mm) = machine("linux-6.12", SwapKind::Zram);
    let anonymous = m.mmap(mm, anon(2), None).unwrap();
    let ramfs = m.create_file(FileKind::Ramfs, 1);
    let ramfs_page = m.mmap(mm, file_of(ramfs, 1, true, RW), None).unwrap();
    let shmem = m.create_file(FileKind::Shmem, 1);
    let private = m.mmap(mm, file_of(shmem, 1, false, RW), None).unwrap();
    let bar = MapSpec {
        backing: Backing::Mmio,
        shared: true,
        ..anon(1)
    };
    let device = m.mmap(mm, bar, None).unwrap();
    let cases = [
        (anonymous, Advice::Remove, Err(Errno::Einval)),
        (ramfs_page, Advice::Remove, Err(Errno::Eopnotsupp)),
        (private, Advice::Remove, Err(Errno::Eacces)),
        (private, Advice::Free, Err(Errno::Einval)),
        (device, Advice::Pageout, Err(Errno::Einval)),
        (device, Advice::PopulateRead, Err(Errno::Einval)),
        (anonymous + 4 * PAGE_SIZE * 1024, Advice::Dontneed, Err(Errno::Enomem)),
        (ramfs_page, Advice::Pageout, Ok(())),
        (anonymous, Advice::PopulateWrite, Ok(())),
    ];
    for (va, advice, answer) in cases {
        assert_eq!(m.madvise(mm, va, 1, advice), answer, "{advice:?}");
    }
    assert!(m.pagemap(mm, anonymous).present);
    let refused = m.mmap(mm, file_of(ramfs, 1, true, MTE), None);
    assert_eq!(refused, Err(Errno::Einval), "ramfs may not have tags");
}

#[test]
fn ptrace_reads_and_writes_tags_whatever_the_protection() {
    for kernel in ["linux-6.1", "linux-6.12", "linux-7.3"] {
        let (mut m, mm) = machine(kernel, SwapKind::Nvme);
        let a = m.mmap(mm, MapSpec { prot: MTE, ..anon(2) }, None).unwrap();
        m.user_fill_tags(mm, a, &seq(0)).unwrap();
        m.user_store(mm, a + PAGE_SIZE, 8, 2).unwrap();
        m.mprotect(mm, a, 2, Prot::empty()).unwrap();
        m.evict(mm, a).unwrap();

        assert_eq!(m.ptrace_poke_tags(mm, a, vec![0xc; 4]), Ok(4));
        m.evict(mm, a).unwrap();
        let tags = m.ptrace_peek_tags(mm, a, 300).unwrap();
        assert_eq!(
            (tags.len(), &tags[..6], tags[256]),
            (300, &[0xc, 0xc, 0xc, 0xc, 4, 5][..], 0)
        );
        silent(&mut m);

        let plain = m.mmap(mm, anon(1), None).unwrap();
        assert_eq!(m.ptrace_peek_tags(mm, plain, 1), Err(Errno::Eio));
        assert_eq!(m.ptrace_poke_tags(mm, plain, vec![1]), Err(Errno::Eio));
    }
}

#[test]
fn the_kernel_checks_tags_for_the_process_and_asynchronous_checks_come_late() {
    for (kernel, at_once) in [("linux-6.1", 1), ("linux-6.12", 0)] {
        let (mut m, mm) = machine(kernel, SwapKind::Nvme);
        let a = m.mmap(mm, MapSpec { prot: MTE, ..anon(1) }, None).unwrap();
        m.user_stg(mm, a, Tag::new(3)).unwrap();
        assert_eq!(m.syscall_read(mm, a, 16), Err(Errno::Efault));
        assert_eq!(m.syscall_read(mm, Va(a.0 | 3 << 56), 16), Ok(16));

        m.set_tagged_addr_ctrl(mm, Tcf::None);
        assert_eq!(m.user_load(mm, a, 8), Ok(0));
        assert_eq!(m.take_async_tag_faults(mm), 0);
        m.set_tagged_addr_ctrl(mm, Tcf::Async);
        assert_eq!(m.user_load(mm, a, 8), Ok(0));
        assert_eq!(m.take_async_tag_faults(mm), at_once, "{kernel}");
        assert_eq!(m.take_async_tag_faults(mm), 1 - at_once, "{kernel}");
    }
}

#[test]
fn swapoff_brings_back_files_and_forked_pages_alike() {
    everywhere(|mut m, parent| {
        let file = m.create_file(FileKind::Shmem, 1);
        let s = m.mmap(parent, file_of(file, 1, true, MTE), None).unwrap();
        let a = m.mmap(parent, MapSpec { prot: MTE, ..anon(1) }, None).unwrap();
        m.user_fill_tags(parent, s, &seq(1)).unwrap();
        m.user_fill_tags(parent, a, &seq(2)).unwrap();
        let child = m.fork(parent, "child");
        m.memcg_reclaim(16);

        m.swapoff().unwrap();

        assert_eq!((m.stats().swap_slots_used, m.stats().saved_tag_pages), (0, 0));
        for mm in [parent, child] {
            assert_eq!(m.user_tags(mm, s), Ok(seq(1)));
            assert_eq!(m.user_tags(mm, a), Ok(seq(2)));
        }
        silent(&mut m);
    });
}

#[test]
fn a_guest_keeps_its_tags_when_its_vmm_forks() {
    let mut g: Guest = guest_with(&[]);
    g.stg(IPA, 5).unwrap();
    let child = g.machine.fork(g.vmm, "child");
    g.machine.mprotect(child, g.ram, 1, MTE).unwrap();
    assert_eq!(g.machine.user_ldg(child, g.ram), Ok(Tag::new(5)));

    g.stg(IPA, 6).unwrap();

    assert_eq!(g.machine.user_ldg(child, g.ram), Ok(Tag::new(5)));
    assert_eq!(g.ldg(IPA), Ok(6));
    silent(&mut g.machine);
}

#[test]
fn restoring_after_the_slot_was_freed_loses_tags_on_synchronous_swap() {
    for (kernel, swap_kind, lost) in [
        ("linux-6.1.38", SwapKind::Zram, true),
        ("linux-6.1.39", SwapKind::Zram, false),
        ("linux-6.1.38", SwapKind::Nvme, false),
        ("linux-5.14", SwapKind::Zram, false),
    ] {
        let config = Config {
            swap_kind,
            ..config(policy(kernel, &[]))
        };
        let mut g = guest(&config, 2);
        g.stg(IPA, 5).unwrap();
        g.machine.evict(g.vmm, g.ram).unwrap();
        g.ldg(IPA).unwrap();
        assert_eq!(
            g.violated() == ["P1"],
            lost,
            "{kernel} {swap_kind:?}: {:?}",
            g.violated()
        );
    }
}
