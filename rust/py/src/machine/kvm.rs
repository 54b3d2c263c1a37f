//! KVM's ioctls and a guest's instructions: the machine's methods of virtualisation.

use numpy::{PyArray1, PyReadwriteArray1};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tagvisor_arch::{Ipa, Tag, Va};
use tagvisor_host::{CopyTags, FileId, GuestOp, MmId, SlotArgs, VcpuId, VmId};

use super::Machine;
use crate::arrays;
use crate::errors::Refusal;

impl Machine {
    fn guest(&self, py: Python<'_>, vm: u32, vcpu: u32, op: GuestOp) -> PyResult<u64> {
        self.with(py, |machine| Ok(machine.guest(vcpu_id(vm, vcpu), op)?))
    }
}

#[pymethods]
impl Machine {
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

    /// `KVM_ENABLE_CAP(KVM_CAP_ARM_MTE_PERM)`, as proposed.
    fn enable_cap_arm_mte_perm(&self, py: Python<'_>, vm: u32) -> PyResult<()> {
        self.with(py, |machine| {
            machine
                .enable_cap_arm_mte_perm(VmId(vm))
                .map_err(Refusal::of("ioctl(KVM_ENABLE_CAP, KVM_CAP_ARM_MTE_PERM)"))
        })
    }

    /// `KVM_ENABLE_CAP(KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE)`.
    fn enable_cap_eager_split(&self, py: Python<'_>, vm: u32, chunk: u64) -> PyResult<()> {
        self.with(py, |machine| {
            machine
                .enable_cap_eager_split(VmId(vm), chunk)
                .map_err(Refusal::of("ioctl(KVM_ENABLE_CAP, KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE)"))
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

    /// `KVM_CREATE_GUEST_MEMFD`; the file's number.
    fn create_guest_memfd(&self, py: Python<'_>, vm: u32, pages: u64) -> PyResult<u32> {
        self.with(py, |machine| {
            Ok(machine
                .create_guest_memfd(VmId(vm), pages)
                .map_err(Refusal::of("ioctl(KVM_CREATE_GUEST_MEMFD)"))?
                .0)
        })
    }

    /// `KVM_SET_USER_MEMORY_REGION2` of a `guest_memfd` slot, from page `first` of the file on.
    #[allow(clippy::too_many_arguments)] // the ioctl's
    fn set_user_memory_region2(
        &self,
        py: Python<'_>,
        vm: u32,
        slot: u32,
        ipa: u64,
        address: u64,
        pages: u64,
        flags: u32,
        file: u32,
        first: u64,
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
                .set_user_memory_region2(VmId(vm), args, Some((FileId(file), first)))
                .map_err(Refusal::of("ioctl(KVM_SET_USER_MEMORY_REGION2)"))
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

    /// `KVM_GET_DIRTY_LOG`: eight pages a byte, least significant bit first, in whole words of 64; reading clears it.
    fn get_dirty_log<'py>(&self, py: Python<'py>, vm: u32, slot: u32) -> PyResult<Bound<'py, PyBytes>> {
        let bitmap = self.with(py, |machine| {
            machine
                .get_dirty_log(VmId(vm), slot)
                .map_err(Refusal::of("ioctl(KVM_GET_DIRTY_LOG)"))
        })?;
        Ok(PyBytes::new(py, &bitmap))
    }

    /// `KVM_GET_ONE_REG` by the register's architectural name.
    fn vcpu_get_reg(&self, py: Python<'_>, vm: u32, vcpu: u32, name: &str) -> PyResult<u64> {
        self.with(py, |machine| {
            machine
                .vcpu_get_reg(vcpu_id(vm, vcpu), name)
                .map_err(Refusal::of("ioctl(KVM_GET_ONE_REG)"))
        })
    }

    /// `KVM_SET_ONE_REG` by the register's architectural name.
    fn vcpu_set_reg(&self, py: Python<'_>, vm: u32, vcpu: u32, name: &str, value: u64) -> PyResult<()> {
        self.with(py, |machine| {
            machine
                .vcpu_set_reg(vcpu_id(vm, vcpu), name, value)
                .map_err(Refusal::of("ioctl(KVM_SET_ONE_REG)"))
        })
    }

    /// `MRS Xt, <name>`.
    fn guest_mrs(&self, py: Python<'_>, vm: u32, vcpu: u32, name: &str) -> PyResult<u64> {
        self.with(py, |machine| Ok(machine.guest_mrs(vcpu_id(vm, vcpu), name)?))
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
}

fn vcpu_id(vm: u32, index: u32) -> VcpuId {
    VcpuId { vm: VmId(vm), index }
}
