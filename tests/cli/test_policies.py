"""``tagvisor policies`` tells what the machine asks, to people and to programs."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import tagvisor as tv
from tagvisor.policy import difference, knob, takers


def tagvisor(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tagvisor", "policies", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def lines(*words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in tagvisor(*words).stdout.splitlines()]


def test_the_list_has_a_line_for_every_profile_and_every_knob() -> None:
    people = tagvisor().stdout
    rows = lines("--json")

    for profile in tv.profiles():
        assert profile.name in people
    assert [row["knob"] for row in rows if "knob" in row] == [known.id for known in tv.knobs()]
    assert [row["profile"] for row in rows if "profile" in row] == [p.name for p in tv.profiles()]
    assert all(row["source"] for row in rows if "knob" in row)


def test_diff_names_exactly_the_knobs_that_differ_with_both_values() -> None:
    left, right = tv.linux("6.1").knobs, tv.linux("6.12").knobs

    rows = lines("diff", "6.1", "6.12", "--json")

    assert [row["knob"] for row in rows] == [k for k in left if left[k] != right[k]]
    for row in rows:
        sides = row["values"]
        assert sides["linux-6.1"]["value"] == left[row["knob"]]
        assert sides["linux-6.12"]["value"] == right[row["knob"]]
        assert sides["linux-6.1"]["doc"]
        assert row["source"]


def test_diff_for_people_shows_meaning_and_source() -> None:
    text = " ".join(tagvisor("diff", "6.1.38", "6.1.39").stdout.split())

    assert "6dca4ac6fc91" in text
    assert "linux-6.1.38: after-free" in text
    assert "differ in 1 of" in text


def test_a_kernel_differs_in_nothing_from_itself() -> None:
    assert lines("diff", "6.12", "linux-6.12", "--json") == []
    assert difference(tv.linux("6.12"), tv.linux("6.12")) == []


def test_show_tells_a_knobs_values_and_who_takes_which() -> None:
    (row,) = lines("show", "K18", "--json")
    text = tagvisor("show", "sanitise").stdout

    by_value = {value["value"]: value["profiles"] for value in row["values"]}
    assert "v10-series" in by_value["test-and-set"]
    assert "linux-6.12" in by_value["lock"]
    assert sorted(name for names in by_value.values() for name in names) == sorted(
        profile.name for profile in tv.profiles()
    )
    assert "K18" in text
    assert "Source: " in text


def test_show_takes_a_kernel_too() -> None:
    (row,) = lines("show", "6.1.38", "--json")

    assert row["profile"] == "linux-6.1.38"
    assert row["K7"] == "after-free"
    assert "after-free" in tagvisor("show", "6.1.38").stdout


def test_a_counterfactual_value_is_taken_by_no_profile() -> None:
    assert takers(knob("K1"))["restore"] == ()
    assert "no profile" in tagvisor("show", "K1").stdout


def test_k8_is_told_under_the_knob_that_holds_it() -> None:
    assert knob("K8") == knob("K7") == knob("restore_at")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("diff", "2.4", "6.12"), ("LEFT", "'2.4'", "linux-6.12")),
        (("diff", "6.12", "2.4"), ("RIGHT", "'2.4'")),
        (("show", "K99"), ("NAME", "'K99'", "K18", "linux-6.12")),
    ],
)
def test_an_unknown_name_is_one_line_that_says_what_exists(
    words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    done = tagvisor(*words)

    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert all(part in done.stderr for part in parts)
