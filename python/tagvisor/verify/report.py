"""What came of a replay, for people and for programs.

Models nothing. Invariant: the last line on standard output is one JSON object with the totals.
"""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from tagvisor._console import console
from tagvisor.verify.formats import verify
from tagvisor.verify.replay import KEPT
from tagvisor.verify.rows import Vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from rich.progress import TaskID

    from tagvisor.verify.replay import Mismatch, Tally

__all__ = ["print_report", "totals", "verify_with_progress"]

LONGEST = 4000
"""Characters of a row that are printed; the line number finds the rest."""


def verify_with_progress(paths: Iterable[Path]) -> list[Tally]:
    """Replay files, with progress on standard error where that is a terminal.

    Every file's header is judged before the first is replayed.

    Raises:
        VectorError: A file that is not a vector file, or a row that cannot be read.
    """
    files = [Vectors(path) for path in paths]
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[name]}"),
        TextColumn("{task.completed:,} rows"),
        TimeElapsedColumn(),
    )
    err = Console(stderr=True)
    found = []
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        for file in files:
            task = bar.add_task("replay", total=None, name=file.path.name)
            found.append(verify(file, _teller(bar, task)))
            bar.remove_task(task)
    return found


def _teller(bar: Progress, task: TaskID) -> Callable[[int], None]:
    return lambda rows: bar.update(task, completed=rows)


def totals(tallies: Sequence[Tally]) -> dict[str, int]:
    """The sums over all files."""
    return {
        name: sum(getattr(tally, name) for tally in tallies)
        for name in ("rows", "compared", "mismatches", "skipped")
    }


def print_report(tallies: Sequence[Tally]) -> None:
    """A table, the first mismatches, and the totals as JSON."""
    out = console()
    table = Table(box=SIMPLE_HEAD, header_style="bold", show_edge=False)
    table.add_column("file", no_wrap=True)
    table.add_column("format", no_wrap=True)
    for heading in ("rows", "compared", "mismatches", "quirks", "skipped", "seconds"):
        table.add_column(heading, justify="right", no_wrap=heading != "quirks")
    for tally in tallies:
        quirks = ", ".join(f"{quirk} {count:,}" for quirk, count in sorted(tally.quirks.items()))
        colour = "bold red" if tally.mismatches else "green"
        table.add_row(
            tally.path.rpartition("/")[2],
            tally.format,
            f"{tally.rows:,}",
            f"{tally.compared:,}",
            f"[{colour}]{tally.mismatches:,}[/]",
            quirks or "-",
            f"{tally.skipped:,}",
            f"{tally.seconds:.2f}",
        )
    out.print(table)
    for mismatch in islice((one for tally in tallies for one in tally.first), KEPT):
        out.print(_text(mismatch), markup=False, soft_wrap=True)
    sums = totals(tallies)
    if sums["mismatches"] > KEPT:
        out.print(f"and {sums['mismatches'] - KEPT:,} more")
    out.print(json.dumps(sums), markup=False, soft_wrap=True)


def _text(mismatch: Mismatch) -> str:
    lines = [f"{mismatch.path}:{mismatch.line}: {mismatch.where}"]
    lines += [f"  after     {_short(text)}" for text in mismatch.context]
    lines.append(f"  row       {_short(mismatch.row)}")
    lines.append(f"  expected  {mismatch.expected or 'as recorded'}")
    lines.append(f"  got       {mismatch.got}")
    return "\n".join(lines)


def _short(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}... ({len(text):,} characters)"
