//! Read-ahead into the swap cache.

use crate::common::{IPA, RW, anon, config, guest, policy};
use tagvisor_arch::{PAGE_SIZE, Tag};
use tagvisor_host::{Advice, Backing, Config, FileKind, Machine, MapSpec, Prot, SwapKind};

const MTE: Prot = RW.union(Prot::MTE);

fn boot(profile: &str, swap_kind: SwapKind) -> Config {
    Config {
        swap_kind,
        ..config(policy(profile, &[]))
    }
}

#[test]
fn what_is_read_ahead_is_mapped_by_the_fault_and_gets_its_tags_there() {
    for profile in ["linux-5.14", "linux-6.1", "linux-6.12", "linux-7.3"] {
        for kind in [SwapKind::Zram, SwapKind::Nvme] {
            for file in [false, true] {
                let mut m = Machine::new(&boot(profile, kind)).unwrap();
                let mm = m.create_process("p");
                let shmem = m.create_file(FileKind::Shmem, 2);
                let spec = MapSpec {
                    backing: if file { Backing::File(shmem) } else { Backing::Anon },
                    shared: file,
                    prot: MTE,
                    ..anon(2)
                };
                let a = m.mmap(mm, spec, None).unwrap();
                for page in 0..2 {
                    m.user_stg(mm, a + page * PAGE_SIZE, Tag::new(5)).unwrap();
                    m.evict(mm, a + page * PAGE_SIZE).unwrap();
                }
                assert_eq!((m.stats().swap_ins, m.stats().resident_pages), (0, 0));

                m.madvise(mm, a, 2, Advice::Willneed).unwrap();
                m.madvise(mm, a, 2, Advice::Willneed).unwrap();

                assert!(!m.pagemap(mm, a).present);
                assert_eq!((m.stats().swap_ins, m.stats().tag_restores), (2, 0), "{profile}");
                assert_eq!(m.user_ldg(mm, a), Ok(Tag::new(5)));
                assert_eq!((m.stats().swap_ins, m.stats().tag_restores), (2, 1), "{profile} {file}");
                assert_eq!(m.check(), Ok(()));
            }
        }
    }
}

#[test]
fn what_nobody_used_is_dropped_and_its_tags_are_still_saved() {
    let mut g = guest(&boot("linux-6.12", SwapKind::Nvme), 1);
    g.stg(IPA, 5).unwrap();
    g.machine.evict(g.vmm, g.ram).unwrap();
    g.machine.madvise(g.vmm, g.ram, 1, Advice::Willneed).unwrap();
    assert_eq!(g.machine.stats().resident_pages, 1);
    assert_eq!(g.machine.memcg_reclaim(1), 1);
    assert_eq!(
        (g.machine.stats().resident_pages, g.machine.stats().swap_outs),
        (0, 1),
        "clean"
    );
    assert_eq!(g.ldg(IPA), Ok(5));
    assert_eq!(g.machine.check(), Ok(()));
}

#[test]
fn the_swap_cache_keeps_a_slot_that_a_swap_in_would_have_freed_too_early() {
    for (willneed, lost) in [(false, true), (true, false)] {
        let mut g = guest(&boot("linux-6.1.38", SwapKind::Zram), 1);
        g.stg(IPA, 5).unwrap();
        g.machine.evict(g.vmm, g.ram).unwrap();
        if willneed {
            g.machine.madvise(g.vmm, g.ram, 1, Advice::Willneed).unwrap();
        }
        g.ldg(IPA).unwrap();
        assert_eq!(g.violated() == ["P1"], lost, "B12, {willneed}");
    }
}

#[test]
fn without_memory_nothing_is_read_ahead() {
    let mut m = Machine::new(&Config {
        memory: 64 << 10,
        ..boot("linux-6.12", SwapKind::Nvme)
    })
    .unwrap();
    let mm = m.create_process("p");
    let a = m.mmap(mm, anon(64), None).unwrap();
    for page in 0..64 {
        m.user_store(mm, a + page * PAGE_SIZE, 8, page).unwrap();
    }
    m.madvise(mm, a, 64, Advice::Willneed).unwrap();
    for page in 0..64 {
        assert_eq!(m.user_load(mm, a + page * PAGE_SIZE, 8), Ok(page));
    }
    assert_eq!(m.check(), Ok(()));
}
