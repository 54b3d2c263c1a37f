//! `set_pte_at`: what happens to a page's tags when a PTE is about to show it.
//!
//! **Models** the guard of arm64's `set_pte_at` (K5): which new PTEs make it call `mte_sync_tags`, judged by the new PTE and,
//! in some versions, by the one it replaces. Every path that maps a page passes here just before it writes the PTE.
//! **Leaves out** the write itself, which is its caller's own step.
//!
//! **Keeps**: a special PTE (the zero page, device memory) never touches tags.

use crate::mm::{Prot, VmFlags, Vma};
use crate::policy::{RestoreUntagged, SyncGuard};
use crate::state::Host;
use crate::step::{Flow, Locals, PathId};
use crate::swap::SwpEntry;

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
    Flow::Call(
        PathId::MteSyncTags,
        Locals {
            entry,
            untagged_pte: !tagged,
            ..*l
        },
    )
}
