"""Exhaustion: the operations of several actors in every order of their atomic steps.

The paths that run are the host's own, the same that a :class:`tagvisor.Host` runs at once: at each
step of each of them another actor may go on instead. Search is breadth first, so a violation comes
with the fewest steps that show it, and no violation in a complete exploration is a proof within the
bounds: these actors, these operations, this machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from tagvisor import _check, _native, ops
from tagvisor.errors import ArgumentError
from tagvisor.verdict import Step, Violation

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from tagvisor.host import Host

__all__ = ["Exploration", "Forever", "Turn", "explore", "forever", "ops", "schedule"]

Turn: TypeAlias = "str | tuple[str, str]"
"""Who runs to the end of its operations; or who, and before which step (``"path: step"``) it stops,
or behind which (``"after path: step"``)."""


Verdict: TypeAlias = Literal["violation", "holds", "bounded"]
"""What an exploration says."""

_MAX_ACTORS = 8  # past which no machine finishes
_MAX_STATES = (1 << 32) - 1


class Forever(tuple[ops.Op, ...]):
    """Operations that begin again at their end. Made by :func:`forever`."""

    __slots__ = ()


def forever(*todo: ops.Op) -> Forever:
    """What an actor does that never stops, such as a swapper.

    Args:
        todo: Its operations, done one after the other and then again.
    """
    if not todo:
        raise ArgumentError("todo", (), "at least one operation")
    return Forever(todo)


@dataclass(frozen=True, slots=True)
class Exploration:
    """What an exploration found."""

    states: int
    """Distinct states looked at."""
    transitions: int
    """Steps run."""
    violation: Violation | None
    """The violation with the fewest steps; None when there is none within what was looked at."""
    complete: bool
    """Was every reachable state looked at? False after a violation, and at ``max_states``."""
    bytes_used: int = 0
    """Bytes that the states take in memory, tables included."""
    values: int = 0
    """Distinct values of the parts that states consist of; they are kept once."""

    @property
    def verdict(self) -> Verdict:
        """``"violation"``; ``"holds"``, complete within the model; or ``"bounded"``, cut off."""
        if self.violation is not None:
            return "violation"
        return "holds" if self.complete else "bounded"

    def __str__(self) -> str:
        """One line, then the violation if there is one."""
        extent = f"{self.states} states, {self.transitions} transitions"
        if self.violation is not None:
            return f"{extent}\n{self.violation}"
        return f"{extent}: " + ("no violation" if self.complete else "no violation so far")


def explore(
    host: Host,
    actors: Mapping[str, Sequence[ops.Op]],
    *,
    properties: Collection[str] = (),
    max_states: int = 1_000_000,
    symmetry: bool = True,
) -> Exploration:
    """Run the actors' operations in every order of their steps.

    Args:
        host: The machine after what is to happen before. It is copied, not changed. It needs its
            ledger, and no TLB (``tlb_bits=0``).
        actors: Name, which steps call the actor by, to its operations (:mod:`tagvisor.ops`), done
            one after the other, or for ever (:func:`forever`). At most 8 actors.
        properties: Look only for violations of these, such as ``("P1", "P2")``; for all by default.
            A deadlock ends the search in any case.
        max_states: Stop after this many distinct states.
        symmetry: Keep one state of those that differ only in which of several vCPUs with the same
            operations is where. The verdict and the fewest steps are the same without.

    Returns:
        What was found. That every unfinished actor waits for another (a deadlock) is a violation of
        P8.

    Raises:
        ArgumentError: No operation at all, an operation made for another host, or a host without
            ledger or with a TLB.
        KeyboardInterrupt: Ctrl-C ends it.
    """
    limit = _check.integer("max_states", max_states, 1, _MAX_STATES)
    states, transitions, complete, size, values, found, waiting = _native.explore(
        host.machine,
        _checked(actors),
        [_check.text("properties", one) for one in properties],
        limit,
        _check.flag("symmetry", symmetry),
    )
    violation = None
    if found is not None:
        violation = Violation.from_native(found)
    elif waiting is not None:
        steps = tuple(Step(*line) for line in waiting)
        violation = Violation("P8", "sanity", "every unfinished actor waits for another", steps)
    return Exploration(states, transitions, violation, complete, size, values)


def schedule(host: Host, actors: Mapping[str, Sequence[ops.Op]], turns: Sequence[Turn]) -> None:
    """Run one interleaving of the actors' operations, on the machine itself.

    What :func:`explore` finds can be told again this way, and what happened on a real machine be
    tried under another policy::

        tv.schedule(
            host,
            {"vcpu0": [tv.ops.stg(cpu, 0x5000_0000, 5)], "vmm": [tv.ops.munmap(ram)]},
            [("vcpu0", "user_mem_abort: kvm_fault_lock"), "vmm", "vcpu0"],
        )

    Args:
        host: The machine. It is changed; when the schedule cannot be run, it is as it was.
        actors: Name to operations, as for :func:`explore`.
        turns: Who runs, in order. A name alone runs all that is left of its operations; with a
            step, as the log names it, it stops before that step; with ``after`` in front, behind
            it, whatever the policy makes the next one.

    Raises:
        ArgumentError: An actor waits for another, never comes to its step, or is not finished at
            the end; or a turn names nobody.
    """
    if host.policy.decides:
        raise ArgumentError("host", host.policy, "a policy of plain values")
    todo = _checked(actors)
    names = [name for name, _, _ in todo]
    stretches: list[tuple[int, tuple[str, str, bool] | None]] = []
    for turn in turns:
        who, until = (turn, None) if isinstance(turn, str) else turn
        if who not in names:
            raise ArgumentError("turns", who, "one of the actors: " + ", ".join(names))
        if until is None:
            stretches.append((names.index(who), None))
            continue
        place = until.removeprefix("after ")
        path, colon, step = place.partition(": ")
        if not colon:
            raise ArgumentError("turns", until, "a path and its step, as in 'munmap: unmap_vmas'")
        stretches.append((names.index(who), (path, step, place != until)))
    _native.schedule(host.machine, todo, stretches)


def _checked(actors: Mapping[str, Sequence[ops.Op]]) -> list[tuple[str, list[ops.Op], bool]]:
    if len(actors) > _MAX_ACTORS:
        raise ArgumentError("actors", f"{len(actors)} actors", f"at most {_MAX_ACTORS}")
    for name, todo in actors.items():
        _check.text("actors", name)
        for op in todo:
            if not isinstance(op, ops.Op):
                raise ArgumentError("actors", op, "operations, such as tagvisor.ops.ldg(cpu, p)")
    return [(name, list(todo), isinstance(todo, Forever)) for name, todo in actors.items()]
