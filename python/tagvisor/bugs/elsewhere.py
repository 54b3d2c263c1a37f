"""Tags that leave memory otherwise than by swap: hibernation and core dumps.

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
        id="D-hibernate",
        title="tags of a huge page do not survive hibernation but for its first 4 KiB",
        property="P1",
        broken="linux-6.13",
        fixed_in="linux-6.1",
        kind="sequential",
        knobs=("K32",),
        source="arch/arm64/kernel/hibernate.c (swsusp_mte_save_tags) since v6.13: page_mte_tagged "
        "of each page, while only the head of a hugetlb folio is flagged; 6.1 flags each page, "
        "6.12 refuses such a guest",
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
