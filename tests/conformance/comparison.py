"""What counts as a difference, and how one is told.

A difference is told with everything that is needed to see it again: the unit's kind and seed
(which rebuild it), the registers, and the step or walk with both answers. Compared of a syndrome
are EC, IL, DFSC, WnR and S1PTW, all of FAR and HPFAR, and with `full` also ISV and what belongs
to it. WnR does not count where S1PTW is 1, and nothing but EC where an instruction is UNDEFINED.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conformance.steps import Step
    from tests.oracle.machine import Taken
    from tests.oracle.words import Registers

ESR_ALWAYS = 0x3F << 26 | 1 << 25 | 0x3F
ESR_WNR, ESR_S1PTW = 1 << 6, 1 << 7
ESR_ISV_AND_MORE = 0x1FF << 16 | 3 << 14


@dataclass
class Tally:
    """Counts and the first differences of one or many units."""

    counts: Counter[str] = field(default_factory=Counter)
    apart: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    mismatches: int = 0
    first: list[str] = field(default_factory=list)

    def mismatch(self, text: str, keep: int) -> None:
        self.mismatches += 1
        if len(self.first) < keep:
            self.first.append(text)

    def add(self, other: Tally, keep: int) -> None:
        self.counts += other.counts
        self.apart += other.apart
        self.outcomes += other.outcomes
        self.mismatches += other.mismatches
        self.first += other.first[: max(0, keep - len(self.first))]


def esr_mask(esr: int, *, full: bool) -> int:
    """The bits of a syndrome to compare."""
    if esr >> 26 == 0:
        return 0x3F << 26
    mask = ESR_ALWAYS | ESR_S1PTW | (0 if esr & ESR_S1PTW else ESR_WNR)
    return mask | ESR_ISV_AND_MORE if full else mask


def exception(taken: Taken | None, expected: Taken | None, *, full: bool) -> str:
    """An exception as far as it is compared, in one line; `expected` says how far that is."""
    if taken is None:
        return "completes"
    esr = taken.esr if expected is None else expected.esr
    mask = esr_mask(esr, full=full)
    text = f"to EL{taken.taken_to}, ESR {taken.esr & mask:#x}"
    if esr >> 26:
        text += f", FAR {taken.far:#x}"
    return f"{text}, HPFAR {taken.hpfar:#x}" if taken.taken_to == 2 else text


def registers_text(regs: Registers) -> str:
    return " ".join(f"{name}={value:#x}" for name, value in sorted(regs.items()))


def step_text(step: Step) -> str:
    inputs = " ".join(f"X{number}={value:#x}" for number, value in step.inputs.items())
    return f"{step.word:#010x} {step.text} at EL{step.el} TCO={int(step.tco)} {inputs}"


def par_name(par: int) -> str:
    """For counting: what kind of answer a PAR_EL1 is."""
    if not par & 1:
        return "translates"
    stage = "table of stage 1" if par >> 8 & 1 else "stage 2" if par >> 9 & 1 else "stage 1"
    return f"AT {stage} FST {par >> 1 & 0x3F:#x}"


def outcome_name(taken: Taken | None) -> str:
    """For counting: what kind of outcome a step has."""
    if taken is None:
        return "completes"
    return f"EL{taken.taken_to} EC {taken.esr >> 26:#x} DFSC {taken.esr & 0x3F:#x}"
