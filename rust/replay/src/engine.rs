//! The batch engine: every access of a trace through the machine, as a guest would make it.
//!
//! Models a program in an MTE guest whose stage 1 is off: each load and store takes its pointer with the logical
//! tag its allocation got, goes through the vCPU's TLB, on a miss through stage 2 and the host's fault path, and is
//! tag checked. Heap events colour memory with `STG`, through the same path.
//!
//! Leaves out data: tags, faults and reclaim do not depend on it. A mismatch is counted and the program goes on, as
//! under a debugger that steps over it.
//!
//! Invariant: the result of a trace does not depend on how it is cut into batches; between two batches the engine
//! can be inspected, cloned, or left.

mod block;

use self::block::{BLOCK, Tally, pointer, simple_accesses};
use crate::counters::{Counters, Mismatch, Sample};
use crate::heap::{Heap, Paint};
use crate::layout::{GuestFull, Layout, by_page};
use crate::record::{ADDR_LIMIT, Batch, Event, Op, RecordError};
use tagvisor_arch::{GRANULE_SIZE, Ipa, PAGE_SHIFT, PAGE_SIZE, Tag, Va};
use tagvisor_host::{
    Backing, Checked, Config, ConfigError, Errno, GuestExit, GuestOp, Machine, MapSpec, Prot, SlotArgs, VcpuId,
};
use thiserror::Error;

/// Mismatches kept with their place; later ones are only counted.
pub const MISMATCHES_KEPT: usize = 100;

/// Where the guest's RAM begins in its address space.
pub const GUEST_BASE: u64 = 0x4000_0000;

/// The host checks accesses of up to 255 bytes; larger ones go in pieces that share no granule.
const PIECE: u64 = 128;

/// What of a replay is the caller's choice, besides the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Pages of the guest's RAM: how many a program may touch.
    pub guest_pages: u32,
    /// Pages that may be resident at once, as a control group would limit them; None for no limit.
    pub limit: Option<u64>,
    /// Decides the tags of allocations.
    pub seed: u64,
    /// Events between two samples; 0 for none.
    pub sample_every: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            guest_pages: 1 << 24,
            limit: None,
            seed: 1,
            sample_every: 1 << 16,
        }
    }
}

/// The guest did not come up.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BootError {
    /// No machine can be like that.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The modelled kernel refused a step of the set-up.
    #[error("{call} was refused with {}", errno.name())]
    Refused {
        /// Which one.
        call: &'static str,
        /// How.
        errno: Errno,
    },
}

/// A trace that cannot be replayed any further. The counters tell how far it went.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReplayError {
    /// A row that is no event.
    #[error("event {event}: {error}")]
    Record {
        /// Its number in the trace, from 0.
        event: u64,
        /// What is wrong with it; its row counts from the start of the batch.
        error: RecordError,
    },
    /// More pages than the guest has.
    #[error("event {event}: {error}")]
    GuestFull {
        /// Its number in the trace, from 0.
        event: u64,
        /// How many there are.
        error: GuestFull,
    },
    /// The guest stopped: the host could not serve an access.
    #[error("event {event}: the guest stopped with {exit:?}")]
    Exit {
        /// Its number in the trace, from 0.
        event: u64,
        /// Why.
        exit: GuestExit,
    },
}

/// Why one event could not be done; its number is added where the events are counted.
enum Stop {
    Record(RecordError),
    GuestFull(GuestFull),
    Exit(GuestExit),
}

impl From<GuestFull> for Stop {
    fn from(error: GuestFull) -> Self {
        Self::GuestFull(error)
    }
}

impl From<GuestExit> for Stop {
    fn from(exit: GuestExit) -> Self {
        Self::Exit(exit)
    }
}

/// A guest with a program in it.
#[derive(Clone, Debug)]
pub struct Engine {
    machine: Machine,
    vcpu: VcpuId,
    layout: Layout,
    heap: Heap,
    options: Options,
    counters: Counters,
    samples: Vec<Sample>,
    mismatches: Vec<Mismatch>,
    /// The old pointer of a realloc whose second event has not come yet.
    realloc_from: Option<u64>,
    paints: Vec<Paint>,
}

impl Engine {
    /// Boots a machine with one MTE guest of one vCPU, whose RAM is anonymous memory of its VMM.
    pub fn boot(config: &Config, options: Options) -> Result<Self, BootError> {
        let refused = |call| move |errno| BootError::Refused { call, errno };
        let mut machine = Machine::new(config)?;
        let vmm = machine.create_process("vmm");
        let pages = u64::from(options.guest_pages);
        let ram = MapSpec {
            pages,
            backing: Backing::Anon,
            shared: false,
            prot: Prot::READ | Prot::WRITE,
            pgoff: 0,
        };
        let ram = machine.mmap(vmm, ram, None).map_err(refused("mmap"))?;
        let vm = machine.create_vm(vmm).map_err(refused("KVM_CREATE_VM"))?;
        machine.enable_cap_arm_mte(vm).map_err(refused("KVM_CAP_ARM_MTE"))?;
        let slot = SlotArgs {
            id: 0,
            ipa: Ipa(GUEST_BASE),
            userspace_addr: ram,
            pages,
            flags: 0,
        };
        machine
            .set_user_memory_region(vm, slot)
            .map_err(refused("KVM_SET_USER_MEMORY_REGION"))?;
        let vcpu = machine.create_vcpu(vm).map_err(refused("KVM_CREATE_VCPU"))?;
        if let Some(limit) = options.limit {
            machine.set_memory_limit(limit);
        }
        Ok(Self {
            machine,
            vcpu,
            layout: Layout::new(options.guest_pages),
            heap: Heap::new(options.seed),
            options,
            counters: Counters::default(),
            samples: Vec::new(),
            mismatches: Vec::new(),
            realloc_from: None,
            paints: Vec::new(),
        })
    }

    /// Does a batch of events; the totals since the beginning.
    pub fn step(&mut self, batch: Batch<'_>) -> Result<Counters, ReplayError> {
        let mut done = 0;
        while done < batch.len() {
            let until_sample = self.until_sample();
            let part = batch.slice(done, until_sample);
            self.run(&part)?;
            done += part.len();
            if part.len() == until_sample {
                self.sample();
            }
        }
        Ok(self.counters())
    }

    /// Totals since the beginning.
    pub fn counters(&self) -> Counters {
        let host = self.machine.stats();
        Counters {
            accesses: self.counters.loads + self.counters.stores,
            live_chunks: self.heap.live_chunks() as u64,
            pages: self.layout.len() as u64,
            stage2_faults: host.stage2_faults,
            swap_outs: host.swap_outs,
            swap_ins: host.swap_ins,
            tag_saves: host.tag_saves,
            tag_restores: host.tag_restores,
            page_tag_clears: host.page_tag_clears,
            notifier_invalidations: host.notifier_invalidations,
            saved_tag_pages: host.saved_tag_pages,
            saved_tag_bytes: host.saved_tag_bytes,
            saved_tag_bytes_peak: host.saved_tag_bytes_peak,
            resident_pages: host.resident_pages,
            ..self.counters
        }
    }

    /// The time series so far.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The first mismatches.
    pub fn mismatches(&self) -> &[Mismatch] {
        &self.mismatches
    }

    /// The machine, to look at.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Events until the next sample is due; at least 1.
    fn until_sample(&self) -> usize {
        match self.options.sample_every {
            0 => usize::MAX,
            every => (every - self.counters.events % every) as usize,
        }
    }

    fn sample(&mut self) {
        let host = self.machine.stats();
        self.samples.push(Sample {
            accesses: self.counters.loads + self.counters.stores,
            saved_tag_bytes: host.saved_tag_bytes,
            resident_pages: host.resident_pages,
            swap_outs: host.swap_outs,
            stage2_faults: host.stage2_faults,
        });
    }

    fn run(&mut self, batch: &Batch<'_>) -> Result<(), ReplayError> {
        let mut tally = Tally::default();
        let outcome = self.rows(batch, &mut tally);
        let Tally {
            rows,
            loads,
            stores,
            tag_checks,
        } = tally;
        let event = self.counters.events + rows;
        self.counters.events = event;
        self.counters.loads += loads;
        self.counters.stores += stores;
        self.counters.tag_checks += tag_checks;
        outcome.map_err(|stop| match stop {
            Stop::Record(error) => ReplayError::Record { event, error },
            Stop::GuestFull(error) => ReplayError::GuestFull { event, error },
            Stop::Exit(exit) => ReplayError::Exit { event, exit },
        })
    }

    /// The loop. What was done is in `tally` also when an event could not be.
    ///
    /// Simple accesses go in blocks; only heap events change pointers, and none is inside a block.
    fn rows(&mut self, batch: &Batch<'_>, tally: &mut Tally) -> Result<(), Stop> {
        let first = self.counters.events;
        while (tally.rows as usize) < batch.len() {
            let row = tally.rows as usize;
            let simple = simple_accesses(&batch.slice(row, BLOCK));
            if simple.is_empty() {
                let event = batch.get(row).map_err(Stop::Record)?;
                match event.op {
                    Op::Load | Op::Store => {
                        self.access_across(first + tally.rows, event)?;
                        tally.count(&batch.slice(row, 1));
                    }
                    _ => {
                        self.heap_event(event)?;
                        tally.rows += 1;
                    }
                }
            } else {
                self.block(first, &simple, tally)?;
            }
        }
        Ok(())
    }

    /// An access of any extent, in pieces, all through the pointer that its first byte is reached by.
    #[cold]
    fn access_across(&mut self, event: u64, access: Event) -> Result<(), Stop> {
        let Event { addr, size, op } = access;
        let write = op == Op::Store;
        let first = self.layout.page(addr >> PAGE_SHIFT)?;
        let logical = self.layout.pointer_tag(first, addr);
        for (vpn, start, bytes) in by_page(addr, u64::from(size)) {
            let page = self.layout.page(vpn)?;
            let mut at = start;
            while at < start + bytes {
                let piece = (start + bytes - at).min(PIECE - at % PIECE);
                match self
                    .machine
                    .guest_check(self.vcpu, pointer(page.guest(), at, logical), piece as u32, write)
                {
                    Checked::Ok => at += piece,
                    Checked::TagMismatch { far } => {
                        self.mismatch(event, access, logical, far)?;
                        return Ok(());
                    }
                    Checked::Exit(exit) => return Err(exit.into()),
                }
            }
        }
        Ok(())
    }

    fn mismatch(&mut self, event: u64, access: Event, logical: Tag, far: Va) -> Result<(), Stop> {
        self.counters.mismatches += 1;
        if self.mismatches.len() < MISMATCHES_KEPT {
            let granule = Va(far.untagged().0 & !(GRANULE_SIZE - 1));
            let allocation = self.machine.guest(self.vcpu, GuestOp::Ldg { ptr: granule })?;
            self.mismatches.push(Mismatch {
                event,
                addr: access.addr,
                size: access.size,
                write: access.op == Op::Store,
                logical,
                allocation: Tag::new(allocation as u8),
                place: self.heap.place(access.addr),
            });
        }
        Ok(())
    }

    fn heap_event(&mut self, event: Event) -> Result<(), Stop> {
        let Event { addr, size, op } = event;
        let size = u64::from(size);
        let mut paints = std::mem::take(&mut self.paints);
        let outcome = match op {
            Op::Malloc => {
                self.counters.mallocs += 1;
                self.heap.malloc(addr, size, &mut paints);
                Ok(())
            }
            Op::Free => self.heap.free(addr, &mut paints).inspect(|()| self.counters.frees += 1),
            Op::ReallocFrom => {
                self.realloc_from = Some(addr);
                Ok(())
            }
            Op::Realloc => {
                self.counters.reallocs += 1;
                // A resize of nothing known is an allocation.
                if let Some(old) = self.realloc_from.take() {
                    self.heap.realloc(old, addr, size, &mut paints)
                } else {
                    self.heap.malloc(addr, size, &mut paints);
                    Ok(())
                }
            }
            Op::Load | Op::Store => unreachable!("accesses are no heap events"),
        };
        self.counters.invalid_frees += u64::from(outcome.is_err());
        for paint in &paints {
            self.paint(paint)?;
        }
        paints.clear();
        self.paints = paints;
        Ok(())
    }

    fn paint(&mut self, paint: &Paint) -> Result<(), Stop> {
        // The heap's events are judged by their start; where they end may be beyond the program's addresses.
        let bytes = paint.bytes.min(ADDR_LIMIT - paint.addr.min(ADDR_LIMIT));
        for (vpn, start, bytes) in by_page(paint.addr, bytes) {
            let page = match self.layout.mapped(vpn) {
                Some(page) => page,
                None if paint.only_mapped => continue,
                None => self.layout.page(vpn)?,
            };
            if let Some(tag) = paint.pointer {
                let first = (start % PAGE_SIZE / GRANULE_SIZE) as usize;
                let count = (bytes / GRANULE_SIZE) as usize;
                self.layout.set_pointer_tags(page.guest(), first, count, tag);
            }
            if let Some(tag) = paint.memory {
                self.machine
                    .guest_set_tags(self.vcpu, pointer(page.guest(), start, tag), bytes)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
