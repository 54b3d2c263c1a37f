"""The bug catalogue: what went wrong with tags in Linux and KVM, and what this model says to it.

Models nothing itself: each row names the kernel in which a bug bites, the one that mended it, and a
script that shows both. Left out: bugs outside the model, each with its reason (:data:`LEFT_OUT`).
Invariant: a row's verdict is the ledger's, established by the run that prints it.

    >>> from tagvisor import bugs
    >>> found = bugs.establish(bugs.bug("L-E"))
    >>> found.found, found.fixed, found.violation.property
    (True, True, 'P1')
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tagvisor import _check
from tagvisor.bugs import (
    copy_tags,
    elsewhere,
    found as newly_found,
    host_flag,
    host_swap,
    hugetlb,
    kvm,
    metadata,
    migrated,
    zero_page,
)
from tagvisor.bugs.left_out import LEFT_OUT
from tagvisor.bugs.row import Bug, Found, LeftOut, Run, establish, policy_of, run
from tagvisor.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "CATALOGUE",
    "LEFT_OUT",
    "Bug",
    "Found",
    "LeftOut",
    "Run",
    "bug",
    "establish",
    "establish_all",
    "policy_of",
    "run",
]


def _number(row: Bug | LeftOut) -> tuple[bool, str]:
    return (not row.id.startswith("B"), row.id)


CATALOGUE: tuple[Bug, ...] = tuple(
    sorted(
        (
            *kvm.ROWS,
            *copy_tags.ROWS,
            *elsewhere.ROWS,
            *host_flag.ROWS,
            *host_swap.ROWS,
            *metadata.ROWS,
            *migrated.ROWS,
            *zero_page.ROWS,
            *hugetlb.ROWS,
            *newly_found.ROWS,
        ),
        key=_number,
    )
)
"""Every row that runs or will, in the order of their numbers."""


def bug(name: str) -> Bug:
    """One row.

    Args:
        name: Its id, such as ``B12`` or ``L-E``.

    Raises:
        ArgumentError: No such row; the message names those that exist, or says why it is left out.
    """
    wanted = _check.text("name", name)
    for row in CATALOGUE:
        if row.id == wanted:
            return row
    for outside in LEFT_OUT:
        if outside.id == wanted:
            raise ArgumentError("name", name, f"a row of the model; {name} is {outside.reason}")
    raise ArgumentError("name", name, "one of " + ", ".join(row.id for row in CATALOGUE))


def establish_all(
    rows: Iterable[Bug] = CATALOGUE, progress: Callable[[Bug], None] | None = None
) -> list[Found]:
    """Run rows under their broken and their mended policies.

    Args:
        rows: Which; all by default.
        progress: Called before each row.
    """
    found = []
    for row in rows:
        if progress is not None:
            progress(row)
        found.append(establish(row))
    return found
