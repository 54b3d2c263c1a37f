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

from difflib import get_close_matches
from typing import TYPE_CHECKING

from tagvisor.errors import ScenarioError
from tagvisor.scenario import commands as cmd
from tagvisor.scenario.guest_words import copytags, create_vm, destroy, guest, slot
from tagvisor.scenario.words import Words

if TYPE_CHECKING:
    from collections.abc import Callable

    from tagvisor.scenario.commands import Command

__all__ = ["parse"]

MAX_WORDS = 16
MAX_BYTES = 1000

# Commands whose answer carries nothing that two systems could agree on; the language drops it.
NOTES = frozenset({"scenario", "echo", "slab", "sleepms", "trace"})

# Words of the language without an answer here yet, and why.
UNMODELLED = {
    "swapout": "leaves the page in the swap cache; evict does not",
    "fork": "one process, one address space so far",
    "c": "one process, one address space so far",
    "peek": "ptrace on a child",
    "poke": "ptrace on a child",
    "dirtylog": "KVM_GET_DIRTY_LOG",
    "syscallrd": "the kernel's own accesses to user memory",
}

# `sh` lines may be ignored, except those that switch on what then changes answers.
SH_THAT_MATTERS = ("/ksm/run", "nr_hugepages", "swapoff", "swapon")

ADVICE = frozenset({"dontneed"})
UNMODELLED_ADVICE = frozenset(
    {
        *("pageout", "free", "cold", "remove", "mergeable", "unmergeable", "hugepage"),
        *("willneed", "poprd", "popwr", "collapse", "hwpoison", "soft_offline"),
    }
)
UNMODELLED_KINDS = frozenset({"shared", "memfd", "memfdp", "file", "filep", "hugetlb", "hugetlbs"})
UNMODELLED_MMAP = ("fd=", "file=", "align2m", "off=")


def mmap(w: Words) -> Command:
    name = w.name("NAME")
    kind = w.word("KIND")
    if kind in UNMODELLED_KINDS:
        w.fail(f"memory of kind {kind!r} is not modelled yet", "anon")
    if kind != "anon":
        w.fail(f"no such kind of memory: {kind!r}", "anon")
    pages = w.dec("PAGES", low=1)
    prot, mte, fixed = "rw", False, None
    for option in w.rest():  # left to right: `none` takes back an earlier `mte`
        match option:
            case "mte":
                mte = True
            case "ro":
                prot = prot.replace("w", "")
            case "none":
                prot, mte = "", False
            case _ if option.startswith("fixed="):
                fixed = w.object_name("fixed=OBJ", option.removeprefix("fixed="))
            case _ if option.startswith(UNMODELLED_MMAP):
                w.fail(f"option {option!r} is not modelled yet")
            case _:
                w.fail(f"no such option: {option!r}")
    return cmd.Mmap(w.line, w.text, name, pages, prot, mte, fixed)


def munmap(w: Words) -> Command:
    return cmd.Munmap(w.line, w.text, w.name("NAME"))


def mprotect(w: Words) -> Command:
    name, page, letters = w.name("NAME"), w.dec("P"), w.word("PROT")
    # Other letters add nothing: `n` alone is PROT_NONE.
    prot = "".join(letter for letter in "rw" if letter in letters)
    return cmd.Mprotect(
        w.line, w.text, name, page, prot, "m" in letters, w.dec("N", low=1, default=1)
    )


def madvise(w: Words) -> Command:
    name, page, advice = w.name("NAME"), w.dec("P"), w.word("WHAT")
    if advice in UNMODELLED_ADVICE:
        w.fail(f"advice {advice!r} is not modelled yet", " or ".join(sorted(ADVICE)))
    known = advice if advice in ADVICE else None
    return cmd.Madvise(w.line, w.text, name, page, known, w.dec("N", low=1, default=1))


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
    if mode in {"async", "none"}:
        w.fail(f"tag check mode {mode!r} is not modelled yet", "sync")
    if mode != "sync":
        w.fail(f"no such tag check mode: {mode!r}", "sync")
    return cmd.TcfSync(w.line, w.text)


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

_COMMANDS: dict[str, tuple[Callable[[Words], Command], str]] = {
    "mmap": (mmap, "mmap NAME anon PAGES [mte] [ro] [none] [fixed=OBJ]"),
    "munmap": (munmap, "munmap NAME"),
    "mprotect": (mprotect, "mprotect NAME P PROT [N], PROT of the letters r w m, or n"),
    "madvise": (madvise, "madvise NAME P dontneed [N]"),
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
    "tcf": (tcf, "tcf sync"),
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
    if len(words) > MAX_WORDS:
        problem = f"{len(words)} words in a line"
        raise ScenarioError(path, number, problem, f"at most {MAX_WORDS}")
    if name in NOTES:
        return None
    if name == "sh":
        _judge_shell(path, number, text)
        return None
    if name not in _COMMANDS:
        raise _no_such_command(path, number, name)
    read, usage = _COMMANDS[name]
    cursor = Words(path, number, text, words, usage)
    command = read(cursor)
    cursor.end()
    return command


def _judge_shell(path: str, number: int, text: str) -> None:
    for word in SH_THAT_MATTERS:
        if word in text:
            problem = f"a shell command that changes later answers ({word}) is not modelled yet"
            raise ScenarioError(path, number, problem, "sh without it")


def _no_such_command(path: str, number: int, name: str) -> ScenarioError:
    known = ", ".join(_COMMANDS)
    if name in UNMODELLED:
        problem = f"command {name!r} is not modelled yet ({UNMODELLED[name]})"
        return ScenarioError(path, number, problem, f"one of {known}")
    near = get_close_matches(name, _COMMANDS, n=1)
    guess = f"{near[0]!r}, or another " if near else ""
    return ScenarioError(path, number, f"no such command: {name!r}", f"{guess}one of {known}")
