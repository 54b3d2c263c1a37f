//! The page table lock.
//!
//! **Models** `pte_offset_map_lock` where a kernel path holds it over several steps: `do_swap_page` from `pte_same` to its
//! end, `change_pte_range` while a page's tags are synced. Whatever else looks at or changes a PTE under the lock waits
//! meanwhile; [`takes`] says which steps those are. One lock a page, where the kernel has one a page table: what two pages of
//! a table do to each other is nothing. **Leaves out** the lock of steps that take and drop it at once, for they are atomic
//! anyway, and of faults that read the PTE without it.
//!
//! **Keeps**: a task holds one at most, and none when its operation is over.

use tagvisor_arch::Va;

use crate::ids::MmId;
use crate::state::Host;
use crate::step::{Io, Locals, PathId};

/// The steps of a path that take the lock of the page, or of each page of the range, that their locals name.
const fn steps(path: PathId) -> &'static [&'static str] {
    match path {
        PathId::GetUserPages => &["follow_page_mask"],
        PathId::DoAnonymousPage | PathId::ReplacePage => &["set_pte_at"],
        PathId::DoWpPage => &["wp_can_reuse_anon_folio", "set_pte_at"],
        PathId::DoFault => &["set_ptes", "set_pte_at"],
        PathId::DoSwapPage => &["pte_same"],
        PathId::DoHugePmdAnonymousPage => &["set_pmd_at"],
        PathId::MadviseCollapse => &["__collapse_huge_page_isolate", "set_pmd_at"],
        PathId::ShrinkFolioList => &["folio_check_references", "try_to_unmap"],
        PathId::ZapPageRange => &["zap_pte_range"],
        PathId::DupMm => &["copy_pte_range"],
        PathId::Mprotect => &["change_pte_range"],
        PathId::MadviseFree => &["madvise_free_pte_range"],
        PathId::MigratePages => &["try_to_migrate_one", "set_pte_at"],
        PathId::SplitHugePage => &["try_to_migrate", "set_pte_at"],
        PathId::MemoryFailure => &["try_to_unmap(TTU_HWPOISON)"],
        PathId::WriteProtectPage => &["page_vma_mapped_walk", "set_pte_at"],
        PathId::Swapoff => &["unuse_pte"],
        PathId::UffdioCopy => &["mfill_atomic_install_pte"],
        _ => &[],
    }
}

/// Does the step take the lock?
pub(crate) fn takes(path: PathId, step: &str) -> bool {
    steps(path).contains(&step)
}

impl Host {
    /// Must a step with these locals wait for somebody else's lock?
    pub(crate) fn ptl_blocks(&self, l: &Locals, own: Option<(MmId, u64)>) -> bool {
        let end = l.end.vpn().max(l.va.vpn() + 1);
        let mut held = self.ptl.range((l.mm, l.va.vpn())..(l.mm, end));
        held.any(|lock| Some(*lock) != own)
    }
}

/// `pte_offset_map_lock`; nobody else has it.
pub(super) fn lock(host: &mut Host, io: &mut Io, mm: MmId, va: Va) {
    host.ptl.insert((mm, va.vpn()));
    io.ptl = Some((mm, va.vpn()));
}

/// `pte_unmap_unlock`, if it is held.
pub(super) fn unlock(host: &mut Host, io: &mut Io) {
    if let Some(lock) = io.ptl.take() {
        host.ptl.remove(&lock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::table;
    use crate::policy::Policy;

    #[test]
    fn every_step_named_here_exists() {
        let policy = Policy::profile("linux-6.12").unwrap();
        let all = [
            PathId::GetUserPages,
            PathId::DoAnonymousPage,
            PathId::ReplacePage,
            PathId::DoWpPage,
            PathId::DoFault,
            PathId::DoSwapPage,
            PathId::DoHugePmdAnonymousPage,
            PathId::MadviseCollapse,
            PathId::ShrinkFolioList,
            PathId::ZapPageRange,
            PathId::DupMm,
            PathId::Mprotect,
            PathId::MadviseFree,
            PathId::MigratePages,
            PathId::SplitHugePage,
            PathId::MemoryFailure,
            PathId::WriteProtectPage,
            PathId::Swapoff,
            PathId::UffdioCopy,
        ];
        for path in all {
            let known = table(path, &policy).steps;
            assert!(!steps(path).is_empty(), "{path:?}");
            for step in steps(path) {
                assert!(
                    takes(path, step) && known.iter().any(|s| s.name == *step),
                    "{path:?}: {step}"
                );
            }
        }
    }
}
