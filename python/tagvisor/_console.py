"""What the command line prints for people: tables in the terminal's own width and colours.

Models nothing. Invariant: colour is never the only sign, so a pipe or a log shows the same.
"""

from __future__ import annotations

import os
import sys
from itertools import islice
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from tagvisor.matrix import Verdict
from tagvisor.replay import replay

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from tagvisor.matrix import Cell, Matrix
    from tagvisor.policy import Policy
    from tagvisor.replay import ReplayProgress, ReplayResult

__all__ = [
    "COUNTERS",
    "console",
    "print_counters",
    "print_matrix",
    "print_violations",
    "replay_with_progress",
]

WIDE = 150
"""Columns from which a policy of the matrix is one line; assumed where there is no terminal."""

ROOMY = 190
"""Columns from which there is room for titles and notes."""

SHORT = len("tags leaked")
"""A verdict up to this long is never wrapped."""

_STYLES = {
    Verdict.HOLDS: "green",
    Verdict.TAGS_LOST: "bold red",
    Verdict.TAGS_LEAKED: "bold yellow",
    Verdict.UNTAGGABLE: "bold magenta",
    Verdict.OUTLIVE: "yellow",
    Verdict.FREED_EARLY: "yellow",
    Verdict.FLAG: "yellow",
    Verdict.DEADLOCK: "bold red",
}


COUNTERS = {
    "accesses": "accesses",
    "tag_checks": "tag checks",
    "mismatches": "tag mismatches",
    "stage2_faults": "stage-2 faults",
    "swap_outs": "pages swapped out",
    "swap_ins": "pages swapped in",
    "tag_saves": "pages of tags saved",
    "tag_restores": "pages of tags restored",
    "saved_tag_bytes": "saved-tag bytes, end",
    "saved_tag_bytes_peak": "saved-tag bytes, peak",
    "page_tag_clears": "pages of tags cleared",
    "notifier_invalidations": "notifier invalidations",
}
"""The counters that people are shown, in order, and what they are called."""

SHOWN = 5
"""Of mismatches, and of violations."""


def console() -> Console:
    """Standard output, as it is now; a file or a pipe is as wide as the widest table wants."""
    narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if narrow else WIDE)


def print_matrix(matrix: Matrix) -> None:
    """Policy against sequence."""
    out = console()
    wide, roomy = out.width >= WIDE, out.width >= ROOMY
    gap = (0, 1) if wide else (0, 0)
    table = Table(box=SIMPLE_HEAD, header_style="bold", padding=gap, show_edge=False)
    table.add_column("policy", no_wrap=True)
    for sequence, column in zip(matrix.sequences, zip(*matrix.cells, strict=True), strict=True):
        if roomy:
            table.add_column(sequence.title, no_wrap=True)
        else:
            title = sequence.id.replace("-", " ")
            width = None if wide else max(map(_narrowest, [title, *(c.verdict for c in column)]))
            table.add_column(title, width=width, no_wrap=wide)
    group = ""
    for row, cells in matrix.by_row():
        if group and row.group != group:
            table.add_section()
        group = row.group
        label = row.label if wide else row.label.replace(" ", "\n")
        table.add_row(escape(label), *(_cell(cell, noted=roomy) for cell in cells))
    out.print(table)


def print_verdicts(columns: Sequence[str], rows: Mapping[str, Mapping[str, str]]) -> None:
    """Scenario against kernel: holds, or the properties violated."""
    table = Table(box=SIMPLE_HEAD, header_style="bold", show_edge=False)
    table.add_column("scenario", no_wrap=True)
    for column in columns:
        table.add_column(escape(column), no_wrap=True)
    for name, verdicts in rows.items():
        shown = [verdicts[column] for column in columns]
        table.add_row(escape(name), *(v if v == "holds" else f"[red]{v}[/red]" for v in shown))
    console().print(table)


def _narrowest(text: str) -> int:
    """How narrow a column may get: a short verdict stays on one line, a long one between words."""
    return len(text) if len(text) <= SHORT else max(map(len, text.split()))


def _cell(cell: Cell, *, noted: bool) -> str:
    style = _STYLES[cell.verdict]
    note = f" [dim]({escape(cell.note)})[/dim]" if cell.note and noted else ""
    return f"[{style}]{cell.verdict}[/{style}]{note}"


def print_violations(matrix: Matrix) -> None:
    """The steps behind each violation, in 72 columns."""
    from tagvisor.report import counterexamples  # noqa: PLC0415 - only wanted with --steps

    out = console()
    for example in dict.fromkeys(counterexamples(matrix).values()):
        out.rule(align="left", characters="-")
        out.print(example.text, markup=False, soft_wrap=True)


def replay_with_progress(
    trace: Path,
    *,
    policy: Policy | str,
    limit: float | None,
    seed: int,
    memory: str | None = None,
    ledger: bool = False,
) -> ReplayResult:
    """Replay a trace with a progress bar on standard error.

    The bar appears with the first progress, so that a file that cannot be replayed costs one line;
    where standard error is no terminal, it appears once, when done.
    """
    err = Console(stderr=True)
    columns = (
        TextColumn("  replaying {task.fields[name]}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    bar = Progress(*columns, console=err)
    task = bar.add_task("replay", total=None, name=trace.name)

    def tell(at: ReplayProgress) -> None:
        bar.update(task, completed=at.events, total=at.total)
        if err.is_terminal:
            bar.start()

    try:
        result = replay(
            trace,
            policy=policy,
            limit=limit,
            seed=seed,
            memory=memory,
            ledger=ledger,
            progress=tell,
        )
    except BaseException:
        bar.live.transient = True  # the error is to be the only line left
        raise
    finally:
        if err.is_terminal:
            bar.stop()
    if not err.is_terminal:
        err.print(bar)
    return result


def print_counters(result: ReplayResult) -> None:
    """A replay's counters, and how fast it went."""
    out = console()
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    for name, words in COUNTERS.items():
        table.add_row(words, f"{result.counters[name]:,}")
    table.add_row("seconds", f"{result.seconds:.2f}")
    table.add_row("accesses/s", f"{result.accesses_per_second:,.0f}")
    out.print(table)
    _print_some(out, map(str, result.mismatches), result.counters["mismatches"])
    violations = (f"{number}: {summary}" for number, summary in result.violations)
    _print_some(out, violations, len(result.violations))
    if result.interrupted:
        out.print("interrupted: the counters so far")


def _print_some(out: Console, lines: Iterable[str], total: int) -> None:
    for line in islice(lines, SHOWN):
        out.print(line, markup=False, soft_wrap=True)
    if total > SHOWN:
        out.print(f"and {total - SHOWN:,} more")
