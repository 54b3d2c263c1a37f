"""The command line: parse, call the library, print.

Models nothing. Each command is a few lines over what Python can call too; what takes time to import
is imported by the command that needs it.

Invariant: a user's mistake ends with exit code 2 and one line on standard error that says what is
wrong and what would be right, and leaves no output half written. Ctrl-C ends with 130, a fault of
tagvisor itself with 70.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tagvisor import __version__, _cli_bugs, _cli_policies, _cli_scenario
from tagvisor._cli_options import JsonOption, KernelOption, KnobOption, chosen_policy
from tagvisor.errors import ArgumentError, InternalError, TagvisorError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["app", "main"]

EXIT_DIFFERS = 1
EXIT_USER = 2
EXIT_INTERNAL = 70  # EX_SOFTWARE
EXIT_INTERRUPTED = 130  # 128 + SIGINT

app = typer.Typer(
    name="tagvisor",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


app.add_typer(_cli_policies.app, name="policies")


def _examples(*lines: str) -> str:
    """How it is used, a line each."""
    return "\n".join(["[bold]Examples[/bold]", *lines])


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the flag
    if wanted:
        typer.echo(f"tagvisor {__version__}")
        raise typer.Exit


@app.callback(
    epilog=_examples(
        "tagvisor demo                        what holds, what loses tags, and why: report.html",
        "tagvisor run seq.scn --kernel 6.12   a scenario, answered as the real kernel does",
        "tagvisor matrix                      policy against sequence, in the terminal",
        "tagvisor policies                    the kernels and decisions the model knows",
        "tagvisor bugs                        the known bugs: found, and mended, by this build",
        "tagvisor record -- ./program         a real program's accesses and heap events",
        "tagvisor replay --limit 0.25         a recorded program, under memory pressure",
        "tagvisor verify *.jsonl.gz           recorded answers of QEMU, replayed and compared",
    )
)
def root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """An executable model of Arm MTE under virtualisation, with a judge for every tag.

    Exit codes: 0 done; 1 `verify` found a difference, or `bugs` a row that is not as it should be;
    2 a mistake in what was given; 130 interrupted; 70 a fault of tagvisor.
    """


@app.command(
    epilog=_examples(
        "tagvisor matrix",
        "tagvisor matrix --steps > for-the-list.txt",
        "tagvisor matrix --json | jq 'select(.verdict != \"holds\") | [.row, .sequence]'",
    )
)
def matrix(
    *,
    as_json: JsonOption = False,
    steps: Annotated[
        bool,
        typer.Option(
            "--steps", help="Add the steps behind each violation, in 72 columns, fit for a mail."
        ),
    ] = False,
) -> None:
    """Play the thread's sequences under every policy: what holds, what loses or leaks tags."""
    from tagvisor.matrix import matrix as play  # noqa: PLC0415

    played = play()
    if as_json:
        for cell in played.as_json():
            typer.echo(json.dumps(cell))
        return
    from tagvisor import _console  # noqa: PLC0415

    _console.print_matrix(played)
    if steps:
        _console.print_violations(played)


@app.command(epilog=_examples("tagvisor demo", "tagvisor demo -o tagvisor.html"))
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where the report goes.")
    ] = Path("report.html"),
) -> None:
    """Show it all: the matrix, a replay of a real program, and a report to look at.

    Takes under 20 seconds. The report is one HTML file without outside references.
    """
    from tagvisor import demo as show  # noqa: PLC0415

    show.demo(output)


@app.command(
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
    epilog=_examples(
        "tagvisor record -- sqlite3 :memory: 'select 1'",
        "tagvisor record -o build.parquet --max-accesses 2000000 -- make -n",
    ),
)
def record(
    command: Annotated[
        list[str], typer.Argument(metavar="PROGRAM ARGS...", help="What to run, after a `--`.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The trace; PROGRAM.parquet by default."
        ),
    ] = None,
    max_accesses: Annotated[
        int | None, typer.Option(metavar="N", help="End the program after N loads and stores.")
    ] = None,
    note: Annotated[str, typer.Option(help="Kept in the trace, for its reader.")] = "",
) -> None:
    """Record a real program's loads, stores and heap events with valgrind.

    The program has this terminal's input and output. The trace appears when it has ended, whole or
    not at all.
    """
    from tagvisor.trace.record import record as start  # noqa: PLC0415

    place = output or Path(f"{Path(command[0]).name}.parquet")
    done = start(command, place, max_accesses=max_accesses, note=note)
    info = done.info
    typer.echo(
        f"{done.path}: {info.accesses:,} accesses, {info.mallocs:,} allocations, {info.pages:,}"
        f" pages in {done.seconds:.1f} s; the program's exit status: {done.exit_status}",
        err=True,
    )


@app.command(
    epilog=_examples(
        "tagvisor replay --limit 0.25                      the recorded sqlite3 that ships with it",
        "tagvisor replay my.parquet --limit 300 --ledger   300 pages resident, every step judged",
        "tagvisor replay --limit 0.25 --knob K1=restore    what would that save in saved tags?",
    )
)
def replay(
    trace: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TRACE]", help="What `tagvisor record` wrote; a recorded sqlite3 by default."
        ),
    ] = None,
    *,
    kernel: KernelOption = "6.12",
    knob: KnobOption = None,
    limit: Annotated[
        str | None,
        typer.Option(
            metavar="PART|PAGES",
            help="Pages that may be resident: a part of the program's, as 0.5, or a number.",
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="The host's memory, as '64 MiB'; enough by default."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides the allocations' tags.")] = 1,
    ledger: Annotated[bool, typer.Option("--ledger", help="Judge every step too; slower.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Replay a recorded program in a guest: every access checked, under host memory pressure.

    Ctrl-C ends it with the counters so far.
    """
    from tagvisor import _console, demo  # noqa: PLC0415

    with demo.shipped_trace() if trace is None else nullcontext(trace) as path:
        done = _console.replay_with_progress(
            path,
            policy=chosen_policy(kernel, knob),
            limit=_limit(limit),
            memory=memory,
            seed=seed,
            ledger=ledger,
        )
    if as_json:
        about = {"policy": done.policy.name, "seed": seed, "limit_pages": done.limit_pages}
        speed = {"seconds": round(done.seconds, 3), "interrupted": done.interrupted}
        typer.echo(json.dumps({"trace": path.name, **about, **done.counters, **speed}))
    else:
        _console.print_counters(done)
    if done.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)


def _limit(text: str | None) -> float | None:
    """A part of the pages, or a number of them."""
    if text is None:
        return None
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        expected = "a part of the pages such as 0.5, or a number of pages such as 300"
        raise ArgumentError("--limit", text, expected) from None


@app.command(epilog=_examples("tagvisor bench", "tagvisor bench replay --json"))
def bench(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Which; all by default.")
    ] = None,
    *,
    as_json: JsonOption = False,
    seed: Annotated[int, typer.Option(help="Decides addresses and tags.")] = 1,
) -> None:
    """Measure this machine: each benchmark beside the least it could cost, in one process."""
    from tagvisor import bench as benchmarks  # noqa: PLC0415

    found = benchmarks.run(names or (), seed=seed)
    if as_json:
        for row in found:
            typer.echo(benchmarks.to_json(row))
        return
    from tagvisor import _console  # noqa: PLC0415

    _console.console().print(benchmarks.table(found))


@app.command(
    epilog=_examples(
        "tagvisor verify s2_at.jsonl.gz              one file",
        "tagvisor verify *.jsonl.gz | tail -n 1      the totals, as JSON",
    )
)
def verify(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Vector files: JSON lines, gzip if named *.gz."),
    ],
) -> None:
    """Replay recorded answers of QEMU against the architecture, and count what differs.

    The first ten mismatches are printed with what reproduces them; the last line is the totals as
    JSON. The exit code is 1 when anything differs.
    """
    from tagvisor.verify import report  # noqa: PLC0415

    tallies = report.verify_with_progress(paths)
    report.print_report(tallies)
    if report.totals(tallies)["mismatches"]:
        raise typer.Exit(EXIT_DIFFERS)


app.command(
    epilog=_examples(
        "tagvisor run seq.scn                                  answers to standard output",
        "tagvisor run scn/ --kernel 5.14 --swap zram -o out    a folder, one out/NAME.jsonl each",
        "tagvisor run seq.scn --knob K1=restore                what if saved tags went at swap-in?",
        "",
        "A scenario, one command a line:",
        "vm mte                      a VM with MTE",
        "mmap A anon 1               one page of the VMM",
        "slot 1 0x50000000 A 0 1     becomes the guest's memory",
        "g stg 0x50000000 5          the guest tags a granule",
        "evict A 0                   the host swaps the page out",
        "g ldg 0x50000000            the guest reads its tag back",
    )
)(_cli_scenario.run)
app.command(
    epilog=_examples(
        "tagvisor diff recorded/6.12-zram out           two folders, or two files",
        "tagvisor diff corpus/6.12.jsonl mine.jsonl     a scenario a line",
    )
)(_cli_scenario.diff)
app.command(
    epilog=_examples(
        "tagvisor check scn/ --kernels 5.14,6.1.38,6.12,7.3",
        "tagvisor check seq.scn --kernels 6.1.38,6.1.39 --swap zram --json",
    )
)(_cli_scenario.check)
app.command(
    epilog=_examples(
        "tagvisor bugs                      the whole catalogue, run and judged",
        "tagvisor bugs B12 --steps          one, with the steps that lead there",
        "tagvisor bugs --json | jq 'select(.found == false)'",
    )
)(_cli_bugs.bugs)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The words after the program's name; those of this process by default.

    Returns:
        The exit code.
    """
    try:
        result = app(args=None if argv is None else list(argv), standalone_mode=False)
    except InternalError as fault:
        return _complain(f"internal error: {fault}; please report it", EXIT_INTERNAL)
    except TagvisorError as mistake:
        return _complain(str(mistake), EXIT_USER)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}", EXIT_USER)
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except Exception as error:
        # What the parser raises for a wrong option has no base class that typer exports.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        if not message():  # no words at all: the help was printed, which says it
            return EXIT_USER
        return _complain(f"{message()} See tagvisor --help.", EXIT_USER)
    return result if isinstance(result, int) else 0


def _complain(text: str, code: int) -> int:
    """One line, whatever is in it."""
    typer.echo(f"tagvisor: {' '.join(text.split())}", err=True)
    return code
