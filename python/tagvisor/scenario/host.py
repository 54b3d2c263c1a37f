"""A process of a scenario: mappings, guarded accesses, swap.

Models what the recorded systems' test process, and its forked child, do with their own memory, on
one :class:`tagvisor.Process`. An object is a name for an address, as in the real test process: what
lies there, or that nothing does, is the machine's business.

Invariant: a command's result is what the modelled Linux says. A refused call and a signal leave
here as the exceptions :class:`tagvisor.LinuxError` and :class:`tagvisor.UserSignal`; the
interpreter turns them into answers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tagvisor.errors import LinuxError, ScenarioError, UserSignal
from tagvisor.process import Page, Pagemap
from tagvisor.scenario import commands as cmd
from tagvisor.scenario.answers import tag_string

if TYPE_CHECKING:
    from tagvisor import Host, Process
    from tagvisor.scenario.answers import Keys
    from tagvisor.scenario.commands import Command, HostCommand

__all__ = ["HostRoom", "Object"]

PAGE_SIZE = 4096
MAX_OBJECTS = 64
OK: Keys = {"ret": 0}
PEEK_SHOWN = 64
PAGEOUT_TRIES = 50
BAR_PAGES = 256
HPAGE_PAGES = 512
HPAGE_SIZE = HPAGE_PAGES * PAGE_SIZE
BUS_MCEERR_AR = 4

# Marsaglia's xorshift64, as `rand` fills pages: incompressible, and the same in every run.
XORSHIFT_SEED = 88172645463325252
MASK = (1 << 64) - 1


@dataclass(slots=True)
class Object:
    """A name of the test process: an address, and the memfd that was mapped there."""

    address: int = 0
    pages: int = 0
    fd: int | None = None


class HostRoom:
    """Everything a process of a scenario has.

    Args:
        host: The machine.
        process: The process.
        path: The scenario's file, for errors.
    """

    def __init__(self, host: Host, process: Process, path: str) -> None:
        self.host = host
        self.process = process
        self.path = path
        self._machine = process.machine
        self._objects: dict[str, Object] = {}
        self._files: dict[str, tuple[int, int]] = {}
        self._noise = XORSHIFT_SEED
        self._asynchronous = False

    def forked(self, process: Process) -> HostRoom:
        """The room of a child: the objects known now, with the backing they have now."""
        child = HostRoom(self.host, process, self.path)
        child._objects = {name: replace(found) for name, found in self._objects.items()}
        child._files = self._files  # paths are the machine's
        child._noise = self._noise
        child._asynchronous = self._asynchronous
        return child

    def address(self, name: str, page: int) -> int:
        """Where a page of an object lies; an object nobody knows is at 0, whatever the page."""
        found = self._objects.get(name)
        return 0 if found is None else found.address + page * PAGE_SIZE

    def late_signals(self) -> Keys:
        """Signals that came since the last answer: of asynchronous checks, of poisoned pages."""
        late: Keys = {}
        if self._machine.take_sigbus(self.process.mm):
            late["sigbus_code"] = BUS_MCEERR_AR
        if self._asynchronous and (count := self._machine.take_async_tag_faults(self.process.mm)):
            late["async_segv"] = count
        return late

    def execute(self, command: Command) -> Keys:
        """What the command answers."""
        match command:
            case cmd.Mmap():
                return self._mmap(command)
            case cmd.Munmap(name=name):
                found = self._known(command, name)
                self._machine.munmap(self.process.mm, found.address, found.pages)
                return OK
            case cmd.Mprotect(name=name, page=first, prot=prot, pages=count):
                address = self.address(name, first)
                self._machine.mprotect(self.process.mm, address, count, prot)
                return OK
            case cmd.Madvise(name=name, page=first, advice=advice, pages=count):
                if advice is None:
                    return {"ret": -1, "errno": "EINVAL"}
                address = self.address(name, first)
                self._machine.madvise(self.process.mm, address, count, advice)
                return OK
            case cmd.TagCheckMode(mode=mode):
                self._machine.set_tagged_addr_ctrl(self.process.mm, mode)
                self._asynchronous |= mode == "async"
                return OK
            case cmd.Evict() | cmd.Swapout() | cmd.Pagemap() | cmd.OldPageFlags() | cmd.Resident():
                return self._page_state(command)
            case _:
                return self._access(command)

    def _known(self, command: Command, name: str) -> Object:
        if name not in self._objects:
            problem = f"nothing is mapped under the name {name!r}"
            expected = f"`mmap {name} anon PAGES` in an earlier line"
            raise ScenarioError(self.path, command.line, problem, expected)
        return self._objects[name]

    def _mmap(self, command: cmd.Mmap) -> Keys:
        fixed = None
        if command.fixed is not None:
            fixed = self._known(command, command.fixed).address
        if command.name not in self._objects:
            if len(self._objects) == MAX_OBJECTS:
                problem = f"{command.name!r} is one object too many"
                raise ScenarioError(self.path, command.line, problem, f"at most {MAX_OBJECTS}")
            self._objects[command.name] = Object()
        backing, file = self._backing(command)
        if command.aligned and fixed is None:
            fixed = self._aligned(command.pages)
        address = self._machine.mmap(
            self.process.mm,
            command.pages,
            backing,
            command.kind in {"shared", "memfd", "file", "hugetlbs"},
            command.prot,
            fixed,
            file,
            command.offset if file is not None else 0,
        )
        self._objects[command.name] = Object(address, command.pages, file)
        return OK

    def _aligned(self, pages: int) -> int:
        """Free addresses that begin a huge page."""
        mm, room = self.process.mm, pages + HPAGE_PAGES
        start = self._machine.mmap(mm, room, "anon", shared=False, prot="rw", fixed=None)
        self._machine.munmap(mm, start, room)
        return -(-start // HPAGE_SIZE) * HPAGE_SIZE

    def _backing(self, command: cmd.Mmap) -> tuple[str, int | None]:
        """What the machine calls the kind of memory, and the file that is mapped."""
        match command.kind:
            case "memfd" | "memfdp" if command.fd is not None:
                file = self._known(command, command.fd).fd
                if file is None:
                    raise LinuxError("EBADF", "mmap")
                return "file", file
            case "memfd" | "memfdp":
                return "file", self._machine.create_file("shmem", command.pages)
            case "file" | "filep":
                return self._opened(command)
            case "hugetlb" | "hugetlbs":
                return "hugetlb", None
            case _:
                return "anon", None

    def _opened(self, command: cmd.Mmap) -> tuple[str, int | None]:
        """The file of a path, as large as the mapping at least; the same path is the same file."""
        path = command.file or ""
        if path.startswith("/sys/") or path == "/dev/mem":
            if path.startswith("/sys/") and command.offset + command.pages > BAR_PAGES:
                raise LinuxError("EINVAL", "mmap")
            return "mmio", None
        file, pages = self._files.get(path, (None, 0))
        if file is None:
            kind = "ramfs" if path.startswith("/ram/") else "shmem"
            file = self._machine.create_file(kind, command.pages)
        elif pages < command.pages:
            self._machine.file_truncate(file, command.pages)
        self._files[path] = (file, max(pages, command.pages))
        return "file", file

    def _page_state(self, command: Command) -> Keys:
        match command:
            case cmd.Evict(name=name, page=number):
                address = self._known(command, name).address + number * PAGE_SIZE
                entry = Pagemap(*self._machine.evict(self.process.mm, address))
                return {"present": int(entry.present), "swap": int(entry.swap)}
            case cmd.Swapout(name=name, page=number):
                address = self._known(command, name).address + number * PAGE_SIZE
                return self._swapout(address)
            case cmd.Pagemap(name=name, page=number):
                entry = self._pagemap(self.address(name, number))
                if entry.present:
                    return {"present": 1, "mte_tagged": int(entry.mte_tagged)}
                return {"present": 0, "swap": int(entry.swap)}
            case cmd.Resident(name=name, pages=count):
                entries = [self._pagemap(self.address(name, i)) for i in range(count)]
                present = sum(entry.present for entry in entries)
                return {"present": present, "swap": sum(entry.swap for entry in entries)}
            case _:
                return {}  # OldPageFlags: nothing of it can be compared

    def _swapout(self, address: int) -> Keys:
        """``MADV_PAGEOUT`` again and again: a page that was just used may need a second call."""
        entry = self._pagemap(address)
        for _ in range(PAGEOUT_TRIES):
            self._machine.madvise(self.process.mm, address, 1, "pageout")
            entry = self._pagemap(address)
            if not entry.present:
                break
        return {"swapped": int(entry.swap), "present": int(entry.present)}

    def _pagemap(self, address: int) -> Pagemap:
        return Pagemap(*self._machine.pagemap(self.process.mm, address))

    def _page(self, command: HostCommand, number: int) -> Page:
        return Page(self.process, self.address(command.name, number))

    def _access(self, command: Command) -> Keys:
        match command:
            case cmd.Read(page=number, offset=offset, tag=tag):
                pointer = self.address(command.name, number) + offset | tag << 56
                return {"val": f"{self._machine.user_load(self.process.mm, pointer, 8):x}"}
            case cmd.Write(page=number, offset=offset, value=value, tag=tag):
                pointer = self.address(command.name, number) + offset | tag << 56
                self._machine.user_store(self.process.mm, pointer, 8, value)
            case cmd.Set(page=number, value=value):
                address = self.address(command.name, number)
                for offset in range(0, PAGE_SIZE, 8):
                    self._machine.user_store(self.process.mm, address + offset, 8, value)
            case cmd.Rand(page=number):
                address = self.address(command.name, number)
                for offset in range(0, PAGE_SIZE, 8):
                    self._machine.user_store(self.process.mm, address + offset, 8, self._random())
            case cmd.Stg(page=number, granule=granule, tag=tag):
                self._page(command, number).stg(granule, tag)
            case cmd.Ldg(page=number, granule=granule):
                return {"tag": f"{self._page(command, number).ldg(granule):x}"}
            case cmd.Fill(page=number, first=first, step=step):
                self._page(command, number).fill_tags(_pattern(first, step))
            case cmd.Tags(page=number):
                return {"tags": tag_string(self._page(command, number).tags())}
            case cmd.SyscallRead(page=number, tag=tag):
                pointer = self.address(command.name, number) | tag << 56
                return {"ret": self._machine.syscall_read(self.process.mm, pointer, 16)}
            case cmd.FillAll(pages=count, tag=tag):
                return {"ret": int(self._fill_all(command, count, tag))}
            case cmd.CheckAll(pages=count, tag=tag):
                return self._check_all(command, count, tag)
            case _:
                message = f"no way to execute {command!r}"
                raise AssertionError(message)
        return OK

    def peek(self, name: str, page: int, count: int) -> Keys:
        """``PTRACE_PEEKMTETAGS`` of this process."""
        try:
            tags = self._machine.ptrace_peek_tags(self.process.mm, self.address(name, page), count)
        except LinuxError as refused:
            return {"ret": -1, "errno": refused.errno_name, "iov_len": count, "tags": ""}
        text = "".join(f"{tag:x}" for tag in tags[:PEEK_SHOWN])
        return {"ret": 0, "errno": "0", "iov_len": len(tags), "tags": text}

    def poke(self, name: str, page: int, count: int, tag: int) -> Keys:
        """``PTRACE_POKEMTETAGS`` of this process."""
        tags = np.full(count, tag, dtype=np.uint8)
        try:
            done = self._machine.ptrace_poke_tags(self.process.mm, self.address(name, page), tags)
        except LinuxError as refused:
            return {"ret": -1, "errno": refused.errno_name, "iov_len": count, "tags": ""}
        return {"ret": 0, "errno": "0", "iov_len": done, "tags": ""}

    def _random(self) -> int:
        x = self._noise
        x ^= x << 13 & MASK
        x ^= x >> 7
        x ^= x << 17 & MASK
        self._noise = x
        return x

    def _fill_all(self, command: cmd.FillAll, count: int, tag: int) -> bool:
        """Did it fault?"""
        try:
            for i in range(count):
                self._page(command, i).fill_tags(_pattern(tag, 0))
        except UserSignal:
            return True
        return False

    def _check_all(self, command: cmd.CheckAll, count: int, tag: int) -> Keys:
        bad = 0
        try:
            for i in range(count):
                bad += int(np.count_nonzero(self._page(command, i).tags() != tag))
        except UserSignal:
            return {"bad": bad, "sig": 1}
        return {"bad": bad, "sig": 0}


def _pattern(first: int, step: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return ((first + step * np.arange(256)) % 16).astype(np.uint8)
