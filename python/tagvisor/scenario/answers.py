"""Answers of a scenario, in the form in which recorded kernels and the model compare.

Models the *normalised* answers of the scenario language: addresses, frame numbers and timings are
never part of one. Leaves out everything about how an answer came about; the keys a command answers
with are the interpreter's.

Invariant: the same answers are the same bytes: ``i``, ``who`` and ``cmd`` first, then the keys in
the order in which the command gives them, as JSON lines that end with ``{"end": 1}``.
"""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Answer", "Keys", "json_lines", "number_answers", "tag_string"]

Keys: TypeAlias = dict[str, int | str]
"""What a command answers, in order."""

Answer: TypeAlias = dict[str, int | str]
"""A numbered answer, or the end line."""

LONGEST = 300
"""A run-length text stops after the run with which it grows beyond this."""


def tag_string(tags: Iterable[int]) -> str:
    """The 256 tags of a page as text.

    ``seq+N`` when granule i has tag ``(N + i) mod 16``, else runs ``T*COUNT``, cut with ``...``
    after the run that makes the text longer than 300 characters.

    >>> tag_string(i % 16 for i in range(256))
    'seq+0'
    >>> tag_string([7] * 100 + [3] * 156)
    '7*100 3*156'
    """
    values = [int(tag) for tag in tags]
    first = values[0]
    if all(tag == (first + i) % 16 for i, tag in enumerate(values)):
        return f"seq+{first}"
    text = ""
    for tag, run in groupby(values):
        text += f"{' ' if text else ''}{tag:x}*{sum(1 for _ in run)}"
        if len(text) > LONGEST:
            return text + "..."
    return text


def number_answers(answers: Iterable[tuple[str, str, Keys]]) -> list[Answer]:
    """Who answered, commands and keys as a finished scenario: numbered, with the end line."""
    numbered: list[Answer] = [
        {"i": i, "who": who, "cmd": text, **keys} for i, (who, text, keys) in enumerate(answers)
    ]
    return [*numbered, {"end": 1}]


def json_lines(answers: Sequence[Answer]) -> str:
    """The answers of a scenario, one JSON object a line."""
    return "".join(json.dumps(answer) + "\n" for answer in answers)
