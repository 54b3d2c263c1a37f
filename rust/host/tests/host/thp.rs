//! Transparent huge pages: faults, collapse, splits, and what each does to tags.

use crate::common::{IPA, RW, anon, config, guest, policy};
use tagvisor_arch::{PAGE_SIZE, Tag, Va};
use tagvisor_host::{Advice, Config, CopyTags, Errno, Machine, MapSpec, MmId, Prot};

const KERNELS: [&str; 4] = ["linux-5.14", "linux-6.1", "linux-6.12", "linux-7.3"];
const MTE: Prot = RW.union(Prot::MTE);
const HPAGE: u64 = 512;

fn big(kernel: &str, knobs: &[(&str, &str)]) -> Config {
    Config {
        memory: 16 << 20,
        swap: 8 << 20,
        ..config(policy(kernel, knobs))
    }
}

/// A process with a range that a fault fills with a huge page.
fn machine(config: &Config, prot: Prot) -> (Machine, MmId, Va) {
    let mut m = Machine::new(config).unwrap();
    m.set_transparent_hugepage(true, true);
    let mm = m.create_process("p");
    let a = m.mmap(mm, MapSpec { prot, ..anon(HPAGE) }, None).unwrap();
    m.madvise(mm, a, HPAGE, Advice::Hugepage).unwrap();
    (m, mm, a)
}

fn page(a: Va, n: u64) -> Va {
    a + n * PAGE_SIZE
}

fn silent(machine: &mut Machine) {
    assert_eq!(machine.check(), Ok(()));
}

#[test]
fn a_write_maps_512_pages_whose_tags_are_zero_and_all_are_freed_together() {
    for kernel in KERNELS {
        let (mut m, mm, a) = machine(&big(kernel, &[]), MTE);
        let free = m.stats().free_pages;
        m.user_store(mm, page(a, 7), 8, 1).unwrap();
        assert_eq!(m.stats().free_pages, free - HPAGE, "{kernel}");
        assert!(m.pagemap(mm, page(a, 511)).mte_tagged);
        assert_eq!(m.user_ldg(mm, page(a, 511)), Ok(Tag::ZERO));
        m.user_stg(mm, page(a, 511), Tag::new(5)).unwrap();

        m.madvise(mm, a, HPAGE - 1, Advice::Dontneed).unwrap();
        assert_eq!(m.stats().free_pages, free - HPAGE, "one page is still mapped");
        assert_eq!(m.user_ldg(mm, page(a, 511)), Ok(Tag::new(5)));
        silent(&mut m);
        m.munmap(mm, a, HPAGE).unwrap();
        assert_eq!((m.stats().free_pages, m.stats().resident_pages), (free, 0));
        silent(&mut m);
    }
}

#[test]
fn without_advice_or_without_the_whole_range_pages_stay_small() {
    let (mut m, mm, a) = machine(&big("linux-6.12", &[]), RW);
    let b = m.mmap(mm, anon(2 * HPAGE), None).unwrap();
    m.user_store(mm, page(b, HPAGE), 8, 1).unwrap();
    assert_eq!(m.stats().resident_pages, 1);
    m.madvise(mm, a, HPAGE, Advice::Nohugepage).unwrap();
    m.user_store(mm, a, 8, 1).unwrap();
    assert_eq!(m.stats().resident_pages, 2);
}

#[test]
fn collapse_copies_data_and_tags_and_brings_back_what_is_in_swap() {
    for kernel in ["linux-6.1", "linux-6.12", "linux-7.3"] {
        let mut m = Machine::new(&big(kernel, &[])).unwrap();
        let mm = m.create_process("p");
        let a = m
            .mmap(
                mm,
                MapSpec {
                    prot: MTE,
                    ..anon(HPAGE)
                },
                None,
            )
            .unwrap();
        assert_eq!(m.madvise(mm, a, HPAGE, Advice::Collapse), Err(Errno::Einval), "no page");
        assert_eq!(m.madvise(mm, a, 100, Advice::Collapse), Ok(()), "nothing to do");
        let short = m.madvise(mm, page(a, 1), 100, Advice::Collapse);
        assert_eq!(short, Err(Errno::Einval));
        for n in [0, 3, 511] {
            m.user_stg(mm, page(a, n), Tag::new(n as u8 % 7 + 1)).unwrap();
            m.user_store(mm, page(a, n) + 64, 8, n + 1).unwrap();
        }
        m.evict(mm, page(a, 3)).unwrap();

        m.madvise(mm, a, HPAGE, Advice::Collapse).unwrap();

        let first = m.pagemap(mm, a).pfn.unwrap().0;
        assert_eq!(m.pagemap(mm, page(a, 511)).pfn.unwrap().0, first + 511, "{kernel}");
        assert_eq!(m.stats().resident_pages, HPAGE);
        for n in [0, 3, 511] {
            assert_eq!(m.user_ldg(mm, page(a, n)), Ok(Tag::new(n as u8 % 7 + 1)));
            assert_eq!(m.user_load(mm, page(a, n) + 64, 8), Ok(n + 1));
        }
        assert_eq!(m.user_ldg(mm, page(a, 200)), Ok(Tag::ZERO));
        m.madvise(mm, a, HPAGE, Advice::Collapse).unwrap();
        silent(&mut m);
        m.exit(mm);
        assert_eq!((m.stats().resident_pages, m.stats().swap_slots_used), (0, 0));
    }
}

/// A tagged huge page with data in its second page only, of whose third page is paged out.
fn split_by_pageout(kernel: &str, knobs: &[(&str, &str)]) -> (Machine, MmId, Va) {
    let (mut m, mm, a) = machine(&big(kernel, knobs), MTE);
    m.user_store(mm, page(a, 1), 8, 1).unwrap();
    for n in [0, 1, 2, 300] {
        m.user_stg(mm, page(a, n), Tag::new(5)).unwrap();
    }
    m.evict(mm, page(a, 2)).unwrap();
    (m, mm, a)
}

#[test]
fn a_split_keeps_tags_but_where_zero_filled_pages_were_given_up() {
    for (kernel, kept) in [
        ("linux-6.1", true),
        ("linux-6.12.0", false),
        ("linux-6.12", true),
        ("linux-7.3", true),
    ] {
        let (mut m, mm, a) = split_by_pageout(kernel, &[]);
        let five = Ok(Tag::new(5));
        assert_eq!(m.user_ldg(mm, page(a, 1)), five, "{kernel}: its data are not zero");
        let lost = if kept { five } else { Ok(Tag::ZERO) };
        assert_eq!(m.user_ldg(mm, page(a, 300)), lost, "{kernel}");
        assert_eq!(m.user_ldg(mm, page(a, 2)), lost, "{kernel}");
        assert_eq!(m.check().is_ok(), kept, "{kernel}");
    }
}

#[test]
fn a_split_that_forgets_the_flag_of_tails_loses_their_tags_in_swap() {
    let (mut m, mm, a) = split_by_pageout("linux-6.12", &[("split_flags", "lost")]);
    assert_eq!(m.user_ldg(mm, page(a, 2)), Ok(Tag::ZERO));
    assert!(m.violations().iter().any(|v| v.property.id() == "P1"));
}

#[test]
fn pages_given_up_by_a_split_are_free_and_the_rest_is_small() {
    let (mut m, mm, a) = machine(&big("linux-6.12", &[]), RW);
    m.user_store(mm, page(a, 1), 8, 1).unwrap();
    m.migrate_page(mm, page(a, 1)).unwrap();
    assert_eq!(m.stats().resident_pages, 1, "511 untagged pages of zeros");
    m.user_store(mm, page(a, 2), 8, 2).unwrap();
    assert_eq!(m.user_load(mm, page(a, 1), 8), Ok(1));
    silent(&mut m);
}

#[test]
fn memory_failure_splits_and_poisons_one_page() {
    let (mut m, mm, a) = machine(&big("linux-6.1", &[]), MTE);
    m.user_stg(mm, page(a, 4), Tag::new(4)).unwrap();
    m.madvise(mm, page(a, 3), 1, Advice::Hwpoison).unwrap();
    assert!(m.user_load(mm, page(a, 3), 8).is_err());
    assert_eq!(m.user_ldg(mm, page(a, 4)), Ok(Tag::new(4)));
    silent(&mut m);
}

#[test]
fn fork_shares_a_huge_page_and_each_write_copies_one_small_page() {
    let (mut m, mm, a) = machine(&big("linux-6.12", &[]), MTE);
    m.user_stg(mm, page(a, 9), Tag::new(9)).unwrap();
    let child = m.fork(mm, "child");
    m.user_stg(child, page(a, 9), Tag::new(3)).unwrap();
    assert_eq!(m.stats().resident_pages, HPAGE + 1);
    assert_eq!(m.user_ldg(mm, page(a, 9)), Ok(Tag::new(9)));
    m.exit(mm);
    assert_eq!(m.user_ldg(child, page(a, 9)), Ok(Tag::new(3)));
    assert_eq!(m.user_ldg(child, page(a, 8)), Ok(Tag::ZERO));
    silent(&mut m);
}

#[test]
fn the_huge_zero_folios_tags_are_initialised_or_a_stale_tag_is_seen() {
    let cases = [
        ("linux-6.12", &[] as &[(&str, &str)], false, true),
        ("linux-7.3", &[], false, true),
        ("linux-7.3", &[("huge_zero", "special")], false, false),
        ("linux-7.3", &[], true, false),
        ("linux-7.3", &[("K16", "independent")], true, true),
    ];
    for (kernel, knobs, init_on_free, holds) in cases {
        let config = Config {
            init_on_free,
            ..big(kernel, knobs)
        };
        let (mut m, mm, a) = machine(&config, MTE);
        m.user_load(mm, page(a, 5), 8).unwrap();
        m.user_ldg(mm, page(a, 6)).unwrap();
        let leaks = m.violations().iter().any(|v| v.property.id() == "P2");
        assert_eq!(!leaks, holds, "{kernel} {knobs:?} init_on_free={init_on_free}");
        if holds {
            assert_eq!(m.stats().resident_pages, 0);
            m.user_stg(mm, page(a, 6), Tag::new(6)).unwrap();
            assert_eq!(m.user_ldg(mm, page(a, 6)), Ok(Tag::new(6)));
            assert_eq!(m.user_load(mm, page(a, 5), 8), Ok(0));
            silent(&mut m);
        }
    }
}

/// A guest on one huge page; the slot begins there, or one page later.
fn guest_on_huge_page(kernel: &str, knobs: &[(&str, &str)], offset: u64) -> crate::common::Guest {
    let mut g = guest(&big(kernel, knobs), 2 * HPAGE);
    g.machine.set_transparent_hugepage(true, true);
    let before = g.machine.create_process("before");
    let theirs = g
        .machine
        .mmap(
            before,
            MapSpec {
                prot: MTE,
                ..anon(HPAGE)
            },
            None,
        )
        .unwrap();
    g.machine.madvise(before, theirs, HPAGE, Advice::Hugepage).unwrap();
    g.machine.user_stg(before, page(theirs, 2), Tag::new(9)).unwrap();
    g.machine.exit(before);
    let at = Va(g.ram.0.next_multiple_of(HPAGE * PAGE_SIZE));
    g.machine.madvise(g.vmm, at, HPAGE, Advice::Hugepage).unwrap();
    g.machine.user_store(g.vmm, at, 8, 1).unwrap();
    g.ram = at;
    g.slot(2, IPA + (1 << 28), page(at, offset), HPAGE - offset).unwrap();
    g
}

#[test]
fn a_guests_first_touch_sanitises_what_a_block_would_map() {
    for (offset, all) in [(0, true), (1, false)] {
        let mut g = guest_on_huge_page("linux-6.12", &[("kpageflags", "page")], offset);
        let touched = 9;
        g.stg(IPA + (1 << 28) + (touched - offset) * PAGE_SIZE, 5).unwrap();
        assert!(g.machine.pagemap(g.vmm, g.page(touched)).mte_tagged);
        assert_eq!(g.machine.pagemap(g.vmm, g.page(300)).mte_tagged, all);
        silent(&mut g.machine);
    }
}

#[test]
fn kpageflags_of_a_tail_are_the_heads_in_later_kernels() {
    for (kernel, own) in [("linux-6.1", true), ("linux-6.12", false), ("linux-7.3", false)] {
        let mut g = guest_on_huge_page(kernel, &[], 1);
        g.stg(IPA + (1 << 28) + 8 * PAGE_SIZE, 5).unwrap();
        assert_eq!(g.machine.pagemap(g.vmm, g.page(9)).mte_tagged, own, "{kernel}");
    }
}

/// The VMM restores the tags of some pages of guest memory that lies on a huge page; then the memory is short.
fn restored_then_split(tagged: &[u64], knobs: &[(&str, &str)]) -> crate::common::Guest {
    let mut g = guest_on_huge_page("linux-6.12", knobs, 0);
    for n in 0..4 {
        g.machine.user_store(g.vmm, g.page(n), 8, n + 1).unwrap();
    }
    for n in tagged {
        let args = CopyTags {
            ipa: IPA + (1 << 28) + n * PAGE_SIZE,
            length: PAGE_SIZE,
            flags: 0,
            reserved: [0; 2],
        };
        assert_eq!(g.machine.mte_copy_tags(g.vm, args, &mut [7; 256]), Ok(PAGE_SIZE));
    }
    g.machine.evict(g.vmm, g.page(3)).unwrap();
    g
}

#[test]
fn a_split_gives_tails_the_heads_flag_so_tags_of_one_page_are_lost_and_of_others_stale() {
    let mut lost = restored_then_split(&[2], &[]);
    assert_eq!(lost.ldg(IPA + (1 << 28) + 2 * PAGE_SIZE), Ok(0));
    assert_eq!(lost.violated(), ["P1"]);

    let mut stale = restored_then_split(&[0], &[]);
    assert_eq!(
        stale.ldg(IPA + (1 << 28) + 2 * PAGE_SIZE),
        Ok(9),
        "what an earlier owner of the frame left"
    );
    assert!(stale.violated().contains(&"P2"), "{:?}", stale.violated());

    for tagged in [0, 2] {
        let mut own = restored_then_split(&[tagged], &[("split_flags", "own")]);
        let at = IPA + (1 << 28);
        assert_eq!(own.ldg(at + tagged * PAGE_SIZE), Ok(7));
        assert_eq!(own.ldg(at + PAGE_SIZE), Ok(0));
        silent(&mut own.machine);
    }
}
