"""Instruction steps on a processing element against the Python oracle, all at random.

What is drawn is what the conformance run draws, in small: a scene of four pages with random tables,
registers and tags, and instructions with random operands. Every exception, register and tag, and in
the end all memory, must be the same.
"""

from __future__ import annotations

from hypothesis import given, strategies as st
from tests.conformance import on_pe
from tests.conformance.comparison import Tally
from tests.conformance.steps import Draw

seeds = st.integers(0, (1 << 32) - 1)


@given(seeds)
def test_a_sequence_of_instructions_ends_as_the_oracle_says(seed: int) -> None:
    unit = Draw(seed, frozenset(), bare_metal=False).unit(60)
    tally = Tally()

    on_pe.run_steps(unit, tally, full=False, keep=1)

    assert tally.first == []
    assert tally.counts["steps"] == 60
