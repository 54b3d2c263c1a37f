"""Vector files: reading them, and replaying them on a processing element.

Models the six formats of the files: ``mte-seq`` (sequences of tag instructions and checked
accesses that share state), ``mte-alu`` (tag arithmetic), ``s2-at``, ``s1-at`` and ``s12-at``
(translations by ``AT``), and ``case`` (registers, memory and tags, then a few operations).

Invariant: every answer in a file is either compared or counted as skipped; what is compared of an
answer is decided by what the file says and never by what the processing element answers, but for
QEMU's known deviations, which are set apart (:mod:`tagvisor.verify.deviations`). A row that cannot
be read is a :class:`tagvisor.VectorError`.
"""

from __future__ import annotations

import gzip
import json
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tagvisor.errors import ArgumentError, VectorError
from tagvisor.pe import Outcome, Pe
from tagvisor.verify import deviations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["FORMATS", "Mismatch", "Row", "Tally", "Vectors", "verify"]

VERSION = 1
KEPT = 10
"""Of mismatches, how many are kept to be shown."""
PROGRESS_ROWS = 500

RAM = (0x4000_0000, 1 << 30, "ram")
# Register bits, named as Arm names them.
HCR_VM, HCR_DC, HCR_RW = 1, 1 << 12, 1 << 31
HCR_FWB, HCR_ATA, HCR_DCT = 1 << 46, 1 << 56, 1 << 57
SCTLR_RES1 = 0x30D0_0800
SCTLR_M, SCTLR_C, SCTLR_I, SCTLR_DZE, SCTLR_UCI = 1, 1 << 2, 1 << 12, 1 << 14, 1 << 26
SCTLR_ATA0, SCTLR_ATA = 1 << 42, 1 << 43
TCF0_SHIFT, TCF_SHIFT = 38, 40
SCTLR_EL2 = 0x30C5_0830 | SCTLR_ATA
TCR_TBI, TCR_TCMA = 3 << 37, 3 << 57

# Syndrome bits.
EC_UNKNOWN = 0
ESR_EC, ESR_DFSC, ESR_S1PTW, ESR_WNR = 0x3F << 26, 0x3F, 1 << 7, 1 << 6
ESR_IL_ISV_ISS = 1 << 25 | 1 << 24 | 0x3FF << 14
HPFAR_FIPA = 0xFF_FFFF_FFF0
TFSR_TF0 = 1

# The stage-2 tables of an `mte-seq` file, which the file leaves to its reader.
SEQ_L1, SEQ_L2, SEQ_L3 = 0x4800_0000, 0x4800_4000, 0x4800_5000
SEQ_CODE = 0x4040_0000
SEQ_VTCR = 1 << 31 | 2 << 16 | 3 << 12 | 1 << 10 | 1 << 8 | 1 << 6 | 24

BR_X0 = 0xD61F_0000
ALU_X1 = 0xDEAD_BEEF_DEAD_BEEF
GRANULE = 16
NOTHING_TO_COMPARE = ("R", "C1", "Q2", "Q5")
"""Quirks of the recorded machine that leave nothing to compare."""

CASE_REGISTERS = {
    **{name: f"{name}_EL2" for name in ("HCR", "VTCR", "VTTBR")},
    **{name: f"{name}_EL1" for name in ("SCTLR", "TCR", "TTBR0", "TTBR1", "MAIR", "GCR", "RGSR")},
}


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


class Row:
    """A row, with its place in the file; reading a field that is not there names both."""

    __slots__ = ("fields", "line", "path", "text")

    def __init__(self, path: str, line: int, text: str, fields: object) -> None:
        self.path = path
        self.line = line
        self.text = text
        if not isinstance(fields, dict):
            raise self.wrong("no row", "a JSON object")
        self.fields: dict[str, Any] = fields

    def wrong(self, problem: str, expected: str) -> VectorError:
        """What to raise."""
        return VectorError(self.path, self.line, problem, expected)

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def _get(self, name: str) -> Any:
        try:
            return self.fields[name]
        except KeyError:
            raise self.wrong(f"no {name!r}", f"a row with {name!r}") from None

    def hex(self, name: str, default: int | None = None) -> int:
        """An address, register or word."""
        if default is not None and name not in self.fields:
            return default
        return self._hex(name, self._get(name))

    def _hex(self, name: str, value: object) -> int:
        if isinstance(value, str) and value.startswith("0x"):
            try:
                number = int(value, 16)
            except ValueError:
                number = 1 << 64
            if number < 1 << 64:
                return number
        raise self.wrong(f"{name}={value!r}", 'a 64-bit number as "0x..."')

    def integer(self, name: str, default: int | None = None) -> int:
        """A tag, level, state, flag or count."""
        value = self._get(name) if default is None else self.fields.get(name, default)
        if type(value) is not int:
            raise self.wrong(f"{name}={value!r}", "an integer")
        return value

    def string(self, name: str) -> str:
        """Text."""
        value = self._get(name)
        if not isinstance(value, str):
            raise self.wrong(f"{name}={value!r}", "text")
        return value

    def items(self, name: str) -> list[Any]:
        """A list of anything."""
        value = self._get(name)
        if not isinstance(value, list):
            raise self.wrong(f"{name}={value!r}", "a list")
        return value

    def hexes(self, name: str) -> list[int]:
        """Registers."""
        return [self._hex(name, value) for value in self.items(name)]

    def pairs(self, name: str) -> list[tuple[int, Any]]:
        """Physical addresses and what is there."""
        found = []
        for pair in self.items(name):
            if not isinstance(pair, list) or len(pair) != 2:
                raise self.wrong(f"{pair!r} in {name!r}", "a pair of address and value")
            found.append((self._hex(name, pair[0]), pair[1]))
        return found

    def words(self, name: str) -> list[tuple[int, int]]:
        """Physical addresses and the 64-bit words there."""
        return [(pa, self._hex(name, value)) for pa, value in self.pairs(name)]

    def row(self, name: str) -> Row:
        """A row in the row."""
        return Row(self.path, self.line, self.text, self._get(name))

    def rows(self, name: str) -> list[Row]:
        """Rows in the row."""
        return [Row(self.path, self.line, self.text, value) for value in self.items(name)]

    def numbers(self, name: str) -> dict[str, int]:
        """Named addresses or registers."""
        inner = self.row(name)
        return {key: inner.hex(key) for key in inner.fields}

    def nibbles(self, name: str, count: int) -> list[int]:
        """Tags, a hex digit each."""
        text = self.string(name)
        try:
            found = [int(digit, 16) for digit in text]
        except ValueError:
            found = []
        if len(found) != count:
            raise self.wrong(f"{name!r} of {len(text)} digits", f"{count} hex digits")
        return found


class Vectors:
    """A vector file, opened: its header has been read and judged.

    Args:
        path: The file, JSON lines; gzip when its name ends in ``.gz``.

    Raises:
        VectorError: It is not a vector file, or of a version or format that is not known.
        OSError: It cannot be opened.
    """

    __slots__ = ("format", "header", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        first = next(self._lines(), None)
        if first is None:
            raise VectorError(str(path), 0, "the file is empty", "a vector file")
        header = first.fields
        if header.get("format") not in FORMATS:
            problem = f"format {header['format']!r}" if "format" in header else "no format named"
            raise first.wrong(f"not a vector file: {problem}", "one of " + ", ".join(FORMATS))
        if header.get("version") != VERSION:
            raise first.wrong(f"version {header.get('version')!r}", f"version {VERSION}")
        self.header = first
        self.format: str = header["format"]

    def _lines(self) -> Iterator[Row]:
        path = str(self.path)
        number = 0
        try:
            opened = gzip.open if self.path.suffix == ".gz" else open
            with opened(self.path, "rt", encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    text = line.rstrip("\n")
                    yield Row(path, number, text, json.loads(text))
        except (json.JSONDecodeError, UnicodeDecodeError):
            problem = "not JSON" if number > 1 else "not a vector file: no JSON"
            raise VectorError(path, number, problem, "a JSON object on each line") from None
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise VectorError(path, 0, f"damaged: {error}", "a whole gzip file") from None

    def __iter__(self) -> Iterator[Row]:
        rows = self._lines()
        next(rows, None)
        return rows


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


class Sequences(Replay):
    """``mte-seq``: steps that share state, from a row with ``seq`` to a row with ``end``."""

    def __init__(self, vectors: Vectors) -> None:
        super().__init__(vectors)
        self.ipa = self.header.hex("ipa_base")
        self.pa = self.header.hex("pa_base")
        self.size = self.header.integer("npages") * self.header.integer("page_size")
        self.sequence: Row | None = None
        self.configuration: Row | None = None

    def context(self) -> tuple[str, ...]:
        """The sequence it is in, and the configuration."""
        texts = []
        if self.sequence is not None:
            texts.append(f"sequence of line {self.sequence.line}, from its start")
        if self.configuration is not None:
            texts.append(f"line {self.configuration.line}: {self.configuration.text}")
        return tuple(texts)

    def row(self, row: Row) -> None:
        """A sequence's start, a configuration, a step, or the end."""
        if "seq" in row:
            self._start(row)
        elif self.sequence is None:
            raise row.wrong("a row outside a sequence", "a row with 'seq' first")
        elif "cfg" in row:
            self._configure(row)
        elif "end" in row:
            self._end(row)
        elif self.configuration is None:
            raise row.wrong("a step without configuration", "a row with 'cfg' first")
        elif not self.skips(row, 1):
            self.step(row, row.string("ins"))

    def end(self) -> None:
        """A sequence that is cut off has not been compared as a whole."""
        if self.sequence is not None:
            raise self.sequence.wrong("a sequence without end", "a row with 'end'")

    def _start(self, row: Row) -> None:
        self.sequence, self.configuration = row, None
        self.pe = machine()
        self.setup({"VTCR_EL2": SEQ_VTCR, "VTTBR_EL2": SEQ_L1})
        words = {
            SEQ_L1 + 8: SEQ_L2 | 3,
            SEQ_L2 + 16: SEQ_CODE | 0xF << 2 | 3 << 6 | 3 << 8 | 1 << 10 | 1,
            SEQ_L2 + 8 * (self.ipa >> 21 & 511): SEQ_L3 | 3,
        }
        for number, page in enumerate(row.rows("pages")):
            attributes = page.integer("memattr") << 2 | page.integer("s2ap") << 6 | 3 << 8
            descriptor = self.pa + 4096 * number | attributes | page.integer("af") << 10 | 3
            words[SEQ_L3 + 8 * number] = descriptor if page.integer("valid") else 0
        _write(self.pe, words.items())
        for granule, tag in enumerate(row.nibbles("tags", self.size // GRANULE)):
            self.pe.set_tag(self.pa + GRANULE * granule, tag)

    def _configure(self, row: Row) -> None:
        self.configuration = row
        cfg = row.row("cfg")
        sctlr = SCTLR_RES1 | SCTLR_DZE | SCTLR_UCI
        sctlr |= cfg.integer("ata") * SCTLR_ATA | cfg.integer("ata0") * SCTLR_ATA0
        sctlr |= cfg.integer("tcf") << TCF_SHIFT | cfg.integer("tcf0") << TCF0_SHIFT
        hcr = HCR_RW | HCR_DC | HCR_DCT | HCR_VM | cfg.integer("hcr_ata") * HCR_ATA
        self.setup(
            {
                "SCTLR_EL1": sctlr,
                "TCR_EL1": cfg.integer("tbi") * TCR_TBI | cfg.integer("tcma") * TCR_TCMA,
                "HCR_EL2": hcr,
                "TFSR_EL1": 0,
                "TFSRE0_EL1": 0,
            }
        )

    def _end(self, row: Row) -> None:
        tags = row.nibbles("tags", self.size // GRANULE)
        try:
            data = bytes.fromhex(row.string("data"))
        except ValueError:
            raise row.wrong("'data' is not hexadecimal", "hex bytes") from None
        if len(data) != self.size:
            raise row.wrong(f"'data' of {len(data)} bytes", f"{self.size} bytes")
        held = [self.pe.tag(self.pa + GRANULE * granule) for granule in range(len(tags))]
        read = self.pe.read(self.pa, self.size)
        wrong = [granule for granule, tag in enumerate(tags) if held[granule] != tag]
        bad = [at for at in range(0, self.size, 8) if read[at : at + 8] != data[at : at + 8]]
        places = [(self.pa + GRANULE * n, f"tag {tags[n]:x}", f"tag {held[n]:x}") for n in wrong]
        places += [
            (self.pa + at, f"data {data[at : at + 8].hex()}", f"data {read[at : at + 8].hex()}")
            for at in bad
        ]
        shown = places[:KEPT]
        count = f"; {len(places)} places differ" if places else ""
        expected = ", ".join(f"{pa:#x} {file}" for pa, file, _ in shown)
        got = ", ".join(f"{pa:#x} {ours}" for pa, _, ours in shown)
        self.compare(row, "final tags and data", expected, got + count)
        self.sequence = None


class Arithmetic(Replay):
    """``mte-alu``: one instruction, or a run of it, each row alone."""

    def row(self, row: Row) -> None:
        """Execute and compare what the row has answers for."""
        if self.skips(row, 1):
            return
        pe = self.pe
        x0 = row.hex("x0")
        sctlr = SCTLR_RES1 | row.integer("ata", 1) * SCTLR_ATA
        self.setup(
            {
                "EL": row.integer("el"),
                "HCR_EL2": HCR_RW | row.integer("hcr_ata", 1) * HCR_ATA,
                "SCTLR_EL1": sctlr | row.integer("ata0", 1) * SCTLR_ATA0,
                "SCTLR_EL2": SCTLR_EL2,
                "TCR_EL1": 0,
                "GCR_EL1": row.hex("gcr", 0),
                "RGSR_EL1": row.hex("rgsr", 0),
                "NZCV": 0,
            }
        )
        word, tags = row.hex("word"), []
        outcome: Outcome | None = None
        try:
            for _ in range(row.integer("n", 1)):
                self.setup({"X0": x0, "X1": ALU_X1, "X2": row.hex("x2", 0)})
                outcome = pe.execute(word)
                tags.append(pe["X1"] >> 56 & 15)
        except ArgumentError as error:
            self.compare(row, row.string("op"), "completes", f"refused: {error}")
            return
        expected = ["completes"]
        got = ["completes" if outcome is None else str(outcome)]
        if "x1" in row:
            expected.append(f"X1 {row.hex('x1'):#x}")
            got.append(f"X1 {pe['X1']:#x}")
        if "tags" in row:
            expected.append(f"tags {row.items('tags')}")
            got.append(f"tags {tags}")
        if "rgsr_out" in row:
            expected.append(f"RGSR_EL1 {row.hex('rgsr_out'):#x}")
            got.append(f"RGSR_EL1 {pe['RGSR_EL1']:#x}")
        if "nzcv" in row:
            expected.append(f"NZCV {row.integer('nzcv'):04b}")
            got.append(f"NZCV {pe['NZCV'] >> 28 & 15:04b}")
        self.compare(row, row.string("op"), ", ".join(expected), ", ".join(got))


class Translations(Replay):
    """``s2-at``, ``s1-at`` and ``s12-at``: registers and tables, then ``AT``, each row alone."""

    def row(self, row: Row) -> None:
        """Set it up, ask, and take the tables away."""
        answers = row.numbers("at")
        if self.skips(row, len(answers)):
            return
        self.setup({"EL": 2, "PAN": 0, **self.registers(row)})
        words = row.words("mem")
        _write(self.pe, words)
        va = row.hex("ipa" if self.tally.format == "s2-at" else "va")
        for kind, par in answers.items():
            self.at(row, f"AT {kind}", kind, va, par)
        _write(self.pe, ((pa, 0) for pa, _ in words))

    def registers(self, row: Row) -> dict[str, int]:
        """The registers that the format and the row say."""
        if self.tally.format == "s2-at":
            return {
                "HCR_EL2": HCR_RW | HCR_ATA | HCR_DC | HCR_VM,
                "SCTLR_EL1": SCTLR_RES1,
                "TCR_EL1": 0,
                "VTCR_EL2": row.hex("vtcr"),
                "VTTBR_EL2": row.hex("vttbr"),
            }
        found = {
            "HCR_EL2": HCR_RW | HCR_ATA,
            "SCTLR_EL1": SCTLR_RES1 | SCTLR_M | SCTLR_C | SCTLR_I | SCTLR_ATA | SCTLR_ATA0,
            "TCR_EL1": row.hex("tcr"),
            "TTBR0_EL1": row.hex("ttbr0"),
            "TTBR1_EL1": row.hex("ttbr1"),
            "MAIR_EL1": row.hex("mair"),
        }
        if self.tally.format == "s12-at":
            found["HCR_EL2"] |= HCR_VM | row.integer("fwb", 0) * HCR_FWB
            found["VTCR_EL2"] = row.hex("vtcr")
            found["VTTBR_EL2"] = row.hex("vttbr")
        return found


class Cases(Replay):
    """``case``: registers, memory and tags, then operations in order, each row alone."""

    def row(self, row: Row) -> None:
        """Set it up on a processing element of its own, and replay the operations."""
        operations = row.rows("ops")
        if self.skips(row, len(operations)):
            return
        self.pe = machine()
        given = row.numbers("regs")
        for name in given:
            if name not in CASE_REGISTERS:
                raise row.wrong(f"register {name!r}", "one of " + ", ".join(CASE_REGISTERS))
        self.setup({long: given.get(short, 0) for short, long in CASE_REGISTERS.items()})
        _write(self.pe, row.words("mem"))
        for pa, tag in row.pairs("tags"):
            self.pe.set_tag(pa, tag)
        name = row.string("case")
        for number, operation in enumerate(operations):
            if not self.skips(operation, 1):
                self._operation(operation, f"{name}, op {number}")

    def _operation(self, operation: Row, where: str) -> None:
        match operation.string("op"):
            case "at":
                self.pe["EL"] = 2
                kind, va = operation.string("kind"), operation.hex("va")
                self.at(operation, f"{where}: AT {kind}", kind, va, operation.hex("par"))
            case "exec":
                self.step(operation, f"{where}: {operation.string('ins')}")
            case "ldg":
                pa, tag = operation.hex("pa"), operation.integer("tag")
                text = f"{where}: tag of {pa:#x}"
                self.compare(operation, text, f"tag {tag:x}", f"tag {self.pe.tag(pa):x}")
            case "read":
                pa, value = operation.hex("pa"), operation.hex("value")
                held = int.from_bytes(self.pe.read(pa, 8), "little")
                self.compare(operation, f"{where}: {pa:#x}", f"{value:#x}", f"{held:#x}")
            case unknown:
                raise operation.wrong(f"operation {unknown!r}", "one of at, exec, ldg, read")


FORMATS: dict[str, type[Replay]] = {
    "mte-seq": Sequences,
    "mte-alu": Arithmetic,
    "s2-at": Translations,
    "case": Cases,
    "s1-at": Translations,
    "s12-at": Translations,
}
"""The formats, and what replays each."""


def machine() -> Pe:
    """The machine on which the files were recorded, as far as they reach: all memory 0."""
    return Pe([RAM])


def _write(pe: Pe, words: Any) -> None:
    for pa, word in words:
        pe.write(pa, word.to_bytes(8, "little"))


def verify(vectors: Vectors, progress: Callable[[int], None] | None = None) -> Tally:
    """Replay a vector file.

    Args:
        vectors: The file.
        progress: Called now and then with the rows so far.

    Returns:
        What came of it; mismatches are counted, not raised.

    Raises:
        VectorError: A row that cannot be read.
    """
    replay = FORMATS[vectors.format](vectors)
    tally = replay.tally
    start = time.perf_counter()
    for row in vectors:
        tally.rows += 1
        try:
            replay.row(row)
        except ArgumentError as error:
            # An address outside memory, a tag of 16: the row's mistake, not the replay's.
            raise row.wrong(str(error), "a row that can be set up") from error
        if progress is not None and tally.rows % PROGRESS_ROWS == 0:
            progress(tally.rows)
    replay.end()
    tally.seconds = time.perf_counter() - start
    return tally
