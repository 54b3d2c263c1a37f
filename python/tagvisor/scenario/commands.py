"""The commands of the scenario language, as typed values.

One class a command; :mod:`tagvisor.scenario.parser` makes them from lines and
:mod:`tagvisor.scenario.interpreter` executes them. A class exists only for what can be executed: a
command of the language that the model does not answer yet has none, so nothing can reach the
interpreter and be skipped.

Invariant: a command holds what its line said, checked for form and range, and nothing of the
machine's state.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "CheckAll",
    "ChildCommand",
    "Command",
    "CopyTags",
    "CreateVm",
    "Destroy",
    "DirtyLog",
    "Evict",
    "Fill",
    "FillAll",
    "Fork",
    "Guest",
    "GuestCommand",
    "HostCommand",
    "Ldg",
    "MachineCommand",
    "Madvise",
    "Mmap",
    "Mprotect",
    "Munmap",
    "OldPageFlags",
    "Pagemap",
    "Peek",
    "Poke",
    "Rand",
    "Read",
    "Resident",
    "Set",
    "Slot",
    "Stg",
    "Swapout",
    "SyscallRead",
    "TagCheckMode",
    "Tags",
    "Unknown",
    "Unsupported",
    "Write",
]


@dataclass(frozen=True, slots=True)
class Command:
    """What every command has: where it stands and how it was written."""

    line: int
    """Its line in the file, from 1."""
    text: str
    """The line as it was written, which the answer repeats."""


@dataclass(frozen=True, slots=True)
class HostCommand(Command):
    """A command of the process under test: its mappings, its accesses, its swap."""

    name: str
    """The object it is about."""


@dataclass(frozen=True, slots=True)
class Mmap(HostCommand):
    """``mmap NAME KIND PAGES [mte] [ro] [none] [fixed=OBJ] [fd=OBJ] [file=PATH] [off=PAGES]``."""

    kind: str
    pages: int
    prot: str
    """Letters of ``rwm``."""
    fixed: str | None
    """The object whose address it takes (MAP_FIXED)."""
    fd: str | None
    """The object whose memfd it maps."""
    file: str | None
    """The path of the file it maps."""
    offset: int
    """First page of the file."""
    aligned: bool
    """``align2m``: where a huge page begins."""


@dataclass(frozen=True, slots=True)
class Munmap(HostCommand):
    """``munmap NAME``."""


@dataclass(frozen=True, slots=True)
class Mprotect(HostCommand):
    """``mprotect NAME P PROT [N]``."""

    page: int
    prot: str
    """Letters of ``rwm``."""
    pages: int


@dataclass(frozen=True, slots=True)
class Madvise(HostCommand):
    """``madvise NAME P WHAT [N]``; an ``advice`` of None is a word Linux does not know."""

    page: int
    advice: str | None
    pages: int


@dataclass(frozen=True, slots=True)
class Read(HostCommand):
    """``rd NAME P [OFF [TAG]]``."""

    page: int
    offset: int
    tag: int


@dataclass(frozen=True, slots=True)
class Write(HostCommand):
    """``wr NAME P OFF VALUE [TAG]``."""

    page: int
    offset: int
    value: int
    tag: int


@dataclass(frozen=True, slots=True)
class Set(HostCommand):
    """``set NAME P VALUE``."""

    page: int
    value: int


@dataclass(frozen=True, slots=True)
class Rand(HostCommand):
    """``rand NAME P``."""

    page: int


@dataclass(frozen=True, slots=True)
class Stg(HostCommand):
    """``stg NAME P G TAG``."""

    page: int
    granule: int
    tag: int


@dataclass(frozen=True, slots=True)
class Ldg(HostCommand):
    """``ldg NAME P G``."""

    page: int
    granule: int


@dataclass(frozen=True, slots=True)
class Fill(HostCommand):
    """``fill NAME P SPEC``: granule i gets ``(first + i * step) mod 16``."""

    page: int
    first: int
    step: int


@dataclass(frozen=True, slots=True)
class Tags(HostCommand):
    """``tags NAME P``."""

    page: int


@dataclass(frozen=True, slots=True)
class FillAll(HostCommand):
    """``fillall NAME N TAG``."""

    pages: int
    tag: int


@dataclass(frozen=True, slots=True)
class CheckAll(HostCommand):
    """``checkall NAME N TAG``."""

    pages: int
    tag: int


@dataclass(frozen=True, slots=True)
class TagCheckMode(Command):
    """``tcf sync|async|none``."""

    mode: str


@dataclass(frozen=True, slots=True)
class SyscallRead(HostCommand):
    """``syscallrd NAME P [TAG]``."""

    page: int
    tag: int


@dataclass(frozen=True, slots=True)
class Swapout(HostCommand):
    """``swapout NAME P``."""

    page: int


@dataclass(frozen=True, slots=True)
class Fork(Command):
    """``fork``."""


@dataclass(frozen=True, slots=True)
class ChildCommand(Command):
    """``c COMMAND...``: a command of the forked child; ``c exit`` has none."""

    command: Command | None


@dataclass(frozen=True, slots=True)
class Peek(HostCommand):
    """``peek NAME P G``."""

    page: int
    count: int


@dataclass(frozen=True, slots=True)
class Poke(HostCommand):
    """``poke NAME P G TAG``."""

    page: int
    count: int
    tag: int


@dataclass(frozen=True, slots=True)
class MachineCommand(Command):
    """What a ``sh`` line does: ``ksm``, ``hugepages``, ``thp``, ``reclaim``, ``swapoff``.

    It has no answer.
    """

    what: str
    amount: int = 0


@dataclass(frozen=True, slots=True)
class Unknown(Command):
    """A command that the language does not have, which a real interpreter answers so too."""


@dataclass(frozen=True, slots=True)
class Unsupported(Command):
    """A command that the model cannot execute: answered as such, so that the order is kept."""

    reason: str


@dataclass(frozen=True, slots=True)
class Evict(HostCommand):
    """``evict NAME P``."""

    page: int


@dataclass(frozen=True, slots=True)
class Pagemap(HostCommand):
    """``pm NAME P``."""

    page: int


@dataclass(frozen=True, slots=True)
class OldPageFlags(HostCommand):
    """``oldpf NAME P``: answered without content, because nothing of it can be compared."""

    page: int


@dataclass(frozen=True, slots=True)
class Resident(HostCommand):
    """``resident NAME N``."""

    pages: int


@dataclass(frozen=True, slots=True)
class GuestCommand(Command):
    """A command of the VMM or of its guest."""


@dataclass(frozen=True, slots=True)
class CreateVm(GuestCommand):
    """``vm [mte] [late] [el1_32]``."""

    mte: bool
    late: bool
    el1_32: bool


@dataclass(frozen=True, slots=True)
class Slot(GuestCommand):
    """``slot ID IPA NAME P N [FLAGS]``."""

    slot: int
    ipa: int
    name: str
    page: int
    pages: int
    flags: int


@dataclass(frozen=True, slots=True)
class Destroy(GuestCommand):
    """``destroy``."""


@dataclass(frozen=True, slots=True)
class DirtyLog(GuestCommand):
    """``dirtylog ID``."""

    slot: int


@dataclass(frozen=True, slots=True)
class CopyTags(GuestCommand):
    """``copytags from|to IPA N [...]``: the request, and the buffer as it is before the call."""

    ipa: int
    length: int
    flags: int
    reserved: int
    buffer: bytes = field(repr=False)
    """One byte a tag; where it ends, the memory of the process ends."""
    shown: bytes | None = field(default=None, repr=False)
    """What the answer shows instead, when the buffer is not the usual one (``badaddr``)."""


@dataclass(frozen=True, slots=True)
class Guest(GuestCommand):
    """``g OP ...``: one operation of the guest agent."""

    op: str
    address: int
    """The pointer, with its logical tag in bits 59:56."""
    operand: int = 0
    """The tag, value, or tag bits that are stored; for ``stgpage`` the first tag."""
    step: int = 0
    """``stgpage`` only."""
