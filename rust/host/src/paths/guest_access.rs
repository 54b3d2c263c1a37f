//! A guest's instruction.
//!
//! **Models** what happens around the instruction itself (whose semantics are `tagvisor-arch`'s): a guest instruction that
//! faults at stage 2 exits to KVM and runs again. One attempt of an instruction is one atomic step. A guest that turned its
//! stage 1 on is translated through its own tables, which lie in guest memory. An access to tags of memory that is mapped
//! `NoTagAccess` goes to the VMM. **Leaves out** what a guest's exception
//! handler does.
//!
//! **Keeps**: an instruction either completes or has no effect.

use std::cell::Cell;

use tagvisor_arch::{
    Access, AccessDesc, Cpu, Fault, FaultKind, Grants, MemTag, PAGE_SIZE, Stage, Translated, Translation, Untraced, Va,
    insn, translate,
};
use tagvisor_mem::{MicroTlbEntry, TlbFlags};

use crate::errno::Errno;
use crate::ids::{Actor, VcpuId};
use crate::log::{Key, note};
use crate::ops::{GuestOp, MEMORY_FAULT_TAG_ACCESS, Op, OpResult};
use crate::paths::watched::{Owner, Regime, Watched};
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};

pub(super) static GUEST_ACCESS: Path = Path {
    name: "guest",
    steps: &[
        Step {
            name: "execute",
            run: guest_execute,
        },
        Step {
            name: "kvm_handle_exit",
            run: kvm_handle_exit,
        },
    ],
};
fn guest_execute(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let Op::Guest(vcpu, op) = io.op else {
        unreachable!("guest accesses are entered for Op::Guest only")
    };
    let mut cpu = host.vcpu(vcpu).cpu.clone();
    let regime = GuestRegime {
        vcpu,
        owner: Cell::new(None),
    };
    let outcome = run_guest_op(&mut cpu, &mut Watched::new(host, &regime, Actor::Vcpu(vcpu)), op);
    if host.vcpu(vcpu).cpu != cpu {
        host.vcpu_mut(vcpu).cpu = cpu;
    }
    match outcome {
        Ok(value) => {
            if host.log.enabled {
                host.note_guest_access(regime.owner.get(), op, value);
            }
            io.result = OpResult::Value(value);
            Flow::Return(0)
        }
        Err(fault) if fault.stage == Stage::Two => {
            if !matches!(
                fault.kind,
                FaultKind::Translation | FaultKind::Permission | FaultKind::AccessFlag
            ) {
                note!(host, [], "{fault}: KVM cannot resolve it");
                io.result = OpResult::Errno(Errno::Efault);
                return Flow::Return(0);
            }
            if fault.tags_refused {
                note!(host, [], "{fault}: the memory has no tags to access");
                io.result = OpResult::MemoryFault {
                    errno: Errno::Efault,
                    flags: MEMORY_FAULT_TAG_ACCESS,
                    gpa: fault.ipa.page(),
                    size: PAGE_SIZE,
                };
                return Flow::Return(0);
            }
            l.ipa = fault.ipa;
            l.write = fault.access == Access::Write;
            l.permission = fault.kind == FaultKind::Permission;
            l.fault_block = l.permission && fault.level < 3;
            Flow::Call(PathId::KvmHandleGuestAbort, *l)
        }
        Err(fault) => {
            note!(host, [], "exception to EL1: {fault}");
            io.result = OpResult::Exception(fault);
            Flow::Return(0)
        }
    }
}

/// The fault was handled (run the guest again), went to the VMM as MMIO, or `KVM_RUN` fails.
fn kvm_handle_exit(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    match l.ret {
        0 => {
            // The instruction begins anew, and what the fault left behind means nothing to it.
            *l = Locals {
                vm: l.vm,
                vcpu: l.vcpu,
                ..Locals::default()
            };
            Flow::To("execute")
        }
        1 => Flow::Return(0),
        ret => {
            let errno = Errno::from_ret(ret).unwrap_or(Errno::Efault);
            note!(host, [], "KVM_RUN returns -{errno} for ipa {}", l.ipa);
            io.result = match io.result {
                OpResult::MemoryFault { flags, gpa, size, .. } => OpResult::MemoryFault {
                    errno,
                    flags,
                    gpa,
                    size,
                },
                _ => OpResult::Errno(errno),
            };
            Flow::Return(0)
        }
    }
}

/// The instruction, over the machine as this vCPU sees it.
fn run_guest_op(cpu: &mut Cpu, mmu: &mut Watched<'_, &GuestRegime>, op: GuestOp) -> Result<u64, Fault> {
    let access = |write| if write { Access::Write } else { Access::Read };
    Ok(match op {
        GuestOp::Ldg { ptr } => insn::ldg(cpu, mmu, ptr)?.get().into(),
        GuestOp::Stg { ptr, tag } => insn::stg(cpu, mmu, ptr, tag).map(|()| 0)?,
        GuestOp::St2g { ptr, tag } => insn::st2g(cpu, mmu, ptr, tag).map(|()| 0)?,
        GuestOp::Stzg { ptr, tag } => insn::stzg(cpu, mmu, ptr, tag).map(|()| 0)?,
        GuestOp::Load { ptr, size } => insn::load(cpu, mmu, ptr, size)? as u64,
        GuestOp::Store { ptr, size, value } => insn::store(cpu, mmu, ptr, size, value.into()).map(|()| 0)?,
        GuestOp::Ldgm { ptr } => insn::ldgm(cpu, mmu, ptr)?,
        GuestOp::Stgm { ptr, bits } => insn::stgm(cpu, mmu, ptr, bits).map(|()| 0)?,
        GuestOp::DcGva { ptr, tag } => insn::dc_gva(cpu, mmu, ptr, tag).map(|()| 0)?,
        GuestOp::DcGzva { ptr, tag } => insn::dc_gzva(cpu, mmu, ptr, tag).map(|()| 0)?,
        GuestOp::DcZva { ptr } => insn::dc_zva(cpu, mmu, ptr).map(|()| 0)?,
        GuestOp::Irg { xn, xm } => insn::irg(cpu, xn, xm),
        GuestOp::Addg { xn, imm, tag_imm } => insn::addg(cpu, xn, imm, tag_imm),
        GuestOp::Subg { xn, imm, tag_imm } => insn::subg(cpu, xn, imm, tag_imm),
        GuestOp::Gmi { xn, mask } => insn::gmi(xn, mask),
        GuestOp::Subp { xn, xm } => insn::subp(xn, xm),
        GuestOp::Probe { ptr, size, write } => insn::probe(cpu, mmu, ptr, size, access(write)).map(|()| 0)?,
    })
}

/// Memory as a vCPU sees it: both stages are walked in emulated memory.
struct GuestRegime {
    vcpu: VcpuId,
    /// Whose the page is that was translated last.
    owner: Cell<Owner>,
}

impl Regime for &GuestRegime {
    fn translate(&self, host: &mut Host, ptr: Va, access: &AccessDesc) -> Result<(Translation, Owner), Fault> {
        let VcpuId { vm, index } = self.vcpu;
        let controls = host.vcpus[vm.0 as usize][index as usize].controls();
        let found = translate(&mut host.mem, controls, ptr, access, &mut Untraced)?;
        host.tlb_fill(self.vcpu, ptr, &found);
        let kvm = host.vm(vm);
        let gfn = found.ipa.gfn();
        let owner = kvm.memslot(gfn).map(|slot| (kvm.mm, slot.hva(gfn)));
        self.owner.set(owner);
        let tags = found.attrs.tags;
        Ok((Translation { pa: found.pa, tags }, owner))
    }
}

impl Host {
    pub(crate) fn vcpu(&self, id: VcpuId) -> &crate::kvm::Vcpu {
        &self.vcpus[id.vm.0 as usize][id.index as usize]
    }

    pub(crate) fn vcpu_mut(&mut self, id: VcpuId) -> &mut crate::kvm::Vcpu {
        &mut self.vcpus[id.vm.0 as usize][id.index as usize]
    }

    fn tlb_fill(&mut self, vcpu: VcpuId, ptr: Va, found: &Translated) {
        // A guest that changes its own tables owes a TLBI this TLB would not see; nor has it the right to access tags.
        if self.tlb_bits == 0 || self.vcpu(vcpu).has_stage1() || found.attrs.no_tag_access {
            return;
        }
        let pfn = found.pa.pfn();
        let mut flags = TlbFlags::READ;
        flags.set(TlbFlags::WRITE, found.grants.contains(Grants::WRITE));
        // A hit is decided on the frame's tags alone, so memory without tag storage never counts as Tagged here.
        flags.set(
            TlbFlags::TAGGED,
            found.attrs.tags == MemTag::Allocation && self.vm(vcpu.vm).mte && self.mem.has_tags(pfn),
        );
        flags.set(TlbFlags::DEVICE, found.attrs.is_device());
        let entry = MicroTlbEntry {
            page: ptr.vpn(),
            frame: self.mem.touch(pfn),
            flags,
        };
        self.vcpu_mut(vcpu).tlb.fill(entry);
    }

    fn note_guest_access(&mut self, owner: Owner, op: GuestOp, value: u64) {
        if let (Some((mm, va)), Some(text)) = (owner, describe_guest(op, value)) {
            self.log_push(&[Key::page(mm, va)], text);
        }
    }
}

/// The instruction in words; register forms and probes have none.
fn describe_guest(op: GuestOp, value: u64) -> Option<String> {
    Some(match op {
        GuestOp::Ldg { ptr } => format!("LDG {ptr} -> tag {value:x}"),
        GuestOp::Stg { ptr, tag } => format!("STG {ptr}, tag {tag}"),
        GuestOp::St2g { ptr, tag } => format!("ST2G {ptr}, tag {tag}"),
        GuestOp::Stzg { ptr, tag } => format!("STZG {ptr}, tag {tag}"),
        GuestOp::Load { ptr, .. } => format!("load {ptr} -> {value:#x}"),
        GuestOp::Store { ptr, value, .. } => format!("store {value:#x} to {ptr}"),
        GuestOp::Ldgm { ptr } => format!("LDGM {ptr} -> {value:#x}"),
        GuestOp::Stgm { ptr, bits } => format!("STGM {ptr}, {bits:#x}"),
        GuestOp::DcGva { ptr, tag } => format!("DC GVA {ptr}, tag {tag}"),
        GuestOp::DcGzva { ptr, tag } => format!("DC GZVA {ptr}, tag {tag}"),
        GuestOp::DcZva { ptr } => format!("DC ZVA {ptr}"),
        GuestOp::Irg { .. }
        | GuestOp::Addg { .. }
        | GuestOp::Subg { .. }
        | GuestOp::Gmi { .. }
        | GuestOp::Subp { .. }
        | GuestOp::Probe { .. } => return None,
    })
}
