"""A violation as plain text, fit for a mailing list.

Models what a kernel developer pastes into a reply: which property, under which policy, in which
sequence, and the numbered steps, in at most 72 columns so that quoting does not wrap it. Leaves out
nothing of the steps.

Invariant: no line is longer than 72 columns unless it is one unbroken word.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tagvisor.verdict import Step, Violation

__all__ = ["COLUMNS", "mail"]

COLUMNS = 72


def mail(violation: Violation, *, where: str = "", story: Sequence[str] = ()) -> str:
    """The violation in at most 72 columns.

    Args:
        violation: What the ledger found.
        where: The policy and the sequence, in a line.
        story: What was done, step by step, in words.
    """
    blocks = [_wrap(f"{violation.property} {violation.title} does not hold", "", "  ")]
    if where:
        blocks[0] += "\n" + _wrap(where, "", "  ")
    blocks.append(_wrap(violation.summary, "  ", "  "))
    if story:
        blocks.append("\n".join(_wrap(line, " - ", "   ") for line in story))
    if violation.steps:
        blocks.append("\n".join(map(_step, violation.steps)))
    return "\n\n".join(blocks) + "\n"


def _step(step: Step) -> str:
    place = f"{step.path}: {step.step}" if step.step else step.path
    head = f"{step.n:4}. {step.actor}: {place}"
    body = _wrap(step.text, " " * 6, " " * 6) if step.text else ""
    return _wrap(head, "", " " * 6) + ("\n" + body if body else "")


def _wrap(text: str, first: str, then: str) -> str:
    return textwrap.fill(
        text,
        COLUMNS,
        initial_indent=first,
        subsequent_indent=then,
        break_long_words=False,
        break_on_hyphens=False,
    )
