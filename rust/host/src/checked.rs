//! The accesses of a replay: translation and tag check, no data moved.
//!
//! **Models** an access by what it needs of the host: a TLB hit inside one page is decided here, everything else is the
//! guest's instruction on the real path. **Leaves out** data; tags, faults and reclaim do not depend on it.
//!
//! **Keeps**: a hit answers what the real path would answer.

use tagvisor_arch::{FaultKind, GRANULE_SIZE, PAGE_SIZE, Tag, Va};
use tagvisor_mem::TlbFlags;

use crate::ids::VcpuId;
use crate::ioctl::GuestExit;
use crate::machine::Machine;
use crate::ops::GuestOp;

/// The answer to one checked access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checked {
    /// The access passes.
    Ok,
    /// Logical and allocation tag differ.
    TagMismatch {
        /// Start of the first failing part, tag included (FAR).
        far: Va,
    },
    /// The guest stopped for another reason.
    Exit(GuestExit),
}

impl Machine {
    /// Translation and tag check of an access of 1 to 255 bytes at a pointer with its tag.
    #[inline]
    pub fn guest_check(&mut self, vcpu: VcpuId, ptr: u64, size: u32, write: bool) -> Checked {
        let va = Va(ptr).untagged();
        let (offset, tag) = (va.0 % PAGE_SIZE, Va(ptr).tag());
        let need = if write { TlbFlags::WRITE } else { TlbFlags::READ };
        if let Some(entry) = self.host.vcpu(vcpu).tlb.lookup(va.0 / PAGE_SIZE)
            && entry.flags.contains(need | TlbFlags::TAGGED)
            && offset + u64::from(size) <= PAGE_SIZE
            && size > 0
        {
            let last = ((offset + u64::from(size) - 1) / GRANULE_SIZE) as usize;
            let first = (offset / GRANULE_SIZE) as usize;
            if (first..=last).all(|granule| self.host.mem.frame_tag(entry.frame, granule) == tag) {
                return Checked::Ok;
            }
        }
        self.guest_check_slow(vcpu, ptr, size, write)
    }

    #[cold]
    #[inline(never)]
    fn guest_check_slow(&mut self, vcpu: VcpuId, ptr: u64, size: u32, write: bool) -> Checked {
        let size = u8::try_from(size).expect("an access has at most 255 bytes");
        match self.guest(
            vcpu,
            GuestOp::Probe {
                ptr: Va(ptr),
                size,
                write,
            },
        ) {
            Ok(_) => Checked::Ok,
            Err(GuestExit::Exception(f)) if f.kind == FaultKind::TagCheck => Checked::TagMismatch { far: f.va },
            Err(exit) => Checked::Exit(exit),
        }
    }

    /// STG over a range: `ptr` is granule aligned and carries the tag, `bytes` is a multiple of 16.
    pub fn guest_set_tags(&mut self, vcpu: VcpuId, ptr: u64, bytes: u64) -> Result<(), GuestExit> {
        let tag = Va(ptr).tag();
        for at in (0..bytes).step_by(GRANULE_SIZE as usize) {
            let ptr = Va(ptr + at);
            if !self.stg_hit(vcpu, ptr, tag) {
                self.guest(vcpu, GuestOp::Stg { ptr, tag })?;
            }
        }
        Ok(())
    }

    /// STG through a TLB hit; false when the real path must be taken (also whenever the ledger watches).
    #[inline]
    fn stg_hit(&mut self, vcpu: VcpuId, ptr: Va, tag: Tag) -> bool {
        let va = ptr.untagged();
        let hit = self.host.vcpu(vcpu).tlb.lookup(va.0 / PAGE_SIZE);
        let Some(entry) = hit.filter(|e| e.flags.contains(TlbFlags::WRITE | TlbFlags::TAGGED)) else {
            return false;
        };
        if self.host.ledger.enabled {
            return false;
        }
        let frame = entry.frame;
        self.host.mem.set_frame_tag(frame, ptr.granule(), tag);
        true
    }
}
