"""Recording a real program: its loads, stores and heap events, as one trace.

The program runs under valgrind, whose tool lackey prints every access in order. Its heap is not
lackey's business, so a small wrapper of the malloc family (``preload.c`` beside this file, compiled
when it is needed) is preloaded into the program and reports each call as stores to addresses that
nothing else uses: heap events and accesses arrive as one stream. The wrapper's first comment has
the protocol.

What is recorded is every access of the program itself, from the dynamic loader's first on. What the
program's allocator does for itself is left out, because replay puts another allocator in its place;
children that the program starts run, but are not recorded.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from tagvisor import _native
from tagvisor.errors import RecordError
from tagvisor.trace.format import Columns, TraceInfo, TraceWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["RecordProgress", "Recording", "record"]

_CHUNK = 1 << 20
_PATIENCE = 5.0  # seconds between asking valgrind to end and ending it


@dataclass(frozen=True, slots=True)
class RecordProgress:
    """How far a recording is."""

    accesses: int
    """Loads and stores recorded."""
    heap_events: int
    """Allocations, releases and resizes recorded."""
    pages: int
    """Distinct pages touched."""
    seconds: float
    """Since the start."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A finished recording.

    Attributes:
        path: The trace.
        info: What it is about.
        exit_status: The program's exit status, negative for the signal that ended it, and None when
            the limit of accesses ended the recording first.
        seconds: How long it took.
    """

    path: Path
    info: TraceInfo
    exit_status: int | None
    seconds: float


def record(
    command: Sequence[str],
    output: str | os.PathLike[str],
    *,
    max_accesses: int | None = None,
    note: str = "",
    progress: Callable[[RecordProgress], None] | None = None,
) -> Recording:
    """Runs a program and records its accesses and heap events.

    The program has this process's input, output and environment; its exit status is passed through
    in the result. The trace appears at ``output`` when the program has ended, and not at all when
    something fails or the caller is interrupted.

    Args:
        command: The program, looked up in ``PATH``, and its arguments.
        output: The trace to write.
        max_accesses: End the program after that many loads and stores.
        note: For the trace's reader.
        progress: Called about four times a second.

    Raises:
        RecordError: The program cannot be recorded; the error says what to install or to change.
    """
    if not command:
        raise RecordError(
            "no program was given", "name it after --: tagvisor record -- PROGRAM ARGS"
        )
    if max_accesses is not None and max_accesses < 1:
        raise RecordError(f"max_accesses={max_accesses}", "record at least one access")
    _check_platform()
    program = _find(command[0])
    valgrind = _tool("valgrind", "valgrind")
    directory = Path(output).absolute().parent
    if not directory.is_dir():
        raise RecordError(f"{directory} is not a directory", "write the trace to one that exists")
    with (
        tempfile.TemporaryDirectory(prefix="tagvisor-record-") as scratch,
        TraceWriter(output) as writer,
    ):
        wrapper = _compile_wrapper(Path(scratch))
        start = time.monotonic()
        session = _Session(writer, max_accesses, progress, start)
        status = session.run([valgrind, program, *command[1:]], wrapper)
        info = session.info(command, status, _generator(valgrind), note)
        writer.close(info)
    return Recording(Path(output), info, status, time.monotonic() - start)


class _Session:
    """One run of valgrind: its text read, its events written."""

    def __init__(
        self,
        writer: TraceWriter,
        max_accesses: int | None,
        progress: Callable[[RecordProgress], None] | None,
        start: float,
    ) -> None:
        self._writer = writer
        self._importer = _native.LackeyImporter(max_accesses)
        self._progress = progress
        self._start = start
        self._told = start
        self._events = 0

    def run(self, command: list[str], wrapper: Path) -> int | None:
        """Runs valgrind to its end, or to the limit; the program's exit status."""
        valgrind, *program = command
        source, sink = os.pipe()
        with os.fdopen(source, "rb", buffering=0) as text:
            try:
                fcntl.fcntl(source, fcntl.F_SETPIPE_SZ, _CHUNK)
                child = subprocess.Popen(  # noqa: S603 - running the named program is the task
                    [
                        valgrind,
                        "--tool=lackey",
                        "--trace-mem=yes",
                        "--basic-counts=no",
                        "--child-silent-after-fork=yes",
                        f"--log-fd={sink}",
                        *program,
                    ],
                    env=_environment(wrapper),
                    pass_fds=(sink,),
                )
            finally:
                os.close(sink)
            try:
                return self._follow(child, text.fileno())
            finally:
                _end(child)

    def _follow(self, child: subprocess.Popen[bytes], text: int) -> int | None:
        while chunk := os.read(text, _CHUNK):
            self._importer.feed(chunk)
            columns = Columns(*self._importer.drain())
            self._events += len(columns.op)
            self._writer.write(columns)
            self._tell()
            if self._importer.full:
                return None
        status = child.wait()
        self._check(status)
        return status

    def _tell(self) -> None:
        now = time.monotonic()
        if self._progress is None or now - self._told < 0.25:
            return
        self._told = now
        tally = self._importer.tally()
        self._progress(
            RecordProgress(
                accesses=tally["loads"] + tally["stores"],
                heap_events=tally["mallocs"] + tally["frees"] + tally["reallocs"],
                pages=tally["pages"],
                seconds=now - self._start,
            )
        )

    def _check(self, status: int) -> None:
        """A run without a word from the wrapper is none of a program that can be recorded."""
        if self._importer.heap_seen:
            return
        if not self._events:
            said = "; ".join(self._importer.messages[:3]) or f"it ended with status {status}"
            raise RecordError(f"valgrind could not run the program ({said})", "run it alone first")
        raise RecordError(
            "the program did not load the heap wrapper",
            "record a dynamically linked program, not a static or set-user-ID one",
        )

    def info(
        self, command: Sequence[str], status: int | None, generator: str, note: str
    ) -> TraceInfo:
        """What the trace will say about itself."""
        tally = self._importer.tally()
        tally.pop("lines")
        return TraceInfo(
            program=Path(command[0]).name,
            command=tuple(command),
            generator=generator,
            note=note,
            complete=status is not None,
            exit_status=status,
            events=self._events,
            **tally,
        )


def _end(child: subprocess.Popen[bytes]) -> None:
    """Sees that the process is gone, whatever ended the recording."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _check_platform() -> None:
    if sys.platform != "linux" or platform.machine() not in {"x86_64", "AMD64"}:
        raise RecordError(
            f"recording runs on x86-64 Linux, this is {platform.machine()} {sys.platform}",
            "record there and replay the trace here",
        )


def _find(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise RecordError(f"{program}: no such program", "give its path, or a name that PATH finds")
    return found


def _tool(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RecordError(
            f"{name} is not installed",
            f"install it, on Debian and Ubuntu with: apt-get install {package}",
        )
    return found


def _compile_wrapper(scratch: Path) -> Path:
    compiler = _tool("cc", "gcc libc6-dev")
    library = scratch / "tagvisor-heap.so"
    source = resources.files("tagvisor.trace").joinpath("preload.c")
    with resources.as_file(source) as path:
        built = subprocess.run(  # noqa: S603 - a compiler on our own source
            [
                compiler,
                "-O2",
                "-fPIC",
                "-shared",
                "-pthread",
                "-fvisibility=hidden",
                "-fno-builtin",
                f"-DTAGVISOR_WINDOW={_native.HEAP_WINDOW:#x}",
                "-o",
                str(library),
                str(path),
                "-ldl",
            ],
            check=False,
            capture_output=True,
            text=True,
        )
    if built.returncode:
        errors = [line for line in built.stderr.splitlines() if "error" in line]
        reason = errors[0] if errors else "no reason given"
        raise RecordError(
            f"cc could not build the heap wrapper ({reason})",
            "install the C library's headers, on Debian and Ubuntu with: apt-get install libc6-dev",
        )
    return library


def _environment(wrapper: Path) -> dict[str, str]:
    environment = dict(os.environ)
    others = environment.get("LD_PRELOAD")
    environment["LD_PRELOAD"] = f"{wrapper}:{others}" if others else str(wrapper)
    return environment


def _generator(valgrind: str) -> str:
    answer = subprocess.run(  # noqa: S603 - the tool that was just used
        [valgrind, "--version"], check=False, capture_output=True, text=True
    )
    return f"tagvisor {_native.__version__}, {answer.stdout.strip() or 'valgrind'} lackey"
