//! The tags of a range in a core dump.
//!
//! **Models** `mte_dump_tag_range` (arch/arm64/kernel/elfcore.c): page by page, `get_dump_page` brings back what is swapped
//! out and leaves alone what is not there or is the zero page, and only a page whose own `PG_mte_tagged` is set is read;
//! anything else is a hole of zeros in the file. Nothing keeps a page's tags from being written meanwhile. **Leaves out**
//! the data, and writing the file.
//!
//! **Keeps**: the pages are looked at in the order of their addresses, each once.

use tagvisor_arch::{GRANULES_PER_PAGE, PAGE_SIZE, PageTags, Pfn, Tag, Va};

use crate::ids::Actor;
use crate::log::{Key, note};
use crate::mm::{Backing, Pte};
use crate::ops::OpResult;
use crate::page::PageFlags;
use crate::paths::outline::outline;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, PathId};

outline! {
    /// 5.18 and later.
    pub(super) MTE_DUMP_TAG_RANGE = "mte_dump_tag_range" {
        "get_dump_page" => get_dump_page,
        "mte_save_page_tags" => mte_save_page_tags,
        "put_page" => put_page,
        "next page" => |_, l, _| {
            l.va += PAGE_SIZE;
            Flow::To("get_dump_page")
        },
    }
}

fn emit(io: &mut Io, page: &PageTags) {
    if let OpResult::None = io.result {
        io.result = OpResult::Tags {
            tags: Vec::new(),
            covered: 0,
        };
    }
    if let OpResult::Tags { tags, covered } = &mut io.result {
        tags.extend(page.iter().map(Tag::get));
        *covered += PAGE_SIZE;
    }
}

/// `FOLL_DUMP`: what would only be filled with zeros is not brought in.
fn get_dump_page(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    if l.va == l.end {
        return Flow::Return(0);
    }
    let anonymous = host
        .mm(l.mm)
        .vma(l.va)
        .is_some_and(|(_, vma)| vma.backing == Backing::Anon);
    let nothing = match host.mm(l.mm).pte(l.va) {
        None => anonymous,
        Some(Pte::Present { special, .. }) => special,
        Some(_) => false,
    };
    if nothing {
        emit(io, &PageTags::ZERO);
        l.va += PAGE_SIZE;
        return Flow::To("get_dump_page");
    }
    (l.force, l.write) = (true, false);
    Flow::Call(PathId::GetUserPages, *l)
}

/// The test is of the page's own flag, and of a huge page of the pool only the head has one (K32 = supported).
fn mte_save_page_tags(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    if l.ret < 0 {
        emit(io, &PageTags::ZERO);
        l.pfn = None;
        return Flow::Next;
    }
    let pfn = Pfn(l.ret.unsigned_abs());
    l.pfn = Some(pfn);
    let own = host.page(pfn).flags.contains(PageFlags::MTE_TAGGED);
    let tags = if own { host.mem.page_tags(pfn) } else { PageTags::ZERO };
    emit(io, &tags);
    let at: (_, Va) = (l.mm, l.va);
    // What the kernel knows to be tagged is what the reader of the core file believes to see.
    if host.has_flag(pfn, PageFlags::MTE_TAGGED) {
        for granule in 0..GRANULES_PER_PAGE {
            host.ledger_tag_read(pfn, granule, tags.get(granule), at, Actor::Debugger);
        }
    }
    note!(
        host,
        [Key::page(l.mm, l.va), Key::Frame(pfn)],
        "tags of {} {}",
        host.place(l.mm, l.va),
        if own {
            "dumped"
        } else {
            "left out of the dump: PG_mte_tagged is clear"
        }
    );
    Flow::Next
}

fn put_page(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    match l.pfn {
        Some(pfn) if host.put_page(pfn) => Flow::Call(PathId::FreeUnrefPage, Locals { entry: None, ..*l }),
        _ => Flow::Next,
    }
}
