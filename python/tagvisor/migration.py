"""Migration of a guest to another host, as a VMM does it: nothing but KVM's ioctls and its memory.

Models precopy (rounds over the dirty logs while the guest runs, then a blackout) and postcopy (the
guest runs on the new host at once, pages follow through userfaultfd when they are touched), each
with a stream of data and one of tags (``KVM_ARM_MTE_COPY_TAGS``). Left out: devices, vCPU
registers, parallel streams.

Invariant: whatever the protocol moved, the target's ledger is told what the source's guest wrote,
so that ``target.check()`` and every tag read there judge the migration.

    >>> import tagvisor as tv
    >>> vmm = tv.Host("linux-6.6", memory="1 MiB").process()
    >>> vm = vmm.create_vm(mte=True)
    >>> slot = vm.add_memslot(0x5000_0000, vmm.mmap(4))
    >>> vm.vcpu().stg(0x5000_0000, 5)
    >>> target = tv.Host("linux-7.3", memory="1 MiB")
    >>> moved = precopy(vm, target, max_rounds=1)
    >>> moved.report.rounds
    (Round(pages=4, data_bytes=0, tag_bytes=128),)
    >>> target.check()
    >>> moved.vm.vcpu().ldg(0x5000_0000)
    5
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from tagvisor import _check
from tagvisor.errors import ArgumentError, GuestExit
from tagvisor.vcpu import Vcpu
from tagvisor.vm import DIRTY_LOG, Vm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy.typing as npt

    from tagvisor.host import Host
    from tagvisor.process import Mapping
    from tagvisor.vm import Memslot

__all__ = [
    "Migrated",
    "Postcopy",
    "PostcopyReport",
    "PostcopyVcpu",
    "PrecopyReport",
    "Round",
    "TagOrder",
    "postcopy",
    "precopy",
]

PAGE_SIZE = 4096
GRANULES = 256
PACKED_TAGS = GRANULES // 2
"""Bytes of a page's tags in the stream: two a byte."""
_MAX_ROUNDS = 1 << 16
_U64 = (1 << 64) - 1

_T = TypeVar("_T")

TagOrder = Literal["with-data", "late"]
"""When a postcopy page gets its tags: before the guest sees its data, or some time after."""
_ORDERS: tuple[TagOrder, ...] = ("with-data", "late")


@dataclass(frozen=True, slots=True)
class Round:
    """What one pass over the guest's pages sent."""

    pages: int = 0
    """Pages looked at: all of them in the first round, dirty ones later."""
    data_bytes: int = 0
    """Data sent; a page of zeros the target has already needs none."""
    tag_bytes: int = 0
    """Tags sent, two a byte; a page whose tags are 0, as they are there, needs none."""

    def __add__(self, other: Round) -> Round:
        return Round(
            self.pages + other.pages,
            self.data_bytes + other.data_bytes,
            self.tag_bytes + other.tag_bytes,
        )


@dataclass(frozen=True, slots=True)
class PrecopyReport:
    """What a precopy migration did."""

    rounds: tuple[Round, ...]
    """The rounds while the guest ran."""
    blackout: Round
    """The last one, with the guest stopped."""

    @property
    def total(self) -> Round:
        """All that was sent."""
        return sum(self.rounds, self.blackout)


@dataclass(frozen=True, slots=True)
class Migrated:
    """A guest on its new host."""

    vm: Vm
    """The new VM. It has no vCPU yet."""
    mappings: dict[int, Mapping]
    """What stands behind each of its memslots."""
    report: PrecopyReport


class _Stream:
    """One guest's pages, read on one host and written on another."""

    def __init__(self, source: Vm, target: Host, name: str) -> None:
        for known in source.memslots:
            if known.flags & DIRTY_LOG:
                raise ArgumentError("source", source, "a VM none of whose memslots logs writes")
        self.source = source
        process = target.process(name)
        self.mappings = {known.slot: process.mmap(known.pages) for known in source.memslots}
        self.vm = process.create_vm(mte=source.mte)
        for known in source.memslots:
            self.vm.add_memslot(
                known.ipa, self.mappings[known.slot], slot=known.slot, flags=known.flags
            )
        self._there: dict[tuple[int, int], tuple[bool, bool]] = {}

    def pages(self) -> Iterable[tuple[Memslot, int]]:
        """Every page of every memslot."""
        return ((known, page) for known in self.source.memslots for page in range(known.pages))

    def data(self, known: Memslot, page: int) -> int:
        """Send a page's data; how many bytes that took."""
        machine, mm = self.source.machine, self.source.process.mm
        data = machine.user_read_page(mm, known.address + page * PAGE_SIZE)
        written, tagged = self._there.get((known.slot, page), (False, False))
        if not any(data) and not written:
            return 0
        there = self.mappings[known.slot].page(page)
        self.vm.machine.user_write_page(self.vm.process.mm, there.address, data)
        self._there[known.slot, page] = (True, tagged)
        return PAGE_SIZE

    def bring(self, known: Memslot, page: int) -> int:
        """Place a page that is missing on the target; how many bytes of data that took."""
        machine, mm = self.source.machine, self.source.process.mm
        data = machine.user_read_page(mm, known.address + page * PAGE_SIZE)
        sent = data if any(data) else b""
        self.mappings[known.slot].page(page).uffd_copy(sent)
        return len(sent)

    def tags(self, known: Memslot, page: int) -> int:
        """Send a page's tags; how many bytes that took."""
        if not self.source.mte:
            return 0
        ipa = known.ipa + page * PAGE_SIZE
        tags = self.source.copy_tags_from(ipa, 1)
        written, tagged = self._there.get((known.slot, page), (False, False))
        if not tags.any() and not tagged:
            return 0
        self.vm.copy_tags_to(ipa, tags)
        self._there[known.slot, page] = (written, True)
        return PACKED_TAGS

    def both(self, known: Memslot, page: int) -> Round:
        """Send a page."""
        return Round(1, self.data(known, page), self.tags(known, page))

    def expected(self, known: Memslot, page: int) -> npt.NDArray[np.uint8] | None:
        """What the guest wrote, as the source's ledger has it."""
        address = known.address + page * PAGE_SIZE
        return self.source.machine.ledger_tags(self.source.process.mm, address)

    def adopt(self, known: Memslot, page: int, tags: npt.NDArray[np.uint8] | None) -> None:
        """Tell the target's ledger what its guest wrote before."""
        if tags is not None and tags.any():
            there = self.mappings[known.slot].page(page)
            self.vm.machine.ledger_adopt(self.vm.process.mm, there.address, tags)


def precopy(
    source: Vm,
    target: Host,
    *,
    run: Callable[[int], object] | None = None,
    max_rounds: int = 8,
    threshold: int = 0,
    name: str = "vmm",
) -> Migrated:
    """Move a guest while it runs: rounds over what it dirtied, then the rest with it stopped.

    Every page is sent once, then the pages that the dirty log shows, until at most ``threshold``
    are left or ``max_rounds`` were made. What was written after the last round is sent in the
    blackout. The guest is stopped afterwards; its memslots log no longer.

    Args:
        source: The guest. Its VMM's mappings must be readable with untagged pointers.
        target: The host it goes to; may run another kernel.
        run: Called after each round with its number, from 0: what the guest, and the VMM's other
            threads, do meanwhile.
        max_rounds: At most so many rounds while the guest runs; 0 stops it at once.
        threshold: Few enough dirty pages to stop the guest.
        name: What the VMM on the target is called.

    Raises:
        ArgumentError: A memslot logs writes already.
        LinuxError: A kernel refuses something, such as ``EBUSY`` for what ``run`` does.
    """
    rounds_at_most = _check.integer("max_rounds", max_rounds, 0, _MAX_ROUNDS)
    few = _check.integer("threshold", threshold, 0, _U64)
    stream = _Stream(source, target, _check.text("name", name))
    for known in source.memslots:
        source.set_dirty_log(known.slot, on=True)
    rounds: list[Round] = []
    todo = list(stream.pages())
    try:
        while len(rounds) < rounds_at_most:
            rounds.append(sum((stream.both(*page) for page in todo), Round()))
            if run is not None:
                run(len(rounds) - 1)
            todo = _dirty(source)
            if len(todo) <= few:
                break
        blackout = sum((stream.both(*page) for page in todo), Round())
    finally:
        for known in source.memslots:
            source.set_dirty_log(known.slot, on=False)
    for known, page in stream.pages():
        stream.adopt(known, page, stream.expected(known, page))
    return Migrated(stream.vm, stream.mappings, PrecopyReport(tuple(rounds), blackout))


def _dirty(source: Vm) -> list[tuple[Memslot, int]]:
    found = ((known, source.dirty_log(known.slot)) for known in source.memslots)
    return [(known, int(page)) for known, log in found for page in np.flatnonzero(log)]


@dataclass(frozen=True, slots=True)
class PostcopyReport:
    """What a postcopy migration did so far."""

    on_touch: Round
    """Pages that the guest waited for."""
    in_background: Round
    """Pages that :meth:`Postcopy.finish` placed."""
    late_tag_bytes: int
    """Tags that came after their page was placed."""
    missing: int
    """Pages not placed yet."""


class Postcopy:
    """A guest that runs on its new host while its pages are still on the old one.

    Made by :func:`postcopy`. The source is stopped: nothing there may run any more.
    """

    __slots__ = ("_background", "_late", "_late_bytes", "_missing", "_order", "_stream", "_touched")

    def __init__(self, stream: _Stream, order: TagOrder) -> None:
        self._stream = stream
        self._order = order
        for mapping in stream.mappings.values():
            mapping.uffd_register()
        self._missing = {(known.slot, page): known for known, page in stream.pages()}
        self._late: dict[tuple[int, int], Memslot] = {}
        self._touched = Round()
        self._background = Round()
        self._late_bytes = 0

    @property
    def vm(self) -> Vm:
        """The new VM. Its vCPUs are :meth:`vcpu`'s: for others nobody brings what is missing."""
        return self._stream.vm

    @property
    def report(self) -> PostcopyReport:
        """What was done so far."""
        return PostcopyReport(self._touched, self._background, self._late_bytes, len(self._missing))

    def vcpu(self) -> PostcopyVcpu:
        """A vCPU that waits for a page when it touches one that is missing."""
        return PostcopyVcpu(self)

    def serve(self) -> bool:
        """Bring the pages that somebody waits for; were there any?"""
        asked = {page.address for page in self.vm.process.uffd_read()}
        served = False
        for (slot, number), known in list(self._missing.items()):
            if self._stream.mappings[slot].page(number).address in asked:
                self._touched += self._place(known, number)
                served = True
        return served

    def finish(self) -> PostcopyReport:
        """Place what is missing, and send the tags that are still to come."""
        for (_, page), known in list(self._missing.items()):
            self._background += self._place(known, page)
        for (_, page), known in list(self._late.items()):
            here = self._stream.mappings[known.slot].page(page).address
            machine, mm = self.vm.machine, self.vm.process.mm
            newest = machine.ledger_tags(mm, here)
            self._late_bytes += self._stream.tags(known, page)
            # The tags that come late are old ones: what the guest wrote meanwhile still counts.
            if newest is not None:
                machine.ledger_adopt(mm, here, newest)
        self._late.clear()
        return self.report

    def _place(self, known: Memslot, page: int) -> Round:
        """The page, and its tags unless they come late."""
        del self._missing[known.slot, page]
        tags = self._stream.expected(known, page)
        data = self._stream.bring(known, page)
        if self._order == "with-data":
            sent = Round(1, data, self._stream.tags(known, page))
        else:
            sent = Round(1, data, 0)
            self._late[known.slot, page] = known
        self._stream.adopt(known, page, tags)
        return sent


class PostcopyVcpu(Vcpu):
    """A vCPU of a guest in postcopy: an access to a missing page waits until it was brought."""

    __slots__ = ("_postcopy",)

    def __init__(self, postcopy: Postcopy) -> None:
        super().__init__(postcopy.vm, postcopy.vm.machine.create_vcpu(postcopy.vm.id))
        self._postcopy = postcopy

    def _served(self, instruction: Callable[[], _T]) -> _T:
        """Run an instruction; each time it waits for a page, have that brought."""
        while True:
            try:
                return instruction()
            except GuestExit as stopped:
                if stopped.errno_name != "EFAULT" or not self._postcopy.serve():
                    raise

    def ldg(self, p: int) -> int:
        """``LDG``."""
        return self._served(lambda: super(PostcopyVcpu, self).ldg(p))

    def stg(self, p: int, tag: int | None = None) -> None:
        """``STG``."""
        self._served(lambda: super(PostcopyVcpu, self).stg(p, tag))

    def st2g(self, p: int, tag: int | None = None) -> None:
        """``ST2G``."""
        self._served(lambda: super(PostcopyVcpu, self).st2g(p, tag))

    def stzg(self, p: int, tag: int | None = None) -> None:
        """``STZG``."""
        self._served(lambda: super(PostcopyVcpu, self).stzg(p, tag))

    def ldgm(self, p: int) -> int:
        """``LDGM``."""
        return self._served(lambda: super(PostcopyVcpu, self).ldgm(p))

    def stgm(self, p: int, bits: int) -> None:
        """``STGM``."""
        self._served(lambda: super(PostcopyVcpu, self).stgm(p, bits))

    def dc_gva(self, p: int, tag: int | None = None) -> None:
        """``DC GVA``."""
        self._served(lambda: super(PostcopyVcpu, self).dc_gva(p, tag))

    def dc_gzva(self, p: int, tag: int | None = None) -> None:
        """``DC GZVA``."""
        self._served(lambda: super(PostcopyVcpu, self).dc_gzva(p, tag))

    def dc_zva(self, p: int) -> None:
        """``DC ZVA``."""
        self._served(lambda: super(PostcopyVcpu, self).dc_zva(p))

    def load(self, p: int, size: int = 8) -> int:
        """Load."""
        return self._served(lambda: super(PostcopyVcpu, self).load(p, size))

    def store(self, p: int, value: int, size: int = 8) -> None:
        """Store."""
        self._served(lambda: super(PostcopyVcpu, self).store(p, value, size))

    def page_tags(self, p: int) -> npt.NDArray[np.uint8]:
        """256 ``LDG``."""
        return self._served(lambda: super(PostcopyVcpu, self).page_tags(p))

    def fill_page(self, p: int, first: int, step: int) -> None:
        """256 ``STG``."""
        self._served(lambda: super(PostcopyVcpu, self).fill_page(p, first, step))


def postcopy(
    source: Vm, target: Host, *, tags: TagOrder = "with-data", name: str = "vmm"
) -> Postcopy:
    """Move a guest at once; its pages follow when it touches them.

    Args:
        source: The guest; it has run for the last time.
        target: The host it goes to; may run another kernel.
        tags: ``"with-data"``: a page has its tags before the guest can see it. ``"late"``: data
            are placed and the guest is woken, tags come with :meth:`Postcopy.finish` (bug B47).
        name: What the VMM on the target is called.

    Raises:
        ArgumentError: A memslot logs writes, or no such order.
        LinuxError: The target refuses the VM.
    """
    order = _check.choice("tags", tags, _ORDERS)
    return Postcopy(_Stream(source, target, _check.text("name", name)), order)
