"""The flag protocol of the host: who believes ``PG_mte_tagged``, and what lies behind it.

Models nothing; scripts are functions on a machine. Left out: see
:data:`tagvisor.bugs.left_out.LEFT_OUT`. Invariant: the same script runs under both policies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tagvisor import ops
from tagvisor.bugs.row import Bug
from tagvisor.process import Mapping

if TYPE_CHECKING:
    from tagvisor.bugs.row import Actors
    from tagvisor.host import Host

__all__ = ["ROWS"]

IPA = 0x5000_0000
HPAGE = 512
"""Pages of a huge page."""
BIG = {"memory": "8 MiB", "swap": "4 MiB"}
"""A machine that has room for huge pages."""
_SERIES = "series 20221104011041.290951; e059853d14ca and d77e59a8fccd (v6.2; the former in 6.1.18)"


def two_processes(host: Host, *, shared: bool) -> tuple[Mapping, Mapping]:
    """A page without tags that parent and child have both mapped."""
    parent = host.process("parent")
    mine = parent.mmap(1, shared=shared)
    mine.page(0).store(0x42)
    child = parent.fork("child")
    theirs = Mapping(child, mine.address, 1)
    theirs.page(0).load()
    return mine, theirs


def flag_before_tags(host: Host) -> Actors:
    """Both ask for tags on a shared page; the child reads one."""
    mine, theirs = two_processes(host, shared=True)
    return {
        "parent": [ops.mprotect(mine, mte=True)],
        "child": [ops.mprotect(theirs, mte=True), ops.user_ldg(theirs.page(0), 0)],
    }


def copy_between(host: Host) -> Actors:
    """The child copies the page while the parent asks for tags on it."""
    mine, theirs = two_processes(host, shared=False)
    page = theirs.page(0)
    return {
        "parent": [ops.mprotect(mine, mte=True)],
        "child": [ops.user_store(page, 1), ops.mprotect(theirs, mte=True), ops.user_ldg(page, 0)],
    }


def peek_between(host: Host) -> Actors:
    """A debugger reads the child's tags while the parent asks for tags on the page."""
    parent = host.process("parent")
    mine = parent.mmap(1, shared=True)
    mine.page(0).store(0x42)
    child = parent.fork("child")
    theirs = Mapping(child, mine.address, 1)
    theirs.mprotect(mte=True)  # nothing is mapped there yet
    return {
        "parent": [ops.mprotect(mine, mte=True)],
        "debugger": [ops.peek_tags(theirs.page(0))],
    }


def untagged_migration(host: Host) -> None:
    """A page without tags moves to another frame; then it is asked to have tags."""
    process = host.process()
    memory = process.mmap(1)
    memory.page(0).store(0x42)
    host.migrate(memory.page(0))
    memory.mprotect(mte=True)
    memory.page(0).ldg(0)


def migration_tried_again(host: Host) -> Actors:
    """A tagged shmem page moves while another process' fault looks at the page cache."""
    parent = host.process("parent")
    mine = parent.mmap(2, shared=True, mte=True)
    mine.page(0).stg(0, 5)
    child = parent.fork("child")
    theirs = Mapping(child, mine.address, 2)
    return {
        "kcompactd": [ops.migrate(mine.page(0))],
        "child": [ops.user_load(theirs.page(1))],
    }


def huge_page(host: Host, pages: int = HPAGE) -> Mapping:
    """A tagged process' memory that a write fills with a huge page."""
    host.set_transparent_hugepage("madvise")
    memory = host.process().mmap(pages, mte=True)
    memory.madvise("hugepage")
    return memory


def zero_subpage(host: Host) -> None:
    """One page of a tagged huge page is paged out; another has tags and no data."""
    memory = huge_page(host)
    memory.page(300).stg(0, 5)
    host.evict(memory.page(2))
    memory.page(300).load(tag=5)


def tail_to_swap(host: Host) -> None:
    """A tail of a tagged huge page is split off, goes to swap, and comes back."""
    memory = huge_page(host)
    memory.page(2).stg(0, 5)
    memory.page(2).store(0x42, tag=5)
    host.evict(memory.page(2))
    memory.page(2).ldg(0)


def huge_zero(host: Host) -> None:
    """A tag is read where a huge page could be and nobody wrote."""
    huge_page(host).page(7).ldg(0)


def untagged_swap_in(host: Host) -> None:
    """A page without tags goes to swap and comes back; then the guest looks at its tags."""
    vmm = host.process()
    ram = vmm.mmap(1)
    ram.page(0).store(0x42)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, ram)
    host.evict(ram.page(0))
    ram.page(0).load()
    vm.vcpu().ldg(IPA)


ROWS = (
    Bug(
        id="B06",
        title="the flag is seen before the tags",
        property="P3",
        broken="linux-6.1.0",
        fixed_in="linux-6.2",
        kind="race",
        knobs=("K4",),
        source="34bfeea4a9e9 (v5.10); " + _SERIES,
        story=(
            "Parent and child have a shared page without tags; the parent asks for PROT_MTE.",
            "Its set_pte_at sets PG_mte_tagged; the tags are still an earlier owner's.",
            "The child asks for PROT_MTE too: the flag is set, so its PTE goes live at once.",
            "The child reads the earlier owner's tags; what it writes now, the parent clears.",
        ),
        actors=flag_before_tags,
    ),
    Bug(
        id="B07",
        title="copy on write of a page whose flag is set and whose tags are not",
        property="P2",
        broken="linux-6.1.0",
        fixed_in="linux-6.2",
        kind="race",
        knobs=("K4", "K13"),
        source="34bfeea4a9e9 (v5.10); message of e059853d14ca (v6.2); mail YrtBIX0/0jyAdgnz",
        story=(
            "After fork parent and child share a page; the parent asks for PROT_MTE: flag set.",
            "The child writes: copy_highpage sees the flag and copies the stale tags.",
            "The copy is flagged as well; the parent clears the original.",
            "The child asks for PROT_MTE: nothing is cleared, and it reads stale tags.",
        ),
        actors=copy_between,
    ),
    Bug(
        id="B08",
        title="ptrace reads between flag and tags",
        property="P2",
        broken="linux-6.1.0",
        fixed_in="linux-6.2",
        kind="race",
        knobs=("K4",),
        source="message of e059853d14ca (v6.2); mail YrtBIX0/0jyAdgnz",
        story=(
            "Two processes map a shared page; one asks for PROT_MTE: flag set, tags stale.",
            "A debugger peeks at the other's tags: its fault finds the flag set.",
            "It is handed the tags of an earlier owner.",
        ),
        actors=peek_between,
    ),
    Bug(
        id="B10",
        title="flag without tags when a migration entry is replaced",
        property="P3",
        broken="linux-5.14",
        fixed_in="linux-6.1.0",
        kind="sequential",
        knobs=("K4", "K5"),
        source="69e3b846d8a7 (v5.14), a8e5e5146ad0 (v6.1; 6.0.3, 5.15.82)",
        story=(
            "A page without tags migrates; its PTE is a migration entry meanwhile.",
            "remove_migration_pte puts an untagged PTE in place of one neither none nor present.",
            "set_pte_at sets PG_mte_tagged, finds nothing to restore, and clears nothing.",
            "Whoever asks for the tags later finds them initialised, and reads an earlier owner's.",
        ),
        script=untagged_migration,
    ),
    Bug(
        id="B11",
        title="flag without tags after a swap-in of an untagged page",
        property="P3",
        broken="linux-6.2",
        fixed_in="linux-6.4",
        kind="sequential",
        knobs=("K4",),
        source="e059853d14ca (v6.2), c4c597f1b367 (v6.4-rc3)",
        story=(
            "A page of the VMM, never tagged, goes to swap: no tags are saved.",
            "It comes back: mte_sync_tags restores nothing, clears nothing for an untagged PTE.",
            "Its loop sets PG_mte_tagged all the same.",
            "The guest's fault finds the page tagged, and the guest reads an earlier owner's tags.",
        ),
        script=untagged_swap_in,
    ),
    Bug(
        id="B15",
        title="tags not ordered before the PTE",
        property="P2",
        broken="linux-5.16",
        fixed_in="linux-5.18",
        kind="race",
        knobs=("K6",),
        source="34bfeea4a9e9 (v5.10), 1d0cb4c8864a (v5.18; 5.10.118)",
        story=(
            "One CPU clears the tags and writes the PTE, with no barrier between.",
            "Another walks to the new PTE and loads a tag.",
            "It may see the old tag: nothing orders the two stores for it.",
        ),
        waiting="weak memory: the explorer's steps are seen by everybody in one order",
    ),
    Bug(
        id="B33",
        title="a split huge page gives up tagged subpages whose data are zero",
        property="P1",
        broken="linux-6.12.0",
        fixed_in="linux-6.18",
        kind="sequential",
        knobs=("K33",),
        machine=BIG,
        source="b1f202060afe (v6.12), 1ce6473d17e7 (v6.18); mail 20250922021458.68123-1",
        story=(
            "A tagged huge page has a subpage of zero data.",
            "Under pressure it is split: the subpage's PTE is a migration entry.",
            "try_to_map_unused_to_zeropage compares data only, and maps the zero page.",
            "The user's load through the page's tag finds tag 0: SIGSEGV.",
        ),
        script=zero_subpage,
    ),
    Bug(
        id="B34",
        title="the huge zero folio's tags are never initialised",
        property="P2",
        broken="linux-6.18 huge_zero=special",
        fixed_in="linux-6.18",
        kind="sequential",
        knobs=("huge_zero",),
        machine=BIG,
        source="d82d09e48219 (v6.18), adfb6609c680 (v6.18-rc6)",
        story=(
            "A read of a PROT_MTE mapping maps the huge zero folio, allocated for its data only.",
            "Its PMD is special, so set_pmd_at syncs nothing.",
            "The user reads tags that an earlier owner left.",
        ),
        script=huge_zero,
    ),
    Bug(
        id="B35",
        title="zeroed at free, so the tags of a fresh page are not zeroed",
        property="P2",
        broken="linux-6.18",
        fixed_in="linux-6.18 K16=independent",
        kind="sequential",
        knobs=("K16", "huge_zero"),
        machine={**BIG, "init_on_free": True},
        source="series zerotags-v2 of 2026-04-21",
        story=(
            "With init_on_free pages come zeroed, so the allocation does not zero them again.",
            "That it should zero tags is decided by the same condition: it does not.",
            "A huge zero folio keeps an earlier owner's tags.",
        ),
        script=huge_zero,
    ),
    Bug(
        id="B36",
        title="a migration that is tried again warns",
        property="P8",
        broken="linux-6.12.0",
        fixed_in="linux-6.18",
        kind="race",
        knobs=("K14", "migrate_copy"),
        source="d77e59a8fccd (v6.2), 060913999d7a (v6.11), b98c94eed4a9 (v6.18-rc3)",
        story=(
            "A tagged page of shmem is to move: copy_highpage flags the destination.",
            "A fault on the next page looks around in the page cache and holds the page just then.",
            "So the page cache cannot let go of it; the destination is kept for another try.",
            "Copying again finds it flagged: WARN, which panics where panic_on_warn is set.",
        ),
        actors=migration_tried_again,
    ),
    Bug(
        id="B49",
        title="a split of a huge page loses the flag of its tails",
        property="P1",
        broken="linux-6.12 split_flags=lost",
        fixed_in="linux-6.12",
        kind="sequential",
        knobs=("split_flags",),
        machine=BIG,
        source="prevented in the series merged in v5.10: PG_arch_2 in __split_huge_page_tail",
        story=(
            "A tagged huge page is split; the flag of its head is not given to its tails.",
            "A tail goes to swap: not flagged, so no tags are saved.",
            "It comes back without tags.",
        ),
        script=tail_to_swap,
    ),
)
