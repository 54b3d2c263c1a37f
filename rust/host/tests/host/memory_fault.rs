//! `KVM_EXIT_MEMORY_FAULT`: which failed stage-2 faults say where they failed.

use crate::common::{Guest, IPA, anon, config, guest, policy};
use tagvisor_arch::{Ipa, PAGE_SIZE, Va};
use tagvisor_host::{Backing, Config, Errno, FileKind, GuestExit, GuestOp, MapSpec, Prot, SlotArgs};

const GMEM: u64 = IPA + 16 * PAGE_SIZE;

fn told(gpa: u64, size: u64) -> GuestExit {
    GuestExit::MemoryFault {
        errno: Errno::Efault,
        flags: 0,
        gpa: Ipa(gpa),
        size,
    }
}

/// A guest over memory that cannot be read, over a hole, over a file that has no tags, and over a huge page that the
/// pool has not.
fn over_bad_memory(kernel: &str, knobs: &[(&str, &str)]) -> Guest {
    let mut g = guest(&config(policy(kernel, knobs)), 4);
    let none = MapSpec {
        prot: Prot::empty(),
        ..anon(1)
    };
    g.machine.mmap(g.vmm, none, Some(g.ram)).unwrap();
    g.machine.munmap(g.vmm, g.page(1), 1).unwrap();
    let file = g.machine.create_file(FileKind::Ramfs, 1);
    let ramfs = MapSpec {
        backing: Backing::File(file),
        shared: true,
        ..anon(1)
    };
    g.machine.mmap(g.vmm, ramfs, Some(g.page(2))).unwrap();
    g
}

#[test]
fn user_mem_abort_says_nothing_up_to_7_3_and_the_proposal_says_where() {
    let failed = Err(GuestExit::Errno(Errno::Efault));
    for kernel in ["linux-6.12", "linux-7.3"] {
        let mut g = over_bad_memory(kernel, &[]);
        for page in 0..3 {
            assert_eq!(g.ldg(IPA + page * PAGE_SIZE + 16), failed, "{kernel} {page}");
        }
        let mut g = over_bad_memory(kernel, &[("memory_fault_exit", "all")]);
        assert_eq!(g.ldg(IPA + 16), Err(told(IPA, PAGE_SIZE)), "{kernel}: PROT_NONE");
        let size_unknown = told(IPA + PAGE_SIZE, 0);
        assert_eq!(g.ldg(IPA + PAGE_SIZE), Err(size_unknown), "{kernel}: no VMA");
        let refused = told(IPA + 2 * PAGE_SIZE, PAGE_SIZE);
        assert_eq!(g.ldg(IPA + 2 * PAGE_SIZE), Err(refused), "{kernel}: no tags there");
        assert_eq!(g.ldg(IPA + 3 * PAGE_SIZE), Ok(0), "{kernel}: what is well is");
        let nowhere = GuestOp::Ldg { ptr: Va(GMEM) };
        let unbacked = g.machine.guest(g.cpu, nowhere);
        assert_eq!(
            unbacked,
            Err(GuestExit::Errno(Errno::Enosys)),
            "no slot is no memory fault"
        );
    }
}

#[test]
fn guest_memfd_without_memory_says_where_since_6_18() {
    for (knobs, expected) in [
        (
            &[][..],
            GuestExit::MemoryFault {
                errno: Errno::Enomem,
                flags: 0,
                gpa: Ipa(GMEM),
                size: PAGE_SIZE,
            },
        ),
        (&[("memory_fault_exit", "none")][..], GuestExit::Errno(Errno::Enomem)),
    ] {
        let without_swap = Config {
            swap: 0,
            ..config(policy("linux-6.18", knobs))
        };
        let mut g = guest(&without_swap, 1);
        g.stg(IPA, 1).unwrap();
        let file = g.machine.create_guest_memfd(g.vm, 1).unwrap();
        let args = SlotArgs {
            id: 2,
            ipa: Ipa(GMEM),
            userspace_addr: Va(0x1000_0000),
            pages: 1,
            flags: 0,
        };
        g.machine.set_user_memory_region2(g.vm, args, Some((file, 0))).unwrap();
        let free = g.machine.stats().free_pages;
        let rest = g.machine.mmap(g.vmm, anon(free), None).unwrap();
        for page in 0..free {
            g.machine.user_store(g.vmm, rest + page * PAGE_SIZE, 8, 1).unwrap();
        }
        assert_eq!(g.ldg(GMEM), Err(expected));
    }
}
