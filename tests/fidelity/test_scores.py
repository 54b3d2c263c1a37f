"""The model answers as recorded kernels do, and its ledger is silent on fixed kernels."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Literal

import pytest
from tests.fidelity.scores import Score, bundled, score

from tagvisor import scenario

# Equal answers per kernel and kind of swap, in percent: what the last change reached, rounded
# down. Raise it when a change reaches more. docs/fidelity.md explains what is left.
FLOOR = {
    ("6.1", "zram"): 99.97,
    ("6.1", "nvme"): 99.4,
    ("6.12", "zram"): 100.0,
    ("6.12", "nvme"): 100.0,
    ("7.3", "zram"): 99.98,
    ("7.3", "nvme"): 100.0,
}


@cache
def _scores() -> dict[tuple[str, str], Score]:
    return {(s.kernel, s.swap): s for s in score(bundled())}


@pytest.mark.parametrize(("kernel", "swap"), FLOOR)
def test_the_score_does_not_fall(kernel: str, swap: str) -> None:
    scored = _scores()[kernel, swap]

    assert scored.percent >= FLOOR[kernel, swap], [str(d) for d in scored.differences[:5]]
    assert not [d for d in scored.differences if d.group == "not run"]


def test_every_recording_is_judged() -> None:
    assert set(_scores()) == set(FLOOR)
    assert sum(s.compared for s in _scores().values()) > 20_000


def test_longterm_kernels_break_no_property_but_for_b24() -> None:
    """B24, tags copied while the slot logs writes, was never mended in 6.1."""
    broken: Counter[tuple[str, str]] = Counter()
    for recording in bundled():
        swap: Literal["zram", "nvme"] = "zram" if recording.swap == "zram" else "nvme"
        found = scenario.judge_text(
            recording.text, recording.name, policy=f"linux-{recording.kernel}", swap=swap
        )
        for violation in found:
            broken[recording.kernel, violation.property] += 1

    assert set(broken) == {("6.1", "P7")}


def test_a_kernel_that_loses_tags_is_told() -> None:
    """B12: zram, and tags restored after the slot was freed."""
    found: Counter[str] = Counter()
    for recording in bundled():
        if recording.kernel == "6.1" and recording.swap == "zram":
            verdict = scenario.judge_text(
                recording.text, recording.name, policy="linux-6.1.38", swap="zram"
            )
            found.update(violation.property for violation in verdict)

    assert found["P1"] > 0
