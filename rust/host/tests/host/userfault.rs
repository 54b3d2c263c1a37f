//! Pages that user space brings: who waits for them, and what tags they come with.

use crate::common::{Guest, IPA, RW, anon, config, guest, policy};
use tagvisor_arch::{PAGE_SIZE, Tag, Va};
use tagvisor_host::{Advice, Backing, Errno, FileKind, GuestExit, MapSpec, Prot, Signal};

const DATA: [u8; 4] = [0x2a, 0, 0, 0];

fn missing(kernel: &str) -> Guest {
    let mut guest = guest(&config(policy(kernel, &[])), 2);
    guest.machine.uffd_register(guest.vmm, guest.ram, 2).unwrap();
    guest
}

#[test]
fn alone_whoever_touches_a_missing_page_is_told_so_and_user_space_is_asked() {
    let mut guest = missing("linux-6.12");
    let (vmm, ram) = (guest.vmm, guest.ram);
    assert_eq!(guest.ldg(IPA), Err(GuestExit::Errno(Errno::Efault)));
    let touched = guest.machine.user_load(vmm, ram + PAGE_SIZE, 8);
    assert!(matches!(touched, Err(Signal::SigBus { .. })), "{touched:?}");
    assert_eq!(guest.machine.uffd_read(vmm), [ram, ram + PAGE_SIZE]);

    guest.machine.uffd_copy(vmm, ram, &DATA).unwrap();

    assert_eq!(guest.machine.uffd_read(vmm), [ram + PAGE_SIZE]);
    assert_eq!(guest.machine.user_load(vmm, ram, 8), Ok(0x2a));
    assert_eq!(guest.ldg(IPA), Ok(0));
    assert_eq!(guest.machine.check(), Ok(()));
}

#[test]
fn data_come_without_tags_and_a_tagged_mapping_has_them_cleared() {
    for kernel in ["linux-5.14", "linux-6.12"] {
        let mut guest = missing(kernel);
        let (vmm, m) = (guest.vmm, &mut guest.machine);
        let tagged = MapSpec {
            prot: RW | Prot::MTE,
            ..anon(1)
        };
        let left = m.mmap(vmm, tagged, None).unwrap();
        m.user_stg(vmm, left, Tag::new(9)).unwrap();
        m.munmap(vmm, left, 1).unwrap();
        let va = m.mmap(vmm, tagged, None).unwrap();
        m.uffd_register(vmm, va, 1).unwrap();
        m.uffd_copy(vmm, va, &DATA).unwrap();
        assert_eq!(m.user_ldg(vmm, va), Ok(Tag::ZERO), "{kernel}");
        assert_eq!(m.check(), Ok(()));
    }
}

#[test]
fn a_page_is_brought_once_and_only_where_it_was_asked_for() {
    let mut guest = missing("linux-6.12");
    let (vmm, ram, m) = (guest.vmm, guest.ram, &mut guest.machine);
    let free = m.stats().free_pages;
    m.uffd_copy(vmm, ram, &DATA).unwrap();
    assert_eq!(m.uffd_copy(vmm, ram, &DATA), Err(Errno::Eexist));
    assert_eq!(m.stats().free_pages, free - 1);
    assert_eq!(m.uffd_copy(vmm, Va(0x1000), &DATA), Err(Errno::Enoent));
    assert_eq!(m.uffd_copy(vmm, ram + 1, &DATA), Err(Errno::Einval));
    assert_eq!(m.uffd_copy(vmm, ram, &[0; 4097]), Err(Errno::Einval));
    assert_eq!(
        m.uffd_register(vmm, ram + 2 * PAGE_SIZE, 1),
        Err(Errno::Einval),
        "a hole"
    );
    let ramfs = MapSpec {
        backing: Backing::File(m.create_file(FileKind::Ramfs, 1)),
        shared: true,
        ..anon(1)
    };
    let other = m.mmap(vmm, ramfs, None).unwrap();
    assert_eq!(m.uffd_register(vmm, other, 1), Err(Errno::Einval));
}

#[test]
fn discarded_it_is_missing_again_and_a_child_has_nothing_to_do_with_it() {
    let mut guest = missing("linux-6.12");
    let (vmm, ram, m) = (guest.vmm, guest.ram, &mut guest.machine);
    m.uffd_copy(vmm, ram, &DATA).unwrap();
    m.madvise(vmm, ram, 1, Advice::Dontneed).unwrap();
    assert!(m.user_load(vmm, ram, 8).is_err());
    let child = m.fork(vmm, "child");
    assert_eq!(m.user_load(child, ram, 8), Ok(0));
    assert_eq!(m.check(), Ok(()));
}

/// A guest over two pages of a memfd, that user space brings.
fn missing_shmem(kernel: &str) -> (Guest, tagvisor_host::FileId) {
    let mut guest = guest(&config(policy(kernel, &[])), 1);
    let file = guest.machine.create_file(FileKind::Shmem, 2);
    let spec = MapSpec {
        backing: Backing::File(file),
        shared: true,
        ..anon(3)
    };
    guest.ram = guest.machine.mmap(guest.vmm, spec, None).unwrap();
    guest.slot(2, IPA + 16 * PAGE_SIZE, guest.ram, 2).unwrap();
    guest.machine.uffd_register(guest.vmm, guest.ram, 3).unwrap();
    (guest, file)
}

#[test]
fn a_page_of_a_file_is_missing_until_the_page_cache_has_it() {
    for kernel in ["linux-6.2", "linux-6.12", "linux-7.3"] {
        let (mut guest, file) = missing_shmem(kernel);
        let (vmm, ram, ipa) = (guest.vmm, guest.ram, IPA + 16 * PAGE_SIZE);
        assert_eq!(guest.ldg(ipa), Err(GuestExit::Errno(Errno::Efault)), "{kernel}");
        guest.machine.uffd_copy(vmm, ram, &DATA).unwrap();
        assert_eq!(guest.machine.uffd_copy(vmm, ram, &DATA), Err(Errno::Eexist));
        assert_eq!(
            (guest.ldg(ipa), guest.machine.user_load(vmm, ram, 8)),
            (Ok(0), Ok(0x2a))
        );
        guest.stg(ipa, 5).unwrap();
        guest.machine.evict(vmm, ram).unwrap();
        assert_eq!(guest.ldg(ipa), Ok(5), "in swap it is not missing");
        guest.machine.madvise(vmm, ram, 1, Advice::Dontneed).unwrap();
        assert_eq!(
            guest.machine.user_load(vmm, ram, 8),
            Ok(0x2a),
            "unmapped it is not missing"
        );

        let m = &mut guest.machine;
        let spec = MapSpec {
            backing: Backing::File(file),
            shared: true,
            prot: RW | Prot::MTE,
            ..anon(2)
        };
        let other = m.mmap(vmm, spec, None).unwrap();
        m.user_stg(vmm, other + PAGE_SIZE, Tag::new(3)).unwrap();
        assert_eq!(
            m.user_load(vmm, ram + PAGE_SIZE, 8),
            Ok(0),
            "brought by another mapping"
        );
        m.madvise(vmm, ram, 1, Advice::Remove).unwrap();
        assert!(
            matches!(m.user_load(vmm, ram, 8), Err(Signal::SigBus { .. })),
            "punched out"
        );
        assert_eq!(
            m.uffd_copy(vmm, ram + 2 * PAGE_SIZE, &DATA),
            Err(Errno::Efault),
            "beyond its end"
        );
        assert_eq!(m.check(), Ok(()));
    }
}

#[test]
fn a_private_mapping_of_a_file_gets_a_page_of_its_own() {
    let (mut guest, file) = missing_shmem("linux-6.12");
    let (vmm, m) = (guest.vmm, &mut guest.machine);
    let spec = MapSpec {
        backing: Backing::File(file),
        prot: RW | Prot::MTE,
        ..anon(1)
    };
    let private = m.mmap(vmm, spec, None).unwrap();
    m.uffd_register(vmm, private, 1).unwrap();
    m.uffd_copy(vmm, private, &DATA).unwrap();
    assert_eq!(m.user_ldg(vmm, private), Ok(Tag::ZERO));
    assert!(m.user_load(vmm, guest.ram, 8).is_err(), "the file still lacks it");
    assert_eq!(m.check(), Ok(()));
}
