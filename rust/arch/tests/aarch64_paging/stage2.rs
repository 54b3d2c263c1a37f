//! Stage 2, walked by [`walk_stage2`].

use std::collections::BTreeMap;
use std::ops::Range;

use aarch64_paging::descriptor::{PhysicalAddress, Stage2Attributes};
use aarch64_paging::paging::{Constraints, MemoryRegion, RootTable, Stage2 as Stage2Regime};
use aarch64_paging::target::TargetAllocator;
use proptest::prelude::*;
use tagvisor_arch::{FaultKind, Ipa, MemAttr, PAGE_SIZE, Pa, Stage2, VtcrEl2, VttbrEl2, Walk, WalkFault, walk_stage2};

use crate::{BLOCK_PAGES, Image, TABLES, WINDOW_PAGES, pages, pfn};

/// Tables of one start level, and the pages they should map.
struct Built {
    level: u8,
    root: RootTable<Stage2Regime, TargetAllocator<Stage2Attributes>>,
    pages: BTreeMap<u64, (u64, Stage2Attributes)>,
}

/// A request: to map pages to a frame number, or, without attributes, to unmap them.
#[derive(Clone, Debug)]
struct Request {
    pages: Range<u64>,
    pfn: u64,
    attrs: Option<Stage2Attributes>,
    only_pages: bool,
}

impl Built {
    fn new(level: u8) -> Self {
        let root = RootTable::new(TargetAllocator::new(TABLES), level.into(), Stage2Regime);
        Self {
            level,
            root,
            pages: BTreeMap::new(),
        }
    }

    /// Pages that one table of the start level can map.
    fn size(&self) -> u64 {
        1 << (9 * (4 - u32::from(self.level)))
    }

    fn apply(&mut self, request: &Request) {
        let address = |page: u64| usize::try_from(page * PAGE_SIZE).expect("a 64-bit machine");
        let range = MemoryRegion::new(address(request.pages.start), address(request.pages.end));
        let constraints = if request.only_pages {
            Constraints::NO_BLOCK_MAPPINGS
        } else {
            Constraints::empty()
        };
        let attrs = request.attrs.unwrap_or(Stage2Attributes::empty());
        self.root
            .map_range(&range, PhysicalAddress(address(request.pfn)), attrs, constraints)
            .expect("the range fits");
        for (page, pfn) in request.pages.clone().zip(request.pfn..) {
            match request.attrs {
                Some(attrs) => self.pages.insert(page, (pfn, attrs)),
                None => self.pages.remove(&page),
            };
        }
    }

    /// The registers that make these tables the ones in use.
    fn regime(&self) -> Stage2 {
        let sl0 = [2, 1, 0, 3][usize::from(self.level)];
        let t0sz = 64 - 12 - 9 * (4 - self.level);
        let root = u64::try_from(self.root.to_physical().0).expect("a 64-bit machine");
        Stage2 {
            vtcr: VtcrEl2::new().with_t0sz(t0sz).with_sl0(sl0).with_ps(5),
            vttbr: VttbrEl2::for_table(Pa(root), 1),
        }
    }

    fn image(&self) -> Image {
        Image(self.root.translation().as_bytes())
    }
}

/// Whether the walk is what the attributes of a mapping ask for.
fn check_found(walk: &Walk, page: u64, pfn: u64, attrs: Stage2Attributes) -> Result<(), TestCaseError> {
    let leaf = walk.attrs;
    prop_assert_eq!(walk.pa, Pa(pfn * PAGE_SIZE), "page {:#x}", page);
    prop_assert_eq!(leaf.mem, MemAttr::from_bits((attrs.bits() >> 2) as u8));
    prop_assert_eq!(leaf.read, attrs.contains(Stage2Attributes::S2AP_ACCESS_RO));
    prop_assert_eq!(leaf.write, attrs.contains(Stage2Attributes::S2AP_ACCESS_WO));
    prop_assert_eq!(leaf.exec, !attrs.contains(Stage2Attributes::XN));
    Ok(())
}

fn check(built: &Built, pages: impl Iterator<Item = u64>) -> Result<(), TestCaseError> {
    let (regime, mut image) = (built.regime(), built.image());
    for page in pages {
        let walk = walk_stage2(&mut image, &regime, Ipa(page * PAGE_SIZE));
        match (built.pages.get(&page), walk) {
            (None, Err(WalkFault { kind, .. })) => prop_assert_eq!(kind, FaultKind::Translation),
            (Some(&(_, attrs)), Err(WalkFault { kind, .. })) => {
                prop_assert_eq!(kind, FaultKind::AccessFlag, "page {:#x}", page);
                prop_assert!(!attrs.contains(Stage2Attributes::ACCESS_FLAG));
            }
            (Some(&(pfn, attrs)), Ok(walk)) => {
                prop_assert!(attrs.contains(Stage2Attributes::ACCESS_FLAG));
                check_found(&walk, page, pfn, attrs)?;
            }
            (None, Ok(walk)) => prop_assert!(false, "page {page:#x} is not mapped, found {walk:?}"),
        }
    }
    Ok(())
}

fn attrs() -> impl Strategy<Value = Stage2Attributes> {
    let normal = Stage2Attributes::MEMATTR_NORMAL_OUTER_WB | Stage2Attributes::MEMATTR_NORMAL_INNER_WB;
    let memory = prop_oneof![
        Just(normal),
        Just(Stage2Attributes::MEMATTR_NORMAL_OUTER_NC | Stage2Attributes::MEMATTR_NORMAL_INNER_NC),
        Just(Stage2Attributes::MEMATTR_DEVICE_nGnRE),
        Just(Stage2Attributes::MEMATTR_DEVICE_GRE),
    ];
    let access = prop_oneof![
        Just(Stage2Attributes::S2AP_ACCESS_RW),
        Just(Stage2Attributes::S2AP_ACCESS_RO),
        Just(Stage2Attributes::S2AP_ACCESS_WO),
        Just(Stage2Attributes::S2AP_ACCESS_NONE),
    ];
    let flag = prop_oneof![
        9 => Just(Stage2Attributes::ACCESS_FLAG),
        1 => Just(Stage2Attributes::empty()),
    ];
    (memory, access, flag, any::<bool>()).prop_map(|(memory, access, flag, never)| {
        let never = if never {
            Stage2Attributes::XN
        } else {
            Stage2Attributes::empty()
        };
        Stage2Attributes::VALID | Stage2Attributes::SH_INNER | memory | access | flag | never
    })
}

/// A request inside the window that starts at page `base`: some pages, or whole blocks.
fn request(base: u64) -> impl Strategy<Value = Request> {
    let attrs = prop_oneof![4 => attrs().prop_map(Some), 1 => Just(None)];
    (pages(), pfn(), attrs, any::<bool>()).prop_map(move |(pages, pfn, attrs, only_pages)| Request {
        pages: base + pages.start..base + pages.end,
        pfn,
        attrs,
        only_pages,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_walk_finds_what_was_mapped_and_nothing_else(
        (level, base, requests) in (0..3_u8, any::<bool>()).prop_flat_map(|(level, last)| {
            let base = if last { Built::new(level).size() - WINDOW_PAGES } else { 0 };
            (Just(level), Just(base), prop::collection::vec(request(base), 1..8))
        }),
        elsewhere in prop::collection::vec(any::<u64>(), 32),
    ) {
        let mut built = Built::new(level);
        for request in &requests {
            built.apply(request);
        }
        check(&built, base..base + WINDOW_PAGES)?;
        let size = built.size();
        check(&built, elsewhere.into_iter().map(|page| page % size))?;
    }
}

/// A GiB is one descriptor of level 1, and its neighbours stay unmapped.
#[test]
fn a_gigabyte_is_one_block() {
    const GIB_PAGES: u64 = BLOCK_PAGES * BLOCK_PAGES;
    let mut built = Built::new(1);
    let attrs = Stage2Attributes::VALID | Stage2Attributes::ACCESS_FLAG | Stage2Attributes::S2AP_ACCESS_RW;
    built.apply(&Request {
        pages: 2 * GIB_PAGES..3 * GIB_PAGES,
        pfn: 5 * GIB_PAGES,
        attrs: Some(attrs),
        only_pages: false,
    });
    let (regime, mut image) = (built.regime(), built.image());

    let inside = walk_stage2(&mut image, &regime, Ipa((2 * GIB_PAGES + 77) * PAGE_SIZE + 5)).expect("mapped");

    assert_eq!(
        (inside.pa, inside.size),
        (Pa((5 * GIB_PAGES + 77) * PAGE_SIZE + 5), 1 << 30)
    );
    assert_eq!((inside.levels.len(), inside.leaf_level()), (1, 1));
    for page in [2 * GIB_PAGES - 1, 3 * GIB_PAGES] {
        let outside = walk_stage2(&mut image, &regime, Ipa(page * PAGE_SIZE));
        let fault = outside.expect_err("not mapped");
        assert_eq!((fault.kind, fault.level), (FaultKind::Translation, 1));
    }
}
