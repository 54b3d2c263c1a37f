"""The demonstration: what policies do to tags, and what a real program costs under memory pressure.

Models nothing. It plays :mod:`tagvisor.matrix`, replays the recorded program that ships with the
package in a guest whose host may keep only part of it resident, and writes a report.

Invariant: everything but the times is the same in every run, and the report holds no times.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import TYPE_CHECKING

from tagvisor import __version__, _console
from tagvisor.matrix import matrix
from tagvisor.report import ReplayView, write

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tagvisor.matrix import Matrix
    from tagvisor.replay import ReplayResult

__all__ = ["TRACE", "demo", "shipped_trace", "view"]

TRACE = "sqlite3-churn.parquet"
"""The trace that ships with the package."""

POLICY = "linux-6.12"
RESIDENT = 0.25
"""The part of the program's pages that the host may keep resident."""

SEED = 1


def shipped_trace() -> AbstractContextManager[Path]:
    """The trace that ships with the package, as a file."""
    return as_file(files("tagvisor") / "data" / TRACE)


def demo(output: Path) -> None:
    """Show it all and write the report.

    Args:
        output: Where the report goes.

    Raises:
        KeyboardInterrupt: Ctrl-C during the replay, after its counters so far were printed.
    """
    out = _console.console()
    out.print("[bold]1. The thread's sequences under every policy[/bold]\n")
    played = matrix()
    _console.print_matrix(played)
    _print_findings(played)
    out.print("\n[bold]2. A real program in a guest under host memory pressure[/bold]\n")
    with shipped_trace() as trace:
        result = _console.replay_with_progress(trace, policy=POLICY, limit=RESIDENT, seed=SEED)
    _console.print_counters(result)
    if result.interrupted:
        raise KeyboardInterrupt
    write(output, played, view(result, TRACE, SEED), version=__version__)
    out.print(f"\n[bold]3. The report[/bold]\n\n  {output}", soft_wrap=True)


def _print_findings(played: Matrix) -> None:
    out = _console.console()
    held = [
        row.label for row, cells in played.by_row() if not any(cell.violation for cell in cells)
    ]
    out.print("hold every sequence: " + ", ".join(held))
    out.print("the steps behind the others: in the report, or `tagvisor matrix --steps`")


def view(result: ReplayResult, name: str, seed: int) -> ReplayView:
    """What the report shows of a replay."""
    info = result.info
    limit = "no limit" if result.limit_pages is None else f"at most {result.limit_pages:,}"
    about = (
        f"The loads, stores and heap events of {info.program}, {info.events:,} events on"
        f" {info.pages:,} pages, recorded by {info.generator}. Each allocation gets a random tag,"
        f" as Android's allocator gives it; every access is checked. Resident pages: {limit}."
    )
    return ReplayView(
        trace=name,
        about=about,
        policy=result.policy.name,
        seed=seed,
        counters=tuple((words, result.counters[key]) for key, words in _console.COUNTERS.items()),
        accesses=tuple(result.series.accesses.tolist()),
        saved_bytes=tuple(result.series.saved_tag_bytes.tolist()),
    )
