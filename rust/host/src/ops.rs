//! Operations: what an actor can be asked to do, and what it answers.
//!
//! **Models** the user of the machine: a guest's instruction, a process' access or system call, a reclaim of one page.
//! Each is carried out by one task; the explorer interleaves the steps of several.

use tagvisor_arch::{Fault, Ipa, Pfn, Tag, Va};

use crate::errno::{Errno, Signal};
use crate::file::FileId;
use crate::ids::{Actor, MmId, VcpuId, VmId};
use crate::madvise::Advice;
use crate::mm::{Backing, Prot};

/// A guest instruction at EL1. Pointers carry their logical tag in bits 59:56.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)] // the operands are those of the instruction
pub enum GuestOp {
    Ldg {
        ptr: Va,
    },
    Stg {
        ptr: Va,
        tag: Tag,
    },
    St2g {
        ptr: Va,
        tag: Tag,
    },
    Stzg {
        ptr: Va,
        tag: Tag,
    },
    Load {
        ptr: Va,
        size: u8,
    },
    Store {
        ptr: Va,
        size: u8,
        value: u64,
    },
    Ldgm {
        ptr: Va,
    },
    Stgm {
        ptr: Va,
        bits: u64,
    },
    DcGva {
        ptr: Va,
        tag: Tag,
    },
    DcGzva {
        ptr: Va,
        tag: Tag,
    },
    DcZva {
        ptr: Va,
    },
    Irg {
        xn: u64,
        xm: u64,
    },
    Addg {
        xn: u64,
        imm: u64,
        tag_imm: u8,
    },
    Subg {
        xn: u64,
        imm: u64,
        tag_imm: u8,
    },
    Gmi {
        xn: u64,
        mask: u64,
    },
    Subp {
        xn: u64,
        xm: u64,
    },
    /// Translation and tag check of an access, without moving data (replay).
    Probe {
        ptr: Va,
        size: u8,
        write: bool,
    },
}

/// A process' own access at EL0, with synchronous tag checks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum UserOp {
    Load { ptr: Va, size: u8 },
    Store { ptr: Va, size: u8, value: u64 },
    Ldg { ptr: Va },
    Stg { ptr: Va, tag: Tag },
}

/// A new mapping: what `mmap` is asked for, but where.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct MapSpec {
    /// Length in pages.
    pub pages: u64,
    /// What stands behind it.
    pub backing: Backing,
    /// First page of the file; 0 without one.
    pub pgoff: u64,
    /// Protection.
    pub prot: Prot,
    /// `MAP_SHARED`?
    pub shared: bool,
}

/// Something an actor does, from start to answer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// Nothing (an idle task).
    Nothing,
    /// A vCPU executes one instruction, taking stage-2 faults until it completes.
    Guest(VcpuId, GuestOp),
    /// `KVM_ENABLE_CAP(KVM_CAP_ARM_MTE)`.
    EnableCapMte(VmId),
    /// `KVM_CREATE_VCPU`.
    CreateVcpu(VmId),
    /// A process accesses its memory.
    User(MmId, UserOp),
    /// Reclaim of the page at an address: swap out and drop from the swap cache.
    Evict(MmId, Va),
    /// `munmap`.
    Munmap(MmId, Va, u64),
    /// `mmap(MAP_FIXED)` over what is there.
    Replace(MmId, Va, MapSpec),
    /// `madvise`, for the advices that are a path of their own.
    Madvise(MmId, Va, u64, Advice),
    /// `fork`: the second process becomes the child of the first.
    Fork(MmId, MmId),
    /// A process ends.
    Exit(MmId),
    /// Pages of a file from the second number on, up to the third, are given back: `ftruncate`.
    Truncate(FileId, u64, u64),
    /// Reclaim of a page: swap out and drop from the swap cache.
    Shrink(Pfn),
    /// `move_pages`, or compaction: the page at an address moves to another frame.
    Migrate(MmId, Va),
    /// `ksmd` scans until nothing is left to merge.
    KsmScan,
    /// `PTRACE_PEEKMTETAGS`: tags of so many granules.
    PeekTags {
        /// The process that is looked at.
        mm: MmId,
        /// Where, granule aligned.
        va: Va,
        /// How many.
        count: u32,
    },
    /// `PTRACE_POKEMTETAGS`.
    PokeTags {
        /// The process that is changed.
        mm: MmId,
        /// Where, granule aligned.
        va: Va,
        /// One tag a byte.
        tags: Vec<u8>,
    },
    /// `mprotect`.
    Mprotect(MmId, Va, u64, Prot),
    /// `KVM_ARM_MTE_COPY_TAGS` from the guest: reads tags of whole pages.
    CopyTagsFrom {
        /// The VM.
        vm: VmId,
        /// Page-aligned guest address.
        ipa: Ipa,
        /// Number of pages.
        pages: u32,
        /// How many tags the user buffer holds before it ends.
        room: u32,
    },
    /// `KVM_ARM_MTE_COPY_TAGS` to the guest: writes tags of whole pages.
    CopyTagsTo {
        /// The VM.
        vm: VmId,
        /// Page-aligned guest address.
        ipa: Ipa,
        /// Number of pages.
        pages: u32,
        /// One tag a byte; shorter than 256 a page when the user buffer ends early.
        tags: Vec<u8>,
    },
    /// `swapoff` of a device.
    Swapoff(u8),
    /// The tags of a range of pages are written to a core dump.
    DumpTagRange(MmId, Va, u64),
    /// `UFFDIO_MOVE` of a page.
    UffdMove {
        /// The process.
        mm: MmId,
        /// Where the page is missing.
        to: Va,
        /// Where it is.
        from: Va,
    },
    /// zswap writes so many of its oldest pages back.
    ZswapShrink(u64),
    /// `UFFDIO_COPY` of a page.
    UffdCopy {
        /// The process it is for.
        mm: MmId,
        /// The page.
        va: Va,
        /// Its data; what it lacks is zero.
        data: Vec<u8>,
    },
}

/// `KVM_MEMORY_EXIT_FLAG_TAGACCESS`, as proposed: the guest wanted tags of memory that has none.
pub const MEMORY_FAULT_TAG_ACCESS: u64 = 1 << 4;

/// The answer to an [`Op`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum OpResult {
    /// Not finished.
    None,
    /// A value: a register, a byte count, 0.
    Value(u64),
    /// The system call failed, or `KVM_RUN` did.
    Errno(Errno),
    /// A process got a signal.
    Signal(Signal),
    /// The guest took an exception to EL1.
    Exception(Fault),
    /// `KVM_EXIT_MMIO`.
    Mmio {
        /// A store?
        write: bool,
        /// Where.
        ipa: Ipa,
        /// Bytes.
        len: u8,
        /// What was stored.
        value: u64,
    },
    /// `KVM_RUN` failed, with `KVM_EXIT_MEMORY_FAULT`.
    MemoryFault {
        /// Its error.
        errno: Errno,
        /// 0, or [`MEMORY_FAULT_TAG_ACCESS`].
        flags: u64,
        /// First address of what could not be mapped.
        gpa: Ipa,
        /// Bytes; 0 where it was not known yet.
        size: u64,
    },
    /// Tags read, one a byte; `covered` bytes of guest memory.
    Tags {
        /// The tags.
        tags: Vec<u8>,
        /// Bytes of guest memory they cover.
        covered: u64,
    },
}

impl OpResult {
    pub(crate) fn from_ret(ret: i64) -> Self {
        Errno::from_ret(ret).map_or_else(|| Self::Value(ret.unsigned_abs()), Self::Errno)
    }
}

impl GuestOp {
    /// Has the instruction a syndrome that KVM can emulate as MMIO (`ESR_EL2.ISV`)? Then: size and stored value.
    pub(crate) fn as_mmio(self) -> Option<(u8, Option<u64>)> {
        match self {
            Self::Load { size, .. } => Some((size, None)),
            Self::Store { size, value, .. } => Some((size, Some(value))),
            _ => None,
        }
    }
}

impl Op {
    /// Who does it.
    pub fn actor(&self) -> Actor {
        match *self {
            Self::Guest(vcpu, _) => Actor::Vcpu(vcpu),
            Self::User(mm, _)
            | Self::Munmap(mm, ..)
            | Self::Replace(mm, ..)
            | Self::Madvise(mm, ..)
            | Self::Fork(mm, _)
            | Self::Exit(mm)
            | Self::UffdCopy { mm, .. }
            | Self::UffdMove { mm, .. }
            | Self::Mprotect(mm, ..) => Actor::Process(mm),
            Self::CopyTagsFrom { vm, .. }
            | Self::CopyTagsTo { vm, .. }
            | Self::EnableCapMte(vm)
            | Self::CreateVcpu(vm) => Actor::Vmm(vm),
            Self::Swapoff(_) | Self::Migrate(..) | Self::Nothing | Self::Truncate(..) => Actor::Admin,
            Self::PeekTags { .. } | Self::PokeTags { .. } | Self::DumpTagRange(..) => Actor::Debugger,
            Self::Evict(..) | Self::Shrink(_) | Self::ZswapShrink(_) => Actor::Reclaim,
            Self::KsmScan => Actor::Ksmd,
        }
    }
}
