"""Replay: planted bugs are found, pressure costs no tags, and Ctrl-C keeps the figures so far."""

from __future__ import annotations

import shutil
import signal
import subprocess
import textwrap
import threading
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import tagvisor as tv
from tagvisor.errors import ArgumentError, TraceError, UnknownProfileError
from tagvisor.replay import ReplayProgress, ReplayResult, replay
from tagvisor.trace.format import Columns, TraceInfo, TraceWriter, open_trace
from tagvisor.trace.record import record

if TYPE_CHECKING:
    from collections.abc import Sequence

LOAD, STORE, MALLOC, FREE, REALLOC_FROM, REALLOC = range(6)
HEAP = 0x5555_5555_6010


@pytest.fixture(scope="session")
def shipped() -> Path:
    return Path(str(resources.files("tagvisor").joinpath("data", "sqlite3-churn.parquet")))


def write(path: Path, rows: Sequence[tuple[int, int, int]], *, pages: int = 1000) -> Path:
    op, size, addr = zip(*rows, strict=True)
    columns = Columns(np.array(op, np.uint8), np.array(size, np.uint32), np.array(addr, np.uint64))
    info = TraceInfo(
        program="made",
        command=("made",),
        generator="a test",
        events=len(rows),
        loads=len(rows),
        stores=0,
        mallocs=0,
        frees=0,
        reallocs=0,
        pages=pages,
    )
    with TraceWriter(path) as writer:
        writer.write(columns)
        writer.close(info)
    return path


def long_trace(path: Path) -> Path:
    """Allocations on 64 pages, and loads that keep coming back to each: 8 million events."""
    rng = np.random.default_rng(1)
    born = np.arange(64, dtype=np.uint64) * np.uint64(4096) + np.uint64(HEAP)
    loads = rng.choice(born, 8_000_000)
    op = np.concatenate([np.full(64, MALLOC, np.uint8), np.zeros(len(loads), np.uint8)])
    size = np.concatenate([np.full(64, 4000, np.uint32), np.full(len(loads), 8, np.uint32)])
    info = TraceInfo(
        program="made",
        command=("made",),
        generator="a test",
        events=len(op),
        loads=len(loads),
        stores=0,
        mallocs=64,
        frees=0,
        reallocs=0,
        pages=65,
    )
    with TraceWriter(path) as writer:
        writer.write(Columns(op, size, np.concatenate([born, loads])))
        writer.close(info)
    return path


def comparable(result: ReplayResult) -> tuple[Any, ...]:
    series = result.series
    return (
        dict(result.counters),
        result.mismatches,
        series.accesses.tolist(),
        series.saved_tag_bytes.tolist(),
        series.swap_outs.tolist(),
    )


def test_the_shipped_trace_is_large_small_and_clean(shipped: Path) -> None:
    result = replay(shipped)
    assert result.counters["accesses"] >= 1_000_000
    assert shipped.stat().st_size <= 3_000_000
    assert result.counters["mismatches"] == 0
    assert result.counters["invalid_frees"] == 0
    assert result.counters["events"] == result.info.events
    assert result.counters["accesses"] == result.info.accesses
    assert result.counters["mallocs"] == result.info.mallocs
    assert result.counters["pages"] == result.info.pages
    assert not result.interrupted
    assert result.accesses_per_second > 0


def test_pressure_swaps_and_saves_tags_and_loses_none(shipped: Path) -> None:
    result = replay(shipped, limit=0.5)
    counters = result.counters
    assert result.limit_pages == -(-result.info.pages // 2)
    assert counters["resident_pages"] <= result.limit_pages + 1
    assert counters["swap_outs"] > 50
    assert counters["saved_tag_bytes_peak"] > 0
    assert counters["mismatches"] == 0
    assert result.series.saved_tag_bytes.max() > 0
    assert len(result.series.accesses) > 100
    assert (np.diff(result.series.accesses.astype(np.int64)) >= 0).all()


def test_the_judge_finds_nothing_in_a_policy_that_holds(shipped: Path) -> None:
    assert replay(shipped, limit=0.25, ledger=True).violations == ()


def test_equal_seeds_give_equal_results(shipped: Path) -> None:
    one = replay(shipped, limit=0.3, seed=7)
    two = replay(shipped, limit=0.3, seed=7)
    assert comparable(one) == comparable(two)


def test_limit_is_pages_or_a_fraction(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", [(LOAD, 8, HEAP)] * 10)
    assert replay(path, limit=17).limit_pages == 17
    assert replay(path, limit=0.1).limit_pages == 100
    assert replay(path, limit=1.0).limit_pages == 1000
    assert replay(path).limit_pages is None


PLANTED = """
    #include <stdlib.h>
    int main(int argc, char **argv) {
        volatile char *p = malloc(40), *q = malloc(40);
        p[3] = 1;
        switch (argv[1][0]) {
        case 'u': free((void *)p); p[8] = 1; break;
        case 'o': p[48] = 1; break;
        case 'i': p[41] = 1; break;
        }
        return q[0];
    }
"""


def planted(tmp_path: Path, which: str) -> ReplayResult:
    cc = shutil.which("cc")
    assert cc is not None, "the tests need a C compiler"
    (tmp_path / "p.c").write_text(textwrap.dedent(PLANTED))
    program = str(tmp_path / "p")
    subprocess.run([cc, "-O0", "-w", "-o", program, str(tmp_path / "p.c")], check=True)
    record([program, which], tmp_path / "t.parquet")
    return replay(tmp_path / "t.parquet")


def test_a_planted_use_after_free_is_found(tmp_path: Path) -> None:
    result = planted(tmp_path, "use after free")
    assert result.counters["mismatches"] == 1
    (found,) = result.mismatches
    assert found.write
    assert found.size == 1
    assert found.logical_tag != found.allocation_tag
    assert "8 bytes into an allocation of 40 bytes" in found.place
    assert found.place.endswith("that was freed")


def test_a_planted_overflow_is_found(tmp_path: Path) -> None:
    result = planted(tmp_path, "overflow")
    (found,) = result.mismatches
    assert found.allocation_tag == 0
    assert "8 bytes past the end of an allocation of 40 bytes" in str(found)


@pytest.mark.parametrize("which", ["none", "inside the last granule"])
def test_what_hardware_cannot_see_is_not_reported(tmp_path: Path, which: str) -> None:
    assert planted(tmp_path, which).mismatches == ()


def test_a_double_free_is_counted(tmp_path: Path) -> None:
    rows = [(MALLOC, 40, HEAP), (FREE, 0, HEAP), (FREE, 0, HEAP)]
    counters = replay(write(tmp_path / "t.parquet", rows)).counters
    assert (counters["frees"], counters["invalid_frees"]) == (1, 1)


@pytest.mark.usefixtures("keyboard")
def test_ctrl_c_ends_within_100_ms_with_the_figures_so_far(tmp_path: Path) -> None:
    # Two pages resident: almost every event swaps, the slowest there is.
    path = long_trace(tmp_path / "t.parquet")
    pressed: list[float] = []

    def press() -> None:
        pressed.append(time.perf_counter())
        signal.raise_signal(signal.SIGINT)

    timer = threading.Timer(0.7, press)
    timer.start()
    result = replay(path, limit=2)
    ended = time.perf_counter()
    timer.join()

    assert result.interrupted
    assert ended - pressed[0] < 0.1
    assert 0 < result.counters["events"] < result.info.events
    assert result.counters["swap_outs"] > 0
    assert result.counters["mismatches"] == 0


@pytest.mark.usefixtures("keyboard")
def test_ctrl_c_in_the_callers_progress_is_the_same(shipped: Path) -> None:
    told: list[ReplayProgress] = []

    def progress(now: ReplayProgress) -> None:
        told.append(now)
        if len(told) == 2:
            raise KeyboardInterrupt

    result = replay(shipped, progress=progress)
    assert result.interrupted
    assert result.counters["events"] == told[1].events
    assert told[1].total == result.info.events


def test_progress_ends_at_the_total(shipped: Path) -> None:
    told: list[ReplayProgress] = []
    replay(shipped, progress=told.append)
    assert told[-1].events == told[-1].total == open_trace(shipped).info.events


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ((9, 8, HEAP), "operation 9"),
        ((LOAD, 0, HEAP), "an access of 0 bytes"),
        ((LOAD, 8, 1 << 48), "address 0x1000000000000"),
    ],
)
def test_rows_that_no_program_makes_are_refused(
    tmp_path: Path, row: tuple[int, int, int], problem: str
) -> None:
    path = write(tmp_path / "t.parquet", [(LOAD, 8, HEAP), row])
    with pytest.raises(TraceError, match="event 1") as caught:
        replay(path)
    assert problem in str(caught.value)


def test_a_trace_that_lies_about_its_pages_is_refused(tmp_path: Path) -> None:
    rows = [(LOAD, 8, HEAP + page * 4096) for page in range(100)]
    path = write(tmp_path / "t.parquet", rows, pages=10)
    with pytest.raises(TraceError, match="more pages than the 26"):
        replay(path)


@pytest.mark.parametrize("limit", [0, 1, -5, 0.0, 1.5, float("nan"), True, "half"])
def test_limits_that_cannot_be_are_refused(tmp_path: Path, limit: Any) -> None:
    path = write(tmp_path / "t.parquet", [(LOAD, 8, HEAP)])
    with pytest.raises(ArgumentError, match="limit="):
        replay(path, limit=limit)


def test_other_arguments_that_cannot_be_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.parquet", [(LOAD, 8, HEAP)])
    with pytest.raises(UnknownProfileError):
        replay(path, policy="linux-99")
    with pytest.raises(ArgumentError, match="seed="):
        replay(path, seed=-1)
    with pytest.raises(ArgumentError, match="memory="):
        replay(path, memory="lots")


def test_policies_show_in_the_counters(shipped: Path) -> None:
    kept = replay(shipped, policy=tv.linux("6.12").replace(K1="slot-free"), limit=0.1)
    dropped = replay(shipped, policy=tv.linux("6.12").replace(K1="restore"), limit=0.1)
    assert kept.counters["swap_outs"] == dropped.counters["swap_outs"]
    assert kept.counters["saved_tag_bytes"] > dropped.counters["saved_tag_bytes"]
