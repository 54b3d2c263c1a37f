"""Bugs that this model found, and that real kernels then showed.

Each was first a violation in a script of the model, then a scenario that unmodified kernels were
asked; ``tests/data/scenario/memory-management.jsonl`` holds what they answered. Models nothing.
Left out: see :data:`tagvisor.bugs.left_out.LEFT_OUT`. Invariant: no kernel mended them when they
were found, so the policy that does is a counterfactual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tagvisor.bugs.row import Bug

if TYPE_CHECKING:
    from tagvisor.host import Host
    from tagvisor.process import Mapping
    from tagvisor.vm import Vm

__all__ = ["ROWS"]

IPA = 0x5000_0000
HPAGE = 512
PAGE = 4096
TAIL = 2
_BIG = {"memory": "16 MiB", "swap": "8 MiB"}
_SOURCE = (
    "found here; seen on 6.1.192, 6.12.117 and 7.3.4: PG_arch_2 in __split_huge_page_tail "
    "(since v5.10), page by page in sanitise_mte_tags and kvm_vm_ioctl_mte_copy_tags (since v5.14)"
)

_HOST_SOURCE = (
    "found here; seen on 6.12.117 and 7.3.4 (N04 on 6.1.192 too): PG_arch_2 in "
    "__split_huge_page_tail (since v5.10), page by page in mte_sync_tags"
)


def _used_before(host: Host) -> None:
    """Frames that a huge page of another process has had, with its tags."""
    host.set_transparent_hugepage("madvise")
    process = host.process("before")
    theirs = process.mmap(HPAGE, mte=True)
    theirs.madvise("hugepage")
    for page in range(4):
        theirs.page(page).fill_tags(np.full(256, 9, np.uint8))
    process.exit()


def _huge_ram(host: Host, *, first: int = 0) -> tuple[Mapping, Vm]:
    """A VM on a huge page with data in its first pages; the slot begins at ``first``."""
    vmm = host.process()
    ram = vmm.mmap(HPAGE)
    ram.madvise("hugepage")
    for page in range(4):
        ram.page(page).store(0x1111 + page)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, ram, first=first, pages=HPAGE - first)
    return ram, vm


def restored_tail(host: Host) -> None:
    """The VMM restores the tags of one page of the huge page; then that is split."""
    host.set_transparent_hugepage("madvise")
    ram, vm = _huge_ram(host)
    vm.copy_tags_to(IPA + TAIL * PAGE, np.full(256, 7, np.uint8))
    host.evict(ram.page(3))
    vm.vcpu().ldg(IPA + TAIL * PAGE)


def restored_head(host: Host) -> None:
    """The VMM restores the tags of the first page; the guest reads another after the split."""
    _used_before(host)
    ram, vm = _huge_ram(host)
    vm.copy_tags_to(IPA, np.full(256, 7, np.uint8))
    host.evict(ram.page(3))
    vm.vcpu().ldg(IPA + TAIL * PAGE)


def own_tags(host: Host) -> None:
    """The guest tags a page of a huge page that no block can map, for the slot begins inside it."""
    host.set_transparent_hugepage("madvise")
    ram, vm = _huge_ram(host, first=1)
    cpu = vm.vcpu()
    address = IPA + (TAIL - 1) * PAGE
    cpu.stg(address, 5)
    host.evict(ram.page(3))
    cpu.ldg(address)


def _huge_anon(host: Host) -> Mapping:
    """A process' huge page without tags, with data in its first pages."""
    memory = host.process().mmap(HPAGE)
    memory.madvise("hugepage")
    for page in range(4):
        memory.page(page).store(0x1111 + page)
    return memory


def tagged_tail(host: Host) -> None:
    """A process asks for tags on one page of a huge page, and writes some."""
    host.set_transparent_hugepage("madvise")
    memory = _huge_anon(host)
    memory.mprotect(first=TAIL, pages=1, mte=True)
    memory.page(TAIL).stg(0, 5)
    host.evict(memory.page(3))
    memory.page(TAIL).load(tag=5)


def tagged_head(host: Host) -> None:
    """A process asks for tags on the first page of a huge page, later for those of another."""
    _used_before(host)
    memory = _huge_anon(host)
    memory.mprotect(pages=1, mte=True)
    host.evict(memory.page(3))
    memory.mprotect(first=TAIL, pages=1, mte=True)
    memory.page(TAIL).ldg(0)


ROWS = (
    Bug(
        id="N01",
        title="a split huge page's tails lose tags that KVM_ARM_MTE_COPY_TAGS restored",
        property="P1",
        broken="linux-7.3",
        fixed_in="linux-7.3 split_flags=own",
        kind="sequential",
        knobs=("split_flags",),
        machine=_BIG,
        source=_SOURCE,
        story=(
            "Guest memory lies on a transparent huge page; the guest has not run yet.",
            "The VMM restores tags of one page of it: that page is flagged, the first is not.",
            "Memory is short: the huge page is split, and each tail gets the first page's flag.",
            "The page is not flagged any more: the guest's first touch clears its tags.",
        ),
        script=restored_tail,
    ),
    Bug(
        id="N02",
        title="a split huge page shows a guest tags that an earlier owner left",
        property="P2",
        broken="linux-7.3",
        fixed_in="linux-7.3 split_flags=own",
        kind="sequential",
        knobs=("split_flags",),
        machine=_BIG,
        source=_SOURCE,
        story=(
            "Guest memory lies on a transparent huge page whose frames another process had.",
            "The VMM restores tags of its first page: only that one is flagged.",
            "The huge page is split: all its pages are flagged, whose tags nobody has cleared.",
            "The guest's fault finds its page flagged, and the guest reads the other's tags.",
        ),
        script=restored_head,
    ),
    Bug(
        id="N03",
        title="a split huge page loses tags that the guest itself wrote",
        property="P1",
        broken="linux-7.3",
        fixed_in="linux-7.3 split_flags=own",
        kind="sequential",
        knobs=("split_flags",),
        machine=_BIG,
        source=_SOURCE,
        story=(
            "A memslot begins inside a transparent huge page, so stage 2 maps it page by page.",
            "The guest tags one page: KVM flags that page, not the huge page's first.",
            "The huge page is split, and each tail gets the first page's flag.",
            "The guest faults again: its tags are cleared.",
        ),
        script=own_tags,
    ),
    Bug(
        id="N04",
        title="a split huge page loses the tags of a process that asked for them on a part of it",
        property="P1",
        broken="linux-7.3",
        fixed_in="linux-7.3 split_flags=own",
        kind="sequential",
        knobs=("split_flags",),
        machine=_BIG,
        source=_HOST_SOURCE,
        story=(
            "A process has a transparent huge page without tags; no VM is needed.",
            "It asks for PROT_MTE on one page of it, which flags that page, and writes tags.",
            "The huge page is split: each tail gets the first page's flag, which is clear.",
            "set_pte_at maps the page again, finds it unflagged, and clears its tags: SIGSEGV.",
        ),
        script=tagged_tail,
    ),
    Bug(
        id="N05",
        title="a split huge page shows a process tags that another process left",
        property="P2",
        broken="linux-7.3",
        fixed_in="linux-7.3 split_flags=own",
        kind="sequential",
        knobs=("split_flags", "sync_pages"),
        machine=_BIG,
        source=_HOST_SOURCE + "; before v6.8 the first page's sync covered them all",
        story=(
            "A process has a transparent huge page without tags, on frames another process had.",
            "It asks for PROT_MTE on the first page only: only that one is flagged.",
            "The huge page is split: all its pages are flagged, whose tags nobody has cleared.",
            "It asks for PROT_MTE on another: nothing is cleared, and it reads the other's tags.",
        ),
        script=tagged_head,
    ),
)
