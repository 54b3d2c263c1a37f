//! A guest over a file on a disk: reclaim keeps its data and forgets its tags.

use crate::common::{Guest, IPA, anon, config, guest, policy};
use tagvisor_arch::PAGE_SIZE;
use tagvisor_host::{Backing, Errno, FileKind, MapSpec, Property, Prot};

const DISK: u64 = IPA + PAGE_SIZE;

fn disk(guest: &mut Guest) -> MapSpec {
    MapSpec {
        backing: Backing::File(guest.machine.create_file(FileKind::Disk, 1)),
        shared: true,
        ..anon(1)
    }
}

/// Under the first policies of the series nothing looks at what stands behind a slot.
fn guest_over_a_disk_file(profile: &str) -> (Guest, Result<(), Errno>) {
    let mut guest = guest(&config(policy(profile, &[])), 1);
    let spec = disk(&mut guest);
    guest.ram = guest.machine.mmap(guest.vmm, spec, None).unwrap();
    let added = guest.slot(2, DISK, guest.ram, 1);
    (guest, added)
}

#[test]
fn data_come_back_from_the_disk_and_tags_do_not() {
    let (mut guest, added) = guest_over_a_disk_file("v10-series");
    assert_eq!(added, Ok(()));
    guest.machine.user_store(guest.vmm, guest.ram, 8, 0x42).unwrap();
    guest.stg(DISK, 5).unwrap();
    guest.machine.evict(guest.vmm, guest.ram).unwrap();
    assert_eq!(guest.machine.pagemap(guest.vmm, guest.ram).pfn, None);
    assert_eq!(guest.machine.stats().swap_outs, 0);

    assert_eq!(guest.machine.user_load(guest.vmm, guest.ram, 8), Ok(0x42));
    assert_eq!(guest.ldg(DISK), Ok(0));
    assert!(guest.violates(Property::NoLoss));
}

#[test]
fn merged_kernels_refuse_it() {
    for profile in ["linux-5.14", "linux-6.1", "linux-6.12"] {
        assert_eq!(guest_over_a_disk_file(profile).1, Err(Errno::Einval), "{profile}");
    }
}

#[test]
fn it_may_not_have_prot_mte_and_truncation_discards_its_data() {
    let (mut guest, _) = guest_over_a_disk_file("linux-6.12");
    let mut spec = disk(&mut guest);
    let Backing::File(file) = spec.backing else {
        unreachable!()
    };
    spec.prot |= Prot::MTE;
    assert_eq!(guest.machine.mmap(guest.vmm, spec, None), Err(Errno::Einval));
    spec.prot.remove(Prot::MTE);
    let va = guest.machine.mmap(guest.vmm, spec, None).unwrap();
    guest.machine.user_store(guest.vmm, va, 8, 7).unwrap();
    guest.machine.evict(guest.vmm, va).unwrap();
    guest.machine.truncate(file, 0);
    guest.machine.truncate(file, 1);
    assert_eq!(guest.machine.user_load(guest.vmm, va, 8), Ok(0));
}
