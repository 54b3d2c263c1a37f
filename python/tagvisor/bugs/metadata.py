"""Saved tags that lived too short or too long: policies discussed in 2021, none of them merged.

Models nothing; scripts are functions on a machine. Left out: nothing. Invariant: each row differs
from a real kernel in the one decision K1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tagvisor.bugs.row import Bug

if TYPE_CHECKING:
    from tagvisor.host import Host

__all__ = ["ROWS"]

IPA = 0x5000_0000
PAGE_SIZE = 4096
_THREAD = "mails of the v10 thread, March and April 2021 (5e5bf772..., 20210408141853.GA7676)"


def read_only_swap_in(host: Host) -> None:
    """The guest's page goes out, comes in by a read, and goes out clean."""
    vmm = host.process()
    ram = vmm.mmap(1)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, ram)
    cpu = vm.vcpu()
    cpu.stg(IPA, 5)
    host.evict(ram.page(0))
    ram.page(0).load()
    host.evict(ram.page(0))
    cpu.ldg(IPA)


def slot_reuse(host: Host) -> None:
    """A slot of a tagged page is freed; an untagged page of the guest takes it."""
    vmm = host.process()
    tagged, plain = vmm.mmap(1), vmm.mmap(1)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, tagged)
    vm.add_memslot(IPA + PAGE_SIZE, plain)
    cpu = vm.vcpu()
    cpu.stg(IPA, 5)
    host.evict(tagged.page(0))
    tagged.munmap()
    plain.page(0).store(0x77)
    host.evict(plain.page(0))
    cpu.ldg(IPA + PAGE_SIZE)


_CLEAN = (
    "The guest tags a page; the host swaps it out, its tags are saved.",
    "The VMM reads the page: it comes in clean, tags restored.",
    "{gone}",
    "Reclaim drops the clean page: nothing is written, so nothing is saved.",
    "The guest reads its tag: the data come from the slot, the tags from nowhere.",
)

ROWS = (
    Bug(
        id="L-E",
        title="saved tags erased when they are restored",
        property="P1",
        broken="linux-6.12 K1=restore",
        fixed_in="linux-6.12",
        kind="sequential",
        knobs=("K1",),
        source=_THREAD,
        story=tuple(line.format(gone="Their saved copy is erased.") for line in _CLEAN),
        script=read_only_swap_in,
    ),
    Bug(
        id="L-E:page-free",
        title="saved tags erased when the page they were restored to is freed",
        property="P1",
        broken="linux-6.12 K1=page-free",
        fixed_in="linux-6.12",
        kind="sequential",
        knobs=("K1",),
        source=_THREAD,
        story=tuple(
            line.format(gone="Their saved copy is to be erased with that page.") for line in _CLEAN
        ),
        script=read_only_swap_in,
    ),
    Bug(
        id="L-E:swapoff",
        title="saved tags erased only at swapoff",
        property="P2",
        broken="linux-6.12 K1=swapoff",
        fixed_in="linux-6.12",
        kind="sequential",
        knobs=("K1", "K2"),
        source=_THREAD,
        story=(
            "The guest tags page A; the host swaps it out to slot e, its tags are saved.",
            "The VMM unmaps A: slot e is free, the saved tags stay.",
            "Page B, never tagged, is swapped out to e: nothing is saved, nothing erased (K2).",
            "The guest reads a tag of B: it is A's.",
        ),
        script=slot_reuse,
    ),
)
