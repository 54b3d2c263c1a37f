"""Jobs: some units each, drawn, answered by the oracle, and put to the emulator and to QEMU.

A job is a function of its seeds and the options, so it may run in any process. A live job's units
go to QEMU; those of steps are drawn for what its bare-metal target can show and do not go to the
emulator, whose exclusive monitor would stay open where the target's does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from tests.conformance import on_qemu, steps, walks
from tests.conformance.comparison import Tally, outcome_name, par_name

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS_PER_UNIT = 2000
Unit = TypeVar("Unit", steps.Unit, walks.Unit)


@dataclass(frozen=True)
class Options:
    """What every job needs to know."""

    pe: bool
    full: bool
    keep: int
    skip: frozenset[str]
    qemu: str | None
    compiler: str


@dataclass(frozen=True)
class Job:
    """Some units of one kind, by their seeds."""

    kind: str
    seeds: tuple[int, ...]
    live: bool


@cache
def qemu(command: str, compiler: str) -> on_qemu.Qemu:
    """One QEMU for each process."""
    found = on_qemu.Qemu(command, compiler)
    if not found.has_tags():
        raise on_qemu.QemuError("this QEMU does not keep a tag for each granule; 10.0 does")
    return found


def live_answers(
    units: list[Unit], write: Callable[[on_qemu.Script, Unit], None], options: Options
) -> list[tuple[Unit, list[tuple[int, ...]]]]:
    """QEMU's answers for each unit, from one script for all that fit."""
    machine = qemu(options.qemu or "", options.compiler)
    script = on_qemu.Script()
    ends: list[int] = []
    for unit in units:
        write(script, unit)
        ends.append(len(script.sizes))
    answers = machine.run(script)
    starts = [0, *ends[:-1]]
    return [
        (unit, answers[start:end]) for unit, start, end in zip(units, starts, ends, strict=True)
    ]


def run_steps(job: Job, options: Options) -> Tally:
    tally, live = Tally(), []
    for seed in job.seeds:
        unit = steps.Draw(seed, options.skip, bare_metal=job.live).unit(STEPS_PER_UNIT)
        tally.apart += unit.apart
        for _, block in unit.blocks:
            tally.counts["oracle_steps"] += len(block)
            tally.outcomes.update(outcome_name(step.taken) for step in block)
        if job.live:
            live.append(unit)
        elif options.pe:
            from tests.conformance import on_pe  # only here: the oracle runs without the emulator

            on_pe.run_steps(unit, tally, full=options.full, keep=options.keep)
    if live:
        for unit, answers in live_answers(live, on_qemu.write_steps, options):
            on_qemu.compare_steps(unit, answers, tally, full=options.full, keep=options.keep)
    return tally


def run_walks(job: Job, options: Options) -> Tally:
    tally = Tally()
    units = [walks.make(seed, bare_metal=job.live) for seed in job.seeds]
    for unit in units:
        tally.apart += unit.apart
        tally.counts["oracle_walks"] += len(unit.walks)
        tally.outcomes.update(par_name(walk.par) for walk in unit.walks)
    if options.pe:
        from tests.conformance import on_pe  # only here: the oracle runs without the emulator

        on_pe.run_walks(units, tally, keep=options.keep)
    if job.live:
        for unit, answers in live_answers(units, on_qemu.write_walks, options):
            on_qemu.compare_walks(unit, answers, tally, keep=options.keep)
    return tally


def run(job: Job, options: Options) -> Tally:
    """Draw a job's units and compare them."""
    return run_steps(job, options) if job.kind == "steps" else run_walks(job, options)
