//! Tags of one page: initialise, restore, save.
//!
//! **Models** `mte_sync_tags` (arch/arm64/kernel/mte.c), `sanitise_mte_tags` (arch/arm64/kvm/mmu.c), `mte_save_tags` and
//! `mte_restore_tags` (arch/arm64/mm/mteswap.c). The protocols by which a page gets its first tags differ only in the
//! order of the same steps, so each is a table ([`tables`]); the caller's address says for whom. Of the PTE that
//! `mte_sync_tags` is called for, the locals say what it replaces (`entry`, a swap entry) and whether it is untagged.
//!
//! **Keeps**: a path that finds the page tagged changes nothing.

mod tables;

use tagvisor_arch::{PAGE_SIZE, PageTags, Pfn, Va};

use crate::errno::Errno;
use crate::hugetlb::{HPAGE_PAGES, HPAGE_SIZE};
use crate::ids::MmId;
use crate::log::{Key, note};
use crate::page::PageFlags;
use crate::policy::{RestoreAt, SaveFailure, SavedTags, StaleEntry};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, PathId};
use crate::swap::SwpEntry;

pub(super) use tables::*;

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
        host.ledger_flag_believed(pfn, (l.mm, l.va));
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
        host.ledger_flag_believed(pfn, (l.mm, l.va));
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
        host.ledger_flag_believed(pfn, (l.mm, l.va));
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

/// 7.2 and later: nobody's tags are on the shared zero page.
fn is_zero_pfn(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if page_of(l) == host.zero_pfn {
        return Flow::Return(0);
    }
    Flow::Next
}

fn already_tagged(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if host.has_flag(page_of(l), PageFlags::MTE_TAGGED) {
        host.ledger_flag_believed(page_of(l), (l.mm, l.va));
        return Flow::Return(0);
    }
    Flow::Next
}

/// K7: does `set_pte_at` look at the PTE it replaces? Then that was a swap entry whose saved tags it restores.
fn replaced_entry(host: &Host, l: &Locals) -> Option<SwpEntry> {
    l.entry.filter(|_| host.policy.restore_at != RestoreAt::BeforeFreeOnly)
}

fn restore_replaced(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    l.ret = 0;
    match replaced_entry(host, l) {
        Some(_) => Flow::Call(PathId::MteRestoreTags, *l),
        None => Flow::Next,
    }
}

/// The restore found something to write: this is all there is to do.
fn was_restored(_: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if l.ret == 1 { Flow::Return(0) } else { Flow::Next }
}

/// The same where the flag was set before anything else.
fn xa_load_flagged(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    if replaced_entry(host, l).is_none() {
        return Flow::To("pte_tagged");
    }
    match xa_load(host, l, io) {
        Flow::Next => Flow::Next,
        _ => Flow::To("pte_tagged"),
    }
}

/// An untagged PTE clears nothing.
fn pte_tagged(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if !l.untagged_pte {
        return Flow::Next;
    }
    let pfn = page_of(l);
    if host.has_flag(pfn, PageFlags::MTE_TAGGED) {
        note!(
            host,
            [Key::Frame(pfn)],
            "PG_mte_tagged of pfn {:#x} stays set, no tags written",
            pfn.0
        );
    }
    Flow::Return(0)
}

/// 6.2 and 6.3: the loop of `mte_sync_tags` sets the flag whatever was done before.
fn pte_tagged_or_flag(_: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if l.untagged_pte {
        Flow::To("set_page_mte_tagged")
    } else {
        Flow::Next
    }
}

/// `tag_sync_lock` of v14 to v16: nobody who takes it sees a state between recheck and flag, so all of it is one step.
fn sync_under_tag_sync_lock(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    if host.has_flag(page_of(l), PageFlags::MTE_TAGGED) {
        return Flow::Return(0);
    }
    if replaced_entry(host, l).is_some() && matches!(xa_load(host, l, io), Flow::Next) {
        return restore_under_tag_sync_lock(host, l, io);
    }
    if l.untagged_pte {
        return Flow::Return(0);
    }
    mte_clear_page_tags(host, l, io);
    set_page_mte_tagged(host, l, io);
    Flow::Return(0)
}

fn restore_under_tag_sync_lock(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    if !host.has_flag(page_of(l), PageFlags::MTE_TAGGED) {
        mte_restore_page_tags(host, l, io);
        set_page_mte_tagged(host, l, io);
    }
    erase_at_restore(host, l, io)
}

fn sanitise_under_tag_sync_lock(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    if !host.has_flag(page_of(l), PageFlags::MTE_TAGGED) {
        mte_clear_page_tags(host, l, io);
        set_page_mte_tagged(host, l, io);
    }
    Flow::Return(0)
}

fn mte_clear_page_tags(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = page_of(l);
    let flags = host.tag_flags_of(pfn);
    if host.tags_by_head(pfn) && !l.only_page {
        // The folio's flag speaks for all of it, and as much is cleared as the PMD, or the block, maps.
        for index in 0..HPAGE_PAGES {
            let va = Va(l.va.0 / HPAGE_SIZE * HPAGE_SIZE + index * PAGE_SIZE);
            host.clear_page_tags(Pfn(flags.0 + index), (l.mm, va));
        }
    } else {
        host.clear_page_tags(pfn, (l.mm, l.va));
    }
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

/// K1 = restore: the buffer has done its work, or so one might think. Returns that there was something to restore.
fn erase_at_restore(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if host.policy.saved_tags_erased == SavedTags::Restore {
        host.mte_invalidate_tags(entry_of(l), "restored");
    }
    Flow::Return(1)
}

fn page_mte_tagged(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, entry) = (page_of(l), entry_of(l));
    if host.has_flag(pfn, PageFlags::MTE_TAGGED) {
        return Flow::Next;
    }
    if host.policy.stale_entry == StaleEntry::Erased {
        host.mte_invalidate_tags(entry, "an unflagged page is written to the slot");
    }
    note!(
        host,
        [Key::Frame(pfn), Key::Slot(entry)],
        "PG_mte_tagged of pfn {:#x} clear: no tags saved",
        pfn.0
    );
    Flow::Return(0)
}

/// `kmalloc` of the buffer. K3: without one the page stays; only a counterfactual writes it out all the same.
fn mte_allocate_tag_storage(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if !host.failing_tag_saves.next() {
        return Flow::Next;
    }
    host.stats.tag_save_failures += 1;
    let (pfn, entry) = (page_of(l), entry_of(l));
    note!(
        host,
        [Key::Frame(pfn), Key::Slot(entry)],
        "no memory to save the tags of pfn {:#x}: -ENOMEM",
        pfn.0
    );
    if host.policy.save_failure == SaveFailure::SwapAnyway {
        return Flow::Return(0);
    }
    Flow::Return(Errno::Enomem.ret())
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
