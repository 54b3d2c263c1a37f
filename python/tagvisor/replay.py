"""Replaying a recorded program in a guest whose host is under memory pressure.

Every access of the trace goes through the machine: TLB, stage 2, the host's fault path, tag check.
The program's allocations get tags as Android's allocator gives them, its pages lie in an MTE guest,
and the host reclaims when fewer pages may be resident than the program touches::

    from tagvisor.replay import replay

    result = replay("sqlite3.parquet", policy="linux-6.12", limit=0.5)
    print(result.counters["swap_outs"], result.counters["saved_tag_bytes_peak"])

Equal arguments give equal counters; only the times differ from run to run.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tagvisor import _check, _native
from tagvisor.errors import ArgumentError, TraceError
from tagvisor.policy import Policy, policy as policy_named
from tagvisor.trace.format import TraceInfo, open_trace

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

__all__ = ["Mismatch", "ReplayProgress", "ReplayResult", "Series", "replay"]

_PAGE = 4096
_SLACK_PAGES = 16  # a trace's page count is exact; room for one that another tool made
_MOST_PAGES = (1 << 27) - 1  # 512 GiB of guest memory
_SAMPLES = 512
_U64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Mismatch:
    """An access whose pointer's tag was not the memory's: a bug of the program, or a lost tag."""

    event: int
    """The event's number in the trace, from 0."""
    address: int
    """The first byte accessed, as the program addressed it."""
    size: int
    """Bytes accessed."""
    write: bool
    """A store (True) or a load."""
    logical_tag: int
    """The pointer's tag."""
    allocation_tag: int
    """The tag of the first granule that differed."""
    place: str
    """What the address is to the program's heap, in words."""

    def __str__(self) -> str:
        what = "store to" if self.write else "load from"
        return (
            f"event {self.event}: {self.size}-byte {what} {self.address:#x} with tag "
            f"{self.logical_tag:x}, memory has {self.allocation_tag:x}: {self.place}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """Figures over the replay, one element a sample, all arrays of one length."""

    accesses: npt.NDArray[np.uint64]
    """Loads and stores done."""
    saved_tag_bytes: npt.NDArray[np.uint64]
    """Memory that saved tags take."""
    resident_pages: npt.NDArray[np.uint64]
    """Pages resident."""
    swap_outs: npt.NDArray[np.uint64]
    """Pages written to swap so far."""
    stage2_faults: npt.NDArray[np.uint64]
    """Stage-2 faults so far."""


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """How far a replay is."""

    events: int
    """Events done."""
    total: int
    """Events of the trace."""


@dataclass(frozen=True, slots=True, eq=False)
class ReplayResult:
    """What a replay cost and found."""

    info: TraceInfo
    """The trace."""
    policy: Policy
    """The host's policy."""
    limit_pages: int | None
    """Pages that were allowed to be resident; None for no limit."""
    counters: Mapping[str, int]
    """Totals, by name: ``accesses``, ``mismatches``, ``stage2_faults``, ``swap_outs``, ..."""
    mismatches: tuple[Mismatch, ...]
    """The first hundred."""
    series: Series
    """The same figures over time."""
    violations: tuple[tuple[str, str], ...]
    """Property and summary of what the ledger noticed; empty when it was off."""
    seconds: float
    """How long it took, reading the trace included."""
    interrupted: bool
    """Ctrl-C ended it; everything here is as of then."""

    @property
    def accesses_per_second(self) -> float:
        """Loads and stores replayed in a second."""
        return self.counters["accesses"] / self.seconds if self.seconds > 0 else 0.0


def replay(
    path: str | os.PathLike[str],
    *,
    policy: Policy | str = "linux-6.12",
    memory: str | int | None = None,
    limit: float | None = None,
    seed: int = 1,
    ledger: bool = False,
    progress: Callable[[ReplayProgress], None] | None = None,
) -> ReplayResult:
    """Replays a trace.

    Ctrl-C ends the replay, not the program: the result has the figures so far and ``interrupted``
    set.

    Args:
        path: A trace that `tagvisor record` wrote.
        policy: What the host does, by profile or as a value.
        memory: The host's memory; None for as much as the program needs.
        limit: Pages that may be resident at once, as a control group limits them: a whole number of
            pages, or a fraction (a float up to 1.0) of the pages that the program touches.
        seed: Decides the allocations' tags.
        ledger: Judge every step too; slower.
        progress: Called after each batch of events.

    Raises:
        TraceError: The file is not a whole trace, or holds what no program does.
        ArgumentError: An argument cannot be.
    """
    if isinstance(policy, str):
        policy = policy_named(policy)
    elif not isinstance(policy, Policy):
        raise ArgumentError("policy", policy, "a profile's name or a tagvisor.Policy")
    if policy.decides:
        raise ArgumentError("policy", policy, "a policy of plain values: a replay asks nobody")
    seed = _check.integer("seed", seed, 0, _U64)
    ledger = _check.flag("ledger", ledger)
    trace = open_trace(path)
    pages = min(trace.info.pages + _SLACK_PAGES, _MOST_PAGES)
    limit_pages = _limit(limit, trace.info.pages)
    # Page tables, the zero page and what reclaim keeps free come on top of the program's own pages.
    ample = (pages + pages // 64 + 1024) * _PAGE
    engine = _native.Replay(
        policy.name,
        policy.values,
        memory=ample if memory is None else _check.size("memory", memory),
        swap=(pages + 1024) * _PAGE,
        guest_pages=pages,
        limit=limit_pages,
        tlb_bits=min(max(math.ceil(math.log2(pages)), 4), 20),
        ledger=ledger,
        seed=seed,
        sample_every=max(trace.info.events // _SAMPLES, 1),
    )
    interrupted = False
    done = 0
    start = time.perf_counter()
    try:
        for columns in trace.batches():
            problem = engine.step(*columns)
            if problem is not None:
                raise TraceError(str(trace.path), problem, "events that a program can make")
            done += len(columns.op)
            if progress is not None:
                progress(ReplayProgress(done, trace.info.events))
    except KeyboardInterrupt:
        interrupted = True
    seconds = time.perf_counter() - start
    return ReplayResult(
        info=trace.info,
        policy=policy,
        limit_pages=limit_pages,
        counters=engine.counters(),
        mismatches=tuple(Mismatch(*fields) for fields in engine.mismatches()),
        series=Series(**engine.samples()),
        violations=tuple(engine.violations()),
        seconds=seconds,
        interrupted=interrupted,
    )


def _limit(limit: object, pages: int) -> int | None:
    """The limit in pages; the host needs two, to fault one page while using another."""
    expected = "None, a whole number of pages from 2 on, or a fraction above 0.0 and up to 1.0"
    if limit is None:
        return None
    if isinstance(limit, float):
        if 0.0 < limit <= 1.0:
            return max(math.ceil(limit * pages), 2)
    elif isinstance(limit, int | np.integer) and not isinstance(limit, bool) and 2 <= limit <= _U64:
        return int(limit)
    raise ArgumentError("limit", limit, expected)
