"""The formats of vector files, each replayed on a processing element.

Models the six formats: ``mte-seq`` (sequences of tag instructions and checked accesses that share
state), ``mte-alu`` (tag arithmetic), ``s2-at``, ``s1-at`` and ``s12-at`` (translations by ``AT``),
and ``case`` (registers, memory and tags, then a few operations). Leaves out how an answer is
judged, which is :mod:`tagvisor.verify.replay`. Invariant: a row is set up by what it says and by
the format, never by what came before it, except where the format says so.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from tagvisor.errors import ArgumentError
from tagvisor.verify.replay import KEPT, Replay, machine

if TYPE_CHECKING:
    from collections.abc import Callable

    from tagvisor.pe import Outcome, Pe
    from tagvisor.verify.replay import Tally
    from tagvisor.verify.rows import Row, Vectors

__all__ = ["verify"]

PROGRESS_ROWS = 500

# Register bits, named as Arm names them.
HCR_VM, HCR_DC, HCR_RW = 1, 1 << 12, 1 << 31
HCR_FWB, HCR_ATA, HCR_DCT = 1 << 46, 1 << 56, 1 << 57
SCTLR_RES1 = 0x30D0_0800
SCTLR_M, SCTLR_C, SCTLR_I, SCTLR_DZE, SCTLR_UCI = 1, 1 << 2, 1 << 12, 1 << 14, 1 << 26
SCTLR_ATA0, SCTLR_ATA = 1 << 42, 1 << 43
TCF0_SHIFT, TCF_SHIFT = 38, 40
SCTLR_EL2 = 0x30C5_0830 | SCTLR_ATA
TCR_TBI, TCR_TCMA = 3 << 37, 3 << 57

# The stage-2 tables of an `mte-seq` file, which the file leaves to its reader.
SEQ_L1, SEQ_L2, SEQ_L3 = 0x4800_0000, 0x4800_4000, 0x4800_5000
SEQ_CODE = 0x4040_0000
SEQ_VTCR = 1 << 31 | 2 << 16 | 3 << 12 | 1 << 10 | 1 << 8 | 1 << 6 | 24

ALU_X1 = 0xDEAD_BEEF_DEAD_BEEF
GRANULE = 16

CASE_REGISTERS = {
    **{name: f"{name}_EL2" for name in ("HCR", "VTCR", "VTTBR")},
    **{name: f"{name}_EL1" for name in ("SCTLR", "TCR", "TTBR0", "TTBR1", "MAIR", "GCR", "RGSR")},
}


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
