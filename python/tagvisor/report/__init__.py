"""One HTML page to look at, and text fit for a mailing list.

Models nothing: it shows what :mod:`tagvisor.matrix` judged and what a replay counted. Leaves out
wall-clock times, which differ from run to run: the same results make the same page, byte by byte.

Invariant: the page is one file. It asks the network for nothing and works without scripts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tagvisor._files import write_whole
from tagvisor.matrix import BASE
from tagvisor.policy import knobs, linux, profiles
from tagvisor.report.mail import mail
from tagvisor.report.plot import saved_tag_memory

if TYPE_CHECKING:
    import os

    from tagvisor.matrix import Cell, Matrix, Row, Sequence
    from tagvisor.verdict import Violation

__all__ = ["ReplayView", "html", "mail", "write"]


@dataclass(frozen=True, slots=True)
class ReplayView:
    """What the page shows of a replay."""

    trace: str
    """The trace's name."""
    about: str
    """What was recorded, and how it was replayed, in a sentence or two."""
    policy: str
    seed: int
    counters: tuple[tuple[str, int], ...]
    """Name in words, and value."""
    accesses: tuple[int, ...]
    saved_bytes: tuple[int, ...]
    """The tag store's size after so many accesses."""


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A violation, once, however many policies show it."""

    anchor: str
    sequence: Sequence
    cell: Cell
    violation: Violation
    under: tuple[Row, ...]
    text: str
    """For a mail."""


def counterexamples(matrix: Matrix) -> dict[tuple[str, str], Counterexample]:
    """From each cell that does not hold, by policy and sequence, to what it shares with others."""
    groups: dict[tuple[str, Violation], list[tuple[Row, Sequence, Cell]]] = {}
    for row, sequence, cell in matrix:
        if cell.violation is not None:
            groups.setdefault((sequence.id, cell.violation), []).append((row, sequence, cell))
    found = {}
    for number, ((_, violation), members) in enumerate(groups.items(), start=1):
        row, sequence, cell = members[0]
        under = tuple(member for member, _, _ in members)
        where = f"{sequence.title}, under {row.policy.name}"
        text = mail(violation, where=where, story=sequence.story)
        example = Counterexample(f"v{number}", sequence, cell, violation, under, text)
        for member in under:
            found[member.policy.name, sequence.id] = example
    return found


def html(matrix: Matrix, replay: ReplayView | None, *, version: str) -> str:
    """The page.

    Args:
        matrix: Policies against sequences.
        replay: What a replay counted, if there was one.
        version: tagvisor's.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415

    environment = Environment(
        loader=PackageLoader("tagvisor.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = "{:,}".format
    environment.filters["code"] = _code
    by_cell = counterexamples(matrix)
    plot = ""
    if replay is not None and replay.accesses:
        title = f"Saved-tag memory over the replay of {replay.trace}"
        plot = saved_tag_memory(replay.accesses, replay.saved_bytes, title)
    return environment.get_template("report.html.j2").render(
        matrix=matrix,
        groups=_groups(matrix),
        example_of=by_cell,
        examples=list(dict.fromkeys(by_cell.values())),
        replay=replay,
        plot=plot,
        knobs=knobs(),
        profiles=profiles(),
        version=version,
        base=linux(BASE).name,
    )


def _code(text: str) -> str:
    """Escaped text in which what stands between backquotes is code."""
    from markupsafe import Markup  # noqa: PLC0415

    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backquote without its other half is a character like any
        return text
    code = Markup("<code>{}</code>").format
    return Markup("").join(code(part) if i % 2 else part for i, part in enumerate(parts))


def _groups(matrix: Matrix) -> list[tuple[str, list[tuple[Row, tuple[Cell, ...]]]]]:
    groups: dict[str, list[tuple[Row, tuple[Cell, ...]]]] = {}
    for row, cells in matrix.by_row():
        groups.setdefault(row.group, []).append((row, cells))
    return list(groups.items())


def write(
    path: str | os.PathLike[str], matrix: Matrix, replay: ReplayView | None, *, version: str
) -> None:
    """Write the page to a file, or leave what was there untouched."""
    write_whole({Path(path): html(matrix, replay, version=version)})
