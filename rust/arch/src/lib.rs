//! What the Arm architecture defines about memory tagging under two-stage translation, as plain functions and values.
//!
//! | module | models |
//! |---|---|
//! | [`addr`] | the address spaces, each its own type, and the page and granule geometry |
//! | [`tag`] | 4-bit tags, the tag arithmetic of `IRG` and `ADDG` |
//! | [`page_tags`] | the packed allocation tags of a page: fill, copy, compare, by granule ranges and blocks |
//! | [`regs`] | the system registers, as far as something here reads a field of them |
//! | [`fault`] | what goes wrong with an access, and its syndrome as ESR, FAR and HPFAR |
//! | [`desc`] | stage-2 descriptors of the 4 KiB granule |
//! | [`walk`] | the stage-2 table walk, all granules |
//! | [`insn`] | the tag instructions and tag-checked loads and stores, over a caller's MMU |
//!
//! Left out: stage-1 tables (stage 1 is the identity map, as with `HCR_EL2.DC` and `DCT` set), hardware update of the
//! access flag and dirty state, `FEAT_S2FWB`, asynchronous and asymmetric tag check faults, and everything a kernel does.
//! The crate knows no Linux.
//!
//! The invariant: every function is a pure function of its arguments. Nothing here owns memory, looks at a clock or
//! draws a random number; `IRG` is as random as `RGSR_EL1` makes it.
//!
//! ```
//! use tagvisor_arch::{Cpu, GcrEl1, RgsrEl1, Tcf, Va, irg};
//!
//! let mut cpu = Cpu {
//!     gcr: GcrEl1::new().with_exclude(0x0001),
//!     rgsr: RgsrEl1::new().with_seed(0xace1),
//!     tco: false,
//!     tcf: Tcf::Sync,
//!     tbi: true,
//!     ata: true,
//!     el: 1,
//! };
//! let pointer = Va(irg(&mut cpu, 0x5000_0000, 0));
//! assert_ne!(pointer.tag().get(), 0, "tag 0 is excluded by GCR_EL1");
//! ```

pub mod addr;
pub mod desc;
pub mod fault;
pub mod insn;
pub mod page_tags;
pub mod regs;
pub mod tag;
pub mod walk;

pub use addr::*;
pub use desc::*;
pub use fault::*;
pub use insn::*;
pub use page_tags::*;
pub use regs::*;
pub use tag::*;
pub use walk::*;
