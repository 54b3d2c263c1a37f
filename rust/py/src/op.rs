//! Operations as values: what an actor is asked to do under the explorer.

use pyo3::prelude::*;
use tagvisor_arch::{Ipa, Tag, Va};
use tagvisor_host::{GuestOp, MmId, UserOp, VcpuId, VmId};

use crate::machine::{Machine, map_spec, parse_prot};

/// One operation of an actor, with all its operands. Made by the functions of `tagvisor.ops`.
#[pyclass(frozen, eq, hash, module = "tagvisor._native")]
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct Op {
    /// Whose numbers the operands are.
    machine: u64,
    text: String,
    inner: tagvisor_host::Op,
}

impl Op {
    fn new(machine: &Machine, text: String, inner: tagvisor_host::Op) -> Self {
        Self {
            machine: machine.id(),
            text,
            inner,
        }
    }

    fn guest(machine: &Machine, text: String, vm: u32, vcpu: u32, op: GuestOp) -> Self {
        let vcpu = VcpuId {
            vm: VmId(vm),
            index: vcpu,
        };
        Self::new(machine, text, tagvisor_host::Op::Guest(vcpu, op))
    }

    fn user(machine: &Machine, text: String, mm: u32, op: UserOp) -> Self {
        Self::new(machine, text, tagvisor_host::Op::User(MmId(mm), op))
    }

    /// The operation, if it was made for that machine.
    pub(crate) fn on(&self, machine: &Machine) -> Option<tagvisor_host::Op> {
        (self.machine == machine.id()).then(|| self.inner.clone())
    }
}

#[pymethods]
impl Op {
    /// `KVM_ENABLE_CAP(KVM_CAP_ARM_MTE)`.
    #[staticmethod]
    fn enable_mte(machine: &Machine, vm: u32) -> Self {
        let text = format!("enable MTE of VM {vm}");
        Self::new(machine, text, tagvisor_host::Op::EnableCapMte(VmId(vm)))
    }

    /// `KVM_CREATE_VCPU`.
    #[staticmethod]
    fn create_vcpu(machine: &Machine, vm: u32) -> Self {
        let text = format!("create a vCPU of VM {vm}");
        Self::new(machine, text, tagvisor_host::Op::CreateVcpu(VmId(vm)))
    }

    /// A guest's `LDG`.
    #[staticmethod]
    fn guest_ldg(machine: &Machine, vm: u32, vcpu: u32, pointer: u64) -> Self {
        Self::guest(
            machine,
            format!("ldg {pointer:#x}"),
            vm,
            vcpu,
            GuestOp::Ldg { ptr: Va(pointer) },
        )
    }

    /// A guest's `STG`.
    #[staticmethod]
    fn guest_stg(machine: &Machine, vm: u32, vcpu: u32, pointer: u64, tag: u8) -> Self {
        let op = GuestOp::Stg {
            ptr: Va(pointer),
            tag: Tag::new(tag),
        };
        Self::guest(machine, format!("stg {pointer:#x}, tag {tag:x}"), vm, vcpu, op)
    }

    /// A guest's load.
    #[staticmethod]
    fn guest_load(machine: &Machine, vm: u32, vcpu: u32, pointer: u64, size: u8) -> Self {
        let op = GuestOp::Load { ptr: Va(pointer), size };
        Self::guest(machine, format!("load {size} bytes at {pointer:#x}"), vm, vcpu, op)
    }

    /// A guest's store.
    #[staticmethod]
    fn guest_store(machine: &Machine, vm: u32, vcpu: u32, pointer: u64, size: u8, value: u64) -> Self {
        let op = GuestOp::Store {
            ptr: Va(pointer),
            size,
            value,
        };
        Self::guest(
            machine,
            format!("store {value:#x}, {size} bytes at {pointer:#x}"),
            vm,
            vcpu,
            op,
        )
    }

    /// A process's `LDG`.
    #[staticmethod]
    fn user_ldg(machine: &Machine, mm: u32, pointer: u64) -> Self {
        Self::user(
            machine,
            format!("user ldg {pointer:#x}"),
            mm,
            UserOp::Ldg { ptr: Va(pointer) },
        )
    }

    /// A process's `STG`.
    #[staticmethod]
    fn user_stg(machine: &Machine, mm: u32, pointer: u64, tag: u8) -> Self {
        let op = UserOp::Stg {
            ptr: Va(pointer),
            tag: Tag::new(tag),
        };
        Self::user(machine, format!("user stg {pointer:#x}, tag {tag:x}"), mm, op)
    }

    /// A process's load.
    #[staticmethod]
    fn user_load(machine: &Machine, mm: u32, pointer: u64, size: u8) -> Self {
        let op = UserOp::Load { ptr: Va(pointer), size };
        Self::user(machine, format!("user load {size} bytes at {pointer:#x}"), mm, op)
    }

    /// A process's store.
    #[staticmethod]
    fn user_store(machine: &Machine, mm: u32, pointer: u64, size: u8, value: u64) -> Self {
        let op = UserOp::Store {
            ptr: Va(pointer),
            size,
            value,
        };
        Self::user(
            machine,
            format!("user store {value:#x}, {size} bytes at {pointer:#x}"),
            mm,
            op,
        )
    }

    /// Reclaim of one page.
    #[staticmethod]
    fn evict(machine: &Machine, mm: u32, address: u64) -> Self {
        Self::new(
            machine,
            format!("evict {address:#x}"),
            tagvisor_host::Op::Evict(MmId(mm), Va(address)),
        )
    }

    /// `move_pages` of one page, or compaction.
    #[staticmethod]
    fn migrate(machine: &Machine, mm: u32, address: u64) -> Self {
        let inner = tagvisor_host::Op::Migrate(MmId(mm), Va(address));
        Self::new(machine, format!("migrate {address:#x}"), inner)
    }

    /// `ksmd` scans.
    #[staticmethod]
    fn ksm_run(machine: &Machine) -> Self {
        Self::new(machine, "ksm scan".to_owned(), tagvisor_host::Op::KsmScan)
    }

    /// `madvise(MADV_DONTNEED)`.
    #[staticmethod]
    fn dontneed(machine: &Machine, mm: u32, address: u64, pages: u64) -> Self {
        let inner = tagvisor_host::Op::Madvise(MmId(mm), Va(address), pages, tagvisor_host::Advice::Dontneed);
        Self::new(
            machine,
            format!("madvise(MADV_DONTNEED) {address:#x}, {pages} pages"),
            inner,
        )
    }

    /// `munmap`.
    #[staticmethod]
    fn munmap(machine: &Machine, mm: u32, address: u64, pages: u64) -> Self {
        let inner = tagvisor_host::Op::Munmap(MmId(mm), Va(address), pages);
        Self::new(machine, format!("munmap {address:#x}, {pages} pages"), inner)
    }

    /// `mmap(MAP_FIXED)` over what is there; arguments as of `Machine.mmap`.
    #[staticmethod]
    #[pyo3(signature = (machine, mm, address, pages, backing, shared, prot, file=None, pgoff=0))]
    #[allow(clippy::too_many_arguments)] // mmap's
    fn mmap_fixed(
        machine: &Machine,
        mm: u32,
        address: u64,
        pages: u64,
        backing: &str,
        shared: bool,
        prot: &str,
        file: Option<u32>,
        pgoff: u64,
    ) -> PyResult<Self> {
        let spec = map_spec(pages, backing, shared, prot, file, pgoff)?;
        let inner = tagvisor_host::Op::Replace(MmId(mm), Va(address), spec);
        let text = format!("mmap over {address:#x}, {pages} pages, {backing}");
        Ok(Self::new(machine, text, inner))
    }

    /// `PTRACE_PEEKMTETAGS` of so many granules of a process.
    #[staticmethod]
    fn peek_tags(machine: &Machine, mm: u32, address: u64, count: u32) -> Self {
        let va = Va(address);
        let inner = tagvisor_host::Op::PeekTags {
            mm: MmId(mm),
            va,
            count,
        };
        Self::new(machine, format!("peek {count} tags at {address:#x}"), inner)
    }

    /// `PTRACE_POKEMTETAGS`: one tag a byte.
    #[staticmethod]
    fn poke_tags(machine: &Machine, mm: u32, address: u64, tags: Vec<u8>) -> Self {
        let text = format!("poke {} tags at {address:#x}", tags.len());
        let va = Va(address);
        Self::new(machine, text, tagvisor_host::Op::PokeTags { mm: MmId(mm), va, tags })
    }

    /// `mprotect`.
    #[staticmethod]
    fn mprotect(machine: &Machine, mm: u32, address: u64, pages: u64, prot: &str) -> PyResult<Self> {
        let inner = tagvisor_host::Op::Mprotect(MmId(mm), Va(address), pages, parse_prot(prot)?);
        Ok(Self::new(
            machine,
            format!("mprotect {address:#x}, {pages} pages, {prot:?}"),
            inner,
        ))
    }

    /// `KVM_ARM_MTE_COPY_TAGS` from the guest.
    #[staticmethod]
    fn copy_tags_from(machine: &Machine, vm: u32, ipa: u64, pages: u32) -> Self {
        let room = pages.saturating_mul(256);
        let inner = tagvisor_host::Op::CopyTagsFrom {
            vm: VmId(vm),
            ipa: Ipa(ipa),
            pages,
            room,
        };
        Self::new(machine, format!("copy tags from {ipa:#x}, {pages} pages"), inner)
    }

    /// `KVM_ARM_MTE_COPY_TAGS` to the guest: 256 tags a page.
    #[staticmethod]
    fn copy_tags_to(machine: &Machine, vm: u32, ipa: u64, tags: Vec<u8>) -> Self {
        let pages = u32::try_from(tags.len() / 256).unwrap_or(u32::MAX);
        let inner = tagvisor_host::Op::CopyTagsTo {
            vm: VmId(vm),
            ipa: Ipa(ipa),
            pages,
            tags,
        };
        Self::new(machine, format!("copy tags to {ipa:#x}, {pages} pages"), inner)
    }

    /// `UFFDIO_COPY` of a process's page.
    #[staticmethod]
    fn uffd_copy(machine: &Machine, mm: u32, page: u64, data: Vec<u8>) -> Self {
        let (mm, va) = (MmId(mm), Va(page));
        let text = format!("UFFDIO_COPY to {va}");
        Self::new(machine, text, tagvisor_host::Op::UffdCopy { mm, va, data })
    }

    /// `swapoff`.
    #[staticmethod]
    fn swapoff(machine: &Machine, device: u8) -> Self {
        let text = format!("swapoff of device {device}");
        Self::new(machine, text, tagvisor_host::Op::Swapoff(device))
    }

    /// `UFFDIO_MOVE` of a process's page.
    #[staticmethod]
    fn uffd_move(machine: &Machine, mm: u32, page: u64, source: u64) -> Self {
        let (mm, to, from) = (MmId(mm), Va(page), Va(source));
        let text = format!("UFFDIO_MOVE of {from} to {to}");
        Self::new(machine, text, tagvisor_host::Op::UffdMove { mm, to, from })
    }

    /// zswap's writeback of so many pages.
    #[staticmethod]
    fn zswap_shrink(machine: &Machine, pages: u64) -> Self {
        let text = format!("zswap writes {pages} pages back");
        Self::new(machine, text, tagvisor_host::Op::ZswapShrink(pages))
    }

    fn __repr__(&self) -> String {
        format!("<Op {}>", self.text)
    }
}
