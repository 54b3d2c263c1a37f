"""The tag instructions on a processing element against the Python oracle of their arithmetic.

Every one is executed by its encoding, with GCR_EL1 and RGSR_EL1 as drawn, where tag access is
enabled and where it is not.
"""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from tests.oracle import tags
from tests.oracle.insns import TABLE, encode

import tagvisor as tv

pointers = st.integers(0, (1 << 64) - 1)
masks = st.one_of(st.integers(0, 0xFFFF), st.sampled_from((0, 0xFFFE, 0xFFFF)))
seeds = st.builds(lambda seed, tag: seed << 8 | tag, st.integers(0, 0xFFFF), st.integers(0, 15))
levels = st.sampled_from((0, 1))
enabled = st.booleans()
XD, XN, XM = 1, 2, 3
ATA, ATA0, HCR_ATA, RW = 1 << 43, 1 << 42, 1 << 56, 1 << 31


@pytest.fixture(scope="module")
def pe() -> tv.Pe:
    return tv.Pe()


def execute(pe: tv.Pe, name: str, xn: int, xm: int = 0, **immediates: int) -> int:
    """Execute `name X1, X2, X3` or its immediate form; X1 afterwards."""
    pe["X1"], pe["X2"], pe["X3"] = 0xDEAD_BEEF, xn, xm
    operands = {"t": XD, "n": XN} | ({} if immediates else {"m": XM}) | immediates
    assert pe.execute(encode(TABLE[name], operands)) is None
    assert (pe["X2"], pe["X3"]) == (xn, xm)
    return pe["X1"]


def prepare(pe: tv.Pe, el: int, gcr: int, rgsr: int, *, enabled: bool) -> None:
    """Tag access as asked, by the bit of this exception level alone."""
    own, other = (ATA, ATA0) if el else (ATA0, ATA)
    pe["EL"] = el
    pe["HCR_EL2"] = RW | HCR_ATA
    pe["SCTLR_EL1"] = own if enabled else other
    pe["GCR_EL1"], pe["RGSR_EL1"] = gcr, rgsr


@given(pointer=pointers, mask=pointers, gcr=masks, rgsr=seeds, el=levels, enabled=enabled)
def test_irg_draws_the_same_tag_and_leaves_the_same_seed(
    pe: tv.Pe, pointer: int, mask: int, gcr: int, rgsr: int, el: int, *, enabled: bool
) -> None:
    prepare(pe, el, gcr, rgsr, enabled=enabled)

    drawn = execute(pe, "irg", pointer, mask)

    assert (drawn, pe["RGSR_EL1"]) == tags.irg(pointer, mask, gcr, rgsr, enabled=enabled)


@pytest.mark.parametrize("name", ["addg", "subg"])
@given(
    pointer=pointers,
    imm=st.integers(0, 63),
    tag=st.integers(0, 15),
    gcr=masks,
    el=levels,
    enabled=enabled,
)
def test_addg_and_subg_compute_the_same_pointer(
    pe: tv.Pe, name: str, pointer: int, imm: int, tag: int, gcr: int, el: int, *, enabled: bool
) -> None:
    prepare(pe, el, gcr, 0, enabled=enabled)
    rule = {"addg": tags.addg, "subg": tags.subg}[name]

    computed = execute(pe, name, pointer, imm=imm, tag=tag)

    assert computed == rule(pointer, 16 * imm, tag, gcr, enabled=enabled)


@given(pointer=pointers, mask=pointers, el=levels, enabled=enabled)
def test_gmi_needs_no_tag_access(
    pe: tv.Pe, pointer: int, mask: int, el: int, *, enabled: bool
) -> None:
    prepare(pe, el, 0, 0, enabled=enabled)

    assert execute(pe, "gmi", pointer, mask) == tags.gmi(pointer, mask)


@given(pointers, st.one_of(pointers, st.integers(-16, 16)), levels)
def test_subp_and_subps_compute_the_same_difference_and_flags(
    pe: tv.Pe, left: int, right: int, el: int
) -> None:
    prepare(pe, el, 0, 0, enabled=False)
    if right in range(-16, 17):  # close to the other one, so that zero and borrow come up
        right = (left + right) & tags.MASK64
    difference, nzcv = tags.subps(left, right)

    assert execute(pe, "subp", left, right) == tags.subp(left, right)
    assert execute(pe, "subps", left, right) == difference
    assert pe["NZCV"] >> 28 == nzcv
