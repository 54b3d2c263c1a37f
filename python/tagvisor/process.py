"""Processes of the host, what they map, and the pages of a mapping.

The VMM is a process like any other: what it maps can stand behind a guest's memory
(:class:`tagvisor.Vm`). Loads and stores here are user accesses (EL0) with synchronous tag checks;
one that faults raises :class:`tagvisor.UserSignal`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from tagvisor import _check
from tagvisor.core_dump import TagSegment, segments
from tagvisor.errors import ArgumentError
from tagvisor.files import File
from tagvisor.vm import Vm

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tagvisor import _native

__all__ = ["Advice", "Backing", "Mapping", "Page", "Pagemap", "Process", "TagCheck"]

Backing = Literal["anon", "hugetlb", "zone-device", "mmio"]
"""What stands behind a mapping that is no file's: anonymous memory, huge pages of the pool,
``ZONE_DEVICE`` pages (no tag storage, such as pmem), or a device's registers without ``struct
page``."""

BACKINGS: tuple[Backing, ...] = ("anon", "hugetlb", "zone-device", "mmio")

Advice = Literal[
    "dontneed",
    "free",
    "cold",
    "pageout",
    "remove",
    "mergeable",
    "unmergeable",
    "hugepage",
    "nohugepage",
    "willneed",
    "populate_read",
    "populate_write",
    "collapse",
    "hwpoison",
    "soft_offline",
]
"""An advice: ``MADV_`` and its name in upper case."""

ADVICES: tuple[Advice, ...] = get_args(Advice)

TagCheck = Literal["none", "sync", "async"]
"""``PR_MTE_TCF_NONE``, ``_SYNC``, ``_ASYNC``."""

TAG_CHECKS: tuple[TagCheck, ...] = get_args(TagCheck)
_ACCESS_SIZES = (1, 2, 4, 8)
_MAX_PAGES = 1 << 31  # 8 TiB, past any machine that can be built
_TAG_SHIFT = 56


@dataclass(frozen=True, slots=True)
class Pagemap:
    """What ``/proc/self/pagemap`` and ``/proc/kpageflags`` say of one page."""

    present: bool
    """A frame is mapped."""
    swap: bool
    """The page table holds a swap entry."""
    pfn: int | None
    """The frame's number, when present."""
    entry: int | None
    """The swap entry's offset, when swapped."""
    mte_tagged: bool
    """``PG_mte_tagged`` of the frame."""
    device: int | None
    """The swap entry's type, when swapped: the number of the device."""


class Process:
    """An address space of the host. Made by :meth:`tagvisor.Host.process`."""

    __slots__ = ("machine", "mm", "name")

    name: str
    """The name it was made with."""
    machine: _native.Machine
    """The machine it lives on."""
    mm: int
    """Its number there, from 0 in the order of creation."""

    def __init__(self, machine: _native.Machine, name: str) -> None:
        self.machine = machine
        self.mm = machine.create_process(name)
        self.name = name

    def __repr__(self) -> str:
        return f"<Process {self.name!r}>"

    def mmap(
        self,
        pages: int,
        *,
        backing: Backing | File = "anon",
        offset: int = 0,
        shared: bool = False,
        mte: bool = False,
        prot: str = "rw",
        at: Mapping | int | None = None,
    ) -> Mapping:
        """Map memory; nothing is brought in before it is touched.

        Args:
            pages: How many 4 KiB pages.
            backing: ``"anon"``, ``"hugetlb"``, ``"zone-device"``, ``"mmio"``, or a file.
            offset: First page of the file; 0 without one.
            shared: ``MAP_SHARED``.
            mte: ``PROT_MTE``: the process sees tags itself.
            prot: Letters of ``r`` and ``w``; ``""`` is ``PROT_NONE``.
            at: ``MAP_FIXED`` at this address, or over this mapping: what was there is unmapped
                first, a memslot that refers to it now refers to the new memory.

        Raises:
            ArgumentError: An argument that cannot be.
            LinuxError: ``mmap`` was refused, such as ``EINVAL`` for ``PROT_MTE`` on memory without
                tags or ``ENOMEM`` when the device regions or the pool are not that large.
        """
        known: str
        if isinstance(backing, File):
            same_machine("backing", backing, self.machine)
            known, file = "file", backing.id
        else:
            known, file = _check.choice("backing", backing, BACKINGS), None
        count = _check.integer("pages", pages, 1, _MAX_PAGES)
        fixed = at.address if isinstance(at, Mapping) else at
        address = self.machine.mmap(
            self.mm,
            count,
            known,
            _check.flag("shared", shared),
            _check.prot("prot", prot, mte=mte),
            None if fixed is None else _check.page_aligned("at", fixed, 48),
            file,
            _check.integer("offset", offset, 0, 0 if file is None else _MAX_PAGES),
        )
        return Mapping(self, address, count)

    def uffd_read(self) -> list[Page]:
        """Pages that were touched and are still missing, in the order of their addresses."""
        return [Page(self, address) for address in self.machine.uffd_read(self.mm)]

    def fork(self, name: str) -> Process:
        """``fork``: a child with the same memory, which either copies when it writes to it.

        Args:
            name: What the child is called.
        """
        child = Process.__new__(Process)
        child.machine, child.name = self.machine, name
        child.mm = self.machine.fork(self.mm, name)
        return child

    def core_dump(self) -> list[TagSegment]:
        """The tags that a core dump of the process has: one segment for each ``PROT_MTE`` mapping.

        The process is left as it is, but that pages in swap are brought back. Kernels before 5.18
        dump no tags.
        """
        return segments(self.machine, self.mm)

    def exit(self) -> None:
        """The process ends: all it has mapped goes. Any later access is a ``SEGV_MAPERR``."""
        self.machine.exit_mm(self.mm)

    def set_tag_check(self, mode: TagCheck) -> None:
        """``prctl(PR_SET_TAGGED_ADDR_CTRL)``: what a failed tag check of the process does.

        Args:
            mode: ``"sync"`` (as made) raises :class:`tagvisor.UserSignal` at the access,
                ``"async"`` is told by :meth:`take_async_faults`, ``"none"`` lets it pass.
        """
        self.machine.set_tagged_addr_ctrl(self.mm, _check.choice("mode", mode, TAG_CHECKS))

    def take_async_faults(self) -> int:
        """How many ``SEGV_MTEAERR`` were delivered since it was asked last."""
        return self.machine.take_async_tag_faults(self.mm)

    def create_vm(self, *, mte: bool = False) -> Vm:
        """``KVM_CREATE_VM``, and with ``mte`` ``KVM_CAP_ARM_MTE``.

        Raises:
            LinuxError: The host has no MTE to give (``EINVAL``).
        """
        vm = Vm(self)
        if _check.flag("mte", mte):
            vm.enable_mte()
        return vm


class Mapping:
    """A range of a process's address space. Made by :meth:`Process.mmap`.

    It names addresses, not the memory behind them: after ``munmap``, or another ``mmap`` over it,
    its pages are whatever is there then.
    """

    __slots__ = ("address", "pages", "process")

    process: Process
    address: int
    """Where it starts, page aligned."""
    pages: int
    """How many 4 KiB pages it covers."""

    def __init__(self, process: Process, address: int, pages: int) -> None:
        self.process = process
        self.address = address
        self.pages = pages

    def __repr__(self) -> str:
        return f"<Mapping {self.address:#018x}, {self.pages} pages, of {self.process.name!r}>"

    def page(self, i: int) -> Page:
        """Its page ``i``, from 0.

        Raises:
            ArgumentError: It has no such page.
        """
        number = _check.integer("i", i, 0, self.pages - 1)
        return Page(self.process, self.address + number * _check.PAGE_SIZE)

    def munmap(self) -> None:
        """``munmap`` of all of it; frames and swap slots that nobody else has are freed."""
        self.process.machine.munmap(self.process.mm, self.address, self.pages)

    def mprotect(
        self, prot: str = "rw", *, mte: bool = False, first: int = 0, pages: int | None = None
    ) -> None:
        """``mprotect``.

        Args:
            prot: Letters of ``r`` and ``w``; ``""`` is ``PROT_NONE``.
            mte: With ``PROT_MTE``. Once given the kernel keeps it: taking it away again is ignored.
            first: The first page.
            pages: How many; to the end by default.

        Raises:
            LinuxError: Such as ``EINVAL`` for ``PROT_MTE`` on memory that may not have tags.
        """
        address, count = self.span(first, pages)
        self.process.machine.mprotect(
            self.process.mm, address, count, _check.prot("prot", prot, mte=mte)
        )

    def madvise(self, advice: Advice, first: int = 0, pages: int | None = None) -> None:
        """``madvise``.

        Args:
            advice: The name without ``MADV_``, in lower case.
            first: The first page.
            pages: How many; to the end by default.

        Raises:
            LinuxError: As the kernel refuses it, such as ``EINVAL`` for ``free`` on a file.
        """
        address, count = self.span(first, pages)
        known = _check.choice("advice", advice, ADVICES)
        self.process.machine.madvise(self.process.mm, address, count, known)

    def dontneed(self, first: int = 0, pages: int | None = None) -> None:
        """``madvise(MADV_DONTNEED)``: the pages' contents, in memory or in swap, are discarded.

        Args:
            first: The first page.
            pages: How many; to the end by default.
        """
        self.madvise("dontneed", first, pages)

    def uffd_register(self, first: int = 0, pages: int | None = None) -> None:
        """``UFFDIO_REGISTER``: pages that are missing come from user space from now on.

        Whoever touches one that is missing waits for :meth:`Page.uffd_copy`. Where nobody else runs
        who could call it (all but :func:`tagvisor.explore` and :func:`tagvisor.schedule`) a load or
        store gets ``SIGBUS`` and ``KVM_RUN`` returns ``EFAULT``, as with
        ``UFFD_FEATURE_SIGBUS``; :meth:`Process.uffd_read` then tells which page it was.

        Args:
            first: The first page.
            pages: How many; to the end by default.

        Raises:
            LinuxError: ``EINVAL``: the mapping is not private anonymous memory, or is gone.
        """
        address, count = self.span(first, pages)
        self.process.machine.uffd_register(self.process.mm, address, count)

    def span(self, first: int = 0, pages: int | None = None) -> tuple[int, int]:
        """Address and number of pages of a part of it.

        Args:
            first: The first page.
            pages: How many; to the end by default.

        Raises:
            ArgumentError: The part is not within it.
        """
        start = _check.integer("first", first, 0, self.pages - 1)
        left = self.pages - start
        count = left if pages is None else _check.integer("pages", pages, 1, left)
        return self.address + start * _check.PAGE_SIZE, count


class Page:
    """One 4 KiB page of a process's address space. Made by :meth:`Mapping.page`."""

    __slots__ = ("address", "process")

    process: Process
    address: int
    """Where it starts, untagged."""

    def __init__(self, process: Process, address: int) -> None:
        self.process = process
        self.address = address

    def __repr__(self) -> str:
        return f"<Page {self.address:#018x} of {self.process.name!r}>"

    def pointer(self, offset: int = 0, size: int = 8, tag: int = 0) -> int:
        """The pointer of an access; arguments as for :meth:`load`."""
        _check.choice("size", size, _ACCESS_SIZES)
        within = _check.integer("offset", offset, 0, _check.PAGE_SIZE - size)
        return (_check.integer("tag", tag, 0, 15) << _TAG_SHIFT) | (self.address + within)

    def load(self, offset: int = 0, size: int = 8, tag: int = 0) -> int:
        """Load.

        Args:
            offset: Bytes from the start of the page.
            size: 1, 2, 4 or 8 bytes, little endian.
            tag: The pointer's logical tag, 0 to 15.

        Raises:
            UserSignal: It faulted, ``SEGV_MTESERR`` when the tag does not match.
        """
        return self.process.machine.user_load(
            self.process.mm, self.pointer(offset, size, tag), size
        )

    def store(self, value: int, offset: int = 0, size: int = 8, tag: int = 0) -> None:
        """Store ``value``; arguments and errors as for :meth:`load`."""
        pointer = self.pointer(offset, size, tag)
        self.process.machine.user_store(
            self.process.mm, pointer, size, _check.integer("value", value, 0, (1 << 8 * size) - 1)
        )

    def ldg(self, granule: int) -> int:
        """``LDG``: the tag of a granule, 0 to 255; 0 where the mapping has no ``PROT_MTE``."""
        return self.process.machine.user_ldg(self.process.mm, self._granule(granule))

    def stg(self, granule: int, tag: int) -> None:
        """``STG``: set the tag of a granule, 0 to 255; ignored without ``PROT_MTE``."""
        self.process.machine.user_stg(
            self.process.mm, self._granule(granule), _check.integer("tag", tag, 0, 15)
        )

    def _granule(self, granule: int) -> int:
        return self.address + 16 * _check.integer("granule", granule, 0, 255)

    def tags(self) -> npt.NDArray[np.uint8]:
        """``LDG`` of every granule: 256 tags."""
        return self.process.machine.user_tags(self.process.mm, self.address)

    def fill_tags(self, tags: npt.ArrayLike) -> None:
        """``STG`` of every granule.

        Args:
            tags: 256 tags, each 0 to 15.
        """
        self.process.machine.user_fill_tags(
            self.process.mm, self.address, _check.tags("tags", tags, 256, exactly=True)
        )

    def uffd_copy(self, data: bytes) -> None:
        """``UFFDIO_COPY``: the page has come, and whoever waits for it goes on.

        It is data only: tags are what the mapping of a fresh page makes of them.

        Args:
            data: At most 4096 bytes; what they lack is zero.

        Raises:
            LinuxError: ``ENOENT``, not registered; ``EEXIST``, it is there already.
        """
        given = _check.page_data("data", data)
        self.process.machine.uffd_copy(self.process.mm, self.address, given)

    def uffd_move(self, source: Page) -> None:
        """``UFFDIO_MOVE``: another page of the process moves here, with its data and its tags.

        Both mappings are private, anonymous, writable, and with ``PROT_MTE`` both or neither; this
        one is registered. The kernel has it since 6.8.

        Args:
            source: Where the page is. Afterwards nothing is there.

        Raises:
            LinuxError: ``EINVAL``, the mappings do not fit or the kernel has no such call;
                ``ENOENT``, nothing is at the source; ``EEXIST``, something is here already;
                ``EBUSY``, another process has the page too.
            ArgumentError: Not a page of this process.
        """
        if not isinstance(source, Page) or source.process.mm != self.process.mm:
            raise ArgumentError("source", source, "a Page of the same process")
        same_machine("source", source.process, self.process.machine)
        self.process.machine.uffd_move(self.process.mm, self.address, source.address)

    def peek_tags(self, granule: int = 0, count: int = 256) -> npt.NDArray[np.uint8]:
        """``PTRACE_PEEKMTETAGS`` by a debugger.

        Args:
            granule: The first, 0 to 255.
            count: How many; it may go on into the next pages.

        Returns:
            As many tags as could be read.

        Raises:
            LinuxError: ``EIO`` or ``EFAULT`` when none could.
        """
        return self.process.machine.ptrace_peek_tags(
            self.process.mm, self._granule(granule), _check.integer("count", count, 1, 1 << 20)
        )

    def poke_tags(self, tags: npt.ArrayLike, granule: int = 0) -> int:
        """``PTRACE_POKEMTETAGS`` by a debugger.

        Args:
            tags: Tags, each 0 to 15.
            granule: Where the first goes, 0 to 255.

        Returns:
            How many were written.

        Raises:
            LinuxError: ``EIO``, ``EFAULT`` or ``EOPNOTSUPP`` when none could.
        """
        return self.process.machine.ptrace_poke_tags(
            self.process.mm, self._granule(granule), _check.tags("tags", tags, 1)
        )

    def pagemap(self) -> Pagemap:
        """What the page table holds for it."""
        return Pagemap(*self.process.machine.pagemap(self.process.mm, self.address))


def same_machine(argument: str, process: Process | File, machine: _native.Machine) -> None:
    """Refuse what belongs to another host.

    Raises:
        ArgumentError: ``process`` lives on another machine.
    """
    if process.machine is not machine:
        raise ArgumentError(argument, process, "something of this very Host")
