//! The knobs of memory management around tags: K32, K33, and what no row of the matrix names.
//!
//! **Models** hugetlb, transparent huge pages, swap devices, migration, memory failure, and what user space is shown of it.
//!
//! **Keeps**: a knob is written once, with its kernel function, values and source.

macro_rules! mm_knobs {
    ($next:ident $($more:ident)*; $($before:tt)*) => { $next! { $($more)*; $($before)*
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
    } };
}

pub(super) use mm_knobs;
