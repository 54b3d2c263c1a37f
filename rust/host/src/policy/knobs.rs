//! The knobs: one enum per decision, each with its kernel function, its values and where that is known from.
//!
//! **Models** the rows of the policy matrix that some step of this crate asks. **Leaves out** rows with nothing to decide
//! here, which are listed in [`super`].
//!
//! **Keeps**: names and documentation of a knob stand beside its values, so lists, errors and reports cannot drift.

use std::borrow::Cow;

use super::{Knob, KnobValue};

macro_rules! knobs {
    ($($(#[doc = $doc:literal])+ $id:literal $field:ident: $enum:ident, $title:literal, $source:literal {
        $($(#[doc = $vdoc:literal])+ $variant:ident = $name:literal,)+
    })+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
            pub enum $enum { $($(#[doc = $vdoc])+ $variant,)+ }

            impl $enum {
                /// The value's name on the command line and in reports.
                pub const fn name(self) -> &'static str { match self { $(Self::$variant => $name,)+ } }

                fn parse(name: &str) -> Option<Self> { match name { $($name => Some(Self::$variant),)+ _ => None } }
            }
        )+

        /// Every decision of the host, as one plain value.
        #[derive(Clone, PartialEq, Eq, Hash, Debug)]
        pub struct Policy {
            /// Profile name, with the replaced knobs behind it.
            pub name: Cow<'static, str>,
            $($(#[doc = $doc])+ pub $field: $enum,)+
        }

        pub(super) static KNOBS: &[Knob] = &[$(Knob {
            id: $id,
            field: stringify!($field),
            title: $title,
            doc: concat!($($doc),+),
            source: $source,
            values: &[$(KnobValue { name: $name, doc: concat!($($vdoc),+) },)+],
        },)+];

        impl Policy {
            /// The value's name of the knob `id` (`K1`) or field name; `None` for an unknown knob.
            pub fn get(&self, knob: &str) -> Option<&'static str> {
                let knob = super::canonical(knob);
                $(if knob == $id || knob == stringify!($field) { return Some(self.$field.name()); })+
                None
            }

            pub(super) fn set(&mut self, knob: &Knob, value: &str) -> Option<()> {
                $(if knob.id == $id { self.$field = $enum::parse(value)?; })+
                Some(())
            }
        }
    };
}

knobs! {
    /// When `mte_pages[entry]` is erased (`mte_invalidate_tags`, arch/arm64/mm/mteswap.c). The founding question: how
    /// long must saved tags outlive a swap-in?
    "K1" saved_tags_erased: SavedTags, "saved tags erased",
    "mteswap.c, mm/swapfile.c (swap_range_free), 5.10 to 7.3; list thread of series v10, March and April 2021" {
        /// As soon as `mte_restore_tags` has written them back: asked on the list in April 2021, never merged.
        Restore = "restore",
        /// When the page they were restored to is freed: counterfactual, equal to `restore` for a clean page.
        PageFree = "page-free",
        /// When the swap slot is freed (`swap_range_free` -> `arch_swap_invalidate_page`): every merged version.
        SlotFree = "slot-free",
        /// Only at swapoff (`arch_swap_invalidate_area`): counterfactual.
        Swapoff = "swapoff",
    }
    /// Whether `mte_save_tags` erases what an earlier owner left in `mte_pages[entry]` when the page written out is not
    /// flagged. Harmless as long as K1 erases when the slot is freed.
    "K2" stale_entry: StaleEntry, "write-out of an unflagged page",
    "mteswap.c (mte_save_tags), 5.10 to 7.3" {
        /// A stale buffer stays: every version.
        Kept = "kept",
        /// The stale buffer is erased: counterfactual.
        Erased = "erased",
    }
    /// What `arch_prepare_to_swap` does when there is no memory for the 128 bytes of a page's tags.
    "K3" save_failure: SaveFailure, "tags cannot be saved",
    "mm/page_io.c, mteswap.c; roll-back of a folio's earlier pages since f238b8c33c67 (v6.10)" {
        /// -ENOMEM: the folio is redirtied and stays, no swap-out without tags (5.10 to 6.9).
        Redirty = "redirty",
        /// The same, and what was saved of the folio's other pages is erased again (6.10 and later).
        RedirtyUndo = "redirty-undo",
        /// The page is written out without its tags: counterfactual.
        SwapAnyway = "swap-anyway",
    }
    /// Order of flag and tags in the host's `mte_sync_tags` and `mte_restore_tags` (`set_pte_at` of a tagged PTE), and
    /// whether the flag is set when nothing was written.
    "K4" host_sync: HostSync, "host sync: flag against tags",
    "arch/arm64/kernel/mte.c; 69e3b846d8a7 (v5.14), a8e5e5146ad0 (v6.1; 6.0.3, 5.15.82), e059853d14ca and \
     d77e59a8fccd (v6.2; the former in 6.1.18), c4c597f1b367 (v6.4-rc3; 6.1.30); series v10 to v17" {
        /// Clearing publishes the flag first, restoring publishes it last (v10 to v13 of the series).
        RestoreLast = "restore-last",
        /// Both under one global spinlock, shared with `sanitise_mte_tags`: recheck, write, flag (v14 to v16).
        GlobalLock = "global-lock",
        /// `test_and_set_bit(PG_mte_tagged)` first; then the tags, *if there is anything to write* (5.14 to 6.0): an
        /// untagged PTE over a swap or migration entry without saved tags flags the page and writes nothing.
        FlagAlways = "flag-always",
        /// `test_and_set_bit(PG_mte_tagged)` first, only when something is written after it (5.10 to 5.13 for tagged
        /// PTEs; 6.1, 6.0.3, 5.15.82).
        FlagFirst = "flag-first",
        /// Test, write, flag, no lock; the flag also when nothing was written (6.1.18 to 6.1.29).
        ClearFirstAlways = "clear-first-always",
        /// Test, clear, flag, no lock; a restore still flags first (6.1.30 and later of that branch).
        ClearFirst = "clear-first",
        /// `PG_mte_lock`, write, flag; the loop then flags the page also when nothing was written (6.2, 6.3).
        LockAlways = "lock-always",
        /// `try_page_mte_tagging` takes `PG_mte_lock`, write, then the flag (6.4 and later).
        Lock = "lock",
    }
    /// Which new PTEs make `set_pte_at` call `mte_sync_tags`.
    "K5" sync_guard: SyncGuard, "set_pte_at syncs tags of",
    "arch/arm64/include/asm/pgtable.h (set_pte_at, __sync_cache_and_tags); 69e3b846d8a7 (v5.14), v6.6" {
        /// Present and user-accessible PTEs of any memory type (v10 to v14).
        Present = "present",
        /// Present PTEs of a tagged mapping (5.10 to 5.13): a swapped-in page that is mapped untagged loses its tags.
        PresentTagged = "present-tagged",
        /// User-readable PTEs that are tagged, or that replace a non-present, non-empty one (5.14 to 6.5; v15 to v17).
        TaggedOrReplaced = "tagged-or-replaced",
        /// User-readable tagged PTEs: the old PTE is not looked at (6.6 and later).
        TaggedReadable = "tagged-readable",
    }
    /// Whether a write barrier stands between the tags and the PTE that shows them.
    "K6" pte_barrier: PteBarrier, "barrier between tags and PTE",
    "arch/arm64/kernel/mte.c (mte_sync_tags); 1d0cb4c8864a (v5.18; 5.10.118, 5.15.41)" {
        /// None: another CPU may see the PTE before the tags (5.10 to 5.17).
        None = "none",
        /// `smp_wmb` (5.18 and later).
        Wmb = "wmb",
    }
    /// Where swap-in restores tags, and on which side of `swap_free`, which may erase them (rows K7 and K8).
    "K7" restore_at: RestoreAt, "tags restored at swap-in",
    "mm/memory.c (do_swap_page), mm/swapfile.c (unuse_pte); c145e0b47c77 (v5.18), 6dca4ac6fc91 (v6.5; 6.1.39), v6.6" {
        /// Inside `set_pte_at`, then `swap_free` (5.10 to 5.17).
        SetPte = "set-pte",
        /// Inside `set_pte_at`, but `swap_free` came before: a slot used once is gone with its tags (5.18 to 6.4).
        AfterFree = "after-free",
        /// `arch_swap_restore` in `do_swap_page` before `swap_free`; the arm in `set_pte_at` still exists (6.5; 6.1.39).
        BeforeFree = "before-free",
        /// `arch_swap_restore` only, in `do_swap_page` and `unuse_pte` (6.6 and later).
        BeforeFreeOnly = "before-free-only",
    }
    /// Whether swap-in restores tags to a page that is mapped untagged, as a VMM maps a guest's.
    "K9" restore_untagged: RestoreUntagged, "restore for an untagged PTE",
    "set_pte_at's guard; series v1 and later, 69e3b846d8a7 (v5.14)" {
        /// No (5.10 to 5.13).
        No = "no",
        /// Yes (5.14 and later, the KVM series).
        Yes = "yes",
    }
    /// Whether swapoff restores tags when the PTE it writes is `PROT_NONE` (`unuse_pte`).
    "K10" restore_prot_none: RestoreProtNone, "swapoff: restore for a PROT_NONE PTE",
    "mm/swapfile.c (unuse_pte), pte_access_permitted in set_pte_at's guard; v5.14, v6.6" {
        /// Only in a `VM_MTE` mapping (5.10 to 5.13).
        Tagged = "tagged",
        /// No: the guard wants a readable PTE, the tags go with the slot (5.14 to 6.5).
        No = "no",
        /// Yes, `arch_swap_restore` does not look at the PTE (6.6 and later).
        Yes = "yes",
    }
    /// What `arch_swap_restore` does to a page that is flagged already.
    "K11" restore_flagged: RestoreFlagged, "restore to a flagged page",
    "arch/arm64/include/asm/pgtable.h (arch_swap_restore), mteswap.c; a8e5e5146ad0 (v6.1)" {
        /// shmem writes the saved tags over what is there; anonymous memory does not (5.10 to 6.0).
        ShmemOverwrites = "shmem-overwrites",
        /// Nothing (6.1 and later).
        Never = "never",
        /// Everything is written over: counterfactual; undoes a tag store between two restores.
        Overwrite = "overwrite",
    }
    /// Whether a large folio is swapped out whole where MTE is present (`arch_thp_swp_supported`).
    "K12" thp_swap: ThpSwap, "large folio swap",
    "arch/arm64/include/asm/pgtable.h; d0637c505f8a (v6.0), f238b8c33c67 (v6.10)" {
        /// Split first (up to 6.9).
        Split = "split",
        /// Whole, each page's tags saved by its own entry (6.10 and later).
        Whole = "whole",
    }
    /// Order of flag and tags in `copy_highpage` (copy-on-write, migration, collapse).
    "K13" copy_flag: CopyFlag, "copied page: flag against tags",
    "arch/arm64/mm/copypage.c; e059853d14ca, d77e59a8fccd (v6.2; the former in 6.1.18)" {
        /// The destination is flagged, then the tags are copied (5.10 to 6.1).
        Before = "before",
        /// Tags, then the flag, no lock (6.1.18 and later of that branch).
        After = "after",
        /// `PG_mte_lock`, tags, flag (6.2 and later).
        AfterLock = "after-lock",
    }
    /// What `copy_highpage` does when the destination was flagged by a copy before (a migration tried again).
    "K14" copy_to_flagged: CopyToFlagged, "copy to a flagged page",
    "arch/arm64/mm/copypage.c; d77e59a8fccd (v6.2), b98c94eed4a9 (v6.18-rc3)" {
        /// Tags are written over (up to 6.1; 6.18 and later).
        Overwrite = "overwrite",
        /// The same with a WARN (6.2 to 6.17).
        Warn = "warn",
    }
    /// Whether `cpu_enable_mte` flags the shared zero page at boot.
    "K15" zero_page: ZeroPage, "zero page flagged at boot",
    "arch/arm64/kernel/cpufeature.c; 68d54ceeec0e (v5.12), f620d66af316 (v6.18-rc1; 6.6.113, 6.1.158, 5.15.195)" {
        /// Flagged, tags cleared once (5.12 to 6.17).
        Flagged = "flagged",
        /// Tags cleared, page not flagged (6.18-rc1; stable backports, seen in 6.12.107).
        Unflagged = "unflagged",
    }
    /// When a fresh zeroed page of a `PROT_MTE` mapping gets its zero tags.
    "K16" zero_tags: ZeroTags, "tags of a fresh page zeroed",
    "arch/arm64/mm/fault.c (tag_clear_highpage), mm/page_alloc.c (__GFP_ZEROTAGS); v5.14" {
        /// In `set_pte_at` (5.10 to 5.13).
        SetPte = "set-pte",
        /// By the allocation, before anybody can see the page (5.14 and later); not if it finds the data zeroed already
        /// (`init_on_free`).
        Alloc = "alloc",
        /// By the allocation, whoever has zeroed the data (proposed in April 2026).
        Independent = "independent",
    }
    /// Whether ksmd merges pages of equal data when one of them has tags (`memcmp_pages`).
    "K17" ksm_merge_tagged: KsmMergeTagged, "KSM merges tagged pages",
    "arch/arm64/kernel/mte.c (memcmp_pages), 5.10 to 7.3" {
        /// Never (every version).
        Never = "never",
        /// The flag is not looked at: counterfactual.
        IgnoreFlag = "ignore-flag",
    }
    /// How `sanitise_mte_tags` (called by `user_mem_abort` before mapping) initialises an unflagged page.
    "K18" sanitise: Sanitise, "stage-2 sanitise protocol",
    "arch/arm64/kvm/mmu.c; series v10 to v17, ea7fc1bb1cd1 (v5.14), d77e59a8fccd (v6.2), 2986a6257405 (v7.2)" {
        /// `test_and_set_bit(PG_mte_tagged)`, then clear (v10 to v12): a second fault may map before the clear.
        TestAndSet = "test-and-set",
        /// Recheck, clear, flag under the global spinlock of K4 (v14, v15).
        GlobalLock = "global-lock",
        /// Test, clear, set, no lock (v13, v16, 5.14 to 6.1): two faults may both clear.
        TestClearSet = "test-clear-set",
        /// `PG_mte_lock` taken first, the loser waits for `PG_mte_tagged` (6.2 and later).
        Lock = "lock",
        /// The same, but the shared zero page is left alone (7.2; seen in 7.3).
        LockSkipZero = "lock-skip-zero",
    }
    /// Whether a stage-2 permission fault sanitises too. Not doing so overlooks the fault that maps a block where a page was
    /// (logging over, the VMM has a huge page): nobody has looked at the tags of the other 511.
    "K19" sanitise_permission: SanitisePermission, "sanitise on a permission fault",
    "arch/arm64/kvm/mmu.c (user_mem_abort), v10 to 7.3" {
        /// No: the page was sanitised when it was mapped (every version; the leak seen on 6.1.192, 6.12.107, 7.3.4).
        No = "no",
        /// Yes: counterfactual.
        Yes = "yes",
    }
    /// How much of a page of hugetlb, whose head's flag speaks for all of it, `sanitise_mte_tags` clears when KVM maps one
    /// page of it (writes are logged, or addresses are not aligned alike).
    "sanitise_size" sanitise_size: SanitiseSize, "sanitised of a huge page mapped by pages",
    "arch/arm64/kvm/mmu.c (sanitise_mte_tags), v6.13; the leak recorded on 7.3.4" {
        /// What is mapped (6.13 and later): the rest passes for initialised.
        Mapped = "mapped",
        /// All that the flag speaks for: counterfactual.
        Folio = "folio",
    }
    /// What KVM's `change_pte` notifier (`kvm_set_spte_gfn`) does with the page that KSM or copy-on-write put in place of
    /// a mapped one.
    "K20" change_pte: ChangePte, "change_pte notifier",
    "arch/arm64/kvm/mmu.c (kvm_set_spte_gfn); series v12, d77e59a8fccd (v6.2), f3b65bbaed7c (v6.10)" {
        /// Maps it read-only as it is (v10, v11): no later fault will sanitise it.
        Map = "map",
        /// Sanitises it, then maps it read-only (v12 to 6.1).
        Sanitise = "sanitise",
        /// Maps it if it is flagged, else leaves it to the next fault (6.2 to 6.9).
        Defer = "defer",
        /// There is no such notifier (6.10 and later).
        None = "none",
    }
    /// Whether an MTE VM may be backed by a `VM_SHARED` mapping.
    "K21" shared_backing: SharedBacking, "MAP_SHARED behind an MTE VM",
    "arch/arm64/kvm/mmu.c; series v16, ea7fc1bb1cd1 (v5.14), c911f0d46879 and d89585fbb308 (v6.2)" {
        /// Allowed (v10 to v15 of the series; 6.2 and later).
        Allowed = "allowed",
        /// Refused where K23 checks: slot -EINVAL, fault -EFAULT (5.14 to 6.1, no tag lock existed).
        Refused = "refused",
    }
    /// What becomes of memory without tag storage (`ZONE_DEVICE`, device pfns, offline pfns) behind an MTE VM.
    "K22" untaggable: Untaggable, "untaggable memory",
    "arch/arm64/kvm/mmu.c (kvm_is_device_pfn, sanitise_mte_tags, kvm_vma_mte_allowed); series v10, v11, v5.14, \
     d89585fbb308 (v6.2), v6.17; mails 20241028094014.2596619-1, 20250110110023.2963795-1" {
        /// Any pfn with a `struct page` is mapped Normal Write-Back and flagged (v10 series).
        Cacheable = "cacheable",
        /// Memory without `struct page` is mapped Device, anything else offline is -EFAULT (v11 to v17).
        RefuseOffline = "refuse-offline",
        /// `!pfn_is_map_memory` is mapped Device-nGnRE; anything else offline is -EFAULT (5.14 to 6.1).
        Device = "device",
        /// A VMA without `VM_MTE_ALLOWED` is refused, but at fault time `!pfn_is_map_memory` is mapped Device first
        /// (6.2 to 6.16).
        DeviceElseRefuse = "device-else-refuse",
        /// As `device-else-refuse`; but a VM with `KVM_CAP_ARM_MTE_PERM` has the refused memory mapped `NoTagAccess`
        /// (`FEAT_MTE_PERM`), and an access to its tags exits (proposed for 6.14, never merged).
        NoTagAccess = "no-tag-access",
        /// A VMA without `VM_MTE_ALLOWED` is refused; only device memory without `struct page` is mapped Device
        /// (6.17 and later, as seen in 7.3).
        Refuse = "refuse",
    }
    /// Where the K21 and K22 rules are applied (`kvm_arch_prepare_memory_region`, `user_mem_abort`).
    "K23" checked_at: CheckedAt, "rules checked",
    "arch/arm64/kvm/mmu.c; series v10, v11, v16, v5.14, v6.2" {
        /// Nowhere (v10 series).
        Never = "never",
        /// Only when the memslot is added: what the slot was then is believed for ever (proposed on the list).
        Slot = "slot",
        /// Only at fault time (v11 to v15): the memory under a live slot may have been replaced.
        Fault = "fault",
        /// Both (v16, 5.14 and later).
        SlotAndFault = "slot-and-fault",
    }
    /// What protects the facts that `user_mem_abort` takes from the VMA against a VMM that maps something else there
    /// meanwhile: when the notifier sequence is sampled.
    "K24" fault_snapshot: FaultSnapshot, "mmu_seq and VMA facts",
    "arch/arm64/kvm/mmu.c (user_mem_abort); d89585fbb308 (v6.2), 8c2e8ac8ad4b and 13ec9308a857 (v6.3; 6.1.27)" {
        /// Facts under `mmap_lock`, the sequence sampled after it was dropped (v10 to 6.1.26).
        SeqAfterUnlock = "seq-after-unlock",
        /// The same, and `VM_MTE_ALLOWED` is read from the VMA after the page was brought in (6.2).
        VmaAfterUnlock = "vma-after-unlock",
        /// Facts and sequence under `mmap_lock` (6.3 and later; 6.1.27).
        UnderMmapLock = "under-mmap-lock",
    }
    /// How `KVM_ARM_MTE_COPY_TAGS` to the guest flags the page, and what it leaves of a page whose tags it could read only
    /// in part.
    "K25" copy_tags_flag: CopyTagsFlag, "COPY_TAGS to the guest: flag",
    "arch/arm64/kvm/guest.c (kvm_vm_ioctl_mte_copy_tags); series v10 to v17, f0376edb1ddc and its fix before v5.14, \
     d77e59a8fccd (v6.2-rc1), c3b37c2d77a2 (v6.2-rc5)" {
        /// Not at all (v10 to v12): the guest's first fault clears the tags again.
        NoFlag = "no-flag",
        /// After the page's reference was dropped (v16, v17): by then it may be another owner's page.
        AfterRelease = "after-release",
        /// After a whole page was copied, no lock; a part copied stays, unflagged (v13, 5.14 to 6.1).
        AfterCopy = "after-copy",
        /// `PG_mte_lock`, copy, flag always; a part copied stays mixed with old tags (6.2-rc1 to rc4).
        LockMixed = "lock-mixed",
        /// `PG_mte_lock`, copy, flag always; after a part the page's tags are cleared (6.2 and later).
        LockClear = "lock-clear",
    }
    /// What `KVM_ARM_MTE_COPY_TAGS` from the guest answers for a page that is not flagged.
    "K26" copy_tags_unflagged: CopyTagsUnflagged, "COPY_TAGS from an unflagged page",
    "arch/arm64/kvm/guest.c; series v10, v13" {
        /// Whatever tags lie in the frame (v10 to v12).
        Raw = "raw",
        /// Zeros (v13 and later).
        Zeros = "zeros",
    }
    /// What `KVM_ARM_MTE_COPY_TAGS` to the guest does while a slot of the VM logs writes. The page becomes dirty, the
    /// slot's bitmap never.
    "K27" copy_tags_logging: CopyTagsLogging, "COPY_TAGS while logging dirty pages",
    "arch/arm64/kvm/guest.c; e0b7de4fd18c (v6.12; not in 6.1.192)" {
        /// Succeeds, and the log knows nothing of it (5.14 to 6.11).
        Unlogged = "unlogged",
        /// -EBUSY (6.12 and later).
        Busy = "busy",
    }
    /// What `KVM_ARM_MTE_COPY_TAGS` does with memory that has no tags (`ZONE_DEVICE`).
    "K28" copy_tags_offline: CopyTagsOffline, "COPY_TAGS on ZONE_DEVICE",
    "arch/arm64/kvm/guest.c; series v10, v13, ae41d7dbaeb4 (v6.12)" {
        /// Reads and writes tags that are not there (v10 to v12).
        Access = "access",
        /// -EFAULT, and the page's reference is never dropped (5.14 to 6.11).
        FaultLeak = "fault-leak",
        /// -EFAULT (6.12 and later).
        Fault = "fault",
    }
    /// Whether `KVM_ENABLE_CAP(KVM_CAP_ARM_MTE)` holds `kvm->lock` between its check that no vCPU exists and the flag. A
    /// vCPU made in between has no `HCR_EL2.ATA` in a VM whose ID registers tell of MTE.
    "K29" cap_lock: CapLock, "MTE capability against vCPU creation",
    "arch/arm64/kvm/arm.c (kvm_vm_ioctl_enable_cap); mail 20210729160036.20433-1, v5.14" {
        /// No (the series, 5.14 before its release).
        Unlocked = "unlocked",
        /// Yes (5.14 and later).
        KvmLock = "kvm-lock",
    }
    /// What a `guest_memfd` slot of an MTE VM is.
    "K30" guest_memfd: GuestMemfd, "guest_memfd behind an MTE VM",
    "arch/arm64/kvm/mmu.c (gmem_abort); v6.18, 679d7201c1f0 (v7.2)" {
        /// There is none on arm64: -EINVAL (up to 6.17).
        Absent = "absent",
        /// Accepted, and mapped without `sanitise_mte_tags` (6.18 to 7.1).
        Unsanitised = "unsanitised",
        /// -EINVAL (7.2 and later).
        Refused = "refused",
    }
    /// What a guest without MTE meets when it reads `GMID_EL1`.
    "K31" mte_off_trap: MteOffTrap, "MTE registers when MTE is off",
    "arch/arm64/kvm (HCR_EL2.TID5, sys_regs.c); f35abcbb8a08, 5ee8ad69da07 (v7.0)" {
        /// `GMID_EL1` answers: only the registers of the table are undefined (5.14 to 6.19).
        Visible = "visible",
        /// Undefined, by `HCR_EL2.TID5` (7.0 and later).
        Trapped = "trapped",
    }
    /// Whether a hugetlb mapping may have `PROT_MTE` (`arch_calc_vm_flag_bits`).
    "K32" hugetlb_mte: HugetlbMte, "PROT_MTE on hugetlb",
    "arch/arm64/include/asm/mman.h; 9f3419315f3c (v5.10), 6.1.130, v6.13" {
        /// Anonymous ones by accident: nobody keeps the tags of huge pages (5.10 to 6.12).
        Accidental = "accidental",
        /// Refused (the fix of the accident: 6.1.130, seen in 6.12.107).
        Refused = "refused",
        /// Supported, flags on the folio's head (6.13 and later).
        Supported = "supported",
    }
    /// What a split of a huge page does with a subpage whose data is all zero (`try_to_map_unused_to_zeropage`).
    "K33" thp_zero_subpage: ThpZeroSubpage, "zero-filled subpage of a split",
    "mm/migrate.c; b1f202060afe (v6.12), 1ce6473d17e7 (v6.18)" {
        /// Stays a page (up to 6.11).
        Kept = "kept",
        /// Becomes the zero page, tagged or not: its tags are lost (6.12 to 6.17).
        DataOnly = "data-only",
        /// Becomes the zero page unless it is tagged (6.18 and later).
        DataAndTags = "data-and-tags",
    }
    /// How a stage-2 fault takes `kvm->mmu_lock`: alone, or beside other faults.
    "mmu_lock" fault_lock: FaultLock, "mmu_lock on a stage-2 fault",
    "arch/arm64/kvm/mmu.c (user_mem_abort); v6.2" {
        /// Spinlock, later rwlock for write: one fault of a VM at a time (up to 6.1).
        Exclusive = "exclusive",
        /// Read lock: faults of one VM run in parallel (6.2 and later).
        Read = "read",
    }
    /// Whether a VMM can have blocks split as soon as a slot logs writes (`KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE`); without
    /// it a block is broken by the first write fault in it.
    "eager_split" eager_split: EagerSplit, "eager split of blocks",
    "arch/arm64/kvm/mmu.c (kvm_mmu_split_huge_pages); 2f440b72e852 (v6.5)" {
        /// No (up to 6.4).
        Absent = "absent",
        /// Yes, off until asked for (6.5 and later).
        Present = "present",
    }
    /// Which failed stage-2 faults tell the VMM where: `KVM_EXIT_MEMORY_FAULT` beside the error of `KVM_RUN`
    /// (`kvm_prepare_memory_fault_exit`, generic since 6.8).
    "memory_fault_exit" memory_fault_exit: MemoryFaultExit, "KVM_EXIT_MEMORY_FAULT",
    "arch/arm64/kvm/mmu.c (gmem_abort, v6.18); mail 20240809205158.1340255-4; none recorded of user_mem_abort up to 7.3.4" {
        /// None (up to 6.17).
        None = "none",
        /// Those of `guest_memfd` memory (6.18 and later).
        Gmem = "gmem",
        /// Those of any memory (proposed in August 2024, not merged).
        All = "all",
    }
    /// Whether the kernel has `KVM_CAP_ARM_MTE`.
    "cap_arm_mte" cap_arm_mte: CapArmMte, "KVM_CAP_ARM_MTE",
    "arch/arm64/kvm/arm.c; 673638f434ee (v5.14), series v10" {
        /// No: MTE is the host's alone (5.10 to 5.13).
        Absent = "absent",
        /// Yes (the series; 5.14 and later).
        Present = "present",
    }
    /// Whether `KVM_ARM_MTE_COPY_TAGS` refuses a length whose result would not fit an int.
    "copy_tags_length" copy_tags_length: CopyTagsLength, "COPY_TAGS length above INT_MAX",
    "arch/arm64/kvm/guest.c; 2def950c63e3 (v6.4; not in 6.1.192)" {
        /// No: it copies what is there (5.14 to 6.3).
        Unchecked = "unchecked",
        /// -EINVAL (6.4 and later).
        IntMax = "int-max",
    }
    /// When a swap-in maps an exclusive page writable. It decides whether a guest's read makes the page dirty, since KVM
    /// maps what is writable writable.
    "swap_in_write" swap_in_write: SwapInWrite, "swapped-in page mapped writable",
    "mm/memory.c (do_swap_page); read in 6.1.166, recorded on 6.1.192, 6.12.107, 7.3.4" {
        /// Only by a write fault (seen in 6.1).
        WriteFault = "write-fault",
        /// Whenever the mapping allows writing (seen in 6.12 and 7.3).
        Vma = "vma",
    }
    /// Whether `MADV_PAGEOUT` leaves a page that was referenced lately (the access flag of stage 2 counts).
    "pageout_references" pageout_references: PageoutReferences, "MADV_PAGEOUT and references",
    "mm/madvise.c, mm/vmscan.c (reclaim_folio_list); ignore_references since v6.10; recorded on 6.1.192, 6.12.107, 7.3.4" {
        /// The first call clears the references, a second one pages out (seen in 6.1).
        Checked = "checked",
        /// They do not count (seen in 6.12 and 7.3).
        Ignored = "ignored",
    }
    /// What keeps others from swapping in the same entry where the swap cache is bypassed (`SWP_SYNCHRONOUS_IO`).
    "swap_bypass" swap_bypass: SwapBypass, "swap-in without the swap cache",
    "mm/memory.c (do_swap_page); 13ddaf26be32 (v6.8; 6.6.18, 6.1.79)" {
        /// Nothing: the slot is free as soon as the PTE's reference goes.
        Bare = "bare",
        /// `swapcache_prepare`: the slot stays allocated until the page is mapped.
        Prepare = "prepare",
    }
    /// Whether user space can bring a missing page by moving one of its own (`UFFDIO_MOVE`), tags and all.
    "uffdio_move" uffdio_move: UffdioMove, "UFFDIO_MOVE",
    "mm/userfaultfd.c (move_pages); adef440691ba (v6.8)" {
        /// No (up to 6.7).
        Absent = "absent",
        /// Yes (6.8 and later).
        Present = "present",
    }
    /// Of what a core dump has tags (`PT_AARCH64_MEMTAG_MTE`).
    "core_dump_tags" core_dump_tags: CoreDumpTags, "tags in a core dump",
    "arch/arm64/kernel/elfcore.c; 6dd8b1a0b6cb (v5.18), 4f4c549feb4e (v6.2-rc4; 6.1)" {
        /// Of nothing (up to 5.17).
        None = "none",
        /// Of every page of a `VM_MTE` mapping (5.18 to 6.1 as released).
        WholeVma = "whole-vma",
        /// Of the part of it whose data are dumped too (6.2 and later).
        DumpedPart = "dumped-part",
    }
    /// What swap-out does with a page of zeros: its tags are saved in any case, before this is looked at.
    "zeromap" zeromap: Zeromap, "page of zeros swapped out",
    "mm/page_io.c (swap_writepage); 0ca0c24e3211 (v6.12)" {
        /// Written like any other (up to 6.11).
        Written = "written",
        /// A bit of the slot is set and nothing is written, so that the page can go at once (6.12 and later).
        Bit = "bit",
    }
    /// Whether zswap drops its copy when a page is read into the swap cache. The page is dirty then: it is written, and its
    /// tags are saved, anew.
    "zswap_load" zswap_load: ZswapLoad, "zswap's copy after a swap-in",
    "mm/zswap.c (zswap_load); b9c91c43412f (v6.5, off by default), 25cd241408a2 (v6.9)" {
        /// It is kept until the slot is freed (up to 6.8).
        Kept = "kept",
        /// It goes, the page is made dirty (6.9 and later).
        Exclusive = "exclusive",
    }
    /// Whether zswap takes a large folio.
    "zswap_large" zswap_large: ZswapLarge, "large folios in zswap",
    "mm/zswap.c (zswap_store); b7c0ccdfbafd (v6.13)" {
        /// No: they go to the device (up to 6.12).
        Rejected = "rejected",
        /// Yes, page by page (6.13 and later).
        Stored = "stored",
    }
    /// The priority of a swap device that `swapon` was given none for: which of several is used first.
    "swap_priority" swap_priority: SwapPriority, "default swap priority",
    "mm/swapfile.c (enable_swap_info); DEF_SWAP_PRIO, v6.19" {
        /// From -2 down, in the order in which they were turned on: the first is filled first (up to 6.18).
        Descending = "descending",
        /// -1 for all: they take turns (6.19 and later).
        Equal = "equal",
    }
    /// What initialises the tags of the huge zero folio, which a read of an untouched huge page's range maps.
    "huge_zero" huge_zero: HugeZero, "huge zero folio's tags",
    "mm/huge_memory.c; d82d09e48219 (v6.18-rc1), adfb6609c680 (v6.18-rc6)" {
        /// `set_pmd_at`, as for any huge page (up to 6.17).
        Synced = "synced",
        /// Nothing: its PMD is special, and it is allocated for its data only (6.18-rc1 to rc5).
        Special = "special",
        /// The allocation (6.18).
        Alloc = "alloc",
    }
    /// What a write to what shows the huge zero folio gets.
    "huge_zero_write" huge_zero_write: HugeZeroWrite, "write to the huge zero folio",
    "mm/huge_memory.c (do_huge_pmd_wp_page, do_huge_zero_wp_pmd); v6.13; recorded on 6.1.192, 6.12.117, 7.3.4" {
        /// A small page; the others of the range show the zero page (up to 6.12).
        Split = "split",
        /// A huge page (6.13 and later).
        Huge = "huge",
    }
    /// How many pages `mte_sync_tags` looks at when the PTE shows the first page of a huge page.
    "sync_pages" sync_pages: SyncPages, "pages that a PTE's sync covers",
    "arch/arm64/kernel/mte.c (mte_sync_tags); recorded on 6.1.192, 6.12.117, 7.3.4; batched in v6.8" {
        /// All of the huge page (`compound_nr`, up to 6.7).
        Compound = "compound",
        /// Those that are mapped (6.8 and later).
        Mapped = "mapped",
    }
    /// Which tag flags the tails of a huge page have after a split (`__split_huge_page_tail`).
    "split_flags" split_flags: SplitFlags, "tag flags after a split",
    "mm/huge_memory.c, PG_arch_2 since v5.10, PG_arch_3 since v6.2" {
        /// The head's, whatever their own were (every version).
        Head = "head",
        /// None: counterfactual, as it was before the series that brought MTE.
        Lost = "lost",
        /// Their own: counterfactual.
        Own = "own",
    }
    /// Whether `MADV_HWPOISON` itself sends the caller `SIGBUS` (`MF_ACTION_REQUIRED`), besides what touches the page later.
    "hwpoison_signal" hwpoison_signal: HwpoisonSignal, "MADV_HWPOISON and SIGBUS",
    "mm/madvise.c (madvise_inject_error); recorded on 6.1.192, 6.12.117, 7.3.4" {
        /// No (seen in 6.1).
        None = "none",
        /// Yes (seen in 6.12 and 7.3).
        Caller = "caller",
    }
    /// What `MADV_SOFT_OFFLINE` answers for a page that cannot be offlined, such as the zero page.
    "soft_offline_reserved" soft_offline_reserved: SoftOfflineReserved, "soft offline of a reserved page",
    "mm/memory-failure.c (get_any_page); recorded on 6.1.192, 6.12.117, 7.3.4" {
        /// -EIO (seen in 6.1 and 6.12).
        Eio = "eio",
        /// -ENOTRECOVERABLE (seen in 7.3).
        Enotrecoverable = "enotrecoverable",
    }
    /// Whether a migration copies the page before or after the page cache has let go of the source (`__migrate_folio`). A
    /// copy that comes first is done again when that fails.
    "migrate_copy" migrate_copy: MigrateCopy, "migration copies",
    "mm/migrate.c; 060913999d7a (v6.11)" {
        /// Last, when nothing can fail any more (up to 6.10).
        Last = "last",
        /// First (6.11 and later).
        First = "first",
    }
    /// Whose flags `/proc/kpageflags` shows of a page in a transparent huge page.
    "kpageflags" kpageflags: Kpageflags, "kpageflags of a huge page's tail",
    "fs/proc/page.c (stable_page_flags); recorded on 6.1.192, 6.12.107, 7.3.4" {
        /// The page's own (seen in 6.1).
        Page = "page",
        /// The head's (seen in 6.12 and 7.3).
        Folio = "folio",
    }
    /// When an asynchronous tag check fault of a process becomes `SEGV_MTEAERR`.
    "async_report" async_report: AsyncReport, "SEGV_MTEAERR delivered",
    "recorded on 6.1.192, 6.12.107, 7.3.4" {
        /// With the access (seen in 6.1).
        Access = "access",
        /// At a later entry to the kernel (seen in 6.12 and 7.3).
        KernelEntry = "kernel-entry",
    }
}

impl CheckedAt {
    /// Are the rules applied when a memslot is added?
    pub const fn at_slot(self) -> bool {
        matches!(self, Self::Slot | Self::SlotAndFault)
    }

    /// Are the rules applied at fault time?
    pub const fn at_fault(self) -> bool {
        matches!(self, Self::Fault | Self::SlotAndFault)
    }
}
