"""A translation, step by step, as values and as a drawing.

Models what a walk read and what came of it; the walk itself is the native module's. Leaves out
128-bit descriptors. Invariant: a drawing says nothing that the descriptors and ``PAR_EL1`` do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Geometry", "Walk", "WalkFault", "WalkLevel", "walk_of"]

_PAGE = 0xFFF
_PA = 0x000F_FFFF_FFFF_F000
_LAST_LEVEL = 3
_GRANULE_64K = 16
_TG0 = (12, 16, 14, 12)
_TG1 = (12, 14, 12, 16)
_FAULTS = ("address size fault", "translation fault", "access flag fault", "permission fault")
_FAULTS_AT_MINUS_1 = {0x29: _FAULTS[0], 0x2B: _FAULTS[1]}
_TYPES = {
    0x00: "Device-nGnRnE",
    0x04: "Device-nGnRE",
    0x08: "Device-nGRE",
    0x0C: "Device-GRE",
    0x44: "Normal Non-cacheable",
    0xBB: "Normal Write-Through",
    0xE0: "Normal Write-Back Tagged, no tag access",
    0xF0: "Normal Write-Back Tagged",
    0xFF: "Normal Write-Back",
}
_SHAREABILITY = ("non-shareable", "reserved", "outer shareable", "inner shareable")


class Geometry(NamedTuple):
    """What a descriptor's address bits are."""

    granule: int
    """log2 of the page size."""
    ds: bool
    """52-bit descriptors with the 4 KiB and 16 KiB granules."""

    def address(self, descriptor: int, level: int, kind: str) -> int:
        """Where a descriptor leads."""
        low = self.granule
        if kind == "block":
            low += (self.granule - 3) * (_LAST_LEVEL - level)
        address = (descriptor & (1 << 48) - 1) >> low << low
        if self.granule == _GRANULE_64K:
            return address | (descriptor >> 12 & 15) << 48
        if self.ds:
            return address | (descriptor >> 8 & 3) << 50 | (descriptor >> 48 & 3) << 48
        return address


@dataclass(frozen=True, slots=True)
class WalkLevel:
    """A descriptor that a walk read."""

    stage: int
    """Whose table: 1 or 2."""
    level: int
    """The table's level, -1 to 3."""
    address: int
    """The descriptor's physical address."""
    descriptor: int
    """Its 64 bits."""
    kind: str
    """``"table"``, ``"block"``, ``"page"`` or ``"invalid"``."""
    output: int | None
    """Where it leads: the next table, or the first byte mapped; an IPA under stage 2. None for an
    invalid one."""

    @property
    def flags(self) -> str:
        """What a leaf says besides its address, in the names of its fields."""
        if self.kind not in {"block", "page"}:
            return ""
        return " ".join(_stage1_flags(self.descriptor) if self.stage == 1 else self._stage2())

    def _stage2(self) -> Iterator[str]:
        descriptor = self.descriptor
        yield f"MemAttr={descriptor >> 2 & 15:04b}"
        yield "S2AP=" + "".join(
            letter if descriptor >> bit & 1 else "-" for bit, letter in ((6, "r"), (7, "w"))
        )
        if descriptor >> 53 & 3:
            yield f"XN={descriptor >> 53 & 3:02b}"
        yield from _common_flags(descriptor)

    def __str__(self) -> str:
        text = f"level {self.level:>2}  [{self.address:#x}] = {self.descriptor:#018x}  {self.kind}"
        if self.output is not None:
            text += f" -> {self.output:#x}"
        return f"{text}  {self.flags}" if self.flags else text


def _stage1_flags(descriptor: int) -> Iterator[str]:
    yield f"AttrIndx={descriptor >> 2 & 7}"
    read_only, el0 = descriptor >> 7 & 1, descriptor >> 6 & 1
    yield f"AP={'ro' if read_only else 'rw'}{',EL0' if el0 else ''}"
    yield from (
        name for bit, name in ((54, "UXN"), (53, "PXN"), (11, "nG")) if descriptor >> bit & 1
    )
    yield from _common_flags(descriptor)


def _common_flags(descriptor: int) -> Iterator[str]:
    yield "AF" if descriptor >> 10 & 1 else "AF=0"
    yield from (name for bit, name in ((51, "DBM"), (52, "contiguous")) if descriptor >> bit & 1)


@dataclass(frozen=True, slots=True)
class WalkFault:
    """Why a walk found nothing, from ``PAR_EL1``."""

    status: int
    """The fault status code, PAR_EL1.FST."""
    stage: int
    """The stage that faulted: 1 or 2."""
    on_table_walk: bool
    """A stage-2 fault on the address of a stage-1 descriptor."""

    @property
    def level(self) -> int | None:
        """The level at which it happened; None for a kind of fault that has none."""
        if self.status in _FAULTS_AT_MINUS_1:
            return -1
        return self.status & 3 if self.status < 0x10 else None

    @property
    def kind(self) -> str:
        """In words."""
        words = _FAULTS_AT_MINUS_1.get(self.status)
        if words is None:
            words = _FAULTS[self.status >> 2] if self.status < 0x10 else "other fault"
        return words

    def __str__(self) -> str:
        level = "" if self.level is None else f", level {self.level}"
        walk = ", on the walk of stage 1" if self.on_table_walk else ""
        return f"{self.kind}, stage {self.stage}{level}{walk}"


@dataclass(frozen=True, slots=True, repr=False)
class Walk:
    """A translation, step by step. Printed, it is drawn as one would on paper.

    A stage-1 descriptor stands under the stage-2 walk that found where it lies::

        AT S12E1R 0x200123
        ├─ stage 1 level  1  [0x4a2f0030] = 0x00080000757604e3  table -> 0x75760000
        │    located by stage 2 level  2  [0x6c611900] = ...  table -> 0x5e590000
        ...
        └─ PA 0x50001123, Normal Write-Back Tagged, inner shareable
    """

    kind: str
    """What was asked, as ``"S12E1R"``."""
    va: int
    """Of what address."""
    levels: tuple[WalkLevel, ...]
    """The descriptors in the order in which they were read."""
    par: int
    """The answer as ``AT`` leaves it in ``PAR_EL1``."""

    @property
    def fault(self) -> WalkFault | None:
        """What was wrong, or None."""
        return _fault(self.par)

    @property
    def pa(self) -> int | None:
        """The physical address, or None where there is a fault."""
        return None if self.par & 1 else self.par & _PA | self.va & _PAGE

    @property
    def attributes(self) -> int | None:
        """The memory type in the encoding of ``MAIR_ELx``, or None where there is a fault."""
        return None if self.par & 1 else self.par >> 56

    @property
    def shareability(self) -> int | None:
        """0 none, 2 outer, 3 inner; or None where there is a fault."""
        return None if self.par & 1 else self.par >> 7 & 3

    def __str__(self) -> str:
        lines = [f"AT {self.kind} {self.va:#x}"]
        located: list[WalkLevel] = []
        for at in self.levels:
            if at.stage == 1:
                lines.append(f"├─ stage 1 {at}")
                lines += [f"│    located by stage 2 {found}" for found in located]
                located = []
            else:
                located.append(at)
        lines += [f"├─ stage 2 {at}" for at in located]
        lines.append(f"└─ {self._result()}")
        return "\n".join(lines)

    __repr__ = __str__

    def _result(self) -> str:
        if self.fault is not None:
            return f"{self.fault} (PAR_EL1 {self.par:#x})"
        attributes = self.par >> 56
        memory = _TYPES.get(attributes, f"memory type {attributes:#04x}")
        shareability = _SHAREABILITY[self.par >> 7 & 3]
        return f"PA {self.pa:#x}, {memory}, {shareability} (PAR_EL1 {self.par:#x})"


def walk_of(
    kind: str,
    va: int,
    read: Iterable[tuple[int, int, int, int]],
    par: int,
    registers: tuple[int, int],
) -> Walk:
    """A walk from what the native module gives.

    Args:
        kind: What was asked.
        va: Of what address.
        read: Stage, level, address and value of each descriptor, in order.
        par: ``PAR_EL1``.
        registers: ``TCR_EL1`` (or ``TCR_EL2`` for EL2's regime) and ``VTCR_EL2``.
    """
    tcr, vtcr = registers
    if "E2" in kind:
        first = Geometry(_TG0[tcr >> 14 & 3], bool(tcr >> 32 & 1))
    elif va >> 55 & 1:
        first = Geometry(_TG1[tcr >> 30 & 3], bool(tcr >> 59 & 1))
    else:
        first = Geometry(_TG0[tcr >> 14 & 3], bool(tcr >> 59 & 1))
    geometry = {1: first, 2: Geometry(_TG0[vtcr >> 14 & 3], bool(vtcr >> 32 & 1))}
    steps, fault = list(read), _fault(par)
    levels = []
    for number, (stage, level, address, descriptor) in enumerate(steps):
        last = fault if number == len(steps) - 1 else None
        what = _kind(stage, level, descriptor, last)
        output = None if what == "invalid" else geometry[stage].address(descriptor, level, what)
        levels.append(WalkLevel(stage, level, address, descriptor, what, output))
    return Walk(kind, va, tuple(levels), par)


def _fault(par: int) -> WalkFault | None:
    if not par & 1:
        return None
    return WalkFault(par >> 1 & 0x3F, 2 if par >> 9 & 1 else 1, bool(par >> 8 & 1))


def _kind(stage: int, level: int, descriptor: int, fault: WalkFault | None) -> str:
    """What a descriptor is; ``fault`` is the walk's if this is the last that it read."""
    if not descriptor & 1 or (level == _LAST_LEVEL and not descriptor & 2):
        return "invalid"
    refused = fault is not None and fault.kind == _FAULTS[1]
    if fault is not None and refused and (fault.stage, fault.level) == (stage, level):
        return "invalid"  # an encoding that is reserved at this level
    if level == _LAST_LEVEL:
        return "page"
    return "table" if descriptor & 2 else "block"
