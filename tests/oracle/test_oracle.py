"""The oracle against answers that another emulator recorded, and its instruction table with itself.

The bundled files are replayed; `vectors` replays any others.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from tests.oracle.insns import TABLE, Row, decode, encode
from tests.oracle.machine import Machine
from tests.oracle.quirks import attribute_class
from tests.oracle.step import step
from tests.oracle.vectors import replay

if TYPE_CHECKING:
    from pathlib import Path

RECORDED = (
    *("alu", "attr_cases", "mte_seq", "mte_seq_vary"),
    *("s1_at", "s12_at", "s2_at", "s2_perm_at_q72", "s2_perm_exec"),
)


@pytest.mark.parametrize("name", RECORDED)
def test_the_oracle_answers_as_recorded(repository: Path, name: str) -> None:
    report = replay(repository / "tests/data/vectors" / f"{name}.jsonl.gz")

    assert report.mismatches == []
    assert report.compared > 1000


@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.name)
def test_a_word_decodes_to_what_was_encoded(row: Row) -> None:
    rng = random.Random(row.value)
    for _ in range(20):
        operands = {}
        for field in row.fields:
            width = field.high - field.low + 1
            number = rng.getrandbits(width)
            sign = number >> (width - 1) if field.signed else 0
            operands[field.name] = number - (sign << width)

        insn = decode(encode(row, operands))

        assert insn is not None
        assert (insn.row, insn.operands) == (row, operands)


def test_no_two_instructions_share_a_word() -> None:
    rows = list(TABLE.values())
    clashes = [
        (one.name, other.name)
        for i, one in enumerate(rows)
        for other in rows[i + 1 :]
        if (one.value ^ other.value) & one.mask & other.mask == 0
    ]

    assert clashes == []


def test_a_store_exclusive_passes_once_after_its_load() -> None:
    machine = Machine({"HCR_EL2": 1 << 31}, {0x5000: 7})
    load = encode(TABLE["ldxr x"], {"t": 1, "n": 0})
    store = encode(TABLE["stxr x"], {"t": 2, "n": 0, "s": 3})
    machine.x[:4] = 0x5000, 0, 9, 5

    assert step(machine, load) is None
    assert step(machine, store) is None
    assert (machine.x[1], machine.x[3], machine.mem[0x5000]) == (7, 0, 9)
    machine.x[2] = 11
    assert step(machine, store) is None
    assert (machine.x[3], machine.mem[0x5000]) == (1, 9)


@pytest.mark.parametrize(
    ("stage1", "memattr", "fwb", "name"),
    [
        (0x00, 0b0011, True, "A"),
        (0x0C, 0b0001, True, None),  # stage 2 is the stricter: nothing differs
        (0x0C, 0b0101, False, "B"),
        (0x04, 0b0101, False, None),
        (0x44, 0b0010, False, "B"),
        (0x77, 0b1011, False, "C"),
        (0xBB, 0b1010, False, None),
        (0xFF, 0b1000, False, "R"),
        (0xFF, 0b1110, True, "Q5"),
    ],
)
def test_the_classes_of_attributes(stage1: int, memattr: int, fwb: bool, name: str | None) -> None:  # noqa: FBT001
    assert attribute_class(stage1, memattr, fwb=fwb) == name
