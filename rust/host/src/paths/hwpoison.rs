//! Memory failure: a frame that must never be read again.
//!
//! **Models** `MADV_HWPOISON` (`madvise_inject_error`, then `memory_failure`, mm/memory-failure.c), page by page: the page
//! is flagged, every mapping of it becomes a hwpoison entry between notifier calls, and whoever touches one gets
//! `SIGBUS`, KVM on behalf of a guest too. A page of shmem stays in the page cache, flagged (5.16 and later); one of a disk
//! file leaves it. A signal at once is for what was written only (`forcekill`).
//! **Leaves out** early kills, and clean pages of a disk file that could be read again.
//!
//! **Keeps**: a poisoned frame goes back to nobody.

use tagvisor_arch::{PAGE_SIZE, Pfn};

use crate::errno::Errno;
use crate::file::FileKind;
use crate::log::{Key, note};
use crate::mm::Pte;
use crate::page::{PageFlags, PageMapping};
use crate::paths::outline::outline;
use crate::paths::{notifier, split};
use crate::policy::HwpoisonSignal;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, PathId};

outline! {
    /// Every version.
    pub(super) MEMORY_FAILURE = "memory_failure" {
        "get_user_pages_fast" => |_, l, _| Flow::Call(PathId::GetUserPages, Locals { write: false, ..*l }),
        "TestSetPageHWPoison" => test_set_page_hwpoison,
        "try_to_split_thp_page" => |host, l, _| {
            l.file_end = l.end.0;
            match split::split_first(host, l, l.pfn) {
                Flow::Call(path, callee) => Flow::Call(path, Locals { seq: 1, ..callee }),
                other => other,
            }
        },
        "lock_page" => lock_page,
        "rmap_walk" => rmap_walk,
        "mmu_notifier_invalidate_range_start" => |_, l, _| Flow::Call(PathId::NotifierStart, notifier::range(l)),
        "try_to_unmap(TTU_HWPOISON)" => try_to_unmap,
        "mmu_notifier_invalidate_range_end" => |_, l, _| Flow::Call(PathId::NotifierEnd, notifier::range(l)),
        "next mapping" => |_, _, _| Flow::To("rmap_walk"),
        "identify_page_state" => identify_page_state,
    }
}

fn poisoned(l: &Locals) -> Pfn {
    l.pfn.expect("brought in")
}

fn test_set_page_hwpoison(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if l.ret < 0 {
        return Flow::Return(Errno::Efault.ret());
    }
    let pfn = Pfn(l.ret.unsigned_abs());
    let page = host.page(pfn);
    if page.mapping == PageMapping::None || page.flags.contains(PageFlags::RESERVED) {
        host.put_page(pfn);
        return Flow::Return(Errno::Ebusy.ret());
    }
    host.set_flag(pfn, PageFlags::HWPOISON, true);
    note!(host, [Key::Frame(pfn)], "PG_hwpoison of pfn {:#x} set", pfn.0);
    // Where the advice was given, while the walk goes elsewhere.
    (l.pfn, l.other) = (Some(pfn), (l.mm, l.va));
    Flow::Next
}

fn lock_page(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if host.has_flag(poisoned(l), PageFlags::LOCKED) {
        return Flow::Blocked;
    }
    host.set_flag(poisoned(l), PageFlags::LOCKED, true);
    l.write = false;
    Flow::Next
}

fn rmap_walk(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some((mm, va)) = host.rmap(poisoned(l)).first().copied() else {
        return Flow::To("identify_page_state");
    };
    (l.mm, l.va, l.end) = (mm, va, va + PAGE_SIZE);
    Flow::Next
}

fn try_to_unmap(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = poisoned(l);
    let Some(Pte::Present { pfn: mapped, dirty, .. }) = host.mm(l.mm).pte(l.va) else {
        return Flow::Next;
    };
    if mapped != pfn {
        return Flow::Next;
    }
    l.write |= dirty;
    host.mm_mut(l.mm).set_pte(l.va, Pte::Hwpoison(pfn));
    host.page_mut(pfn).refcount -= 1;
    if !matches!(host.page(pfn).mapping, PageMapping::File(..)) {
        host.ledger.discarded(l.mm, l.va, l.end);
    }
    note!(
        host,
        [Key::Frame(pfn), Key::page(l.mm, l.va)],
        "{} is poisoned: whoever touches it gets SIGBUS",
        host.place(l.mm, l.va)
    );
    Flow::Next
}

/// What is left of the page stays out of use. Our reference is never given back: of an anonymous page it is the last one.
fn identify_page_state(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = poisoned(l);
    host.set_flag(pfn, PageFlags::LOCKED, false);
    let file = matches!(host.page(pfn).mapping, PageMapping::File(..));
    let dirty = l.write || !file && host.has_flag(pfn, PageFlags::DIRTY);
    if dirty && host.policy.hwpoison_signal == HwpoisonSignal::Caller {
        host.mm_mut(l.other.0).sigbus = true;
    }
    if let PageMapping::File(file, index) = host.page(pfn).mapping {
        host.ledger.truncated(file, index, index + 1);
        host.page_mut(pfn).refcount -= 1;
        if host.file(file).kind == FileKind::Disk {
            host.file_mut(file).cache.remove(&index);
            host.page_mut(pfn).mapping = PageMapping::None;
        }
    } else if host.page(pfn).swap.is_none() {
        host.page_mut(pfn).mapping = PageMapping::None;
    } else {
        // The swap cache keeps it, for entries that were swapped out before.
        host.page_mut(pfn).refcount -= 1;
    }
    let (mm, va) = l.other;
    (l.mm, l.va, l.end) = (mm, va + PAGE_SIZE, tagvisor_arch::Va(l.file_end));
    if l.va == l.end {
        Flow::Return(0)
    } else {
        Flow::To("get_user_pages_fast")
    }
}
