"""What the ledger has to say: violations, and the steps that led to them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
    """A property that does not hold.

    ``str()`` of it is fit for a mail: the summary, then the steps, long runs of one step folded.
    """

    property: str
    """Its number, such as ``P1``."""
    title: str
    """Its name, such as ``no-loss``."""
    summary: str
    """What is wrong, in one sentence."""
    steps: tuple[Step, ...]
    """What led there, in order."""

    @classmethod
    def from_native(
        cls, found: tuple[str, str, str, list[tuple[int, str, str, str, str]]]
    ) -> Violation:
        """A violation as the native module tells it."""
        number, title, summary, steps = found
        return cls(number, title, summary, tuple(Step(*line) for line in steps))

    def __str__(self) -> str:
        head = f"{self.property} {self.title}: {self.summary}"
        if not self.steps:
            return head
        return "\n".join([head, "", *_folded(self.steps)])


# A run longer than this is folded: a loop over a page's granules is 256 lines that say one thing.
_LONGEST_RUN = 6


def _folded(steps: Iterable[Step]) -> Iterator[str]:
    """The steps as lines; of a long run of one step by one actor the first and the last."""

    def kind(step: Step) -> tuple[str, ...]:
        return (step.actor, step.path, step.step, step.text.partition(" ")[0])

    for _, same in groupby(steps, key=kind):
        run = list(same)
        if len(run) <= _LONGEST_RUN:
            yield from map(str, run)
            continue
        yield str(run[0])
        yield f"      {'':<8}  ({len(run) - 2} more of the same step)"
        yield str(run[-1])
