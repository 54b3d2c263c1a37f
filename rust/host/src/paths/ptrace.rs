//! A debugger reads or writes a process' tags.
//!
//! **Models** `__access_remote_tags` (arch/arm64/kernel/mte.c) behind `PTRACE_PEEKMTETAGS` and `PTRACE_POKEMTETAGS`: GUP with
//! `FOLL_FORCE` page by page, `VM_MTE` required, the page marked dirty after a write so that an older saved copy does not
//! win. Nothing done is -EIO. **Leaves out** attaching to the process.
//!
//! **Keeps**: a page that is not `PROT_MTE` ends the copy there.

use tagvisor_arch::{GRANULE_SIZE, PAGE_SIZE, Pfn, Tag};

use crate::errno::Errno;
use crate::ids::Actor;
use crate::log::{Key, note};
use crate::mm::VmFlags;
use crate::ops::{Op, OpResult};
use crate::page::PageFlags;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};

pub(super) static ACCESS_REMOTE_TAGS: Path = Path {
    name: "__access_remote_tags",
    steps: &[
        Step {
            name: "get_user_page_vma_remote",
            run: get_user_page,
        },
        Step {
            name: "mte_copy_tags",
            run: copy_tags,
        },
        Step {
            name: "put_page",
            run: put_page,
        },
        Step {
            name: "next page",
            run: |_, _, _| Flow::To("get_user_page_vma_remote"),
        },
    ],
};

fn asked(io: &Io) -> u32 {
    match &io.op {
        Op::PeekTags { count, .. } => *count,
        Op::PokeTags { tags, .. } => u32::try_from(tags.len()).unwrap_or(u32::MAX),
        _ => unreachable!("entered for ptrace only"),
    }
}

/// `l.index` counts granules done; `l.va` is the next one's address.
fn get_user_page(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    l.force = true;
    l.write = matches!(io.op, Op::PokeTags { .. });
    if l.index == asked(io) {
        return done(l, io);
    }
    if host.mm(l.mm).vma(l.va).is_none() {
        return done(l, io);
    }
    Flow::Call(PathId::GetUserPages, Locals { va: l.va.page(), ..*l })
}

/// Bytes done, or -EIO when there are none.
fn done(l: &Locals, io: &mut Io) -> Flow {
    if l.index == 0 && asked(io) > 0 {
        io.result = OpResult::Errno(Errno::Eio);
    } else if let OpResult::None = io.result {
        io.result = OpResult::Value(l.index.into());
    }
    Flow::Return(0)
}

fn copy_tags(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    if l.ret < 0 {
        return done(l, io);
    }
    let pfn = Pfn(l.ret.unsigned_abs());
    l.pfn = Some(pfn);
    let tagged = host
        .mm(l.mm)
        .vma(l.va)
        .is_some_and(|(_, v)| v.flags.contains(VmFlags::MTE));
    l.device = !tagged;
    if !tagged {
        return Flow::Next;
    }
    let room = ((PAGE_SIZE - l.va.page_offset()) / GRANULE_SIZE) as u32;
    let count = room.min(asked(io) - l.index);
    let zero_page = host.has_flag(pfn, PageFlags::RESERVED);
    let at = (l.mm, l.va.page());
    for i in 0..count {
        let granule = (l.va.page_offset() / GRANULE_SIZE) as usize + i as usize;
        let pa = pfn.base() + granule as u64 * GRANULE_SIZE;
        if let Op::PokeTags { tags, .. } = &io.op {
            let tag = Tag::new(tags[(l.index + i) as usize]);
            host.mem.set_tag(pa, tag);
            host.ledger_tag_written(pfn, granule, tag, at, Actor::Debugger);
            continue;
        }
        let tag = host.mem.tag(pa);
        if !zero_page {
            host.ledger_tag_read(pfn, granule, tag, at, Actor::Debugger);
        }
        if let OpResult::None = io.result {
            io.result = OpResult::Tags {
                tags: Vec::new(),
                covered: 0,
            };
        }
        if let OpResult::Tags { tags, .. } = &mut io.result {
            tags.push(tag.get());
        }
    }
    if l.write {
        host.set_flag(pfn, PageFlags::DIRTY, true);
    }
    note!(
        host,
        [Key::page(l.mm, l.va), Key::Frame(pfn)],
        "{count} tags of {} {}",
        host.place(l.mm, l.va),
        if l.write { "written" } else { "read" }
    );
    l.index += count;
    l.va += u64::from(count) * GRANULE_SIZE;
    Flow::Next
}

fn put_page(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let pfn = l.pfn.expect("brought in");
    if l.device {
        // Not PROT_MTE: the page goes back and the copy ends here.
        host.put_page(pfn);
        return done(l, io);
    }
    if host.put_page(pfn) {
        return Flow::Call(PathId::FreeUnrefPage, Locals { entry: None, ..*l });
    }
    Flow::Next
}
