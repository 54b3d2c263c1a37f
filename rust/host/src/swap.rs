//! Swap: devices, their slots and counts, and the swap cache.
//!
//! **Models** `swap_info_struct`s found by the type in an entry, which of them a page goes to (`folio_alloc_swap`: the highest
//! priority that has room, in turn where priorities are equal), `swap_map` (a count per slot plus `SWAP_HAS_CACHE`), the data
//! a slot holds, and the binding of an entry to a page in the swap cache. A zram device is `SWP_SYNCHRONOUS_IO`: swap-in of
//! an entry used once bypasses the swap cache, so the slot is freed at once; an NVMe device keeps the slot while the page is
//! in the swap cache.
//! **Leaves out** clusters (devices of one priority take turns page by page, not cluster by cluster) and I/O in flight.
//!
//! **Keeps**: a slot is offered again only when its count is 0 and no page is bound to it.

use std::collections::BTreeMap;
use std::fmt;

use tagvisor_arch::{PAGE_SIZE, Pfn};

/// A swap entry, `swp_entry_t`: the device it lies on and its slot there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SwpEntry {
    /// `swp_type`: the device's number.
    pub device: u8,
    /// `swp_offset`: the slot's number.
    pub offset: u32,
}

impl SwpEntry {
    /// `swp_entry_t::val`, with the type above the offset.
    pub fn val(self) -> u64 {
        u64::from(self.device) << 32 | u64::from(self.offset)
    }
}

/// The slot's number, behind the device's unless that is the first one.
impl fmt::Display for SwpEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.device {
            0 => write!(f, "{:#x}", self.offset),
            device => write!(f, "{device}:{:#x}", self.offset),
        }
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

/// A swap area, as `swapon` is given it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SwapArea {
    /// Its size.
    pub bytes: u64,
    /// What it lies on.
    pub kind: SwapKind,
    /// `swapon --priority`, from 0; `None` for what the kernel gives it.
    pub priority: Option<i16>,
}

/// A line of `/proc/swaps`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SwapStat {
    /// What it lies on.
    pub kind: SwapKind,
    /// Slots.
    pub slots: u64,
    /// Slots in use.
    pub used: u64,
    /// The higher the sooner.
    pub priority: i16,
    /// Is it on?
    pub on: bool,
}

/// `MAX_SWAPFILES` of an arm64 kernel, roughly: five bits of type less those that migration and the like take.
pub(crate) const MAX_SWAPFILES: usize = 23;

type PageData = Box<[u8; PAGE_SIZE as usize]>;

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Slot {
    count: u32,
    has_cache: bool,
    /// `None` is a page of zeroes.
    data: Option<PageData>,
}

/// One device: `struct swap_info_struct`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct SwapDevice {
    kind: SwapKind,
    priority: i16,
    capacity: u32,
    slots: Vec<Slot>,
    freed: Vec<u32>,
    /// Cleared by swapoff: no slot is offered any more.
    writeok: bool,
}

impl SwapDevice {
    fn used(&self) -> u64 {
        (self.slots.len() - self.freed.len()) as u64
    }

    fn free(&self) -> u64 {
        if self.writeok {
            u64::from(self.capacity) - self.used()
        } else {
            0
        }
    }

    /// A free slot, the one given back last first.
    fn alloc(&mut self) -> Option<u32> {
        if self.free() == 0 {
            return None;
        }
        self.freed.pop().or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).ok()
        })
    }
}

/// All of swap.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Swap {
    devices: Vec<SwapDevice>,
    cache: BTreeMap<SwpEntry, Pfn>,
    /// The device that was taken last: among equals another's turn is next.
    last: usize,
}

impl Swap {
    /// `swapon` of each area in turn. Without a priority of its own an area gets one below those before it, from -2 down, or
    /// -1 like every other.
    pub(crate) fn new(areas: &[SwapArea], descending: bool) -> Self {
        let mut below = -1;
        let mut devices = Vec::new();
        for area in areas {
            let priority = area.priority.unwrap_or_else(|| {
                below -= i16::from(descending);
                below
            });
            devices.push(SwapDevice {
                kind: area.kind,
                priority,
                capacity: u32::try_from(area.bytes / PAGE_SIZE).unwrap_or(u32::MAX),
                slots: Vec::new(),
                freed: Vec::new(),
                writeok: true,
            });
        }
        Self {
            last: devices.len().saturating_sub(1),
            devices,
            cache: BTreeMap::new(),
        }
    }

    pub(crate) fn is_synchronous(&self, entry: SwpEntry) -> bool {
        self.devices[usize::from(entry.device)].kind == SwapKind::Zram
    }

    fn slot(&mut self, entry: SwpEntry) -> &mut Slot {
        &mut self.devices[usize::from(entry.device)].slots[entry.offset as usize]
    }

    fn slot_of(&self, entry: SwpEntry) -> Option<&Slot> {
        let device = self.devices.get(usize::from(entry.device))?;
        device.slots.get(entry.offset as usize)
    }

    /// The device the next page goes to.
    fn choose(&self) -> Option<usize> {
        let with_room = |i: &usize| self.devices[*i].free() > 0;
        let best = (0..self.devices.len())
            .filter(with_room)
            .map(|i| self.devices[i].priority)
            .max()?;
        let n = self.devices.len();
        let mut in_turn = (1..=n).map(|step| (self.last + step) % n);
        in_turn.find(|i| with_room(i) && self.devices[*i].priority == best)
    }

    /// `folio_alloc_swap`: a free slot, bound to the page through the swap cache.
    pub(crate) fn add_to_swap(&mut self, pfn: Pfn) -> Option<SwpEntry> {
        let device = self.choose()?;
        let offset = self.devices[device].alloc()?;
        self.last = device;
        let entry = SwpEntry {
            device: device as u8,
            offset,
        };
        self.add_to_swap_cache(entry, pfn);
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

    /// Some page in the swap cache that is bound to a slot of the device, for swapoff.
    pub(crate) fn first_cached(&self, device: u8) -> Option<(SwpEntry, Pfn)> {
        let first = SwpEntry { device, offset: 0 };
        let mut cached = self.cache.range(first..);
        let found = cached.next().map(|(entry, pfn)| (*entry, *pfn));
        found.filter(|(entry, _)| entry.device == device)
    }

    /// `SWAP_HAS_CACHE`: bound to a page, or being swapped in.
    pub(crate) fn is_cached(&self, entry: SwpEntry) -> bool {
        self.slot_of(entry).is_some_and(|s| s.has_cache)
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
        self.slot_of(entry).map_or(0, |s| s.count)
    }

    /// Is the slot referenced by a PTE or bound to a page?
    pub(crate) fn is_allocated(&self, entry: SwpEntry) -> bool {
        self.slot_of(entry).is_some_and(|s| s.count > 0 || s.has_cache)
    }

    /// `swap_range_free`: the slot may be handed out again.
    pub(crate) fn offer(&mut self, entry: SwpEntry) {
        self.slot(entry).data = None;
        self.devices[usize::from(entry.device)].freed.push(entry.offset);
    }

    pub(crate) fn write(&mut self, entry: SwpEntry, data: Option<&[u8; PAGE_SIZE as usize]>) {
        self.slot(entry).data = data.map(|d| Box::new(*d));
    }

    pub(crate) fn read(&self, entry: SwpEntry) -> Option<&[u8; PAGE_SIZE as usize]> {
        self.slot_of(entry)?.data.as_deref()
    }

    /// How many devices there are, on or off.
    pub(crate) fn devices(&self) -> usize {
        self.devices.len()
    }

    /// `SWP_WRITEOK`: off when swapoff has begun, on when it is undone, or swap is turned on again.
    pub(crate) fn set_writeok(&mut self, device: u8, on: bool) {
        self.devices[usize::from(device)].writeok = on;
    }

    pub(crate) fn is_on(&self, device: u8) -> bool {
        self.devices.get(usize::from(device)).is_some_and(|d| d.writeok)
    }

    /// Slots that can still be taken.
    pub(crate) fn free_slots(&self) -> u64 {
        self.devices.iter().map(SwapDevice::free).sum()
    }

    pub(crate) fn used_slots(&self) -> u64 {
        self.devices.iter().map(SwapDevice::used).sum()
    }

    /// `/proc/swaps`, in the order of the devices' numbers.
    pub(crate) fn stat(&self) -> Vec<SwapStat> {
        let line = |d: &SwapDevice| SwapStat {
            kind: d.kind,
            slots: d.capacity.into(),
            used: d.used(),
            priority: d.priority,
            on: d.writeok,
        };
        self.devices.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(pages: u64, priority: Option<i16>) -> SwapArea {
        SwapArea {
            bytes: pages * PAGE_SIZE,
            kind: SwapKind::Nvme,
            priority,
        }
    }

    fn one(pages: u64) -> Swap {
        Swap::new(&[area(pages, None)], true)
    }

    #[test]
    fn a_slot_stays_allocated_until_both_the_pte_and_the_cache_let_go() {
        let mut swap = one(1);
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
        assert_eq!(one(0).add_to_swap(Pfn(1)), None);
    }

    /// Devices that pages go to, one after the other.
    fn order(mut swap: Swap) -> Vec<u8> {
        (0..)
            .map_while(|pfn| swap.add_to_swap(Pfn(pfn)))
            .map(|entry| entry.device)
            .collect()
    }

    #[test]
    fn the_highest_priority_is_filled_first_and_equals_take_turns() {
        let prefer = [area(2, Some(1)), area(2, Some(5)), area(1, None)];
        assert_eq!(order(Swap::new(&prefer, true)), [1, 1, 0, 0, 2]);
        let given = [area(2, None), area(2, None)];
        assert_eq!(order(Swap::new(&given, true)), [0, 0, 1, 1]);
        assert_eq!(order(Swap::new(&given, false)), [0, 1, 0, 1]);
        let equal = [area(1, Some(3)), area(2, Some(3))];
        assert_eq!(order(Swap::new(&equal, true)), [0, 1, 1]);
    }

    #[test]
    fn an_entry_names_its_device() {
        let entry = SwpEntry { device: 2, offset: 7 };
        assert_eq!((entry.to_string().as_str(), entry.val()), ("2:0x7", 2 << 32 | 7));
        assert_eq!(SwpEntry { device: 0, offset: 7 }.to_string(), "0x7");
    }
}
