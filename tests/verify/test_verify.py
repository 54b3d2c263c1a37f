"""Recorded answers of QEMU, replayed: none differs, and a wrong one would be seen."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tagvisor.errors import VectorError
from tagvisor.verify import Vectors, verify

DATA = Path(__file__).resolve().parents[1] / "data" / "vectors"

# Answers that are compared in each file: fewer would mean that the replay looks away.
COMPARED = {
    "alu": 1500,
    "attr_cases": 6000,
    "mte_seq": 6000,
    "mte_seq_vary": 4000,
    "s12_at": 1900,
    "s1_at": 2300,
    "s2_at": 3700,
    "s2_perm_at_q72": 1900,
    "s2_perm_exec": 2800,
}


def tagvisor(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tagvisor", "verify", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


def lines_of(name: str) -> list[str]:
    with gzip.open(DATA / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return lines.read().splitlines()


def test_every_file_is_known_here() -> None:
    assert {path.name.removesuffix(".jsonl.gz") for path in DATA.glob("*.gz")} == set(COMPARED)


@pytest.mark.parametrize("name", COMPARED)
def test_no_recorded_answer_differs(name: str) -> None:
    tally = verify(Vectors(DATA / f"{name}.jsonl.gz"))

    assert tally.first == []
    assert tally.mismatches == 0
    assert tally.compared >= COMPARED[name]
    assert tally.rows == len(lines_of(name)) - 1
    assert tally.skipped == sum(tally.quirks.values()) - tally.quirks["Q1"]


def test_the_quirks_of_the_recorded_machine_are_counted_apart() -> None:
    tally = verify(Vectors(DATA / "attr_cases.jsonl.gz"))

    marked = {"Q1", "Q2", "Q5", "R"}
    assert {name for name in tally.quirks if not name.startswith("qemu-")} == marked
    assert (tally.quirks["Q1"], tally.quirks["Q2"]) == (4, 21)


def test_a_deviation_is_set_apart_only_where_it_is_exactly_qemus(tmp_path: Path) -> None:
    rows = lines_of("s12_at")
    row = next(
        number
        for number, text in enumerate(rows)
        if number and not json.loads(text).get("quirk") and deviates(rows[0], text, tmp_path)
    )
    fields = json.loads(rows[row])
    fields["at"] = {
        kind: hex(int(par, 16) ^ (0 if int(par, 16) & 1 else 3 << 60))
        for kind, par in fields["at"].items()
    }

    tally = verify(written(tmp_path, rows[0], json.dumps(fields)))

    assert tally.mismatches == sum(not int(par, 16) & 1 for par in fields["at"].values())
    assert not tally.quirks


def written(folder: Path, *lines: str) -> Vectors:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return Vectors(path)


def deviates(header: str, row: str, folder: Path) -> bool:
    return any(name.startswith("qemu-") for name in verify(written(folder, header, row)).quirks)


def test_the_command_prints_a_table_and_the_totals_as_its_last_line() -> None:
    done = tagvisor(DATA / "alu.jsonl.gz", DATA / "s1_at.jsonl.gz")

    assert done.returncode == 0, done
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert "alu.jsonl.gz" in done.stdout
    assert "s1_at.jsonl.gz" in done.stdout
    totals = json.loads(lines[-1])
    assert list(totals) == ["rows", "compared", "mismatches", "skipped"]
    assert totals["rows"] == 2700
    assert totals["mismatches"] == 0


def test_a_wrong_answer_is_named_with_what_reproduces_it(tmp_path: Path) -> None:
    lines = lines_of("alu")[:200]
    line = next(number for number, text in enumerate(lines, 1) if '"op":"gmi"' in text)
    row = json.loads(lines[line - 1])
    recorded, row["x1"] = row["x1"], "0x1234567"
    lines[line - 1] = json.dumps(row)
    path = tmp_path / "planted.jsonl"
    path.write_text("\n".join(lines) + "\n")

    done = tagvisor(path)

    assert done.returncode == 1, done
    assert f"{path}:{line}: gmi" in done.stdout
    assert lines[line - 1] in done.stdout
    assert "X1 0x1234567" in done.stdout
    assert f"X1 {recorded}" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["mismatches"] == 1


def test_a_wrong_outcome_of_a_sequence_is_seen(tmp_path: Path) -> None:
    lines = lines_of("mte_seq")
    end = next(number for number, text in enumerate(lines) if text.startswith('{"end"')) + 1
    number, row = next(
        (number, row)
        for number, row in enumerate(map(json.loads, lines[:end]))
        if row.get("st") == 1 and int(row["esr"], 16) & 0x3F == 0x11 and "quirk" not in row
    )
    row["esr"] = hex(int(row["esr"], 16) ^ 1 << 6)
    lines[number] = json.dumps(row)
    path = tmp_path / "sequence.jsonl"
    path.write_text("\n".join(lines[:end]) + "\n")

    tally = verify(Vectors(path))

    assert tally.mismatches == 1
    assert tally.first[0].line == number + 1
    assert tally.first[0].context[0] == "sequence of line 2, from its start"


def test_a_wrong_final_tag_is_named_by_its_address(tmp_path: Path) -> None:
    lines = lines_of("mte_seq")
    end = next(number for number, text in enumerate(lines) if text.startswith('{"end"'))
    row = json.loads(lines[end])
    tags = row["tags"]
    wrong = f"{int(tags[5], 16) ^ 1:x}"
    row["tags"] = tags[:5] + wrong + tags[6:]
    lines[end] = json.dumps(row)
    path = tmp_path / "sequence.jsonl"
    path.write_text("\n".join(lines[: end + 1]) + "\n")

    tally = verify(Vectors(path))

    assert tally.mismatches == 1
    assert tally.first[0].expected == f"0x51000050 tag {wrong}"
    assert tally.first[0].got == f"0x51000050 tag {tags[5]}; 1 places differ"


HEADER = '{"format":"mte-alu","version":1}\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file is empty"),
        ("vm mte\n", "not a vector file: no JSON"),
        ("[1]\n", "no row"),
        ('{"a":1}\n', "not a vector file: no format named"),
        ('{"format":"mte-9","version":1}\n', "format 'mte-9'"),
        ('{"format":"mte-alu","version":2}\n', "version 2"),
        (HEADER + "{\n", "not JSON"),
        (HEADER + '{"op":"irg"}\n', "no 'x0'"),
        (HEADER + '{"op":"irg","x0":16}\n', "x0=16"),
        ('{"format":"case","version":1}\n{"ops":[],"quirk":"Q9"}\n', "quirk 'Q9'"),
    ],
)
def test_a_file_that_cannot_be_replayed_is_one_line_and_exit_2(
    tmp_path: Path, text: str, problem: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)

    done = tagvisor(path)

    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert str(path) in done.stderr
    assert problem in done.stderr


def test_a_damaged_gzip_file_and_a_missing_one(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes((DATA / "alu.jsonl.gz").read_bytes()[:5000])
    plain = tmp_path / "plain.jsonl.gz"
    plain.write_text(HEADER)

    with pytest.raises(VectorError, match="damaged"):
        verify(Vectors(path))
    with pytest.raises(VectorError, match="damaged"):
        Vectors(plain)
    done = tagvisor(tmp_path / "none.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert "none.jsonl" in done.stderr


def test_a_sequence_that_is_cut_off_is_no_success(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl"
    path.write_text("\n".join(lines_of("mte_seq")[:50]) + "\n")

    with pytest.raises(VectorError, match="a sequence without end"):
        verify(Vectors(path))
