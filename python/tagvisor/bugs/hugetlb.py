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


def hibernate(host: Host) -> None:
    """A guest tags a page inside a huge page; the host is suspended to disk and resumed."""
    host.set_nr_hugepages(1)
    vmm = host.process("vmm")
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, vmm.mmap(PAGES, backing="hugetlb"))
    vm.vcpu().stg(IPA + 3 * 4096, 5)
    host.hibernate()


def core_dump(host: Host) -> None:
    """A process tags a page inside a huge page and dumps core."""
    host.set_nr_hugepages(1)
    app = host.process("app")
    app.mmap(PAGES, backing="hugetlb", mte=True).page(3).stg(0, 5)
    app.core_dump()


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
        id="D-hibernate",
        title="tags of a huge page do not survive hibernation but for its first 4 KiB",
        property="P1",
        broken="linux-6.13",
        fixed_in="linux-6.1",
        kind="sequential",
        knobs=("K32",),
        source="arch/arm64/kernel/hibernate.c (swsusp_mte_save_tags) since v6.13: page_mte_tagged "
        "of each page, while only the head of a hugetlb folio is flagged; 6.1 flags each page, 6.12 "
        "refuses such a guest",
        story=(
            "A guest's memory is a huge page; it tags one granule beyond the first 4 KiB.",
            "sanitise_mte_tags flags the folio by its head.",
            "Hibernation looks at every page's own flag: only the head's tags are saved.",
            "After resume the guest's tag is whatever memory has after power on.",
        ),
        script=hibernate,
        machine={"memory": "8 MiB"},
        derived=True,
    ),
    Bug(
        id="D-core",
        title="a core dump has no tags of a huge page but for its first 4 KiB",
        property="P1",
        broken="linux-6.13",
        fixed_in="linux-6.12",
        kind="sequential",
        knobs=("K32", "core_dump_tags"),
        source="arch/arm64/kernel/elfcore.c (mte_dump_tag_range) since v6.13: page_mte_tagged of "
        "each page, while only the head of a hugetlb folio is flagged",
        story=(
            "A process has a huge page with PROT_MTE and tags one granule beyond its first 4 KiB.",
            "mte_sync_tags flags the folio by its head.",
            "The process dumps core: mte_dump_tag_range looks at every page's own flag.",
            "All but the head's tags are a hole of zeros in the file.",
        ),
        script=core_dump,
        machine={"memory": "8 MiB"},
        refused="EINVAL",
        derived=True,
    ),
)
