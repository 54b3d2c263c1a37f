"""hugetlb: pages that go back to a pool, not to the allocator, and take their flag along.

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
PAGES = 512
HUGE = 0x7000_0020_0000
"""An address of the VMM that a huge page can start at."""


def prot_mte(host: Host) -> None:
    """One process tags a huge page and ends, the next one reads its tags."""
    first, second = host.process("first"), host.process("second")
    host.set_nr_hugepages(1)
    first.mmap(PAGES, backing="hugetlb", mte=True).page(3).stg(0, 5)
    first.exit()
    second.mmap(PAGES, backing="hugetlb", mte=True).page(3).ldg(0)


def next_guest(host: Host) -> None:
    """One guest tags a huge page and is gone, the next one reads its tags."""
    host.set_nr_hugepages(1)
    for name in ("first", "second"):
        vmm = host.process(name)
        vm = vmm.create_vm(mte=True)
        vm.add_memslot(IPA, vmm.mmap(PAGES, backing="hugetlb"))
        cpu = vm.vcpu()
        if name == "first":
            cpu.stg(IPA, 5)
            vm.destroy()
            vmm.exit()
        else:
            cpu.ldg(IPA)


def part_of_it(host: Host) -> None:
    """A guest gets a huge page of a process with tags, page by page: its writes are logged."""
    host.set_nr_hugepages(1)
    other = host.process("other")
    other.mmap(PAGES, backing="hugetlb", mte=True).page(9).stg(0, 9)
    other.exit()
    vmm = host.process("vmm")
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, vmm.mmap(PAGES, backing="hugetlb"), log_dirty=True)
    cpu = vm.vcpu()
    cpu.ldg(IPA + 3 * 4096)
    cpu.ldg(IPA + 9 * 4096)


def merged_block(host: Host) -> None:
    """A guest reads a page of a huge page while its writes are logged, and writes it later."""
    host.set_transparent_hugepage("madvise")
    other = host.process("other")
    tagged = other.mmap(PAGES, mte=True, at=HUGE)
    tagged.madvise("hugepage")
    tagged.page(9).stg(0, 9)
    other.exit()
    vmm = host.process("vmm")
    ram = vmm.mmap(PAGES, at=HUGE)
    ram.madvise("hugepage")
    ram.page(0).store(0x42)
    vm = vmm.create_vm(mte=True)
    slot = vm.add_memslot(IPA, ram, log_dirty=True)
    cpu = vm.vcpu()
    cpu.ldg(IPA + 3 * 4096)
    vm.set_dirty_log(slot, on=False)
    cpu.store(IPA + 3 * 4096, 7)
    cpu.ldg(IPA + 9 * 4096)


ROWS = (
    Bug(
        id="B38",
        title="PROT_MTE accepted on anonymous huge pages before they had tags",
        property="P3",
        broken="linux-6.12.0",
        fixed_in="linux-6.12",
        kind="sequential",
        knobs=("K32",),
        source="9f3419315f3c (v5.10), its mend in stable 5.10 to 6.12",
        story=(
            "mmap(MAP_ANONYMOUS | MAP_HUGETLB, PROT_MTE) is taken for any anonymous memory.",
            "A process tags a huge page and ends; the page goes to the pool with its flags.",
            "The next process gets it, with PROT_MTE: PG_mte_tagged is set, nothing is cleared.",
            "It reads the first one's tags.",
        ),
        script=prot_mte,
        machine={"memory": "8 MiB"},
        refused="EINVAL",
    ),
    Bug(
        id="D-hugetlb",
        title="a huge page behind a guest brings the tags of the guest before",
        property="P2",
        broken="linux-6.1",
        fixed_in="linux-6.13",
        kind="sequential",
        knobs=("K18", "K32"),
        source="what hugetlb's MTE support (v6.13) mends by clearing the flags at free",
        story=(
            "A guest's memory is a huge page, which an MTE guest may have without PROT_MTE.",
            "The guest tags it and is gone; the page goes to the pool, its flags as they are.",
            "The next guest gets the page. Its data were cleared.",
            "sanitise_mte_tags finds PG_mte_tagged set, and maps it: the tags are the first one's.",
        ),
        script=next_guest,
        machine={"memory": "8 MiB"},
        derived=True,
    ),
    Bug(
        id="D-hugetlb-part",
        title="a huge page is flagged, and cleared where it was touched only",
        property="P2",
        broken="linux-7.3",
        fixed_in="linux-7.3 sanitise_size=folio",
        kind="sequential",
        knobs=("K18", "sanitise_size"),
        source="read in sanitise_mte_tags (v6.13), seen on 7.3.4: LDG and COPY_TAGS read old tags",
        story=(
            "A process tags a huge page of the pool, with PROT_MTE, and ends.",
            "A guest's memory is that huge page; its memslot logs writes, so pages are mapped.",
            "The guest touches page 3. sanitise_mte_tags clears that page, as much as is mapped.",
            "It flags the head: from now on all 512 pages pass for initialised.",
            "The guest touches page 9, and reads the process' tags. So does COPY_TAGS.",
        ),
        script=part_of_it,
        machine={"memory": "8 MiB"},
        derived=True,
    ),
    Bug(
        id="D-merge",
        title="a permission fault maps a block over pages nobody sanitised",
        property="P2",
        broken="linux-7.3",
        fixed_in="linux-7.3 K19=yes",
        kind="sequential",
        knobs=("K18", "K19"),
        source="read in user_mem_abort (5.14 to 7.3), seen on 6.1.192, 6.12.107 and 7.3.4",
        story=(
            "A guest's memory is a transparent huge page; its memslot logs writes.",
            "The guest reads page 3: that page is sanitised, and mapped read-only.",
            "Logging ends, and the guest writes page 3: a permission fault.",
            "The VMM has a PMD there, so a block is mapped in place of the table.",
            "A permission fault sanitises nothing: 511 pages are in it as they were (P4).",
            "The guest reads the tags of whoever had page 9 before.",
            "What it stores there is lost when the page is swapped: PG_mte_tagged is clear.",
        ),
        script=merged_block,
        machine={"memory": "8 MiB"},
        derived=True,
    ),
)
