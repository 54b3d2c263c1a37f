//! Stage 1 of EL1&0, either half, found by [`translate`] with stage 2 off.

use std::collections::BTreeMap;
use std::ops::Range;

use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress};
use aarch64_paging::paging::{Constraints, El1And0, MemoryRegion, RootTable, VaRange};
use aarch64_paging::target::TargetAllocator;
use proptest::prelude::*;
use tagvisor_arch::{
    AccessDesc, AccessKind, Controls, Fault, FaultKind, Features, MemTag, PAGE_SIZE, Pa, SctlrEl1, Stage, SysRegs,
    TcrEl1, Translated, Va, translate,
};

use crate::{BLOCK_PAGES, Image, TABLES, WINDOW_PAGES, pages, pfn};

/// `MAIR_EL1`: Device-nGnRnE, Non-cacheable, Write-Back, Tagged.
const MAIR: u64 = 0xf0ff_4400;

/// A request: to map pages to a frame number, or, without attributes, to unmap them.
#[derive(Clone, Debug)]
struct Request {
    pages: Range<u64>,
    pfn: u64,
    attrs: Option<El1Attributes>,
    only_pages: bool,
}

/// Tables of one half and start level, and the pages they should map, counted from the start of the half.
struct Built {
    upper: bool,
    input_bits: u8,
    root: RootTable<El1And0, TargetAllocator<El1Attributes>>,
    pages: BTreeMap<u64, (u64, El1Attributes)>,
}

impl Built {
    fn new(level: u8, upper: bool) -> Self {
        let half = if upper { VaRange::Upper } else { VaRange::Lower };
        let allocator = TargetAllocator::new(TABLES);
        Self {
            upper,
            input_bits: 12 + 9 * (4 - level),
            root: RootTable::with_va_range(allocator, level.into(), El1And0, half),
            pages: BTreeMap::new(),
        }
    }

    /// Pages of the half.
    fn size(&self) -> u64 {
        1 << (self.input_bits - 12)
    }

    fn va(&self, page: u64) -> u64 {
        let start = if self.upper { u64::MAX << self.input_bits } else { 0 };
        start + page * PAGE_SIZE
    }

    fn apply(&mut self, request: &Request) {
        let address = |value: u64| usize::try_from(value).expect("a 64-bit machine");
        let (start, end) = (self.va(request.pages.start), self.va(request.pages.end));
        let constraints = if request.only_pages {
            Constraints::NO_BLOCK_MAPPINGS
        } else {
            Constraints::empty()
        };
        self.root
            .map_range(
                &MemoryRegion::new(address(start), address(end)),
                PhysicalAddress(address(request.pfn * PAGE_SIZE)),
                request.attrs.unwrap_or(El1Attributes::empty()),
                constraints,
            )
            .expect("the range fits");
        for (page, pfn) in request.pages.clone().zip(request.pfn..) {
            match request.attrs {
                Some(attrs) => self.pages.insert(page, (pfn, attrs)),
                None => self.pages.remove(&page),
            };
        }
    }

    /// The registers that make these tables the ones in use; the other half has none.
    fn controls(&self) -> Controls {
        let root = u64::try_from(self.root.to_physical().0).expect("a 64-bit machine");
        let tsz = 64 - self.input_bits;
        let tcr = TcrEl1::new().with_ips(5).with_tg1(2).with_t0sz(tsz).with_t1sz(tsz);
        let sys = SysRegs {
            sctlr_el1: SctlrEl1::new().with_m(true).with_c(true).with_i(true),
            tcr_el1: tcr.with_epd0(self.upper).with_epd1(!self.upper),
            ttbr0_el1: if self.upper { 0 } else { root },
            ttbr1_el1: if self.upper { root } else { 0 },
            mair_el1: MAIR,
            ..SysRegs::default()
        };
        Controls::new(&sys, Features::empty())
    }

    fn image(&self) -> Image {
        Image(self.root.translation().as_bytes())
    }
}

const READ: (AccessKind, bool) = (AccessKind::Data, false);
const WRITE: (AccessKind, bool) = (AccessKind::Data, true);
const FETCH: (AccessKind, bool) = (AccessKind::Fetch, false);

/// Whether a page of these attributes allows an access: the table of direct permissions in Arm ARM D8.4, spelt out.
fn allows(attrs: El1Attributes, el: u8, (kind, write): (AccessKind, bool)) -> bool {
    let user = attrs.contains(El1Attributes::USER);
    let read_only = attrs.contains(El1Attributes::READ_ONLY);
    match (el, kind, write) {
        (0, AccessKind::Fetch, _) => !attrs.contains(El1Attributes::UXN),
        (_, AccessKind::Fetch, _) => !attrs.contains(El1Attributes::PXN) && (read_only || !user),
        (0, _, false) => user,
        (0, _, true) => user && !read_only,
        (_, _, write) => !(write && read_only),
    }
}

fn check_found(found: &Translated, offset: u64, pfn: u64, attrs: El1Attributes) -> Result<(), TestCaseError> {
    let mair = MAIR >> (8 * (attrs.bits() >> 2 & 7)) & 0xff;
    prop_assert_eq!(found.pa, Pa(pfn * PAGE_SIZE + offset));
    prop_assert_eq!(u64::from(found.attrs.to_mair()), mair);
    prop_assert_eq!(found.attrs.tags == MemTag::Allocation, mair == 0xf0);
    prop_assert_eq!(usize::from(found.attrs.shareability.bits()), attrs.bits() >> 8 & 3);
    prop_assert_eq!(found.not_global, attrs.contains(El1Attributes::NON_GLOBAL));
    Ok(())
}

fn check(built: &Built, pages: impl Iterator<Item = u64>) -> Result<(), TestCaseError> {
    let (controls, mut image) = (built.controls(), built.image());
    let mut access = |page, offset, el, (kind, write): (AccessKind, bool)| -> Result<Translated, Fault> {
        let desc = AccessDesc::new(kind, el, write, 1);
        translate(
            &mut image,
            &controls,
            Va(built.va(page) + offset),
            &desc,
            &mut |_, _| (),
        )
    };
    for page in pages {
        let Some(&(pfn, attrs)) = built.pages.get(&page) else {
            let fault = access(page, 0, 1, READ).expect_err("not mapped");
            prop_assert_eq!((fault.kind, fault.stage), (FaultKind::Translation, Stage::One));
            continue;
        };
        for el in 0..2 {
            for kind in [READ, WRITE, FETCH] {
                let answer = access(page, page % PAGE_SIZE, el, kind);
                let expected = if !attrs.contains(El1Attributes::ACCESSED) {
                    Err(FaultKind::AccessFlag)
                } else if allows(attrs, el, kind) {
                    Ok(())
                } else {
                    Err(FaultKind::Permission)
                };
                let outcome = answer.map(|_| ()).map_err(|fault| fault.kind);
                prop_assert_eq!(outcome, expected, "page {:#x}, EL{}, {:?}, {:?}", page, el, kind, attrs);
                // A fetch makes memory of its own kind of what is Device.
                if let (Ok(found), (AccessKind::Data, _)) = (answer, kind) {
                    check_found(&found, page % PAGE_SIZE, pfn, attrs)?;
                }
            }
        }
    }
    Ok(())
}

fn attrs() -> impl Strategy<Value = El1Attributes> {
    let index = prop::sample::select(vec![
        El1Attributes::ATTRIBUTE_INDEX_0,
        El1Attributes::ATTRIBUTE_INDEX_1,
        El1Attributes::ATTRIBUTE_INDEX_2,
        El1Attributes::ATTRIBUTE_INDEX_3,
    ]);
    let shareability = prop::sample::select(vec![
        El1Attributes::empty(),
        El1Attributes::OUTER_SHAREABLE,
        El1Attributes::INNER_SHAREABLE,
    ]);
    let flags = [
        El1Attributes::USER,
        El1Attributes::READ_ONLY,
        El1Attributes::NON_GLOBAL,
        El1Attributes::PXN,
        El1Attributes::UXN,
    ];
    let accessed = prop_oneof![
        9 => Just(El1Attributes::ACCESSED),
        1 => Just(El1Attributes::empty()),
    ];
    let flags = prop::sample::subsequence(flags.to_vec(), 0..=flags.len());
    (index, shareability, accessed, flags).prop_map(|(index, shareability, accessed, flags)| {
        let flags = flags.into_iter().fold(El1Attributes::empty(), |all, flag| all | flag);
        El1Attributes::VALID | index | shareability | accessed | flags
    })
}

/// A request inside the window that starts at page `base`.
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
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn translation_finds_what_was_mapped_and_nothing_else(
        (level, upper, base, requests) in (0..3_u8, any::<bool>(), any::<bool>()).prop_flat_map(|(level, upper, last)| {
            // The last page of all would make the end of the range wrap.
            let base = if last { Built::new(level, upper).size() - WINDOW_PAGES - BLOCK_PAGES } else { 0 };
            (Just(level), Just(upper), Just(base), prop::collection::vec(request(base), 1..8))
        }),
        elsewhere in prop::collection::vec(any::<u64>(), 32),
    ) {
        let mut built = Built::new(level, upper);
        for request in &requests {
            built.apply(request);
        }
        check(&built, base..base + WINDOW_PAGES)?;
        let size = built.size();
        check(&built, elsewhere.into_iter().map(|page| page % size))?;
    }
}

#[test]
fn the_other_half_is_not_walked() {
    for upper in [false, true] {
        let mut built = Built::new(1, upper);
        built.apply(&Request {
            pages: 0..1,
            pfn: 1 << 28,
            attrs: Some(El1Attributes::VALID | El1Attributes::ACCESSED),
            only_pages: true,
        });
        let (controls, mut image) = (built.controls(), built.image());
        let read = AccessDesc::new(AccessKind::Data, 1, false, 1);
        let mut at = |va| translate(&mut image, &controls, Va(va), &read, &mut |_, _| ()).map(|found| found.pa);

        assert_eq!(at(built.va(0)), Ok(Pa(1 << 40)));
        let other = at(Built::new(1, !upper).va(0)).unwrap_err();
        assert_eq!((other.kind, other.level), (FaultKind::Translation, 0));
    }
}
