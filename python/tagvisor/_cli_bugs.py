"""``tagvisor bugs``: the catalogue, with what this build finds.

Models nothing: it runs :mod:`tagvisor.bugs` and prints. Invariant: every verdict shown was
established by this very run; what does not run yet says so in words and is no success.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from tagvisor.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tagvisor.bugs import Bug, Found

__all__ = ["bugs"]

EXIT_NOT_AS_IT_SHOULD = 1


def bugs(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID...]", help="Which, as B12; all by default.")
    ] = None,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, for programs.")
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The page docs/bugs.md, as this run makes it.")
    ] = False,
    steps: Annotated[
        bool, typer.Option("--steps", help="Add the numbered steps of each counterexample.")
    ] = False,
) -> None:
    """Run the catalogue of known bugs: does each bite where it did, and is it mended where it was?

    A row names a property, the kernel that broke it and the one that mended it. Both are run here,
    and the ledger judges. The exit code is 1 when a row that should bite does not, or one that
    should hold does not.
    """
    from tagvisor import bugs as catalogue  # noqa: PLC0415

    if as_json and markdown:
        raise ArgumentError("--markdown", "with --json", "one of the two")
    rows = [_row(name) for name in dict.fromkeys(ids)] if ids else catalogue.CATALOGUE
    found = []
    for done in _with_progress(rows):
        found.append(done)
        if as_json:
            typer.echo(json.dumps(done.as_json()))
    if markdown:
        typer.echo(_page(found), nl=False)
    elif not as_json:
        _print(found, steps=steps)
    if not all(done.as_it_should for done in found):
        raise typer.Exit(EXIT_NOT_AS_IT_SHOULD)


def _row(name: str) -> Bug:
    from tagvisor.bugs import bug  # noqa: PLC0415

    try:
        return bug(name)
    except ArgumentError as error:
        raise ArgumentError("ID", name, error.expected) from None


def _with_progress(rows: Sequence[Bug]) -> Iterator[Found]:
    from tagvisor.bugs import establish  # noqa: PLC0415

    err = Console(stderr=True)
    if not sys.stderr.isatty():
        yield from map(establish, rows)
        return
    with err.status("") as status:
        for done, row in enumerate(rows):
            status.update(f"{done} of {len(rows)}: {row.id} {escape(row.title)}")
            yield establish(row)


def _verdict(done: Found) -> str:
    """In words, since colour is never the only sign."""
    if done.found is None:
        return "waits"
    bites = "bites" if done.found else "does not bite"
    holds = "mended" if done.fixed else "not mended"
    return f"{bites}, {holds}"


def _print(found: Sequence[Found], *, steps: bool) -> None:
    from tagvisor._console import console  # noqa: PLC0415

    out = console()
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("id", "title", "", "broken in", "mended in", "this run", "steps", "states"):
        table.add_column(name, justify="right" if name in {"steps", "states"} else "left")
    for done in found:
        row, colour = done.bug, "green" if done.as_it_should else "bold red"
        colour = "dim" if done.found is None else colour
        cells = (row.id, escape(row.title), row.property, escape(row.broken), escape(row.fixed_in))
        verdict = f"[{colour}]{_verdict(done)}[/{colour}]"
        sizes = (str(size) if size else "" for size in (done.steps, done.states))
        table.add_row(*cells, verdict, *sizes)
    out.print(table)
    for done in found:
        if done.bug.waiting:
            out.print(f"{done.bug.id} waits: {escape(done.bug.waiting)}")
    ran = [done for done in found if done.found is not None]
    as_they_should = sum(done.as_it_should for done in ran)
    waiting = len(found) - len(ran)
    out.print(f"\n{as_they_should} of {len(ran)} rows as they should be, {waiting} waiting.")
    for done in found if steps else ():
        if done.violation is not None:
            out.rule(align="left", characters="-")
            out.print(f"[bold]{done.bug.id}[/bold] {escape(done.bug.title)}")
            for line in done.bug.story:
                out.print(Padding(escape(line), (0, 0, 0, 4)))
            out.print(str(done.violation), markup=False, soft_wrap=True)


_HEAD = """\
# The bug catalogue

What went wrong with tags in Linux and KVM, and what this model says to it. Each row is run under
the kernel that had the bug and under the one that mended it, and the ledger judges both; nothing in
this table is typed by hand. It is written by

```
tagvisor bugs --markdown > docs/bugs.md
```

`tagvisor bugs --json` prints the same as one JSON object a row. `found` is true when the row's
script, run by this build under the broken profile, made the ledger report the row's property;
`fixed` is true when the same script under the other profile made it report nothing at all, audit of
the whole machine included, and ended as that kernel ends it (with the errno it refuses with, or
not early). Both are `null` for a row that waits for a piece of the model. The exit status is 1
when a row that runs is not as it should be. A profile with `KNOB=VALUE` behind it is a kernel that
was never released like that: a release candidate, a proposal, or what a rule is there to prevent.
Rows marked *derived* follow from the sources and were reported by nobody.

The properties: P1 no-loss, P2 no-leak, P3 flag implies tags, P4 mapping implies flag, P5 taggable,
P6 metadata life, P7 migration, P8 sanity, P9 trap. Steps are the length of the counterexample,
states those that the explorer looked at (races only).

"""


def _page(found: Sequence[Found]) -> str:
    from tagvisor.bugs import LEFT_OUT  # noqa: PLC0415

    head = "| id | bug | property | kind | knobs | broken | mended | this run | steps | states |"
    lines = [head, "|---" * 8 + "|--:|--:|"]
    for done in found:
        row = done.bug
        cells = [row.id, row.title, row.property, row.kind, ", ".join(row.knobs)]
        cells += [f"`{row.broken}`", f"`{row.fixed_in}`", _verdict(done)]
        cells += [str(size) if size else "" for size in (done.steps, done.states)]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "## What happens, and who says so", ""]
    for done in found:
        row = done.bug
        lines += [f"### {row.id}: {row.title}", ""]
        lines += [f"{number}. {line}" for number, line in enumerate(row.story, 1)]
        lines += ["", f"Source: {row.source}."]
        if row.derived:
            lines += ["", "Derived from the sources and reported by nobody: no known bug."]
        if row.waiting:
            lines += ["", f"Waits: {row.waiting}."]
        lines.append("")
    lines += ["## Left out", "", "| id | bug | why |", "|---|---|---|"]
    lines += [f"| {row.id} | {row.title} | {row.reason} |" for row in LEFT_OUT]
    return _HEAD + "\n".join(lines) + "\n"
