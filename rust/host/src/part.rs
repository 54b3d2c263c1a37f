//! The host's state in parts, for whoever keeps many states that differ in little.
//!
//! **Models** nothing: a [`Tracked`] value remembers that somebody could have changed it, and a [`Part`] names a piece of
//! the state that can be taken out, compared and put back. What no part holds (the policy, the log, the counters, the
//! physical address map) is the same in all states of one search, or tells of how a state was reached.
//!
//! **Keeps**: two hosts with equal parts behave alike.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};

use tagvisor_arch::Pfn;
use tagvisor_mem::FrameContent;

use crate::buddy::Buddy;
use crate::file::File;
use crate::hugetlb::Pool;
use crate::ids::{MmId, VcpuId, VmId};
use crate::kvm::{Kvm, Vcpu};
use crate::ledger::Ledger;
use crate::mm::Mm;
use crate::mteswap::{FailingTagSaves, MtePages};
use crate::page::Page;
use crate::state::{Host, Lru};
use crate::swap::Swap;
use crate::thp::Thp;
use crate::zswap::Zswap;

/// A value, and whether it was borrowed to be changed since that was asked last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tracked<T> {
    value: T,
    touched: bool,
}

impl<T> Tracked<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self { value, touched: true }
    }

    /// Was it borrowed to be changed since this was called last?
    pub(crate) fn take_touched(this: &mut Self) -> bool {
        std::mem::take(&mut this.touched)
    }

    /// Puts a value back that is known to the caller.
    pub(crate) fn restore(this: &mut Self, value: T) {
        this.value = value;
        this.touched = false;
    }
}

impl<T> Deref for Tracked<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Tracked<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.touched = true;
        &mut self.value
    }
}

impl<T: Hash> Hash for Tracked<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.value.hash(state);
    }
}

impl<T: PartialEq> PartialEq for Tracked<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Tracked<T> {}

/// A piece of the state, by name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Part {
    /// A process.
    Mm(u32),
    /// A VM, without its vCPUs.
    Vm(u32),
    /// The registers of a vCPU.
    Vcpu(VcpuId),
    /// A file.
    File(u32),
    /// The `struct page` of a frame.
    Page(Pfn),
    /// Data and tags of a frame.
    Frame(Pfn),
    /// The swap devices.
    Swap,
    /// zswap.
    Zswap,
    /// Which buffers for tags cannot be allocated.
    FailingTagSaves,
    /// `mte_pages`.
    MtePages,
    /// The page allocator.
    Buddy,
    /// What is left of the memory without tag storage, and of the devices.
    Regions,
    /// The pool of huge pages.
    Pool,
    /// Transparent huge pages.
    Thp,
    /// Page table locks.
    Ptl,
    /// The list that reclaim looks at.
    Lru,
    /// The ledger.
    Ledger,
}

/// What a piece of the state holds. Equal values are equal for everything that runs.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[allow(private_interfaces, missing_docs)] // opaque to whoever keeps it
pub enum PartValue {
    /// A process, VM or file that does not exist; an untouched frame.
    Absent,
    Mm(Box<Mm>),
    Vm(Box<Kvm>),
    Vcpu(Box<Vcpu>),
    File(Box<File>),
    Page(Page),
    Frame(FrameContent),
    Swap(Box<Swap>),
    Zswap(Box<Zswap>),
    FailingTagSaves(FailingTagSaves),
    MtePages(MtePages),
    Buddy(Buddy),
    Regions(Buddy, Buddy),
    Pool(Pool),
    Thp(Thp),
    Ptl(BTreeSet<(MmId, u64)>),
    Lru(Lru),
    Ledger(Box<Ledger>),
}

impl Host {
    /// Calls `each` with every part that may have changed since this was called last. The first call names all.
    pub fn take_touched(&mut self, mut each: impl FnMut(Part)) {
        let all = |parts: usize| 0..parts as u32;
        for i in all(self.mms.len()) {
            if Tracked::take_touched(&mut self.mms[i as usize]) {
                each(Part::Mm(i));
            }
        }
        for i in all(self.vms.len()) {
            if Tracked::take_touched(&mut self.vms[i as usize]) {
                each(Part::Vm(i));
            }
        }
        for (vm, vcpus) in (0..).map(VmId).zip(&mut self.vcpus) {
            for (index, vcpu) in (0..).zip(vcpus) {
                if Tracked::take_touched(vcpu) {
                    each(Part::Vcpu(VcpuId { vm, index }));
                }
            }
        }
        for i in all(self.files.len()) {
            if Tracked::take_touched(&mut self.files[i as usize]) {
                each(Part::File(i));
            }
        }
        let single = [
            (Tracked::take_touched(&mut self.swap), Part::Swap),
            (Tracked::take_touched(&mut self.zswap), Part::Zswap),
            (
                Tracked::take_touched(&mut self.failing_tag_saves),
                Part::FailingTagSaves,
            ),
            (Tracked::take_touched(&mut self.mte_pages), Part::MtePages),
            (Tracked::take_touched(&mut self.buddy), Part::Buddy),
            (
                Tracked::take_touched(&mut self.zone_device) | Tracked::take_touched(&mut self.mmio),
                Part::Regions,
            ),
            (Tracked::take_touched(&mut self.pool), Part::Pool),
            (Tracked::take_touched(&mut self.thp), Part::Thp),
            (Tracked::take_touched(&mut self.ptl), Part::Ptl),
            (Tracked::take_touched(&mut self.lru), Part::Lru),
            (Tracked::take_touched(&mut self.ledger), Part::Ledger),
        ];
        single
            .into_iter()
            .filter(|(touched, _)| *touched)
            .for_each(|(_, part)| each(part));
        self.pages.take_touched(&self.mem, |pfn| each(Part::Page(pfn)));
        self.mem.take_changed(|pfn| each(Part::Frame(pfn)));
    }

    /// What a part holds.
    pub fn part(&self, part: Part) -> PartValue {
        let absent = PartValue::Absent;
        match part {
            Part::Mm(i) => self
                .mms
                .get(i as usize)
                .map_or(absent, |mm| PartValue::Mm(Box::new((**mm).clone()))),
            Part::Vm(i) => self
                .vms
                .get(i as usize)
                .map_or(absent, |vm| PartValue::Vm(Box::new((**vm).clone()))),
            Part::Vcpu(VcpuId { vm, index }) => {
                let vcpus = self.vcpus.get(vm.0 as usize);
                let vcpu = vcpus.and_then(|vcpus| vcpus.get(index as usize));
                vcpu.map_or(absent, |vcpu| PartValue::Vcpu(Box::new((**vcpu).clone())))
            }
            Part::File(i) => {
                let file = self.files.get(i as usize);
                file.map_or(absent, |file| PartValue::File(Box::new((**file).clone())))
            }
            Part::Page(pfn) => match self.page(pfn) {
                page if *page == Page::default() => absent,
                page => PartValue::Page(page.clone()),
            },
            Part::Frame(pfn) => self.mem.content(pfn).map_or(absent, PartValue::Frame),
            Part::Swap => PartValue::Swap(Box::new((*self.swap).clone())),
            Part::Zswap => PartValue::Zswap(Box::new((*self.zswap).clone())),
            Part::FailingTagSaves => PartValue::FailingTagSaves(*self.failing_tag_saves),
            Part::MtePages => PartValue::MtePages((*self.mte_pages).clone()),
            Part::Buddy => PartValue::Buddy((*self.buddy).clone()),
            Part::Regions => PartValue::Regions((*self.zone_device).clone(), (*self.mmio).clone()),
            Part::Pool => PartValue::Pool((*self.pool).clone()),
            Part::Thp => PartValue::Thp((*self.thp).clone()),
            Part::Ptl => PartValue::Ptl((*self.ptl).clone()),
            Part::Lru => PartValue::Lru((*self.lru).clone()),
            Part::Ledger => PartValue::Ledger(Box::new((*self.ledger).clone())),
        }
    }

    /// Puts back what a part held.
    ///
    /// # Panics
    /// If the value is not of that part.
    pub fn set_part(&mut self, part: Part, value: &PartValue) {
        match (part, value) {
            (Part::Mm(i), PartValue::Mm(mm)) => put(&mut self.mms, i, mm),
            (Part::Vm(i), PartValue::Vm(vm)) => put(&mut self.vms, i, vm),
            (Part::Vcpu(VcpuId { vm, index }), PartValue::Vcpu(vcpu)) => {
                put(&mut self.vcpus[vm.0 as usize], index, vcpu);
            }
            (Part::Vcpu(VcpuId { vm, index }), PartValue::Absent) => {
                self.vcpus[vm.0 as usize].truncate(index as usize);
            }
            (Part::File(i), PartValue::File(file)) => put(&mut self.files, i, file),
            (Part::Mm(i), PartValue::Absent) => self.mms.truncate(i as usize),
            (Part::Vm(i), PartValue::Absent) => self.vms.truncate(i as usize),
            (Part::File(i), PartValue::Absent) => self.files.truncate(i as usize),
            (Part::Page(pfn), PartValue::Page(page)) => self.pages.restore(&mut self.mem, pfn, page.clone()),
            (Part::Page(pfn), PartValue::Absent) => self.pages.restore(&mut self.mem, pfn, Page::default()),
            (Part::Frame(pfn), PartValue::Frame(content)) => self.mem.set_content(pfn, Some(content)),
            (Part::Frame(pfn), PartValue::Absent) => self.mem.set_content(pfn, None),
            (Part::Swap, PartValue::Swap(swap)) => Tracked::restore(&mut self.swap, (**swap).clone()),
            (Part::Zswap, PartValue::Zswap(zswap)) => Tracked::restore(&mut self.zswap, (**zswap).clone()),
            (Part::FailingTagSaves, PartValue::FailingTagSaves(failing)) => {
                Tracked::restore(&mut self.failing_tag_saves, *failing);
            }
            (Part::MtePages, PartValue::MtePages(saved)) => Tracked::restore(&mut self.mte_pages, saved.clone()),
            (Part::Buddy, PartValue::Buddy(buddy)) => Tracked::restore(&mut self.buddy, buddy.clone()),
            (Part::Regions, PartValue::Regions(zone_device, mmio)) => {
                Tracked::restore(&mut self.zone_device, zone_device.clone());
                Tracked::restore(&mut self.mmio, mmio.clone());
            }
            (Part::Pool, PartValue::Pool(pool)) => Tracked::restore(&mut self.pool, pool.clone()),
            (Part::Thp, PartValue::Thp(thp)) => Tracked::restore(&mut self.thp, thp.clone()),
            (Part::Ptl, PartValue::Ptl(ptl)) => Tracked::restore(&mut self.ptl, ptl.clone()),
            (Part::Lru, PartValue::Lru(lru)) => Tracked::restore(&mut self.lru, lru.clone()),
            (Part::Ledger, PartValue::Ledger(ledger)) => Tracked::restore(&mut self.ledger, (**ledger).clone()),
            (part, value) => panic!("{value:?} is no {part:?}"),
        }
    }
}

/// One of a list whose earlier members exist.
fn put<T: Clone>(list: &mut Vec<Tracked<T>>, index: u32, value: &T) {
    if let Some(place) = list.get_mut(index as usize) {
        Tracked::restore(place, value.clone());
    } else {
        let mut made = Tracked::new(value.clone());
        Tracked::take_touched(&mut made);
        list.push(made);
    }
}
