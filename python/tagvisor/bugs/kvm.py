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
)
