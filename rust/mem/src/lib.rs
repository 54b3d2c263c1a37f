//! Tagged physical memory: page frames with data and packed allocation tags, and the TLBs that find them.
//!
//! [`PhysMem`] is the machine's memory. It knows where RAM, memory without tag storage and devices lie, and keeps a
//! frame only for pages somebody wrote to: cost follows what is touched, never what is configured. [`MicroTlb`] caches
//! translations down to the frame's index, so that a hit reaches the tags with one array access. [`Tlb`] behind it knows
//! VMIDs, ASIDs, block sizes and [`Tlbi`].
//!
//! Left out: caches, ordering, and who owns a page; that is the kernel's business, in `tagvisor-host`. The invariant: the
//! same calls give the same bytes, because no hash order reaches an answer.
//!
//! ```
//! use tagvisor_arch::{Pa, Tag};
//! use tagvisor_mem::{PhysMem, Region};
//!
//! let mut memory = PhysMem::new(vec![Region::ram(Pa(0x4000_0000), 64 << 20, "ram")])?;
//! memory.write_u64(Pa(0x4000_1000), 42);
//! memory.set_tag(Pa(0x4000_1000), Tag::new(7));
//! assert_eq!(memory.read_u64(Pa(0x4000_1000)), 42);
//! assert_eq!(memory.tag(Pa(0x4000_1008)), Tag::new(7), "one tag covers 16 bytes");
//! assert_eq!(memory.touched_frames(), 1);
//! # Ok::<(), tagvisor_mem::MemError>(())
//! ```

mod pe;
mod phys;
mod region;
mod tlb;

pub use pe::{Pe, StaleUse, TlbMode, TlbReport};
pub use phys::{FrameContent, PhysMem};
pub use region::{MemError, Region, RegionKind};
pub use tlb::{Context, MicroTlb, MicroTlbEntry, Regime, Tlb, TlbEntry, TlbFlags, Tlbi};
