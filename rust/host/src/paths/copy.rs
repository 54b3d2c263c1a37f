//! Copying a page with its tags.
//!
//! **Models** `copy_highpage` (arch/arm64/mm/copypage.c), which copy-on-write, migration, KSM and collapse all end in: data
//! first, then the tags if the source is flagged. An unflagged source leaves the destination unflagged with whatever tags
//! lie there. **Leaves out** the KASAN tag of the destination, and hugetlb heads.
//!
//! **Keeps**: `l.from` is copied to `l.pfn`, which nobody else can see yet (copy-on-write) or which is locked (migration).

use crate::log::{Key, note};
use crate::page::PageFlags;
use crate::policy::CopyToFlagged;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, Step};

const COPY_PAGE: Step = Step {
    name: "copy_page",
    run: copy_page,
};
const COPY_TAGS: Step = Step {
    name: "mte_copy_page_tags",
    run: mte_copy_page_tags,
};

/// 6.2 and later: `PG_mte_lock`, tags, flag.
pub(super) static COPY_LOCK: Path = Path {
    name: "copy_highpage",
    steps: &[
        COPY_PAGE,
        Step {
            name: "try_page_mte_tagging",
            run: try_page_mte_tagging,
        },
        COPY_TAGS,
        Step {
            name: "set_page_mte_tagged",
            run: set_page_mte_tagged,
        },
    ],
};
/// 6.1.18 and later of that branch: tags, flag, no lock.
pub(super) static COPY_FLAG_LAST: Path = Path {
    name: "copy_highpage",
    steps: &[
        COPY_PAGE,
        COPY_TAGS,
        Step {
            name: "set_page_mte_tagged",
            run: set_page_mte_tagged,
        },
    ],
};
/// Up to 6.1: the destination is flagged before its tags are there.
pub(super) static COPY_FLAG_FIRST: Path = Path {
    name: "copy_highpage",
    steps: &[
        COPY_PAGE,
        Step {
            name: "set_bit(PG_mte_tagged)",
            run: set_page_mte_tagged,
        },
        COPY_TAGS,
    ],
};

fn pages(l: &Locals) -> (tagvisor_arch::Pfn, tagvisor_arch::Pfn) {
    (
        l.from.expect("the caller names the source"),
        l.pfn.expect("the caller names the page"),
    )
}

fn copy_page(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (from, to) = pages(l);
    host.mem.copy_page(from, to);
    if host.has_flag(from, PageFlags::MTE_TAGGED) {
        host.ledger_copy_believed(from, (l.mm, l.va));
        return Flow::Next;
    }
    note!(
        host,
        [Key::Frame(from), Key::Frame(to)],
        "pfn {:#x} copied to pfn {:#x}; PG_mte_tagged clear, so no tags",
        from.0,
        to.0
    );
    Flow::Return(0)
}

fn try_page_mte_tagging(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    // A destination that is flagged already (a migration tried again, K14) is written all the same.
    let to = pages(l).1;
    if host.has_flag(to, PageFlags::MTE_TAGGED) && host.policy.copy_to_flagged == CopyToFlagged::Warn {
        let text = format!(
            "copy_highpage warns: PG_mte_tagged of the destination, pfn {:#x}, is set",
            to.0
        );
        host.ledger_warned(to, text);
    }
    host.set_flag(to, PageFlags::MTE_LOCK, true);
    Flow::Next
}

fn mte_copy_page_tags(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (from, to) = pages(l);
    let tags = host.mem.page_tags(from);
    host.mem.set_page_tags(to, &tags);
    host.ledger.copied(from, to);
    note!(
        host,
        [Key::Frame(from), Key::Frame(to)],
        "pfn {:#x} copied to pfn {:#x} with its tags",
        from.0,
        to.0
    );
    Flow::Next
}

fn set_page_mte_tagged(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    host.set_flag(pages(l).1, PageFlags::MTE_TAGGED, true);
    Flow::Next
}
