"""Tag arithmetic against a slow and obvious oracle, written from the Arm ARM's pseudocode.

`AArch64.ChooseNonExcludedTag`, `AArch64.AddressWithAllocationTag`, and the operation sections of
ADDG, SUBG, GMI, SUBP and IRG.
"""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

import tagvisor as tv

MASK64 = (1 << 64) - 1

pointers = st.integers(0, MASK64)
masks = st.integers(0, 0xFFFF)
offsets = st.integers(0, 63).map(lambda granules: granules * 16)
steps = st.integers(0, 15)


@pytest.fixture(scope="module")
def cpu() -> tv.Vcpu:
    """A vCPU as it comes: GCR_EL1.Exclude is 0, allocation tag access is enabled."""
    return tv.Host(log=False).process().create_vm(mte=True).vcpu()


def logical_tag(pointer: int) -> int:
    return (pointer >> 56) & 0xF


def with_tag(pointer: int, tag: int) -> int:
    return (pointer & ~(0xF << 56)) | (tag << 56)


def choose_non_excluded_tag(start: int, offset: int, exclude: int) -> int:
    if exclude == 0xFFFF:
        return 0
    tag = start
    if offset == 0:
        while exclude >> tag & 1:
            tag = (tag + 1) % 16
    for _ in range(offset):
        tag = (tag + 1) % 16
        while exclude >> tag & 1:
            tag = (tag + 1) % 16
    return tag


def without_top_byte(pointer: int) -> int:
    low = pointer & ((1 << 56) - 1)
    return low - (1 << 56) if low >> 55 else low


@given(pointers, offsets, steps)
def test_addg_adds_to_the_address_and_to_the_tag(
    cpu: tv.Vcpu, pointer: int, imm: int, tag_imm: int
) -> None:
    tag = choose_non_excluded_tag(logical_tag(pointer), tag_imm, 0)

    assert cpu.addg(pointer, imm, tag_imm) == with_tag((pointer + imm) & MASK64, tag)


@given(pointers, offsets, steps)
def test_subg_subtracts_from_the_address_and_adds_to_the_tag(
    cpu: tv.Vcpu, pointer: int, imm: int, tag_imm: int
) -> None:
    tag = choose_non_excluded_tag(logical_tag(pointer), tag_imm, 0)

    assert cpu.subg(pointer, imm, tag_imm) == with_tag((pointer - imm) & MASK64, tag)


@given(pointers, st.integers(0, MASK64))
def test_gmi_sets_the_bit_of_the_pointers_tag(cpu: tv.Vcpu, pointer: int, mask: int) -> None:
    assert cpu.gmi(pointer, mask) == mask | 1 << logical_tag(pointer)


@given(pointers, pointers)
def test_subp_is_the_difference_of_sign_extended_addresses(cpu: tv.Vcpu, a: int, b: int) -> None:
    assert cpu.subp(a, b) == (without_top_byte(a) - without_top_byte(b)) & MASK64


@given(pointers, masks)
def test_irg_changes_the_tag_alone_and_respects_what_is_excluded(
    cpu: tv.Vcpu, pointer: int, exclude: int
) -> None:
    drawn = cpu.irg(pointer, exclude)

    assert with_tag(drawn, 0) == with_tag(pointer, 0)
    if exclude == 0xFFFF:
        assert logical_tag(drawn) == 0
    else:
        assert not exclude >> logical_tag(drawn) & 1


@given(pointers)
def test_irg_and_gmi_together_never_draw_the_same_tag_twice(cpu: tv.Vcpu, pointer: int) -> None:
    mask, seen = 0, set()
    for _ in range(16):
        drawn = cpu.irg(pointer, mask)
        seen.add(logical_tag(drawn))
        mask = cpu.gmi(drawn, mask)

    assert seen == set(range(16))
