"""The catalogue: every row bites where it did and holds where it was mended, by this very build."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

import tagvisor as tv
from tagvisor import bugs

if TYPE_CHECKING:
    from pathlib import Path

RUNS = [row for row in bugs.CATALOGUE if not row.waiting]


def tagvisor(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tagvisor", "bugs", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.parametrize("row", RUNS, ids=lambda row: row.id)
def test_a_row_bites_and_is_mended(row: bugs.Bug) -> None:
    found = bugs.establish(row)

    assert found.found, bugs.run(row, bugs.policy_of(row.broken))
    assert found.fixed, bugs.run(row, bugs.policy_of(row.fixed_in))
    assert found.violation is not None
    assert found.violation.property == row.property
    assert found.steps == len(found.violation.steps) > 0
    assert (found.states > 0) == (row.kind == "race" and row.actors is not None)


def test_numbers_are_unique_and_a_bug_is_in_or_out() -> None:
    ids = [row.id for row in bugs.CATALOGUE] + [row.id for row in bugs.LEFT_OUT]

    assert len(ids) == len(set(ids))
    assert all(row.reason for row in bugs.LEFT_OUT)


@pytest.mark.parametrize("row", bugs.CATALOGUE, ids=lambda row: row.id)
def test_a_row_is_complete(row: bugs.Bug) -> None:
    known = {knob.id for knob in tv.knobs()}

    assert row.title
    assert row.source
    assert row.property in {f"P{number}" for number in range(1, 10)}
    assert set(row.knobs) <= known
    assert len(row.story) >= 3
    bugs.policy_of(row.broken)
    bugs.policy_of(row.fixed_in)
    scripts = (row.script is not None) + (row.actors is not None)
    assert scripts == (0 if row.waiting else 1)


def test_a_row_that_does_not_bite_is_told() -> None:
    """The verdict is the machine's: under a kernel without the bug nothing is found."""
    row = bugs.bug("L-E")

    harmless = bugs.establish(replace(row, broken="linux-6.12"))
    unmended = bugs.establish(replace(row, fixed_in=row.broken))

    assert (harmless.found, harmless.fixed, harmless.as_it_should) == (False, True, False)
    assert (unmended.found, unmended.fixed, unmended.as_it_should) == (True, False, False)


def test_an_unknown_row_says_which_exist_and_one_outside_says_why() -> None:
    with pytest.raises(tv.ArgumentError, match="B12"):
        bugs.bug("B99")
    with pytest.raises(tv.ArgumentError, match="lock leak"):
        bugs.bug("B17")


def test_the_command_prints_one_object_a_row() -> None:
    done = tagvisor("--json", "B01", "L-E")
    rows = [json.loads(line) for line in done.stdout.splitlines()]

    assert done.returncode == 0
    assert [row["id"] for row in rows] == ["B01", "L-E"]
    for row in rows:
        assert (row["found"], row["fixed"]) == (True, True)
        assert row.keys() >= {"title", "property", "broken", "fixed_in", "steps", "states"}
        assert row.keys() >= {"seconds", "source"}


def test_the_command_shows_steps_and_refuses_what_is_no_row() -> None:
    shown = tagvisor("L-E", "--steps")
    wrong = tagvisor("B99")

    assert "mte_pages" in shown.stdout
    assert "bites, mended" in shown.stdout
    assert wrong.returncode == 2
    assert "ID='B99'" in wrong.stderr


def test_the_page_in_docs_is_what_the_command_writes(repository: Path) -> None:
    """All but the figures of this very run, which tests above hold."""
    written = (repository / "docs" / "bugs.md").read_text()

    for row in bugs.CATALOGUE:
        assert f"### {row.id}: {row.title}" in written
        assert row.source in written
    for outside in bugs.LEFT_OUT:
        assert f"| {outside.id} | {outside.title} |" in written


NOT_THEIRS = {"B47"}  # user space mends it


def test_every_bug_of_the_list_is_in_or_out() -> None:
    """The list of the specification: what concerns tags runs, the rest says why it does not."""
    numbers = [number for number in range(1, 50) if number not in {14, 22}]
    ids = {row.id for row in bugs.CATALOGUE} | {row.id for row in bugs.LEFT_OUT}

    assert {f"B{number:02}" for number in numbers} <= ids
    assert {"L-E", "L-E:page-free", "L-E:swapoff"} <= ids


@pytest.mark.parametrize(
    "row", [row for row in RUNS if row.id not in NOT_THEIRS], ids=lambda row: row.id
)
def test_the_decisions_a_row_names_make_the_difference(row: bugs.Bug) -> None:
    """The kernel that had the bug, with only those decisions taken from the mended one."""
    broken, mended = bugs.policy_of(row.broken), bugs.policy_of(row.fixed_in)
    policy = broken.replace(**{knob: mended.knobs[knob] for knob in row.knobs})

    assert bugs.run(row, policy, (row.property,)).of(row.property) is None
