//! A vCPU and its registers.
//!
//! **Models** `KVM_GET_ONE_REG` and `KVM_SET_ONE_REG` for the EL1 registers that tags and translation depend on, the ID
//! registers that tell of MTE, and what `MRS` meets in the guest (`arch/arm64/kvm/sys_regs.c`: `mte_visibility`). While
//! `SCTLR_EL1.M` is 0 the guest sees its IPA space as one identity map, Normal Tagged, as with `HCR_EL2.{DC,DCT}`: a guest
//! needs no tables of its own. With M set its stage 1 is walked in guest memory, and KVM's `HCR_EL2` has neither bit.
//! **Leaves out** the general registers, and every register no tag or translation rule reads.
//!
//! **Keeps**: what translation does is always worked out from the registers as last written.

use tagvisor_arch::walk::Stage2;
use tagvisor_arch::{Controls, Core, Cpu, Features, HcrEl2, Register, RgsrEl1, SctlrEl1, SysRegs, TcrEl1, register};
use tagvisor_mem::MicroTlb;

use crate::errno::Errno;
use crate::policy::MteOffTrap;

/// `SCTLR_EL1` as KVM resets it.
const SCTLR_RESET: u64 = 0x00c5_0078;
/// `ID_AA64PFR1_EL1` beside MTE: BT 1, SSBS 2, as KVM shows it of an Armv9 CPU.
const PFR1_BESIDE_MTE: u64 = 0x21;
const PFR1_MTE: u64 = 0xf << 8;
/// Registers that only a VM with MTE has (`mte_visibility`).
const MTE_REGISTERS: [&str; 4] = ["GCR_EL1", "RGSR_EL1", "TFSR_EL1", "TFSRE0_EL1"];

/// A vCPU: the registers tags and translation need, and its TLB.
#[derive(Clone, Debug)]
pub(crate) struct Vcpu {
    pub(crate) cpu: Cpu,
    pub(crate) tlb: MicroTlb,
    sys: SysRegs,
    controls: Controls,
    features: Features,
}

/// The TLB is no part of what tells vCPUs apart, and the controls follow from the registers.
impl PartialEq for Vcpu {
    fn eq(&self, other: &Self) -> bool {
        (&self.cpu, &self.sys) == (&other.cpu, &other.sys)
    }
}

impl Eq for Vcpu {}

impl std::hash::Hash for Vcpu {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (&self.cpu, &self.sys).hash(state);
    }
}

impl Vcpu {
    /// A vCPU at EL1 that checks tags synchronously and ignores the top byte; `seed` is that of its random tags.
    /// With `mte_perm` its CPU has `FEAT_MTE_PERM`, which KVM hides from it.
    pub(crate) fn new(mte: bool, mte_perm: bool, Stage2 { vtcr, vttbr }: Stage2, tlb_bits: u32, seed: u16) -> Self {
        let mut features = Features::default();
        features.set(Features::MTE_PERM, mte_perm);
        let sys = SysRegs {
            sctlr_el1: SctlrEl1::from(SCTLR_RESET)
                .with_ata(true)
                .with_ata0(true)
                .with_tcf(1)
                .with_tcf0(1),
            tcr_el1: TcrEl1::new().with_tbi0(true).with_tbi1(true),
            hcr_el2: HcrEl2::new().with_vm(true).with_ata(mte),
            vtcr_el2: vtcr,
            vttbr_el2: vttbr,
            ..SysRegs::default()
        };
        let cpu = Cpu {
            rgsr: RgsrEl1::new().with_seed(seed),
            ..Cpu::with_sync_checks(1, mte)
        };
        let mut vcpu = Self {
            cpu,
            tlb: MicroTlb::new(tlb_bits),
            controls: Controls::new(&sys, features),
            sys,
            features,
        };
        vcpu.set_sys(sys);
        vcpu
    }

    /// Takes registers over: `HCR_EL2.{DC,DCT}` stand in for the stage 1 a guest has not turned on.
    fn set_sys(&mut self, sys: SysRegs) {
        let off = !sys.sctlr_el1.m();
        self.sys = SysRegs {
            hcr_el2: sys.hcr_el2.with_dc(off).with_dct(off),
            ..sys
        };
        self.controls = Controls::new(&self.sys, self.features);
        let mut core = self.core();
        core.set_sys(self.sys);
        self.cpu = core.cpu;
        self.tlb.invalidate_all();
    }

    /// What the registers make of translation.
    pub(crate) const fn controls(&self) -> &Controls {
        &self.controls
    }

    /// `HCR_EL2.ATA`: may the guest reach tags?
    pub(crate) const fn ata(&self) -> bool {
        self.sys.hcr_el2.ata()
    }

    /// Has the guest turned its stage 1 on?
    pub(crate) const fn has_stage1(&self) -> bool {
        self.controls.has_stage1(1)
    }

    /// The registers as the architecture names them.
    fn core(&self) -> Core {
        let mut core = Core::new(Features::default(), 0);
        core.set_sys(self.sys);
        core.cpu = self.cpu.clone();
        core
    }

    /// `KVM_GET_ONE_REG`. -ENOENT: no such register in this VM.
    pub(crate) fn get_one_reg(&self, name: &str, mte: bool) -> Result<u64, Errno> {
        match name {
            "ID_AA64PFR1_EL1" => Ok(pfr1(mte)),
            _ => Ok((one_reg(name, mte)?.read)(&self.core())),
        }
    }

    /// `KVM_SET_ONE_REG`. -ENOENT: no such register in this VM; -EINVAL: it is an ID register and the value another one.
    pub(crate) fn set_one_reg(&mut self, name: &str, mte: bool, value: u64) -> Result<(), Errno> {
        if name == "ID_AA64PFR1_EL1" {
            return if value == pfr1(mte) { Ok(()) } else { Err(Errno::Einval) };
        }
        let write = one_reg(name, mte)?.write.ok_or(Errno::Einval)?;
        let mut core = self.core();
        write(&mut core, value);
        self.cpu = core.cpu.clone();
        self.set_sys(*core.sys());
        Ok(())
    }

    /// `MRS` in the guest; `None`: UNDEFINED.
    pub(crate) fn mrs(&self, name: &str, mte: bool, off: MteOffTrap) -> Option<u64> {
        match name {
            "GMID_EL1" if mte || off == MteOffTrap::Visible => Some((register(name)?.read)(&self.core())),
            "GMID_EL1" => None,
            _ => self.get_one_reg(name, mte).ok(),
        }
    }
}

/// `ID_AA64PFR1_EL1` as KVM shows it: without the capability there is no MTE.
fn pfr1(mte: bool) -> u64 {
    let host = u64::from(Features::default().id_aa64pfr1_el1());
    PFR1_BESIDE_MTE | if mte { host & PFR1_MTE } else { 0 }
}

/// A register of the table that `KVM_GET_ONE_REG` knows: EL2's are the host's own, `GMID_EL1` has no state.
fn one_reg(name: &str, mte: bool) -> Result<&'static Register, Errno> {
    let hidden = name.ends_with("_EL2") || name == "GMID_EL1" || (!mte && MTE_REGISTERS.contains(&name));
    register(name).filter(|_| !hidden).ok_or(Errno::Enoent)
}
