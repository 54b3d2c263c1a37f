//! The knobs of a page's tags on the host: K1 to K17.
//!
//! **Models** when tags are saved, restored, cleared and copied, and in which order with their flag.
//!
//! **Keeps**: a knob is written once, with its kernel function, values and source.

macro_rules! tag_knobs {
    ($next:ident $($more:ident)*; $($before:tt)*) => { $next! { $($more)*; $($before)*
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
    } };
}

pub(super) use tag_knobs;
