"""Two sets of answers side by side: what differs, and how much is equal.

Models the comparison of the scenario language: answers are matched by their order, compared
exactly after normalisation, and the end line is no answer unless one side lacks it. Reads files
with one answer a line (one scenario) and files with one scenario a line (a corpus), raw or
normalised.

Invariant: comparing a set with itself finds every answer equal; an answer that only one side has
counts as different.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeAlias

from tagvisor.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

__all__ = ["Comparison", "Difference", "compare", "load", "normalise", "text_of"]

Record: TypeAlias = dict[str, Any]
"""One answer, as JSON has it."""

DROPPED_KEYS = frozenset(
    {
        *("n", "i", "addr", "pfn", "off", "ms", "tries", "reclaims", "flags", "oldpfn"),
        *("oldflags", "pc", "seconds", "softdirty", "excl", "type", "swp"),
        *("kmalloc128_active", "rc"),
    }
)
"""Addresses, frame numbers, swap slots, timings, retry counts: true, and never the same twice."""

DROPPED_COMMANDS = frozenset({"scenario", "echo", "sh", "trace", "slab", "sleepms"})
"""Commands whose answers carry nothing that two systems could agree on."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where two sides answer differently; a side without an answer is None."""

    scenario: str
    index: int
    left: Record | None
    right: Record | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """How two sets of answers compare."""

    equal: int
    compared: int
    differences: tuple[Difference, ...]
    missing: tuple[str, ...]
    """Scenarios that the right side lacks."""

    @property
    def percent(self) -> float:
        """Equal answers of all, in percent."""
        return 100.0 * self.equal / max(self.compared, 1)


def normalise(answers: Iterable[Record]) -> list[Record]:
    """What of a scenario's answers two correct systems agree on: numbered, with an end line."""
    kept: list[Record] = []
    for answer in answers:
        if "end" in answer or "fatal" in answer:
            kept.append(_end(answer))
            break
        words = str(answer.get("cmd", "")).split()
        if not words or words[0] in DROPPED_COMMANDS or "ev" in answer or "note" in answer:
            continue
        record = {key: value for key, value in answer.items() if key not in DROPPED_KEYS}
        if words[0] == "oldpf":
            record.pop("mte_tagged", None)  # the frame may already be somebody else's
        if words[0] == "peek" and "tags" in record:
            done = int(record.get("iov_len", 0)) if int(record.get("ret", -1)) >= 0 else 0
            record["tags"] = record["tags"][:done]  # only what the kernel wrote
        kept.append({"i": len(kept), **record})
    return kept


def _end(answer: Record) -> Record:
    if "fatal" not in answer:
        return {"end": 1}
    return {"end": 0, "fatal": re.sub(r"(addr )[0-9a-f]+", r"\1_", str(answer["fatal"]))}


def load(path: Path) -> dict[str, list[Record]]:
    """The answers in a file, or in the ``*.jsonl`` files of a folder, by scenario.

    Args:
        path: A file with one answer a line, whose scenario is named as the file; a file with one
            scenario a line (``{"id": ..., "answers": [...]}``); or a folder of such files.

    Raises:
        ArgumentError: There is no such file, or a line is not JSON.
    """
    if path.is_dir():
        found: dict[str, list[Record]] = {}
        for inside in sorted(path.glob("*.jsonl")):
            found.update(load(inside))
        if not found:
            raise ArgumentError("path", str(path), "a folder with *.jsonl files")
        return found
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        problem = error.strerror or "cannot be read"
        raise ArgumentError("path", f"{path} ({problem})", "a file of answers") from error
    scenarios: dict[str, list[Record]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("{"):
            continue
        try:
            record: Record = json.loads(line)
        except ValueError as error:
            raise ArgumentError("path", f"{path}:{number}: {error}", "JSON, one a line") from None
        if "answers" in record:
            scenarios[str(record["id"])] = normalise(record["answers"])
        else:
            scenarios.setdefault(path.stem, []).append(record)
    return {
        name: normalise(answers) if name == path.stem else answers
        for name, answers in scenarios.items()
    }


def compare(left: dict[str, list[Record]], right: dict[str, list[Record]]) -> Comparison:
    """Compare answers by scenario; ``left`` is the reference.

    A single scenario on each side is compared whatever the two are called.
    """
    if len(left) == len(right) == 1:
        right = dict(zip(left, right.values(), strict=True))
    equal = compared = 0
    differences: list[Difference] = []
    for name, reference in left.items():
        for index, (a, b) in enumerate(zip_longest(reference, right.get(name, []))):
            if a is not None and "end" in a and (b is None or "end" in b) and a == b:
                continue  # the end line is no answer
            compared += 1
            if a == b:
                equal += 1
            else:
                differences.append(Difference(name, index, a, b))
    missing = tuple(name for name in left if name not in right)
    return Comparison(equal, compared, tuple(differences), missing)


def text_of(answer: Record | None) -> str:
    """An answer's keys in a line, without number, process and command."""
    if answer is None:
        return "(nothing)"
    shown: Sequence[str] = [k for k in answer if k not in {"i", "who", "cmd"}]
    return " ".join(f"{key}={answer[key]}" for key in shown)
