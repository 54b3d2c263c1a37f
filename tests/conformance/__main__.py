"""The conformance run: random steps and walks on `tagvisor.Pe`, the Python oracle and QEMU.

    python -m tests.conformance --steps 10_000_000 --walks 1_000_000

Steps are single instructions on random machines (`steps`), walks are ATs through random tables
(`walks`). The oracle (`tests/oracle`) answers all of them and `tagvisor.Pe` is compared with it.
Where there is a QEMU (`--qemu COMMAND`, else qemu-system-aarch64 on PATH) and a cross compiler
for the program that runs on it, `--qemu-share` as many are drawn on top and put to QEMU.

Prints progress, then the first differences, each with its seed, its registers and both answers,
and last a line of JSON with the counts; the exit status is 1 if anything differed. A unit's seed
follows from `--seed`, so the same options ask the same questions with any number of `--jobs`.
`--only steps:SEED` or `--only walks:SEED` asks those of one unit again (add `--live` if QEMU
differed).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from functools import partial

from tests.conformance.comparison import Tally
from tests.conformance.jobs import STEPS_PER_UNIT, Job, Options, qemu as start_qemu, run
from tests.conformance.on_qemu import QemuError
from tests.conformance.walks import WALKS_PER_UNIT

UNITS_PER_JOB = {"steps": 5, "walks": 50}
LIVE_UNITS_PER_JOB = {"steps": 20, "walks": 500}  # starting QEMU takes longer than a small script
PROGRESS_SECONDS = 10
DEFAULT_QEMU, DEFAULT_COMPILER = "qemu-system-aarch64", "aarch64-linux-gnu-gcc"


def number(text: str) -> int:
    return int(text.replace("_", ""), 0)


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--steps", type=number, default=10_000_000, help="instruction steps (10_000_000)")
    add("--walks", type=number, default=1_000_000, help="translations (1_000_000)")
    add("--seed", type=number, default=1)
    add("--jobs", type=number, default=os.cpu_count() or 1, help="processes (one for each core)")
    add("--qemu", metavar="COMMAND", help="a QEMU with arguments of its own, or 'none'")
    add("--qemu-share", type=float, default=0.02, metavar="SHARE", help="asked of QEMU too (0.02)")
    add("--compiler", default=DEFAULT_COMPILER, help="for the program that runs on QEMU")
    add("--without-pe", action="store_true", help="compare the oracle with QEMU only")
    add("--full", action="store_true", help="compare ISV and what belongs to it too")
    add("--skip", default="", metavar="NAMES", help="instructions to leave out, by comma")
    add("--show", type=number, default=10, help="differences to print (10)")
    add("--only", metavar="KIND:SEED", help="one unit, as a difference names it")
    add("--live", action="store_true", help="with --only: the unit was one of QEMU's")
    return parser.parse_args(arguments)


def qemu_command(asked: str | None, compiler: str) -> str | None:
    """The QEMU to use, if any: one that was asked for, or one that is there and works."""
    if asked is not None:
        return None if asked == "none" else asked
    if not shutil.which(DEFAULT_QEMU) or not shutil.which(compiler):
        return None
    try:
        start_qemu(DEFAULT_QEMU, compiler)
    except QemuError as error:
        say(f"the QEMU on PATH is not used: {error}")
        return None
    return DEFAULT_QEMU


def missing(asked: argparse.Namespace, command: str | None) -> str | None:
    """What stands in the way of the run, or nothing."""
    if not asked.without_pe:
        try:
            from tagvisor import Pe  # noqa: F401 - is it there?
        except ImportError as error:
            return f"no emulator to compare with ({error}); --without-pe does without"
    if asked.only and asked.live and command is None:
        return "--live needs a QEMU and a compiler for its target"
    if command is not None:
        try:
            start_qemu(command, asked.compiler)
        except (QemuError, OSError, ValueError) as error:
            return f"QEMU: {error}; --qemu none does without"
    return None


def jobs_of(kind: str, units: int, seed: int, *, live: bool) -> list[Job]:
    """Jobs for a number of units; live ones have seeds of their own."""
    size = (LIVE_UNITS_PER_JOB if live else UNITS_PER_JOB)[kind]
    first = seed * 1_000_000_007 + (500_000_000 if live else 0)
    starts = range(0, units, size)
    return [
        Job(kind, tuple(range(first + at, first + min(at + size, units))), live) for at in starts
    ]


def plan(asked: argparse.Namespace, *, live: bool) -> list[Job]:
    """All jobs of a run; the live ones first, for they take longest."""
    if asked.only:
        kind, _, seed = asked.only.partition(":")
        return [Job(kind, (number(seed),), asked.live)]
    jobs = []
    for kind, count, per_unit in (
        ("steps", asked.steps, STEPS_PER_UNIT),
        ("walks", asked.walks * 21 // 20, WALKS_PER_UNIT),  # some units come out short
    ):
        if live:
            units = -(-int(count * asked.qemu_share) // per_unit)
            jobs += jobs_of(kind, units, asked.seed, live=True)
        jobs += jobs_of(kind, -(-count // per_unit), asked.seed, live=False)
    return jobs


def execute(jobs: list[Job], options: Options, processes: int, show: int) -> Tally:
    """Run all jobs, and say from time to time how far they are."""
    total, said = Tally(), time.monotonic()
    with multiprocessing.Pool(processes) as pool:
        # In order, so that the first differences are the same on every run.
        for done, tally in enumerate(pool.imap(partial(run, options=options), jobs), 1):
            total.add(tally, show)
            if time.monotonic() - said > PROGRESS_SECONDS:
                said = time.monotonic()
                counts = ", ".join(f"{count} {name}" for name, count in total.counts.items())
                say(f"{done} of {len(jobs)} jobs: {counts}; {total.mismatches} mismatches")
    return total


def say(text: str) -> None:
    print(text, flush=True)


def main(arguments: list[str] | None = None) -> int:
    asked = options_of(arguments)
    qemu = qemu_command(asked.qemu, asked.compiler)
    obstacle = missing(asked, qemu)
    if obstacle is not None:
        say(obstacle)
        return 2
    skip = frozenset(name.strip() for name in asked.skip.split(",") if name.strip())
    options = Options(not asked.without_pe, asked.full, asked.show, skip, qemu, asked.compiler)
    started = time.monotonic()
    total = execute(plan(asked, live=qemu is not None), options, asked.jobs, asked.show)
    for name, count in total.outcomes.most_common():
        say(f"{count:>10} {name}")
    for text in total.first:
        say(f"MISMATCH {text}")
    summary = {
        **total.counts,
        "mismatches": total.mismatches,
        "apart": dict(sorted(total.apart.items())),
        "seed": asked.seed,
        "qemu": qemu,
        "seconds": round(time.monotonic() - started, 1),
    }
    say(json.dumps(summary))
    return 1 if total.mismatches else 0


if __name__ == "__main__":
    sys.exit(main())
