//! Step tables: how a kernel path is written down.
//!
//! **Models** a kernel path as a table of named steps over plain-data [`Locals`]. A step is one atomic action of the
//! kernel: it gets the host and its locals and says what comes next ([`Flow`]). A policy that differs in the *order* of
//! steps selects another table of the same steps. The loop that runs tables is in [`crate::task`].
//!
//! **Keeps**: a step that answers [`Flow::Blocked`] has changed nothing, so a scheduler may simply try it again.

use tagvisor_arch::{Ipa, Pfn, Va};

use crate::file::FileId;
use crate::ids::{Actor, MmId, VcpuId, VmId};
use crate::ops::{Op, OpResult};
use crate::state::Host;
use crate::swap::SwpEntry;

/// The integer locals of a path; a callee starts from a copy of its caller's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Locals {
    pub(crate) mm: MmId,
    pub(crate) va: Va,
    /// End of a range of pages (exclusive).
    pub(crate) end: Va,
    pub(crate) vm: VmId,
    pub(crate) vcpu: VcpuId,
    pub(crate) ipa: Ipa,
    pub(crate) pfn: Option<Pfn>,
    /// The page that is copied to `pfn`.
    pub(crate) from: Option<Pfn>,
    /// The other place of a merge of two pages.
    pub(crate) other: (MmId, Va),
    /// Pages that ksmd merged in earlier passes.
    pub(crate) merged: u32,
    /// A page of a file; `file_end` ends a range.
    pub(crate) file: FileId,
    pub(crate) file_page: u64,
    pub(crate) file_end: u64,
    /// `FOLL_FORCE`: protection of the VMA does not count (ptrace).
    pub(crate) force: bool,
    /// Zap leaves private copies of file pages alone (`!even_cows`).
    pub(crate) skip_cows: bool,
    /// Reclaim on behalf of `MADV_PAGEOUT`: an asynchronous device leaves the page in the swap cache.
    pub(crate) pageout: bool,
    pub(crate) entry: Option<SwpEntry>,
    /// `mmu_seq`, as sampled.
    pub(crate) seq: u64,
    pub(crate) write: bool,
    pub(crate) writable: bool,
    /// The PTE that `mte_sync_tags` is called for is not tagged.
    pub(crate) untagged_pte: bool,
    /// The fault was a stage-2 permission fault.
    pub(crate) permission: bool,
    /// That was the permission of a block (`fault_granule`).
    pub(crate) fault_block: bool,
    /// A block is to be mapped (`vma_pagesize`).
    pub(crate) block: bool,
    /// Of a huge page whose flag stands for all, `sanitise_mte_tags` got one page.
    pub(crate) only_page: bool,
    pub(crate) device: bool,
    /// The memslot is read-only (`KVM_MEM_READONLY`).
    pub(crate) readonly: bool,
    /// The memslot logs writes (`KVM_MEM_LOG_DIRTY_PAGES`).
    pub(crate) logging: bool,
    pub(crate) mte_allowed: bool,
    /// The page is to be mapped `NoTagAccess`.
    pub(crate) no_tags: bool,
    pub(crate) shared: bool,
    pub(crate) pfnmap: bool,
    /// Nobody else runs who could bring a page that is missing (userfaultfd).
    pub(crate) alone: bool,
    /// Swap-in bypasses the swap cache (`SWP_SYNCHRONOUS_IO`).
    pub(crate) bypass: bool,
    /// Cursor over a range.
    pub(crate) index: u32,
    /// What the last callee returned.
    pub(crate) ret: i64,
    /// The last callee's second result.
    pub(crate) out: u64,
}

/// What outlives the frames of a task: who acts, on what, and the answer.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Io {
    pub(crate) actor: Actor,
    pub(crate) op: Op,
    pub(crate) result: OpResult,
    /// The page table lock that is held: process and page.
    pub(crate) ptl: Option<(MmId, u64)>,
}

/// Names a path; [`crate::paths::table`] gives its steps under a policy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum PathId {
    Nothing,
    GuestAccess,
    UserAccess,
    EnableCapMte,
    CreateVcpu,
    KvmHandleGuestAbort,
    UserMemAbort,
    GmemAbort,
    SanitiseMteTags,
    GetUserPages,
    HandleMmFault,
    DoAnonymousPage,
    DoFault,
    DoWpPage,
    HugetlbNoPage,
    HugetlbWp,
    DoSwapPage,
    ShmemSwapinFolio,
    ShmemUndoRange,
    CopyHighpage,
    FreePageAndSwapCache,
    DupMm,
    ExitMmap,
    MadviseFree,
    MadvisePageout,
    MadviseWillneed,
    MadviseRemove,
    MadvisePopulate,
    DoHugePmdAnonymousPage,
    WpHugeZeroPmd,
    SplitHugeZeroPagePmd,
    MadviseCollapse,
    SplitHugePage,
    DoMovePages,
    MigratePages,
    SoftOffline,
    MemoryFailure,
    KsmDoScan,
    TryToMergeWithKsmPage,
    WriteProtectPage,
    ReplacePage,
    UnmergeKsmPages,
    AccessRemoteTags,
    MteSyncTags,
    /// `mte_sync_tags` of each page of a huge page.
    MteSyncTagsCompound,
    MteRestoreTags,
    /// `arch_swap_restore` as shmem's swap-in calls it (K11).
    ArchSwapRestore,
    MteSaveTags,
    SwapRangeFree,
    FreeUnrefPage,
    ShrinkFolioList,
    NotifierStart,
    ChangePte,
    NotifierEnd,
    ZapPageRange,
    Munmap,
    MadviseDontneed,
    Mprotect,
    CopyTagsFrom,
    CopyTagsTo,
    Swapoff,
    UffdioCopy,
    ZswapShrink,
    UffdioMove,
    DumpTagRange,
}

/// What a step says comes next.
pub(crate) enum Flow {
    /// The next step of the table; past the last one the path returns 0.
    Next,
    /// The step of that name in this table.
    To(&'static str),
    /// Another path, with these locals; afterwards the next step.
    Call(PathId, Locals),
    /// Another path in place of this one: its value goes to this path's caller.
    Tail(PathId, Locals),
    /// A lock is held or a bit not yet seen; nothing was changed.
    Blocked,
    /// Back to the caller with a value (negative errno on failure).
    Return(i64),
}

/// A step: its name, which counterexamples print, and its action.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&mut Host, &mut Locals, &mut Io) -> Flow,
}

/// A kernel path.
pub(crate) struct Path {
    pub(crate) name: &'static str,
    pub(crate) steps: &'static [Step],
}
