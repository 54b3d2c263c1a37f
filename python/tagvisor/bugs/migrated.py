"""Migration: tags that stay behind while data go.

Models nothing; scripts are functions on a machine, which is the host the guest goes to. Left out:
see :data:`tagvisor.bugs.left_out.LEFT_OUT`. Invariant: the ledger of that host was told what the
guest wrote before.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from tagvisor import migration
from tagvisor.bugs.row import Bug
from tagvisor.errors import GuestException
from tagvisor.host import Host

if TYPE_CHECKING:
    from tagvisor.migration import TagOrder

__all__ = ["ROWS"]

IPA = 0x5000_0000
POINTER = IPA | 5 << 56


def touched_before_its_tags(host: Host) -> None:
    """The guest's first access on its new host."""
    _postcopy(host, "late")


def tags_before_the_guest(host: Host) -> None:
    """The same, and a page has its tags before the guest is woken."""
    _postcopy(host, "with-data")


def _postcopy(target: Host, order: TagOrder) -> None:
    source = Host(target.policy, memory="1 MiB")
    vmm = source.process("source")
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, vmm.mmap(1))
    cpu = vm.vcpu()
    cpu.stg(POINTER)
    cpu.store(POINTER, 0x2A)
    moving = migration.postcopy(vm, target, tags=order)
    there = moving.vcpu()
    with suppress(GuestException):  # the tag check fails
        there.load(POINTER)
    moving.finish()


ROWS = (
    Bug(
        id="B47",
        title="postcopy places a page's data before its tags",
        property="P1",
        broken="linux-6.12",
        fixed_in="linux-6.12",
        kind="sequential",
        knobs=(),
        source="mail acee465d... and QEMU threads; open, in user space's hands",
        story=(
            "A guest runs on its new host; a page of it is still on the old one.",
            "It touches the page: userfaultfd has the VMM place it.",
            "UFFDIO_COPY places the data and wakes the vCPU; tags are to follow.",
            "The guest's load through the page's tag finds tag 0: a tag check fault.",
            "Tags first, then wake: the load goes through.",
        ),
        script=touched_before_its_tags,
        mended_script=tags_before_the_guest,
    ),
)
