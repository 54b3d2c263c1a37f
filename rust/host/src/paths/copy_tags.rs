//! `KVM_ARM_MTE_COPY_TAGS`: the VMM reads or writes a guest's tags.
//!
//! **Models** `kvm_vm_ioctl_mte_copy_tags` (arch/arm64/kvm/guest.c) page by page: GUP, online page (K28), copy, flag (K25),
//! release. Argument checks stand in the machine's ioctl. **Leaves out** what it leaves out: it takes no `mmu_lock`,
//! checks no VMA and marks no page of the dirty log.
//!
//! **Keeps**: some pages done win over the error of the next.

use tagvisor_arch::{GRANULE_SIZE, GRANULES_PER_PAGE, Ipa, PAGE_SIZE, PageTags, Pfn, Tag};

use crate::errno::Errno;
use crate::ids::Actor;
use crate::log::{Key, note};
use crate::ops::{Op, OpResult};
use crate::page::PageFlags;
use crate::paths::mte;
use crate::paths::outline::outline;
use crate::policy::{CopyTagsLogging, CopyTagsOffline, CopyTagsUnflagged};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, PathId};

outline! {
    /// Every version.
    pub(super) FROM = "kvm_vm_ioctl_mte_copy_tags" {
        "mutex_lock(slots_lock)" => lock_slots,
        "gfn_to_pfn_prot" => gfn_to_pfn,
        "pfn_to_online_page" => pfn_to_online_page,
        "mte_copy_tags_to_user" => copy_to_user,
        "kvm_release_page" => release_page,
        "next page" => next_page,
        "mutex_unlock(slots_lock)" => unlock_slots,
    }
}
outline! {
    /// v10 to v12 of the series: the flag stays as it is.
    pub(super) TO_NO_FLAG = "kvm_vm_ioctl_mte_copy_tags" {
        "mutex_lock(slots_lock)" => lock_slots,
        "nr_memslots_dirty_logging" => while_logging,
        "gfn_to_pfn_prot" => gfn_to_pfn,
        "pfn_to_page" => pfn_to_online_page,
        "mte_copy_tags_from_user" => copy_from_user,
        "kvm_release_page" => release_page,
        "next page" => next_page,
        "mutex_unlock(slots_lock)" => unlock_slots,
    }
}
outline! {
    /// v13 of the series, 5.14 to 6.1: the flag after a whole page; part of a page stays, unflagged.
    pub(super) TO_AFTER_COPY = "kvm_vm_ioctl_mte_copy_tags" {
        "mutex_lock(slots_lock)" => lock_slots,
        "nr_memslots_dirty_logging" => while_logging,
        "gfn_to_pfn_prot" => gfn_to_pfn,
        "pfn_to_online_page" => pfn_to_online_page,
        "mte_copy_tags_from_user" => copy_from_user,
        "set_bit(PG_mte_tagged)" => flag_if_complete,
        "kvm_release_page" => release_page,
        "next page" => next_page,
        "mutex_unlock(slots_lock)" => unlock_slots,
    }
}
outline! {
    /// v16, v17 of the series: the flag when the page may be somebody else's.
    pub(super) TO_AFTER_RELEASE = "kvm_vm_ioctl_mte_copy_tags" {
        "mutex_lock(slots_lock)" => lock_slots,
        "nr_memslots_dirty_logging" => while_logging,
        "gfn_to_pfn_prot" => gfn_to_pfn,
        "pfn_to_online_page" => pfn_to_online_page,
        "mte_copy_tags_from_user" => copy_from_user,
        "kvm_release_page" => release_page,
        "set_bit(PG_mte_tagged)" => flag_after_release,
        "next page" => next_page,
        "mutex_unlock(slots_lock)" => unlock_slots,
    }
}
outline! {
    /// 6.2-rc1 to rc4: the flag always; a part of a page stays mixed with what was there.
    pub(super) TO_LOCK_MIXED = "kvm_vm_ioctl_mte_copy_tags" {
        "mutex_lock(slots_lock)" => lock_slots,
        "nr_memslots_dirty_logging" => while_logging,
        "gfn_to_pfn_prot" => gfn_to_pfn,
        "pfn_to_online_page" => pfn_to_online_page,
        "try_page_mte_tagging" => try_page_mte_tagging,
        "mte_copy_tags_from_user" => copy_from_user,
        "set_page_mte_tagged" => flag_always,
        "kvm_release_page" => release_page,
        "next page" => next_page,
        "mutex_unlock(slots_lock)" => unlock_slots,
    }
}
outline! {
    /// 6.2 and later: the flag always, the tags of a part of a page are cleared.
    pub(super) TO_LOCK_CLEAR = "kvm_vm_ioctl_mte_copy_tags" {
        "mutex_lock(slots_lock)" => lock_slots,
        "nr_memslots_dirty_logging" => while_logging,
        "gfn_to_pfn_prot" => gfn_to_pfn,
        "pfn_to_online_page" => pfn_to_online_page,
        "try_page_mte_tagging" => try_page_mte_tagging,
        "mte_copy_tags_from_user" => copy_from_user,
        "mte_clear_page_tags if short" => clear_if_short,
        "set_page_mte_tagged" => flag_always,
        "kvm_release_page" => release_page,
        "next page" => next_page,
        "mutex_unlock(slots_lock)" => unlock_slots,
    }
}

/// The page in turn; `l.index` counts pages done.
fn current(l: &Locals) -> Ipa {
    l.ipa + u64::from(l.index) * PAGE_SIZE
}

fn pages_asked(io: &Io) -> u32 {
    match io.op {
        Op::CopyTagsFrom { pages, .. } | Op::CopyTagsTo { pages, .. } => pages,
        _ => unreachable!("entered for tag copies only"),
    }
}

fn lock_slots(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    if std::mem::replace(&mut host.vm_mut(l.vm).slots_lock, true) {
        return Flow::Blocked;
    }
    if let Op::CopyTagsFrom { .. } = io.op {
        io.result = OpResult::Tags {
            tags: Vec::new(),
            covered: 0,
        };
    }
    l.index = 0;
    Flow::Next
}

fn gfn_to_pfn(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    l.ret = 0;
    if l.index == pages_asked(io) {
        return Flow::To("mutex_unlock(slots_lock)");
    }
    let gfn = current(l).gfn();
    let kvm = host.vm(l.vm);
    let slot = kvm
        .memslot(gfn)
        .filter(|s| !(l.write && s.flags & crate::kvm::SLOT_READONLY != 0));
    let Some(slot) = slot else {
        l.ret = Errno::Efault.ret();
        return Flow::To("mutex_unlock(slots_lock)");
    };
    (l.mm, l.va) = (kvm.mm, slot.hva(gfn));
    Flow::Call(PathId::GetUserPages, *l)
}

/// K27: the log would not show the tags that are about to change.
fn while_logging(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let logs = host.vm(l.vm).slots.values().any(crate::kvm::Memslot::logs_dirty);
    if logs && host.policy.copy_tags_logging == CopyTagsLogging::Busy {
        l.ret = Errno::Ebusy.ret();
        return Flow::To("mutex_unlock(slots_lock)");
    }
    Flow::Next
}

/// K28: only memory with tag storage has tags to copy.
fn pfn_to_online_page(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if l.ret < 0 {
        l.ret = Errno::Efault.ret();
        return Flow::To("mutex_unlock(slots_lock)");
    }
    let pfn = Pfn(l.ret.unsigned_abs());
    l.pfn = Some(pfn);
    let access = host.policy.copy_tags_offline == CopyTagsOffline::Access && host.pfn_valid(pfn);
    if access || host.pfn_online(pfn) {
        return Flow::Next;
    }
    if host.policy.copy_tags_offline == CopyTagsOffline::FaultLeak && host.pfn_valid(pfn) {
        // The reference that GUP took is never dropped.
        host.page_mut(pfn).refcount += 1;
    }
    l.ret = Errno::Efault.ret();
    Flow::To("mutex_unlock(slots_lock)")
}

/// K26: an unflagged page reads as zeros, once as what lies in the frame; the flag is not set.
fn copy_to_user(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let pfn = l.pfn.expect("brought in");
    let flagged =
        host.has_flag(pfn, PageFlags::MTE_TAGGED) || host.policy.copy_tags_unflagged == CopyTagsUnflagged::Raw;
    let page = if flagged {
        host.mem.page_tags(pfn)
    } else {
        PageTags::ZERO
    };
    let (Op::CopyTagsFrom { room, .. }, OpResult::Tags { tags, covered }) = (&io.op, &mut io.result) else {
        unreachable!("entered for Op::CopyTagsFrom only")
    };
    let room = (*room as usize).saturating_sub(tags.len()).min(GRANULES_PER_PAGE);
    tags.extend(page.iter().take(room).map(Tag::get));
    *covered = u64::from(l.index + 1) * PAGE_SIZE;
    if room < GRANULES_PER_PAGE {
        *covered -= PAGE_SIZE;
        l.ret = Errno::Efault.ret();
    }
    // An unflagged page is answered with zeros, whatever lies in the frame: nobody has read its tags.
    for granule in 0..if flagged { room } else { 0 } {
        host.ledger_tag_read(pfn, granule, page.get(granule), (l.mm, l.va), Actor::Process(l.mm));
    }
    host.ledger_tags_read_by_vmm(l.vm, current(l));
    note!(
        host,
        [Key::page(l.mm, l.va), Key::Frame(pfn)],
        "tags of ipa {} read",
        current(l)
    );
    Flow::Next
}

/// The result of `try_page_mte_tagging` is ignored: either way the tags are about to be written and the flag set.
fn try_page_mte_tagging(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    match mte::try_page_mte_tagging(host, l, io) {
        Flow::Blocked => Flow::Blocked,
        _ => Flow::Next,
    }
}

/// Copies what the user buffer holds; `l.ret` says whether that was a whole page.
fn copy_from_user(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let pfn = l.pfn.expect("brought in");
    let Op::CopyTagsTo { tags, .. } = &io.op else {
        unreachable!("entered for Op::CopyTagsTo only")
    };
    let from = l.index as usize * GRANULES_PER_PAGE;
    let source = tags.get(from..).unwrap_or_default();
    let source = &source[..source.len().min(GRANULES_PER_PAGE)];
    let complete = source.len() == GRANULES_PER_PAGE;
    l.ret = if complete { 0 } else { Errno::Efault.ret() };
    // Part of an unflagged page is nobody's tags: whoever flags the page later clears them.
    let owned = complete || host.has_flag(pfn, PageFlags::MTE_TAGGED) || host.has_flag(pfn, PageFlags::MTE_LOCK);
    for (granule, tag) in source.iter().enumerate() {
        let tag = Tag::new(*tag);
        host.mem.set_tag(pfn.base() + granule as u64 * GRANULE_SIZE, tag);
        if owned {
            host.ledger_tag_written(pfn, granule, tag, (l.mm, l.va), Actor::Process(l.mm));
        }
    }
    host.ledger_tags_changed_by_vmm(l.vm, current(l));
    note!(
        host,
        [Key::page(l.mm, l.va), Key::Frame(pfn)],
        "{} tags of ipa {} written",
        source.len(),
        current(l)
    );
    Flow::Next
}

/// A page whose tags could be read only in part keeps none of them.
fn clear_if_short(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if l.ret == 0 {
        return Flow::Next;
    }
    let pfn = l.pfn.expect("brought in");
    for granule in 0..GRANULES_PER_PAGE {
        host.mem.set_tag(pfn.base() + granule as u64 * GRANULE_SIZE, Tag::ZERO);
        host.ledger_tag_written(pfn, granule, Tag::ZERO, (l.mm, l.va), Actor::Process(l.mm));
    }
    note!(host, [Key::Frame(pfn)], "short copy: tags of pfn {:#x} cleared", pfn.0);
    Flow::Next
}

fn flag_if_complete(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    if l.ret == 0 {
        flag_always(host, l, io)
    } else {
        Flow::Next
    }
}

fn flag_always(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    mte::set_page_mte_tagged(host, l, io)
}

/// The reference is gone: whoever owns the frame by now gets the flag.
fn flag_after_release(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    if l.out == 0 {
        flag_always(host, l, io)
    } else {
        Flow::Next
    }
}

/// `l.out` keeps whether the copy failed over the call that may free the page. K27: a page written to is dirty, so that an
/// older saved copy of its tags will be superseded.
fn release_page(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    l.out = u64::from(l.ret < 0);
    let pfn = l.pfn.expect("brought in");
    if l.write && host.is_counted(pfn) {
        host.set_flag(pfn, PageFlags::DIRTY, true);
    }
    if host.put_page(pfn) {
        Flow::Call(PathId::FreeUnrefPage, Locals { entry: None, ..*l })
    } else {
        Flow::Next
    }
}

fn next_page(_: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if l.out == 1 {
        l.ret = Errno::Efault.ret();
        return Flow::Next;
    }
    l.index += 1;
    Flow::To("gfn_to_pfn_prot")
}

/// Some pages done win over the error: the byte count is returned.
fn unlock_slots(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    host.vm_mut(l.vm).slots_lock = false;
    if l.ret < 0 && l.index == 0 {
        io.result = OpResult::Errno(Errno::from_ret(l.ret).unwrap_or(Errno::Efault));
    } else if let OpResult::None = io.result {
        io.result = OpResult::Value(u64::from(l.index) * PAGE_SIZE);
    }
    Flow::Return(0)
}
