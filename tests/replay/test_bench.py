"""The benchmarks' rows: names, goals, and both forms of report."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from tagvisor import bench
from tagvisor.errors import ArgumentError


def test_goals_are_those_that_were_set() -> None:
    goals = {one.name: one.goal_ratio for one in bench.benchmarks()}
    assert goals["replay.seq"] == 4.0
    assert goals["replay.random"] == 4.0


def test_rows_read_as_json_and_as_a_table() -> None:
    (row,) = bench.run(["tags.fill"])
    read = json.loads(bench.to_json(row))
    assert {"name", "ours_ns", "floor_ns", "ratio", "goal_ratio"} <= read.keys()
    assert read["name"] == "tags.fill"
    assert read["ratio"] == pytest.approx(read["ours_ns"] / read["floor_ns"], rel=0.01)
    console = Console(record=True, width=120, file=None, quiet=True)
    console.print(bench.table([row]))


def test_a_group_stands_for_its_members() -> None:
    groups = {one.name.split(".")[0] for one in bench.benchmarks()}
    assert {"tags", "python"} <= groups
    assert [row.benchmark.name for row in bench.run(["tags", "tags.fill"])] == [
        "tags.fill",
        "tags.copy",
        "tags.compare",
    ]


def test_python_is_measured_beside_its_own_floors() -> None:
    (row,) = bench.run(["python.load"])

    assert row.ours_ns > 0
    assert row.floor_ns > 0


def test_an_unknown_name_is_refused_before_anything_runs() -> None:
    with pytest.raises(ArgumentError, match=r"name='nope': expected one of replay\.seq, "):
        bench.run(["tags.fill", "nope"])
