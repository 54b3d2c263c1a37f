//! No memory for a page's tags at swap-out (K3).

use crate::common::{Guest, IPA, RW, anon, config, guest, policy};
use tagvisor_arch::{PAGE_SIZE, Tag, Va};
use tagvisor_host::{Advice, Config, Machine, MapSpec, MmId, Property, Prot, SwapKind};

fn machine(profile: &str, knobs: &[(&str, &str)], swap_kind: SwapKind) -> Guest {
    let config = Config {
        swap_kind,
        ..config(policy(profile, knobs))
    };
    guest(&config, 4)
}

#[test]
fn a_page_whose_tags_cannot_be_saved_stays_in_memory() {
    for profile in ["linux-5.14", "linux-6.1", "linux-6.12", "linux-7.3"] {
        for kind in [SwapKind::Zram, SwapKind::Nvme] {
            let mut g = machine(profile, &[], kind);
            g.stg(IPA, 5).unwrap();
            g.machine.fail_tag_saves(100, 0);

            let entry = g.machine.evict(g.vmm, g.ram).unwrap();
            assert!(entry.swap, "{profile}: unmapped, and in the swap cache");
            assert_eq!((g.machine.stats().swap_outs, g.machine.stats().tag_saves), (0, 0));
            assert!(g.machine.stats().tag_save_failures > 0);
            assert_eq!(g.machine.check(), Ok(()), "the swap cache has it");
            assert_eq!(g.ldg(IPA), Ok(5));
            assert_eq!(g.machine.stats().swap_ins, 0, "{profile} {kind:?}: it never left");

            g.machine.fail_tag_saves(0, 0);
            g.machine.evict(g.vmm, g.ram).unwrap();
            assert_eq!(g.machine.stats().swap_outs, 1);
            assert_eq!(g.ldg(IPA), Ok(5));
            assert_eq!(g.machine.check(), Ok(()), "{profile} {kind:?}");
        }
    }
}

#[test]
fn a_page_without_tags_needs_no_buffer() {
    let mut g = machine("linux-6.12", &[], SwapKind::Nvme);
    g.machine.fail_tag_saves(1, 0);
    g.machine.user_store(g.vmm, g.ram, 8, 7).unwrap();
    g.machine.evict(g.vmm, g.ram).unwrap();
    assert_eq!(g.machine.stats().swap_outs, 1);
    assert_eq!(g.machine.stats().tag_save_failures, 0);
}

#[test]
fn an_older_copy_of_the_tags_does_not_win_over_a_save_that_failed() {
    for profile in ["linux-6.1", "linux-6.12"] {
        let mut g = machine(profile, &[], SwapKind::Nvme);
        let at = IPA + PAGE_SIZE;
        let page = g.page(1);
        g.stg(at, 5).unwrap();
        g.machine.evict(g.vmm, page).unwrap();
        g.stg(at, 6).unwrap();
        g.machine.fail_tag_saves(100, 0);
        g.machine.evict(g.vmm, page).unwrap();
        assert_eq!(g.ldg(at), Ok(6));
        g.machine.fail_tag_saves(0, 0);
        g.machine.evict(g.vmm, page).unwrap();
        assert_eq!(g.ldg(at), Ok(6), "{profile}");
        assert_eq!(g.machine.check(), Ok(()));
    }
}

#[test]
fn a_kernel_that_swaps_anyway_loses_the_tags() {
    let mut g = machine("linux-6.12", &[("K3", "swap-anyway")], SwapKind::Nvme);
    g.stg(IPA, 5).unwrap();
    g.machine.fail_tag_saves(100, 0);
    g.machine.evict(g.vmm, g.ram).unwrap();
    assert_eq!(g.ldg(IPA), Ok(0));
    assert!(g.violates(Property::NoLoss));
}

/// A process with a huge page, the tags of whose pages are their number modulo 16.
fn huge(profile: &str, knobs: &[(&str, &str)], swap_kind: SwapKind) -> (Machine, MmId, Va) {
    let config = Config {
        memory: 16 << 20,
        swap: 8 << 20,
        swap_kind,
        ..config(policy(profile, knobs))
    };
    let mut m = Machine::new(&config).unwrap();
    m.set_transparent_hugepage(true, false);
    let mm = m.create_process("p");
    let prot = RW | Prot::MTE;
    let a = m.mmap(mm, MapSpec { prot, ..anon(512) }, None).unwrap();
    m.madvise(mm, a, 512, Advice::Hugepage).unwrap();
    for page in 0..512 {
        m.user_stg(mm, a + page * PAGE_SIZE, Tag::new((page % 16) as u8))
            .unwrap();
    }
    (m, mm, a)
}

fn all_there(m: &mut Machine, mm: MmId, a: Va) {
    for page in 0..512 {
        let tag = m.user_ldg(mm, a + page * PAGE_SIZE);
        assert_eq!(tag, Ok(Tag::new((page % 16) as u8)), "page {page}");
    }
    assert_eq!(m.check(), Ok(()));
}

#[test]
fn a_huge_page_goes_whole_or_is_split_first() {
    for kind in [SwapKind::Zram, SwapKind::Nvme] {
        for (profile, whole) in [("linux-6.1", false), ("linux-6.12", true), ("linux-7.3", true)] {
            let (mut m, mm, a) = huge(profile, &[], kind);
            m.memcg_reclaim(1);
            let gone = if whole { 512 } else { 1 };
            assert_eq!(m.stats().swap_outs, gone, "{profile}");
            assert_eq!(m.stats().saved_tag_pages, gone);
            all_there(&mut m, mm, a);
            m.munmap(mm, a, 512).unwrap();
            assert_eq!((m.stats().swap_slots_used, m.stats().resident_pages), (0, 0));
        }
    }
}

#[test]
fn too_few_slots_or_a_page_given_up_split_it() {
    let (mut m, mm, a) = huge("linux-6.12", &[], SwapKind::Nvme);
    m.madvise(mm, a, 1, Advice::Dontneed).unwrap();
    m.memcg_reclaim(2);
    assert_eq!(m.stats().swap_outs, 1, "the page given up, and one more");
    let (mut m, mm, a) = huge("linux-6.12", &[], SwapKind::Nvme);
    let other = m.mmap(mm, anon(1600), None).unwrap();
    for page in 0..1600 {
        m.user_store(mm, other + page * PAGE_SIZE, 8, page).unwrap();
        m.evict(mm, other + page * PAGE_SIZE).unwrap();
    }
    m.memcg_reclaim(1);
    assert_eq!(m.stats().swap_outs, 1601);
    all_there(&mut m, mm, a);
}

/// What is left in `mte_pages` when the allocation for the eleventh page of a huge page fails.
fn left_over(knobs: &[(&str, &str)]) -> u64 {
    let (mut m, mm, a) = huge("linux-6.12", knobs, SwapKind::Zram);
    m.fail_tag_saves(600, 10);
    m.memcg_reclaim(1);
    let left = m.stats().saved_tag_pages;
    assert_eq!(m.stats().swap_outs, 0);
    assert!(m.pagemap(mm, a + 9 * PAGE_SIZE).swap, "unmapped, and in the swap cache");
    all_there(&mut m, mm, a);
    left
}

#[test]
fn what_was_saved_of_a_folio_that_stays_is_erased_again() {
    assert_eq!(left_over(&[]), 0);
    assert_eq!(left_over(&[("K3", "redirty")]), 10);
}

#[test]
fn a_huge_page_left_in_the_swap_cache_can_be_split_and_keeps_its_tags() {
    let (mut m, mm, a) = huge("linux-6.12", &[], SwapKind::Zram);
    m.fail_tag_saves(1, 10);
    m.memcg_reclaim(1);
    m.user_stg(mm, a, Tag::ZERO).unwrap();
    m.migrate_page(mm, a).unwrap();
    all_there(&mut m, mm, a);
}
