//! Random operations against a model too simple to be wrong: a table of tags and one word of data a granule.
//!
//! Under 6.12's policy nothing the host does may be seen by the guest, with any swap device, with a TLB and without, with
//! memory to spare and without; and the ledger must stay silent.

use proptest::prelude::*;
use tagvisor_arch::{GRANULE_SIZE, PAGE_SIZE, Tag, Va};
use tagvisor_host::{Advice, Checked, Config, CopyTags, Errno, GuestOp, Prot, SwapKind};

use crate::common::{Guest, IPA, RW, config, guest, policy};

const PAGES: u64 = 4;
/// Granules looked at in each page: first, last, and two that share a byte of packed tags.
const GRANULES: [u64; 4] = [0, 6, 7, 255];

#[derive(Clone, Copy, Debug)]
enum Action {
    Stg {
        page: u64,
        granule: usize,
        tag: u8,
    },
    Ldg {
        page: u64,
        granule: usize,
    },
    Store {
        page: u64,
        granule: usize,
        value: u64,
    },
    Load {
        page: u64,
        granule: usize,
    },
    Check {
        page: u64,
        granule: usize,
        tag: u8,
        write: bool,
    },
    HostStore {
        page: u64,
        granule: usize,
        value: u64,
    },
    HostLoad {
        page: u64,
        granule: usize,
    },
    Evict {
        page: u64,
    },
    DontNeed {
        page: u64,
    },
    Migrate {
        page: u64,
    },
    SoftOffline {
        page: u64,
    },
    /// Equal pages of the guest's memory are merged.
    Merge,
    Unmerge {
        page: u64,
    },
    ProtMte {
        page: u64,
        on: bool,
    },
    CopyTo {
        page: u64,
        tag: u8,
    },
    CopyFrom {
        page: u64,
    },
}

fn action() -> impl Strategy<Value = Action> {
    let page = || 0..PAGES;
    let granule = || 0..GRANULES.len();
    prop_oneof![
        3 => (page(), granule(), 0..16_u8).prop_map(|(page, granule, tag)| Action::Stg { page, granule, tag }),
        3 => (page(), granule()).prop_map(|(page, granule)| Action::Ldg { page, granule }),
        2 => (page(), granule(), any::<u64>()).prop_map(|(page, granule, value)| Action::Store { page, granule, value }),
        2 => (page(), granule()).prop_map(|(page, granule)| Action::Load { page, granule }),
        2 => (page(), granule(), 0..16_u8, any::<bool>())
            .prop_map(|(page, granule, tag, write)| Action::Check { page, granule, tag, write }),
        1 => (page(), granule(), any::<u64>()).prop_map(|(page, granule, value)| Action::HostStore { page, granule, value }),
        1 => (page(), granule()).prop_map(|(page, granule)| Action::HostLoad { page, granule }),
        4 => page().prop_map(|page| Action::Evict { page }),
        1 => page().prop_map(|page| Action::DontNeed { page }),
        2 => page().prop_map(|page| Action::Migrate { page }),
        1 => page().prop_map(|page| Action::SoftOffline { page }),
        1 => Just(Action::Merge),
        1 => page().prop_map(|page| Action::Unmerge { page }),
        1 => (page(), any::<bool>()).prop_map(|(page, on)| Action::ProtMte { page, on }),
        1 => (page(), 0..16_u8).prop_map(|(page, tag)| Action::CopyTo { page, tag }),
        1 => page().prop_map(|page| Action::CopyFrom { page }),
    ]
}

/// What the guest's memory is, by the rules it was promised.
#[derive(Clone, Copy, Default)]
struct Model {
    tags: [[u8; GRANULES.len()]; PAGES as usize],
    data: [[u64; GRANULES.len()]; PAGES as usize],
}

fn offset(page: u64, granule: usize) -> u64 {
    page * PAGE_SIZE + GRANULES[granule] * GRANULE_SIZE
}

/// Does the action and says what it saw, or `None` where there is nothing to see.
fn act(g: &mut Guest, action: Action) -> Option<u64> {
    // The guest's pointers carry tag 0 unless the action says otherwise, with checks overridden where data is meant.
    let ptr = |page, granule| Va(IPA + offset(page, granule));
    match action {
        Action::Stg { page, granule, tag } => {
            g.machine
                .guest(
                    g.cpu,
                    GuestOp::Stg {
                        ptr: ptr(page, granule),
                        tag: Tag::new(tag),
                    },
                )
                .unwrap();
            None
        }
        Action::Ldg { page, granule } => Some(
            g.machine
                .guest(
                    g.cpu,
                    GuestOp::Ldg {
                        ptr: ptr(page, granule),
                    },
                )
                .unwrap(),
        ),
        Action::Store { page, granule, value } => {
            g.machine.set_tco(g.cpu, true);
            g.machine
                .guest(
                    g.cpu,
                    GuestOp::Store {
                        ptr: ptr(page, granule),
                        size: 8,
                        value,
                    },
                )
                .unwrap();
            g.machine.set_tco(g.cpu, false);
            None
        }
        Action::Load { page, granule } => {
            g.machine.set_tco(g.cpu, true);
            let value = g
                .machine
                .guest(
                    g.cpu,
                    GuestOp::Load {
                        ptr: ptr(page, granule),
                        size: 8,
                    },
                )
                .unwrap();
            g.machine.set_tco(g.cpu, false);
            Some(value)
        }
        Action::Check {
            page,
            granule,
            tag,
            write,
        } => {
            let ptr = ptr(page, granule).with_tag(Tag::new(tag)).0;
            Some(u64::from(g.machine.guest_check(g.cpu, ptr, 8, write) == Checked::Ok))
        }
        Action::HostStore { page, granule, value } => {
            let tag = g.machine.user_ldg(g.vmm, g.ram + offset(page, granule)).unwrap();
            let ptr = (g.ram + offset(page, granule)).with_tag(tag);
            g.machine.user_store(g.vmm, ptr, 8, value).unwrap();
            None
        }
        Action::HostLoad { page, granule } => {
            let tag = g.machine.user_ldg(g.vmm, g.ram + offset(page, granule)).unwrap();
            Some(
                g.machine
                    .user_load(g.vmm, (g.ram + offset(page, granule)).with_tag(tag), 8)
                    .unwrap(),
            )
        }
        Action::Evict { page } => {
            g.machine.evict(g.vmm, g.page(page)).unwrap();
            None
        }
        Action::DontNeed { page } => {
            g.machine.madvise(g.vmm, g.page(page), 1, Advice::Dontneed).unwrap();
            None
        }
        Action::Migrate { page } => {
            let present = g.machine.pagemap(g.vmm, g.page(page)).present;
            let moved = g.machine.migrate_page(g.vmm, g.page(page));
            assert!(moved.is_ok() || !present || moved == Err(Errno::Efault), "{moved:?}");
            None
        }
        Action::SoftOffline { page } => {
            let done = g.machine.madvise(g.vmm, g.page(page), 1, Advice::SoftOffline);
            assert!(matches!(done, Ok(()) | Err(Errno::Eio)), "{done:?}");
            None
        }
        Action::Merge => {
            g.machine.madvise(g.vmm, g.ram, PAGES, Advice::Mergeable).unwrap();
            g.machine.ksm_run();
            None
        }
        Action::Unmerge { page } => {
            g.machine.madvise(g.vmm, g.page(page), 1, Advice::Unmergeable).unwrap();
            None
        }
        Action::ProtMte { page, on } => {
            let prot = if on { RW | Prot::MTE } else { RW };
            g.machine.mprotect(g.vmm, g.page(page), 1, prot).unwrap();
            None
        }
        Action::CopyTo { page, tag } => {
            let args = CopyTags {
                ipa: IPA + page * PAGE_SIZE,
                length: PAGE_SIZE,
                flags: 0,
                reserved: [0; 2],
            };
            assert_eq!(g.machine.mte_copy_tags(g.vm, args, &mut [tag; 256]), Ok(PAGE_SIZE));
            None
        }
        Action::CopyFrom { page } => {
            let args = CopyTags {
                ipa: IPA + page * PAGE_SIZE,
                length: PAGE_SIZE,
                flags: 1,
                reserved: [0; 2],
            };
            let mut tags = [0; 256];
            assert_eq!(g.machine.mte_copy_tags(g.vm, args, &mut tags), Ok(PAGE_SIZE));
            Some(
                GRANULES
                    .iter()
                    .fold(0, |all, granule| all << 4 | u64::from(tags[*granule as usize])),
            )
        }
    }
}

/// The same on the model.
fn expect(m: &mut Model, action: Action) -> Option<u64> {
    match action {
        Action::Stg { page, granule, tag } => m.tags[page as usize][granule] = tag,
        Action::Ldg { page, granule } => return Some(m.tags[page as usize][granule].into()),
        Action::Store { page, granule, value } | Action::HostStore { page, granule, value } => {
            m.data[page as usize][granule] = value;
        }
        Action::Load { page, granule } | Action::HostLoad { page, granule } => {
            return Some(m.data[page as usize][granule]);
        }
        Action::Check { page, granule, tag, .. } => return Some(u64::from(m.tags[page as usize][granule] == tag)),
        Action::Evict { .. }
        | Action::ProtMte { .. }
        | Action::Migrate { .. }
        | Action::SoftOffline { .. }
        | Action::Merge
        | Action::Unmerge { .. } => {}
        Action::DontNeed { page } => {
            m.tags[page as usize] = Default::default();
            m.data[page as usize] = Default::default();
        }
        Action::CopyTo { page, tag } => m.tags[page as usize] = [tag; GRANULES.len()],
        Action::CopyFrom { page } => {
            return Some(
                m.tags[page as usize]
                    .iter()
                    .fold(0, |all, tag| all << 4 | u64::from(*tag)),
            );
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_the_host_does_the_guest_sees_its_own_memory(
        actions in proptest::collection::vec(action(), 1..120),
        zram in any::<bool>(),
        tlb_bits in 0..3_u32,
        limit in prop_oneof![Just(u64::MAX), Just(2), Just(3)],
    ) {
        let swap_kind = if zram { SwapKind::Zram } else { SwapKind::Nvme };
        let mut g = guest(&Config { swap_kind, tlb_bits, ..config(policy("linux-6.12", &[])) }, PAGES);
        g.machine.set_memory_limit(limit);
        let mut model = Model::default();
        for (n, action) in actions.iter().enumerate() {
            prop_assert_eq!(act(&mut g, *action), expect(&mut model, *action), "action {}: {:?}", n, action);
        }
        prop_assert_eq!(g.machine.check(), Ok(()));
    }
}
