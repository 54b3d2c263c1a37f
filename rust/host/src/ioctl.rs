//! KVM's ioctls, and a guest run until it stops.
//!
//! **Models** the argument checks of `KVM_CREATE_VM`, `KVM_ENABLE_CAP`, `KVM_CREATE_VCPU`, `KVM_SET_USER_MEMORY_REGION`,
//! `KVM_ARM_MTE_COPY_TAGS` and `KVM_RUN` in the kernel's order; the paths behind them are step tables or [`crate::kvm`].
//!
//! **Keeps**: an ioctl that is refused changes nothing; a VM that was destroyed answers -EBADF to all of them.

use tagvisor_arch::{Fault, GRANULE_SIZE, GRANULES_PER_PAGE, Ipa, PAGE_SIZE, PageTags, Tag, Va};

use crate::errno::Errno;
use crate::file::{FileId, FileKind};
use crate::ids::{Actor, MmId, VcpuId, VmId};
use crate::kvm::{Kvm, Memslot, SLOT_GUEST_MEMFD};
use crate::machine::{MAX_PAGES, Machine};
use crate::ops::{GuestOp, Op, OpResult};
use crate::part::Tracked;
use crate::policy::{CapArmMte, CopyTagsLength, EagerSplit, GuestMemfd, Untaggable};

/// Arguments of [`Machine::set_user_memory_region`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotArgs {
    /// Slot number.
    pub id: u32,
    /// Guest address.
    pub ipa: Ipa,
    /// Address in the VMM.
    pub userspace_addr: Va,
    /// Length in pages; 0 deletes.
    pub pages: u64,
    /// 1 dirty log, 2 read-only.
    pub flags: u32,
}

/// `struct kvm_arm_copy_mte_tags` without the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CopyTags {
    /// Guest address, page aligned.
    pub ipa: u64,
    /// Bytes of guest memory, page aligned.
    pub length: u64,
    /// 1: from the guest, 0: to it.
    pub flags: u64,
    /// Must be 0.
    pub reserved: [u64; 2],
}

/// Why a guest stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestExit {
    /// It took an exception to EL1.
    Exception(Fault),
    /// It took an UNDEFINED exception to EL1.
    Undefined,
    /// `KVM_RUN` failed.
    Errno(Errno),
    /// `KVM_RUN` failed, with `KVM_EXIT_MEMORY_FAULT`.
    MemoryFault {
        /// Its error.
        errno: Errno,
        /// 0, or [`MEMORY_FAULT_TAG_ACCESS`](crate::MEMORY_FAULT_TAG_ACCESS).
        flags: u64,
        /// First address of what could not be mapped.
        gpa: Ipa,
        /// Bytes; 0 where it was not known yet.
        size: u64,
    },
    /// `KVM_EXIT_MMIO`.
    Mmio {
        /// A store?
        write: bool,
        /// Where.
        ipa: Ipa,
        /// Bytes.
        len: u8,
        /// What was stored.
        value: u64,
    },
}

impl Machine {
    /// `KVM_CREATE_VM`: -ENOMEM when there is no memory for its root table.
    pub fn create_vm(&mut self, mm: MmId) -> Result<VmId, Errno> {
        let id = VmId(self.host.vms.len() as u32);
        let kvm = Kvm::new(id, mm, &mut self.host.buddy, &mut self.host.mem).ok_or(Errno::Enomem)?;
        self.host.vms.push(Tracked::new(kvm));
        self.host.vcpus.push(Vec::new());
        Ok(id)
    }

    /// Closes a VM: its memslots and stage-2 tables go. -EBADF if that was done before.
    pub fn destroy_vm(&mut self, vm: VmId) -> Result<(), Errno> {
        self.open_vm(vm)?;
        self.host.kvm_destroy_vm(vm);
        Ok(())
    }

    /// An ioctl needs an open file descriptor: -EBADF once the VM was destroyed.
    fn open_vm(&self, vm: VmId) -> Result<(), Errno> {
        if self.host.vm(vm).alive {
            Ok(())
        } else {
            Err(Errno::Ebadf)
        }
    }

    /// `KVM_CHECK_EXTENSION(KVM_CAP_ARM_MTE)`.
    pub fn check_extension_arm_mte(&self) -> bool {
        self.host.policy.cap_arm_mte == CapArmMte::Present
    }

    /// `KVM_ENABLE_CAP(KVM_CAP_ARM_MTE)`: -EINVAL once a vCPU exists, where the kernel has no such capability, and
    /// since 7.2 with `guest_memfd` slots.
    pub fn enable_cap_arm_mte(&mut self, vm: VmId) -> Result<(), Errno> {
        self.open_vm(vm)?;
        self.syscall(Op::EnableCapMte(vm)).map(drop)
    }

    /// `KVM_ENABLE_CAP(KVM_CAP_ARM_MTE_PERM)`, as proposed: memory that may not have tags is mapped `NoTagAccess` instead of
    /// refused. -EINVAL once a vCPU exists, and where K22 has it not.
    pub fn enable_cap_arm_mte_perm(&mut self, vm: VmId) -> Result<(), Errno> {
        self.open_vm(vm)?;
        if self.host.policy.untaggable != Untaggable::NoTagAccess || self.host.vm(vm).created_vcpus > 0 {
            return Err(Errno::Einval);
        }
        self.host.vm_mut(vm).mte_perm = true;
        Ok(())
    }

    /// `KVM_ENABLE_CAP(KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE)`: blocks of a slot are split as soon as it logs writes, or with 0
    /// by write faults only. -EINVAL where the kernel has no such capability, once there are slots, and for a size that no
    /// page or block has.
    pub fn enable_cap_eager_split(&mut self, vm: VmId, chunk: u64) -> Result<(), Errno> {
        const SIZES: [u64; 4] = [0, 1 << 12, 1 << 21, 1 << 30];
        self.open_vm(vm)?;
        let kvm = self.host.vm(vm);
        let refused = self.host.policy.eager_split == EagerSplit::Absent || !kvm.slots.is_empty();
        if refused || !SIZES.contains(&chunk) {
            return Err(Errno::Einval);
        }
        self.host.vm_mut(vm).split_page_chunk_size = chunk;
        Ok(())
    }

    /// `KVM_CREATE_VCPU`: a vCPU at EL1 with synchronous tag checks and TBI; tags are reachable iff the VM has MTE
    /// (`HCR_EL2.ATA`).
    pub fn create_vcpu(&mut self, vm: VmId) -> Result<VcpuId, Errno> {
        self.open_vm(vm)?;
        let index = self.syscall(Op::CreateVcpu(vm))? as u32;
        Ok(VcpuId { vm, index })
    }

    /// `KVM_GET_ONE_REG` by the register's architectural name. -ENOENT: the VM has no such register.
    pub fn vcpu_get_reg(&self, vcpu: VcpuId, name: &str) -> Result<u64, Errno> {
        self.open_vm(vcpu.vm)?;
        self.host.vcpu(vcpu).get_one_reg(name, self.host.vm(vcpu.vm).mte)
    }

    /// `KVM_SET_ONE_REG`. With `SCTLR_EL1.M` set the guest's stage 1 is walked in guest memory. -ENOENT: the VM has no such
    /// register; -EINVAL: it cannot be changed.
    pub fn vcpu_set_reg(&mut self, vcpu: VcpuId, name: &str, value: u64) -> Result<(), Errno> {
        self.open_vm(vcpu.vm)?;
        let mte = self.host.vm(vcpu.vm).mte;
        self.host.vcpu_mut(vcpu).set_one_reg(name, mte, value)
    }

    /// `MRS` at the guest's EL1.
    pub fn guest_mrs(&mut self, vcpu: VcpuId, name: &str) -> Result<u64, GuestExit> {
        self.open_vm(vcpu.vm).map_err(GuestExit::Errno)?;
        self.origin(Actor::Vcpu(vcpu), "guest");
        let (mte, off) = (self.host.vm(vcpu.vm).mte, self.host.policy.mte_off_trap);
        let value = self.host.vcpu(vcpu).mrs(name, mte, off).ok_or(GuestExit::Undefined)?;
        if name == "GMID_EL1" {
            self.host.ledger_guest_register(vcpu, name);
        }
        Ok(value)
    }

    /// `GCR_EL1.Exclude` of a vCPU.
    pub fn set_gcr_exclude(&mut self, vcpu: VcpuId, exclude: u16) {
        let cpu = &mut self.host.vcpu_mut(vcpu).cpu;
        cpu.gcr = cpu.gcr.with_exclude(exclude);
    }

    /// `PSTATE.TCO` of a vCPU.
    pub fn set_tco(&mut self, vcpu: VcpuId, tco: bool) {
        self.host.vcpu_mut(vcpu).cpu.tco = tco;
    }

    /// `KVM_CREATE_GUEST_MEMFD` with `GUEST_MEMFD_FLAG_MMAP`. -EINVAL: no pages, or a kernel that has none on arm64.
    pub fn create_guest_memfd(&mut self, vm: VmId, pages: u64) -> Result<FileId, Errno> {
        self.open_vm(vm)?;
        if self.host.policy.guest_memfd == GuestMemfd::Absent || !(1..=MAX_PAGES).contains(&pages) {
            return Err(Errno::Einval);
        }
        let file = self.host.create_file(FileKind::GuestMemfd, pages, true);
        self.host.vm_mut(vm).guest_memfds.push(file);
        Ok(file)
    }

    /// `KVM_SET_USER_MEMORY_REGION`. -EINVAL: unaligned, too large, a policy that refuses the memory, a slot that does not
    /// exist deleted; -EEXIST: overlaps another slot.
    pub fn set_user_memory_region(&mut self, vm: VmId, args: SlotArgs) -> Result<(), Errno> {
        self.set_user_memory_region2(vm, args, None)
    }

    /// `KVM_SET_USER_MEMORY_REGION2`: the same, and with a `guest_memfd` (and its page behind the slot's first) the slot's
    /// memory is that file's, whatever lies at the address. -EINVAL too: another VM's file, or one too small.
    pub fn set_user_memory_region2(
        &mut self,
        vm: VmId,
        args: SlotArgs,
        gmem: Option<(FileId, u64)>,
    ) -> Result<(), Errno> {
        let SlotArgs {
            id,
            ipa,
            userspace_addr,
            pages,
            flags,
        } = args;
        self.open_vm(vm)?;
        if ipa.page_offset() != 0 || pages > MAX_PAGES {
            return Err(Errno::Einval);
        }
        self.origin(Actor::Process(self.host.vm(vm).mm), "KVM_SET_USER_MEMORY_REGION");
        let slot = Memslot {
            base_gfn: ipa.gfn(),
            pages,
            userspace_addr,
            flags: flags | gmem.map_or(0, |_| SLOT_GUEST_MEMFD),
            gmem,
            dirty: std::collections::BTreeSet::new(),
            device: false,
        };
        self.host.kvm_set_memory_region(vm, id, slot)
    }

    /// `KVM_GET_DIRTY_LOG`: one bit a page, least significant first, in whole words of 64; reading clears it. -ENOENT: the
    /// slot does not exist or does not log.
    pub fn get_dirty_log(&mut self, vm: VmId, slot: u32) -> Result<Vec<u8>, Errno> {
        self.open_vm(vm)?;
        self.origin(Actor::Process(self.host.vm(vm).mm), "KVM_GET_DIRTY_LOG");
        self.host.kvm_get_dirty_log(vm, slot)
    }

    /// `KVM_ARM_MTE_COPY_TAGS`; `buf` holds one tag a byte and may be shorter than the length asks for. Returns the bytes of
    /// guest memory covered.
    pub fn mte_copy_tags(&mut self, vm: VmId, args: CopyTags, buf: &mut [u8]) -> Result<u64, Errno> {
        const FROM_GUEST: u64 = 1;
        self.open_vm(vm)?;
        let CopyTags {
            ipa,
            length,
            flags,
            reserved,
        } = args;
        let aligned = ipa.is_multiple_of(PAGE_SIZE) && length.is_multiple_of(PAGE_SIZE);
        let too_long = length > i32::MAX as u64 && self.host.policy.copy_tags_length == CopyTagsLength::IntMax;
        if !self.host.vm(vm).mte || reserved != [0, 0] || flags > FROM_GUEST || !aligned || too_long {
            return Err(Errno::Einval);
        }
        // No guest has so many pages: the first hole ends the copy.
        let (ipa, pages) = (Ipa(ipa), u32::try_from(length / PAGE_SIZE).unwrap_or(u32::MAX));
        if flags == FROM_GUEST {
            let room = u32::try_from(buf.len()).unwrap_or(u32::MAX);
            return match self.run(Op::CopyTagsFrom { vm, ipa, pages, room }) {
                OpResult::Tags { tags, covered } => {
                    buf[..tags.len()].copy_from_slice(&tags);
                    Ok(covered)
                }
                OpResult::Errno(errno) => Err(errno),
                other => unreachable!("tags or an errno, not {other:?}"),
            };
        }
        self.syscall(Op::CopyTagsTo {
            vm,
            ipa,
            pages,
            tags: buf.to_vec(),
        })
    }

    /// One guest instruction, run until it completes or the guest stops.
    pub fn guest(&mut self, vcpu: VcpuId, op: GuestOp) -> Result<u64, GuestExit> {
        self.open_vm(vcpu.vm).map_err(GuestExit::Errno)?;
        match self.run(Op::Guest(vcpu, op)) {
            OpResult::Value(value) => Ok(value),
            OpResult::Exception(fault) => Err(GuestExit::Exception(fault)),
            OpResult::Errno(errno) => Err(GuestExit::Errno(errno)),
            OpResult::MemoryFault {
                errno,
                flags,
                gpa,
                size,
            } => Err(GuestExit::MemoryFault {
                errno,
                flags,
                gpa,
                size,
            }),
            OpResult::Mmio { write, ipa, len, value } => Err(GuestExit::Mmio { write, ipa, len, value }),
            other => unreachable!("a guest answers a value or an exit, not {other:?}"),
        }
    }

    /// LDG of every granule of a guest page.
    pub fn guest_page_tags(&mut self, vcpu: VcpuId, ptr: Va) -> Result<PageTags, GuestExit> {
        let mut tags = PageTags::ZERO;
        for granule in 0..GRANULES_PER_PAGE {
            let value = self.guest(
                vcpu,
                GuestOp::Ldg {
                    ptr: ptr + granule as u64 * GRANULE_SIZE,
                },
            )?;
            tags.set(granule, Tag::new(value as u8));
        }
        Ok(tags)
    }

    /// STG of every granule of a guest page: granule i gets `first + i * step`, modulo 16.
    pub fn guest_fill_page(&mut self, vcpu: VcpuId, ptr: Va, first: Tag, step: u8) -> Result<(), GuestExit> {
        for granule in 0..GRANULES_PER_PAGE {
            let tag = Tag::new(first.get().wrapping_add(step.wrapping_mul(granule as u8)));
            self.guest(
                vcpu,
                GuestOp::Stg {
                    ptr: ptr + granule as u64 * GRANULE_SIZE,
                    tag,
                },
            )?;
        }
        Ok(())
    }
}
