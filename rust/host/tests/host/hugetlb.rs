//! Huge pages, as recorded kernels answer (`k3-backing`), and what their tag flags mean in each.

use crate::common::{Guest, IPA, RW, config, guest, policy};
use tagvisor_arch::{PAGE_SIZE, Tag, Va};
use tagvisor_host::{Backing, Config, Errno, Machine, MapSpec, MmId, Property, Prot, Signal};

const HPAGE: u64 = 512;
const MTE: Prot = RW.union(Prot::MTE);

fn huge(pages: u64, prot: Prot, shared: bool) -> MapSpec {
    MapSpec {
        pages,
        backing: Backing::Hugetlb,
        shared,
        prot,
        pgoff: 0,
    }
}

fn boot(kernel: &str) -> Config {
    Config {
        memory: 16 << 20,
        ..config(policy(kernel, &[]))
    }
}

fn machine(kernel: &str, pool: u64) -> (Machine, MmId) {
    let mut machine = Machine::new(&boot(kernel)).unwrap();
    let mm = machine.create_process("p");
    assert_eq!(machine.set_nr_hugepages(pool), pool);
    (machine, mm)
}

fn with_guest(kernel: &str) -> Guest {
    let mut guest = guest(&boot(kernel), 1);
    guest.machine.set_nr_hugepages(1);
    guest
}

#[test]
fn a_mapping_reserves_huge_pages_and_gives_them_back() {
    let (mut m, mm) = machine("linux-7.3", 2);
    assert_eq!(m.mmap(mm, huge(3 * HPAGE, RW, false), None), Err(Errno::Enomem));
    let a = m.mmap(mm, huge(HPAGE + 1, RW, false), None).unwrap();
    assert_eq!(a.0 % (HPAGE * PAGE_SIZE), 0, "aligned");
    assert_eq!(
        m.mmap(mm, huge(1, RW, false), None),
        Err(Errno::Enomem),
        "both are reserved"
    );
    assert_eq!(m.set_nr_hugepages(0), 2, "reserved ones stay");
    m.user_store(mm, a + HPAGE * PAGE_SIZE, 8, 7).unwrap();
    assert_eq!(m.munmap(mm, a, 1), Err(Errno::Einval), "inside a huge page");
    m.munmap(mm, a, 2 * HPAGE).unwrap();
    assert_eq!(m.set_nr_hugepages(0), 0);
    let b = m.mmap(mm, huge(0x1000, RW, false), None);
    assert_eq!(b, Err(Errno::Enomem), "no pool");
}

#[test]
fn prot_mte_on_huge_pages_is_the_kernels_choice() {
    for (kernel, answer) in [("linux-5.14", true), ("linux-6.12", false), ("linux-7.3", true)] {
        let (mut m, mm) = machine(kernel, 1);
        let mapped = m.mmap(mm, huge(HPAGE, MTE, false), None);
        assert_eq!(mapped.is_ok(), answer, "{kernel}: {mapped:?}");
        if let Ok(a) = mapped {
            let far = a + 300 * PAGE_SIZE;
            m.user_stg(mm, far, Tag::new(5)).unwrap();
            assert_eq!(m.user_ldg(mm, far), Ok(Tag::new(5)));
            assert_eq!(m.user_ldg(mm, far + PAGE_SIZE), Ok(Tag::new(0)));
        }
    }
}

#[test]
fn after_fork_a_huge_page_is_copied_as_a_whole_with_its_tags() {
    let (mut m, parent) = machine("linux-7.3", 2);
    let a = m.mmap(parent, huge(HPAGE, MTE, false), None).unwrap();
    let far = a + 511 * PAGE_SIZE;
    m.user_stg(parent, far, Tag::new(9)).unwrap();
    let child = m.fork(parent, "child");
    m.user_stg(child, a, Tag::new(3)).unwrap();
    assert_eq!(m.user_ldg(child, far), Ok(Tag::new(9)));
    assert_eq!(m.user_ldg(parent, a), Ok(Tag::new(0)));
    assert_ne!(m.pagemap(parent, far).pfn, m.pagemap(child, far).pfn);
    m.exit(child);
    assert_eq!(m.check(), Ok(()));
    m.user_stg(parent, a, Tag::new(4)).unwrap();
    assert_eq!(m.user_ldg(parent, far), Ok(Tag::new(9)), "reused in place");
}

#[test]
fn a_copy_without_a_huge_page_left_is_sigbus() {
    let (mut m, parent) = machine("linux-7.3", 1);
    let a = m.mmap(parent, huge(HPAGE, RW, false), None).unwrap();
    m.user_store(parent, a, 8, 1).unwrap();
    let child = m.fork(parent, "child");
    let signal = m.user_store(child, a, 8, 2).unwrap_err();
    assert!(matches!(signal, Signal::SigBus { .. }), "{signal:?}");
    assert_eq!(m.user_load(child, a, 8), Ok(1));
}

#[test]
fn a_shared_huge_page_is_one_page_for_both() {
    let (mut m, parent) = machine("linux-7.3", 1);
    let a = m.mmap(parent, huge(HPAGE, MTE, true), None).unwrap();
    m.user_stg(parent, a, Tag::new(6)).unwrap();
    let child = m.fork(parent, "child");
    assert_eq!(m.user_ldg(child, a), Ok(Tag::new(6)));
    m.user_stg(child, a + 16, Tag::new(7)).unwrap();
    assert_eq!(m.user_ldg(parent, a + 16), Ok(Tag::new(7)));
    m.exit(child);
    m.munmap(parent, a, HPAGE).unwrap();
    assert_eq!(m.set_nr_hugepages(0), 0, "nobody has it any more");
    assert_eq!(m.check(), Ok(()));
}

/// The slot check and the answers of `k3-backing`.
#[test]
fn huge_pages_behind_a_guest() {
    let refused = {
        let mut guest = with_guest("linux-6.12");
        let a = guest.machine.mmap(guest.vmm, huge(HPAGE, RW, false), None).unwrap();
        guest.slot(2, IPA + 0x1000_0000, a, HPAGE)
    };
    assert_eq!(refused, Err(Errno::Einval));
    for kernel in ["linux-6.1", "linux-7.3"] {
        let mut guest = with_guest(kernel);
        let a = guest.machine.mmap(guest.vmm, huge(HPAGE, RW, false), None).unwrap();
        let ipa = IPA + 0x1000_0000;
        guest.slot(2, ipa, a, HPAGE).unwrap();
        guest.stg(ipa + 0x1000, 3).unwrap();
        assert_eq!(guest.ldg(ipa + 0x1000), Ok(3));
        assert_eq!(guest.ldg(ipa + 0x2000), Ok(0));
        assert!(guest.machine.pagemap(guest.vmm, a + PAGE_SIZE).mte_tagged);
        assert_eq!(guest.machine.check(), Ok(()), "{kernel}");
    }
}

/// Before 6.13 nobody cleared the flag of a huge page that went back to the pool: the next guest that gets it sees the
/// tags of the one before.
#[test]
fn a_flag_that_outlives_its_user_leaks_tags() {
    for (kernel, leaks) in [("linux-6.1", true), ("linux-7.3", false)] {
        let mut guest = with_guest(kernel);
        let ipa = IPA + 0x1000_0000;
        let a = guest.machine.mmap(guest.vmm, huge(HPAGE, RW, false), None).unwrap();
        guest.slot(2, ipa, a, HPAGE).unwrap();
        guest.stg(ipa, 9).unwrap();
        guest.machine.munmap(guest.vmm, a, HPAGE).unwrap();
        let b: Va = guest.machine.mmap(guest.vmm, huge(HPAGE, RW, false), None).unwrap();
        guest.slot(3, ipa + 0x1000_0000, b, HPAGE).unwrap();
        let seen = guest.ldg(ipa + 0x1000_0000).unwrap();
        assert_eq!(seen, if leaks { 9 } else { 0 }, "{kernel}");
        let found = guest
            .machine
            .violations()
            .iter()
            .any(|v| v.property == Property::NoLeak);
        assert_eq!(found, leaks, "{kernel}");
    }
}
