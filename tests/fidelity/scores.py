"""Scores: how many answers the model gives as the recorded kernel did.

Models nothing: it runs scenarios and counts. Invariant: a scenario that does not run counts with
all its answers as different.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tagvisor import scenario
from tagvisor.errors import TagvisorError
from tagvisor.scenario.compare import compare, normalise, text_of

__all__ = ["BUNDLE", "Recording", "Score", "bundled", "score"]

BUNDLE = Path(__file__).resolve().parents[1] / "data" / "scenario" / "recordings.jsonl.gz"


@dataclass(frozen=True)
class Recording:
    """One scenario and what one kernel answered."""

    name: str
    kernel: str
    swap: str
    text: str
    answers: list[dict[str, Any]] = field(repr=False)


@dataclass(frozen=True)
class Shown:
    """A difference, and the command it is counted under."""

    group: str
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass
class Score:
    """One kernel with one kind of swap."""

    kernel: str
    swap: str
    scenarios: int = 0
    equal: int = 0
    compared: int = 0
    differences: list[Shown] = field(default_factory=list)

    @property
    def percent(self) -> float:
        """Equal answers in percent."""
        return 100.0 * self.equal / max(self.compared, 1)


def bundled() -> list[Recording]:
    """The recordings that come with the tests."""
    with gzip.open(BUNDLE, "rt") as stream:
        return [Recording(**json.loads(line)) for line in stream]


def score(recordings: list[Recording]) -> list[Score]:
    """Run every recording's scenario and compare, kernel by kernel."""
    scores: dict[tuple[str, str], Score] = {}
    for recording in recordings:
        key = (recording.kernel, recording.swap)
        _add(scores.setdefault(key, Score(*key)), recording)
    return list(scores.values())


def _add(score: Score, recording: Recording) -> None:
    try:
        answers = scenario.run_text(
            recording.text,
            recording.name,
            policy=f"linux-{recording.kernel}",
            swap="zram" if recording.swap == "zram" else "nvme",
        )
    except TagvisorError as error:
        answers = []
        score.differences.append(Shown("not run", f"{recording.name}: {error}"))
    reference = {recording.name: normalise(recording.answers)}
    found = compare(reference, {recording.name: normalise(dict(a) for a in answers)})
    score.scenarios += 1
    score.equal += found.equal
    score.compared += found.compared
    for place in found.differences:
        command = str((place.left or place.right or {}).get("cmd", "end"))
        words = command.split()
        group = " ".join(words[:2]) if words[0] in {"g", "c"} else words[0]
        text = (
            f"{recording.name} {place.index} {command}\n      kernel {text_of(place.left)}"
            f"\n      model  {text_of(place.right)}"
        )
        score.differences.append(Shown(group, text))
