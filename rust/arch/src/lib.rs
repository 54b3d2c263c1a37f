//! What the Arm architecture defines about memory tagging under two-stage translation, as plain functions and values.
//!
//! | module | models |
//! |---|---|
//! | [`addr`] | the address spaces, each its own type, and the page and granule geometry |
//! | [`tag`] | 4-bit tags, the tag arithmetic of `IRG` and `ADDG` |
//! | [`page_tags`] | the packed allocation tags of a page: fill, copy, compare, by granule ranges and blocks |
//! | [`features`] | the optional parts of `FEAT_MTE4` and `FEAT_MTE_PERM`, and the ID registers |
//! | [`regs`] | the system registers, as far as something here reads a field of them |
//! | [`access`] | one access as translation and syndrome see it, and what a mapping grants |
//! | [`fault`], [`exception`] | what goes wrong with an instruction, and its syndrome as ESR, FAR and HPFAR |
//! | [`attr`] | memory types of both stages and their combination |
//! | [`desc`] | stage-2 descriptors of the 4 KiB granule, as a hypervisor writes them |
//! | [`walk`](mod@walk) | the table walk of either stage, all granules |
//! | [`translate`](mod@translate) | both stages with permissions, memory types and hardware updates; `AT` |
//! | [`insn`] | the tag instructions and tag-checked loads, stores and atomics, over a caller's MMU |
//! | [`exec`](mod@exec) | their encodings, and the registers they work on |
//!
//! Left out: EL3, `HCR_EL2.E2H` and TGE, `AArch32`, Secure and Realm state, and everything a kernel does. The crate knows no
//! Linux.
//!
//! The invariant: every function is a pure function of its arguments. Nothing here owns memory, looks at a clock or
//! draws a random number; `IRG` is as random as `RGSR_EL1` makes it.
//!
//! ```
//! use tagvisor_arch::{Cpu, GcrEl1, RgsrEl1, Va, irg};
//!
//! let mut cpu = Cpu {
//!     gcr: GcrEl1::new().with_exclude(0x0001),
//!     rgsr: RgsrEl1::new().with_seed(0xace1),
//!     ..Cpu::with_sync_checks(1, true)
//! };
//! let pointer = Va(irg(&mut cpu, 0x5000_0000, 0));
//! assert_ne!(pointer.tag().get(), 0, "tag 0 is excluded by GCR_EL1");
//! ```

pub mod access;
pub mod addr;
pub mod attr;
pub mod desc;
pub mod exception;
pub mod exec;
pub mod fault;
pub mod features;
pub mod insn;
pub mod page_tags;
pub mod regs;
pub mod tag;
pub mod translate;
pub mod walk;

pub use access::*;
pub use addr::*;
pub use attr::*;
pub use desc::*;
pub use exception::*;
pub use exec::*;
pub use fault::*;
pub use features::*;
pub use insn::*;
pub use page_tags::*;
pub use regs::*;
pub use tag::*;
pub use translate::*;
pub use walk::*;
