//! The profiles: which value each kernel took, told as what it changed.
//!
//! **Models** the columns of the policy matrix: the patch series, every release that decided something anew, and the
//! point releases of stable branches where a fix landed. A profile names its predecessor and what differs from it.
//!
//! **Keeps**: `linux-X.Y` of a longterm branch is that branch with its stable fixes; its first release is
//! `linux-X.Y.0` (or `linux-6.6.0`, ...), from which the next version goes on.

use super::knobs::{
    AsyncReport, CapArmMte, CapLock, ChangePte, CheckedAt, CopyFlag, CopyTagsFlag, CopyTagsLength, CopyTagsLogging,
    CopyTagsOffline, CopyTagsUnflagged, CopyToFlagged, CoreDumpTags, EagerSplit, FaultLock, FaultSnapshot, GuestMemfd,
    HostSync, HugeZero, HugeZeroWrite, HugetlbMte, HwpoisonSignal, Kpageflags, KsmMergeTagged, MemoryFaultExit,
    MigrateCopy, MteOffTrap, PageoutReferences, PteBarrier, RestoreAt, RestoreFlagged, RestoreProtNone,
    RestoreUntagged, Sanitise, SanitisePermission, SanitiseSize, SaveFailure, SavedTags, SharedBacking,
    SoftOfflineReserved, SplitFlags, StaleEntry, SwapBypass, SwapInWrite, SwapPriority, SyncGuard, SyncPages, ThpSwap,
    ThpZeroSubpage, UffdioMove, Untaggable, ZeroPage, ZeroTags, Zeromap, ZswapLarge, ZswapLoad,
};
use super::{Policy, Profile};

macro_rules! profiles {
    ($($name:literal $build:ident $(from $base:ident)?, $summary:literal { $($field:ident: $value:expr,)* })+) => {
        pub(super) static PROFILES: &[Profile] = &[$(Profile { name: $name, summary: $summary },)+];

        /// The policy of the profile of that name.
        pub(super) fn build(name: &str) -> Option<Policy> {
            match name { $($name => Some(Policy::$build()),)+ _ => None }
        }

        impl Policy {
            $(fn $build() -> Self {
                Self { name: $name.into(), $($field: $value,)* $(..Self::$base())? }
            })+
        }
    };
}

profiles! {
    "v10-series" v10_series, "KVM MTE patch series v10, March 2021, on a 5.12 host: no checks at all" {
        saved_tags_erased: SavedTags::SlotFree,
        stale_entry: StaleEntry::Kept,
        save_failure: SaveFailure::Redirty,
        host_sync: HostSync::RestoreLast,
        sync_guard: SyncGuard::Present,
        pte_barrier: PteBarrier::None,
        restore_at: RestoreAt::SetPte,
        restore_untagged: RestoreUntagged::Yes,
        restore_prot_none: RestoreProtNone::No,
        restore_flagged: RestoreFlagged::ShmemOverwrites,
        thp_swap: ThpSwap::Split,
        copy_flag: CopyFlag::Before,
        copy_to_flagged: CopyToFlagged::Overwrite,
        zero_page: ZeroPage::Flagged,
        zero_tags: ZeroTags::SetPte,
        ksm_merge_tagged: KsmMergeTagged::Never,
        sanitise: Sanitise::TestAndSet,
        sanitise_permission: SanitisePermission::No,
        sanitise_size: SanitiseSize::Mapped,
        change_pte: ChangePte::Map,
        shared_backing: SharedBacking::Allowed,
        untaggable: Untaggable::Cacheable,
        checked_at: CheckedAt::Never,
        fault_snapshot: FaultSnapshot::SeqAfterUnlock,
        copy_tags_flag: CopyTagsFlag::NoFlag,
        copy_tags_unflagged: CopyTagsUnflagged::Raw,
        copy_tags_logging: CopyTagsLogging::Unlogged,
        copy_tags_offline: CopyTagsOffline::Access,
        guest_memfd: GuestMemfd::Absent,
        mte_off_trap: MteOffTrap::Visible,
        hugetlb_mte: HugetlbMte::Accidental,
        thp_zero_subpage: ThpZeroSubpage::Kept,
        fault_lock: FaultLock::Exclusive,
        eager_split: EagerSplit::Absent,
        memory_fault_exit: MemoryFaultExit::None,
        cap_arm_mte: CapArmMte::Present,
        cap_lock: CapLock::Unlocked,
        copy_tags_length: CopyTagsLength::Unchecked,
        swap_in_write: SwapInWrite::WriteFault,
        swap_bypass: SwapBypass::Bare,
        swap_priority: SwapPriority::Descending,
        core_dump_tags: CoreDumpTags::None,
        uffdio_move: UffdioMove::Absent,
        zeromap: Zeromap::Written,
        zswap_load: ZswapLoad::Kept,
        zswap_large: ZswapLarge::Rejected,
        migrate_copy: MigrateCopy::Last,
        huge_zero: HugeZero::Synced,
        sync_pages: SyncPages::Compound,
        huge_zero_write: HugeZeroWrite::Split,
        hwpoison_signal: HwpoisonSignal::None,
        soft_offline_reserved: SoftOfflineReserved::Eio,
        split_flags: SplitFlags::Head,
        pageout_references: PageoutReferences::Checked,
        kpageflags: Kpageflags::Page,
        async_report: AsyncReport::Access,
    }
    "v11-series" v11_series from v10_series, "v11: offline memory is -EFAULT at the fault" {
        untaggable: Untaggable::RefuseOffline,
        checked_at: CheckedAt::Fault,
    }
    "v12-series" v12_series from v11_series, "v12: sanitise_mte_tags, called from the change_pte notifier too" {
        change_pte: ChangePte::Sanitise,
    }
    "v13-series" v13_series from v12_series, "v13: flag after the tags at stage 2; COPY_TAGS tests and sets the flag" {
        sanitise: Sanitise::TestClearSet,
        copy_tags_flag: CopyTagsFlag::AfterCopy,
        copy_tags_unflagged: CopyTagsUnflagged::Zeros,
        copy_tags_offline: CopyTagsOffline::FaultLeak,
    }
    "v14-series" v14_series from v13_series, "v14: one global spinlock for host sync and stage 2" {
        host_sync: HostSync::GlobalLock,
        sanitise: Sanitise::GlobalLock,
    }
    "v15-series" v15_series from v14_series, "v15: tags restored for user-readable PTEs only" {
        sync_guard: SyncGuard::TaggedOrReplaced,
    }
    "v16-series" v16_series from v15_series, "v16: MAP_SHARED refused instead of the lock at stage 2" {
        sanitise: Sanitise::TestClearSet,
        shared_backing: SharedBacking::Refused,
        checked_at: CheckedAt::SlotAndFault,
        copy_tags_flag: CopyTagsFlag::AfterRelease,
    }
    "v17-series" v17_series from v16_series, "v17, as merged: the host's lock dropped too" {
        host_sync: HostSync::FlagAlways,
    }
    "linux-5.10" linux_5_10 from linux_5_13, "first host MTE (longterm 5.10.223 and later), no KVM MTE" {
        pte_barrier: PteBarrier::Wmb,
    }
    "linux-5.13" linux_5_13 from v10_series, "host MTE before KVM's: only tagged PTEs are synced, none restored untagged" {
        host_sync: HostSync::FlagFirst,
        sync_guard: SyncGuard::PresentTagged,
        restore_untagged: RestoreUntagged::No,
        restore_prot_none: RestoreProtNone::Tagged,
        cap_arm_mte: CapArmMte::Absent,
    }
    "linux-5.14" linux_5_14 from v17_series, "first merged version: offline and VM_SHARED memory refused, no tag lock" {
        cap_lock: CapLock::KvmLock,
        untaggable: Untaggable::Device,
        copy_tags_flag: CopyTagsFlag::AfterCopy,
        zero_tags: ZeroTags::Alloc,
    }
    "linux-5.15.0" linux_5_15_0 from linux_5_14, "5.15 as released" {
    }
    "linux-5.15.81" linux_5_15_81 from linux_5_15_0, "last of 5.15 that flags pages without writing tags" {
        pte_barrier: PteBarrier::Wmb,
    }
    "linux-5.15.82" linux_5_15_82 from linux_5_15_81, "backport of a8e5e5146ad0: flag only when tags are written" {
        host_sync: HostSync::FlagFirst,
        restore_flagged: RestoreFlagged::Never,
    }
    "linux-5.15" linux_5_15 from linux_5_15_82, "longterm 5.15 with its fixes (5.15.195 and later): zero page not flagged" {
        zero_page: ZeroPage::Unflagged,
    }
    "linux-5.16" linux_5_16 from linux_5_15_0, "as 5.15 was released" {
    }
    "linux-5.18" linux_5_18 from linux_5_16, "do_swap_page frees the slot before set_pte_at restores its tags" {
        restore_at: RestoreAt::AfterFree,
        pte_barrier: PteBarrier::Wmb,
        core_dump_tags: CoreDumpTags::WholeVma,
    }
    "linux-5.19" linux_5_19 from linux_5_18, "as 5.18" {
    }
    "linux-6.0" linux_6_0 from linux_5_19, "as 5.19" {
    }
    "linux-6.0.3" linux_6_0_3 from linux_6_0, "backport of a8e5e5146ad0: flag only when tags are written" {
        host_sync: HostSync::FlagFirst,
        restore_flagged: RestoreFlagged::Never,
    }
    "linux-6.1.0" linux_6_1_0 from linux_6_0_3, "6.1 as released: flag only when tags are written" {
    }
    "linux-6.1.18" linux_6_1_18 from linux_6_1_0, "backport of e059853d14ca: tags before the flag, flag also without tags" {
        host_sync: HostSync::ClearFirstAlways,
        core_dump_tags: CoreDumpTags::DumpedPart,
        copy_flag: CopyFlag::After,
    }
    "linux-6.1.27" linux_6_1_27 from linux_6_1_18, "mmu_seq sampled under mmap_lock" {
        fault_snapshot: FaultSnapshot::UnderMmapLock,
    }
    "linux-6.1.30" linux_6_1_30 from linux_6_1_27, "backport of c4c597f1b367: flag only when tags are written" {
        host_sync: HostSync::ClearFirst,
    }
    "linux-6.1.38" linux_6_1_38 from linux_6_1_30, "last of 6.1 that frees the slot before its tags are restored" {
    }
    "linux-6.1.39" linux_6_1_39 from linux_6_1_38, "backport of 6dca4ac6fc91: tags restored before swap_free" {
        restore_at: RestoreAt::BeforeFree,
    }
    "linux-6.1" linux_6_1 from linux_6_1_39, "longterm 6.1 with its fixes (6.1.158 and later, judged against 6.1.192)" {
        swap_bypass: SwapBypass::Prepare,
        zero_page: ZeroPage::Unflagged,
        hugetlb_mte: HugetlbMte::Refused,
    }
    "linux-6.2" linux_6_2 from linux_6_1_0, "PG_mte_lock; MAP_SHARED guests; VM_MTE_ALLOWED, read too late" {
        host_sync: HostSync::LockAlways,
        core_dump_tags: CoreDumpTags::DumpedPart,
        copy_flag: CopyFlag::AfterLock,
        copy_to_flagged: CopyToFlagged::Warn,
        sanitise: Sanitise::Lock,
        change_pte: ChangePte::Defer,
        shared_backing: SharedBacking::Allowed,
        untaggable: Untaggable::DeviceElseRefuse,
        fault_snapshot: FaultSnapshot::VmaAfterUnlock,
        copy_tags_flag: CopyTagsFlag::LockClear,
        fault_lock: FaultLock::Read,
    }
    "linux-6.3" linux_6_3 from linux_6_2, "VMA facts and mmu_seq under mmap_lock" {
        fault_snapshot: FaultSnapshot::UnderMmapLock,
    }
    "linux-6.4" linux_6_4 from linux_6_3, "flag only when tags are written; COPY_TAGS length checked" {
        host_sync: HostSync::Lock,
        copy_tags_length: CopyTagsLength::IntMax,
    }
    "linux-6.5" linux_6_5 from linux_6_4, "do_swap_page restores tags before swap_free; blocks can be split eagerly" {
        restore_at: RestoreAt::BeforeFree,
        eager_split: EagerSplit::Present,
    }
    "linux-6.6.0" linux_6_6_0 from linux_6_5, "6.6 as released: set_pte_at no longer restores tags" {
        restore_at: RestoreAt::BeforeFreeOnly,
        sync_guard: SyncGuard::TaggedReadable,
        restore_prot_none: RestoreProtNone::Yes,
    }
    "linux-6.6" linux_6_6 from linux_6_6_0, "longterm 6.6 with its fixes (6.6.113 and later): zero page not flagged" {
        zero_page: ZeroPage::Unflagged,
        swap_bypass: SwapBypass::Prepare,
    }
    "linux-6.8" linux_6_8 from linux_6_6_0, "batched mte_sync_tags; a swap-in that bypasses the swap cache holds its slot" {
        sync_pages: SyncPages::Mapped,
        uffdio_move: UffdioMove::Present,
        swap_bypass: SwapBypass::Prepare,
    }
    "linux-6.10" linux_6_10 from linux_6_8, "large folios swapped whole; no change_pte notifier" {
        save_failure: SaveFailure::RedirtyUndo,
        zswap_load: ZswapLoad::Exclusive,
        pageout_references: PageoutReferences::Ignored,
        thp_swap: ThpSwap::Whole,
        change_pte: ChangePte::None,
    }
    "linux-6.12.0" linux_6_12_0 from linux_6_10, "6.12 as released: COPY_TAGS refuses while logging; tagged zero pages lost in a split" {
        swap_in_write: SwapInWrite::Vma,
        zeromap: Zeromap::Bit,
        async_report: AsyncReport::KernelEntry,
        kpageflags: Kpageflags::Folio,
        copy_tags_logging: CopyTagsLogging::Busy,
        copy_tags_offline: CopyTagsOffline::Fault,
        thp_zero_subpage: ThpZeroSubpage::DataOnly,
        migrate_copy: MigrateCopy::First,
        hwpoison_signal: HwpoisonSignal::Caller,
    }
    "linux-6.12" linux_6_12 from linux_6_12_0, "PG_mte_lock, VM_MTE_ALLOWED checked at slot and fault (longterm, judged against 6.12.107)" {
        zero_page: ZeroPage::Unflagged,
        hugetlb_mte: HugetlbMte::Refused,
        thp_zero_subpage: ThpZeroSubpage::DataAndTags,
        copy_to_flagged: CopyToFlagged::Overwrite,
    }
    "linux-6.13" linux_6_13 from linux_6_12_0, "PROT_MTE on hugetlb" {
        hugetlb_mte: HugetlbMte::Supported,
        huge_zero_write: HugeZeroWrite::Huge,
        zswap_large: ZswapLarge::Stored,
    }
    "mte-perm-series" mte_perm_series from linux_6_13, "never merged: NoTagAccess instead of refusal, v2 of January 2025" {
        untaggable: Untaggable::NoTagAccess,
    }
    "linux-6.18" linux_6_18 from linux_6_13, "guest_memfd (not sanitised); zero page not flagged; device memory by VMA" {
        zero_page: ZeroPage::Unflagged,
        copy_to_flagged: CopyToFlagged::Overwrite,
        untaggable: Untaggable::Refuse,
        guest_memfd: GuestMemfd::Unsanitised,
        memory_fault_exit: MemoryFaultExit::Gmem,
        huge_zero: HugeZero::Alloc,
        thp_zero_subpage: ThpZeroSubpage::DataAndTags,
    }
    "linux-7.0" linux_7_0 from linux_6_18, "MTE trapped at EL2 where a VM has none" {
        mte_off_trap: MteOffTrap::Trapped,
        swap_priority: SwapPriority::Equal,
    }
    "linux-7.2" linux_7_2 from linux_7_0, "guest_memfd refused behind an MTE VM; KVM leaves the zero page alone" {
        sanitise: Sanitise::LockSkipZero,
        guest_memfd: GuestMemfd::Refused,
    }
    "linux-7.3" linux_7_3 from linux_7_2, "as 7.2 (judged against 7.3.4)" {
        soft_offline_reserved: SoftOfflineReserved::Enotrecoverable,
    }
}
