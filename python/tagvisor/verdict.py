"""What the ledger has to say: violations, and the steps that led to them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Step", "Violation"]


@dataclass(frozen=True, slots=True)
class Step:
    """One atomic action of the modelled system: one line of a log or of a counterexample."""

    n: int
    """Its number, from 1, in the order things happened."""
    actor: str
    """Who acted, such as ``vcpu0``, ``vmm`` or ``kswapd``."""
    path: str
    """The kernel function or instruction it belongs to, such as ``user_mem_abort``."""
    step: str
    """The step of that path."""
    text: str
    """What it did, with addresses and tags."""

    def __str__(self) -> str:
        where = f"{self.path}: {self.step}" if self.step else self.path
        return f"{self.n:4}  {self.actor:<8}  {where:<40}  {self.text}".rstrip()


@dataclass(frozen=True, slots=True)
class Violation:
    """A property that does not hold. ``str()`` of it is fit for a mail."""

    property: str
    """Its number, such as ``P1``."""
    title: str
    """Its name, such as ``no-loss``."""
    summary: str
    """What is wrong, in one sentence."""
    steps: tuple[Step, ...]
    """What led there, in order."""

    def __str__(self) -> str:
        head = f"{self.property} {self.title}: {self.summary}"
        if not self.steps:
            return head
        return "\n".join([head, "", *map(str, self.steps)])
