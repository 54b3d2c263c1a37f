//! Page migration: a page's content moves to another frame.
//!
//! **Models** `migrate_pages` (mm/migrate.c) of one small page, as compaction, `move_pages` and soft offline ask for it:
//! `try_to_migrate` of every mapping between notifier calls leaves migration entries that touching tasks wait for,
//! `__migrate_folio` moves the page cache or the swap cache over to the destination and copies (K13, K14; which comes first
//! is a knob), `remove_migration_pte` maps the destination with `set_pte_at` over the entry (K4, K5). A page that somebody
//! holds is tried three times with the same destination, then mapped again where it was. A huge page is split first. **Leaves out** isolation, and
//! migration of whole huge pages and of pages that are not on the LRU.
//!
//! **Keeps**: while entries stand for a page, nobody maps it anew; `l.from` is the source, `l.pfn` what will be mapped.

use tagvisor_arch::{PAGE_SIZE, Pfn, Va};

use crate::errno::Errno;
use crate::file::{Cached, FileKind};
use crate::ids::MmId;
use crate::log::{Key, note};
use crate::madvise::Advice;
use crate::mm::{Prot, Pte, VmFlags};
use crate::ops::Op;
use crate::page::{PageFlags, PageMapping};
use crate::paths::outline::outline;
use crate::paths::pte::{self, Old};
use crate::paths::{fault, notifier, split};
use crate::policy::SoftOfflineReserved;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, PathId};

/// `NR_MAX_MIGRATE_ASYNC_RETRY`.
const PASSES: u32 = 3;

outline! {
    /// 6.11 and later: what the copy did to the destination's flag stays when the move fails.
    pub(super) COPY_THEN_MOVE = "migrate_pages" {
        "split_folio" => |host, l, _| split::split_first(host, l, l.from),
        "alloc_migration_target" => alloc_migration_target,
        "rmap_walk" => rmap_walk,
        "mmu_notifier_invalidate_range_start" => |_, l, _| Flow::Call(PathId::NotifierStart, notifier::range(l)),
        "try_to_migrate_one" => try_to_migrate_one,
        "mmu_notifier_invalidate_range_end" => |_, l, _| Flow::Call(PathId::NotifierEnd, notifier::range(l)),
        "next mapping" => |_, _, _| Flow::To("rmap_walk"),
        "folio_ref_count" => folio_ref_count,
        "folio_mc_copy" => |_, l, _| Flow::Call(PathId::CopyHighpage, *l),
        "__folio_migrate_mapping" => folio_migrate_mapping,
        "folio_migrate_flags" => folio_migrate_flags,
        "remove_migration_ptes" => remove_migration_ptes,
        "set_pte_at" => set_pte_at,
        "folio_unlock" => folio_unlock,
    }
}
outline! {
    /// Up to 6.10.
    pub(super) MOVE_THEN_COPY = "migrate_pages" {
        "split_folio" => |host, l, _| split::split_first(host, l, l.from),
        "alloc_migration_target" => alloc_migration_target,
        "rmap_walk" => rmap_walk,
        "mmu_notifier_invalidate_range_start" => |_, l, _| Flow::Call(PathId::NotifierStart, notifier::range(l)),
        "try_to_migrate_one" => try_to_migrate_one,
        "mmu_notifier_invalidate_range_end" => |_, l, _| Flow::Call(PathId::NotifierEnd, notifier::range(l)),
        "next mapping" => |_, _, _| Flow::To("rmap_walk"),
        "folio_ref_count" => folio_ref_count,
        "folio_migrate_mapping" => folio_migrate_mapping,
        "folio_migrate_copy" => |_, l, _| Flow::Call(PathId::CopyHighpage, *l),
        "folio_migrate_flags" => folio_migrate_flags,
        "remove_migration_ptes" => remove_migration_ptes,
        "set_pte_at" => set_pte_at,
        "folio_unlock" => folio_unlock,
    }
}
outline! {
    /// `move_pages` of one page.
    pub(super) DO_MOVE_PAGES = "do_move_pages" {
        "mmap_read_lock" => fault::mmap_read_lock,
        "add_page_for_migration" => add_page_for_migration,
        "migrate_pages" => |_, l, _| if l.ret < 0 { Flow::Return(l.ret) } else { Flow::Tail(PathId::MigratePages, *l) },
    }
}
outline! {
    /// `MADV_SOFT_OFFLINE`, page by page: what is there moves, and the frame is never used again.
    pub(super) SOFT_OFFLINE = "soft_offline_page" {
        "get_user_pages_fast" => |_, l, _| Flow::Call(PathId::GetUserPages, Locals { write: false, ..*l }),
        "soft_offline_in_use_page" => soft_offline_in_use_page,
        "next page" => next_page,
    }
}

/// A page of user memory, mapped there.
fn add_page_for_migration(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pte = host.mm(l.mm).pte(l.va);
    host.mm_mut(l.mm).mmap_lock.read_unlock();
    l.ret = match pte {
        Some(Pte::Present { pfn, .. }) if host.is_movable(pfn) => {
            l.from = Some(pfn);
            0
        }
        Some(Pte::Present { .. }) => Errno::Efault.ret(),
        _ => Errno::Enoent.ret(),
    };
    Flow::Next
}

fn soft_offline_in_use_page(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if l.ret < 0 {
        return Flow::Return(Errno::Efault.ret());
    }
    let pfn = Pfn(l.ret.unsigned_abs());
    if host.put_page(pfn) {
        return Flow::Tail(PathId::FreeUnrefPage, Locals { pfn: Some(pfn), ..*l });
    }
    if !host.is_movable(pfn) {
        let errno = match host.policy.soft_offline_reserved {
            SoftOfflineReserved::Eio => Errno::Eio,
            SoftOfflineReserved::Enotrecoverable => Errno::Enotrecoverable,
        };
        return Flow::Return(errno.ret());
    }
    let from = Some(pfn);
    Flow::Call(PathId::MigratePages, Locals { from, index: 0, ..*l })
}

fn next_page(_: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if l.ret < 0 {
        return Flow::Return(Errno::Ebusy.ret());
    }
    l.va += PAGE_SIZE;
    if l.va == l.end {
        Flow::Return(0)
    } else {
        Flow::To("get_user_pages_fast")
    }
}

fn source(l: &Locals) -> Pfn {
    l.from.expect("the caller names the page")
}

/// The source is locked, and a destination is there, locked too.
fn alloc_migration_target(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let from = source(l);
    let fit = host.is_movable(from) && !host.is_thp(from);
    if !fit || host.has_flag(from, PageFlags::LOCKED) {
        return Flow::Return(Errno::Eagain.ret());
    }
    let Some(pfn) = host.alloc_page(PageMapping::None) else {
        return Flow::Return(Errno::Enomem.ret());
    };
    host.set_flag(from, PageFlags::LOCKED, true);
    host.set_flag(pfn, PageFlags::LOCKED, true);
    note!(
        host,
        [Key::Frame(from), Key::Frame(pfn)],
        "pfn {:#x} is to move to pfn {:#x}",
        from.0,
        pfn.0
    );
    l.pfn = Some(pfn);
    Flow::Next
}

fn rmap_walk(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some((mm, va)) = host.rmap(source(l)).first().copied() else {
        return Flow::To("folio_ref_count");
    };
    (l.mm, l.va, l.end) = (mm, va, va + PAGE_SIZE);
    Flow::Next
}

fn try_to_migrate_one(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let from = source(l);
    let Some(Pte::Present { pfn, write, dirty, .. }) = host.mm(l.mm).pte(l.va) else {
        return Flow::Next;
    };
    if pfn != from {
        return Flow::Next;
    }
    let page = host.page_mut(from);
    page.refcount -= 1;
    page.flags
        .set(PageFlags::DIRTY, page.flags.contains(PageFlags::DIRTY) || dirty);
    let exclusive = page.flags.contains(PageFlags::ANON_EXCLUSIVE);
    let entry = Pte::Migration {
        pfn,
        write,
        dirty,
        exclusive,
    };
    host.mm_mut(l.mm).set_pte(l.va, entry);
    note!(
        host,
        [Key::Frame(from), Key::page(l.mm, l.va)],
        "a migration entry for pfn {:#x} at {}",
        from.0,
        host.place(l.mm, l.va)
    );
    Flow::Next
}

/// Nobody but the page cache may have the source: else another try, or, after the last, back to where it was.
fn folio_ref_count(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    l.ret = 0;
    if host.has_expected_refs(source(l)) {
        return Flow::Next;
    }
    l.index += 1;
    if l.index < PASSES {
        return Flow::To("rmap_walk");
    }
    let pfn = l.pfn.expect("allocated");
    host.drop_unmapped_page(pfn);
    note!(
        host,
        [Key::Frame(source(l))],
        "pfn {:#x} is held by somebody: it stays where it is",
        source(l).0
    );
    (l.pfn, l.ret) = (l.from, Errno::Eagain.ret());
    Flow::To("remove_migration_ptes")
}

/// The swap cache, or the page cache, holds the destination from now on. The references are looked at once more, for good.
fn folio_migrate_mapping(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let (from, to) = (source(l), l.pfn.expect("allocated"));
    if !host.has_expected_refs(from) {
        return folio_ref_count(host, l, io);
    }
    let (mapping, swap) = (host.page(from).mapping, host.page(from).swap);
    host.page_mut(to).mapping = mapping;
    host.page_mut(to).swap = swap;
    host.page_mut(from).swap = None;
    if let Some(entry) = swap {
        host.swap.add_to_swap_cache(entry, to);
    }
    if let PageMapping::File(file, index) = mapping
        && host.file(file).cache.get(&index) == Some(&Cached::Page(from))
    {
        host.file_mut(file).cache.insert(index, Cached::Page(to));
        host.page_mut(from).refcount -= 1;
        host.page_mut(to).refcount += 1;
    }
    host.page_mut(from).mapping = PageMapping::None;
    Flow::Next
}

/// All flags but those of the tags, which `copy_highpage` has seen to.
fn folio_migrate_flags(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (from, to) = (source(l), l.pfn.expect("allocated"));
    let kept = PageFlags::DIRTY | PageFlags::YOUNG | PageFlags::LAZYFREE | PageFlags::RESTORED;
    let flags = host.page(from).flags;
    if flags.contains(PageFlags::LRU) {
        host.lru_add(to);
    }
    host.page_mut(to).flags.remove(kept);
    host.page_mut(to).flags |= flags & kept;
    Flow::Next
}

/// The next entry that stands for the source; `set_pte_at` replaces something neither none nor present.
fn remove_migration_ptes(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some((mm, va)) = host.migration_entry(source(l)) else {
        return Flow::To("folio_unlock");
    };
    (l.mm, l.va, l.end) = (mm, va, va + PAGE_SIZE);
    let (_, vma) = host.mm(mm).vma(va).expect("an entry lies in a VMA");
    // The result of the migration outlives the call.
    l.merged = u32::from(l.ret < 0);
    pte::sync_tags(host, l, vma, Old::NonSwap)
}

fn set_pte_at(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("allocated");
    l.ret = if l.merged > 0 { Errno::Eagain.ret() } else { 0 };
    let Some(Pte::Migration {
        pfn: from,
        write,
        dirty,
        exclusive,
    }) = host.mm(l.mm).pte(l.va)
    else {
        return Flow::To("remove_migration_ptes");
    };
    if Some(from) != l.from {
        return Flow::To("remove_migration_ptes");
    }
    let vma = host
        .mm(l.mm)
        .vma(l.va)
        .map(|(_, v)| *v)
        .expect("an entry lies in a VMA");
    let pte = Pte::Present {
        pfn,
        write: write && vma.prot.contains(Prot::WRITE),
        dirty,
        tagged: vma.flags.contains(VmFlags::MTE),
        special: false,
    };
    host.mm_mut(l.mm).set_pte(l.va, pte);
    let page = host.page_mut(pfn);
    page.refcount += 1;
    page.flags.set(PageFlags::ANON_EXCLUSIVE, exclusive);
    note!(
        host,
        [Key::Frame(pfn), Key::page(l.mm, l.va)],
        "pfn {:#x} takes the entry's place at {}",
        pfn.0,
        host.place(l.mm, l.va)
    );
    Flow::To("remove_migration_ptes")
}

/// Both are let go of. Of the source nothing is left but the frame, which soft offline keeps from ever being used again.
fn folio_unlock(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let (from, to) = (source(l), l.pfn.expect("allocated"));
    host.set_flag(from, PageFlags::LOCKED, false);
    if from == to {
        return Flow::Return(l.ret);
    }
    host.set_flag(to, PageFlags::LOCKED, false);
    if matches!(io.op, Op::Madvise(_, _, _, Advice::SoftOffline)) {
        host.set_flag(from, PageFlags::HWPOISON, true);
    }
    let locals = Locals {
        pfn: Some(from),
        entry: None,
        ..*l
    };
    if host.put_page(to) {
        // Unmapped meanwhile: nobody has it any more.
        host.drop_unmapped_page(to);
    }
    Flow::Tail(PathId::FreeUnrefPage, locals)
}

impl Host {
    /// On the LRU: user memory that is none of the shared zero page's, a device's or ramfs'.
    fn is_movable(&self, pfn: Pfn) -> bool {
        let moves = match self.page(pfn).mapping {
            PageMapping::None => false,
            PageMapping::Anon(_) | PageMapping::Ksm => true,
            PageMapping::File(file, _) => matches!(self.file(file).kind, FileKind::Shmem | FileKind::Disk),
        };
        moves
            && !self
                .page(pfn)
                .flags
                .intersects(PageFlags::RESERVED | PageFlags::HWPOISON)
    }

    /// `folio_expected_refs`, of a page that is mapped nowhere.
    fn has_expected_refs(&self, pfn: Pfn) -> bool {
        let page = self.page(pfn);
        let in_cache = matches!(page.mapping, PageMapping::File(..)) && page.swap.is_none();
        page.refcount == u32::from(in_cache)
    }

    /// A place where a migration entry stands for the page.
    fn migration_entry(&self, from: Pfn) -> Option<(MmId, Va)> {
        let entries = |(id, mm): (MmId, &crate::mm::Mm)| {
            let stands = |pte: &Pte| matches!(pte, Pte::Migration { pfn, .. } if *pfn == from);
            let found = mm.ptes.iter().find(|(_, pte)| stands(pte));
            found.map(|(vpn, _)| (id, Va(vpn * PAGE_SIZE)))
        };
        self.mm_ids().find_map(entries)
    }
}
