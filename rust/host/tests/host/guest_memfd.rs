//! A guest over a `guest_memfd`: mapped as the allocator left it.

use crate::common::{Guest, IPA, anon, config, guest, policy};
use tagvisor_arch::{Ipa, PAGE_SIZE, Va};
use tagvisor_host::{Backing, Errno, FileId, MapSpec, Property, Prot, SlotArgs};

const GMEM: u64 = IPA + 16 * PAGE_SIZE;
const NOWHERE: Va = Va(0x1000_0000);

fn slot(guest: &mut Guest, file: FileId, pages: u64, flags: u32) -> Result<(), Errno> {
    let args = SlotArgs {
        id: 2,
        ipa: Ipa(GMEM),
        userspace_addr: NOWHERE,
        pages,
        flags,
    };
    let vm = guest.vm;
    guest.machine.set_user_memory_region2(vm, args, Some((file, 0)))
}

fn backed(profile: &str) -> (Guest, Result<(), Errno>) {
    let mut guest = guest(&config(policy(profile, &[])), 1);
    let vm = guest.vm;
    let added = match guest.machine.create_guest_memfd(vm, 2) {
        Ok(file) => slot(&mut guest, file, 2, 0),
        Err(errno) => Err(errno),
    };
    (guest, added)
}

#[test]
fn it_is_mapped_without_sanitise_and_a_guest_sees_what_was_left() {
    let mut guest = guest(&config(policy("linux-6.18", &[])), 1);
    // A process leaves tags in the frame that the guest_memfd gets.
    let other = guest.machine.create_process("other");
    let mut spec = anon(1);
    spec.prot |= Prot::MTE;
    let va = guest.machine.mmap(other, spec, None).unwrap();
    guest.machine.user_stg(other, va, tagvisor_arch::Tag::new(5)).unwrap();
    guest.machine.exit(other);
    let vm = guest.vm;
    let file = guest.machine.create_guest_memfd(vm, 1).unwrap();
    slot(&mut guest, file, 1, 0).unwrap();

    assert_eq!(guest.ldg(GMEM), Ok(5));

    assert!(guest.violates(Property::MappingFlag));
    assert!(guest.violates(Property::NoLeak));
}

#[test]
fn what_a_guest_writes_it_reads_and_no_reference_is_lost() {
    let (mut guest, added) = backed("linux-6.18");
    assert_eq!(added, Ok(()));
    guest.stg(GMEM, 7).unwrap();
    assert_eq!(guest.ldg(GMEM), Ok(7));
    guest.stg(GMEM + PAGE_SIZE, 3).unwrap();
    let vm = guest.vm;
    let delete = SlotArgs {
        id: 2,
        ipa: Ipa(GMEM),
        userspace_addr: Va(0),
        pages: 0,
        flags: 0,
    };
    guest.machine.set_user_memory_region(vm, delete).unwrap();
    assert!(guest.ldg(GMEM).is_err(), "the stage-2 mappings went with the slot");
    let _ = guest.machine.check();
    assert!(!guest.violates(Property::Sanity));
}

#[test]
fn kernels_without_it_and_those_that_know_better_refuse() {
    assert_eq!(backed("linux-6.12").1, Err(Errno::Einval));
    assert_eq!(backed("linux-7.2").1, Err(Errno::Einval));
    let mut guest = guest(&config(policy("linux-6.18", &[])), 1);
    let vm = guest.vm;
    let small = guest.machine.create_guest_memfd(vm, 1).unwrap();
    let files = [(small, 2, 0), (FileId(99), 1, 0), (small, 1, 1), (small, 1, 2)];
    for (file, pages, flags) in files {
        assert_eq!(
            slot(&mut guest, file, pages, flags),
            Err(Errno::Einval),
            "{file:?} {pages} {flags}"
        );
    }
    let another = guest.machine.create_vm(guest.vmm).unwrap();
    let theirs = guest.machine.create_guest_memfd(another, 1).unwrap();
    assert_eq!(slot(&mut guest, theirs, 1, 0), Err(Errno::Einval), "of another VM");
    let spec = MapSpec {
        backing: Backing::File(small),
        ..anon(1)
    };
    let vmm = guest.vmm;
    assert_eq!(guest.machine.mmap(vmm, spec, None), Err(Errno::Einval), "private");
}
