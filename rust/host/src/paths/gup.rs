//! `get_user_pages`: a reference to the page that a process has at an address.
//!
//! **Models** the loop KVM, ptrace and `COPY_TAGS` use (mm/gup.c; `hva_to_pfn` in `virt/kvm/kvm_main.c`): look, else fault and
//! look again, under `mmap_lock`. **Leaves out** the fast walk without the lock, runs of several pages.
//!
//! **Keeps**: `mmap_lock` is held for read from the first step until the path returns.

use crate::mm::{Prot, Pte};
use crate::page::PageFlags;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};

pub(super) static GET_USER_PAGES: Path = Path {
    name: "get_user_pages",
    steps: &[
        Step {
            name: "mmap_read_lock",
            run: mmap_read_lock,
        },
        Step {
            name: "follow_page_mask",
            run: follow_page_mask,
        },
        Step {
            name: "faultin_page",
            run: |_, l, _| Flow::Call(PathId::HandleMmFault, *l),
        },
        Step {
            name: "retry",
            run: gup_retry,
        },
    ],
};

pub(super) fn mmap_read_lock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if host.mm_mut(l.mm).mmap_lock.try_read() {
        Flow::Next
    } else {
        Flow::Blocked
    }
}

/// Takes a reference if the PTE allows the access. The second result says whether the PTE is writable, which lets a read
/// fault map the page writable at stage 2 (`hva_to_pfn_slow`).
fn follow_page_mask(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let Some(Pte::Present { pfn, write, .. }) = host.mm(l.mm).pte(l.va) else {
        return Flow::Next;
    };
    // check_vma_flags: memory that may not be accessed so is not, whatever its PTE.
    let need = if l.write { Prot::WRITE } else { Prot::READ };
    let allowed = l.force || host.mm(l.mm).vma(l.va).is_some_and(|(_, v)| v.prot.contains(need));
    let forced = l.force && host.has_flag(pfn, PageFlags::ANON_EXCLUSIVE);
    let poisoned = host.has_flag(pfn, PageFlags::HWPOISON);
    if !allowed || l.write && !write && !forced || poisoned {
        return Flow::Next;
    }
    if host.is_counted(pfn) {
        let page = host.page_mut(pfn);
        page.refcount += 1;
        page.flags |= PageFlags::YOUNG;
        page.flags
            .set(PageFlags::DIRTY, page.flags.contains(PageFlags::DIRTY) || l.write);
    }
    host.mm_mut(l.mm).mmap_lock.read_unlock();
    l.out = u64::from(write);
    Flow::Return(i64::try_from(pfn.0).expect("48-bit addresses"))
}

fn gup_retry(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if l.ret < 0 {
        host.mm_mut(l.mm).mmap_lock.read_unlock();
        return Flow::Return(l.ret);
    }
    Flow::To("follow_page_mask")
}
