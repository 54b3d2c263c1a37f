"""Scenario text to typed commands.

Models the reader of the scenario language: one command a line, words separated by blanks, C's
number formats. Leaves out nothing silently: a line is a command that the interpreter can execute,
or it is a :class:`tagvisor.ScenarioError` with the file, the line, what is wrong and what would be
right. That holds for malformed lines, for commands that do not exist, and for those (options, kinds
of memory, words of ``madvise``) which the language has and the model does not answer yet.

Invariant: the whole file is judged before anything is executed, so a script with a mistake in its
last line prints nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tagvisor.errors import ScenarioError
from tagvisor.scenario import commands as cmd
from tagvisor.scenario.guest_words import (
    copytags,
    create_vm,
    destroy,
    dirtylog,
    guest,
    slot,
)
from tagvisor.scenario.words import Words

if TYPE_CHECKING:
    from collections.abc import Callable

    from tagvisor.scenario.commands import Command

__all__ = ["parse"]

MAX_WORDS = 16
MAX_BYTES = 1000

# Commands whose answer carries nothing that two systems could agree on; the language drops it.
NOTES = frozenset({"scenario", "echo", "slab", "sleepms", "trace"})

KINDS = ("anon", "shared", "memfd", "memfdp", "file", "filep", "hugetlb", "hugetlbs")

# The names in the language of what madvise calls otherwise; the others are the same.
ADVICE = {
    "poprd": "populate_read",
    "popwr": "populate_write",
    **{
        name: name
        for name in (
            *("dontneed", "free", "cold", "pageout", "remove", "mergeable", "unmergeable"),
            *("hugepage", "willneed", "collapse", "hwpoison", "soft_offline"),
        )
    },
}

HUGEPAGES = re.compile(r"echo\s+(\d+)\s*>\s*\S*nr_hugepages")
TRANSPARENT = re.compile(r"echo\s+(madvise|never)\s*>\s*\S*transparent_hugepage/enabled")
RECLAIM = re.compile(r"echo\s+(\d+)([KMG]?)\s*>\s*\S*memory\.reclaim")
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def mmap(w: Words) -> Command:
    name = w.name("NAME")
    kind = w.word("KIND")
    if kind not in KINDS:
        w.fail(f"no such kind of memory: {kind!r}", f"one of {', '.join(KINDS)}")
    pages = w.dec("PAGES")
    prot, fixed, fd, file, offset, aligned = "rw", None, None, None, 0, False
    for option in w.rest():  # left to right: `none` takes back an earlier `mte`
        key, _, value = option.partition("=")
        match key:
            case "mte":
                prot += "m"
            case "ro":
                prot = prot.replace("w", "")
            case "none":
                prot = ""
            case "align2m":
                aligned = True
            case "fixed":
                fixed = w.object_name("fixed=OBJ", value)
            case "fd":
                fd = w.object_name("fd=OBJ", value)
            case "file":
                file = value
            case "off":
                offset = w.as_dec("off=PAGES", value)
            case _:
                w.fail(f"no such option: {option!r}")
    if kind in {"file", "filep"} and file is None:
        w.fail(f"kind {kind!r} without file=PATH")
    return cmd.Mmap(w.line, w.text, name, kind, pages, prot, fixed, fd, file, offset, aligned)


def munmap(w: Words) -> Command:
    return cmd.Munmap(w.line, w.text, w.name("NAME"))


def mprotect(w: Words) -> Command:
    name, page, letters = w.name("NAME"), w.dec("P"), w.word("PROT")
    # Other letters add nothing: `n` alone is PROT_NONE.
    prot = "".join(letter for letter in "rwm" if letter in letters)
    return cmd.Mprotect(w.line, w.text, name, page, prot, w.dec("N", default=1))


def madvise(w: Words) -> Command:
    name, page, advice = w.name("NAME"), w.dec("P"), w.word("WHAT")
    return cmd.Madvise(w.line, w.text, name, page, ADVICE.get(advice), w.dec("N", default=1))


def rd(w: Words) -> Command:
    name, page = w.name("NAME"), w.dec("P")
    return cmd.Read(w.line, w.text, name, page, w.dec("OFF", default=0), w.tag("TAG", default=0))


def wr(w: Words) -> Command:
    name, page, offset, value = w.name("NAME"), w.dec("P"), w.dec("OFF"), w.dec("VALUE")
    return cmd.Write(w.line, w.text, name, page, offset, value, w.tag("TAG", default=0))


def set_(w: Words) -> Command:
    return cmd.Set(w.line, w.text, w.name("NAME"), w.dec("P"), w.dec("VALUE"))


def rand(w: Words) -> Command:
    return cmd.Rand(w.line, w.text, w.name("NAME"), w.dec("P"))


def stg(w: Words) -> Command:
    return cmd.Stg(w.line, w.text, w.name("NAME"), w.dec("P"), w.dec("G", high=255), w.tag("TAG"))


def ldg(w: Words) -> Command:
    return cmd.Ldg(w.line, w.text, w.name("NAME"), w.dec("P"), w.dec("G", high=255))


def fill(w: Words) -> Command:
    name, page, spec = w.name("NAME"), w.dec("P"), w.word("SPEC")
    if not spec.startswith("seq"):
        return cmd.Fill(w.line, w.text, name, page, w.as_tag("SPEC", spec), 0)
    offset = spec.removeprefix("seq")
    if offset and not (offset[0] == "+" and offset[1:].isdecimal() and offset.isascii()):
        w.fail(f"SPEC is {spec!r}", "a tag 0 to f, seq, or seq+N with N decimal")
    return cmd.Fill(w.line, w.text, name, page, int(offset or "0") % 16, 1)


def tags(w: Words) -> Command:
    return cmd.Tags(w.line, w.text, w.name("NAME"), w.dec("P"))


def fillall(w: Words) -> Command:
    return cmd.FillAll(w.line, w.text, w.name("NAME"), w.dec("N"), w.tag("TAG"))


def checkall(w: Words) -> Command:
    return cmd.CheckAll(w.line, w.text, w.name("NAME"), w.dec("N"), w.tag("TAG"))


def tcf(w: Words) -> Command:
    mode = w.word("MODE")
    if mode not in {"sync", "async", "none"}:
        w.fail(f"no such tag check mode: {mode!r}", "sync, async or none")
    return cmd.TagCheckMode(w.line, w.text, mode)


def syscallrd(w: Words) -> Command:
    return cmd.SyscallRead(w.line, w.text, w.name("NAME"), w.dec("P"), w.tag("TAG", default=0))


def swapout(w: Words) -> Command:
    return cmd.Swapout(w.line, w.text, w.name("NAME"), w.dec("P"))


def fork(w: Words) -> Command:
    return cmd.Fork(w.line, w.text)


def peek(w: Words) -> Command:
    return cmd.Peek(w.line, w.text, w.name("NAME"), w.dec("P"), w.dec("G", high=512))


def poke(w: Words) -> Command:
    name, page, count = w.name("NAME"), w.dec("P"), w.dec("G", high=512)
    return cmd.Poke(w.line, w.text, name, page, count, w.tag("TAG"))


def evict(w: Words) -> Command:
    return cmd.Evict(w.line, w.text, w.name("NAME"), w.dec("P"))


def pm(w: Words) -> Command:
    return cmd.Pagemap(w.line, w.text, w.name("NAME"), w.dec("P"))


def oldpf(w: Words) -> Command:
    return cmd.OldPageFlags(w.line, w.text, w.name("NAME"), w.dec("P"))


def resident(w: Words) -> Command:
    return cmd.Resident(w.line, w.text, w.name("NAME"), w.dec("N"))


COPYTAGS_USAGE = (
    "copytags from|to IPA N [TAG|seq] [raw=HH] [len=BYTES] [flags=F] [rsvd=V] [badaddr]"
    " [partial=BYTES]"
)

MMAP_USAGE = (
    "mmap NAME KIND PAGES [mte] [ro] [none] [fixed=OBJ] [fd=OBJ] [file=PATH] [align2m] [off=PAGES]"
)

_COMMANDS: dict[str, tuple[Callable[[Words], Command], str]] = {
    "mmap": (mmap, MMAP_USAGE),
    "munmap": (munmap, "munmap NAME"),
    "mprotect": (mprotect, "mprotect NAME P PROT [N], PROT of the letters r w m, or n"),
    "madvise": (madvise, "madvise NAME P ADVICE [N], as in: madvise A 0 pageout"),
    "rd": (rd, "rd NAME P [OFF [TAG]]"),
    "wr": (wr, "wr NAME P OFF VALUE [TAG]"),
    "set": (set_, "set NAME P VALUE"),
    "rand": (rand, "rand NAME P"),
    "stg": (stg, "stg NAME P G TAG"),
    "ldg": (ldg, "ldg NAME P G"),
    "fill": (fill, "fill NAME P SPEC, SPEC a tag, seq, or seq+N"),
    "tags": (tags, "tags NAME P"),
    "fillall": (fillall, "fillall NAME N TAG"),
    "checkall": (checkall, "checkall NAME N TAG"),
    "tcf": (tcf, "tcf sync|async|none"),
    "syscallrd": (syscallrd, "syscallrd NAME P [TAG]"),
    "swapout": (swapout, "swapout NAME P"),
    "fork": (fork, "fork"),
    "peek": (peek, "peek NAME P G"),
    "poke": (poke, "poke NAME P G TAG"),
    "dirtylog": (dirtylog, "dirtylog ID"),
    "evict": (evict, "evict NAME P"),
    "pm": (pm, "pm NAME P"),
    "oldpf": (oldpf, "oldpf NAME P"),
    "resident": (resident, "resident NAME N"),
    "vm": (create_vm, "vm [mte] [late] [el1_32]"),
    "slot": (slot, "slot ID IPA NAME P N [FLAGS]"),
    "destroy": (destroy, "destroy"),
    "copytags": (copytags, COPYTAGS_USAGE),
    "g": (guest, "g OP ADDR ..., as in: g ldg 0x50000000"),
}


def parse(text: bytes | str, path: str) -> list[Command]:
    """The commands of a scenario.

    Args:
        text: The content of the file.
        path: Its name, for errors.

    Returns:
        The commands that answer, in order; notes (``echo``, ``trace``, ...) and comments are gone.

    Raises:
        ScenarioError: At the first line that cannot be executed.
    """
    found = []
    lines = text.encode() if isinstance(text, str) else text
    for number, raw in enumerate(lines.split(b"\n"), start=1):
        command = _line(path, number, raw.rstrip(b"\r"))
        if command is not None:
            found.append(command)
    return found


def _line(path: str, number: int, raw: bytes) -> Command | None:
    if len(raw) > MAX_BYTES:
        problem = f"a line of {len(raw)} bytes"
        raise ScenarioError(path, number, problem, f"at most {MAX_BYTES} bytes")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        problem = f"byte {raw[error.start]:#04x} is not UTF-8"
        raise ScenarioError(path, number, problem, "a text file") from None
    if any(ord(character) < 32 and character != "\t" for character in text):
        raise ScenarioError(path, number, "a control character", "a text file")
    words = [word for word in text.replace("\t", " ").split(" ") if word]
    if not words or words[0].startswith("#"):
        return None
    name = words[0]
    if len(words) > MAX_WORDS and name != "sh" and name not in NOTES:
        problem = f"{len(words)} words in a line"
        raise ScenarioError(path, number, problem, f"at most {MAX_WORDS}")
    if name in NOTES:
        return None
    if name == "sh":
        return _shell(number, text)
    if name == "c":
        return _of_child(path, number, text)
    if name not in _COMMANDS:
        return cmd.Unknown(number, text)
    read, usage = _COMMANDS[name]
    cursor = Words(path, number, text, words, usage)
    command = read(cursor)
    cursor.end()
    return command


def _shell(number: int, text: str) -> Command | None:
    """What a shell line does that later answers show; everything else about it is dropped."""
    if "/ksm/run" in text:
        return cmd.MachineCommand(number, text, "ksm")
    if found := HUGEPAGES.search(text):
        return cmd.MachineCommand(number, text, "hugepages", int(found[1]))
    if found := TRANSPARENT.search(text):
        zero = 2 * ("echo 1 > /sys/kernel/mm/transparent_hugepage/use_zero_page" in text)
        return cmd.MachineCommand(number, text, "thp", int(found[1] != "never") + zero)
    if found := RECLAIM.search(text):
        return cmd.MachineCommand(number, text, "reclaim", int(found[1]) * UNITS[found[2]])
    if re.search(r"\bswapoff\b", text):
        return cmd.MachineCommand(number, text, "swapoff")
    return None


def _of_child(path: str, number: int, text: str) -> Command | None:
    """``c COMMAND``: the answer repeats the text behind the ``c``."""
    rest = text.partition("c ")[2]
    if rest.startswith("exit"):
        return cmd.ChildCommand(number, text, None)
    command = _line(path, number, rest.encode())
    if command is None:
        return None
    if isinstance(command, cmd.GuestCommand | cmd.ChildCommand | cmd.Fork | cmd.Peek | cmd.Poke):
        problem = f"the child cannot execute {rest!r}"
        raise ScenarioError(path, number, problem, "a command about memory")
    return cmd.ChildCommand(number, rest, command)
