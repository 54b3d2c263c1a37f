//! Operations as values: what an actor is asked to do under the explorer.

use pyo3::prelude::*;
use tagvisor_arch::{Ipa, Tag, Va};
use tagvisor_host::{GuestOp, MmId, UserOp, VcpuId, VmId};

use crate::machine::parse_prot;

/// One operation of an actor, with all its operands. Made by the functions of `tagvisor.ops`.
#[pyclass(frozen, eq, hash, module = "tagvisor._native")]
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct Op {
    text: String,
    inner: tagvisor_host::Op,
}

impl Op {
    fn guest(text: String, vm: u32, vcpu: u32, op: GuestOp) -> Self {
        Self {
            text,
            inner: tagvisor_host::Op::Guest(
                VcpuId {
                    vm: VmId(vm),
                    index: vcpu,
                },
                op,
            ),
        }
    }

    fn user(text: String, mm: u32, op: UserOp) -> Self {
        Self {
            text,
            inner: tagvisor_host::Op::User(MmId(mm), op),
        }
    }
}

#[pymethods]
impl Op {
    /// A guest's `LDG`.
    #[staticmethod]
    fn guest_ldg(vm: u32, vcpu: u32, pointer: u64) -> Self {
        Self::guest(format!("ldg {pointer:#x}"), vm, vcpu, GuestOp::Ldg { ptr: Va(pointer) })
    }

    /// A guest's `STG`.
    #[staticmethod]
    fn guest_stg(vm: u32, vcpu: u32, pointer: u64, tag: u8) -> Self {
        let op = GuestOp::Stg {
            ptr: Va(pointer),
            tag: Tag::new(tag),
        };
        Self::guest(format!("stg {pointer:#x}, tag {tag:x}"), vm, vcpu, op)
    }

    /// A guest's load.
    #[staticmethod]
    fn guest_load(vm: u32, vcpu: u32, pointer: u64, size: u8) -> Self {
        let op = GuestOp::Load { ptr: Va(pointer), size };
        Self::guest(format!("load {size} bytes at {pointer:#x}"), vm, vcpu, op)
    }

    /// A guest's store.
    #[staticmethod]
    fn guest_store(vm: u32, vcpu: u32, pointer: u64, size: u8, value: u64) -> Self {
        let op = GuestOp::Store {
            ptr: Va(pointer),
            size,
            value,
        };
        Self::guest(format!("store {value:#x}, {size} bytes at {pointer:#x}"), vm, vcpu, op)
    }

    /// A process's `LDG`.
    #[staticmethod]
    fn user_ldg(mm: u32, pointer: u64) -> Self {
        Self::user(format!("user ldg {pointer:#x}"), mm, UserOp::Ldg { ptr: Va(pointer) })
    }

    /// A process's `STG`.
    #[staticmethod]
    fn user_stg(mm: u32, pointer: u64, tag: u8) -> Self {
        let op = UserOp::Stg {
            ptr: Va(pointer),
            tag: Tag::new(tag),
        };
        Self::user(format!("user stg {pointer:#x}, tag {tag:x}"), mm, op)
    }

    /// A process's load.
    #[staticmethod]
    fn user_load(mm: u32, pointer: u64, size: u8) -> Self {
        let op = UserOp::Load { ptr: Va(pointer), size };
        Self::user(format!("user load {size} bytes at {pointer:#x}"), mm, op)
    }

    /// A process's store.
    #[staticmethod]
    fn user_store(mm: u32, pointer: u64, size: u8, value: u64) -> Self {
        let op = UserOp::Store {
            ptr: Va(pointer),
            size,
            value,
        };
        Self::user(format!("user store {value:#x}, {size} bytes at {pointer:#x}"), mm, op)
    }

    /// Reclaim of one page.
    #[staticmethod]
    fn evict(mm: u32, address: u64) -> Self {
        Self {
            text: format!("evict {address:#x}"),
            inner: tagvisor_host::Op::Evict(MmId(mm), Va(address)),
        }
    }

    /// `madvise(MADV_DONTNEED)`.
    #[staticmethod]
    fn dontneed(mm: u32, address: u64, pages: u64) -> Self {
        let inner = tagvisor_host::Op::DontNeed(MmId(mm), Va(address), pages);
        Self {
            text: format!("madvise(MADV_DONTNEED) {address:#x}, {pages} pages"),
            inner,
        }
    }

    /// `munmap`.
    #[staticmethod]
    fn munmap(mm: u32, address: u64, pages: u64) -> Self {
        let inner = tagvisor_host::Op::Munmap(MmId(mm), Va(address), pages);
        Self {
            text: format!("munmap {address:#x}, {pages} pages"),
            inner,
        }
    }

    /// `mprotect`.
    #[staticmethod]
    fn mprotect(mm: u32, address: u64, pages: u64, prot: &str) -> PyResult<Self> {
        let inner = tagvisor_host::Op::Mprotect(MmId(mm), Va(address), pages, parse_prot(prot)?);
        Ok(Self {
            text: format!("mprotect {address:#x}, {pages} pages, {prot:?}"),
            inner,
        })
    }

    /// `KVM_ARM_MTE_COPY_TAGS` from the guest.
    #[staticmethod]
    fn copy_tags_from(vm: u32, ipa: u64, pages: u32) -> Self {
        let room = pages.saturating_mul(256);
        let inner = tagvisor_host::Op::CopyTagsFrom {
            vm: VmId(vm),
            ipa: Ipa(ipa),
            pages,
            room,
        };
        Self {
            text: format!("copy tags from {ipa:#x}, {pages} pages"),
            inner,
        }
    }

    /// `KVM_ARM_MTE_COPY_TAGS` to the guest: 256 tags a page.
    #[staticmethod]
    fn copy_tags_to(vm: u32, ipa: u64, tags: Vec<u8>) -> Self {
        let pages = u32::try_from(tags.len() / 256).unwrap_or(u32::MAX);
        let text = format!("copy tags to {ipa:#x}, {pages} pages");
        Self {
            text,
            inner: tagvisor_host::Op::CopyTagsTo {
                vm: VmId(vm),
                ipa: Ipa(ipa),
                pages,
                tags,
            },
        }
    }

    /// `swapoff`.
    #[staticmethod]
    fn swapoff() -> Self {
        Self {
            text: "swapoff".to_owned(),
            inner: tagvisor_host::Op::Swapoff,
        }
    }

    fn __repr__(&self) -> String {
        format!("<Op {}>", self.text)
    }
}
