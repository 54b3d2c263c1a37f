"""``tagvisor policies``: which kernels the model knows, in what they differ, and where from.

Models nothing: it prints what :mod:`tagvisor.policy` tells from the source that the machine asks.
Invariant: ``--json`` holds all that people are shown, and every name printed can be typed back.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from tagvisor.errors import ArgumentError, UnknownKnobError, UnknownProfileError
from tagvisor.policy import Knob, Policy, difference, knob, knobs, policy, profiles, takers

__all__ = ["app"]

app = typer.Typer(rich_markup_mode="rich")

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]


def _examples(*lines: str) -> str:
    return "\n".join(["[bold]Examples[/bold]", *lines])


@app.callback(
    invoke_without_command=True,
    epilog=_examples(
        "tagvisor policies                   every kernel and every decision, a line each",
        "tagvisor policies diff 6.1 6.12     what the one does otherwise than the other",
        "tagvisor policies show K18          one decision: values, kernels, source",
        "tagvisor policies show 6.1.38       one kernel: its value of every decision",
        """tagvisor policies --json | jq 'select(.knob == "K1")'""",
    ),
)
def list_all(ctx: typer.Context, *, as_json: JsonOption = False) -> None:
    """List the kernels (profiles) and the decisions (knobs) the model knows.

    A policy has one value for every decision. A profile is a kernel that was; --knob of other
    commands makes one that was not.
    """
    ctx.obj = as_json
    if ctx.invoked_subcommand is not None:
        return
    if as_json:
        for known in profiles():
            line = {"profile": known.name, "summary": known.summary}
            typer.echo(json.dumps({**line, **policy(known.name).knobs}))
        for decision in knobs():
            typer.echo(json.dumps(_knob_as_json(decision)))
        return
    from tagvisor._console import console  # noqa: PLC0415 - it imports the replay

    out = console()
    out.print("[bold]Profiles[/bold]")
    names = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    for known in profiles():
        names.add_row(f"  [bold]{known.name}[/bold]", escape(known.summary))
    out.print(names)
    out.print("\n[bold]Knobs[/bold]")
    decisions = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    for decision in knobs():
        values = ", ".join(value.name for value in decision.values)
        decisions.add_row(f"  [bold]{decision.id}[/bold]", escape(decision.title), escape(values))
    out.print(decisions)


@app.command(
    epilog=_examples(
        "tagvisor policies diff 6.1 6.12",
        "tagvisor policies diff v10-series 5.14 --json | jq -r .knob",
    )
)
def diff(
    ctx: typer.Context,
    left: Annotated[str, typer.Argument(metavar="LEFT", help="A kernel, such as 6.1.")],
    right: Annotated[str, typer.Argument(metavar="RIGHT", help="Another one.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Show what two kernels decide differently: both values, what they mean, and the source."""
    first, second = _profile("LEFT", left), _profile("RIGHT", right)
    found = difference(first, second)
    if as_json or ctx.obj:
        for one in found:
            sides = {
                first.name: {"value": one.left.name, "doc": one.left.doc},
                second.name: {"value": one.right.name, "doc": one.right.doc},
            }
            about = {"knob": one.knob.id, "field": one.knob.field, "title": one.knob.title}
            typer.echo(json.dumps({**about, "source": one.knob.source, "values": sides}))
        return
    from tagvisor._console import console  # noqa: PLC0415

    out = console()
    for one in found:
        out.print(f"[bold]{one.knob.id}[/bold] {escape(one.knob.title)}")
        for side, value in ((first, one.left), (second, one.right)):
            text = f"{side.name}: [bold]{value.name}[/bold]: {escape(value.doc)}"
            out.print(Padding(text, (0, 0, 0, 4)))
        out.print(Padding(f"[dim]{escape(one.knob.source)}[/dim]", (0, 0, 1, 4)))
    total = len(knobs())
    out.print(f"{first.name} and {second.name} differ in {len(found)} of {total} decisions.")


@app.command(epilog=_examples("tagvisor policies show K18", "tagvisor policies show 6.1.38"))
def show(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A knob, such as K18 or sanitise, or a kernel.")
    ],
    *,
    as_json: JsonOption = False,
) -> None:
    """Explain one decision, with every value and who takes it; or list one kernel's decisions."""
    as_json = as_json or bool(ctx.obj)
    try:
        decision = knob(name)
    except UnknownKnobError as unknown:
        try:
            chosen = policy(name)
        except UnknownProfileError as error:
            expected = f"a knob, {unknown.expected}; or a kernel, {error.expected}"
            raise ArgumentError("NAME", name, expected) from None
        _show_profile(chosen, as_json=as_json)
    else:
        _show_knob(decision, as_json=as_json)


def _show_knob(decision: Knob, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(_knob_as_json(decision)))
        return
    from tagvisor._console import console  # noqa: PLC0415

    out, taken = console(), takers(decision)
    head = f"[bold]{decision.id}[/bold] {escape(decision.title)}  [dim]{decision.field}[/dim]"
    out.print(head)
    out.print(Padding(escape(decision.doc), (1, 0, 1, 4)))
    for value in decision.values:
        out.print(Padding(f"[bold]{value.name}[/bold]: {escape(value.doc)}", (0, 0, 0, 4)))
        kernels = ", ".join(taken[value.name]) or "no profile"
        out.print(Padding(f"[dim]{kernels}[/dim]", (0, 0, 0, 8)))
    out.print(Padding(f"Source: {escape(decision.source)}", (1, 0, 0, 4)))


def _show_profile(chosen: Policy, *, as_json: bool) -> None:
    (summary,) = (known.summary for known in profiles() if known.name == chosen.name)
    if as_json:
        typer.echo(json.dumps({"profile": chosen.name, "summary": summary, **chosen.knobs}))
        return
    from tagvisor._console import console  # noqa: PLC0415

    out = console()
    out.print(f"[bold]{chosen.name}[/bold]: {escape(summary)}\n")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    for decision in knobs():
        value = next(v for v in decision.values if v.name == chosen.knobs[decision.id])
        row = (decision.id, escape(decision.title), f"[bold]{value.name}[/bold]", escape(value.doc))
        table.add_row(*row)
    out.print(table)


def _knob_as_json(decision: Knob) -> dict[str, object]:
    taken = takers(decision)
    values = [
        {"value": value.name, "doc": value.doc, "profiles": list(taken[value.name])}
        for value in decision.values
    ]
    about = {"knob": decision.id, "field": decision.field, "title": decision.title}
    return {**about, "doc": decision.doc, "source": decision.source, "values": values}


def _profile(argument: str, name: str) -> Policy:
    try:
        return policy(name)
    except UnknownProfileError as error:
        raise UnknownProfileError(argument, name, error.expected) from None
