"""Translations of a processing element against the Python oracle, tables and registers at random.

What is drawn is what the conformance run draws: a configuration of stage 1, stage 2 or both, and
descriptors invented where the oracle reads. PAR_EL1 and, afterwards, every descriptor must be the
same; `walk` and `walk_many` must say what `at` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given, strategies as st
from tests.conformance import walks
from tests.conformance.on_pe import counted, set_registers, write_words, wrong_words
from tests.oracle.words import bit

import tagvisor as tv

if TYPE_CHECKING:
    import random

sources = st.randoms(use_true_random=False)


def prepared(unit: walks.Unit) -> tv.Pe:
    pe = tv.Pe()
    write_words(pe, unit.tables)
    set_registers(pe, unit.regs)
    return pe


def updates_tables(unit: walks.Unit) -> bool:
    """HA at either stage: a walk may set an access flag that the next one reads."""
    return bit(unit.regs["TCR_EL1"], 39) or bit(unit.regs["VTCR_EL2"], 21)


@given(sources)
def test_at_answers_as_the_oracle_does(source: random.Random) -> None:
    unit = walks.draw(source, 8)
    pe = prepared(unit)

    for walk in unit.walks:
        par = pe.at(walk.va, walk.kind)

        assert par & counted(walk) == walk.par & counted(walk), (walk, hex(par))
    assert wrong_words(pe, unit.after) == ""


@given(sources)
def test_a_walk_read_level_by_level_ends_in_the_same_answer(source: random.Random) -> None:
    unit = walks.draw(source, 8)
    pe = prepared(unit)

    for walk in unit.walks:
        found = pe.walk(walk.va, walk.kind)

        assert found.par & counted(walk) == walk.par & counted(walk)
        for level in found.levels:
            assert level.address in unit.tables
            flags = 1 << 10 | 3 << 6 if updates_tables(unit) else 0
            assert level.descriptor | flags == unit.tables[level.address] | flags


@given(sources)
def test_many_walks_answer_as_one_does(source: random.Random) -> None:
    unit = walks.draw(source, 12)
    pe = prepared(unit)
    kind = "S12E1R"
    vas = np.array([walk.va for walk in unit.walks], dtype=np.uint64)

    many = pe.walk_many(vas, kind)

    assert [int(par) for par in many] == [prepared(unit).at(walk.va, kind) for walk in unit.walks]
