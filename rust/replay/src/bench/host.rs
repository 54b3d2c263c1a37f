//! Benchmarks of the host's paths: a stage-2 fault, and a page that goes to swap and comes back with its tags.
//!
//! Models nothing: a VMM with an MTE guest on `linux-6.12`, whole kernel paths, real stage-2 descriptors. Left out: the copies
//! of a page's data to and from swap, which the pages here do not have (only tags were written). The invariant: each round
//! does the same work on a machine in the same state.

use std::hint::black_box;

use tagvisor_arch::{Ipa, PAGE_SIZE, Tag, Va};
use tagvisor_host::{Backing, Config, GuestOp, Machine, MapSpec, MmId, Prot, SlotArgs, SwapKind, VcpuId};

use super::{interleave, time};
use crate::floor::Fresh;

const IPA: u64 = 0x8000_0000;
const PAGES: u64 = 4096;

/// A guest whose memory nobody touched yet.
struct Setting {
    machine: Machine,
    vmm: MmId,
    cpu: VcpuId,
    ram: Va,
}

impl Setting {
    fn boot(ledger: bool) -> Self {
        let config = Config {
            memory: 64 << 20,
            swap: 2 * PAGES * PAGE_SIZE,
            swap_kind: SwapKind::Zram,
            ledger,
            log: false,
            ..Config::default()
        };
        let mut machine = Machine::new(&config).expect("a machine that can be");
        let vmm = machine.create_process("vmm");
        let spec = MapSpec {
            pages: PAGES,
            backing: Backing::Anon,
            shared: false,
            prot: Prot::READ | Prot::WRITE,
            pgoff: 0,
        };
        let ram = machine.mmap(vmm, spec, None).expect("memory");
        let vm = machine.create_vm(vmm).expect("a VM");
        machine.enable_cap_arm_mte(vm).expect("no vCPU yet");
        let cpu = machine.create_vcpu(vm).expect("a vCPU");
        let slot = SlotArgs {
            id: 0,
            ipa: Ipa(IPA),
            userspace_addr: ram,
            pages: PAGES,
            flags: 0,
        };
        machine.set_user_memory_region(vm, slot).expect("a memslot");
        Self { machine, vmm, cpu, ram }
    }

    /// STG to each page.
    fn touch_all(&mut self) {
        for page in 0..PAGES {
            let op = GuestOp::Stg {
                ptr: Va(IPA + page * PAGE_SIZE),
                tag: Tag::new(7),
            };
            self.machine.guest(self.cpu, op).expect("guest memory");
        }
    }

    /// Each page out.
    fn evict_all(&mut self) {
        for page in 0..PAGES {
            let at = self.ram + page * PAGE_SIZE;
            let entry = self.machine.evict(self.vmm, at).expect("anonymous memory");
            debug_assert!(entry.swap);
        }
    }

    /// LDG of each page: in again.
    fn read_all(&mut self) {
        for page in 0..PAGES {
            let ptr = Va(IPA + page * PAGE_SIZE);
            let tag = self.machine.guest(self.cpu, GuestOp::Ldg { ptr });
            assert_eq!(tag.expect("guest memory"), 7, "the tag came back");
        }
    }
}

/// The first touch of a guest page.
pub(super) fn stage2_fault(ledger: bool) -> (f64, f64) {
    let origin = Setting::boot(ledger);
    let mut fresh = Fresh::new(PAGES as usize);
    interleave(
        PAGES as u32,
        || {
            let mut setting = Setting {
                machine: origin.machine.clone(),
                ..origin
            };
            time(|| setting.touch_all())
        },
        || time(|| black_box(&mut fresh).clear()),
    )
}

/// A tagged page to swap and, at the guest's next access, back.
pub(super) fn swap_pair(ledger: bool) -> (f64, f64) {
    let mut setting = Setting::boot(ledger);
    setting.touch_all();
    let mut fresh = Fresh::new(PAGES as usize);
    interleave(
        PAGES as u32,
        || {
            time(|| {
                setting.evict_all();
                setting.read_all();
            })
        },
        || time(|| black_box(&mut fresh).clear()),
    )
}
