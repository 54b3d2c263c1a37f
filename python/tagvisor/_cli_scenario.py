"""``tagvisor run``, ``diff`` and ``check``: scenarios answered, compared and judged.

Models nothing: it calls :mod:`tagvisor.scenario` and prints. Invariant: files are written whole or
not at all, and only after every scenario ran.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer

from tagvisor._cli_options import (
    JsonOption,
    KernelOption,
    KnobOption,
    Swap,
    SwapOption,
    chosen_policy,
)
from tagvisor._files import write_whole
from tagvisor.errors import ArgumentError, ScenarioError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["check", "diff", "run"]

EXIT_DIFFERS = 1
MANY = 20
"""From so many scenarios on, a terminal sees how far it is."""


def run(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Scenario files, or folders of *.scn files."),
    ],
    kernel: KernelOption = "6.12",
    swap: SwapOption = Swap.nvme,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="One NAME.jsonl per scenario in this folder."
        ),
    ] = None,
    knob: KnobOption = None,
) -> None:
    """Run scenarios: one command a line in, one JSON answer a line out.

    The answers are in the form in which recorded answers of real kernels compare. A command that is
    malformed ends the run with file and line, and nothing is written; one that the model cannot
    execute answers {"unsupported": 1}.
    """
    from tagvisor import scenario  # noqa: PLC0415

    chosen = chosen_policy(kernel, knob)
    answers = {
        path: scenario.json_lines(scenario.run(path, policy=chosen, swap=swap.value))
        for path in _with_progress(_scenario_files(paths))
    }
    if output is None:
        for text in answers.values():
            typer.echo(text, nl=False)
        return
    if output.exists() and not output.is_dir():
        raise ArgumentError("--output", str(output), "a folder")
    files: dict[Path, str] = {}
    for path, text in answers.items():
        place = output / f"{path.stem}.jsonl"
        if place in files:
            problem = f"a second scenario of the name {path.stem!r}"
            raise ScenarioError(str(path), 0, problem, "names that differ, or another folder")
        files[place] = text
    write_whole(files)


def _with_progress(files: list[Path]) -> Iterator[Path]:
    """The files, with a line on standard error that counts them where somebody looks at it."""
    shown = len(files) >= MANY and sys.stderr.isatty()
    for number, path in enumerate(files, start=1):
        if shown:
            typer.echo(f"\r{number} of {len(files)} scenarios", nl=number == len(files), err=True)
        yield path


def _scenario_files(paths: Sequence[Path]) -> list[Path]:
    """The files named, and those in the folders named, each once."""
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(path.glob("*.scn"))
            if not inside:
                raise ScenarioError(str(path), 0, "no scenario in this folder", "files named *.scn")
            found.update(dict.fromkeys(inside))
        else:
            found[path] = None
    return list(found)


def diff(
    reference: Annotated[Path, typer.Argument(metavar="A", help="The answers to compare with.")],
    answers: Annotated[Path, typer.Argument(metavar="B", help="The answers to judge.")],
    first: Annotated[int, typer.Option(metavar="N", help="Differences shown.")] = 10,
) -> None:
    """Compare two sets of answers: where they differ, side by side, and a score.

    Addresses, frame numbers and timings are left out first. The last line is JSON. Exit code 1
    when anything differs.
    """
    from tagvisor.scenario.compare import compare, load, text_of  # noqa: PLC0415

    found = compare(load(reference), load(answers))
    for place in found.differences[:first]:
        shown = place.left or place.right or {}
        who = "[child] " if shown.get("who") == "c" else ""
        typer.echo(f"{place.scenario} {place.index} {who}{shown.get('cmd', '')}")
        typer.echo(f"    A: {text_of(place.left)}")
        typer.echo(f"    B: {text_of(place.right)}")
    hidden = len(found.differences) - first
    if hidden > 0:
        typer.echo(f"... and {hidden} more")
    for name in found.missing:
        typer.echo(f"{name}: not in {answers}")
    typer.echo(f"{found.equal} of {found.compared} answers match ({found.percent:.2f} %)")
    summary = {
        "equal": found.equal,
        "compared": found.compared,
        "differences": len(found.differences),
        "missing": len(found.missing),
    }
    typer.echo(json.dumps(summary))
    if found.differences:
        raise typer.Exit(EXIT_DIFFERS)


def check(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Scenario files, or folders of *.scn files."),
    ],
    kernels: Annotated[
        str, typer.Option(metavar="LIST", help="Kernels, separated by commas.")
    ] = "5.14,6.1,6.12,7.3",
    swap: SwapOption = Swap.nvme,
    knob: KnobOption = None,
    as_json: JsonOption = False,  # noqa: FBT002 - typer's flag
) -> None:
    """Judge scenarios under several kernels: holds, or the property that was violated.

    Exit code 1 when any scenario violates a property under any of them.
    """
    from tagvisor import scenario  # noqa: PLC0415

    names = [name.strip() for name in kernels.split(",") if name.strip()]
    if not names:
        raise ArgumentError("--kernels", kernels, "kernels separated by commas, such as 6.1,6.12")
    policies = {name: chosen_policy(name, knob) for name in names}
    table: dict[str, dict[str, str]] = {}
    for path in _with_progress(_scenario_files(paths)):
        row: dict[str, str] = {}
        for name, chosen in policies.items():
            broken = scenario.judge(path, policy=chosen, swap=swap.value)
            row[name] = " ".join(sorted({v.property for v in broken})) or "holds"
            if as_json:
                record = {"scenario": path.stem, "kernel": name, "verdict": row[name]}
                record |= {"summary": broken[0].summary} if broken else {}
                typer.echo(json.dumps(record))
        table[path.stem] = row
    if not as_json:
        from tagvisor import _console  # noqa: PLC0415

        _console.print_verdicts(names, table)
    if any(verdict != "holds" for row in table.values() for verdict in row.values()):
        raise typer.Exit(EXIT_DIFFERS)
