//! No memory for a page's tags at swap-out (K3).

use crate::common::{Guest, IPA, config, guest, policy};
use tagvisor_arch::PAGE_SIZE;
use tagvisor_host::{Config, Property, SwapKind};

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
            g.machine.fail_tag_saves(100);

            let entry = g.machine.evict(g.vmm, g.ram).unwrap();
            assert!(entry.swap, "{profile}: unmapped, and in the swap cache");
            assert_eq!((g.machine.stats().swap_outs, g.machine.stats().tag_saves), (0, 0));
            assert!(g.machine.stats().tag_save_failures > 0);
            assert_eq!(g.ldg(IPA), Ok(5));
            assert_eq!(g.machine.stats().swap_ins, 0, "{profile} {kind:?}: it never left");

            g.machine.fail_tag_saves(0);
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
    g.machine.fail_tag_saves(1);
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
        g.machine.fail_tag_saves(100);
        g.machine.evict(g.vmm, page).unwrap();
        assert_eq!(g.ldg(at), Ok(6));
        g.machine.fail_tag_saves(0);
        g.machine.evict(g.vmm, page).unwrap();
        assert_eq!(g.ldg(at), Ok(6), "{profile}");
        assert_eq!(g.machine.check(), Ok(()));
    }
}

#[test]
fn a_kernel_that_swaps_anyway_loses_the_tags() {
    let mut g = machine("linux-6.12", &[("K3", "swap-anyway")], SwapKind::Nvme);
    g.stg(IPA, 5).unwrap();
    g.machine.fail_tag_saves(100);
    g.machine.evict(g.vmm, g.ram).unwrap();
    assert_eq!(g.ldg(IPA), Ok(0));
    assert!(g.violates(Property::NoLoss));
}
