//! The tables: in which order each kernel tests the flag, writes the tags and sets the flag.
//!
//! **Models** `mte_sync_tags` and `mte_restore_tags` by K4, `arch_swap_restore` by K11, `sanitise_mte_tags` by K18, and
//! `mte_save_tags`.
//!
//! **Keeps**: a table is an outline of the kernel function, in its own words.

use super::{
    already_tagged, erase_at_restore, is_zero_pfn, mte_allocate_tag_storage, mte_clear_page_tags,
    mte_restore_page_tags, page_mte_tagged, pte_tagged, pte_tagged_or_flag, restore_replaced,
    restore_under_tag_sync_lock, sanitise_under_tag_sync_lock, set_page_mte_tagged, sync_under_tag_sync_lock,
    test_and_set_mte_tagged, test_mte_tagged, try_page_mte_tagging, was_restored, xa_load, xa_load_flagged, xa_store,
};
use crate::paths::outline::outline;

outline! {
    /// 6.4 and later: `PG_mte_lock` first, the flag last; losers wait for the flag.
    pub(in crate::paths) SYNC_LOCK = "mte_sync_tags" {
        "page_mte_tagged" => already_tagged,
        "mte_restore_tags" => restore_replaced,
        "restored?" => was_restored,
        "pte_tagged" => pte_tagged,
        "try_page_mte_tagging" => try_page_mte_tagging,
        "mte_clear_page_tags" => mte_clear_page_tags,
        "set_page_mte_tagged" => set_page_mte_tagged,
    }
}
outline! {
    /// 6.2 and 6.3: the flag is set also when nothing was written.
    pub(in crate::paths) SYNC_LOCK_ALWAYS = "mte_sync_tags" {
        "page_mte_tagged" => already_tagged,
        "mte_restore_tags" => restore_replaced,
        "restored?" => was_restored,
        "pte_tagged" => pte_tagged_or_flag,
        "try_page_mte_tagging" => try_page_mte_tagging,
        "mte_clear_page_tags" => mte_clear_page_tags,
        "set_page_mte_tagged" => set_page_mte_tagged,
    }
}
outline! {
    /// 6.1.30 and later of that branch: test, clear, flag.
    pub(in crate::paths) SYNC_CLEAR_FIRST = "mte_sync_tags" {
        "page_mte_tagged" => already_tagged,
        "mte_restore_tags" => restore_replaced,
        "restored?" => was_restored,
        "pte_tagged" => pte_tagged,
        "test_bit(PG_mte_tagged)" => test_mte_tagged,
        "mte_clear_page_tags" => mte_clear_page_tags,
        "set_page_mte_tagged" => set_page_mte_tagged,
    }
}
outline! {
    /// 6.1.18 to 6.1.29: the flag is set also when nothing was written.
    pub(in crate::paths) SYNC_CLEAR_FIRST_ALWAYS = "mte_sync_tags" {
        "page_mte_tagged" => already_tagged,
        "mte_restore_tags" => restore_replaced,
        "restored?" => was_restored,
        "pte_tagged" => pte_tagged_or_flag,
        "test_bit(PG_mte_tagged)" => test_mte_tagged,
        "mte_clear_page_tags" => mte_clear_page_tags,
        "set_page_mte_tagged" => set_page_mte_tagged,
    }
}
outline! {
    /// 6.1, and 5.10 to 5.13: the flag is seen before the tags are written.
    pub(in crate::paths) SYNC_FLAG_FIRST = "mte_sync_tags" {
        "page_mte_tagged" => already_tagged,
        "mte_restore_tags" => restore_replaced,
        "restored?" => was_restored,
        "pte_tagged" => pte_tagged,
        "test_and_set_bit(PG_mte_tagged)" => test_and_set_mte_tagged,
        "mte_clear_page_tags" => mte_clear_page_tags,
    }
}
outline! {
    /// 5.14 to 6.0: the flag is set before anything else, and stays when there is nothing to write.
    pub(in crate::paths) SYNC_FLAG_ALWAYS = "mte_sync_tags" {
        "test_and_set_bit(PG_mte_tagged)" => test_and_set_mte_tagged,
        "xa_load(mte_pages)" => xa_load_flagged,
        "mte_restore_page_tags" => mte_restore_page_tags,
        "saved tags no longer needed?" => erase_at_restore,
        "pte_tagged" => pte_tagged,
        "mte_clear_page_tags" => mte_clear_page_tags,
    }
}
outline! {
    /// v14 to v16 of the series.
    pub(in crate::paths) SYNC_GLOBAL_LOCK = "mte_sync_tags" {
        "under tag_sync_lock" => sync_under_tag_sync_lock,
    }
}

outline! {
    /// 6.2 and later.
    pub(in crate::paths) RESTORE_LOCK = "mte_restore_tags" {
        "xa_load(mte_pages)" => xa_load,
        "try_page_mte_tagging" => try_page_mte_tagging,
        "mte_restore_page_tags" => mte_restore_page_tags,
        "set_page_mte_tagged" => set_page_mte_tagged,
        "saved tags no longer needed?" => erase_at_restore,
    }
}
outline! {
    /// 6.1: the flag is seen before the tags are written.
    pub(in crate::paths) RESTORE_FLAG_FIRST = "mte_restore_tags" {
        "xa_load(mte_pages)" => xa_load,
        "test_and_set_bit(PG_mte_tagged)" => test_and_set_mte_tagged,
        "mte_restore_page_tags" => mte_restore_page_tags,
        "saved tags no longer needed?" => erase_at_restore,
    }
}
outline! {
    /// v10 to v13 of the series.
    pub(in crate::paths) RESTORE_LAST = "mte_restore_tags" {
        "xa_load(mte_pages)" => xa_load,
        "test_bit(PG_mte_tagged)" => test_mte_tagged,
        "mte_restore_page_tags" => mte_restore_page_tags,
        "set_bit(PG_mte_tagged)" => set_page_mte_tagged,
        "saved tags no longer needed?" => erase_at_restore,
    }
}
outline! {
    /// v14 to v16 of the series.
    pub(in crate::paths) RESTORE_GLOBAL_LOCK = "mte_restore_tags" {
        "xa_load(mte_pages)" => xa_load,
        "under tag_sync_lock" => restore_under_tag_sync_lock,
    }
}
outline! {
    /// 5.10 to 6.0 for shmem: the tags are written whether the page is flagged or not.
    pub(in crate::paths) RESTORE_OVERWRITE = "arch_swap_restore" {
        "xa_load(mte_pages)" => xa_load,
        "mte_restore_page_tags" => mte_restore_page_tags,
        "set_bit(PG_mte_tagged)" => set_page_mte_tagged,
        "saved tags no longer needed?" => erase_at_restore,
    }
}

outline! {
    /// 6.2 to 7.1.
    pub(in crate::paths) SANITISE_LOCK = "sanitise_mte_tags" {
        "try_page_mte_tagging" => try_page_mte_tagging,
        "mte_clear_page_tags" => mte_clear_page_tags,
        "set_page_mte_tagged" => set_page_mte_tagged,
    }
}
outline! {
    /// 7.2 and later.
    pub(in crate::paths) SANITISE_LOCK_SKIP_ZERO = "sanitise_mte_tags" {
        "is_zero_pfn" => is_zero_pfn,
        "try_page_mte_tagging" => try_page_mte_tagging,
        "mte_clear_page_tags" => mte_clear_page_tags,
        "set_page_mte_tagged" => set_page_mte_tagged,
    }
}
outline! {
    /// v10 to v12 of the series.
    pub(in crate::paths) SANITISE_TEST_AND_SET = "sanitise_mte_tags" {
        "test_and_set_bit(PG_mte_tagged)" => test_and_set_mte_tagged,
        "mte_clear_page_tags" => mte_clear_page_tags,
    }
}
outline! {
    /// v13, v16, 5.14 to 6.1.
    pub(in crate::paths) SANITISE_TEST_CLEAR_SET = "sanitise_mte_tags" {
        "test_bit(PG_mte_tagged)" => test_mte_tagged,
        "mte_clear_page_tags" => mte_clear_page_tags,
        "set_bit(PG_mte_tagged)" => set_page_mte_tagged,
    }
}
outline! {
    /// v14 and v15 of the series.
    pub(in crate::paths) SANITISE_GLOBAL_LOCK = "sanitise_mte_tags" {
        "under tag_sync_lock" => sanitise_under_tag_sync_lock,
    }
}

outline! {
    /// Every version: only a flagged page's tags are saved, and only if there is memory for them.
    pub(in crate::paths) SAVE = "mte_save_tags" {
        "page_mte_tagged" => page_mte_tagged,
        "mte_allocate_tag_storage" => mte_allocate_tag_storage,
        "xa_store(mte_pages)" => xa_store,
    }
}
