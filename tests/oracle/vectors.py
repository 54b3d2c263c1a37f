"""Replay recorded answers of another emulator against the oracle.

    python -m tests.oracle.vectors FILE...        prints rows, compared, classes, mismatches

Reads the formats mte-seq, mte-alu, s2-at, s1-at, s12-at and case as JSON lines (plain or gzip);
line 1 of a file is its header. Compares every outcome, PAR_EL1, memory word and tag that a row
records. What a row marks as a quirk, or `oracle.quirks` names, is counted apart: of Q1 the target,
EC and DFSC are still compared. WnR is not compared when S1PTW is 1. Leaves out instruction fetches.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.oracle import tags as tag_rules
from tests.oracle.insns import decode
from tests.oracle.machine import Machine, Taken
from tests.oracle.quirks import at_class, step_class
from tests.oracle.step import step
from tests.oracle.walker import at, par_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.oracle.words import Memory, Registers

JsonRow = dict[str, Any]
RW, ATA, DC, VM, DCT, FWB = 1 << 31, 1 << 56, 1 << 12, 1, 1 << 57, 1 << 46
S1_AT_SCTLR = 0x30D0_0800 | 1 << 43 | 1 << 42 | 1 << 12 | 1 << 2 | 1
SEQ_TABLES, SEQ_VTCR = 0x4800_0000, 0x8002_3558
REGISTERS = {
    **{name: f"{name}_EL2" for name in ("HCR", "VTCR", "VTTBR")},
    **{name: f"{name}_EL1" for name in ("SCTLR", "TCR", "TTBR0", "TTBR1", "MAIR", "GCR", "RGSR")},
}


@dataclass
class Report:
    """What a replay found."""

    rows: int = 0
    compared: int = 0
    apart: Counter[str] = field(default_factory=Counter)
    mismatches: list[str] = field(default_factory=list)

    def check(self, got: object, want: object, where: str) -> None:
        self.compared += 1
        if got != want:
            self.mismatches.append(f"{where}: got {got}, recorded {want}")


def number(text: str | int) -> int:
    return text if isinstance(text, int) else int(text, 16)


def numbers(pairs: list[list[Any]]) -> dict[int, int]:
    return {number(key): number(value) for key, value in pairs}


def read_rows(path: Path) -> Iterator[JsonRow]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def relevant(esr: int) -> int:
    """The bits of a syndrome that count."""
    return esr & ~(1 << 6) if esr >> 7 & 1 else esr


def recorded(row: JsonRow) -> dict[str, int]:
    """The outcome that a step or an exec operation has."""
    names = ("st", "x1", "x2", "far", "hpfar", "esr")
    found = {name: number(row[name]) for name in names if name in row}
    if "esr" in found:
        found["esr"] = relevant(found["esr"])
        if found["esr"] >> 26 == 0:
            del found["far"]
    if row.get("quirk") == "Q1":
        found["esr"] &= 63 << 26 | 63
        del found["far"]
    return found | {"tfsr": row.get("tfsr", 0), "tfsre0": row.get("tfsre0", 0)}


def executed(machine: Machine, row: JsonRow) -> Taken | None:
    """The same step by the oracle."""
    x = [number(value) for value in row["x"]]
    machine.x = [*x, *[0] * (32 - len(x))]
    machine.el, machine.tco = row["el"], bool(row["tco"])
    machine.exclusive = None  # the recorder's own exception returns clear the monitor
    return step(machine, number(row["word"]))


def outcome(machine: Machine, taken: Taken | None, quirk: str | None) -> dict[str, int]:
    """An outcome of the oracle in the terms of `recorded`."""
    found = {"tfsr": machine.regs.get("TFSR_EL1", 0), "tfsre0": machine.regs.get("TFSRE0_EL1", 0)}
    if taken is None:
        return found | {"st": 0, "x1": machine.x[1], "x2": machine.x[2]}
    esr = relevant(taken.esr) & (63 << 26 | 63 if quirk == "Q1" else ~0)
    return found | {"st": taken.taken_to, "esr": esr, "far": taken.far, "hpfar": taken.hpfar}


def compare(report: Report, machine: Machine, row: JsonRow, where: str) -> None:
    want, taken = recorded(row), executed(machine, row)
    insn = decode(number(row["word"]))
    if insn is not None and step_class(insn, taken, machine.remark) == "E":
        report.apart["E"] += 1
        return
    got = outcome(machine, taken, row.get("quirk"))
    got = {name: got.get(name, 0) for name in want}
    shown = [str({name: hex(value) for name, value in some.items()}) for some in (got, want)]
    report.check(shown[0], shown[1], f"{where} {row}")


def seq_tables(pages: list[JsonRow], ipa_base: int, pa_base: int) -> Memory:
    """The stage-2 tables of a sequence: 40-bit IPA, 4K, two concatenated level-1 tables."""
    level2, level3 = SEQ_TABLES + 0x4000, SEQ_TABLES + 0x5000
    mem = {
        SEQ_TABLES + (ipa_base >> 30) * 8: level2 | 3,
        level2 + (ipa_base >> 21 & 511) * 8: level3 | 3,
    }
    for i, page in enumerate(pages):
        if page["valid"]:
            attributes = page["memattr"] << 2 | page["s2ap"] << 6 | 3 << 8 | page["af"] << 10
            at_index = (ipa_base >> 12 & 511) + i
            mem[level3 + 8 * at_index] = pa_base + 4096 * i | attributes | 3
    return mem


def seq_regs(cfg: JsonRow) -> Registers:
    return {
        "HCR_EL2": RW | DC | DCT | VM | cfg["hcr_ata"] << 56,
        "VTCR_EL2": SEQ_VTCR,
        "VTTBR_EL2": SEQ_TABLES,
        "SCTLR_EL1": cfg["ata"] << 43 | cfg["ata0"] << 42 | cfg["tcf"] << 40 | cfg["tcf0"] << 38,
        "TCR_EL1": cfg["tbi"] * (3 << 37) | cfg["tcma"] * (3 << 57),
    }


def replay_seq(header: JsonRow, rows: Iterator[JsonRow], report: Report) -> None:
    ipa_base, pa_base = number(header["ipa_base"]), number(header["pa_base"])
    granules = range(pa_base, pa_base + header["npages"] * header["page_size"], 16)
    machine = Machine()
    for row in rows:
        report.rows += 1
        if "seq" in row:
            allocation = dict(zip(granules, (int(digit, 16) for digit in row["tags"]), strict=True))
            mem = seq_tables(row["pages"], ipa_base, pa_base)
            machine = Machine(mem=mem, allocation=allocation)
        elif "cfg" in row:
            machine.configure(seq_regs(row["cfg"]))
        elif "end" in row:
            tags = "".join(f"{machine.allocation.get(pa, 0):x}" for pa in granules)
            words = [machine.mem.get(pa + half, 0) for pa in granules for half in (0, 8)]
            data = b"".join(word.to_bytes(8, "little") for word in words).hex()
            report.check(tags, row["tags"], f"tags before row {report.rows}")
            report.check(data, row["data"], f"data before row {report.rows}")
        else:
            compare(report, machine, row, f"row {report.rows}")


def alu_answer(row: JsonRow) -> JsonRow:
    x0, x2 = number(row["x0"]), number(row.get("x2", 0))
    gcr, rgsr = number(row.get("gcr", 0)), number(row.get("rgsr", 0))
    ata = row.get("ata0" if row["el"] == 0 else "ata", 1)
    enabled = row["el"] == 2 or bool(ata and row.get("hcr_ata", 1))
    if row["op"].startswith("irg"):
        tags, value = [], 0
        for _ in range(row.get("n", 1)):
            value, rgsr = tag_rules.irg(x0, x2, gcr, rgsr, enabled=enabled)
            tags.append(tag_rules.logical_tag(value))
        return {"x1": value, "tags": tags, "rgsr_out": rgsr}
    if row["op"] in {"addg", "subg"}:
        rule = tag_rules.addg if row["op"] == "addg" else tag_rules.subg
        return {"x1": rule(x0, row["imm"], row["tag_imm"], gcr, enabled=enabled)}
    if row["op"] == "gmi":
        return {"x1": tag_rules.gmi(x0, x2)}
    value, nzcv = tag_rules.subps(x0, x2)
    return {"x1": tag_rules.subp(x0, x2) if row["op"] == "subp" else value, "nzcv": nzcv}


def replay_alu(_header: JsonRow, rows: Iterator[JsonRow], report: Report) -> None:
    for row in rows:
        report.rows += 1
        answer = alu_answer(row)
        for name in ("x1", "rgsr_out", "nzcv", "tags"):
            if name in row:
                want = row[name] if name in {"nzcv", "tags"} else number(row[name])
                report.check(answer[name], want, f"{name} of {row}")


def compare_at(report: Report, regs: Registers, mem: Memory, kind: str, row: JsonRow) -> None:
    """One AT; where QEMU and the pseudocode differ by a known class, count it and no more."""
    va = number(row["va"] if "va" in row else row["ipa"])
    found = at(regs, mem, kind, va)
    name = row.get("quirk") or at_class(found, fwb=bool(regs.get("HCR_EL2", 0) & FWB))
    if name:
        report.apart[name] += 1
        return
    want = number(row["par"] if "par" in row else row["at"][kind])
    report.check(hex(par_of(found)), hex(want), f"{kind} of {row}")


def replay_at(header: JsonRow, rows: Iterator[JsonRow], report: Report) -> None:
    fields = ("VTCR", "VTTBR", "TCR", "TTBR0", "TTBR1", "MAIR")
    for row in rows:
        report.rows += 1
        regs = {
            REGISTERS[name]: number(row[name.lower()]) for name in fields if name.lower() in row
        }
        if header["format"] == "s2-at":
            regs["HCR_EL2"] = RW | ATA | DC | VM
        else:
            regs["HCR_EL2"] = RW | ATA | VM * ("vtcr" in row) | FWB * row.get("fwb", 0)
            regs["SCTLR_EL1"] = S1_AT_SCTLR
        for kind in row["at"]:
            compare_at(report, regs, numbers(row["mem"]), kind, row)


def replay_case(_header: JsonRow, rows: Iterator[JsonRow], report: Report) -> None:
    for row in rows:
        report.rows += 1
        regs = {REGISTERS[name]: number(value) for name, value in row["regs"].items()}
        machine = Machine(regs, numbers(row["mem"]), numbers(row["tags"]))
        for op in row["ops"]:
            where = f"row {report.rows} ({row['case']}) {op} of {row['regs']}"
            match op["op"]:
                case _ if row.get("quirk") or op.get("quirk", "Q1") != "Q1":
                    report.apart[row.get("quirk") or op["quirk"]] += 1
                case "at":
                    compare_at(report, regs, machine.mem, op["kind"], op)
                case "exec" if op["ins"].startswith("br"):
                    report.apart["fetch"] += 1
                case "exec":
                    compare(report, machine, op, where)
                case "ldg":
                    report.check(machine.allocation.get(number(op["pa"]), 0), op["tag"], where)
                case "read":
                    got, want = machine.mem.get(number(op["pa"]), 0), number(op["value"])
                    report.check(hex(got), hex(want), where)
                case _:
                    machine.mem[number(op["pa"])] = number(op["value"])


REPLAY = {
    "mte-seq": replay_seq,
    "mte-alu": replay_alu,
    "s2-at": replay_at,
    "s1-at": replay_at,
    "s12-at": replay_at,
    "case": replay_case,
}


def replay(path: Path) -> Report:
    """Replay one file."""
    rows = read_rows(path)
    header = next(rows)
    report = Report()
    REPLAY[header["format"]](header, rows, report)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description="Replay recorded answers against the oracle.")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--show", type=int, default=5, help="mismatches to print for each file")
    options = parser.parse_args()
    bad = 0
    for path in options.files:
        report = replay(path)
        bad += len(report.mismatches)
        apart = " ".join(f"{name}={count}" for name, count in sorted(report.apart.items()))
        print(
            f"{path.name}: rows {report.rows}, compared {report.compared},"
            f" apart {apart or 0}, mismatches {len(report.mismatches)}"
        )
        for text in report.mismatches[: options.show]:
            print(f"  {text}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
