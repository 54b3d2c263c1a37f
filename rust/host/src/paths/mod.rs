//! The kernel paths, each written once as a table of steps.
//!
//! **Keeps**: [`table`] is the one place where a policy selects a table; inside a step a policy is asked at the decision.

mod copy_tags;
mod fault;
mod guest_access;
mod mprotect;
mod mte;
mod notifier;
mod outline;
mod reclaim;
mod swap_in;
mod swapoff;
mod user_access;
mod user_mem_abort;
mod watched;
mod zap;

use tagvisor_arch::{PAGE_SIZE, Va};

use crate::ids::MmId;
use crate::ops::Op;
use crate::policy::{CopyTagsFlag, FaultSnapshot, HostSync, Policy, RestoreFlagged, Sanitise};
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
        PathId::KvmHandleGuestAbort => &user_mem_abort::KVM_HANDLE_GUEST_ABORT,
        PathId::UserMemAbort => match policy.fault_snapshot {
            FaultSnapshot::SeqAfterUnlock => &user_mem_abort::SEQ_AFTER_UNLOCK,
            FaultSnapshot::VmaAfterUnlock => &user_mem_abort::VMA_AFTER_UNLOCK,
            FaultSnapshot::UnderMmapLock => &user_mem_abort::UNDER_MMAP_LOCK,
        },
        PathId::SanitiseMteTags => match policy.sanitise {
            Sanitise::TestAndSet => &mte::SANITISE_TEST_AND_SET,
            Sanitise::GlobalLock => &mte::SANITISE_GLOBAL_LOCK,
            Sanitise::TestClearSet => &mte::SANITISE_TEST_CLEAR_SET,
            Sanitise::Lock => &mte::SANITISE_LOCK,
            Sanitise::LockSkipZero => &mte::SANITISE_LOCK_SKIP_ZERO,
        },
        PathId::GetUserPages => &fault::GET_USER_PAGES,
        PathId::HandleMmFault => &fault::HANDLE_MM_FAULT,
        PathId::DoAnonymousPage => &fault::DO_ANONYMOUS_PAGE,
        PathId::DoWpPage => &fault::DO_WP_PAGE,
        PathId::DoSwapPage => &swap_in::DO_SWAP_PAGE,
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
        PathId::SwapRangeFree => &swap_in::SWAP_RANGE_FREE,
        PathId::FreeUnrefPage => &swap_in::FREE_UNREF_PAGE,
        PathId::ShrinkFolioList => &reclaim::SHRINK_FOLIO_LIST,
        PathId::NotifierStart => &notifier::INVALIDATE_RANGE_START,
        PathId::NotifierEnd => &notifier::INVALIDATE_RANGE_END,
        PathId::ZapPageRange => &zap::ZAP_PAGE_RANGE,
        PathId::Munmap => &zap::MUNMAP,
        PathId::MadviseDontneed => &zap::MADVISE_DONTNEED,
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
        Op::Munmap(mm, va, pages) | Op::Replace(mm, va, pages, ..) => (PathId::Munmap, range(mm, va, pages)),
        Op::DontNeed(mm, va, pages) => (PathId::MadviseDontneed, range(mm, va, pages)),
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
        Op::Swapoff => (PathId::Swapoff, Locals::default()),
    }
}
