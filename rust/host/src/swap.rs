//! One swap device: slots, counts and the swap cache.
//!
//! **Models** `swap_map` (a count per slot plus `SWAP_HAS_CACHE`), the data a slot holds, and the binding of an entry to
//! a page in the swap cache. A zram device is `SWP_SYNCHRONOUS_IO`: swap-in of an entry used once bypasses the swap
//! cache, so the slot is freed at once; an NVMe device keeps the slot while the page is in the swap cache.
//! **Leaves out** several devices, clusters, I/O in flight, zswap and the zeromap.
//!
//! **Keeps**: a slot is offered again only when its count is 0 and no page is bound to it.

use std::collections::BTreeMap;
use std::fmt;

use tagvisor_arch::{PAGE_SIZE, Pfn};

/// A swap entry, `swp_entry_t` of the one device: its slot number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SwpEntry(pub u32);

impl fmt::Display for SwpEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// What kind of device swap lies on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SwapKind {
    /// Synchronous, compressed RAM: the slot is freed at swap-in.
    Zram,
    /// A disk: the slot stays valid while the page is clean in the swap cache.
    Nvme,
}

type PageData = Box<[u8; PAGE_SIZE as usize]>;

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Slot {
    count: u32,
    has_cache: bool,
    /// `None` is a page of zeroes.
    data: Option<PageData>,
}

/// The swap device.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct SwapDevice {
    pub(crate) kind: SwapKind,
    capacity: u32,
    slots: Vec<Slot>,
    freed: Vec<SwpEntry>,
    cache: BTreeMap<SwpEntry, Pfn>,
    /// Cleared by swapoff: no slot is offered any more.
    writeok: bool,
}

impl SwapDevice {
    pub(crate) fn new(kind: SwapKind, bytes: u64) -> Self {
        let capacity = u32::try_from(bytes / PAGE_SIZE).unwrap_or(u32::MAX);
        Self {
            kind,
            capacity,
            slots: Vec::new(),
            freed: Vec::new(),
            cache: BTreeMap::new(),
            writeok: true,
        }
    }

    pub(crate) fn is_synchronous(&self) -> bool {
        self.kind == SwapKind::Zram
    }

    fn slot(&mut self, entry: SwpEntry) -> &mut Slot {
        &mut self.slots[entry.0 as usize]
    }

    /// `folio_alloc_swap`: a free slot, bound to the page through the swap cache.
    pub(crate) fn add_to_swap(&mut self, pfn: Pfn) -> Option<SwpEntry> {
        if !self.writeok {
            return None;
        }
        let entry = match self.freed.pop() {
            Some(entry) => entry,
            None if self.slots.len() < self.capacity as usize => {
                self.slots.push(Slot::default());
                SwpEntry(u32::try_from(self.slots.len() - 1).ok()?)
            }
            None => return None,
        };
        self.slot(entry).has_cache = true;
        self.cache.insert(entry, pfn);
        Some(entry)
    }

    /// `add_to_swap_cache` at swap-in.
    pub(crate) fn add_to_swap_cache(&mut self, entry: SwpEntry, pfn: Pfn) {
        self.slot(entry).has_cache = true;
        self.cache.insert(entry, pfn);
    }

    /// `swapcache_prepare` alone: keeps others from swapping the entry in; false if somebody already does.
    pub(crate) fn swapcache_prepare(&mut self, entry: SwpEntry) -> bool {
        !std::mem::replace(&mut self.slot(entry).has_cache, true)
    }

    /// `swapcache_clear`: undoes it; true if that was the slot's last user.
    pub(crate) fn swapcache_clear(&mut self, entry: SwpEntry) -> bool {
        self.slot(entry).has_cache = false;
        !self.is_allocated(entry)
    }

    /// `filemap_get_folio(swap_address_space(entry))`.
    pub(crate) fn lookup(&self, entry: SwpEntry) -> Option<Pfn> {
        self.cache.get(&entry).copied()
    }

    /// Some page in the swap cache, for swapoff.
    pub(crate) fn first_cached(&self) -> Option<(SwpEntry, Pfn)> {
        self.cache.first_key_value().map(|(entry, pfn)| (*entry, *pfn))
    }

    /// `delete_from_swap_cache`; true if that was the slot's last user.
    pub(crate) fn delete_from_swap_cache(&mut self, entry: SwpEntry) -> bool {
        self.cache.remove(&entry);
        self.slot(entry).has_cache = false;
        !self.is_allocated(entry)
    }

    /// `swap_duplicate`: one more PTE refers to the slot.
    pub(crate) fn duplicate(&mut self, entry: SwpEntry) {
        self.slot(entry).count += 1;
    }

    /// `swap_free`: one PTE less; true if that was the slot's last user.
    pub(crate) fn put(&mut self, entry: SwpEntry) -> bool {
        self.slot(entry).count -= 1;
        !self.is_allocated(entry)
    }

    pub(crate) fn count(&self, entry: SwpEntry) -> u32 {
        self.slots.get(entry.0 as usize).map_or(0, |s| s.count)
    }

    /// Is the slot referenced by a PTE or bound to a page?
    pub(crate) fn is_allocated(&self, entry: SwpEntry) -> bool {
        self.slots
            .get(entry.0 as usize)
            .is_some_and(|s| s.count > 0 || s.has_cache)
    }

    /// `swap_range_free`: the slot may be handed out again.
    pub(crate) fn offer(&mut self, entry: SwpEntry) {
        self.slot(entry).data = None;
        self.freed.push(entry);
    }

    pub(crate) fn write(&mut self, entry: SwpEntry, data: Option<&[u8; PAGE_SIZE as usize]>) {
        self.slot(entry).data = data.map(|d| Box::new(*d));
    }

    pub(crate) fn read(&self, entry: SwpEntry) -> Option<&[u8; PAGE_SIZE as usize]> {
        self.slots[entry.0 as usize].data.as_deref()
    }

    /// `SWP_WRITEOK` off: swapoff has begun, or is undone.
    pub(crate) fn set_writeok(&mut self, on: bool) {
        self.writeok = on;
    }

    /// Slots that can still be taken.
    pub(crate) fn free_slots(&self) -> u64 {
        if self.writeok {
            u64::from(self.capacity) - self.used_slots()
        } else {
            0
        }
    }

    pub(crate) fn used_slots(&self) -> u64 {
        (self.slots.len() - self.freed.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_stays_allocated_until_both_the_pte_and_the_cache_let_go() {
        let mut swap = SwapDevice::new(SwapKind::Nvme, PAGE_SIZE);
        let entry = swap.add_to_swap(Pfn(3)).unwrap();
        swap.duplicate(entry);

        assert!(!swap.put(entry), "the swap cache still binds it");
        assert!(swap.delete_from_swap_cache(entry));
        assert_eq!(swap.add_to_swap(Pfn(4)), None, "not offered yet");
        swap.offer(entry);
        assert_eq!(swap.add_to_swap(Pfn(4)), Some(entry));
    }

    #[test]
    fn a_full_device_refuses() {
        let mut swap = SwapDevice::new(SwapKind::Zram, 0);
        assert_eq!(swap.add_to_swap(Pfn(1)), None);
    }
}
