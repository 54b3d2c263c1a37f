//! The machine as Python drives it: one method per system call, ioctl, instruction and question.
//!
//! Names are the host's. Things are named by their numbers (a process, a VM, a vCPU's index), addresses are plain
//! integers; the façade in `python/tagvisor` hands out objects instead and checks ranges first.

mod mm;

pub(crate) use mm::map_spec;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use numpy::{PyArray1, PyReadwriteArray1};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tagvisor_arch::{Ipa, Tag, Va};
use tagvisor_host::{
    Config, CopyTags, GuestOp, MmId, PagemapEntry, Prot, SlotArgs, StepLine, SwapKind, VcpuId, Violation, VmId,
};

use crate::arrays;
use crate::decide::PyDecider;
use crate::enter::enter;
use crate::errors::{ArgumentError, Refusal};
use crate::policy::policy_of;

/// Number, actor, path, step and text of a line of the log.
pub(crate) type Line = (u32, String, &'static str, &'static str, String);
/// Property's number and title, summary, steps.
pub(crate) type Verdict = (&'static str, &'static str, String, Vec<Line>);
/// Present, swap, frame number, swap entry, `PG_mte_tagged`.
type Pagemap = (bool, bool, Option<u64>, Option<u64>, bool);

/// An arm64 Linux host with MTE and KVM. One thread at a time is in it; others wait.
#[pyclass(frozen, module = "tagvisor._native")]
pub(crate) struct Machine {
    /// No other machine of this process has it: operations are made for one machine.
    id: u64,
    /// Poisoned by a panic: a machine that stopped in the middle of a step refuses further use.
    inner: Mutex<tagvisor_host::Machine>,
    /// Who decides at each kernel event, if anybody.
    decider: OnceLock<Arc<PyDecider>>,
}

impl Machine {
    /// Runs `work` on the machine, behind the door.
    pub(crate) fn with<T, F>(&self, py: Python<'_>, work: F) -> PyResult<T>
    where
        F: FnOnce(&mut tagvisor_host::Machine) -> Result<T, Refusal> + Send,
        T: Send,
    {
        let answer = enter(py, || {
            let mut machine = self.inner.lock().map_err(|_| Refusal::Poisoned)?;
            work(&mut machine)
        });
        match self.decider.get().and_then(|decider| decider.take_error()) {
            Some(error) => Err(error),
            None => answer,
        }
    }

    /// What tells it from other machines.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    fn guest(&self, py: Python<'_>, vm: u32, vcpu: u32, op: GuestOp) -> PyResult<u64> {
        self.with(py, |machine| Ok(machine.guest(vcpu_id(vm, vcpu), op)?))
    }
}

#[pymethods]
impl Machine {
    #[new]
    #[pyo3(signature = (policy_name, policy_values, *, memory, zone_device, mmio, swap, swap_kind, ledger, log, tlb_bits, seed))]
    #[allow(clippy::too_many_arguments, clippy::fn_params_excessive_bools)] // the fields of `Config`, by keyword
    fn new(
        py: Python<'_>,
        policy_name: String,
        policy_values: Vec<(String, String)>,
        memory: u64,
        zone_device: u64,
        mmio: u64,
        swap: u64,
        swap_kind: &str,
        ledger: bool,
        log: bool,
        tlb_bits: u32,
        seed: u64,
    ) -> PyResult<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let swap_kind = match swap_kind {
            "nvme" => SwapKind::Nvme,
            "zram" => SwapKind::Zram,
            other => return Err(unknown("swap_kind", other, "'nvme' or 'zram'")),
        };
        enter(py, || {
            let policy = policy_of(policy_name, &policy_values)?;
            let config = Config {
                policy,
                memory,
                zone_device,
                mmio,
                swap,
                swap_kind,
                ledger,
                log,
                tlb_bits,
                seed,
            };
            Ok(Self {
                id: NEXT.fetch_add(1, Ordering::Relaxed),
                inner: Mutex::new(tagvisor_host::Machine::new(&config)?),
                decider: OnceLock::new(),
            })
        })
    }

    /// Asks `decide(knob, event)` about every knob at each kernel event from now on; once a machine.
    fn set_decider(&self, py: Python<'_>, decide: Py<PyAny>) -> PyResult<()> {
        let decider = Arc::new(PyDecider::new(decide));
        if self.decider.set(Arc::clone(&decider)).is_err() {
            return Err(ArgumentError::new_err((
                "decide",
                "a second one",
                "one decider a machine",
            )));
        }
        self.with(py, |machine| {
            machine.host_mut().set_decider(decider);
            Ok(())
        })
    }

    /// `KVM_CREATE_VM`; its number.
    fn create_vm(&self, py: Python<'_>, mm: u32) -> PyResult<u32> {
        self.with(py, |machine| {
            Ok(machine
                .create_vm(MmId(mm))
                .map_err(Refusal::of("ioctl(KVM_CREATE_VM)"))?
                .0)
        })
    }

    /// Close a VM.
    fn destroy_vm(&self, py: Python<'_>, vm: u32) -> PyResult<()> {
        self.with(py, |machine| machine.destroy_vm(VmId(vm)).map_err(Refusal::of("close")))
    }

    /// `KVM_CHECK_EXTENSION(KVM_CAP_ARM_MTE)`.
    fn check_extension_arm_mte(&self, py: Python<'_>) -> PyResult<bool> {
        self.with(py, |machine| Ok(machine.check_extension_arm_mte()))
    }

    /// `KVM_ENABLE_CAP(KVM_CAP_ARM_MTE)`.
    fn enable_cap_arm_mte(&self, py: Python<'_>, vm: u32) -> PyResult<()> {
        self.with(py, |machine| {
            machine
                .enable_cap_arm_mte(VmId(vm))
                .map_err(Refusal::of("ioctl(KVM_ENABLE_CAP, KVM_CAP_ARM_MTE)"))
        })
    }

    /// `KVM_CREATE_VCPU`; its index in the VM.
    fn create_vcpu(&self, py: Python<'_>, vm: u32) -> PyResult<u32> {
        self.with(py, |machine| {
            Ok(machine
                .create_vcpu(VmId(vm))
                .map_err(Refusal::of("ioctl(KVM_CREATE_VCPU)"))?
                .index)
        })
    }

    /// `KVM_SET_USER_MEMORY_REGION`; 0 pages deletes the slot.
    #[allow(clippy::too_many_arguments)] // the ioctl's
    fn set_user_memory_region(
        &self,
        py: Python<'_>,
        vm: u32,
        slot: u32,
        ipa: u64,
        address: u64,
        pages: u64,
        flags: u32,
    ) -> PyResult<()> {
        let args = SlotArgs {
            id: slot,
            ipa: Ipa(ipa),
            userspace_addr: Va(address),
            pages,
            flags,
        };
        self.with(py, |machine| {
            machine
                .set_user_memory_region(VmId(vm), args)
                .map_err(Refusal::of("ioctl(KVM_SET_USER_MEMORY_REGION)"))
        })
    }

    /// `KVM_ARM_MTE_COPY_TAGS`; bytes of guest memory covered.
    #[allow(clippy::too_many_arguments)] // the ioctl's
    fn mte_copy_tags(
        &self,
        py: Python<'_>,
        vm: u32,
        ipa: u64,
        length: u64,
        flags: u64,
        reserved: (u64, u64),
        mut buf: PyReadwriteArray1<'_, u8>,
    ) -> PyResult<u64> {
        let args = CopyTags {
            ipa,
            length,
            flags,
            reserved: reserved.into(),
        };
        let bytes = buf.as_slice_mut()?;
        self.with(py, |machine| {
            machine
                .mte_copy_tags(VmId(vm), args, bytes)
                .map_err(Refusal::of("ioctl(KVM_ARM_MTE_COPY_TAGS)"))
        })
    }

    /// `IRG Xd, Xn, Xm`.
    fn guest_irg(&self, py: Python<'_>, vm: u32, vcpu: u32, xn: u64, xm: u64) -> PyResult<u64> {
        self.guest(py, vm, vcpu, GuestOp::Irg { xn, xm })
    }

    /// `ADDG Xd, Xn, #imm, #tag_imm`.
    fn guest_addg(&self, py: Python<'_>, vm: u32, vcpu: u32, xn: u64, imm: u64, tag_imm: u8) -> PyResult<u64> {
        self.guest(py, vm, vcpu, GuestOp::Addg { xn, imm, tag_imm })
    }

    /// `SUBG Xd, Xn, #imm, #tag_imm`.
    fn guest_subg(&self, py: Python<'_>, vm: u32, vcpu: u32, xn: u64, imm: u64, tag_imm: u8) -> PyResult<u64> {
        self.guest(py, vm, vcpu, GuestOp::Subg { xn, imm, tag_imm })
    }

    /// `GMI Xd, Xn, Xm`.
    fn guest_gmi(&self, py: Python<'_>, vm: u32, vcpu: u32, xn: u64, mask: u64) -> PyResult<u64> {
        self.guest(py, vm, vcpu, GuestOp::Gmi { xn, mask })
    }

    /// `SUBP Xd, Xn, Xm`.
    fn guest_subp(&self, py: Python<'_>, vm: u32, vcpu: u32, xn: u64, xm: u64) -> PyResult<u64> {
        self.guest(py, vm, vcpu, GuestOp::Subp { xn, xm })
    }

    /// `LDG`.
    fn guest_ldg(&self, py: Python<'_>, vm: u32, vcpu: u32, pointer: u64) -> PyResult<u64> {
        self.guest(py, vm, vcpu, GuestOp::Ldg { ptr: Va(pointer) })
    }

    /// `STG`.
    fn guest_stg(&self, py: Python<'_>, vm: u32, vcpu: u32, pointer: u64, tag: u8) -> PyResult<()> {
        self.guest(
            py,
            vm,
            vcpu,
            GuestOp::Stg {
                ptr: Va(pointer),
                tag: Tag::new(tag),
            },
        )
        .map(drop)
    }

    /// `ST2G`.
    fn guest_st2g(&self, py: Python<'_>, vm: u32, vcpu: u32, pointer: u64, tag: u8) -> PyResult<()> {
        self.guest(
            py,
            vm,
            vcpu,
            GuestOp::St2g {
                ptr: Va(pointer),
                tag: Tag::new(tag),
            },
        )
        .map(drop)
    }

    /// `STZG`.
    fn guest_stzg(&self, py: Python<'_>, vm: u32, vcpu: u32, pointer: u64, tag: u8) -> PyResult<()> {
        self.guest(
            py,
            vm,
            vcpu,
            GuestOp::Stzg {
                ptr: Va(pointer),
                tag: Tag::new(tag),
            },
        )
        .map(drop)
    }

    /// `LDGM`.
    fn guest_ldgm(&self, py: Python<'_>, vm: u32, vcpu: u32, pointer: u64) -> PyResult<u64> {
        self.guest(py, vm, vcpu, GuestOp::Ldgm { ptr: Va(pointer) })
    }

    /// `STGM`.
    fn guest_stgm(&self, py: Python<'_>, vm: u32, vcpu: u32, pointer: u64, bits: u64) -> PyResult<()> {
        self.guest(py, vm, vcpu, GuestOp::Stgm { ptr: Va(pointer), bits })
            .map(drop)
    }

    /// `DC GVA`.
    fn guest_dc_gva(&self, py: Python<'_>, vm: u32, vcpu: u32, pointer: u64, tag: u8) -> PyResult<()> {
        self.guest(
            py,
            vm,
            vcpu,
            GuestOp::DcGva {
                ptr: Va(pointer),
                tag: Tag::new(tag),
            },
        )
        .map(drop)
    }

    /// `DC GZVA`.
    fn guest_dc_gzva(&self, py: Python<'_>, vm: u32, vcpu: u32, pointer: u64, tag: u8) -> PyResult<()> {
        self.guest(
            py,
            vm,
            vcpu,
            GuestOp::DcGzva {
                ptr: Va(pointer),
                tag: Tag::new(tag),
            },
        )
        .map(drop)
    }

    /// `DC ZVA`.
    fn guest_dc_zva(&self, py: Python<'_>, vm: u32, vcpu: u32, pointer: u64) -> PyResult<()> {
        self.guest(py, vm, vcpu, GuestOp::DcZva { ptr: Va(pointer) }).map(drop)
    }

    /// A guest's load of 1, 2, 4 or 8 bytes.
    fn guest_load(&self, py: Python<'_>, vm: u32, vcpu: u32, pointer: u64, size: u8) -> PyResult<u64> {
        self.guest(py, vm, vcpu, GuestOp::Load { ptr: Va(pointer), size })
    }

    /// A guest's store of 1, 2, 4 or 8 bytes.
    fn guest_store(&self, py: Python<'_>, vm: u32, vcpu: u32, pointer: u64, size: u8, value: u64) -> PyResult<()> {
        self.guest(
            py,
            vm,
            vcpu,
            GuestOp::Store {
                ptr: Va(pointer),
                size,
                value,
            },
        )
        .map(drop)
    }

    /// `LDG` of every granule of a guest's page: 256 tags.
    fn guest_page_tags<'py>(
        &self,
        py: Python<'py>,
        vm: u32,
        vcpu: u32,
        pointer: u64,
    ) -> PyResult<Bound<'py, PyArray1<u8>>> {
        let tags = self.with(py, |machine| {
            Ok(machine.guest_page_tags(vcpu_id(vm, vcpu), Va(pointer))?)
        })?;
        Ok(arrays::to_array(py, &tags))
    }

    /// `STG` of every granule of a guest's page: granule i gets `first + i * step`, modulo 16.
    fn guest_fill_page(&self, py: Python<'_>, vm: u32, vcpu: u32, pointer: u64, first: u8, step: u8) -> PyResult<()> {
        self.with(py, |machine| {
            Ok(machine.guest_fill_page(vcpu_id(vm, vcpu), Va(pointer), Tag::new(first), step)?)
        })
    }

    /// Audits everything; the first violation.
    fn check(&self, py: Python<'_>) -> PyResult<Option<Verdict>> {
        self.with(py, |machine| Ok(machine.check().err().as_ref().map(verdict)))
    }

    /// The violations found so far.
    fn violations(&self, py: Python<'_>) -> PyResult<Vec<Verdict>> {
        self.with(py, |machine| Ok(machine.violations().iter().map(verdict).collect()))
    }

    /// The numbered steps so far.
    fn log(&self, py: Python<'_>) -> PyResult<Vec<Line>> {
        self.with(py, |machine| Ok(machine.log().iter().map(line).collect()))
    }

    /// Counters by name.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = PyDict::new(py);
        for (name, value) in self.with(py, |machine| Ok(machine.stats().entries()))? {
            stats.set_item(name, value)?;
        }
        Ok(stats)
    }

    /// Panics on purpose, in the middle of a step as far as the machine can tell: how the tests see that a fault of
    /// ours becomes `InternalError` and that the machine then refuses further use.
    fn _panic_on_purpose(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |_| panic!("on purpose"))
    }
}

fn vcpu_id(vm: u32, index: u32) -> VcpuId {
    VcpuId { vm: VmId(vm), index }
}

fn unknown(argument: &'static str, value: &str, expected: &'static str) -> PyErr {
    ArgumentError::new_err((argument, value.to_owned(), expected))
}

pub(crate) fn parse_prot(letters: &str) -> PyResult<Prot> {
    letters.chars().try_fold(Prot::empty(), |prot, letter| match letter {
        'r' => Ok(prot | Prot::READ),
        'w' => Ok(prot | Prot::WRITE),
        'm' => Ok(prot | Prot::MTE),
        _ => Err(unknown("prot", letters, "letters of 'rwm'")),
    })
}

fn pagemap(entry: PagemapEntry) -> Pagemap {
    let PagemapEntry {
        present,
        swap,
        pfn,
        entry,
        mte_tagged,
    } = entry;
    (present, swap, pfn.map(|p| p.0), entry, mte_tagged)
}

pub(crate) fn line(step: &StepLine) -> Line {
    (step.n, step.actor.clone(), step.path, step.step, step.text.clone())
}

pub(crate) fn verdict(violation: &Violation) -> Verdict {
    let Violation {
        property,
        summary,
        steps,
    } = violation;
    (
        property.id(),
        property.title(),
        summary.clone(),
        steps.iter().map(line).collect(),
    )
}
