"""A row of the bug catalogue, and what a run of it establishes.

Models nothing. A row is data: which property a bug broke, in which kernel, where it was mended and
who says so; and a script that shows it. A *sequential* row is a function on a machine, a *race* is
a function that gives the explorer its actors. Whether the bug bites is never asked of the script:
the ledger of the machine decides.

Invariant: the same script runs under the broken and under the mended policy, unless user space
alone mended it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tagvisor.errors import (
    ArgumentError,
    GuestException,
    GuestExit,
    LinuxError,
    PolicyViolation,
    UserSignal,
)
from tagvisor.explore import explore
from tagvisor.host import Host
from tagvisor.policy import policy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tagvisor.ops import Op
    from tagvisor.policy import Policy
    from tagvisor.verdict import Violation

__all__ = ["Actors", "Bug", "Found", "Kind", "LeftOut", "Run", "establish", "policy_of", "run"]

Actors: TypeAlias = "Mapping[str, Sequence[Op]]"
"""Who does what, for the explorer."""

Kind = Literal["sequential", "race"]
"""``sequential``: one thing after the other shows it, or the one order of steps that the script
prescribes. ``race``: the explorer looks for the order that does."""

_MACHINE = {"memory": "1 MiB", "zone_device": "64 KiB", "swap": "64 KiB", "swap_kind": "nvme"}
_MAX_STATES = 400_000


@dataclass(frozen=True, slots=True)
class Bug:
    """A known bug, a policy that was proposed and would have been one, or what follows from one."""

    id: str
    """Its number in the catalogue, such as ``B12``."""
    title: str
    property: str
    """What it broke, such as ``P1``."""
    broken: str
    """The profile it bites in, with replaced knobs behind it where no kernel was like that."""
    fixed_in: str
    """The profile that mended it, or in which it never was."""
    kind: Kind
    knobs: tuple[str, ...]
    """The decisions it turns on."""
    source: str
    """Who says so: commits, mails, versions."""
    story: tuple[str, ...]
    """What happens, step by step."""
    script: Callable[[Host], None] | None = None
    """Does it, for a sequential row. It may end early with what the kernel refuses."""
    mended_script: Callable[[Host], None] | None = None
    """Does it as user space does that knows better, where no kernel mended it."""
    actors: Callable[[Host], Actors] | None = None
    """Sets the machine up and tells who then does what, for a race."""
    machine: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of :class:`tagvisor.Host` that differ from the catalogue's small machine."""
    refused: str = ""
    """How the mended kernel ends the script, if it does: errno, signal code, guest exception."""
    waiting: str = ""
    """What the model lacks to run it; empty for a row that runs."""
    derived: bool = False
    """Derived from the sources, and reported by nobody: no known bug."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A bug of the list that is outside the model."""

    id: str
    title: str
    reason: str


@dataclass(frozen=True, slots=True)
class Run:
    """What one policy did to a row."""

    policy: Policy
    violations: tuple[Violation, ...]
    """Every property that did not hold, in the order the ledger found out."""
    ended: str
    """How the script ended early: an errno or a signal's code; empty when it ran to its end."""
    states: int
    """Distinct states the explorer looked at; 0 for a sequential row."""
    complete: bool
    """For a race: were all looked at?"""

    def of(self, number: str) -> Violation | None:
        """The first violation of a property, if there is one."""
        return next((found for found in self.violations if found.property == number), None)


@dataclass(frozen=True, slots=True)
class Found:
    """What running a row under both its policies established."""

    bug: Bug
    found: bool | None
    """Did it bite under the broken policy? None for a row that waits."""
    fixed: bool | None
    """Did everything hold under the mended one?"""
    steps: int
    """Length of the counterexample."""
    states: int
    """Distinct states of both explorations; 0 for a sequential row."""
    seconds: float
    violation: Violation | None
    """The counterexample."""
    ended: str
    """How the mended kernel ended the script, if it refused something."""

    @property
    def as_it_should(self) -> bool:
        """Does it bite where it should and hold where it should? A row that waits does no harm."""
        return self.found is not False and self.fixed is not False

    def as_json(self) -> dict[str, object]:
        """One object, for programs."""
        bug = self.bug
        return {
            "id": bug.id,
            "title": bug.title,
            "property": bug.property,
            "kind": bug.kind,
            "knobs": list(bug.knobs),
            "broken": bug.broken,
            "fixed_in": bug.fixed_in,
            "found": self.found,
            "fixed": self.fixed,
            "steps": self.steps,
            "states": self.states,
            "seconds": round(self.seconds, 4),
            "derived": bug.derived,
            "waiting": bug.waiting or None,
            "source": bug.source,
        }


def policy_of(text: str) -> Policy:
    """The policy of a row: a profile, and ``KNOB=VALUE`` behind it for each replaced decision.

    Raises:
        UnknownProfileError: No such profile.
        ArgumentError: What stands behind it is no knob and value.
    """
    name, *pairs = text.split()
    chosen = policy(name)
    for pair in pairs:
        knob, equals, value = pair.partition("=")
        if not equals:
            raise ArgumentError("text", text, "a profile, then KNOB=VALUE")
        chosen = chosen.replace(**{knob: value})
    return chosen


def run(bug: Bug, chosen: Policy, properties: Sequence[str] = ()) -> Run:
    """Run a row's script once, under any policy.

    Args:
        bug: The row.
        chosen: The policy.
        properties: For a race: look only for these; for all by default.

    Raises:
        ArgumentError: The row has no script: it waits for a piece of the model.
    """
    host = Host(chosen, **{**_MACHINE, **bug.machine})
    if bug.actors is not None:
        actors = bug.actors(host)
        explored = explore(host, actors, properties=properties, max_states=_MAX_STATES)
        violations = () if explored.violation is None else (explored.violation,)
        return Run(chosen, violations, "", explored.states, explored.complete)
    if bug.script is None:
        raise ArgumentError("bug", bug.id, f"a row that runs; this one waits: {bug.waiting}")
    ended = ""
    try:
        bug.script(host)
    except (LinuxError, GuestExit) as refused:
        ended = refused.errno_name or "KVM_EXIT_MMIO"
    except UserSignal as signal:
        ended = signal.code
    except GuestException as taken:
        ended = taken.text
    with suppress(PolicyViolation):  # it is among host.violations too
        host.check()
    return Run(chosen, tuple(host.violations), ended, 0, complete=True)


def establish(bug: Bug) -> Found:
    """Run a row under its broken and under its mended policy."""
    if bug.script is None and bug.actors is None:
        return Found(bug, None, None, 0, 0, 0.0, None, "")
    began = time.perf_counter()
    broken = run(bug, policy_of(bug.broken), (bug.property,))
    mended = run(replace(bug, script=bug.mended_script or bug.script), policy_of(bug.fixed_in))
    seconds = time.perf_counter() - began
    violation = broken.of(bug.property)
    holds = not mended.violations and mended.complete and mended.ended == bug.refused
    return Found(
        bug=bug,
        found=violation is not None,
        fixed=holds,
        steps=0 if violation is None else len(violation.steps),
        states=broken.states + mended.states,
        seconds=seconds,
        violation=violation,
        ended=mended.ended,
    )
