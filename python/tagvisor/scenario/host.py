"""The process of a scenario: mappings, guarded accesses, swap.

Models what the recorded systems' test process does with its own memory, on one
:class:`tagvisor.Process`. Leaves out a second process (``fork``), memory that is not anonymous, and
tag check modes other than sync.

Invariant: a command's result is what the modelled Linux says. A refused call and a signal leave
here as the exceptions :class:`tagvisor.LinuxError` and :class:`tagvisor.UserSignal`; the
interpreter turns them into answers. Only a script that reaches for memory it never mapped, which a
real kernel would answer with whatever happens to lie there, is a :class:`tagvisor.ScenarioError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tagvisor.errors import ScenarioError, UserSignal
from tagvisor.scenario import commands as cmd
from tagvisor.scenario.answers import tag_string

if TYPE_CHECKING:
    from tagvisor import Host, Mapping, Page, Process
    from tagvisor.scenario.answers import Keys
    from tagvisor.scenario.commands import Command, HostCommand

__all__ = ["HostRoom"]

PAGE_SIZE = 4096
MAX_OBJECTS = 64
OK: Keys = {"ret": 0}

# Marsaglia's xorshift64, as `rand` fills pages: incompressible, and the same in every run.
XORSHIFT_SEED = 88172645463325252
MASK = (1 << 64) - 1


class HostRoom:
    """Everything a scenario's process has.

    Args:
        host: The machine.
        process: The process under test, which is also the VMM.
        path: The scenario's file, for errors.
    """

    def __init__(self, host: Host, process: Process, path: str) -> None:
        self.host = host
        self.process = process
        self.path = path
        self._objects: dict[str, Mapping] = {}
        self._noise = XORSHIFT_SEED

    def mapping(self, command: Command, name: str) -> Mapping:
        """The object of that name."""
        if name not in self._objects:
            problem = f"nothing is mapped under the name {name!r}"
            expected = f"`mmap {name} anon PAGES` in an earlier line"
            raise ScenarioError(self.path, command.line, problem, expected)
        return self._objects[name]

    def pages(self, command: Command, name: str, first: int, count: int) -> Mapping:
        """The object of that name, which has to have these pages."""
        mapping = self.mapping(command, name)
        last = first + max(count, 1) - 1
        if last >= mapping.pages:
            problem = f"page {last} of {name!r}, which has {mapping.pages}"
            expected = f"a page from 0 to {mapping.pages - 1}"
            raise ScenarioError(self.path, command.line, problem, expected)
        return mapping

    def page(self, command: HostCommand, number: int) -> Page:
        """A page of a command's object."""
        return self.pages(command, command.name, number, 1).page(number)

    def execute(self, command: Command) -> Keys:
        """What the command answers."""
        match command:
            case cmd.Mmap():
                return self._mmap(command)
            case cmd.Munmap():
                self.mapping(command, command.name).munmap()
                return OK
            case cmd.Mprotect(name=name, page=first, prot=prot, mte=mte, pages=count):
                mapping = self.pages(command, name, first, count)
                mapping.mprotect(prot, mte=mte, first=first, pages=count)
                return OK
            case cmd.Madvise(name=name, page=first, advice=advice, pages=count):
                mapping = self.pages(command, name, first, count)
                if advice is None:
                    return {"ret": -1, "errno": "EINVAL"}
                mapping.dontneed(first, count)
                return OK
            case cmd.Evict(page=number):
                entry = self.host.evict(self.page(command, number))
                return {"present": int(entry.present), "swap": int(entry.swap)}
            case cmd.Pagemap(page=number):
                entry = self.page(command, number).pagemap()
                if entry.present:
                    return {"present": 1, "mte_tagged": int(entry.mte_tagged)}
                return {"present": 0, "swap": int(entry.swap)}
            case cmd.OldPageFlags(page=number):
                self.page(command, number)
                return {}
            case cmd.Resident(name=name, pages=count):
                mapping = self.pages(command, name, 0, count)
                entries = [mapping.page(i).pagemap() for i in range(count)]
                present = sum(entry.present for entry in entries)
                return {"present": present, "swap": sum(entry.swap for entry in entries)}
            case cmd.TcfSync():
                return OK
            case _:
                return self._access(command)

    def _mmap(self, command: cmd.Mmap) -> Keys:
        at = None
        if command.fixed is not None:
            at = self.mapping(command, command.fixed)
            if command.pages > at.pages:
                problem = f"{command.pages} pages at the address of {command.fixed!r}"
                expected = f"at most its own {at.pages}"
                raise ScenarioError(self.path, command.line, problem, expected)
        if command.name not in self._objects and len(self._objects) == MAX_OBJECTS:
            problem = f"{command.name!r} is one object too many"
            raise ScenarioError(self.path, command.line, problem, f"at most {MAX_OBJECTS}")
        self._objects[command.name] = self.process.mmap(
            command.pages, mte=command.mte, prot=command.prot, at=at
        )
        return OK

    def _access(self, command: Command) -> Keys:
        match command:
            case cmd.Read(page=number, offset=offset, tag=tag):
                return {"val": f"{self.page(command, number).load(offset, tag=tag):x}"}
            case cmd.Write(page=number, offset=offset, value=value, tag=tag):
                self.page(command, number).store(value, offset, tag=tag)
            case cmd.Set(page=number, value=value):
                page = self.page(command, number)
                for offset in range(0, PAGE_SIZE, 8):
                    page.store(value, offset)
            case cmd.Rand(page=number):
                page = self.page(command, number)
                for offset in range(0, PAGE_SIZE, 8):
                    page.store(self._random(), offset)
            case cmd.Stg(page=number, granule=granule, tag=tag):
                self.page(command, number).stg(granule, tag)
            case cmd.Ldg(page=number, granule=granule):
                return {"tag": f"{self.page(command, number).ldg(granule):x}"}
            case cmd.Fill(page=number, first=first, step=step):
                self.page(command, number).fill_tags(_pattern(first, step))
            case cmd.Tags(page=number):
                return {"tags": tag_string(self.page(command, number).tags())}
            case cmd.FillAll(name=name, pages=count, tag=tag):
                return {"ret": int(self._fill_all(self.pages(command, name, 0, count), count, tag))}
            case cmd.CheckAll(name=name, pages=count, tag=tag):
                return self._check_all(self.pages(command, name, 0, count), count, tag)
            case _:
                message = f"no way to execute {command!r}"
                raise AssertionError(message)
        return OK

    def _random(self) -> int:
        x = self._noise
        x ^= x << 13 & MASK
        x ^= x >> 7
        x ^= x << 17 & MASK
        self._noise = x
        return x

    @staticmethod
    def _fill_all(mapping: Mapping, count: int, tag: int) -> bool:
        """Did it fault?"""
        try:
            for i in range(count):
                mapping.page(i).fill_tags(_pattern(tag, 0))
        except UserSignal:
            return True
        return False

    @staticmethod
    def _check_all(mapping: Mapping, count: int, tag: int) -> Keys:
        bad = 0
        try:
            for i in range(count):
                bad += int(np.count_nonzero(mapping.page(i).tags() != tag))
        except UserSignal:
            return {"bad": bad, "sig": 1}
        return {"bad": bad, "sig": 0}


def _pattern(first: int, step: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return ((first + step * np.arange(256)) % 16).astype(np.uint8)
