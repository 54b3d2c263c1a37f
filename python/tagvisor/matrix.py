"""What holds, what loses or leaks tags: policies against the sequences of the mail thread.

Models the questions of the mail thread in which KVM's MTE support found its shape, each as a short
script on the machine: when may saved tags be erased, what becomes of memory without tag storage
behind a tagged guest, where is that checked, and how are two faults on one page kept apart. Leaves
out what only another process, shared memory or migration can show.

Invariant: the ledger is the judge. A sequence asserts nothing; its verdict is the worst property
that the ledger saw broken, or that none was. That Linux refuses (``-EINVAL`` for the memslot,
``-EFAULT`` from KVM_RUN) holds too: no tag was lost.

::

    >>> import tagvisor as tv
    >>> from tagvisor import matrix
    >>> matrix.judge(matrix.READ_ONLY_SWAP_IN, tv.linux("6.12").replace(K1="restore")).verdict
    <Verdict.TAGS_LOST: 'tags lost'>
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import product
from typing import TYPE_CHECKING, TypeAlias

from tagvisor.errors import GuestException, GuestExit, LinuxError, PolicyViolation
from tagvisor.explore import explore, ops
from tagvisor.host import Host
from tagvisor.policy import Policy, knobs, linux, policy as profile, profiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tagvisor.vcpu import Vcpu
    from tagvisor.verdict import Violation

__all__ = [
    "READ_ONLY_SWAP_IN",
    "REPLACED_MEMORY",
    "SEQUENCES",
    "SLOT_REUSE",
    "TWO_FAULTS",
    "ZONE_DEVICE",
    "Cell",
    "Matrix",
    "Row",
    "Sequence",
    "Verdict",
    "judge",
    "matrix",
    "rows",
]

IPA = 0x5000_0000
PAGE_SIZE = 4096
BASE = "6.12"
_DECIDED = ("P1", "P2", "P5", "P6")
"""What the thread asks about: what becomes of tags, not of the flag that stands for them."""


class Verdict(StrEnum):
    """What a policy did to a sequence."""

    HOLDS = "holds"
    TAGS_LOST = "tags lost"
    TAGS_LEAKED = "tags leaked"
    UNTAGGABLE = "untaggable memory reached"
    OUTLIVE = "saved tags outlive slot"
    FREED_EARLY = "saved tags freed early"
    FLAG = "flag without tags"
    DEADLOCK = "deadlock"


@dataclass(frozen=True, slots=True)
class Cell:
    """One policy, one sequence."""

    verdict: Verdict
    note: str
    """How it held, where that is worth saying."""
    violation: Violation | None
    """What the ledger saw, with the numbered steps; None when the policy holds."""


@dataclass(frozen=True, slots=True)
class Sequence:
    """A question of the thread."""

    id: str
    title: str
    question: str
    """What is at stake, in a sentence."""
    story: tuple[str, ...]
    """What is done, step by step."""
    play: Callable[[Policy], Cell]
    """Do it on a fresh machine."""


@dataclass(frozen=True, slots=True)
class Row:
    """A policy in the matrix."""

    group: str
    """The knob or knobs it varies, or ``profiles``."""
    label: str
    policy: Policy
    note: str
    """Such as ``as merged``."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Every row against every sequence."""

    rows: tuple[Row, ...]
    sequences: tuple[Sequence, ...]
    cells: tuple[tuple[Cell, ...], ...]
    """By row, then by sequence."""

    def __iter__(self) -> Iterator[tuple[Row, Sequence, Cell]]:
        for row, cells in self.by_row():
            for sequence, cell in zip(self.sequences, cells, strict=True):
                yield row, sequence, cell

    def by_row(self) -> Iterator[tuple[Row, tuple[Cell, ...]]]:
        """Each row with its cells, in the order of ``sequences``."""
        return zip(self.rows, self.cells, strict=True)

    def as_json(self) -> list[dict[str, object]]:
        """One object a cell, for programs."""
        return [
            {
                "group": row.group,
                "row": row.label,
                "policy": row.policy.name,
                "sequence": sequence.id,
                "verdict": str(cell.verdict),
                "note": cell.note,
                "property": cell.violation.property if cell.violation else None,
                "summary": cell.violation.summary if cell.violation else None,
                "steps": [str(step) for step in cell.violation.steps] if cell.violation else [],
            }
            for row, sequence, cell in self
        ]


# What a sequence does with its machine; it may give a note on how the policy held.
Script: TypeAlias = "Callable[[Host], str]"


def _on_fresh_host(script: Script) -> Callable[[Policy], Cell]:
    def play(policy: Policy) -> Cell:
        host = Host(policy, memory="1 MiB", zone_device="64 KiB", swap="64 KiB", swap_kind="nvme")
        note = ""
        try:
            note = script(host)
        except LinuxError as refused:
            note = f"refused -{refused.errno_name} at slot"
        except GuestExit as left:
            note = f"KVM_RUN -{left.errno_name}"
        except GuestException as taken:
            note = f"guest exception: {taken.text}"
        try:
            host.check()
        except PolicyViolation as broken:
            return _cell([broken.violation, *host.violations], note)
        return _cell(host.violations, note)

    return play


def _cell(violations: Iterable[Violation], note: str) -> Cell:
    """The verdict of the worst: tags lost, leaked or out of place, then what may lead there."""
    behind = {"P3": 1, "P4": 1, "P6": 2}
    worst = min(violations, key=lambda found: behind.get(found.property, 0), default=None)
    if worst is None:
        return Cell(Verdict.HOLDS, note, None)
    match worst.property:
        case "P1":
            verdict = Verdict.TAGS_LOST
        case "P2":
            verdict = Verdict.TAGS_LEAKED
        case "P5":
            verdict = Verdict.UNTAGGABLE
        case "P3" | "P4":
            verdict = Verdict.FLAG
        case "P8":
            verdict = Verdict.DEADLOCK
        case _:
            outlives = "left over" in worst.summary
            verdict = Verdict.OUTLIVE if outlives else Verdict.FREED_EARLY
    return Cell(verdict, "", worst)


def _read_only_swap_in(host: Host) -> str:
    vmm = host.process()
    ram = vmm.mmap(1)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, ram)
    cpu = vm.vcpu()
    cpu.stg(IPA, 5)
    for _ in range(2):
        host.evict(ram.page(0))
        ram.page(0).load()
        host.evict(ram.page(0))
        cpu.ldg(IPA)
    return ""


def _slot_reuse(host: Host) -> str:
    vmm = host.process()
    tagged, plain = vmm.mmap(1), vmm.mmap(1)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, tagged)
    vm.add_memslot(IPA + PAGE_SIZE, plain)
    cpu = vm.vcpu()
    cpu.stg(IPA, 5)
    first = host.evict(tagged.page(0)).entry
    tagged.munmap()
    plain.page(0).store(0x77)
    second = host.evict(plain.page(0)).entry
    cpu.ldg(IPA + PAGE_SIZE)
    return "" if first == second else f"slot {first} was not used again, {second} was"


def _touch(cpu: Vcpu) -> str:
    cpu.stg(IPA, 5)
    return "mapped Device: STG ignored" if cpu.ldg(IPA) == 0 else ""


def _zone_device(host: Host) -> str:
    vmm = host.process()
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, vmm.mmap(1, backing="zone-device", shared=True))
    return _touch(vm.vcpu())


def _replaced_memory(host: Host) -> str:
    vmm = host.process()
    ram = vmm.mmap(1)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, ram)
    cpu = vm.vcpu()
    _touch(cpu)
    vmm.mmap(1, backing="zone-device", shared=True, at=ram)
    return _touch(cpu)


def _two_faults(policy: Policy) -> Cell:
    host = Host(policy, memory="1 MiB", swap="64 KiB")
    vmm = host.process()
    ram = vmm.mmap(1)
    ram.page(0).store(0x42)  # present, and not flagged: the faults have to sanitise it
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, ram)
    writer, reader = vm.vcpu(), vm.vcpu()
    found = explore(
        host,
        {
            "vcpu0": [ops.stg(writer, IPA, 5), ops.ldg(writer, IPA)],
            "vcpu1": [ops.ldg(reader, IPA + 16)],
        },
        properties=_DECIDED,
    )
    if found.violation is not None:
        return _cell([found.violation], "")
    extent = "every order" if found.complete else "not every order"
    return _cell([], f"{extent}: {found.states} states")


READ_ONLY_SWAP_IN = Sequence(
    "read-only-swap-in",
    "read-only swap-in",
    "How long after a swap-in must saved tags be kept?",
    (
        "The guest tags a page of its memory (STG).",
        "The host swaps the page out and drops it from the swap cache; its tags are saved.",
        "The VMM reads the page: it is swapped in, and stays clean.",
        "The host drops the clean page. Nothing is written to swap, so no tags are saved.",
        "The guest reads the tags (LDG): the page is swapped in again.",
        "The last four steps once more.",
    ),
    _on_fresh_host(_read_only_swap_in),
)
SLOT_REUSE = Sequence(
    "slot-reuse",
    "slot reuse",
    "Must saved tags go when their swap slot is freed?",
    (
        "The guest tags page A; the host swaps it out, its tags are saved for slot e.",
        "The VMM unmaps A: slot e is freed.",
        "Page B of the guest's memory, never tagged, is swapped out to slot e.",
        "The guest reads the tags of B: it is swapped in from slot e.",
    ),
    _on_fresh_host(_slot_reuse),
)
ZONE_DEVICE = Sequence(
    "zone-device",
    "ZONE_DEVICE behind a tagged guest",
    "May memory without tag storage be mapped Normal Write-Back for a guest with MTE?",
    (
        "The VMM maps ZONE_DEVICE memory (such as pmem), which has no tag storage.",
        "The VMM adds it as a memslot of a VM with MTE.",
        "The guest stores and loads a tag there (STG, LDG).",
    ),
    _on_fresh_host(_zone_device),
)
REPLACED_MEMORY = Sequence(
    "replaced-memory",
    "VMM replaces memory under a live slot",
    "Is it enough to check the memory when its slot is added?",
    (
        "The VMM adds a memslot over anonymous memory; the guest tags a page there.",
        "The VMM maps ZONE_DEVICE memory over it (MAP_FIXED); no KVM call is needed.",
        "The guest stores and loads a tag again: a stage-2 fault finds the new memory.",
    ),
    _on_fresh_host(_replaced_memory),
)
TWO_FAULTS = Sequence(
    "two-faults",
    "two vCPUs fault on one page",
    "Can one vCPU's fault clear, or miss, what another's has initialised?",
    (
        "The VMM has written a page of the guest's memory: it is present, its tags are stale.",
        "vCPU 0 stores a tag there and loads it back.",
        "vCPU 1 loads a tag of the same page.",
        "Every order of the steps of their two faults is tried.",
    ),
    _two_faults,
)

SEQUENCES = (READ_ONLY_SWAP_IN, SLOT_REUSE, ZONE_DEVICE, REPLACED_MEMORY, TWO_FAULTS)


def judge(sequence: Sequence, policy: Policy) -> Cell:
    """Play one sequence under one policy."""
    return sequence.play(policy)


def rows() -> list[Row]:
    """Every value of K1 and K18, every pair of K22 and K23; then the profiles with MTE guests."""
    base = linux(BASE)
    values = {knob.id: [value.name for value in knob.values] for knob in knobs()}
    found = []
    for varied in (("K1",), ("K18",), ("K22", "K23")):
        for combination in product(*(values[knob] for knob in varied)):
            chosen = dict(zip(varied, combination, strict=True))
            label = " ".join(f"{knob}={value}" for knob, value in chosen.items())
            merged = all(base.knobs[knob] == value for knob, value in chosen.items())
            note = f"as in {base.name}" if merged else ""
            found.append(Row(" x ".join(varied), label, base.replace(**chosen), note))
    kernels = ((profile(known.name), known.summary) for known in profiles())
    guests = (
        (kernel, note) for kernel, note in kernels if kernel.knobs["cap_arm_mte"] == "present"
    )
    return [*found, *(Row("profiles", kernel.name, kernel, note) for kernel, note in guests)]


def matrix(progress: Callable[[int, int], None] | None = None) -> Matrix:
    """Play every sequence under every policy of :func:`rows`.

    Args:
        progress: Called after each row with the rows done and the rows there are.
    """
    played = rows()
    cells = []
    for done, row in enumerate(played, start=1):
        cells.append(tuple(judge(sequence, row.policy) for sequence in SEQUENCES))
        if progress is not None:
            progress(done, len(played))
    return Matrix(tuple(played), SEQUENCES, tuple(cells))
