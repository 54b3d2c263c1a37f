"""A replay: what is compared, what is set apart, and what came of it.

Models how an answer is judged: its syndrome's bits that count, QEMU's marked quirks and its known
deviations. Leaves out how a row of a format is set up, which is :mod:`tagvisor.verify.formats`.
Invariant: every answer in a file is either compared or counted as skipped; what is compared of an
answer is decided by what the file says and never by what the processing element answers, but for
the deviations, which are set apart (:mod:`tagvisor.verify.deviations`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tagvisor.errors import ArgumentError
from tagvisor.pe import Outcome, Pe
from tagvisor.verify import deviations

if TYPE_CHECKING:
    from tagvisor.verify.rows import Row, Vectors

__all__ = ["KEPT", "Mismatch", "Replay", "Tally"]

KEPT = 10
"""Of mismatches, how many are kept to be shown."""

RAM = (0x4000_0000, 1 << 30, "ram")

# Syndrome bits.
EC_UNKNOWN = 0
ESR_EC, ESR_DFSC, ESR_S1PTW, ESR_WNR = 0x3F << 26, 0x3F, 1 << 7, 1 << 6
ESR_IL_ISV_ISS = 1 << 25 | 1 << 24 | 0x3FF << 14
HPFAR_FIPA = 0xFF_FFFF_FFF0
TFSR_TF0 = 1

BR_X0 = 0xD61F_0000
NOTHING_TO_COMPARE = ("R", "C1", "Q2", "Q5")
"""Quirks of the recorded machine that leave nothing to compare."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """An answer that differs, with what reproduces it."""

    path: str
    """The file."""
    line: int
    """The line, from 1."""
    where: str
    """Which answer of the row, in words."""
    row: str
    """The row's JSON."""
    expected: str
    """The file's answer."""
    got: str
    """The processing element's."""
    context: tuple[str, ...] = ()
    """Earlier rows that the answer depends on."""


@dataclass(slots=True)
class Tally:
    """What came of a file."""

    path: str
    """The file."""
    format: str
    """Its format."""
    rows: int = 0
    """Rows read, without the header."""
    compared: int = 0
    """Answers compared, wholly or (quirk ``Q1``) in part."""
    mismatches: int = 0
    """Of these, answers that differ."""
    skipped: int = 0
    """Answers not compared."""
    quirks: Counter[str] = field(default_factory=Counter)
    """Answers of each quirk of the recorded machine."""
    seconds: float = 0.0
    """How long it took."""
    first: list[Mismatch] = field(default_factory=list)
    """The first mismatches."""


class Replay:
    """A replay of one file; the formats below derive from it."""

    def __init__(self, vectors: Vectors) -> None:
        self.header = vectors.header
        self.tally = Tally(str(vectors.path), vectors.format)
        self.pe = machine()

    def row(self, row: Row) -> None:
        """Replay one row."""
        raise NotImplementedError

    def end(self) -> None:
        """After the last row."""

    def context(self) -> tuple[str, ...]:
        """Earlier rows that the row depends on."""
        return ()

    def setup(self, values: dict[str, int]) -> None:
        """Set registers."""
        for name, value in values.items():
            self.pe[name] = value

    def skips(self, row: Row, answers: int) -> bool:
        """Count a row or operation with a quirk; true when there is nothing to compare."""
        if "quirk" not in row:
            return False
        quirk = row.string("quirk")
        if quirk == "Q1":
            self.tally.quirks[quirk] += answers
            return False
        if quirk not in NOTHING_TO_COMPARE:
            raise row.wrong(f"quirk {quirk!r}", "one of Q1, " + ", ".join(NOTHING_TO_COMPARE))
        self.sets_apart(quirk, answers)
        return True

    def sets_apart(self, quirk: str, answers: int) -> None:
        """Count answers that are the recorded machine's own."""
        self.tally.quirks[quirk] += answers
        self.tally.skipped += answers

    def compare(self, row: Row, where: str, expected: str, got: str) -> None:
        """Count an answer, and keep it when it differs."""
        tally = self.tally
        tally.compared += 1
        if expected == got:
            return
        tally.mismatches += 1
        if len(tally.first) < KEPT:
            found = Mismatch(row.path, row.line, where, row.text, expected, got, self.context())
            tally.first.append(found)

    def at(self, row: Row, where: str, kind: str, va: int, par: int) -> None:
        """``AT`` against the word that is expected in PAR_EL1."""
        got = self._par(va, kind)
        if got != f"PAR_EL1 {par:#x}":
            deviation = deviations.of_translation(self.pe, kind, va, par)
            if deviation is not None:
                self.sets_apart(deviation, 1)
                return
        self.compare(row, where, f"PAR_EL1 {par:#x}", got)

    def _par(self, va: int, kind: str) -> str:
        try:
            return f"PAR_EL1 {self.pe.at(va, kind):#x}"
        except ArgumentError as error:
            return f"refused: {error}"

    def step(self, step: Row, where: str) -> None:
        """One instruction: ``el``, ``ins``, ``word``, ``x``, ``tco`` and its outcome."""
        pe = self.pe
        pe["EL"] = step.integer("el")
        pe["TCO"] = step.integer("tco") << 25
        x = (*step.hexes("x"), 0, 0, 0)[:3]
        for number, value in enumerate(x):
            pe[f"X{number}"] = value
        word = step.hex("word")
        try:
            outcome = pe.fetch(x[0]) if word == BR_X0 else pe.execute(word)
        except ArgumentError as error:
            self.compare(step, where, _expected(step), f"refused: {error}")
            return
        recorded = step.hex("esr") if step.integer("st") else None
        deviation = deviations.of_instruction(pe, word, outcome, recorded)
        if deviation is not None:
            self.sets_apart(deviation, 1)
            return
        partly = step.fields.get("quirk") == "Q1"
        self.compare(step, where, _expected(step), _got(pe, step, x[0], outcome, partly=partly))


def _expected(step: Row) -> str:
    """A step's recorded outcome, as :func:`_got` writes it."""
    state = step.integer("st")
    partly = step.fields.get("quirk") == "Q1"
    if state == 0:
        parts = ["completes"]
        parts += [f"X{n} {step.hex(f'x{n}'):#x}" for n in (1, 2) if f"x{n}" in step]
    else:
        esr = step.hex("esr")
        mask = _esr_mask(esr, partly=partly)
        parts = [f"to EL{state}", f"ESR {esr & mask:#x} (of {mask:#x})"]
        if _has_far(esr, partly=partly):
            parts.append(f"FAR {step.hex('far'):#x}")
            if state == 2:
                parts.append(f"HPFAR {step.hex('hpfar') & HPFAR_FIPA:#x}")
    if not partly:
        parts += [
            f"{name} {step.integer(name.lower(), 0) & TFSR_TF0}" for name in ("TFSR", "TFSRE0")
        ]
    return ", ".join(parts)


def _got(pe: Pe, step: Row, x0: int, outcome: Outcome | None, *, partly: bool) -> str:
    """What the processing element answered, of what the step's recorded outcome says."""
    if outcome is None:
        parts = ["completes"]
        # Where an exception was expected, there is no list of registers to go by.
        parts += [f"X{n} {pe[f'X{n}']:#x}" for n in (1, 2) if f"x{n}" in step]
        if pe["X0"] != x0:
            parts.append(f"X0 {pe['X0']:#x}, which never changes")
    else:
        recorded = step.hex("esr", outcome.esr)
        mask = _esr_mask(recorded, partly=partly)
        parts = [f"to EL{outcome.taken_to}", f"ESR {outcome.esr & mask:#x} (of {mask:#x})"]
        if _has_far(recorded, partly=partly):
            parts.append(f"FAR {outcome.far:#x}")
            if outcome.taken_to == 2:
                parts.append(f"HPFAR {outcome.hpfar & HPFAR_FIPA:#x}")
    if not partly:
        parts += [f"{name} {pe[f'{name}_EL1'] & TFSR_TF0}" for name in ("TFSR", "TFSRE0")]
    return ", ".join(parts)


def _esr_mask(esr: int, *, partly: bool) -> int:
    """Which bits of a recorded syndrome are to be compared."""
    if esr & ESR_EC == EC_UNKNOWN:
        return ESR_EC
    if partly:
        return ESR_EC | ESR_DFSC
    mask = ESR_EC | ESR_IL_ISV_ISS | ESR_DFSC | ESR_S1PTW
    return mask if esr & ESR_S1PTW else mask | ESR_WNR


def _has_far(esr: int, *, partly: bool) -> bool:
    return not partly and esr & ESR_EC != EC_UNKNOWN


def machine() -> Pe:
    """The machine on which the files were recorded, as far as they reach: all memory 0."""
    return Pe([RAM])
