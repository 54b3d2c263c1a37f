"""The trace file: what is written is read back, and what is no whole trace is refused in words."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tagvisor.errors import TraceError
from tagvisor.trace.format import BATCH_EVENTS, Columns, TraceInfo, TraceWriter, open_trace

if TYPE_CHECKING:
    from pathlib import Path

_KEY = b"tagvisor.trace"


def make_columns(events: int, seed: int = 1) -> Columns:
    rng = np.random.default_rng(seed)
    return Columns(
        rng.integers(0, 2, events, dtype=np.uint8),
        rng.integers(1, 33, events, dtype=np.uint32),
        rng.integers(0, 1 << 47, events, dtype=np.uint64),
    )


def make_info(events: int) -> TraceInfo:
    return TraceInfo(
        program="made",
        command=("made", "up"),
        generator="a test",
        events=events,
        loads=events,
        stores=0,
        mallocs=0,
        frees=0,
        reallocs=0,
        pages=10,
    )


def write(path: Path, columns: Columns) -> TraceInfo:
    info = make_info(len(columns.op))
    with TraceWriter(path) as writer:
        writer.write(columns)
        writer.close(info)
    return info


def rewrite(path: Path, change: dict[str, Any]) -> None:
    """The same events with other metadata."""
    given = json.loads(pq.read_metadata(path).metadata[_KEY])
    metadata = {_KEY: json.dumps(given | change).encode()}
    pq.write_table(pq.read_table(path).replace_schema_metadata(metadata), path)


def read(path: Path) -> Columns:
    batches = list(open_trace(path).batches())
    return Columns(*(np.concatenate(column) for column in zip(*batches, strict=True)))


@pytest.mark.parametrize("events", [1, 1000, BATCH_EVENTS, BATCH_EVENTS * 2 + 7])
def test_what_is_written_is_read_back(tmp_path: Path, events: int) -> None:
    columns = make_columns(events)
    info = write(tmp_path / "t.parquet", columns)

    trace = open_trace(tmp_path / "t.parquet")

    assert trace.info == info
    for was, now in zip(columns, read(tmp_path / "t.parquet"), strict=True):
        np.testing.assert_array_equal(was, now)
        assert np.asarray(was).dtype == np.asarray(now).dtype


def test_pieces_are_collected_into_row_groups(tmp_path: Path) -> None:
    columns = make_columns(BATCH_EVENTS + 100)
    with TraceWriter(tmp_path / "t.parquet") as writer:
        for at in range(0, BATCH_EVENTS + 100, 50_000):
            piece = slice(at, at + 50_000)
            writer.write(Columns(columns.op[piece], columns.size[piece], columns.addr[piece]))
        writer.close(make_info(BATCH_EVENTS + 100))

    sizes = [len(batch.op) for batch in open_trace(tmp_path / "t.parquet").batches()]

    assert sizes == [BATCH_EVENTS, 100]


def test_an_unfinished_trace_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "t.parquet"

    def write_and_fail() -> None:
        with TraceWriter(target) as writer:
            writer.write(make_columns(10))
            message = "the disk is full"
            raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="the disk is full"):
        write_and_fail()

    assert list(tmp_path.iterdir()) == []


def test_an_existing_trace_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "t.parquet"
    write(target, make_columns(10))
    before = target.read_bytes()

    with TraceWriter(target) as writer:
        writer.write(make_columns(99))
        assert target.read_bytes() == before

    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"none\.parquet: no such file"):
        open_trace(tmp_path / "none.parquet")


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").touch()
    with pytest.raises(TraceError, match="the file is empty"):
        open_trace(tmp_path / "t.parquet")


@pytest.mark.parametrize("content", [b"I  04000000,3\n L 1ffeffe7e0,8\n", b"x", b"PAR2" * 9])
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(TraceError, match="not a Parquet file: expected a trace that"):
        open_trace(tmp_path / "t.parquet")


def test_parquet_of_something_else_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "t.parquet")
    with pytest.raises(TraceError, match="a Parquet file, but not a tagvisor trace"):
        open_trace(tmp_path / "t.parquet")


@pytest.mark.parametrize("keep", [0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "t.parquet"
    write(path, make_columns(10_000))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(TraceError, match="truncated"):
        open_trace(path)


def test_a_file_cut_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write(path, make_columns(10_000))
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] + whole[-1000:])
    with pytest.raises(TraceError, match=r"truncated|damaged"):
        list(open_trace(path).batches())


def test_damaged_data_is_found_while_reading(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write(path, make_columns(50_000))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(TraceError, match="damaged"):
        list(open_trace(path).batches())


def test_another_version_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write(path, make_columns(10))
    rewrite(path, {"schema": 2})
    with pytest.raises(TraceError, match="trace format version 2: expected version 1"):
        open_trace(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"granule": 32}, "granule=32: expected granule=16"),
        ({"events": 11}, "holds 10 events where its metadata says 11"),
        ({"events": -1}, "events=-1"),
        ({"pages": "many"}, "pages='many'"),
        ({"command": "made up"}, "command='made up'"),
        ({"complete": 1}, "complete=1"),
        ({"exit_status": "0"}, "exit_status='0'"),
    ],
)
def test_metadata_that_cannot_be_is_refused(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "t.parquet"
    write(path, make_columns(10))
    rewrite(path, change)
    with pytest.raises(TraceError) as caught:
        open_trace(path)
    assert problem in str(caught.value)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write(path, make_columns(10))
    metadata = {_KEY: pq.read_metadata(path).metadata[_KEY]}
    table = pa.table({"op": pa.array([0] * 10, pa.int64())}).replace_schema_metadata(metadata)
    pq.write_table(table, path)
    with pytest.raises(TraceError, match="its columns are op int64: expected the columns op uint8"):
        open_trace(path)


def test_info_survives_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    info = dataclasses.replace(make_info(10), note="naïve ☃", exit_status=-11, complete=False)
    with TraceWriter(path) as writer:
        writer.write(make_columns(10))
        writer.close(info)
    assert open_trace(path).info == info
