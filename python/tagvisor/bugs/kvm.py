"""KVM: what stands behind an MTE guest, its faults, and ``KVM_ARM_MTE_COPY_TAGS``.

Models nothing; scripts are functions on a machine. Left out: see
:data:`tagvisor.bugs.left_out.LEFT_OUT`. Invariant: the same script runs under both policies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tagvisor.bugs.row import Bug

if TYPE_CHECKING:
    from tagvisor.host import Host

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


ROWS = (
    Bug(
        id="B01",
        title="ZONE_DEVICE memory mapped Normal Write-Back for an MTE guest",
        property="P5",
        broken="v10-series",
        fixed_in="v11-series",
        kind="sequential",
        knobs=("K22",),
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
)
