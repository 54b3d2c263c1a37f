"""``KVM_ARM_MTE_COPY_TAGS``: tags that the VMM reads and writes past the guest.

Models nothing; scripts are functions on a machine. Left out: see
:data:`tagvisor.bugs.left_out.LEFT_OUT`. Invariant: the same script runs under both policies.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from tagvisor import ops
from tagvisor.bugs.row import Bug
from tagvisor.errors import LinuxError
from tagvisor.explore import schedule
from tagvisor.vm import COPY_TAGS_TO_GUEST, DIRTY_LOG

if TYPE_CHECKING:
    from tagvisor.host import Host
    from tagvisor.process import Mapping
    from tagvisor.vm import Vm

__all__ = ["ROWS"]

IPA = 0x5000_0000
PAGE_SIZE = 4096
GRANULES = 256
SHORT = 100
_SERIES = "mail 20210520120556.GC12251 on v12, mended in v13"


def leave_tag(host: Host, granule: int) -> None:
    """Another process tags a granule and ends: its frame is the next to be given out."""
    other = host.process("other")
    other.mmap(1, mte=True).page(0).stg(granule, 5)
    other.exit()


def backed_vm(host: Host, *, flags: int = 0) -> tuple[Vm, Mapping]:
    """An MTE VM over one page that the VMM has written and no guest has touched."""
    vmm = host.process()
    ram = vmm.mmap(1)
    ram.page(0).store(0x42)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, ram, flags=flags)
    return vm, ram


def never_touched(host: Host) -> None:
    """The VMM reads tags of a page that the guest never used."""
    leave_tag(host, 0)
    vm, _ = backed_vm(host)
    vm.copy_tags_from(IPA, 1)


def lost_at_first_touch(host: Host) -> None:
    """The VMM writes tags before the guest has touched the page."""
    vm, _ = backed_vm(host)
    vm.copy_tags_to(IPA, [5] * GRANULES)
    vm.vcpu().ldg(IPA)


def somebody_elses_page(host: Host) -> None:
    """Between release and flag the page goes to another process."""
    vm, ram = backed_vm(host)
    other = host.process("other")
    theirs = other.mmap(1)
    path = "kvm_vm_ioctl_mte_copy_tags"
    schedule(
        host,
        {
            "vmm": [ops.copy_tags_to(vm, IPA, [5] * GRANULES)],
            "vmm-2": [ops.munmap(ram)],
            "other": [ops.user_store(theirs.page(0), 0x77)],
        },
        [("vmm", f"{path}: set_bit(PG_mte_tagged)"), "vmm-2", "other", "vmm"],
    )
    theirs.mprotect(mte=True)
    theirs.page(0).ldg(0)


def short_copy(host: Host) -> None:
    """The VMM's buffer ends in the middle of a page's tags; the guest reads behind that."""
    leave_tag(host, SHORT)
    vm, _ = backed_vm(host)
    with suppress(LinuxError):  # EFAULT
        vm.copy_tags(IPA, PAGE_SIZE, COPY_TAGS_TO_GUEST, np.full(SHORT, 7, dtype=np.uint8))
    vm.vcpu().ldg(IPA + 16 * SHORT)


def written_while_logging(host: Host) -> None:
    """The VMM has sent a page's tags; then they change, and no log shows it."""
    vm, _ = backed_vm(host, flags=DIRTY_LOG)
    vm.copy_tags_from(IPA, 1)
    vm.copy_tags_to(IPA, [5] * GRANULES)


def zone_device_reference(host: Host) -> None:
    """The VMM asks for tags of memory that has none: it took the slot's place after the check."""
    vm, ram = backed_vm(host)
    vm.process.mmap(1, backing="zone-device", at=ram)
    vm.copy_tags_from(IPA, 1)


ROWS = (
    Bug(
        id="B03",
        title="COPY_TAGS from the guest returns an earlier owner's tags",
        property="P2",
        broken="v12-series",
        fixed_in="v13-series",
        kind="sequential",
        knobs=("K26",),
        source=_SERIES,
        story=(
            "Another process tagged a page and ended; its frame keeps the tags.",
            "The frame comes to the VMM, which writes data and makes it a memslot.",
            "No guest has touched it: PG_mte_tagged is clear, the tags are the other process'.",
            "KVM_ARM_MTE_COPY_TAGS does not look at the flag and hands them out.",
        ),
        script=never_touched,
    ),
    Bug(
        id="B04",
        title="COPY_TAGS to the guest is lost at the guest's first fault",
        property="P1",
        broken="v12-series",
        fixed_in="v13-series",
        kind="sequential",
        knobs=("K25",),
        source=_SERIES,
        story=(
            "The VMM of a migration's destination writes a page's tags: PG_mte_tagged stays clear.",
            "The guest touches the page for the first time.",
            "The fault finds no flag and clears the tags.",
            "The guest reads tag 0.",
        ),
        script=lost_at_first_touch,
    ),
    Bug(
        id="B05",
        title="COPY_TAGS flags a page that it has released",
        property="P3",
        broken="v17-series",
        fixed_in="linux-5.14",
        kind="sequential",
        knobs=("K25",),
        source="mail 87k0mjidwb on f0376edb1ddc, mended before v5.14",
        story=(
            "KVM_ARM_MTE_COPY_TAGS writes the tags and drops its reference to the page.",
            "Another thread of the VMM unmaps it: it was the last reference, the frame is free.",
            "Another process gets the frame.",
            "set_bit(PG_mte_tagged) flags that process' page; the tags in it are the guest's.",
            "The process asks for PROT_MTE: the flag is set, nothing is cleared.",
        ),
        script=somebody_elses_page,
    ),
    Bug(
        id="B21",
        title="a short COPY_TAGS leaves an earlier owner's tags in a flagged page",
        property="P2",
        broken="linux-6.2 K25=lock-mixed",
        fixed_in="linux-6.2",
        kind="sequential",
        knobs=("K25",),
        source="d77e59a8fccd (v6.2-rc1), c3b37c2d77a2 (v6.2-rc5)",
        story=(
            "The VMM's buffer is mapped in part only: the copy ends within the page.",
            "The kernel means to clear the page's tags, but clears tags at its struct page.",
            "The page is flagged with the tags that came, and an earlier owner's behind them.",
            "The guest reads one of those.",
        ),
        script=short_copy,
    ),
    Bug(
        id="B24",
        title="tags written by the VMM while writes are logged are not migrated",
        property="P7",
        broken="linux-6.6",
        fixed_in="linux-6.12",
        kind="sequential",
        knobs=("K27",),
        source="e0b7de4fd18c (v6.12); mail 20240726235234.228822-3",
        story=(
            "The memslot logs writes; the VMM has read a page's data and tags and sent them.",
            "Another thread of the VMM writes tags of that page with KVM_ARM_MTE_COPY_TAGS.",
            "The page is dirty, the memslot's log does not say so.",
            "The last round goes without it: the destination keeps the old tags.",
        ),
        script=written_while_logging,
        refused="EBUSY",
    ),
    Bug(
        id="B25",
        title="COPY_TAGS on ZONE_DEVICE memory leaks a page reference",
        property="P8",
        broken="linux-6.6",
        fixed_in="linux-6.12",
        kind="sequential",
        knobs=("K28",),
        source="ae41d7dbaeb4 (v6.12; not in 6.6.150 and 6.1.166)",
        story=(
            "The VMM maps pmem where a memslot already refers to.",
            "KVM_ARM_MTE_COPY_TAGS gets the page and a reference to it.",
            "It is not online: -EFAULT, and the reference is never dropped.",
            "The device can never be unbound again.",
        ),
        script=zone_device_reference,
        refused="EFAULT",
    ),
)
