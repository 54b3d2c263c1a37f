//! The kernel paths, each written once as a table of steps.
//!
//! **Keeps**: [`table`] is the one place where a policy selects a table; inside a step a policy is asked at the decision.

mod change_pte;
mod collapse;
mod copy;
mod copy_tags;
mod core_dump;
mod fault;
mod file_fault;
mod fork;
mod free;
mod gmem_abort;
mod guest_access;
mod gup;
mod huge_memory;
mod hugetlb;
mod hwpoison;
mod ksm;
mod ksm_merge;
mod madvise;
mod map_fault;
mod migrate;
mod mprotect;
mod mte;
mod notifier;
mod outline;
mod pageout;
mod pte;
pub(crate) mod ptl;
mod ptrace;
mod reclaim;
mod rmap;
mod shmem_swapin;
mod split;
mod swap_in;
mod swapoff;
mod uffd_move;
mod user_access;
mod user_mem_abort;
mod userfault;
mod vm_setup;
mod watched;
mod willneed;
mod wp;
mod young;
mod zap;
mod zswap;

use tagvisor_arch::{PAGE_SIZE, Va};

use crate::ids::MmId;
use crate::madvise::Advice;
use crate::ops::{MapSpec, Op};
use crate::policy::{
    CapLock, ChangePte, CopyFlag, CopyTagsFlag, FaultSnapshot, HostSync, HugeZeroWrite, MigrateCopy, Policy, RestoreAt,
    RestoreFlagged, Sanitise,
};
use crate::step::{Flow, Locals, Path, PathId, Step};

static NOTHING: Path = Path {
    name: "nothing",
    steps: &[Step {
        name: "return",
        run: |_, _, _| Flow::Return(0),
    }],
};

/// The path's steps under a policy.
pub(crate) fn table(path: PathId, policy: &Policy) -> &'static Path {
    match path {
        PathId::Nothing => &NOTHING,
        PathId::GuestAccess => &guest_access::GUEST_ACCESS,
        PathId::UserAccess => &user_access::USER_ACCESS,
        PathId::EnableCapMte => match policy.cap_lock {
            CapLock::Unlocked => &vm_setup::ENABLE_CAP_UNLOCKED,
            CapLock::KvmLock => &vm_setup::ENABLE_CAP_LOCKED,
        },
        PathId::CreateVcpu => &vm_setup::CREATE_VCPU,
        PathId::KvmHandleGuestAbort => &user_mem_abort::KVM_HANDLE_GUEST_ABORT,
        PathId::UserMemAbort => match policy.fault_snapshot {
            FaultSnapshot::SeqAfterUnlock => &user_mem_abort::SEQ_AFTER_UNLOCK,
            FaultSnapshot::VmaAfterUnlock => &user_mem_abort::VMA_AFTER_UNLOCK,
            FaultSnapshot::UnderMmapLock => &user_mem_abort::UNDER_MMAP_LOCK,
        },
        PathId::GmemAbort => &gmem_abort::GMEM_ABORT,
        PathId::SanitiseMteTags => match policy.sanitise {
            Sanitise::TestAndSet => &mte::SANITISE_TEST_AND_SET,
            Sanitise::GlobalLock => &mte::SANITISE_GLOBAL_LOCK,
            Sanitise::TestClearSet => &mte::SANITISE_TEST_CLEAR_SET,
            Sanitise::Lock => &mte::SANITISE_LOCK,
            Sanitise::LockSkipZero => &mte::SANITISE_LOCK_SKIP_ZERO,
        },
        PathId::GetUserPages => &gup::GET_USER_PAGES,
        PathId::HandleMmFault => &fault::HANDLE_MM_FAULT,
        PathId::DoAnonymousPage => &fault::DO_ANONYMOUS_PAGE,
        PathId::DoFault => &file_fault::DO_FAULT,
        PathId::ShmemSwapinFolio => &shmem_swapin::SHMEM_SWAPIN_FOLIO,
        PathId::ShmemUndoRange => &madvise::SHMEM_UNDO_RANGE,
        PathId::CopyHighpage => match policy.copy_flag {
            CopyFlag::Before => &copy::COPY_FLAG_FIRST,
            CopyFlag::After => &copy::COPY_FLAG_LAST,
            CopyFlag::AfterLock => &copy::COPY_LOCK,
        },
        PathId::FreePageAndSwapCache => &free::FREE_PAGE_AND_SWAP_CACHE,
        PathId::DupMm => &fork::DUP_MM,
        PathId::ExitMmap => &fork::EXIT_MMAP,
        PathId::MadviseFree => &madvise::MADVISE_FREE,
        PathId::MadvisePageout => &madvise::MADVISE_PAGEOUT,
        PathId::MadviseWillneed => &willneed::MADVISE_WILLNEED,
        PathId::MadviseRemove => &madvise::MADVISE_REMOVE,
        PathId::MadvisePopulate => &madvise::MADVISE_POPULATE,
        PathId::DoHugePmdAnonymousPage => &huge_memory::DO_HUGE_PMD_ANONYMOUS_PAGE,
        PathId::SplitHugeZeroPagePmd => &huge_memory::SPLIT_HUGE_ZERO_PAGE_PMD,
        PathId::WpHugeZeroPmd => match policy.huge_zero_write {
            HugeZeroWrite::Split => &huge_memory::SPLIT_HUGE_ZERO_PAGE_PMD,
            HugeZeroWrite::Huge => &huge_memory::DO_HUGE_ZERO_WP_PMD,
        },
        PathId::MadviseCollapse => &collapse::MADVISE_COLLAPSE,
        PathId::SplitHugePage => &split::SPLIT_HUGE_PAGE,
        PathId::DoMovePages => &migrate::DO_MOVE_PAGES,
        PathId::MigratePages => match policy.migrate_copy {
            MigrateCopy::First => &migrate::COPY_THEN_MOVE,
            MigrateCopy::Last => &migrate::MOVE_THEN_COPY,
        },
        PathId::SoftOffline => &migrate::SOFT_OFFLINE,
        PathId::MemoryFailure => &hwpoison::MEMORY_FAILURE,
        PathId::KsmDoScan => &ksm::KSM_DO_SCAN,
        PathId::TryToMergeWithKsmPage => &ksm_merge::TRY_TO_MERGE_WITH_KSM_PAGE,
        PathId::WriteProtectPage => &ksm_merge::WRITE_PROTECT_PAGE,
        PathId::ReplacePage => &ksm_merge::REPLACE_PAGE,
        PathId::UnmergeKsmPages => &ksm::UNMERGE_KSM_PAGES,
        PathId::AccessRemoteTags => &ptrace::ACCESS_REMOTE_TAGS,
        PathId::DoWpPage => &wp::DO_WP_PAGE,
        PathId::HugetlbNoPage => &hugetlb::HUGETLB_NO_PAGE,
        PathId::HugetlbWp => &hugetlb::HUGETLB_WP,
        PathId::DoSwapPage => match policy.restore_at {
            RestoreAt::SetPte => &swap_in::DO_SWAP_PAGE_RESTORE_IN_SET_PTE,
            RestoreAt::AfterFree => &swap_in::DO_SWAP_PAGE_FREE_FIRST,
            RestoreAt::BeforeFree | RestoreAt::BeforeFreeOnly => &swap_in::DO_SWAP_PAGE,
        },
        PathId::MteSyncTagsCompound => &pte::MTE_SYNC_TAGS_COMPOUND,
        PathId::MteSyncTags => match policy.host_sync {
            HostSync::FlagAlways => &mte::SYNC_FLAG_ALWAYS,
            HostSync::FlagFirst | HostSync::RestoreLast => &mte::SYNC_FLAG_FIRST,
            HostSync::GlobalLock => &mte::SYNC_GLOBAL_LOCK,
            HostSync::ClearFirst => &mte::SYNC_CLEAR_FIRST,
            HostSync::ClearFirstAlways => &mte::SYNC_CLEAR_FIRST_ALWAYS,
            HostSync::LockAlways => &mte::SYNC_LOCK_ALWAYS,
            HostSync::Lock => &mte::SYNC_LOCK,
        },
        PathId::MteRestoreTags => match (policy.restore_flagged, policy.host_sync) {
            (RestoreFlagged::Overwrite, _) => &mte::RESTORE_OVERWRITE,
            (_, HostSync::FlagAlways | HostSync::FlagFirst | HostSync::ClearFirst | HostSync::ClearFirstAlways) => {
                &mte::RESTORE_FLAG_FIRST
            }
            (_, HostSync::RestoreLast) => &mte::RESTORE_LAST,
            (_, HostSync::GlobalLock) => &mte::RESTORE_GLOBAL_LOCK,
            (_, HostSync::Lock | HostSync::LockAlways) => &mte::RESTORE_LOCK,
        },
        PathId::ArchSwapRestore => match policy.restore_flagged {
            RestoreFlagged::ShmemOverwrites => &mte::RESTORE_OVERWRITE,
            RestoreFlagged::Never | RestoreFlagged::Overwrite => table(PathId::MteRestoreTags, policy),
        },
        PathId::MteSaveTags => &mte::SAVE,
        PathId::SwapRangeFree => &free::SWAP_RANGE_FREE,
        PathId::FreeUnrefPage => &free::FREE_UNREF_PAGE,
        PathId::ShrinkFolioList => &reclaim::SHRINK_FOLIO_LIST,
        PathId::NotifierStart => &notifier::INVALIDATE_RANGE_START,
        PathId::ChangePte if policy.change_pte == ChangePte::None => &NOTHING,
        PathId::ChangePte => &change_pte::CHANGE_PTE,
        PathId::NotifierEnd => &notifier::INVALIDATE_RANGE_END,
        PathId::ZapPageRange => &zap::ZAP_PAGE_RANGE,
        PathId::Munmap => &zap::MUNMAP,
        PathId::MadviseDontneed => &madvise::MADVISE_DONTNEED,
        PathId::Mprotect => &mprotect::MPROTECT,
        PathId::CopyTagsFrom => &copy_tags::FROM,
        PathId::CopyTagsTo => match policy.copy_tags_flag {
            CopyTagsFlag::NoFlag => &copy_tags::TO_NO_FLAG,
            CopyTagsFlag::AfterCopy => &copy_tags::TO_AFTER_COPY,
            CopyTagsFlag::AfterRelease => &copy_tags::TO_AFTER_RELEASE,
            CopyTagsFlag::LockMixed => &copy_tags::TO_LOCK_MIXED,
            CopyTagsFlag::LockClear => &copy_tags::TO_LOCK_CLEAR,
        },
        PathId::Swapoff => &swapoff::SWAPOFF,
        PathId::UffdioCopy => &userfault::UFFDIO_COPY,
        PathId::UffdioMove => &uffd_move::UFFDIO_MOVE,
        PathId::DumpTagRange => &core_dump::MTE_DUMP_TAG_RANGE,
        PathId::ZswapShrink => &zswap::SHRINK_WORKER,
    }
}

/// The path of an advice; what only sets flags of the VMA has none.
fn madvise_path(advice: Advice) -> PathId {
    match advice {
        Advice::Dontneed => PathId::MadviseDontneed,
        Advice::Free => PathId::MadviseFree,
        Advice::Pageout => PathId::MadvisePageout,
        Advice::Willneed => PathId::MadviseWillneed,
        Advice::Remove => PathId::MadviseRemove,
        Advice::Collapse => PathId::MadviseCollapse,
        Advice::SoftOffline => PathId::SoftOffline,
        Advice::Hwpoison => PathId::MemoryFailure,
        Advice::Unmergeable => PathId::UnmergeKsmPages,
        Advice::PopulateRead | Advice::PopulateWrite => PathId::MadvisePopulate,
        _ => PathId::Nothing,
    }
}

/// The path that carries it out, and its locals.
pub(crate) fn entry(op: &Op) -> (PathId, Locals) {
    let range = |mm: MmId, va: Va, pages: u64| Locals {
        mm,
        va,
        end: va + pages * PAGE_SIZE,
        ..Locals::default()
    };
    match *op {
        Op::Nothing => (PathId::Nothing, Locals::default()),
        Op::Guest(vcpu, _) => (
            PathId::GuestAccess,
            Locals {
                vcpu,
                vm: vcpu.vm,
                ..Locals::default()
            },
        ),
        Op::User(mm, _) => (
            PathId::UserAccess,
            Locals {
                mm,
                ..Locals::default()
            },
        ),
        Op::Evict(mm, va) => (PathId::ShrinkFolioList, range(mm, va.untagged().page(), 1)),
        Op::Shrink(_) => (PathId::ShrinkFolioList, Locals::default()),
        Op::Munmap(mm, va, pages) | Op::Replace(mm, va, MapSpec { pages, .. }) => {
            (PathId::Munmap, range(mm, va, pages))
        }
        Op::Madvise(mm, va, pages, advice) => (madvise_path(advice), range(mm, va, pages)),
        Op::Fork(mm, _) => (PathId::DupMm, range(mm, Va(0), 0)),
        Op::Exit(mm) => (PathId::ExitMmap, range(mm, Va(0), 1 << 36)),
        Op::Truncate(file, file_page, file_end) => {
            let undo = Locals {
                file,
                file_page,
                file_end,
                ..Locals::default()
            };
            (PathId::ShmemUndoRange, undo)
        }
        Op::PeekTags { mm, va, .. } | Op::PokeTags { mm, va, .. } => (PathId::AccessRemoteTags, range(mm, va, 0)),
        Op::Mprotect(mm, va, pages, _) => (PathId::Mprotect, range(mm, va, pages)),
        Op::CopyTagsFrom { vm, ipa, .. } => (
            PathId::CopyTagsFrom,
            Locals {
                vm,
                ipa,
                ..Locals::default()
            },
        ),
        Op::CopyTagsTo { vm, ipa, .. } => (
            PathId::CopyTagsTo,
            Locals {
                vm,
                ipa,
                write: true,
                ..Locals::default()
            },
        ),
        Op::EnableCapMte(vm) | Op::CreateVcpu(vm) => {
            let path = if matches!(op, Op::CreateVcpu(_)) {
                PathId::CreateVcpu
            } else {
                PathId::EnableCapMte
            };
            let l = Locals {
                vm,
                ..Locals::default()
            };
            (path, l)
        }
        Op::Migrate(mm, va) => (PathId::DoMovePages, range(mm, va.untagged().page(), 1)),
        Op::KsmScan => (PathId::KsmDoScan, Locals::default()),
        Op::UffdCopy { mm, va, .. } => (PathId::UffdioCopy, range(mm, va.untagged().page(), 1)),
        Op::DumpTagRange(mm, va, pages) => (PathId::DumpTagRange, range(mm, va, pages)),
        Op::UffdMove { mm, to, from } => (
            PathId::UffdioMove,
            Locals {
                other: (mm, from),
                ..range(mm, to, 1)
            },
        ),
        Op::ZswapShrink(_) => (PathId::ZswapShrink, Locals::default()),
        Op::Swapoff(_) => (PathId::Swapoff, Locals::default()),
    }
}
