//! The kernel paths, each written once as a table of steps.
//!
//! **Keeps**: this is the one place where a policy selects a table; inside a step a policy is asked at the decision.

mod access;
mod copy_tags;
mod fault;
mod mprotect;
mod mte;
mod notifier;
mod reclaim;
mod swap_in;
mod swapoff;
mod user_mem_abort;
mod zap;

use crate::policy::{HostSync, Policy, Sanitise};
use crate::step::{Flow, Path, Step};

/// Names a path; [`PathId::table`] gives its steps under a policy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum PathId {
    Nothing,
    GuestAccess,
    UserAccess,
    KvmHandleGuestAbort,
    UserMemAbort,
    SanitiseMteTags,
    GetUserPages,
    HandleMmFault,
    DoAnonymousPage,
    DoWpPage,
    DoSwapPage,
    MteSyncTags,
    MteRestoreTags,
    MteSaveTags,
    SwapRangeFree,
    FreeUnrefPage,
    ShrinkFolioList,
    NotifierStart,
    NotifierEnd,
    ZapPageRange,
    Munmap,
    MadviseDontneed,
    Mprotect,
    CopyTagsFrom,
    CopyTagsTo,
    Swapoff,
}

static NOTHING: Path = Path {
    name: "nothing",
    steps: &[Step {
        name: "return",
        run: |_, _, _| Flow::Return(0),
    }],
};

impl PathId {
    /// The path's steps under a policy.
    pub(crate) fn table(self, policy: &Policy) -> &'static Path {
        match self {
            Self::Nothing => &NOTHING,
            Self::GuestAccess => &access::GUEST_ACCESS,
            Self::UserAccess => &access::USER_ACCESS,
            Self::KvmHandleGuestAbort => &user_mem_abort::KVM_HANDLE_GUEST_ABORT,
            Self::UserMemAbort => &user_mem_abort::USER_MEM_ABORT,
            Self::SanitiseMteTags => match policy.sanitise {
                Sanitise::TestAndSet => &mte::SANITISE_TEST_AND_SET,
                Sanitise::TestClearSet => &mte::SANITISE_TEST_CLEAR_SET,
                Sanitise::Lock => &mte::SANITISE_LOCK,
            },
            Self::GetUserPages => &fault::GET_USER_PAGES,
            Self::HandleMmFault => &fault::HANDLE_MM_FAULT,
            Self::DoAnonymousPage => &fault::DO_ANONYMOUS_PAGE,
            Self::DoWpPage => &fault::DO_WP_PAGE,
            Self::DoSwapPage => &swap_in::DO_SWAP_PAGE,
            Self::MteSyncTags => match policy.host_sync {
                HostSync::FlagFirst => &mte::SYNC_FLAG_FIRST,
                HostSync::Lock => &mte::SYNC_LOCK,
            },
            Self::MteRestoreTags => match policy.host_sync {
                HostSync::FlagFirst => &mte::RESTORE_FLAG_FIRST,
                HostSync::Lock => &mte::RESTORE_LOCK,
            },
            Self::MteSaveTags => &mte::SAVE,
            Self::SwapRangeFree => &swap_in::SWAP_RANGE_FREE,
            Self::FreeUnrefPage => &swap_in::FREE_UNREF_PAGE,
            Self::ShrinkFolioList => &reclaim::SHRINK_FOLIO_LIST,
            Self::NotifierStart => &notifier::INVALIDATE_RANGE_START,
            Self::NotifierEnd => &notifier::INVALIDATE_RANGE_END,
            Self::ZapPageRange => &zap::ZAP_PAGE_RANGE,
            Self::Munmap => &zap::MUNMAP,
            Self::MadviseDontneed => &zap::MADVISE_DONTNEED,
            Self::Mprotect => &mprotect::MPROTECT,
            Self::CopyTagsFrom => &copy_tags::FROM,
            Self::CopyTagsTo => &copy_tags::TO,
            Self::Swapoff => &swapoff::SWAPOFF,
        }
    }
}
