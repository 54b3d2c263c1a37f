//! What a machine is built from, and what is refused.
//!
//! **Keeps**: a machine that was built is consistent; a value that cannot be is refused with the argument's name.

use tagvisor_arch::PAGE_SIZE;
use thiserror::Error;

use crate::policy::Policy;
use crate::swap::{MAX_SWAPFILES, SwapArea, SwapKind};

/// Sizes and switches of a machine. Sizes are bytes and cost nothing until touched.
#[derive(Clone, Debug)]
pub struct Config {
    /// Host policy.
    pub policy: Policy,
    /// RAM with tag storage, at least 64 KiB.
    pub memory: u64,
    /// `ZONE_DEVICE` memory without tag storage; 0 for none.
    pub zone_device: u64,
    /// Device memory; 0 for none.
    pub mmio: u64,
    /// Swap space.
    pub swap: u64,
    /// Kind of swap device.
    pub swap_kind: SwapKind,
    /// Several swap areas, in the order of `swapon`, in place of the one that `swap` and `swap_kind` tell of.
    pub swap_areas: Vec<SwapArea>,
    /// Size of the zswap pool, counted before compression; 0 for no zswap.
    pub zswap: u64,
    /// Judge every step.
    pub ledger: bool,
    /// Write the steps down in words.
    pub log: bool,
    /// log2 of the entries of each vCPU's TLB; 0 for none.
    pub tlb_bits: u32,
    /// `init_on_free=1` on the kernel's command line: pages are zeroed when they are freed, so not when they are allocated.
    pub init_on_free: bool,
    /// Seed of `RGSR_EL1` of the first vCPU.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policy: Policy::profile("linux-6.12").expect("a built-in profile"),
            memory: 64 << 20,
            zone_device: 0,
            mmio: 0,
            swap: 64 << 20,
            swap_kind: SwapKind::Nvme,
            swap_areas: Vec::new(),
            zswap: 0,
            ledger: true,
            log: true,
            tlb_bits: 0,
            init_on_free: false,
            seed: 1,
        }
    }
}

/// A configuration that cannot be built.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{argument} = {value}: expected {expected}")]
pub struct ConfigError {
    /// Which argument.
    pub argument: &'static str,
    /// Its value.
    pub value: String,
    /// What would be right.
    pub expected: String,
}

/// Largest size of one region: with three of them the machine stays inside 48 bits of physical address.
const MAX_REGION: u64 = 1 << 46;
/// Enough for the zero page, one stage-2 root and a few pages to work with.
const MIN_MEMORY: u64 = 64 << 10;
/// Swap offsets are 32 bits here.
const MAX_SWAP: u64 = (1 << 32) * PAGE_SIZE;
/// 2^24 entries map 64 GiB, past which a larger TLB models nothing.
const MAX_TLB_BITS: u32 = 24;

impl Config {
    /// The swap areas, in the order of `swapon`.
    pub fn areas(&self) -> Vec<SwapArea> {
        if !self.swap_areas.is_empty() {
            return self.swap_areas.clone();
        }
        let (bytes, kind) = (self.swap, self.swap_kind);
        vec![SwapArea {
            bytes,
            kind,
            priority: None,
        }]
    }

    /// Refuses sizes no machine can have.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let sizes = [
            ("memory", self.memory, MIN_MEMORY, MAX_REGION),
            ("zone_device", self.zone_device, 0, MAX_REGION),
            ("mmio", self.mmio, 0, MAX_REGION),
            ("swap", self.swap, 0, MAX_SWAP),
            ("zswap", self.zswap, 0, MAX_REGION),
        ];
        let areas = self
            .swap_areas
            .iter()
            .map(|area| ("swap", area.bytes, PAGE_SIZE, MAX_SWAP));
        for (argument, bytes, min, max) in sizes.into_iter().chain(areas) {
            if bytes % PAGE_SIZE != 0 || !(min..=max).contains(&bytes) {
                let expected = format!("a multiple of {PAGE_SIZE} bytes from {min} to {max}");
                return Err(ConfigError {
                    argument,
                    value: bytes.to_string(),
                    expected,
                });
            }
        }
        if self.swap_areas.len() > MAX_SWAPFILES {
            return Err(ConfigError {
                argument: "swap",
                value: format!("{} areas", self.swap_areas.len()),
                expected: format!("at most {MAX_SWAPFILES}"),
            });
        }
        if let Some(area) = self.swap_areas.iter().find(|area| area.priority.is_some_and(|p| p < 0)) {
            return Err(ConfigError {
                argument: "swap",
                value: format!("a priority of {}", area.priority.unwrap_or_default()),
                expected: "0 to 32767, or none".into(),
            });
        }
        if self.tlb_bits > MAX_TLB_BITS {
            let expected = format!("0 (no TLB) to {MAX_TLB_BITS}");
            return Err(ConfigError {
                argument: "tlb_bits",
                value: self.tlb_bits.to_string(),
                expected,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_sizes_name_the_argument() {
        let odd = Config {
            memory: 4097,
            ..Config::default()
        };
        let huge = Config {
            swap: 1 << 60,
            ..Config::default()
        };
        assert_eq!(odd.validate().unwrap_err().argument, "memory");
        assert_eq!(huge.validate().unwrap_err().argument, "swap");
        assert!(Config::default().validate().is_ok());
    }
}
