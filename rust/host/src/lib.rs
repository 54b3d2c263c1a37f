//! The host: what Linux and KVM do with tagged memory behind a guest's back.
//!
//! **Models** one machine's physical pages (`struct page` with `PG_mte_tagged` and `PG_mte_lock`), processes with
//! anonymous, file and device mappings, fork and copy-on-write, reclaim and swap with the saved-tag store of `arch/arm64/mm/mteswap.c`, MMU
//! notifiers, memslots, `KVM_CAP_ARM_MTE`, `user_mem_abort` with real stage-2 descriptors, and the ledger that judges
//! it all.
//!
//! **How.** A kernel path is a table of named steps (`step.rs`); each step is one atomic action of the kernel, named
//! after it. [`Machine`] runs tables to their end; the explorer runs the very same tables one step at a time. Every
//! decision that kernel versions made differently is a value in [`Policy`], asked at the decision.
//!
//! **Leaves out** so far: THP, hugetlb, userfaultfd, several swap devices, block mappings in KVM.
//!
//! **Keeps**: switching the ledger or the log off changes no result but the verdicts; no hash order reaches an output.

mod buddy;
mod checked;
mod config;
mod core_dump;
mod decide;
mod errno;
mod file;
mod hibernate;
mod hits;
mod hugetlb;
mod ids;
mod ioctl;
mod kvm;
mod ledger;
mod log;
mod machine;
mod madvise;
mod memcg;
mod migrate;
mod mm;
mod mteswap;
mod ops;
mod page;
mod part;
mod paths;
mod policy;
mod state;
mod step;
mod swap;
mod swapon;
mod task;
mod thp;
mod verdict;
mod zswap;

pub use checked::Checked;
pub use config::{Config, ConfigError};
pub use core_dump::TagSegment;
pub use decide::Decider;
pub use errno::{Errno, Signal};
pub use file::{FileId, FileKind};
pub use hits::GuestPage;
pub use ids::{Actor, MmId, VcpuId, VmId};
pub use ioctl::{CopyTags, GuestExit, SlotArgs};
pub use kvm::{Memslot, SLOT_DIRTY_LOG, SLOT_GUEST_MEMFD, SLOT_READONLY};
pub use log::StepLine;
pub use machine::{Machine, PagemapEntry};
pub use madvise::Advice;
pub use mm::{Backing, Prot};
pub use ops::{GuestOp, MEMORY_FAULT_TAG_ACCESS, MapSpec, Op, OpResult, UserOp};
pub use part::{Part, PartValue};
pub use policy::{CheckedAt, FaultLock, HostSync, Sanitise, SavedTags, SharedBacking, Untaggable, ZeroPage};
pub use policy::{Knob, KnobError, KnobValue, Policy, Profile, UnknownProfile};
pub use state::{Host, Stats};
pub use swap::{SwapArea, SwapKind, SwapStat, SwpEntry};
pub use task::{Progress, Task};
pub use verdict::{Property, Violation};
