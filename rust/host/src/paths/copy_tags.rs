//! `KVM_ARM_MTE_COPY_TAGS`: the VMM reads or writes a guest's tags.
//!
//! **Models** `kvm_vm_ioctl_mte_copy_tags` (arch/arm64/kvm/guest.c) page by page in the order of 6.12: GUP, online page,
//! copy, flag. Argument checks stand in the machine's ioctl. **Leaves out** what it leaves out: it takes no `mmu_lock`,
//! checks no VMA and marks no page of the dirty log.
//!
//! **Keeps**: after a write the page is flagged, also when the user buffer ended early (its tags are then cleared).

use tagvisor_arch::{GRANULES_PER_PAGE, Ipa, PAGE_SIZE, PageTags, Pfn, Tag};

use crate::errno::Errno;
use crate::ids::Actor;
use crate::log::{Key, note};
use crate::ops::{Op, OpResult};
use crate::page::PageFlags;
use crate::paths::mte;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};

pub(super) static FROM: Path = Path {
    name: "kvm_vm_ioctl_mte_copy_tags",
    steps: &[
        Step {
            name: "mutex_lock(slots_lock)",
            run: lock_slots,
        },
        Step {
            name: "gfn_to_pfn_prot",
            run: gfn_to_pfn,
        },
        Step {
            name: "pfn_to_online_page",
            run: pfn_to_online_page,
        },
        Step {
            name: "mte_copy_tags_to_user",
            run: copy_to_user,
        },
        Step {
            name: "kvm_release_page",
            run: release_page,
        },
        Step {
            name: "next page",
            run: next_page,
        },
        Step {
            name: "mutex_unlock(slots_lock)",
            run: unlock_slots,
        },
    ],
};
pub(super) static TO: Path = Path {
    name: "kvm_vm_ioctl_mte_copy_tags",
    steps: &[
        Step {
            name: "mutex_lock(slots_lock)",
            run: lock_slots,
        },
        Step {
            name: "gfn_to_pfn_prot",
            run: gfn_to_pfn,
        },
        Step {
            name: "pfn_to_online_page",
            run: pfn_to_online_page,
        },
        Step {
            name: "try_page_mte_tagging",
            run: try_page_mte_tagging,
        },
        Step {
            name: "mte_copy_tags_from_user",
            run: copy_from_user,
        },
        Step {
            name: "kvm_release_page",
            run: release_page,
        },
        Step {
            name: "next page",
            run: next_page,
        },
        Step {
            name: "mutex_unlock(slots_lock)",
            run: unlock_slots,
        },
    ],
};

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

/// Only memory with tag storage has tags to copy (K28).
fn pfn_to_online_page(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if l.ret < 0 {
        l.ret = Errno::Efault.ret();
        return Flow::To("mutex_unlock(slots_lock)");
    }
    let pfn = Pfn(l.ret.unsigned_abs());
    l.pfn = Some(pfn);
    if !host.pfn_online(pfn) {
        l.ret = Errno::Efault.ret();
        return Flow::To("mutex_unlock(slots_lock)");
    }
    Flow::Next
}

/// K26: an unflagged page reads as zeros; the flag is not set.
fn copy_to_user(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let pfn = l.pfn.expect("brought in");
    let flagged = host.has_flag(pfn, PageFlags::MTE_TAGGED);
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

fn copy_from_user(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let pfn = l.pfn.expect("brought in");
    let Op::CopyTagsTo { tags, .. } = &io.op else {
        unreachable!("entered for Op::CopyTagsTo only")
    };
    let from = l.index as usize * GRANULES_PER_PAGE;
    let source: Vec<u8> = tags.iter().skip(from).take(GRANULES_PER_PAGE).copied().collect();
    l.ret = 0;
    if source.len() < GRANULES_PER_PAGE {
        // Short copy: all of the page's tags are cleared rather than left half written (6.2 and later).
        l.ret = Errno::Efault.ret();
    }
    let complete = l.ret == 0;
    for granule in 0..GRANULES_PER_PAGE {
        let tag = source
            .get(granule)
            .filter(|_| complete)
            .map_or(Tag::ZERO, |t| Tag::new(*t));
        host.mem
            .set_tag(pfn.base() + granule as u64 * tagvisor_arch::GRANULE_SIZE, tag);
        host.ledger_tag_written(pfn, granule, tag, (l.mm, l.va), Actor::Process(l.mm));
    }
    // K27: the page is dirty, so an older saved copy will be superseded.
    host.page_mut(pfn).flags |= PageFlags::MTE_TAGGED | PageFlags::DIRTY;
    note!(
        host,
        [Key::page(l.mm, l.va), Key::Frame(pfn)],
        "tags of ipa {} written, PG_mte_tagged set",
        current(l)
    );
    Flow::Next
}

/// `l.out` keeps whether the copy failed over the call that may free the page.
fn release_page(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    l.out = u64::from(l.ret < 0);
    let pfn = l.pfn.expect("brought in");
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
