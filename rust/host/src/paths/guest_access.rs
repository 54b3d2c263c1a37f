//! A guest's instruction.
//!
//! **Models** what happens around the instruction itself (whose semantics are `tagvisor-arch`'s): a guest instruction that
//! faults at stage 2 exits to KVM and runs again. One attempt of an instruction is one atomic step. **Leaves out** stage 1
//! of the guest (the identity map, Normal Tagged, as with `HCR_EL2.{DC,DCT}`), asynchronous tag checks.
//!
//! **Keeps**: an instruction either completes or has no effect.

use tagvisor_arch::{
    Access, AccessDesc, Cpu, Fault, FaultKind, Grants, Ipa, MemTag, Stage, Translated, Translation, Untraced, Va, insn,
    translate,
};
use tagvisor_mem::{MicroTlbEntry, TlbFlags};

use crate::errno::Errno;
use crate::ids::{Actor, VcpuId};
use crate::log::{Key, note};
use crate::ops::{GuestOp, Op, OpResult};
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
    let outcome = run_guest_op(
        &mut cpu,
        &mut Watched::new(host, GuestRegime(vcpu), Actor::Vcpu(vcpu)),
        op,
    );
    host.vcpu_mut(vcpu).cpu = cpu;
    match outcome {
        Ok(value) => {
            if host.log.enabled {
                host.note_guest_access(vcpu, op, value);
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
            l.ipa = fault.ipa;
            l.write = fault.access == Access::Write;
            l.permission = fault.kind == FaultKind::Permission;
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
        0 => Flow::To("execute"),
        1 => Flow::Return(0),
        ret => {
            let errno = Errno::from_ret(ret).unwrap_or(Errno::Efault);
            note!(host, [], "KVM_RUN returns -{errno} for ipa {}", l.ipa);
            io.result = OpResult::Errno(errno);
            Flow::Return(0)
        }
    }
}

/// The instruction, over the machine as this vCPU sees it.
fn run_guest_op(cpu: &mut Cpu, mmu: &mut Watched<'_, GuestRegime>, op: GuestOp) -> Result<u64, Fault> {
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

/// Memory as a vCPU sees it: stage 1 is the identity, stage 2 is walked in emulated memory.
struct GuestRegime(VcpuId);

impl Regime for GuestRegime {
    fn translate(&self, host: &mut Host, ptr: Va, access: &AccessDesc) -> Result<(Translation, Owner), Fault> {
        let vm = self.0.vm;
        let controls = &host.vms[vm.0 as usize].controls;
        let found = translate(&mut host.mem, controls, ptr, access, &mut Untraced)?;
        host.tlb_fill(self.0, ptr, &found);
        let kvm = host.vm(vm);
        let gfn = found.ipa.gfn();
        let owner = kvm.memslot(gfn).map(|slot| (kvm.mm, slot.hva(gfn)));
        let tags = found.attrs.tags;
        Ok((Translation { pa: found.pa, tags }, owner))
    }
}

impl Host {
    pub(crate) fn vcpu(&self, id: VcpuId) -> &crate::kvm::Vcpu {
        &self.vm(id.vm).vcpus[id.index as usize]
    }

    pub(crate) fn vcpu_mut(&mut self, id: VcpuId) -> &mut crate::kvm::Vcpu {
        &mut self.vm_mut(id.vm).vcpus[id.index as usize]
    }

    fn tlb_fill(&mut self, vcpu: VcpuId, ptr: Va, found: &Translated) {
        if self.tlb_bits == 0 {
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

    fn note_guest_access(&mut self, vcpu: VcpuId, op: GuestOp, value: u64) {
        let kvm = self.vm(vcpu.vm);
        let (text, ptr) = describe_guest(op, value);
        let Some(ptr) = ptr else { return };
        let gfn = Ipa(ptr.untagged().0).gfn();
        let Some(at) = kvm.memslot(gfn).map(|slot| (kvm.mm, slot.hva(gfn))) else {
            return;
        };
        self.log_push(&[Key::page(at.0, at.1)], text);
    }
}

/// The instruction in words; register forms and probes have no line.
fn describe_guest(op: GuestOp, value: u64) -> (String, Option<Va>) {
    match op {
        GuestOp::Ldg { ptr } => (format!("LDG {ptr} -> tag {value:x}"), Some(ptr)),
        GuestOp::Stg { ptr, tag } => (format!("STG {ptr}, tag {tag}"), Some(ptr)),
        GuestOp::St2g { ptr, tag } => (format!("ST2G {ptr}, tag {tag}"), Some(ptr)),
        GuestOp::Stzg { ptr, tag } => (format!("STZG {ptr}, tag {tag}"), Some(ptr)),
        GuestOp::Load { ptr, .. } => (format!("load {ptr} -> {value:#x}"), Some(ptr)),
        GuestOp::Store { ptr, value, .. } => (format!("store {value:#x} to {ptr}"), Some(ptr)),
        GuestOp::Ldgm { ptr } => (format!("LDGM {ptr} -> {value:#x}"), Some(ptr)),
        GuestOp::Stgm { ptr, bits } => (format!("STGM {ptr}, {bits:#x}"), Some(ptr)),
        GuestOp::DcGva { ptr, tag } => (format!("DC GVA {ptr}, tag {tag}"), Some(ptr)),
        GuestOp::DcGzva { ptr, tag } => (format!("DC GZVA {ptr}, tag {tag}"), Some(ptr)),
        GuestOp::DcZva { ptr } => (format!("DC ZVA {ptr}"), Some(ptr)),
        GuestOp::Irg { .. }
        | GuestOp::Addg { .. }
        | GuestOp::Subg { .. }
        | GuestOp::Gmi { .. }
        | GuestOp::Subp { .. }
        | GuestOp::Probe { .. } => (String::new(), None),
    }
}
