//! Tags of one page: initialise, restore, save.
//!
//! **Models** `mte_sync_tags` (arch/arm64/kernel/mte.c), `sanitise_mte_tags` (arch/arm64/kvm/mmu.c), `mte_save_tags` and
//! `mte_restore_tags` (arch/arm64/mm/mteswap.c). The three protocols by which a page gets its first tags differ only in the
//! order of the same steps, so each is a table; the caller's address says for whom.
//!
//! **Keeps**: a path that finds the page tagged changes nothing.

use tagvisor_arch::{PageTags, Pfn, Va};

use crate::ids::MmId;
use crate::log::{Key, note};
use crate::page::PageFlags;
use crate::policy::SavedTags;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, Step};
use crate::swap::SwpEntry;

/// 6.2 and later: `PG_mte_lock` first, the flag last; losers wait for the flag.
const LATCH: &[Step] = &[
    Step {
        name: "try_page_mte_tagging",
        run: try_page_mte_tagging,
    },
    Step {
        name: "mte_clear_page_tags",
        run: mte_clear_page_tags,
    },
    Step {
        name: "set_page_mte_tagged",
        run: set_page_mte_tagged,
    },
];
/// The flag is seen before the tags are written.
const FLAG_FIRST: &[Step] = &[
    Step {
        name: "test_and_set_bit(PG_mte_tagged)",
        run: test_and_set_mte_tagged,
    },
    Step {
        name: "mte_clear_page_tags",
        run: mte_clear_page_tags,
    },
];

pub(super) static SYNC_LOCK: Path = Path {
    name: "mte_sync_tags",
    steps: LATCH,
};
pub(super) static SYNC_FLAG_FIRST: Path = Path {
    name: "mte_sync_tags",
    steps: FLAG_FIRST,
};
pub(super) static SANITISE_LOCK: Path = Path {
    name: "sanitise_mte_tags",
    steps: LATCH,
};
pub(super) static SANITISE_TEST_AND_SET: Path = Path {
    name: "sanitise_mte_tags",
    steps: FLAG_FIRST,
};
pub(super) static SANITISE_TEST_CLEAR_SET: Path = Path {
    name: "sanitise_mte_tags",
    steps: &[
        Step {
            name: "test_bit(PG_mte_tagged)",
            run: test_mte_tagged,
        },
        Step {
            name: "mte_clear_page_tags",
            run: mte_clear_page_tags,
        },
        Step {
            name: "set_bit(PG_mte_tagged)",
            run: set_page_mte_tagged,
        },
    ],
};

pub(super) static RESTORE_LOCK: Path = Path {
    name: "mte_restore_tags",
    steps: &[
        Step {
            name: "xa_load(mte_pages)",
            run: xa_load,
        },
        Step {
            name: "try_page_mte_tagging",
            run: try_page_mte_tagging,
        },
        Step {
            name: "mte_restore_page_tags",
            run: mte_restore_page_tags,
        },
        Step {
            name: "set_page_mte_tagged",
            run: set_page_mte_tagged,
        },
        Step {
            name: "saved tags no longer needed?",
            run: erase_at_restore,
        },
    ],
};
pub(super) static RESTORE_FLAG_FIRST: Path = Path {
    name: "mte_restore_tags",
    steps: &[
        Step {
            name: "xa_load(mte_pages)",
            run: xa_load,
        },
        Step {
            name: "test_and_set_bit(PG_mte_tagged)",
            run: test_and_set_mte_tagged,
        },
        Step {
            name: "mte_restore_page_tags",
            run: mte_restore_page_tags,
        },
        Step {
            name: "saved tags no longer needed?",
            run: erase_at_restore,
        },
    ],
};

pub(super) static SAVE: Path = Path {
    name: "mte_save_tags",
    steps: &[
        Step {
            name: "page_mte_tagged",
            run: page_mte_tagged,
        },
        Step {
            name: "xa_store(mte_pages)",
            run: xa_store,
        },
    ],
};

fn page_of(l: &Locals) -> Pfn {
    l.pfn.expect("the caller names the page")
}

fn entry_of(l: &Locals) -> SwpEntry {
    l.entry.expect("the caller names the swap entry")
}

/// `try_page_mte_tagging`: true for one caller only; the others wait until the winner has set `PG_mte_tagged`. Testing the
/// flag first is what the lock implies; it matters when a counterfactual policy sets the flag without the lock.
pub(super) fn try_page_mte_tagging(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = page_of(l);
    if host.has_flag(pfn, PageFlags::MTE_TAGGED) {
        return Flow::Return(0);
    }
    if host.has_flag(pfn, PageFlags::MTE_LOCK) {
        return Flow::Blocked;
    }
    host.set_flag(pfn, PageFlags::MTE_LOCK, true);
    note!(host, [Key::Frame(pfn)], "PG_mte_lock of pfn {:#x} taken", pfn.0);
    Flow::Next
}

fn test_and_set_mte_tagged(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = page_of(l);
    if host.has_flag(pfn, PageFlags::MTE_TAGGED) {
        note!(
            host,
            [Key::Frame(pfn)],
            "PG_mte_tagged of pfn {:#x} is set: tags taken as valid",
            pfn.0
        );
        return Flow::Return(0);
    }
    host.set_flag(pfn, PageFlags::MTE_TAGGED, true);
    note!(
        host,
        [Key::Frame(pfn)],
        "PG_mte_tagged of pfn {:#x} set, tags not written yet",
        pfn.0
    );
    Flow::Next
}

fn test_mte_tagged(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = page_of(l);
    if host.has_flag(pfn, PageFlags::MTE_TAGGED) {
        return Flow::Return(0);
    }
    note!(
        host,
        [Key::Frame(pfn)],
        "PG_mte_tagged of pfn {:#x} is clear: decides to clear the tags",
        pfn.0
    );
    Flow::Next
}

fn mte_clear_page_tags(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = page_of(l);
    host.clear_page_tags(pfn, (l.mm, l.va));
    note!(host, [Key::Frame(pfn)], "tags of pfn {:#x} cleared", pfn.0);
    Flow::Next
}

pub(super) fn set_page_mte_tagged(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = page_of(l);
    host.set_flag(pfn, PageFlags::MTE_TAGGED, true);
    note!(host, [Key::Frame(pfn)], "PG_mte_tagged of pfn {:#x} set", pfn.0);
    Flow::Next
}

fn xa_load(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, entry) = (page_of(l), entry_of(l));
    if host.mte_pages.contains(entry) {
        return Flow::Next;
    }
    note!(
        host,
        [Key::Frame(pfn), Key::Slot(entry)],
        "no mte_pages[{entry}]: nothing to restore to pfn {:#x}",
        pfn.0
    );
    Flow::Return(0)
}

fn mte_restore_page_tags(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, entry) = (page_of(l), entry_of(l));
    if let Some(tags) = host.mte_pages.load(entry).copied() {
        host.mem.set_page_tags(pfn, &tags);
        host.set_flag(pfn, PageFlags::RESTORED, true);
        host.ledger.restored(entry, pfn);
        host.stats.tag_restores += 1;
        note!(
            host,
            [Key::Frame(pfn), Key::Slot(entry)],
            "tags of mte_pages[{entry}] written to pfn {:#x}",
            pfn.0
        );
    }
    Flow::Next
}

/// K1 = restore: the buffer has done its work, or so one might think.
fn erase_at_restore(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if host.policy.saved_tags_erased == SavedTags::Restore {
        host.mte_invalidate_tags(entry_of(l), "restored");
    }
    Flow::Return(0)
}

fn page_mte_tagged(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, entry) = (page_of(l), entry_of(l));
    if host.has_flag(pfn, PageFlags::MTE_TAGGED) {
        return Flow::Next;
    }
    // K2: a stale mte_pages[entry] would not be erased here.
    note!(
        host,
        [Key::Frame(pfn), Key::Slot(entry)],
        "PG_mte_tagged of pfn {:#x} clear: no tags saved",
        pfn.0
    );
    Flow::Return(0)
}

fn xa_store(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, entry) = (page_of(l), entry_of(l));
    let tags = host.mem.page_tags(pfn);
    host.mte_pages.store(entry, tags);
    host.set_flag(pfn, PageFlags::RESTORED, false);
    host.ledger.saved(entry, pfn);
    host.stats.tag_saves += 1;
    host.stats.saved_tag_bytes_peak = host.stats.saved_tag_bytes_peak.max(host.mte_pages.bytes());
    note!(
        host,
        [Key::Frame(pfn), Key::Slot(entry)],
        "tags of pfn {:#x} saved as mte_pages[{entry}]",
        pfn.0
    );
    Flow::Return(0)
}

impl Host {
    /// `mte_clear_page_tags` of the page that a process has at an address.
    pub(crate) fn clear_page_tags(&mut self, pfn: Pfn, at: (MmId, Va)) {
        self.mem.set_page_tags(pfn, &PageTags::ZERO);
        self.stats.page_tag_clears += 1;
        self.ledger_initialised(pfn, at);
    }

    /// `mte_invalidate_tags`: erases the saved tags of a slot, if any.
    pub(crate) fn mte_invalidate_tags(&mut self, entry: SwpEntry, why: &str) {
        if self.mte_pages.erase(entry) {
            self.ledger.slot_touched(entry);
            note!(self, [Key::Slot(entry)], "mte_pages[{entry}] erased: {why}");
        }
    }
}
