"""One processing element with its registers and tagged memory, and no kernel.

The architecture alone, as a test bench has it: registers by name, instructions by their encoding,
address translation as ``AT`` answers it or drawn level by level, and memory by physical address::

    pe = Pe()
    pe["HCR_EL2"] = 1 << 31 | 1
    pe["VTTBR_EL2"] = 0x4800_0000
    print(pe.walk(0x4100_0000))
    pe["EL"], pe["X0"] = 1, 0x5 << 56 | 0x4100_0000
    outcome = pe.execute(0xF940_0001)  # ldr x1, [x0]
    value = pe.load(0x5 << 56 | 0x4100_0000)  # the same access, without registers

An instruction that takes an exception is an answer here, not an error: :meth:`Pe.execute` returns
an :class:`Outcome`; :meth:`Pe.load` and :meth:`Pe.store` raise it. Nothing is executed at the
exception's target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tagvisor import _check, _native
from tagvisor.errors import ArgumentError
from tagvisor.walk import Walk, walk_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self

    import numpy.typing as npt

__all__ = ["Outcome", "Pe", "Region", "TlbReport"]

_U64 = (1 << 64) - 1
_U128 = (1 << 128) - 1
_PA_LIMIT = (1 << 52) - 1
_STAGES = ("S1", "S12")
_KINDS = (
    *(f"{stage}E{el}{way}" for stage in _STAGES for el in (0, 1) for way in "RW"),
    *("S1E2R", "S1E2W"),
)
_TLB = ("off", "on", "check")
_MEMORY = ("ram", "ram-no-tags", "device")
_ACCESS_BYTES = 255


class Region(NamedTuple):
    """A range of physical addresses and what is there."""

    base: int
    """Its first byte."""
    size: int
    """How many bytes."""
    kind: str
    """``"ram"``, ``"ram-no-tags"`` (memory without tag storage) or ``"device"``."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """An exception that an instruction took, in the target's syndrome registers."""

    taken_to: int
    """The exception level it was taken to."""
    esr: int
    """``ESR_ELx`` there."""
    far: int
    """``FAR_ELx`` there, tag and top byte included."""
    hpfar: int
    """``HPFAR_EL2``; 0 when it was not taken to EL2."""

    @property
    def ec(self) -> int:
        """The exception class."""
        return (self.esr >> 26) & 0x3F

    @property
    def dfsc(self) -> int:
        """The fault status code of a data or instruction abort."""
        return self.esr & 0x3F

    @property
    def wnr(self) -> bool:
        """Whether a data abort was a write's."""
        return bool(self.esr >> 6 & 1)

    def __str__(self) -> str:
        text = f"to EL{self.taken_to}: ESR {self.esr:#x}, FAR {self.far:#x}"
        return f"{text}, HPFAR {self.hpfar:#x}" if self.taken_to == 2 else text


@dataclass(frozen=True, slots=True)
class TlbReport:
    """A translation that should have been invalidated (Arm ARM D8.17)."""

    what: str
    """``"stale entry used"``: an access was translated by an entry that the tables no longer agree
    with. ``"not broken before made"``: a valid descriptor replaced another while it was cached."""
    va: int
    """The address."""
    cached: int
    """The physical address that the entry gives."""
    now: int | None
    """The one that the tables give; None for a fault."""

    def __str__(self) -> str:
        now = "nowhere" if self.now is None else f"to {self.now:#x}"
        return f"{self.what}: {self.va:#x} is cached to {self.cached:#x}, the tables lead {now}"


class Pe(_native.Pe):
    """One processing element with its registers and tagged memory, and no kernel.

    Registers are read and written by name: ``pe["SCTLR_EL1"]``, ``pe["X0"] = 1``. ``"EL"`` is the
    current exception level; ``"NZCV"`` has its bits where the register has them, at 31:28. All
    memory and all tags are 0 at first.

    Args:
        regions: What is at which physical addresses; 1 GiB of tagged RAM at 1 GiB by default.
        features: Optional features by Arm's names, of those that :meth:`features` lists.
        tlb: ``"off"``: every access walks the tables. ``"on"``: translations are cached as hardware
            may, and changed tables count once a ``TLBI`` was executed. ``"check"``: as ``"on"``,
            and :meth:`tlb_reports` has every use of an entry that should have been invalidated, and
            every valid descriptor that was replaced without break-before-make.
        seed: Decides what ``IRG`` draws where ``GCR_EL1.RRND`` leaves it open.

    Raises:
        ArgumentError: A region, a feature or a seed that cannot be.
    """

    __slots__ = ()

    def __new__(
        cls,
        regions: Iterable[tuple[int, int, str]] = (Region(0x4000_0000, 1 << 30, "ram"),),
        *,
        features: Sequence[str] = (),
        tlb: str = "off",
        seed: int = 1,
    ) -> Self:
        """See the class."""
        if isinstance(features, str):
            raise ArgumentError("features", features, 'a list of names, such as ["FEAT_MTE_PERM"]')
        return super().__new__(
            cls,
            [_region(region) for region in regions],
            [_check.text("features", name) for name in features],
            _check.choice("tlb", tlb, _TLB),
            _check.integer("seed", seed, 0, _U64),
        )

    def __repr__(self) -> str:
        return f"<Pe at EL{self['EL']}>"

    def __getitem__(self, name: str) -> int:
        return self.register(_check.text("register", name))

    def __setitem__(self, name: str, value: int) -> None:
        name = _check.text("register", name)
        self.set_register(name, _check.integer(name, value, 0, _U128))

    @staticmethod
    def registers() -> list[str]:
        """The names of all registers."""
        return _native.Pe.register_names()

    @staticmethod
    def features() -> list[str]:
        """The features that can be asked for; all others are as on QEMU's ``max``."""
        return _native.Pe.feature_names()

    def execute(self, word: int) -> Outcome | None:
        """Execute one instruction at the current exception level; PC moves on if it completes.

        Args:
            word: Its encoding.

        Returns:
            None when it completed; else the exception that it took.

        Raises:
            ArgumentError: An instruction that is not modelled.
        """
        taken = self._execute(_check.integer("word", word, 0, 0xFFFF_FFFF))
        return None if taken is None else Outcome(*taken)

    def fetch(self, va: int) -> Outcome | None:
        """Fetch an instruction at the current exception level, without executing it.

        Returns:
            None when it can be fetched; else the exception that the fetch took.
        """
        taken = self._fetch(_check.integer("va", va, 0, _U64))
        return None if taken is None else Outcome(*taken)

    def at(self, va: int, kind: str = "S12E1R") -> int:
        """``AT``: translate an address.

        Args:
            va: The address.
            kind: Stages, exception level and read or write, as in the instruction's name.

        Returns:
            ``PAR_EL1``.
        """
        return self._par(_check.choice("kind", kind, _KINDS), _check.integer("va", va, 0, _U64))

    def walk(self, va: int, kind: str = "S12E1R") -> Walk:
        """As :meth:`at`, with every descriptor on the way; print it to see it drawn."""
        kind, va = _check.choice("kind", kind, _KINDS), _check.integer("va", va, 0, _U64)
        read, par = self._par_with_steps(kind, va)
        tcr = self["TCR_EL2" if "E2" in kind else "TCR_EL1"]
        return walk_of(kind, va, read, par, (tcr, self["VTCR_EL2"]))

    def walk_many(
        self, vas: npt.NDArray[np.uint64], kind: str = "S12E1R"
    ) -> npt.NDArray[np.uint64]:
        """As :meth:`at`, of many addresses.

        Args:
            vas: The addresses, a one-dimensional ``uint64`` array.
            kind: As :meth:`at` has it.

        Returns:
            ``PAR_EL1`` of each.
        """
        kind = _check.choice("kind", kind, _KINDS)
        return self._par_many(kind, _words("vas", vas))

    def check_tags(
        self, pointers: npt.NDArray[np.uint64], size: int = 8, *, write: bool = False
    ) -> npt.NDArray[np.uint64]:
        """Would accesses at the current exception level pass?

        Args:
            pointers: Where, tag included: a one-dimensional ``uint64`` array.
            size: Bytes of each access.
            write: Whether they write.

        Returns:
            For each 0 when it passes, else ``ESR_ELx`` of the data abort, whose low six bits are
            the fault status code.
        """
        return self._check_many(
            _words("pointers", pointers),
            _check.integer("size", size, 1, _ACCESS_BYTES),
            _check.flag("write", write),
        )

    def tlb_reports(self) -> list[TlbReport]:
        """What a TLB that checks has noticed so far, the first thousand."""
        return [TlbReport(*report) for report in self._tlb_reports()]

    def read_tags(self, pa: int, count: int) -> npt.NDArray[np.uint8]:
        """The allocation tags of granules of memory, by physical address.

        Args:
            pa: Where; the granule that it is in is the first.
            count: How many granules.

        Returns:
            A tag each, shape ``(count,)``; 0 where memory has no tag storage.
        """
        return self._read_tags(_physical(pa), _check.integer("count", count, 0, 1 << 20))

    def write_tags(self, pa: int, tags: npt.NDArray[np.uint8]) -> None:
        """Set the allocation tags of granules of memory, by physical address.

        Args:
            pa: Where; the granule that it is in is the first.
            tags: A tag each, ``uint8``; of each the low four bits count.
        """
        array = np.asarray(tags)
        if array.dtype != np.uint8 or array.ndim != 1:
            given = f"an array of {array.dtype}, shape {array.shape}"
            raise ArgumentError("tags", given, "a one-dimensional array of uint8")
        self._write_tags(_physical(pa), np.ascontiguousarray(array))

    def read(self, pa: int, count: int) -> bytes:
        """Bytes of memory, by physical address; nothing is checked."""
        return self._read(_physical(pa), _check.integer("count", count, 0, 1 << 24))

    def write(self, pa: int, data: bytes) -> None:
        """Write memory, by physical address; nothing is checked."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise ArgumentError("data", data, "bytes")
        self._write(_physical(pa), bytes(data))

    def tag(self, pa: int) -> int:
        """The allocation tag of the granule at a physical address."""
        return self._tag(_physical(pa))

    def set_tag(self, pa: int, tag: int) -> None:
        """Set the allocation tag of the granule at a physical address."""
        self._set_tag(_physical(pa), _check.integer("tag", tag, 0, 15))


def _region(region: tuple[int, int, str]) -> tuple[int, int, str]:
    try:
        base, size, kind = region
    except (TypeError, ValueError):
        raise ArgumentError("regions", region, "(base, size, kind) of each") from None
    base = _check.page_aligned("regions.base", base, 52)
    return base, _check.size("regions.size", size), _check.choice("regions.kind", kind, _MEMORY)


def _physical(pa: object) -> int:
    return _check.integer("pa", pa, 0, _PA_LIMIT)


def _words(argument: str, value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A contiguous one-dimensional ``uint64`` array; another type is not converted silently."""
    array = np.asarray(value)
    if array.dtype != np.uint64:
        raise ArgumentError(argument, f"an array of {array.dtype}", "an array of uint64")
    if array.ndim != 1:
        raise ArgumentError(argument, f"an array of shape {array.shape}", "one dimension")
    return np.ascontiguousarray(array, dtype=np.uint64)
