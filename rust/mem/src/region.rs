//! The physical address map: which stretches of it are memory, with or without tag storage, or devices.
//!
//! Left out: NUMA, and regions that overlay each other. The invariant of a checked map: regions are page-aligned, not
//! empty, sorted by address, apart from each other and inside the physical address space.

use std::borrow::Cow;

use tagvisor_arch::{PAGE_SIZE, Pa, Pfn};
use thiserror::Error;

/// Bits of a physical address that translation tables of the 4 KiB granule can name.
const PA_BITS: u32 = 48;

/// What a region is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegionKind {
    /// RAM with tag storage.
    Ram,
    /// Memory without tag storage: `ZONE_DEVICE`, persistent memory.
    RamNoTags,
    /// Device registers, modelled as plain words that keep what is written to them.
    Device,
}

/// A stretch of the physical address space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// First address.
    pub base: Pa,
    /// Length in bytes.
    pub size: u64,
    /// What it is made of.
    pub kind: RegionKind,
    /// Present at boot; an offline region is memory that hotplug has not brought up yet.
    pub online: bool,
    /// For reports.
    pub name: Cow<'static, str>,
}

impl Region {
    /// An online region of RAM with tag storage.
    pub fn ram(base: Pa, size: u64, name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            base,
            size,
            kind: RegionKind::Ram,
            online: true,
            name: name.into(),
        }
    }

    /// The address after the last one.
    pub fn end(&self) -> Pa {
        self.base + self.size
    }

    /// Whether the page frame lies in the region.
    pub fn contains(&self, pfn: Pfn) -> bool {
        (self.base..self.end()).contains(&pfn.base())
    }
}

/// What is wrong with a physical address map.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum MemError {
    /// Base or size is not a multiple of the page size.
    #[error("region {name:?} at {base} of {size:#x} bytes is not aligned to {PAGE_SIZE} bytes")]
    Unaligned {
        /// Name of the region.
        name: Cow<'static, str>,
        /// Its base.
        base: Pa,
        /// Its size.
        size: u64,
    },
    /// A region of no bytes.
    #[error("region {name:?} at {base} is empty")]
    Empty {
        /// Name of the region.
        name: Cow<'static, str>,
        /// Its base.
        base: Pa,
    },
    /// Two regions share addresses.
    #[error("region {second:?} starts at {base}, inside region {first:?}")]
    Overlapping {
        /// Name of the region with the lower base.
        first: Cow<'static, str>,
        /// Name of the other.
        second: Cow<'static, str>,
        /// Base of the other.
        base: Pa,
    },
    /// A region reaches above what a translation table can name.
    #[error("region {name:?} at {base} of {size:#x} bytes ends above {PA_BITS} bits of physical address")]
    BeyondPhysicalAddressSpace {
        /// Name of the region.
        name: Cow<'static, str>,
        /// Its base.
        base: Pa,
        /// Its size.
        size: u64,
    },
    /// No region starts at this address.
    #[error("no region starts at {base}")]
    NoRegion {
        /// The address asked for.
        base: Pa,
    },
}

/// Sorts and checks a physical address map.
pub(crate) fn check_map(mut regions: Vec<Region>) -> Result<Vec<Region>, MemError> {
    regions.sort_by_key(|region| region.base);
    for region in &regions {
        let Region { base, size, .. } = *region;
        let name = region.name.clone();
        if size == 0 {
            return Err(MemError::Empty { name, base });
        }
        if !base.0.is_multiple_of(PAGE_SIZE) || !size.is_multiple_of(PAGE_SIZE) {
            return Err(MemError::Unaligned { name, base, size });
        }
        if base.0.checked_add(size).is_none_or(|end| end > 1 << PA_BITS) {
            return Err(MemError::BeyondPhysicalAddressSpace { name, base, size });
        }
    }
    for pair in regions.windows(2) {
        let [first, second] = pair else {
            unreachable!("windows(2) gives pairs")
        };
        if second.base < first.end() {
            return Err(MemError::Overlapping {
                first: first.name.clone(),
                second: second.name.clone(),
                base: second.base,
            });
        }
    }
    Ok(regions)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn map_is_sorted_by_base() {
        let high = Region::ram(Pa(0x8000_0000), MIB, "high");
        let low = Region::ram(Pa(0x4000_0000), MIB, "low");

        let map = check_map(vec![high.clone(), low.clone()]).unwrap();

        assert_eq!(map, [low, high]);
    }

    #[test]
    fn touching_regions_do_not_overlap() {
        let low = Region::ram(Pa(0), MIB, "low");
        let high = Region::ram(Pa(MIB), MIB, "high");

        assert!(check_map(vec![low, high]).is_ok());
    }

    #[test]
    fn overlapping_regions_are_refused_and_named() {
        let low = Region::ram(Pa(0), 2 * MIB, "low");
        let high = Region::ram(Pa(MIB), MIB, "high");

        let error = check_map(vec![high, low]).unwrap_err();

        assert_eq!(
            error.to_string(),
            "region \"high\" starts at 0x0000000000100000, inside region \"low\""
        );
    }

    #[test]
    fn empty_unaligned_and_far_regions_are_refused() {
        let refused = |base, size| check_map(vec![Region::ram(Pa(base), size, "ram")]).unwrap_err();

        assert!(matches!(refused(0, 0), MemError::Empty { .. }));
        assert!(matches!(refused(0x800, MIB), MemError::Unaligned { .. }));
        assert!(matches!(refused(0, MIB + 1), MemError::Unaligned { .. }));
        let beyond = refused(1 << 48, MIB);
        assert!(matches!(beyond, MemError::BeyondPhysicalAddressSpace { .. }));
        let wrapping = refused(0xffff_ffff_ffff_f000, MIB);
        assert!(matches!(wrapping, MemError::BeyondPhysicalAddressSpace { .. }));
    }

    #[test]
    fn region_may_end_with_the_physical_address_space() {
        let last = Region::ram(Pa((1 << 48) - MIB), MIB, "last");

        assert!(last.contains(Pfn((1 << 36) - 1)));
        assert!(check_map(vec![last]).is_ok());
    }
}
