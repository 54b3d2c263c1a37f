//! Where the data of a swapped page go, and that its tags do not go with them: zeromap and zswap.

use crate::common::{Guest, IPA, RW, anon, config, guest, policy};
use tagvisor_arch::{PAGE_SIZE, Tag};
use tagvisor_host::{Advice, Config, Machine, MapSpec, Property, Prot, SwapKind};

fn with(profile: &str, knobs: &[(&str, &str)], zswap: u64) -> Guest {
    let config = Config {
        zswap: zswap * PAGE_SIZE,
        ..config(policy(profile, knobs))
    };
    guest(&config, 20)
}

/// A tag and, in the page's data, a number.
fn write(g: &mut Guest, page: u64) {
    g.stg(IPA + page * PAGE_SIZE, (page % 16) as u8).unwrap();
    g.machine.user_store(g.vmm, g.page(page) + 8, 8, 1000 + page).unwrap();
}

fn is_there(g: &mut Guest, page: u64) {
    assert_eq!(g.ldg(IPA + page * PAGE_SIZE), Ok(page % 16));
    assert_eq!(g.machine.user_load(g.vmm, g.page(page) + 8, 8), Ok(1000 + page));
}

fn silent(g: &mut Guest) {
    assert_eq!(g.machine.check(), Ok(()));
}

#[test]
fn a_page_of_zeros_is_not_written_but_its_tags_are_saved() {
    for (profile, bit) in [("linux-6.1", 0), ("linux-6.12", 1), ("linux-7.3", 1)] {
        let mut g = with(profile, &[], 0);
        g.stg(IPA, 5).unwrap();
        g.machine.evict(g.vmm, g.ram).unwrap();
        write(&mut g, 1);
        let page = g.page(1);
        g.machine.evict(g.vmm, page).unwrap();
        let stats = g.machine.stats();
        assert_eq!(
            (stats.swap_outs, stats.swap_outs_zero, stats.tag_saves),
            (2, bit, 2),
            "{profile}"
        );
        assert_eq!(g.ldg(IPA), Ok(5));
        is_there(&mut g, 1);
        silent(&mut g);
    }
}

#[test]
fn where_nothing_is_written_madv_pageout_frees_the_page_at_once() {
    for (zeromap, resident) in [("written", 1), ("bit", 0)] {
        let config = config(policy("linux-6.12", &[("zeromap", zeromap)]));
        let mut m = Machine::new(&config).unwrap();
        let mm = m.create_process("p");
        let prot = RW | Prot::MTE;
        let a = m.mmap(mm, MapSpec { prot, ..anon(1) }, None).unwrap();
        m.user_stg(mm, a, Tag::new(5)).unwrap();
        m.madvise(mm, a, 1, Advice::Pageout).unwrap();
        assert_eq!(
            m.stats().resident_pages,
            resident,
            "{zeromap}: kept while the disk works"
        );
        assert_eq!(m.user_ldg(mm, a), Ok(Tag::new(5)));
    }
}

#[test]
fn zswap_takes_what_fits_and_writes_the_oldest_back_when_it_is_full() {
    for profile in ["linux-5.14", "linux-6.1", "linux-6.12", "linux-7.3"] {
        let mut g = with(profile, &[], 10);
        for page in 0..20 {
            write(&mut g, page);
            let at = g.page(page);
            g.machine.evict(g.vmm, at).unwrap();
        }
        let stats = g.machine.stats();
        assert!(stats.zswap_pages <= 10 && stats.swap_outs == 20, "{profile}");
        assert!(stats.zswap_writebacks > 0 && stats.swap_outs_zswap > 10, "{stats:?}");
        assert_eq!(stats.saved_tag_pages, 20, "written back or not");
        silent(&mut g);
        for page in 0..20 {
            is_there(&mut g, page);
        }
        silent(&mut g);
        g.machine.swapoff().unwrap();
        assert_eq!(
            (g.machine.stats().zswap_pages, g.machine.stats().saved_tag_pages),
            (0, 0)
        );
    }
}

#[test]
fn written_back_a_page_keeps_the_tags_saved_when_it_was_compressed() {
    for knobs in [&[][..], &[("K2", "erased")]] {
        let mut g = with("linux-6.12", knobs, 4);
        write(&mut g, 3);
        let page = g.page(3);
        g.machine.evict(g.vmm, page).unwrap();
        assert_eq!(g.machine.stats().zswap_pages, 1);
        assert_eq!(g.machine.zswap_shrink(10), 1);
        let stats = g.machine.stats();
        assert_eq!((stats.zswap_pages, stats.zswap_writebacks, stats.tag_saves), (0, 1, 1));
        silent(&mut g);
        is_there(&mut g, 3);
        silent(&mut g);
    }
}

#[test]
fn a_page_in_the_swap_cache_is_not_written_back() {
    let mut g = with("linux-6.1", &[], 4);
    write(&mut g, 3);
    let page = g.page(3);
    g.machine.evict(g.vmm, page).unwrap();
    g.machine.user_load(g.vmm, page, 8).unwrap();
    assert_eq!(g.machine.zswap_shrink(1), 0);
    assert_eq!(g.machine.stats().zswap_pages, 1);
    is_there(&mut g, 3);
}

/// Swapped in by a read and dropped again: is the tag there still, where tags are erased when they are restored (K1)?
fn clean_drop(profile: &str, zswap: u64) -> Guest {
    let mut g = with(profile, &[("K1", "restore")], zswap);
    write(&mut g, 3);
    let page = g.page(3);
    g.machine.evict(g.vmm, page).unwrap();
    g.machine.user_load(g.vmm, page, 8).unwrap();
    g.machine.evict(g.vmm, page).unwrap();
    g.ldg(IPA + 3 * PAGE_SIZE).unwrap();
    g
}

#[test]
fn an_exclusive_load_makes_the_page_dirty_so_that_its_tags_are_saved_again() {
    for (profile, zswap, lost) in [
        ("linux-6.6", 4, true),
        ("linux-6.10", 4, false),
        ("linux-6.10", 0, true),
    ] {
        let g = clean_drop(profile, zswap);
        assert_eq!(g.violates(Property::NoLoss), lost, "{profile}, {zswap} pages");
        assert_eq!(g.machine.stats().tag_saves, if lost { 1 } else { 2 });
    }
}

#[test]
fn large_folios_go_to_zswap_where_it_takes_them() {
    for (profile, taken) in [("linux-6.12", 0), ("linux-6.13", 512)] {
        let config = Config {
            memory: 16 << 20,
            swap: 8 << 20,
            zswap: 4 << 20,
            swap_kind: SwapKind::Nvme,
            ..config(policy(profile, &[]))
        };
        let mut m = Machine::new(&config).unwrap();
        m.set_transparent_hugepage(true, false);
        let mm = m.create_process("p");
        let prot = RW | Prot::MTE;
        let a = m.mmap(mm, MapSpec { prot, ..anon(512) }, None).unwrap();
        m.madvise(mm, a, 512, Advice::Hugepage).unwrap();
        m.user_store(mm, a + 8, 8, 1).unwrap();
        m.user_stg(mm, a + 300 * PAGE_SIZE, Tag::new(9)).unwrap();
        m.memcg_reclaim(1);
        assert_eq!(
            (m.stats().swap_outs, m.stats().swap_outs_zswap),
            (512, taken),
            "{profile}"
        );
        assert_eq!(m.user_ldg(mm, a + 300 * PAGE_SIZE), Ok(Tag::new(9)));
        assert_eq!(m.check(), Ok(()));
    }
}
