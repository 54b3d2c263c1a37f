//! Page migration, soft offline and memory failure.

use crate::common::{Guest, IPA, RW, anon, config, guest, policy};
use tagvisor_arch::{PAGE_SIZE, PageTags, Tag, Va};
use tagvisor_host::{
    Advice, Backing, Config, CopyTags, Errno, FileKind, GuestExit, Machine, MapSpec, MmId, Prot, Signal, SwapKind,
};

const KERNELS: [&str; 4] = ["linux-5.14", "linux-6.1", "linux-6.12", "linux-7.3"];
const MTE: Prot = RW.union(Prot::MTE);

fn machine(kernel: &str) -> (Machine, MmId) {
    let mut machine = Machine::new(&config(policy(kernel, &[]))).unwrap();
    let mm = machine.create_process("p");
    (machine, mm)
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
fn a_page_moves_with_its_tags_from_everybody_who_maps_it() {
    for kernel in KERNELS {
        let (mut m, parent) = machine(kernel);
        let a = m.mmap(parent, MapSpec { prot: MTE, ..anon(1) }, None).unwrap();
        m.user_fill_tags(parent, a, &seq(3)).unwrap();
        m.user_store(parent, Va(a.0 | 3 << 56), 8, 0x77).unwrap();
        let child = m.fork(parent, "child");
        let (before, free) = (m.pagemap(parent, a).pfn, m.stats().free_pages);

        m.migrate_page(child, a).unwrap();

        assert_ne!(m.pagemap(parent, a).pfn, before, "{kernel}");
        assert_eq!(m.pagemap(parent, a).pfn, m.pagemap(child, a).pfn);
        assert_eq!((m.stats().free_pages, m.stats().resident_pages), (free, 1));
        assert_eq!(m.user_tags(child, a), Ok(seq(3)));
        assert_eq!(m.user_load(parent, Va(a.0 | 3 << 56), 8), Ok(0x77));
        m.user_stg(child, a, Tag::new(9)).unwrap();
        assert_eq!(m.user_ldg(parent, a), Ok(Tag::new(3)), "still copied on write");
        silent(&mut m);
    }
}

#[test]
fn a_shmem_page_and_one_in_the_swap_cache_move_too() {
    for kernel in ["linux-6.1", "linux-6.12"] {
        let (mut m, mm) = machine(kernel);
        let file = m.create_file(FileKind::Shmem, 1);
        let spec = MapSpec {
            backing: Backing::File(file),
            shared: true,
            prot: MTE,
            ..anon(1)
        };
        let (a, b) = (m.mmap(mm, spec, None).unwrap(), m.mmap(mm, spec, None).unwrap());
        m.user_fill_tags(mm, a, &seq(1)).unwrap();
        m.user_ldg(mm, b).unwrap();
        m.migrate_page(mm, b).unwrap();
        assert_eq!(m.pagemap(mm, a).pfn, m.pagemap(mm, b).pfn);
        assert_eq!(m.user_tags(mm, b), Ok(seq(1)));

        let c = m.mmap(mm, MapSpec { prot: MTE, ..anon(1) }, None).unwrap();
        m.user_fill_tags(mm, c, &seq(5)).unwrap();
        m.evict(mm, c).unwrap();
        m.user_ldg(mm, c).unwrap();
        m.migrate_page(mm, c).unwrap();
        m.evict(mm, c).unwrap();
        assert_eq!(m.user_tags(mm, c), Ok(seq(5)), "{kernel}");
        m.munmap(mm, c, 1).unwrap();
        assert_eq!(m.stats().swap_slots_used, 0);
        silent(&mut m);
    }
}

#[test]
fn what_is_not_there_or_does_not_move_is_an_error() {
    let (mut m, mm) = machine("linux-6.12");
    let a = m.mmap(mm, anon(2), None).unwrap();
    assert_eq!(m.migrate_page(mm, a), Err(Errno::Enoent));
    m.user_load(mm, a, 8).unwrap();
    assert_eq!(m.migrate_page(mm, a), Err(Errno::Efault), "the zero page");
    assert_eq!(m.madvise(mm, a, 1, Advice::SoftOffline), Err(Errno::Eio));
    assert_eq!(m.madvise(mm, a, 1, Advice::Hwpoison), Err(Errno::Ebusy));
    m.madvise(mm, a, 2, Advice::PopulateWrite).unwrap();
    assert_eq!(m.madvise(mm, a, 4, Advice::SoftOffline), Err(Errno::Efault), "a hole");
    silent(&mut m);
}

fn guest_page(kernel: &str) -> Guest {
    let mut g = guest(&config(policy(kernel, &[])), 4);
    g.stg(IPA, 5).unwrap();
    g
}

#[test]
fn a_soft_offlined_frame_is_never_used_again_and_the_guest_sees_no_change() {
    for kernel in KERNELS {
        let mut g = guest_page(kernel);
        let (free, before) = (g.machine.stats().free_pages, g.machine.pagemap(g.vmm, g.page(0)).pfn);
        g.machine.madvise(g.vmm, g.ram, 2, Advice::SoftOffline).unwrap_err();
        assert_eq!(g.ldg(IPA), Ok(5), "{kernel}");
        assert_ne!(g.machine.pagemap(g.vmm, g.page(0)).pfn, before);
        assert_eq!(g.machine.stats().free_pages, free - 1);
        for _ in 0..3 {
            g.machine.migrate_page(g.vmm, g.page(0)).unwrap();
            assert_ne!(g.machine.pagemap(g.vmm, g.page(0)).pfn, before);
        }
        assert_eq!(g.ldg(IPA), Ok(5));
        silent(&mut g.machine);
    }
}

#[test]
fn a_poisoned_page_is_sigbus_for_the_process_and_ends_kvm_run() {
    for kernel in KERNELS {
        let mut g = guest_page(kernel);
        let at = g.page(0);
        g.machine.madvise(g.vmm, at, 1, Advice::Hwpoison).unwrap();
        assert!(!g.machine.pagemap(g.vmm, at).present);
        assert_eq!(g.machine.user_load(g.vmm, at, 8), Err(Signal::SigBusMce { addr: at }));
        assert_eq!(g.ldg(IPA), Err(GuestExit::Errno(Errno::Eintr)), "{kernel}");
        let args = CopyTags {
            ipa: IPA,
            length: PAGE_SIZE,
            flags: 1,
            reserved: [0; 2],
        };
        let copied = g.machine.mte_copy_tags(g.vm, args, &mut [0; 256]);
        assert_eq!(copied, Err(Errno::Efault));
        g.machine.munmap(g.vmm, g.ram, 4).unwrap();
        silent(&mut g.machine);
    }
}

#[test]
fn a_poisoned_shmem_page_is_so_in_every_mapping() {
    let (mut m, mm) = machine("linux-6.12");
    let file = m.create_file(FileKind::Shmem, 1);
    let spec = MapSpec {
        backing: Backing::File(file),
        shared: true,
        ..anon(1)
    };
    let (a, b) = (m.mmap(mm, spec, None).unwrap(), m.mmap(mm, spec, None).unwrap());
    m.user_store(mm, a, 8, 1).unwrap();
    m.madvise(mm, a, 1, Advice::Hwpoison).unwrap();
    assert_eq!(m.user_load(mm, b, 8), Err(Signal::SigBusMce { addr: b }));
    m.truncate(file, 0);
    silent(&mut m);
}

#[test]
fn a_migration_entry_replaced_flags_an_untagged_page_only_where_the_kernel_did() {
    for (kernel, flagged) in [("linux-5.14", true), ("linux-6.1", false), ("linux-6.12", false)] {
        let (mut m, mm) = machine(kernel);
        let a = m.mmap(mm, anon(1), None).unwrap();
        m.user_store(mm, a, 8, 1).unwrap();
        m.migrate_page(mm, a).unwrap();
        assert_eq!(m.pagemap(mm, a).mte_tagged, flagged, "{kernel}");
        assert_eq!(m.check().is_err(), flagged);
    }
}

#[test]
fn a_merged_page_moves_with_all_its_mappings() {
    let (mut m, mm) = {
        let mut machine = Machine::new(&Config {
            swap_kind: SwapKind::Zram,
            ..config(policy("linux-6.12", &[]))
        })
        .unwrap();
        let mm = machine.create_process("p");
        (machine, mm)
    };
    let a = m.mmap(mm, anon(3), None).unwrap();
    for page in 0..3 {
        m.user_store(mm, a + page * PAGE_SIZE, 8, 1).unwrap();
    }
    m.madvise(mm, a, 3, Advice::Mergeable).unwrap();
    m.ksm_run();
    m.migrate_page(mm, a + PAGE_SIZE).unwrap();
    assert_eq!(m.pagemap(mm, a).pfn, m.pagemap(mm, a + 2 * PAGE_SIZE).pfn);
    m.user_store(mm, a, 8, 2).unwrap();
    assert_eq!(m.user_load(mm, a + PAGE_SIZE, 8), Ok(1));
    silent(&mut m);
}
