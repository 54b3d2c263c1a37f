//! The sequences of the founding mail thread, under the policies it argues about.

use crate::common::{Guest, IPA, RW, anon, config, guest, guest_with, policy};
use tagvisor_arch::{PAGE_SIZE, Va};
use tagvisor_host::{Advice, Backing, Config, Errno, GuestExit, GuestOp, MapSpec, Property, SwapKind};

/// Swap out, swap in read-only, discard, swap in again.
fn read_only_sequence(g: &mut Guest) -> u64 {
    g.stg(IPA + 0x50, 5).unwrap();
    for _ in 0..2 {
        g.machine.evict(g.vmm, g.ram).unwrap();
        g.machine.user_load(g.vmm, g.ram, 8).unwrap();
    }
    g.ldg(IPA + 0x50).unwrap()
}

/// A tagged page gives its slot up; a never tagged page of guest RAM gets it.
fn slot_reuse(g: &mut Guest) -> u64 {
    g.stg(IPA, 9).unwrap();
    g.machine.evict(g.vmm, g.page(0)).unwrap();
    g.machine.madvise(g.vmm, g.page(0), 1, Advice::Dontneed).unwrap();
    g.machine.user_store(g.vmm, g.page(1), 8, 0x77).unwrap();
    g.machine.evict(g.vmm, g.page(1)).unwrap();
    g.ldg(IPA + PAGE_SIZE).unwrap()
}

fn zone_device(pages: u64) -> MapSpec {
    MapSpec {
        pages,
        backing: Backing::ZoneDevice,
        shared: true,
        prot: RW,
        pgoff: 0,
    }
}

/// `ZONE_DEVICE` memory in a slot from the start.
fn zone_device_slot(g: &mut Guest) -> Result<u64, String> {
    let pmem = g.machine.mmap(g.vmm, zone_device(1), None).unwrap();
    g.slot(2, 0x6000_0000, pmem, 1).map_err(|e| format!("slot {e}"))?;
    g.stg(0x6000_0000, 5)
        .and_then(|_| g.ldg(0x6000_0000))
        .map_err(|e| format!("{e:?}"))
}

/// The VMM replaces the memory under a live slot by `ZONE_DEVICE`.
fn replaced_under_live_slot(g: &mut Guest) -> Result<u64, GuestExit> {
    g.stg(IPA, 5).unwrap();
    g.machine.mmap(g.vmm, zone_device(8), Some(g.ram)).unwrap();
    g.stg(IPA, 6).and_then(|_| g.ldg(IPA))
}

#[test]
fn saved_tags_that_live_as_long_as_their_slot_survive_the_read_only_sequence() {
    for swap_kind in [SwapKind::Nvme, SwapKind::Zram] {
        let mut g = guest(
            &Config {
                swap_kind,
                ..config(policy("linux-6.12", &[]))
            },
            8,
        );
        assert_eq!(read_only_sequence(&mut g), 5);
        assert_eq!(g.machine.check(), Ok(()));
    }
}

#[test]
fn saved_tags_erased_at_restore_are_lost_in_the_read_only_sequence() {
    let mut g = guest_with(&[("K1", "restore")]);
    assert_eq!(read_only_sequence(&mut g), 0);
    assert!(g.violates(Property::NoLoss), "{:?}", g.violated());
}

#[test]
fn saved_tags_erased_at_page_free_are_lost_in_the_read_only_sequence() {
    let mut g = guest_with(&[("K1", "page-free")]);
    assert_eq!(read_only_sequence(&mut g), 0);
    assert!(g.violates(Property::NoLoss), "{:?}", g.violated());
}

#[test]
fn the_story_of_a_loss_names_the_step_that_erased_the_tags() {
    let mut g = guest_with(&[("K1", "restore")]);
    read_only_sequence(&mut g);

    let loss = g
        .machine
        .violations()
        .iter()
        .find(|v| v.property == Property::NoLoss)
        .unwrap();

    let at = |what: &str| {
        loss.steps
            .iter()
            .position(|s| s.text.contains(what))
            .unwrap_or_else(|| panic!("{what}: {loss}"))
    };
    assert!(at("saved as mte_pages[0x0]") < at("mte_pages[0x0] erased: restored"));
    let dropped = loss
        .steps
        .iter()
        .rposition(|s| s.text.contains("is clean: dropped without a write"));
    assert!(Some(at("mte_pages[0x0] erased: restored")) < dropped);
    assert_eq!(loss.steps[0].n, 1);
    assert!(
        loss.steps
            .last()
            .unwrap()
            .text
            .starts_with("P1: vcpu0 reads tag 0 of granule 5"),
        "{loss}"
    );
}

#[test]
fn saved_tags_erased_only_at_swapoff_leak_into_the_next_page_of_the_slot() {
    let mut g = guest_with(&[("K1", "swapoff")]);
    assert_eq!(slot_reuse(&mut g), 9);
    assert!(
        g.violates(Property::NoLeak) && g.violates(Property::MetadataLife),
        "{:?}",
        g.violated()
    );
}

#[test]
fn the_next_page_of_a_freed_slot_has_no_tags_when_they_are_erased_with_the_slot() {
    let mut g = guest_with(&[]);
    assert_eq!(slot_reuse(&mut g), 0);
    assert_eq!(g.machine.check(), Ok(()));
}

#[test]
fn swapoff_brings_every_tag_back_and_empties_the_store() {
    for swap_kind in [SwapKind::Nvme, SwapKind::Zram] {
        let mut g = guest(
            &Config {
                swap_kind,
                ..config(policy("linux-6.12", &[("K1", "swapoff")]))
            },
            8,
        );
        for n in 0..4 {
            g.stg(IPA + n * PAGE_SIZE, 3 + n as u8).unwrap();
            g.machine.evict(g.vmm, g.page(n)).unwrap();
        }

        g.machine.swapoff().unwrap();

        assert_eq!(g.machine.stats().saved_tag_pages, 0);
        for n in 0..4 {
            assert_eq!(g.ldg(IPA + n * PAGE_SIZE), Ok(3 + n));
        }
        assert_eq!(g.machine.check(), Ok(()));
    }
}

#[test]
fn zone_device_mapped_cacheable_reaches_untaggable_memory() {
    for knobs in [
        &[("K22", "cacheable")][..],
        &[("K22", "cacheable"), ("K23", "slot-and-fault")],
    ] {
        let mut g = guest_with(knobs);
        assert_eq!(zone_device_slot(&mut g), Ok(0));
        assert!(g.violates(Property::Taggable));
    }
}

#[test]
fn zone_device_is_refused_or_mapped_device_by_the_other_policies() {
    let refused = Err("slot EINVAL".to_owned());
    let mut g = guest_with(&[]);
    assert_eq!(zone_device_slot(&mut g), refused);
    let mut g = guest_with(&[("K22", "device")]);
    assert_eq!(
        zone_device_slot(&mut g),
        Ok(0),
        "mapped Device: LDG reads 0, STG is ignored"
    );
    assert_eq!(g.machine.check(), Ok(()));
    let mut g = guest_with(&[("K22", "refuse"), ("K23", "fault")]);
    assert_eq!(
        zone_device_slot(&mut g),
        Err(format!("{:?}", GuestExit::Errno(Errno::Efault)))
    );
    assert_eq!(g.machine.check(), Ok(()));
}

#[test]
fn a_check_only_at_the_slot_lets_a_swapped_mapping_through() {
    for untaggable in ["device", "device-else-refuse", "refuse"] {
        let mut g = guest_with(&[("K22", untaggable), ("K23", "slot")]);
        let _ = replaced_under_live_slot(&mut g);
        assert!(g.violates(Property::Taggable), "K22={untaggable}");

        let mut g = guest_with(&[("K22", untaggable), ("K23", "slot")]);
        let _ = zone_device_slot(&mut g);
        assert!(
            !g.violates(Property::Taggable),
            "K22={untaggable}: seen when the slot was added"
        );
    }
}

#[test]
fn the_fault_time_check_holds_against_a_swapped_mapping() {
    for (untaggable, answer) in [
        ("device", Ok(0)),
        ("device-else-refuse", Ok(0)),
        ("refuse", Err(GuestExit::Errno(Errno::Efault))),
    ] {
        let mut g = guest_with(&[("K22", untaggable), ("K23", "fault")]);
        assert_eq!(replaced_under_live_slot(&mut g), answer, "K22={untaggable}");
        assert_eq!(g.machine.check(), Ok(()), "K22={untaggable}");
    }
}

#[test]
fn profiles_do_with_replaced_memory_what_their_kernels_did() {
    for (name, violated) in [("v10-series", true), ("linux-5.14", false), ("linux-6.12", false)] {
        let mut g = guest(&config(policy(name, &[])), 8);
        let _ = replaced_under_live_slot(&mut g);
        assert_eq!(g.violates(Property::Taggable), violated, "{name}");
    }
}

#[test]
fn shared_memory_behind_an_mte_vm_is_refused_by_5_14_only() {
    for (name, answer) in [
        ("v10-series", Ok(())),
        ("linux-5.14", Err(Errno::Einval)),
        ("linux-6.12", Ok(())),
    ] {
        let mut g = guest(&config(policy(name, &[])), 1);
        let shared = g
            .machine
            .mmap(
                g.vmm,
                MapSpec {
                    shared: true,
                    ..anon(1)
                },
                None,
            )
            .unwrap();
        assert_eq!(g.slot(2, 0x6000_0000, shared, 1), answer, "{name}");
    }
}

#[test]
fn device_memory_without_struct_page_is_mapped_device_by_every_policy() {
    for untaggable in ["cacheable", "device", "device-else-refuse", "refuse"] {
        let mut g = guest_with(&[("K22", untaggable), ("K23", "fault")]);
        let bar = MapSpec {
            pages: 8,
            backing: Backing::Mmio,
            shared: true,
            prot: RW,
            pgoff: 0,
        };
        g.machine.mmap(g.vmm, bar, Some(g.ram)).unwrap();
        assert_eq!(g.stg(IPA, 6).and_then(|_| g.ldg(IPA)), Ok(0), "K22={untaggable}");
        assert_eq!(g.machine.check(), Ok(()), "K22={untaggable}");
        assert_eq!(g.machine.guest(g.cpu, GuestOp::Load { ptr: Va(IPA), size: 8 }), Ok(0));
    }
}

#[test]
fn a_replacement_that_cannot_be_had_leaves_the_memory_as_it_was() {
    let mut g = guest_with(&[]);
    g.stg(IPA, 5).unwrap();
    let too_much = zone_device((1 << 20) / PAGE_SIZE + 1);

    assert_eq!(g.machine.mmap(g.vmm, too_much, Some(g.ram)), Err(Errno::Enomem));

    assert_eq!(g.ldg(IPA), Ok(5));
    assert_eq!(g.machine.check(), Ok(()));
}
