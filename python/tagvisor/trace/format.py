"""The trace file: one ordered stream of loads, stores and heap events, as Parquet.

A trace is a Parquet file with three columns of fixed width, one row an event, in the program's
order:

======== ========== =====================================================================
column   type       meaning
======== ========== =====================================================================
``op``   ``uint8``  0 load, 1 store, 2 malloc, 3 free, 4 realloc-from, 5 realloc
``size`` ``uint32`` bytes accessed or asked for; an allocation of 4 GiB or more saturates
``step`` ``int64``  the event's address minus the address of the row before it; in the first
                    row of a row group, the address itself
======== ========== =====================================================================

The address is the first byte accessed, or the pointer that the allocator returned. A realloc has
two pointers and is two rows: realloc-from with the old pointer, then realloc with the new one.
Addresses are the program's own, below 2**48 and without tags: replay chooses the tags.

Steps instead of addresses, because programs repeat themselves in loops over different addresses:
recordings of sqlite3 take 0.35 to 0.41 bytes an event this way with zstd, 0.48 to 1.0 as addresses,
and 0.9 to 1.9 as addresses in Parquet's own delta encoding, whose bit packing hides the repetition
from zstd.

What the file is about stands in its key-value metadata, as one JSON object under ``tagvisor.trace``
(`TraceInfo`). Row groups hold 2**18 events, so a reader streams; pages carry checksums, so damage
is found instead of replayed. Any Parquet reader opens it: nothing about the container is our own.

A file is written under a temporary name beside its target, flushed to the disk and then renamed: at
no moment does a half-written trace carry the name that was asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tagvisor.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    import numpy.typing as npt

__all__ = [
    "BATCH_EVENTS",
    "SCHEMA_VERSION",
    "Columns",
    "Trace",
    "TraceInfo",
    "TraceWriter",
    "open_trace",
]

SCHEMA_VERSION = 1
"""The version this module writes, and the only one it reads."""

BATCH_EVENTS = 1 << 18
"""Events of a row group, and so of a batch."""

_ZSTD_LEVEL = 9  # a recording is written on one processor while valgrind needs another
_METADATA_KEY = b"tagvisor.trace"
_SCHEMA = pa.schema(
    [
        pa.field("op", pa.uint8(), nullable=False),
        pa.field("size", pa.uint32(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),
    ]
)
_EXPECTED = "a trace that `tagvisor record` wrote"


class Columns(NamedTuple):
    """Events as arrays of one length."""

    op: npt.NDArray[np.uint8]
    """What each does."""
    size: npt.NDArray[np.uint32]
    """Bytes."""
    addr: npt.NDArray[np.uint64]
    """Where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceInfo:
    """What a trace is about; the file's metadata, field by field."""

    program: str
    """The program's name."""
    command: tuple[str, ...]
    """The program and its arguments, as they were run."""
    generator: str
    """What made the trace, with versions."""
    note: str = ""
    """Whatever the maker wants a reader to know."""
    complete: bool = True
    """False when recording ended before the program did."""
    exit_status: int | None = None
    """The program's exit status, negative for a signal; None when it was not left to end."""
    events: int
    """Rows."""
    loads: int
    stores: int
    mallocs: int
    frees: int
    reallocs: int
    allocator_accesses: int = 0
    """Accesses of the program's own allocator, which are left out."""
    pages: int
    """Distinct 4 KiB pages that the events touch."""
    schema: int = SCHEMA_VERSION
    """The version of the format."""
    granule: int = 16
    """Bytes that share a tag; allocations were rounded up to it while recording."""
    page: int = 4096
    """Bytes of a page."""

    @property
    def accesses(self) -> int:
        """Loads and stores."""
        return self.loads + self.stores


class TraceWriter:
    """Writes a trace; a context manager that leaves either the whole file or none.

    The file appears at `close`. Leaving the ``with`` block without it, by an exception or
    otherwise, removes what was written.

    Args:
        path: The file to write; an existing one is replaced at the end.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        handle, name = tempfile.mkstemp(
            dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".partial"
        )
        self._partial = Path(name)
        self._file = os.fdopen(handle, "wb")
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[Columns] = []
        self._rows = 0
        self._open()

    def _open(self) -> None:
        self._writer = pq.ParquetWriter(
            self._file,
            _SCHEMA,
            compression="zstd",
            compression_level=_ZSTD_LEVEL,
            use_dictionary=["op", "size"],
            column_encoding={"step": "PLAIN"},
            write_page_checksum=True,
        )

    def __enter__(self) -> Self:
        """The writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Removes an unfinished file."""
        if self._writer is not None:
            # It writes its footer into a file that goes; left to the collector, it would complain.
            with contextlib.suppress(pa.ArrowException, OSError, ValueError):
                self._writer.close()
            self._writer = None
        self._file.close()
        self._partial.unlink(missing_ok=True)

    def write(self, columns: Columns) -> None:
        """Adds events; they are collected into row groups of `BATCH_EVENTS`."""
        self._waiting.append(columns)
        self._rows += len(columns.op)
        while self._rows >= BATCH_EVENTS:
            self._write_group(BATCH_EVENTS)

    def close(self, info: TraceInfo) -> None:
        """Ends the trace and gives it its name."""
        if self._writer is None:
            message = "the trace is closed already"
            raise ValueError(message)
        if self._rows:
            self._write_group(self._rows)
        self._writer.add_key_value_metadata({_METADATA_KEY: json.dumps(asdict(info)).encode()})
        self._writer.close()
        self._writer = None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        # mkstemp makes files for their owner only; a trace is as readable as any other file.
        umask = os.umask(0)
        os.umask(umask)
        self._partial.chmod(0o666 & ~umask)
        self._partial.replace(self.path)
        with contextlib.suppress(OSError):  # a directory that cannot be synced is no lost trace
            directory = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def _write_group(self, rows: int) -> None:
        whole = [np.concatenate(column) for column in zip(*self._waiting, strict=True)]
        op, size, addr = (column[:rows] for column in whole)
        self._waiting = [Columns(*(column[rows:] for column in whole))]
        self._rows -= rows
        step = np.diff(addr.astype(np.int64), prepend=np.int64(0))
        if self._writer is not None:
            table = pa.table([op, size, step], schema=_SCHEMA)
            self._writer.write_table(table, row_group_size=rows)


class Trace:
    """A trace that was opened and found whole.

    Attributes:
        path: The file.
        info: What it is about.
    """

    def __init__(self, path: Path, info: TraceInfo) -> None:
        self.path = path
        self.info = info

    def batches(self) -> Iterator[Columns]:
        """The events in order, a row group at a time.

        Yields:
            Columns of at most `BATCH_EVENTS` events.

        Raises:
            TraceError: The data is damaged.
        """
        with _reading(self.path), self.path.open("rb") as file:
            # No threads and no reading ahead: three columns gain nothing from them, and a reader
            # left in the middle, by Ctrl-C for one, leaves no thread behind at exit.
            parquet = pq.ParquetFile(file, page_checksum_verification=True, pre_buffer=False)
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group, use_threads=False).combine_chunks()
                op, size, step = (table.column(name).to_numpy() for name in _SCHEMA.names)
                yield Columns(op, size, np.cumsum(step, dtype=np.int64).view(np.uint64))

    def __repr__(self) -> str:
        return f"Trace({str(self.path)!r}, {self.info.program}, {self.info.events} events)"


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TraceError(str(path), f"damaged: {problem}", _EXPECTED) from error


def open_trace(path: str | os.PathLike[str]) -> Trace:
    """Opens a trace and checks everything that can be checked without reading the events.

    Raises:
        TraceError: No such file, not a trace, cut short, or of another version of the format.
    """
    path = Path(path)
    _check_container(path)
    try:
        with path.open("rb") as file:
            parquet = pq.ParquetFile(file, pre_buffer=False)
            schema, metadata = parquet.schema_arrow, parquet.metadata
    except (pa.ArrowException, OSError) as error:
        raise TraceError(str(path), "truncated or damaged: no Parquet footer", _EXPECTED) from error
    raw = (metadata.metadata or {}).get(_METADATA_KEY)
    if raw is None:
        problem = "a Parquet file, but not a tagvisor trace"
        raise TraceError(str(path), problem, _EXPECTED)
    info = _parse_info(path, raw)
    if not schema.equals(_SCHEMA):
        given = ", ".join(f"{field.name} {field.type}" for field in schema)
        expected = ", ".join(f"{field.name} {field.type}" for field in _SCHEMA)
        raise TraceError(str(path), f"its columns are {given}", f"the columns {expected}")
    if info.events != metadata.num_rows:
        problem = f"it holds {metadata.num_rows} events where its metadata says {info.events}"
        raise TraceError(str(path), problem, _EXPECTED)
    return Trace(path, info)


def _check_container(path: Path) -> None:
    """Tells apart what is no Parquet file, in words better than a decoder's."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
            length = file.seek(0, os.SEEK_END)
            file.seek(max(length - 4, 0))
            tail = file.read(4)
    except FileNotFoundError as error:
        raise TraceError(str(path), "no such file", "the path of a trace") from error
    except OSError as error:
        problem = error.strerror or str(error)
        raise TraceError(str(path), problem, "a readable file") from error
    if not head:
        raise TraceError(str(path), "the file is empty", _EXPECTED)
    if head != b"PAR1":
        raise TraceError(str(path), "not a Parquet file", _EXPECTED)
    if tail != b"PAR1" or length < 12:
        raise TraceError(str(path), "truncated: the end of the file is missing", _EXPECTED)


def _parse_info(path: Path, raw: bytes) -> TraceInfo:
    try:
        given = json.loads(raw)
    except ValueError as error:
        raise TraceError(str(path), "its metadata is not JSON", _EXPECTED) from error
    if not isinstance(given, dict):
        raise TraceError(str(path), "its metadata is not a JSON object", _EXPECTED)
    version = given.get("schema")
    if version != SCHEMA_VERSION:
        problem = f"trace format version {version!r}"
        raise TraceError(str(path), problem, f"version {SCHEMA_VERSION}")
    for constant, value in (("granule", 16), ("page", 4096)):
        if given.get(constant) != value:
            raise TraceError(
                str(path), f"{constant}={given.get(constant)!r}", f"{constant}={value}"
            )
    known: dict[str, Any] = {}
    for field in fields(TraceInfo):
        stated = given.get(field.name)
        if not _FIELD_TYPES[str(field.type)](stated):
            problem = f"its metadata says {field.name}={stated!r}"
            raise TraceError(str(path), problem, f"{field.name} of type {field.type}")
        known[field.name] = stated
    known["command"] = tuple(known["command"])
    return TraceInfo(**known)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


_FIELD_TYPES: dict[str, Callable[[object], bool]] = {
    "int": _is_count,
    "int | None": lambda value: value is None or type(value) is int,
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "tuple[str, ...]": _is_words,
}
