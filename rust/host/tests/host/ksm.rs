//! KSM: what is merged, what never is, and that tags survive both.

use crate::common::{Guest, IPA, RW, anon, config, guest, policy};
use tagvisor_arch::{PAGE_SIZE, Pfn, Tag, Va};
use tagvisor_host::{Advice, Config, Machine, MapSpec, MmId, Prot, SwapKind};

const KERNELS: [&str; 4] = ["linux-5.14", "linux-6.1", "linux-6.12", "linux-7.3"];

fn machine(config: &Config) -> (Machine, MmId) {
    let mut machine = Machine::new(config).unwrap();
    let mm = machine.create_process("p");
    (machine, mm)
}

/// Mergeable pages of the process, each holding one number.
fn pages(m: &mut Machine, mm: MmId, prot: Prot, values: &[u64]) -> Va {
    let count = values.len() as u64;
    let a = m.mmap(mm, MapSpec { prot, ..anon(count) }, None).unwrap();
    for (page, value) in (0..).zip(values) {
        m.user_store(mm, a + page * PAGE_SIZE, 8, *value).unwrap();
    }
    m.madvise(mm, a, count, Advice::Mergeable).unwrap();
    a
}

fn frame(m: &Machine, mm: MmId, va: Va) -> Pfn {
    m.pagemap(mm, va).pfn.unwrap()
}

fn silent(machine: &mut Machine) {
    assert_eq!(machine.check(), Ok(()));
}

#[test]
fn pages_of_zeros_become_the_zero_page_unless_it_is_flagged() {
    for (kernel, fit) in [("linux-6.12.0", false), ("linux-6.18", true)] {
        let (mut m, mm) = machine(&config(policy(kernel, &[])));
        m.set_ksm_use_zero_pages(true);
        let a = pages(&mut m, mm, RW, &[0, 1, 0]);

        // Two that may not become the zero page still are equal to each other.
        assert_eq!(m.ksm_run(), if fit { 2 } else { 1 }, "{kernel}");
        assert_eq!(m.stats().resident_pages, if fit { 1 } else { 2 }, "{kernel}");
        assert_eq!(m.user_load(mm, a, 8), Ok(0));
        m.user_store(mm, a, 8, 5).unwrap();
        assert_eq!(
            (m.user_load(mm, a, 8), m.user_load(mm, a + 2 * PAGE_SIZE, 8)),
            (Ok(5), Ok(0))
        );
        assert_eq!(m.check().is_ok(), fit, "{kernel}: P8");
    }
}

#[test]
fn equal_pages_become_one_and_a_write_copies() {
    for kernel in KERNELS {
        let (mut m, mm) = machine(&config(policy(kernel, &[])));
        let a = pages(&mut m, mm, RW, &[1, 2, 1, 1]);
        let other = m.create_process("q");
        let b = pages(&mut m, other, RW, &[1, 0]);

        assert_eq!(m.ksm_run(), 3, "{kernel}: four pages hold 1");
        assert_eq!(frame(&m, mm, a), frame(&m, other, b));
        assert_eq!(m.ksm_run(), 0, "nothing is left to merge");
        assert_eq!(m.stats().resident_pages, 3);

        m.user_store(mm, a, 8, 7).unwrap();
        assert_ne!(frame(&m, mm, a), frame(&m, other, b));
        assert_eq!(m.user_load(mm, a + 2 * PAGE_SIZE, 8), Ok(1));
        assert_eq!(m.user_load(other, b, 8), Ok(1));

        m.exit(mm);
        m.madvise(other, b, 1, Advice::Unmergeable).unwrap();
        assert_eq!(m.ksm_run(), 0);
        m.user_store(other, b, 8, 8).unwrap();
        silent(&mut m);
        m.exit(other);
        assert_eq!(m.stats().resident_pages, 0, "{kernel}");
    }
}

#[test]
fn unmergeable_takes_the_merged_pages_apart() {
    let (mut m, mm) = machine(&config(policy("linux-6.12", &[])));
    let a = pages(&mut m, mm, RW, &[1, 1, 1]);
    m.ksm_run();

    m.madvise(mm, a, 2, Advice::Unmergeable).unwrap();

    let frames: Vec<Pfn> = (0..3).map(|n| frame(&m, mm, a + n * PAGE_SIZE)).collect();
    assert!(frames[0] != frames[1] && frames[1] != frames[2] && frames[0] != frames[2]);
    assert_eq!(m.ksm_run(), 0, "two of them may not be merged, the third is alone");
}

#[test]
fn a_tagged_page_is_never_merged() {
    for kernel in KERNELS {
        let (mut m, mm) = machine(&config(policy(kernel, &[])));
        let a = pages(&mut m, mm, RW.union(Prot::MTE), &[1, 1]);
        let b = pages(&mut m, mm, RW, &[1]);
        assert_eq!(m.ksm_run(), 0, "{kernel}: equal data, equal tags, and one untagged");
        m.user_stg(mm, a, Tag::new(5)).unwrap();
        m.user_store(mm, b, 8, 9).unwrap();
        silent(&mut m);
    }
}

#[test]
fn merging_without_a_look_at_the_flag_loses_tags() {
    let (mut m, mm) = machine(&config(policy("linux-6.12", &[("K17", "ignore-flag")])));
    let a = pages(&mut m, mm, RW.union(Prot::MTE), &[1, 1]);
    m.user_stg(mm, a, Tag::new(5)).unwrap();
    assert_eq!(m.ksm_run(), 1);
    assert!(m.check().is_err());
}

#[test]
fn merged_pages_go_to_swap_and_come_back_to_each_address() {
    // 5.14 sets the flag of an untagged page that comes back (K4 = flag-always), so it is not among them.
    for kernel in ["linux-6.1", "linux-6.12", "linux-7.3"] {
        for swap_kind in [SwapKind::Nvme, SwapKind::Zram] {
            let (mut m, mm) = machine(&Config {
                swap_kind,
                ..config(policy(kernel, &[]))
            });
            let a = pages(&mut m, mm, RW, &[1, 1, 1]);
            assert_eq!(m.ksm_run(), 2);
            assert_eq!(m.memcg_reclaim(1), 1);
            assert_eq!(m.stats().resident_pages, 0);

            for page in 0..3 {
                assert_eq!(m.user_load(mm, a + page * PAGE_SIZE, 8), Ok(1), "{kernel}");
            }
            m.user_store(mm, a, 8, 2).unwrap();
            assert_eq!(m.user_load(mm, a + PAGE_SIZE, 8), Ok(1));
            silent(&mut m);
            m.munmap(mm, a, 3).unwrap();
            let stats = m.stats();
            assert_eq!(
                (stats.resident_pages, stats.swap_slots_used),
                (0, 0),
                "{kernel} {swap_kind:?}"
            );
        }
    }
}

/// The guest reads its first page, so KVM has tagged that one; two others hold the same data.
fn guest_with_equal_pages(kernel: &str) -> Guest {
    let mut g = guest(&config(policy(kernel, &[])), 4);
    for page in 0..3 {
        g.machine.user_store(g.vmm, g.page(page), 8, 0x5555).unwrap();
    }
    g.ldg(IPA).unwrap();
    let (vmm, ram) = (g.vmm, g.ram);
    g.machine.madvise(vmm, ram, 4, Advice::Mergeable).unwrap();
    g
}

#[test]
fn pages_the_guest_never_touched_are_merged_and_its_stg_takes_them_apart() {
    let mut g = guest_with_equal_pages("linux-6.12");
    assert_eq!(g.machine.ksm_run(), 1);
    assert_eq!(frame(&g.machine, g.vmm, g.page(1)), frame(&g.machine, g.vmm, g.page(2)));
    assert!(!g.machine.pagemap(g.vmm, g.page(1)).mte_tagged);

    assert_eq!(g.ldg(IPA + PAGE_SIZE), Ok(0));
    assert!(g.machine.pagemap(g.vmm, g.page(2)).mte_tagged, "the shared page");
    g.stg(IPA + PAGE_SIZE, 5).unwrap();
    assert_eq!(g.ldg(IPA + PAGE_SIZE), Ok(5));
    assert_eq!(g.ldg(IPA + PAGE_SIZE + 16), Ok(0));
    assert_eq!(g.ldg(IPA + 2 * PAGE_SIZE), Ok(0));
    assert_eq!(g.violated(), Vec::<&str>::new());
    silent(&mut g.machine);
}

#[test]
fn change_pte_tags_the_pages_that_would_have_been_merged() {
    let mut g = guest_with_equal_pages("linux-6.1");
    assert_eq!(g.machine.ksm_run(), 0);
    for page in 0..3 {
        assert!(g.machine.pagemap(g.vmm, g.page(page)).mte_tagged);
    }
    assert_eq!(g.ldg(IPA + PAGE_SIZE), Ok(0));
    assert_eq!(g.violated(), Vec::<&str>::new());
    silent(&mut g.machine);
}

/// The guest has read a page that nobody wrote; then the VMM writes it.
fn written_over_the_zero_page(kernel: &str, knobs: &[(&str, &str)]) -> Guest {
    let mut g = guest(&config(policy(kernel, knobs)), 2);
    g.ldg(IPA).unwrap();
    g.machine.user_store(g.vmm, g.page(0), 8, 1).unwrap();
    g
}

#[test]
fn a_page_that_replaces_the_zero_page_is_sanitised_by_change_pte_or_by_the_next_fault() {
    for (kernel, tagged) in [("linux-6.1", true), ("linux-6.6", false), ("linux-6.12", false)] {
        let mut g = written_over_the_zero_page(kernel, &[]);
        assert_eq!(g.machine.pagemap(g.vmm, g.page(0)).mte_tagged, tagged, "{kernel}");
        assert_eq!(g.ldg(IPA), Ok(0));
        g.stg(IPA, 5).unwrap();
        assert_eq!(g.ldg(IPA), Ok(5));
        assert_eq!(g.violated(), Vec::<&str>::new(), "{kernel}");
    }
}

#[test]
fn change_pte_without_sanitising_shows_the_guest_an_earlier_owners_tags() {
    let mut g = written_over_the_zero_page("linux-6.1", &[("K20", "map")]);
    g.ldg(IPA).unwrap();
    assert_eq!(g.violated(), ["P4", "P2"]);
}
