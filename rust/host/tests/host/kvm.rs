//! Guests, memslots and `KVM_ARM_MTE_COPY_TAGS`, as recorded kernels answer.

use crate::common::{IPA, RW, anon, config, guest, guest_with, policy};
use tagvisor_arch::{Ipa, PAGE_SIZE, Tag, Va};
use tagvisor_host::{
    Advice, Config, CopyTags, Errno, GuestExit, GuestOp, Machine, Prot, SLOT_DIRTY_LOG, SLOT_READONLY, Signal, SlotArgs,
};

const FROM: CopyTags = CopyTags {
    ipa: IPA,
    length: PAGE_SIZE,
    flags: 1,
    reserved: [0; 2],
};
const TO: CopyTags = CopyTags { flags: 0, ..FROM };

#[test]
fn first_guest_touch_of_a_host_written_page_flags_it_and_keeps_the_data() {
    let mut g = guest_with(&[]);
    g.machine.user_store(g.vmm, g.ram + 8, 8, 0x42).unwrap();
    assert!(!g.machine.pagemap(g.vmm, g.ram).mte_tagged);

    assert_eq!(g.ldg(IPA), Ok(0));

    assert!(g.machine.pagemap(g.vmm, g.ram).mte_tagged);
    assert_eq!(
        g.machine.guest(
            g.cpu,
            GuestOp::Load {
                ptr: Va(IPA + 8),
                size: 8
            }
        ),
        Ok(0x42)
    );
    assert_eq!(g.machine.stats().stage2_faults, 1);
}

#[test]
fn a_guest_write_to_the_zero_page_copies_it() {
    let mut g = guest_with(&[]);
    assert_eq!(g.ldg(IPA), Ok(0));
    let zero = g.machine.pagemap(g.vmm, g.ram);
    assert!(zero.mte_tagged, "6.12 flags the zero page");

    g.stg(IPA, 6).unwrap();

    let own = g.machine.pagemap(g.vmm, g.ram);
    assert_ne!(own.pfn, zero.pfn);
    assert_eq!(g.ldg(IPA), Ok(6));
    assert_eq!(g.ldg(IPA + PAGE_SIZE), Ok(0), "the next zero-page mapping has no tags");
    assert_eq!(g.machine.check(), Ok(()));
}

#[test]
fn a_wrong_logical_tag_is_an_exception_to_el1_with_the_recorded_syndrome() {
    let mut g = guest_with(&[]);
    g.stg(IPA, 7).unwrap();
    let wrong = Va(IPA).with_tag(Tag::new(3));

    let load = g
        .machine
        .guest(g.cpu, GuestOp::Load { ptr: wrong, size: 8 })
        .unwrap_err();
    let store = g
        .machine
        .guest(
            g.cpu,
            GuestOp::Store {
                ptr: wrong,
                size: 8,
                value: 1,
            },
        )
        .unwrap_err();

    let GuestExit::Exception(load) = load else {
        panic!("{load:?}")
    };
    let GuestExit::Exception(store) = store else {
        panic!("{store:?}")
    };
    assert_eq!(
        (load.esr(1), store.esr(1), load.far()),
        (0x9600_0011, 0x9600_0051, 0x0300_0000_5000_0000)
    );
}

#[test]
fn tag_instructions_without_a_slot_cannot_be_emulated_but_loads_are_mmio() {
    let mut g = guest_with(&[]);
    assert_eq!(g.ldg(0x7f00_0000), Err(GuestExit::Errno(Errno::Enosys)));
    let load = g.machine.guest(
        g.cpu,
        GuestOp::Load {
            ptr: Va(0x7f00_0000),
            size: 8,
        },
    );
    assert_eq!(
        load,
        Err(GuestExit::Mmio {
            write: false,
            ipa: Ipa(0x7f00_0000),
            len: 8,
            value: 0
        })
    );
}

#[test]
fn without_the_capability_tags_read_zero_and_copying_them_is_refused() {
    let mut machine = Machine::new(&config(policy("linux-6.12", &[]))).unwrap();
    let vmm = machine.create_process("vmm");
    let ram = machine.mmap(vmm, anon(1), None).unwrap();
    let vm = machine.create_vm(vmm).unwrap();
    let cpu = machine.create_vcpu(vm).unwrap();
    let slot = SlotArgs {
        id: 0,
        ipa: Ipa(IPA),
        userspace_addr: ram,
        pages: 1,
        flags: 0,
    };
    machine.set_user_memory_region(vm, slot).unwrap();

    machine
        .guest(
            cpu,
            GuestOp::Stg {
                ptr: Va(IPA),
                tag: Tag::new(5),
            },
        )
        .unwrap();

    assert_eq!(machine.guest(cpu, GuestOp::Ldg { ptr: Va(IPA) }), Ok(0));
    assert_eq!(machine.mte_copy_tags(vm, FROM, &mut [0; 256]), Err(Errno::Einval));
    assert_eq!(machine.enable_cap_arm_mte(vm), Err(Errno::Einval), "a vCPU exists");
}

#[test]
fn copy_tags_refuses_what_the_kernel_refuses() {
    let mut g = guest_with(&[]);
    let mut buf = [0; 256];
    let mut ask = |args| g.machine.mte_copy_tags(g.vm, args, &mut buf);
    assert_eq!(ask(CopyTags { length: 0, ..FROM }), Ok(0));
    assert_eq!(ask(CopyTags { length: 16, ..FROM }), Err(Errno::Einval));
    assert_eq!(ask(CopyTags { ipa: IPA + 16, ..FROM }), Err(Errno::Einval));
    assert_eq!(ask(CopyTags { flags: 2, ..FROM }), Err(Errno::Einval));
    assert_eq!(
        ask(CopyTags {
            reserved: [1, 0],
            ..FROM
        }),
        Err(Errno::Einval)
    );
    assert_eq!(
        ask(CopyTags {
            length: 1 << 32,
            ..FROM
        }),
        Err(Errno::Einval)
    );
    assert_eq!(
        ask(CopyTags {
            ipa: 0x7000_0000,
            ..FROM
        }),
        Err(Errno::Efault)
    );
}

#[test]
fn tags_written_by_ioctl_on_an_untouched_page_survive_swap() {
    let mut g = guest_with(&[]);
    let mut tags: Vec<u8> = (0..=255).map(|i| i % 16).collect();
    assert_eq!(g.machine.mte_copy_tags(g.vm, TO, &mut tags), Ok(PAGE_SIZE));

    g.machine.evict(g.vmm, g.ram).unwrap();

    let read = g.machine.guest_page_tags(g.cpu, Va(IPA)).unwrap();
    assert!(read.iter().zip(&tags).all(|(t, w)| t.get() == *w));
    assert_eq!(g.machine.check(), Ok(()));
}

#[test]
fn a_short_buffer_clears_the_page_it_ends_in() {
    let mut g = guest_with(&[]);
    g.machine
        .guest_fill_page(g.cpu, Va(IPA + PAGE_SIZE), Tag::new(3), 0)
        .unwrap();
    let two = CopyTags {
        length: 2 * PAGE_SIZE,
        ..TO
    };

    assert_eq!(g.machine.mte_copy_tags(g.vm, two, &mut [7; 356]), Ok(PAGE_SIZE));
    assert_eq!(g.machine.mte_copy_tags(g.vm, TO, &mut [7; 100]), Err(Errno::Efault));

    assert_eq!((g.ldg(IPA), g.ldg(IPA + PAGE_SIZE)), (Ok(0), Ok(0)));
    assert_eq!(g.machine.check(), Ok(()));
}

#[test]
fn reading_tags_of_an_untagged_page_gives_zeros_and_flags_nothing() {
    let mut g = guest_with(&[]);
    g.machine.user_store(g.vmm, g.ram, 8, 1).unwrap();
    let mut buf = [0xee; 256];
    assert_eq!(g.machine.mte_copy_tags(g.vm, FROM, &mut buf), Ok(PAGE_SIZE));
    assert!(buf.iter().all(|t| *t == 0));
    assert!(!g.machine.pagemap(g.vmm, g.ram).mte_tagged);
}

#[test]
fn writing_tags_while_a_slot_logs_dirty_pages_is_busy() {
    let mut g = guest_with(&[]);
    let ram = g.ram;
    let slot = SlotArgs {
        id: 1,
        ipa: Ipa(IPA),
        userspace_addr: ram,
        pages: 8,
        flags: SLOT_DIRTY_LOG,
    };
    g.machine.set_user_memory_region(g.vm, slot).unwrap();
    assert_eq!(g.machine.mte_copy_tags(g.vm, TO, &mut [1; 256]), Err(Errno::Ebusy));
    assert_eq!(g.machine.mte_copy_tags(g.vm, FROM, &mut [1; 256]), Ok(PAGE_SIZE));
}

#[test]
fn slots_are_checked_like_kvm_checks_them() {
    let mut g = guest_with(&[]);
    let ram = g.ram;
    assert_eq!(g.slot(2, IPA, ram, 1), Err(Errno::Eexist));
    assert_eq!(g.slot(2, 0x6000_0008, ram, 1), Err(Errno::Einval));
    assert_eq!(g.slot(2, 0x6000_0000, ram + 16, 1), Err(Errno::Einval));
    assert_eq!(
        g.slot(9, 0x6000_0000, ram, 0),
        Err(Errno::Einval),
        "no such slot to delete"
    );
    assert_eq!(g.slot(1, IPA, ram, 0), Ok(()));
    assert_eq!(g.ldg(IPA), Err(GuestExit::Errno(Errno::Enosys)));
}

#[test]
fn a_store_of_tags_to_a_read_only_slot_cannot_be_emulated() {
    let mut g = guest_with(&[]);
    let ram = g.ram;
    let slot = SlotArgs {
        id: 2,
        ipa: Ipa(0x6000_0000),
        userspace_addr: ram,
        pages: 1,
        flags: SLOT_READONLY,
    };
    g.machine.set_user_memory_region(g.vm, slot).unwrap();
    assert_eq!(g.ldg(0x6000_0000), Ok(0));
    assert_eq!(g.stg(0x6000_0000, 1), Err(GuestExit::Errno(Errno::Enosys)));
}

#[test]
fn a_read_only_slot_stays_read_only_over_a_writable_page() {
    let mut g = guest_with(&[]);
    let ram = g.ram;
    g.machine.user_store(g.vmm, ram, 8, 1).unwrap();
    let slot = SlotArgs {
        id: 2,
        ipa: Ipa(0x5200_0000),
        userspace_addr: ram,
        pages: 1,
        flags: SLOT_READONLY,
    };
    g.machine.set_user_memory_region(g.vm, slot).unwrap();
    let at = Va(0x5200_0000);
    assert_eq!(g.machine.guest(g.cpu, GuestOp::Load { ptr: at, size: 8 }), Ok(1));

    let store = g.machine.guest(
        g.cpu,
        GuestOp::Store {
            ptr: at,
            size: 8,
            value: 0x35fd,
        },
    );

    assert_eq!(
        store,
        Err(GuestExit::Mmio {
            write: true,
            ipa: Ipa(0x5200_0000),
            len: 8,
            value: 0x35fd
        })
    );
    assert_eq!(g.machine.user_load(g.vmm, ram, 8), Ok(1));
}

#[test]
fn memory_that_is_gone_or_protected_fails_kvm_run() {
    let mut g = guest_with(&[]);
    let ram = g.ram;
    g.machine.mprotect(g.vmm, ram, 1, Prot::READ).unwrap();
    assert_eq!(g.ldg(IPA), Ok(0));
    assert_eq!(g.stg(IPA, 1), Err(GuestExit::Errno(Errno::Efault)));
    g.machine.munmap(g.vmm, ram, 8).unwrap();
    assert_eq!(g.ldg(IPA), Err(GuestExit::Errno(Errno::Efault)));
}

#[test]
fn prot_mte_on_guest_memory_shows_the_guests_tags_and_stays() {
    let mut g = guest_with(&[]);
    let ram = g.ram;
    g.stg(IPA, 5).unwrap();
    assert_eq!(g.machine.user_ldg(g.vmm, ram), Ok(Tag::ZERO), "no PROT_MTE, no tags");

    g.machine.mprotect(g.vmm, ram, 1, RW | Prot::MTE).unwrap();
    assert_eq!(g.machine.user_ldg(g.vmm, ram), Ok(Tag::new(5)));
    assert_eq!(
        g.machine.user_load(g.vmm, ram, 8),
        Err(Signal::SegvMteSerr { addr: ram })
    );

    g.machine.mprotect(g.vmm, ram, 1, RW).unwrap();
    g.machine.user_stg(g.vmm, ram, Tag::new(0xe)).unwrap();
    assert_eq!(g.ldg(IPA), Ok(0xe), "VM_MTE is sticky");
    assert_eq!(g.machine.check(), Ok(()));
}

#[test]
fn one_page_in_two_slots_has_one_set_of_tags_and_is_unmapped_from_both() {
    let mut g = guest_with(&[]);
    let ram = g.ram;
    g.slot(2, 0x6000_0000, ram, 1).unwrap();
    g.stg(IPA, 5).unwrap();
    assert_eq!(g.ldg(0x6000_0000), Ok(5));

    g.machine.madvise(g.vmm, ram, 1, Advice::Dontneed).unwrap();

    assert_eq!((g.ldg(IPA), g.ldg(0x6000_0000)), (Ok(0), Ok(0)));
    assert_eq!(g.machine.check(), Ok(()));
}

#[test]
fn a_tlb_changes_no_answer() {
    let run = |tlb_bits| {
        let mut g = guest(
            &Config {
                tlb_bits,
                ..config(policy("linux-6.12", &[]))
            },
            8,
        );
        let mut answers = Vec::new();
        for round in 0..4_u64 {
            for n in 0..8 {
                let ipa = IPA + n * PAGE_SIZE;
                answers.push(g.stg(ipa + 16 * round, (round + n) as u8).ok());
                let good = Va(ipa + 16 * round).with_tag(Tag::new((round + n) as u8)).0;
                answers.push(Some(u64::from(
                    g.machine.guest_check(g.cpu, good, 8, n % 2 == 0) == tagvisor_host::Checked::Ok,
                )));
                answers.push(Some(u64::from(
                    g.machine.guest_check(g.cpu, good ^ 1 << 56, 8, true) == tagvisor_host::Checked::Ok,
                )));
                if n == round {
                    g.machine.evict(g.vmm, g.page(n)).unwrap();
                }
            }
        }
        assert_eq!(g.machine.check(), Ok(()));
        answers
    };
    assert_eq!(run(0), run(3));
    assert!(run(0).contains(&Some(0)));
}

#[test]
fn under_a_memory_limit_pages_swap_by_themselves_and_keep_their_tags() {
    let mut g = guest(
        &Config {
            tlb_bits: 6,
            ..config(policy("linux-6.12", &[]))
        },
        64,
    );
    g.machine.set_memory_limit(8);
    for n in 0..64 {
        g.stg(IPA + n * PAGE_SIZE, n as u8 % 15 + 1).unwrap();
    }
    for n in 0..64 {
        assert_eq!(g.ldg(IPA + n * PAGE_SIZE), Ok(n % 15 + 1));
    }
    let stats = g.machine.stats();
    assert!(
        stats.resident_pages <= 8 && stats.swap_outs >= 56 && stats.saved_tag_bytes_peak >= 56 * 128,
        "{stats:?}"
    );
    assert_eq!(g.machine.check(), Ok(()));
}

#[test]
fn switching_the_ledger_and_the_log_off_changes_no_answer() {
    let run = |ledger, log| {
        let mut g = guest(
            &Config {
                ledger,
                log,
                ..config(policy("linux-6.12", &[("K1", "restore")]))
            },
            8,
        );
        g.stg(IPA, 5).unwrap();
        for _ in 0..2 {
            g.machine.evict(g.vmm, g.ram).unwrap();
            g.machine.user_load(g.vmm, g.ram, 8).unwrap();
        }
        (g.ldg(IPA), g.machine.stats())
    };
    assert_eq!(run(true, true), run(false, false));
}

#[test]
fn a_destroyed_vm_answers_ebadf_and_its_tables_are_free_again() {
    let mut g = guest_with(&[]);
    g.stg(IPA, 5).unwrap();
    let before = g.machine.stats().free_pages;

    g.machine.destroy_vm(g.vm).unwrap();

    assert_eq!(
        g.machine.stats().free_pages,
        before + 4,
        "two root pages and one table each of levels 2 and 3"
    );
    assert_eq!(g.ldg(IPA), Err(GuestExit::Errno(Errno::Ebadf)));
    assert_eq!(g.machine.destroy_vm(g.vm), Err(Errno::Ebadf));
    assert_eq!(g.machine.create_vcpu(g.vm), Err(Errno::Ebadf));
    assert_eq!(g.machine.mte_copy_tags(g.vm, FROM, &mut [0; 256]), Err(Errno::Ebadf));
}

#[test]
fn a_page_without_a_swap_slot_stays_and_a_hole_is_enomem() {
    let mut g = guest(
        &Config {
            swap: PAGE_SIZE,
            ..config(policy("linux-6.12", &[]))
        },
        8,
    );
    g.stg(IPA, 1).unwrap();
    g.stg(IPA + PAGE_SIZE, 2).unwrap();

    assert!(g.machine.evict(g.vmm, g.page(0)).unwrap().swap);
    assert!(
        g.machine.evict(g.vmm, g.page(1)).unwrap().present,
        "the only slot is taken"
    );
    assert_eq!(g.machine.evict(g.vmm, g.page(8)), Err(Errno::Enomem));
    assert_eq!((g.ldg(IPA), g.ldg(IPA + PAGE_SIZE)), (Ok(1), Ok(2)));
    assert_eq!(g.machine.check(), Ok(()));
}

#[test]
fn what_is_configured_and_not_touched_costs_nothing_to_take_away() {
    let tib = 1 << 40;
    let mut g = guest(
        &Config {
            memory: tib,
            swap: tib,
            ..config(policy("linux-6.12", &[]))
        },
        1,
    );
    let pages = tib / PAGE_SIZE / 2;
    let ram = g.machine.mmap(g.vmm, anon(pages), None).unwrap();
    let far = 0x6000_0000 + (pages / 2 - 1) * PAGE_SIZE;
    g.slot(2, 0x6000_0000, ram, pages / 2).unwrap();
    assert_eq!(g.stg(far, 5), Ok(0));
    assert_eq!(g.ldg(far), Ok(5));

    // Both look at the one page touched; a walk over every page configured would be felt here.
    assert_eq!(g.slot(2, 0x6000_0000, ram, 0), Ok(()));
    g.machine.munmap(g.vmm, ram, pages).unwrap();

    assert_eq!(g.ldg(far), Err(GuestExit::Errno(Errno::Enosys)));
    assert_eq!(g.machine.check(), Ok(()));
}

#[test]
fn an_instruction_of_a_second_vm_that_faults_twice_faults_there_twice() {
    let mut g = guest_with(&[]);
    let vm = g.machine.create_vm(g.vmm).unwrap();
    g.machine.enable_cap_arm_mte(vm).unwrap();
    (g.vm, g.cpu) = (vm, g.machine.create_vcpu(vm).unwrap());
    let ipa = IPA + 0x100_0000;
    let ram = g.page(0);
    g.slot(1, ipa, ram, 8).unwrap();
    let across = GuestOp::Store {
        ptr: Va(ipa + PAGE_SIZE - 4),
        size: 8,
        value: 0x42,
    };
    assert_eq!(g.machine.guest(g.cpu, across), Ok(0));
    assert_eq!(g.machine.check(), Ok(()));
}
