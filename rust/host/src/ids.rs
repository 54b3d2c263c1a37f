//! Names of the things a machine holds, and of who acts in it.
//!
//! Plain indices: a process, a VM and a vCPU keep their number for the machine's life.

/// A process address space (`struct mm_struct`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct MmId(pub u32);

/// A virtual machine (`struct kvm`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct VmId(pub u32);

/// A virtual CPU (`struct kvm_vcpu`) of a VM.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct VcpuId {
    /// The VM it belongs to.
    pub vm: VmId,
    /// Its index in that VM, from 0.
    pub index: u32,
}

/// Who runs a step: the first word of every line of a counterexample.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Actor {
    /// A user thread of a process.
    Process(MmId),
    /// A user thread of the process that owns a VM: the VMM.
    Vmm(VmId),
    /// A guest, and the host thread that runs its vCPU.
    Vcpu(VcpuId),
    /// Page reclaim.
    Reclaim,
    /// `ksmd`, which merges pages.
    Ksmd,
    /// An administrator's command (swapoff, ftruncate).
    Admin,
    /// A debugger that looks into a process (ptrace).
    Debugger,
    /// A guest before it was migrated here.
    Migrated,
}
