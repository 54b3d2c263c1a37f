//! zswap writes pages back to their devices.
//!
//! **Models** `zswap_writeback_entry` (mm/zswap.c): a page in the swap cache gets the data and is written, below
//! `arch_prepare_to_swap`: the tags that `mte_pages` has for the entry are those of the first swap-out, and this page, which
//! is not flagged, must not replace them.
//!
//! **Keeps**: the data of an entry are in the pool or on the device at every step.

use crate::errno::Errno;
use crate::log::{Key, note};
use crate::ops::Op;
use crate::page::{PageFlags, PageMapping};
use crate::paths::outline::outline;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, PathId};

outline! {
    /// Every version.
    pub(super) SHRINK_WORKER = "zswap_writeback_entry" {
        "__read_swap_cache_async" => read_swap_cache_async,
        "zswap_decompress" => zswap_decompress,
        "__swap_writepage" => swap_writepage,
        "folio_put" => folio_put,
        "free_unref_page" => |_, l, _| Flow::Call(PathId::FreeUnrefPage, *l),
        "next entry" => |_, _, _| Flow::To("__read_swap_cache_async"),
    }
}

/// The oldest entry gets a page in the swap cache; one that has a page already is in use, and is left alone. `l.index` counts
/// the entries looked at.
fn read_swap_cache_async(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let Op::ZswapShrink(pages) = io.op else {
        unreachable!("entered for Op::ZswapShrink only")
    };
    let Some(entry) = host.zswap.oldest().filter(|_| u64::from(l.index) < pages) else {
        return Flow::Return(0);
    };
    l.index += 1;
    if host.swap.is_cached(entry) {
        host.zswap.rotate();
        return Flow::To("__read_swap_cache_async");
    }
    let Some(pfn) = host.alloc_page(PageMapping::None) else {
        return Flow::Return(Errno::Enomem.ret());
    };
    host.set_flag(pfn, PageFlags::LOCKED, true);
    host.swap.add_to_swap_cache(entry, pfn);
    host.page_mut(pfn).swap = Some(entry);
    (l.pfn, l.entry) = (Some(pfn), Some(entry));
    Flow::Next
}

fn zswap_decompress(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, entry) = (l.pfn.expect("allocated"), l.entry.expect("the oldest"));
    host.read_slot(entry, pfn);
    Flow::Next
}

fn swap_writepage(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, entry) = (l.pfn.expect("allocated"), l.entry.expect("the oldest"));
    host.zswap.invalidate(entry);
    host.stats.zswap_writebacks += 1;
    host.set_flag(pfn, PageFlags::LOCKED, false);
    note!(
        host,
        [Key::Frame(pfn), Key::Slot(entry)],
        "slot {entry} leaves zswap for its device; its saved tags stay as they are"
    );
    Flow::Next
}

/// Written, the page has done its work, unless somebody swapped it in meanwhile.
fn folio_put(host: &mut Host, l: &mut Locals, _: &mut Io) -> Flow {
    let (pfn, entry) = (l.pfn.expect("allocated"), l.entry.expect("the oldest"));
    host.page_mut(pfn).refcount -= 1;
    let page = host.page(pfn);
    if page.refcount > 0 {
        return Flow::To("__read_swap_cache_async");
    }
    if page.swap == Some(entry) {
        host.page_mut(pfn).swap = None;
        if host.swap.delete_from_swap_cache(entry) {
            return Flow::Call(PathId::SwapRangeFree, *l);
        }
    }
    Flow::Next
}
