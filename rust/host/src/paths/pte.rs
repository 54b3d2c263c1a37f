//! `set_pte_at`: what happens to a page's tags when a PTE is about to show it.
//!
//! **Models** the guard of arm64's `set_pte_at` (K5): which new PTEs make it call `mte_sync_tags`, judged by the new PTE and,
//! in some versions, by the one it replaces. Every path that maps a page passes here just before it writes the PTE.
//! **Leaves out** the write itself, which is its caller's own step.
//!
//! **Keeps**: a special PTE (the zero page, device memory) never touches tags.

use tagvisor_arch::{PAGE_SIZE, Pfn};

use crate::hugetlb::{HPAGE_PAGES, compound_head};
use crate::mm::{Prot, VmFlags, Vma};
use crate::paths::outline::outline;
use crate::policy::{RestoreUntagged, SyncGuard, SyncPages};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, PathId};
use crate::swap::SwpEntry;

outline! {
    /// Up to 6.7: a PTE of a huge page's first page stands for all of it.
    pub(super) MTE_SYNC_TAGS_COMPOUND = "mte_sync_tags" {
        "compound_nr" => next_page,
        "next page" => |_, _, _| Flow::To("compound_nr"),
    }
}

/// The PTE that is replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Old {
    None,
    Present,
    Swap(SwpEntry),
    /// A migration entry: neither present nor a place in swap.
    NonSwap,
}

/// Calls `mte_sync_tags` for `l.pfn`, about to be mapped at `l.va` of `vma`, if the guard lets it through.
pub(super) fn sync_tags(host: &Host, l: &Locals, vma: &Vma, old: Old) -> Flow {
    let tagged = vma.flags.contains(VmFlags::MTE);
    let readable = vma.prot.contains(Prot::READ);
    let replaced = matches!(old, Old::Swap(_) | Old::NonSwap) && host.policy.restore_untagged == RestoreUntagged::Yes;
    let passes = match host.policy.sync_guard {
        SyncGuard::Present => readable,
        SyncGuard::PresentTagged => tagged,
        SyncGuard::TaggedOrReplaced => readable && (tagged || replaced),
        SyncGuard::TaggedReadable => readable && tagged,
    };
    if !passes {
        return Flow::Next;
    }
    let entry = match old {
        Old::Swap(entry) => Some(entry),
        _ => None,
    };
    let compound = host.policy.sync_pages == SyncPages::Compound;
    let first = l.pfn.is_some_and(|pfn| host.is_thp(pfn) && compound_head(pfn) == pfn);
    let path = if compound && first {
        PathId::MteSyncTagsCompound
    } else {
        PathId::MteSyncTags
    };
    Flow::Call(
        path,
        Locals {
            entry,
            untagged_pte: !tagged,
            index: 0,
            ..*l
        },
    )
}

/// The next page of the huge page, as if it were mapped behind the one before.
fn next_page(_: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let index = u64::from(l.index);
    if index == HPAGE_PAGES {
        return Flow::Return(0);
    }
    l.index += 1;
    let (va, pfn) = (l.va + index * PAGE_SIZE, l.pfn.map(|head| Pfn(head.0 + index)));
    Flow::Call(PathId::MteSyncTags, Locals { va, pfn, ..*l })
}
