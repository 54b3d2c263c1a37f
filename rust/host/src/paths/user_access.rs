//! A process' own load, store or tag instruction.
//!
//! **Models** a user access at EL0 with the tag check mode of its process and the tagged address ABI: one that finds no PTE
//! faults into `handle_mm_fault` and runs again, one that may not be ends in a signal; a check that fails asynchronously
//! is noted for the kernel to find (`TFSRE0_EL1`). **Leaves out** the process' page-table pages.
//!
//! **Keeps**: an access either completes or has no effect.

use tagvisor_arch::{Access, AccessDesc, Cpu, Fault, FaultKind, MemTag, Stage, Translation, Va, insn};

use crate::errno::Signal;
use crate::ids::{Actor, MmId};
use crate::log::{Key, note};
use crate::mm::{Prot, Pte};
use crate::ops::{Op, OpResult, UserOp};
use crate::paths::watched::{Owner, Regime, Watched};
use crate::paths::{fault, gup};
use crate::policy::AsyncReport;
use crate::state::Host;
use crate::step::{Flow, Io, Locals, Path, PathId, Step};

pub(super) static USER_ACCESS: Path = Path {
    name: "user access",
    steps: &[
        Step {
            name: "execute",
            run: user_execute,
        },
        Step {
            name: "mmap_read_lock",
            run: gup::mmap_read_lock,
        },
        Step {
            name: "do_page_fault",
            run: |_, l, _| Flow::Call(PathId::HandleMmFault, *l),
        },
        Step {
            name: "mmap_read_unlock",
            run: user_fault_done,
        },
    ],
};

fn user_execute(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    let Op::User(mm, op) = io.op else {
        unreachable!("user accesses are entered for Op::User only")
    };
    let mut cpu = Cpu::with_sync_checks(0, true);
    cpu.controls[0].tcf = host.mm(mm).tcf;
    let mut mmu = Watched::new(host, UserRegime(mm), Actor::Process(mm));
    let outcome = match op {
        UserOp::Load { ptr, size } => insn::load(&mut cpu, &mut mmu, ptr, size).map(|v| v as u64),
        UserOp::Store { ptr, size, value } => insn::store(&mut cpu, &mut mmu, ptr, size, value.into()).map(|()| 0),
        UserOp::Ldg { ptr } => insn::ldg(&cpu, &mut mmu, ptr).map(|t| t.get().into()),
        UserOp::Stg { ptr, tag } => insn::stg(&cpu, &mut mmu, ptr, tag).map(|()| 0),
    };
    if u64::from(cpu.tfsr[0]) != 0 {
        host.mm_mut(mm).async_fault = true;
        if host.policy.async_report == AsyncReport::Access {
            host.mm_mut(mm).check_mte_tfsr();
        }
    }
    match outcome {
        Ok(value) => {
            if host.log.enabled {
                host.note_user_access(mm, op, value);
            }
            io.result = OpResult::Value(value);
            Flow::Return(0)
        }
        Err(fault) if matches!(fault.kind, FaultKind::Translation | FaultKind::Permission) => {
            l.va = fault.va.untagged().page();
            l.write = fault.access == Access::Write;
            Flow::Next
        }
        Err(fault) => {
            let signal = match fault.kind {
                FaultKind::TagCheck => Signal::SegvMteSerr { addr: fault.va },
                FaultKind::Alignment => Signal::SigBus { addr: fault.va },
                _ => Signal::SegvMapErr { addr: fault.va },
            };
            note!(host, [], "{signal}");
            io.result = OpResult::Signal(signal);
            Flow::Return(0)
        }
    }
}

fn user_fault_done(host: &mut Host, l: &mut Locals, io: &mut Io) -> Flow {
    host.mm_mut(l.mm).mmap_lock.read_unlock();
    if l.ret >= 0 {
        return Flow::To("execute");
    }
    let addr = l.va;
    let signal = match l.out {
        fault::MAPERR => Signal::SegvMapErr { addr },
        fault::ACCERR => Signal::SegvAccErr { addr },
        fault::HWPOISON => Signal::SigBusMce { addr },
        _ => Signal::SigBus { addr },
    };
    note!(host, [], "{signal}");
    io.result = OpResult::Signal(signal);
    Flow::Return(0)
}

/// Memory as a process sees it through its PTEs.
struct UserRegime(MmId);

impl Regime for UserRegime {
    fn translate(&self, host: &mut Host, ptr: Va, access: &AccessDesc) -> Result<(Translation, Owner), Fault> {
        let (mm, va, write) = (self.0, ptr.untagged(), access.write);
        let failed = |kind| Fault {
            level: 3,
            ..access.fault(kind, Stage::One, ptr)
        };
        let Some(Pte::Present {
            pfn,
            write: writable,
            tagged,
            special,
            ..
        }) = host.mm(mm).pte(va)
        else {
            return Err(failed(FaultKind::Translation));
        };
        // PROT_NONE keeps the PTE but takes user access away; the VMA knows.
        let readable = host.mm(mm).vma(va).is_some_and(|(_, v)| v.prot.contains(Prot::READ));
        if write && !writable || !readable {
            return Err(failed(FaultKind::Permission));
        }
        if !access.aligned && !host.pfn_valid(pfn) {
            return Err(access.fault(FaultKind::Alignment, Stage::One, ptr));
        }
        if write {
            let pte = Pte::Present {
                pfn,
                write: true,
                dirty: true,
                tagged,
                special,
            };
            host.mm_mut(mm).set_pte(va, pte);
        }
        let found = Translation {
            pa: pfn.base() + va.page_offset(),
            tags: if tagged { MemTag::Allocation } else { MemTag::Untagged },
        };
        Ok((found, Some((mm, va.page()))))
    }
}

impl Host {
    fn note_user_access(&mut self, mm: MmId, op: UserOp, value: u64) {
        let (text, ptr) = match op {
            UserOp::Load { ptr, .. } => (format!("load {ptr} -> {value:#x}"), ptr),
            UserOp::Store { ptr, value, .. } => (format!("store {value:#x} to {ptr}"), ptr),
            UserOp::Ldg { ptr } => (format!("LDG {ptr} -> tag {value:x}"), ptr),
            UserOp::Stg { ptr, tag } => (format!("STG {ptr}, tag {tag}"), ptr),
        };
        self.log_push(&[Key::page(mm, ptr.untagged())], text);
    }
}
