//! Faults on files.
//!
//! **Models** `do_read_fault`, `do_cow_fault` and `do_shared_fault` (mm/memory.c) over `shmem_get_folio_gfp` and ramfs'
//! `filemap_fault`. **Leaves out** `page_mkwrite`, huge shmem pages.
//!
//! **Keeps**: a page is mapped only while the page cache still has it.

use tagvisor_arch::{PAGE_SIZE, Pfn, Va};

use crate::errno::Errno;
use crate::file::{Cached, FileKind};
use crate::log::{Key, note};
use crate::mm::{Backing, FAULT_AROUND_BYTES, Prot, Pte, VmFlags, Vma};
use crate::page::{PageFlags, PageMapping};
use crate::paths::pte::{self, Old};
use crate::paths::{fault, wp};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};

pub(super) static DO_FAULT: Path = Path {
    name: "do_fault",
    steps: &[
        Step {
            name: "do_fault_around",
            run: do_fault_around,
        },
        Step {
            name: "folio_try_get",
            run: folio_try_get,
        },
        Step {
            name: "folio_trylock",
            run: folio_trylock,
        },
        Step {
            name: "set_ptes",
            run: map_around,
        },
        Step {
            name: "filemap_get_folio",
            run: filemap_get_folio,
        },
        Step {
            name: "shmem_alloc_and_add_folio",
            run: alloc_and_add,
        },
        Step {
            name: "copy_user_highpage",
            run: copy_user_highpage,
        },
        Step {
            name: "mte_sync_tags",
            run: fault::sync_new_page,
        },
        Step {
            name: "set_pte_at",
            run: set_pte_at,
        },
        Step {
            name: "put_page",
            run: wp::put_from,
        },
    ],
};

fn vma_of(host: &Host, l: &Locals) -> (u64, Vma) {
    let (start, vma) = host.mm(l.mm).vma(l.va).expect("mmap_lock is held");
    (start, *vma)
}

/// Is a private copy wanted (`do_cow_fault`)?
fn cow(vma: &Vma, l: &Locals) -> bool {
    l.write && !vma.flags.contains(VmFlags::SHARED)
}

/// A read fault also maps the pages around it that the page cache has already (`fault_around_bytes`: 64 KiB, aligned),
/// where no PTE is yet. Each of them passes `mte_sync_tags` like any other.
fn do_fault_around(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    const WINDOW: u64 = FAULT_AROUND_BYTES / PAGE_SIZE;
    let (start, vma) = vma_of(host, l);
    let Backing::File(file) = vma.backing else {
        unreachable!("entered for a file's VMA only")
    };
    let first = l.va.vpn() / WINDOW * WINDOW;
    let mut around = first.max(start)..(first + WINDOW).min(vma.end);
    let found = around.find_map(|vpn| {
        let index = vma.offset + (vpn - start);
        match host.file(file).cache.get(&index) {
            Some(Cached::Page(pfn)) if index < host.file(file).pages => {
                let skipped = PageFlags::LOCKED | PageFlags::HWPOISON;
                let free = host.mm(l.mm).pte(Va(vpn * PAGE_SIZE)).is_none();
                (free && !host.page(*pfn).flags.intersects(skipped)).then_some((vpn, index, *pfn))
            }
            _ => None,
        }
    });
    let Some((vpn, index, pfn)) = found.filter(|_| !l.write) else {
        return Flow::To("filemap_get_folio");
    };
    (l.file, l.file_page, l.pfn, l.end) = (file, index, Some(pfn), Va(vpn * PAGE_SIZE));
    Flow::Next
}

/// A reference for as long as it takes, which others may notice (`next_uptodate_folio`).
fn folio_try_get(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("found");
    if host.file(l.file).cache.get(&l.file_page) != Some(&Cached::Page(pfn)) {
        return Flow::To("do_fault_around");
    }
    host.page_mut(pfn).refcount += 1;
    Flow::Next
}

fn put_around(host: &mut Host, pfn: Pfn) -> Flow {
    if host.put_page(pfn) {
        host.drop_unmapped_page(pfn);
    }
    Flow::To("do_fault_around")
}

/// Locked by somebody meanwhile, it is left out.
fn folio_trylock(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let pfn = l.pfn.expect("found");
    if host.has_flag(pfn, PageFlags::LOCKED) {
        return put_around(host, pfn);
    }
    host.set_flag(pfn, PageFlags::LOCKED, true);
    let (_, vma) = vma_of(host, l);
    pte::sync_tags(host, &Locals { va: l.end, ..*l }, &vma, Old::None)
}

/// Maps the page found (at `l.end`) if it still is where it was, and looks for the next; the faulting one may be among them.
fn map_around(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (_, vma) = vma_of(host, l);
    let (va, pfn) = (l.end, l.pfn.expect("found"));
    let cached = host.file(l.file).cache.get(&l.file_page) == Some(&Cached::Page(pfn));
    host.set_flag(pfn, PageFlags::LOCKED, false);
    if !cached || host.mm(l.mm).pte(va).is_some() {
        return put_around(host, pfn);
    }
    let pte = Pte::Present {
        pfn,
        write: vma.prot.contains(Prot::WRITE) && vma.flags.contains(VmFlags::SHARED),
        dirty: false,
        tagged: vma.flags.contains(VmFlags::MTE),
        special: false,
    };
    host.mm_mut(l.mm).set_pte(va, pte);
    note!(
        host,
        [Key::page(l.mm, va), Key::Frame(pfn), Key::File(l.file, l.file_page)],
        "page {} of file {} mapped at {}",
        l.file_page,
        l.file.0,
        host.place(l.mm, va)
    );
    Flow::To("do_fault_around")
}

/// The page in the page cache, with a reference; a page in swap is brought in first.
fn filemap_get_folio(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if !l.write && host.mm(l.mm).pte(l.va).is_some() {
        return Flow::Return(0);
    }
    let (start, vma) = vma_of(host, l);
    let Backing::File(file) = vma.backing else {
        unreachable!("entered for a file's VMA only")
    };
    (l.file, l.file_page) = (file, vma.offset + (l.va.vpn() - start));
    (l.pfn, l.from, l.entry) = (None, None, None);
    if l.file_page >= host.file(file).pages {
        l.out = fault::BUS;
        return Flow::Return(Errno::Efault.ret());
    }
    match host.file(file).cache.get(&l.file_page).copied() {
        Some(Cached::Page(pfn)) if host.has_flag(pfn, PageFlags::HWPOISON) => {
            l.out = fault::HWPOISON;
            Flow::Return(Errno::Efault.ret())
        }
        Some(Cached::Page(pfn)) => {
            host.page_mut(pfn).refcount += 1;
            l.pfn = Some(pfn);
            Flow::To("copy_user_highpage")
        }
        Some(Cached::Swap(entry)) => {
            l.entry = Some(entry);
            Flow::Call(PathId::ShmemSwapinFolio, *l)
        }
        None => Flow::Next,
    }
}

/// A new page, read from the disk or zeroed for a hole; after a swap-in the cache is looked at again. `__GFP_ZEROTAGS` is for anonymous memory
/// only, so the tags stay what they were.
fn alloc_and_add(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    if l.entry.take().is_some() {
        return if l.ret < 0 {
            Flow::Return(l.ret)
        } else {
            Flow::To("filemap_get_folio")
        };
    }
    if host.file(l.file).cache.contains_key(&l.file_page) {
        return Flow::To("filemap_get_folio");
    }
    let Some(pfn) = host.alloc_page(PageMapping::File(l.file, l.file_page)) else {
        return Flow::Return(Errno::Enomem.ret());
    };
    match host.file(l.file).disk.get(&l.file_page).cloned() {
        Some(data) => host.mem.write(pfn.base(), data.as_slice()),
        None => host.mem.zero_page(pfn),
    }
    // One reference for the page cache, one for us.
    host.page_mut(pfn).refcount = 2;
    host.file_mut(l.file).cache.insert(l.file_page, Cached::Page(pfn));
    let kind = host.file(l.file).kind;
    if kind.evictable() {
        host.lru_add(pfn);
        host.set_flag(pfn, PageFlags::DIRTY, kind == FileKind::Shmem);
    }
    note!(
        host,
        [Key::Frame(pfn), Key::File(l.file, l.file_page)],
        "pfn {:#x} allocated for page {} of file {}",
        pfn.0,
        l.file_page,
        l.file.0
    );
    l.pfn = Some(pfn);
    Flow::Next
}

fn copy_user_highpage(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (_, vma) = vma_of(host, l);
    if !cow(&vma, l) {
        return Flow::Next;
    }
    l.from = l.pfn;
    let Some(pfn) = host.alloc_page(PageMapping::Anon(l.va.page())) else {
        l.ret = Errno::Enomem.ret();
        return Flow::To("put_page");
    };
    l.pfn = Some(pfn);
    Flow::Call(PathId::CopyHighpage, *l)
}

/// Maps the page, unless the PTE was filled or the page left the cache meanwhile; the fault then comes again.
fn set_pte_at(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    l.ret = 0;
    let (_, vma) = vma_of(host, l);
    let pfn = l.pfn.expect("found");
    let private = l.from.is_some();
    let cached = host.file(l.file).cache.get(&l.file_page) == Some(&Cached::Page(l.from.unwrap_or(pfn)));
    if host.mm(l.mm).pte(l.va).is_some() || !cached {
        if private {
            host.drop_unmapped_page(pfn);
        } else {
            l.from = Some(pfn);
        }
        return Flow::Next;
    }
    let shared = vma.flags.contains(VmFlags::SHARED);
    let pte = Pte::Present {
        pfn,
        write: vma.prot.contains(Prot::WRITE) && (private || shared),
        dirty: l.write,
        tagged: vma.flags.contains(VmFlags::MTE),
        special: false,
    };
    host.mm_mut(l.mm).set_pte(l.va, pte);
    if private {
        host.anon_vma_prepare(l);
        host.set_flag(pfn, PageFlags::ANON_EXCLUSIVE, true);
        host.lru_add(pfn);
        host.ledger_copied_on_write((l.mm, l.va));
    }
    note!(
        host,
        [Key::page(l.mm, l.va), Key::Frame(pfn), Key::File(l.file, l.file_page)],
        "page {} of file {} mapped at {}{}",
        l.file_page,
        l.file.0,
        host.place(l.mm, l.va),
        if private { " as a private copy" } else { "" }
    );
    Flow::Next
}
