//! Stage-2 tables that the public `aarch64-paging` crate built, walked by [`walk_stage2`].
//!
//! The crate lays out tables with the 4 KiB granule for a machine of its own; it knows nothing of this one, so the two
//! agree only if both read the architecture alike. Models random mappings, remappings and unmappings of pages and
//! blocks from each start level. Left out: what the crate cannot build, which is concatenated start tables, level -1, other
//! granules, and stage 1.
//!
//! The invariant: what was mapped is found, with its address, size, type and permissions, and nothing else is.

use std::collections::BTreeMap;
use std::ops::Range;

use aarch64_paging::descriptor::{PhysicalAddress, Stage2Attributes};
use aarch64_paging::paging::{Constraints, MemoryRegion, RootTable, Stage2 as Stage2Regime};
use aarch64_paging::target::TargetAllocator;
use proptest::prelude::*;
use tagvisor_arch::{
    DescriptorSource, FaultKind, Ipa, MemAttr, PAGE_SIZE, Pa, Stage2, VtcrEl2, VttbrEl2, Walk, WalkFault, walk_stage2,
};

const TABLES: u64 = 0x4800_0000;
const BLOCK_PAGES: u64 = 512;
/// Pages from the start of each window that are looked at, one by one.
const WINDOW_PAGES: u64 = 4 * BLOCK_PAGES;

/// The tables as bytes in memory; there is nothing around them.
struct Image(Vec<u8>);

impl DescriptorSource for Image {
    fn read_descriptor(&mut self, pa: Pa) -> Option<u64> {
        let start = usize::try_from(pa.0.checked_sub(TABLES)?).ok()?;
        let bytes = self.0.get(start..start + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    fn write_descriptor(&mut self, pa: Pa, _: u64) {
        unreachable!("a walk for a hypervisor updates no descriptor, such as that at {pa}");
    }
}

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
    let some = (0..WINDOW_PAGES - 64, 1..64_u64).prop_map(|(at, len)| at..at + len);
    let blocks = (0..4_u64, 1..=4_u64).prop_map(|(at, len)| at * BLOCK_PAGES..(at + len).min(4) * BLOCK_PAGES);
    let pages = prop_oneof![some, blocks];
    // Frames of 1 TiB and above: the crate subtracts offsets in blocks of up to 512 GiB from them.
    let block = (0x8_0000..0x10_0000_u64).prop_map(|block| block * BLOCK_PAGES);
    let pfn = prop_oneof![(1_u64 << 28..1 << 30), block];
    let attrs = prop_oneof![4 => attrs().prop_map(Some), 1 => Just(None)];
    (pages, pfn, attrs, any::<bool>()).prop_map(move |(pages, pfn, attrs, only_pages)| Request {
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
