"""The built-in benchmarks: how fast this machine runs the model, beside its own native floor.

Each benchmark alternates two loops in one process: the machine's, and the least that any
implementation of the same operation could do (for a checked access: read the record, look the tag
up, compare). Times differ from machine to machine; the ratio is what is promised, and each row says
which.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tagvisor import _native
from tagvisor.errors import ArgumentError
from tagvisor.pe import Pe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.table import Table

__all__ = ["BenchRow", "Benchmark", "benchmarks", "run", "table", "to_json"]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark that can be run."""

    name: str
    """What ``tagvisor bench`` calls it."""
    unit: str
    """One operation, in a word."""
    summary: str
    """What is measured, and what the floor is."""
    goal_ratio: float
    """The ratio to the floor that is to be reached."""
    qemu: str
    """What QEMU needs for the same, in words: measured once, on another machine; empty if not."""


@dataclass(frozen=True, slots=True)
class BenchRow:
    """A benchmark's figures."""

    benchmark: Benchmark
    """Which one."""
    ours_ns: float
    """Nanoseconds per operation, median of the rounds."""
    floor_ns: float
    """Nanoseconds per operation of the floor, likewise."""

    @property
    def ratio(self) -> float:
        """How many floors ours costs."""
        return self.ours_ns / self.floor_ns

    @property
    def reached(self) -> bool:
        """Whether the goal is met."""
        return self.ratio <= self.benchmark.goal_ratio


PYTHON_LOAD = Benchmark(
    "python.load",
    "call",
    "Pe.load, a TLB hit and checked; floor: a call of a native method that does nothing",
    3.0,
    "",
)
PYTHON_CHECK = Benchmark(
    "python.check",
    "access",
    "Pe.check_tags of an array over 64 MiB; floor: the same in Rust (access.check), and 10 ns",
    1.0,
    "",
)

ROUNDS = 7
MEMORY, REGION, TABLE = 0x4000_0000, 64 << 20, 0x7000_0000


def benchmarks() -> list[Benchmark]:
    """All benchmarks, in the order of reports."""
    native = [Benchmark(*fields) for fields in _native.benchmarks()]
    return [*native, PYTHON_LOAD, PYTHON_CHECK]


def run(names: Sequence[str] = (), *, seed: int = 1) -> Iterator[BenchRow]:
    """Runs benchmarks, one row at a time.

    Args:
        names: Which; all when empty. The part before a name's dot, such as ``replay``, stands for
            all of that group.
        seed: Decides addresses and tags.

    Raises:
        ArgumentError: No benchmark of that name; raised before any is run.
    """
    return _run(_chosen(names), seed)


def _chosen(names: Sequence[str]) -> list[Benchmark]:
    known = benchmarks()
    if not names:
        return known
    chosen: list[Benchmark] = []
    for name in names:
        found = [one for one in known if one.name == name or one.name.startswith(f"{name}.")]
        if not found:
            raise ArgumentError("name", name, "one of " + ", ".join(one.name for one in known))
        chosen.extend(one for one in found if one not in chosen)
    return chosen


def _run(chosen: list[Benchmark], seed: int) -> Iterator[BenchRow]:
    python = {PYTHON_LOAD: _load, PYTHON_CHECK: _check_tags}
    for benchmark in chosen:
        measure = python.get(benchmark)
        figures = _native.bench(benchmark.name, seed) if measure is None else measure(seed)
        if figures is not None:
            yield BenchRow(benchmark, *figures)


def _element() -> Pe:
    """A processing element with stage 1 on: a GiB of Tagged memory as one block, checked."""
    pe = Pe([(MEMORY, 1 << 30, "ram")], tlb="on")
    pe["MAIR_EL1"] = 0xF0
    pe["TCR_EL1"] = 25 | 2 << 32 | 3 << 37
    pe["TTBR0_EL1"] = TABLE
    pe.write(TABLE + 8, (MEMORY | 1 | 1 << 10 | 3 << 8).to_bytes(8, "little"))
    pe["HCR_EL2"] = 1 << 31 | 1 << 56
    pe["SCTLR_EL1"] = 1 | 1 << 2 | 1 << 40 | 1 << 43
    return pe


def _median_ns(work: Callable[[], object], operations: int) -> float:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter_ns()
        work()
        times.append((time.perf_counter_ns() - start) / operations)
    return statistics.median(times)


def _load(seed: int) -> tuple[float, float]:
    del seed  # one address is as good as another
    pe, calls = _element(), range(100_000)
    pe.store(MEMORY, 1)

    def loads() -> None:
        load = pe.load
        for _ in calls:
            load(MEMORY)

    def floor() -> None:
        nothing = pe._nothing  # noqa: SLF001 - the floor is ours
        for _ in calls:
            nothing(MEMORY)

    return _median_ns(loads, len(calls)), _median_ns(floor, len(calls))


def _check_tags(seed: int) -> tuple[float, float]:
    pe = _element()
    pointers = np.arange(MEMORY, MEMORY + REGION, 8, dtype=np.uint64)
    pe.check_tags(pointers)
    ours = _median_ns(lambda: pe.check_tags(pointers), len(pointers))
    rust = _native.bench("access.check", seed)
    return ours, (rust[0] if rust is not None else 0.0) + 10


def to_json(row: BenchRow) -> str:
    """A row as one JSON object on one line."""
    return json.dumps(
        {
            "name": row.benchmark.name,
            "unit": row.benchmark.unit,
            "ours_ns": round(row.ours_ns, 3),
            "floor_ns": round(row.floor_ns, 3),
            "ratio": round(row.ratio, 3),
            "goal_ratio": row.benchmark.goal_ratio,
        }
    )


def table(rows: Iterable[BenchRow]) -> Table:
    """Rows as a table for people."""
    from rich.table import Table  # noqa: PLC0415 - rich only where a table is wanted

    result = Table(title="ours beside the native floor, same process, medians")
    result.add_column("benchmark", no_wrap=True)
    for heading in ("ours", "floor", "ratio", "goal"):
        result.add_column(heading, justify="right", no_wrap=True)
    result.add_column("QEMU, elsewhere")
    result.add_column("what")
    for row in rows:
        colour = "green" if row.reached else "red"
        result.add_row(
            row.benchmark.name,
            f"{row.ours_ns:.2f} ns",
            f"{row.floor_ns:.2f} ns",
            f"[{colour}]{row.ratio:.2f}x[/]",
            f"{row.benchmark.goal_ratio:g}x",
            row.benchmark.qemu,
            f"per {row.benchmark.unit}: {row.benchmark.summary}",
        )
    return result
