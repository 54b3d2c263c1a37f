"""KVM: what stands behind an MTE guest, its faults, and ``KVM_ARM_MTE_COPY_TAGS``.

Models nothing; scripts are functions on a machine. Left out: see
:data:`tagvisor.bugs.left_out.LEFT_OUT`. Invariant: the same script runs under both policies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tagvisor import ops
from tagvisor.bugs.row import Bug
from tagvisor.explore import schedule
from tagvisor.process import Mapping

if TYPE_CHECKING:
    from tagvisor.bugs.row import Actors
    from tagvisor.host import Host
    from tagvisor.vm import Vm

__all__ = ["ROWS"]

IPA = 0x5000_0000


def zone_device(host: Host) -> None:
    """A guest tags memory that has no tags."""
    vmm = host.process()
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, vmm.mmap(1, backing="zone-device", shared=True))
    cpu = vm.vcpu()
    cpu.stg(IPA, 5)
    cpu.ldg(IPA)


def file_on_disk(host: Host) -> None:
    """A guest tags a page of a file, which is written back and dropped."""
    vmm = host.process()
    ram = vmm.mmap(1, backing=host.file("disk", 1), shared=True)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, ram)
    cpu = vm.vcpu()
    cpu.stg(IPA, 5)
    host.evict(ram.page(0))
    cpu.ldg(IPA)


def remapped(host: Host, over: ops.Op, ram: Mapping, vm: Vm) -> None:
    """The VMM puts other memory behind the memslot when a fault has looked at the VMA."""
    cpu = vm.vcpu()
    schedule(
        host,
        {"vcpu": [ops.stg(cpu, IPA, 5)], "vmm": [over]},
        [("vcpu", "after user_mem_abort: mmap_read_unlock"), "vmm", "vcpu"],
    )
    host.evict(ram.page(0))
    cpu.ldg(IPA)


def remapped_to_disk(host: Host) -> None:
    """What comes is a file on a disk, mapped shared: no kernel of that time allows it."""
    vmm = host.process()
    ram = vmm.mmap(1)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, ram)
    over = ops.mmap(ram, backing=host.file("disk", 1), shared=True)
    remapped(host, over, ram, vm)


def remapped_to_pmem(host: Host) -> None:
    """What comes has no tag storage."""
    vmm = host.process()
    ram = vmm.mmap(1)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, ram)
    remapped(host, ops.mmap(ram, backing="zone-device", shared=True), ram, vm)


def guest_memfd(host: Host) -> None:
    """A guest reads the tags of memory that no mapping of the VMM stands behind."""
    other = host.process("other")
    other.mmap(1, mte=True).page(0).stg(0, 5)
    other.exit()
    vm = host.process().create_vm(mte=True)
    vm.add_memslot(IPA, vm.create_guest_memfd(1))
    vm.vcpu().ldg(IPA)


def register_without_mte(host: Host) -> None:
    """A guest without MTE asks how large a tag block is."""
    vm = host.process().create_vm()
    cpu = vm.vcpu()
    cpu.mrs("GMID_EL1")


def shared_page(host: Host) -> Actors:
    """A guest of one VMM and another process have a page that is not flagged."""
    vmm = host.process()
    ram = vmm.mmap(1, shared=True)
    ram.page(0).store(0x42)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, ram)
    cpu = vm.vcpu()
    theirs = Mapping(vmm.fork("other"), ram.address, 1)
    theirs.page(0).load()
    return {
        "vcpu": [ops.stg(cpu, IPA, 5), ops.ldg(cpu, IPA)],
        "other": [ops.mprotect(theirs, mte=True)],
    }


def capability_and_vcpu(host: Host) -> Actors:
    """One thread of the VMM asks for MTE while another makes a vCPU."""
    vm = host.process().create_vm()
    return {"thread 1": [ops.enable_mte(vm)], "thread 2": [ops.create_vcpu(vm)]}


def page_told_of(host: Host) -> None:
    """The guest reads a page nobody wrote, the VMM writes it, the guest reads a tag again."""
    vmm = host.process()
    ram = vmm.mmap(1)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, ram)
    cpu = vm.vcpu()
    cpu.ldg(IPA)
    ram.page(0).store(0x42)
    cpu.ldg(IPA)


ROWS = (
    Bug(
        id="B01",
        title="ZONE_DEVICE memory mapped Normal Write-Back for an MTE guest",
        property="P5",
        broken="v10-series",
        fixed_in="v11-series",
        kind="sequential",
        knobs=("K22", "K23"),
        source="mails 20210327152324.GA28167, 20210331184311.GA10737, 20210408141853.GA7676 on v10",
        story=(
            "The VMM maps pmem and makes it a memslot; nothing looks at the memory.",
            "The guest touches it: there is a struct page, so it is not taken for a device.",
            "The page is flagged, its tags are cleared where there are none to clear.",
            "The guest's tag store goes to memory without tag storage.",
        ),
        script=zone_device,
        refused="EFAULT",
    ),
    Bug(
        id="B02",
        title="change_pte maps a page that was never sanitised",
        property="P2",
        broken="v11-series",
        fixed_in="v12-series",
        kind="sequential",
        knobs=("K20", "K19"),
        source="review of v11: c3293d47, 20210428170705.GB4022; hook gone in v6.10 (f3b65bbaed7c)",
        story=(
            "The guest has a page; the VMM writes it, and copy on write puts another there.",
            "The notifier unmaps the old page; the new one is not flagged, its tags are stale.",
            "set_pte_at_notify tells KVM: kvm_set_spte_gfn maps the new page as it is.",
            "No stage-2 fault will sanitise it: the guest reads an earlier owner's tags.",
        ),
        script=page_told_of,
    ),
    Bug(
        id="B09",
        title="two users of one page both clear its tags",
        property="P1",
        broken="linux-6.1 K21=allowed",
        fixed_in="linux-6.2",
        kind="race",
        knobs=("K4", "K18"),
        source="series 20221104011041 (v6.2); v10 to v14 threads (98894641-8344-...)",
        story=(
            "A guest of one VMM and another process share a page, not flagged.",
            "The guest's fault tests the flag: clear. So does the process' mprotect(PROT_MTE).",
            "The fault clears the tags, flags and maps; the guest stores tag 5.",
            "The process clears the tags and sets the flag: the guest's tag is gone.",
        ),
        actors=shared_page,
    ),
    Bug(
        id="B16",
        title="a vCPU is made while the VM is given MTE",
        property="P9",
        broken="v17-series",
        fixed_in="linux-5.14",
        kind="race",
        knobs=("K29",),
        source="mail 20210729160036.20433-1: kvm->lock taken before v5.14",
        story=(
            "One thread of the VMM asks for KVM_CAP_ARM_MTE; no vCPU is there yet.",
            "Another thread makes one: the VM has no MTE, so HCR_EL2.ATA stays clear.",
            "The first thread sets the flag: the VM has MTE, and its ID registers say so.",
            "The guest finds MTE, and no tag that it stores is ever there.",
        ),
        actors=capability_and_vcpu,
    ),
    Bug(
        id="B19",
        title="the VMA is looked into after mmap_lock was dropped",
        property="P1",
        broken="linux-6.2",
        fixed_in="linux-6.3",
        kind="sequential",
        knobs=("K23", "K24"),
        source="d89585fbb308 (v6.2), 8c2e8ac8ad4b (v6.3)",
        story=(
            "A fault finds the VMA of anonymous memory and drops mmap_lock.",
            "The VMM maps a file on a disk over it; the old VMA is freed.",
            "The fault reads VM_MTE_ALLOWED from the freed VMA, and maps the file's page.",
            "The guest tags it; it is written back and dropped, without its tags.",
        ),
        script=remapped_to_disk,
        refused="EFAULT",
    ),
    Bug(
        id="B20",
        title="mmu_seq sampled after mmap_lock was dropped: facts of a VMA that is gone",
        property="P1",
        broken="linux-6.1.18",
        fixed_in="linux-6.1.27",
        kind="sequential",
        knobs=("K24",),
        source="13ec9308a857 (v6.3; 6.1.27); v10 thread (396423df..., e2612bd8...)",
        story=(
            "A fault finds private memory, which an MTE guest may have, and drops mmap_lock.",
            "The VMM maps a file of a disk, MAP_SHARED, over it: the notifier's sequence grows.",
            "The fault samples the sequence: the grown one. It gets the page from the file.",
            "Nothing changed since: the page is mapped, with the first VMA's facts.",
            "The guest tags it; it is written back and dropped, without its tags.",
        ),
        script=remapped_to_disk,
        refused="EFAULT",
    ),
    Bug(
        id="B20:pmem",
        title="the same, where only the VMA tells that memory has no tags",
        property="P5",
        broken="linux-6.18 K24=seq-after-unlock",
        fixed_in="linux-6.18",
        kind="sequential",
        knobs=("K22", "K24"),
        source="what 13ec9308a857 (v6.3) spares kernels that decide by VMA (6.17 and later)",
        story=(
            "A fault finds anonymous memory, which has tags, and drops mmap_lock.",
            "The VMM maps pmem over it.",
            "The fault samples the sequence and gets a ZONE_DEVICE page.",
            "It is mapped Normal Write-Back; the guest's tag store goes where no tags are.",
        ),
        script=remapped_to_pmem,
        refused="EFAULT",
        derived=True,
    ),
    Bug(
        id="B40",
        title="guest_memfd memory is mapped without its tags being initialised",
        property="P2",
        broken="linux-6.18",
        fixed_in="linux-7.2",
        kind="sequential",
        knobs=("K30",),
        source="mappable guest_memfd on arm64 (v6.18); 679d7201c1f0 (v7.2)",
        story=(
            "A memslot of an MTE VM is a guest_memfd: no VMA is there to be looked at.",
            "The guest touches it: gmem_abort takes a page of the file and maps it.",
            "Nothing on that path calls sanitise_mte_tags: PG_mte_tagged is clear (P4).",
            "The guest reads the tags of whoever had the frame before.",
        ),
        script=guest_memfd,
        refused="EINVAL",
    ),
    Bug(
        id="B41",
        title="a guest without MTE discovers it by a register that is not trapped",
        property="P9",
        broken="linux-6.18",
        fixed_in="linux-7.0",
        kind="sequential",
        knobs=("K31",),
        source="c103c2dfe497, f35abcbb8a08, 5ee8ad69da07, 230b080623fe (v7.0)",
        story=(
            "A VM has no MTE: its ID registers say so, tag registers are undefined.",
            "The guest reads GMID_EL1: HCR_EL2.TID5 is clear, so nothing traps it.",
            "The answer tells that the CPU has MTE.",
        ),
        script=register_without_mte,
        refused="an UNDEFINED instruction",
    ),
    Bug(
        id="B46",
        title="tags on pages of a file die when they are written back",
        property="P1",
        broken="linux-6.12 K22=cacheable",
        fixed_in="linux-6.12",
        kind="sequential",
        knobs=("K22",),
        source="mail 07b662bf...; why VM_MTE_ALLOWED is for anonymous memory and shmem",
        story=(
            "A guest's memory is a file on a disk, and nothing refuses that.",
            "The guest tags a page of it.",
            "Reclaim writes the page back and drops it: a file has no place for tags.",
            "The page is read again, and the guest finds tag 0.",
        ),
        script=file_on_disk,
        refused="EINVAL",
    ),
)
