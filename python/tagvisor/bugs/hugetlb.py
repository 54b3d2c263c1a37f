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
)
