"""The bare processing element: registers, instructions, walks and bulk calls from Python."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import tagvisor as tv
from tagvisor.errors import ArgumentError, GuestException

if TYPE_CHECKING:
    from collections.abc import Callable

RAM = 0x4000_0000
ROOT, LAST = 0x4800_0000, 0x4800_1000
DATA = 0x5000_0000
VA = 0x20_1000
LDR_X1_X0 = 0xF940_0001
STR_X1_X0 = 0xF900_0001
STG_X1_X0 = 0xD920_0801
TLBI_VMALLE1 = 0xD508_871F
LEAF = 3 | 1 << 10 | 3 << 8 | 1 << 6


def put(pe: tv.Pe, pa: int, word: int) -> None:
    pe.write(pa, word.to_bytes(8, "little"))


@pytest.fixture(params=["off", "on", "check"])
def tlb(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def machine(**options: Any) -> tv.Pe:
    """EL1, stage 1 on: one page at VA, Tagged, with synchronous checks."""
    pe = tv.Pe(**options)
    pe["MAIR_EL1"] = 0xF0
    pe["TCR_EL1"] = 34 | 2 << 32 | 3 << 37  # 30-bit addresses, 4 KiB, start level 2
    pe["TTBR0_EL1"] = ROOT
    pe["HCR_EL2"] = 1 << 31 | 1 << 56
    pe["SCTLR_EL1"] = 1 | 1 << 2 | 1 << 12 | 1 << 40 | 1 << 43
    put(pe, ROOT + 8, LAST | 3)
    put(pe, LAST + 8, DATA | LEAF)
    return pe


def test_registers_are_read_and_written_by_name() -> None:
    pe = tv.Pe()

    pe["X7"], pe["SP"], pe["V3"], pe["NZCV"] = 7, 0x1000, 1 << 127, 0b1010 << 28

    assert (pe["X7"], pe["SP"], pe["V3"], pe["NZCV"]) == (7, 0x1000, 1 << 127, 0b1010 << 28)
    assert pe["GMID_EL1"] == 6
    assert pe["ID_AA64PFR1_EL1"] >> 8 & 15 == 3
    assert {"X0", "SP", "EL", "RGSR_EL1", "VTCR_EL2"} <= set(pe.registers())
    assert all(isinstance(pe[name], int) for name in pe.registers())
    assert repr(pe) == "<Pe at EL1>"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("X31", 1, "register='X31': expected one of Pe.registers"),
        ("GMID_EL1", 1, "GMID_EL1=1: expected a register that can be written"),
        ("EL", 3, "EL=3: expected 0, 1 or 2"),
        ("X0", 1 << 64, "expected an integer from 0 to 2^64 - 1"),
        ("X0", -1, "X0=-1: expected an integer"),
    ],
)
def test_a_register_that_cannot_be_is_refused(name: str, value: int, message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        tv.Pe()[name] = value

    assert message in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301


def test_an_instruction_completes_or_says_what_exception_it_took(tlb: str) -> None:
    pe = machine(tlb=tlb)
    pe["X0"], pe["X1"] = VA, 42

    assert pe.execute(STR_X1_X0) is None
    pe["X1"] = 0
    assert pe.execute(LDR_X1_X0) is None
    assert (pe["X1"], pe["PC"]) == (42, 8)
    pe["X0"] = VA | 5 << 56
    outcome = pe.execute(LDR_X1_X0)

    assert outcome is not None
    assert (outcome.taken_to, outcome.ec, outcome.dfsc, outcome.far) == (1, 0x25, 0x11, pe["X0"])
    assert not outcome.wnr
    assert str(outcome) == "to EL1: ESR 0x96000011, FAR 0x500000000201000"
    assert pe["PC"] == 8, "an instruction that does not complete stays where it is"


def test_an_unknown_instruction_is_refused_by_its_word() -> None:
    with pytest.raises(ArgumentError, match=r"word='0x00000000': expected a load, store"):
        tv.Pe().execute(0)


def test_single_accesses_return_values_or_raise_the_exception(tlb: str) -> None:
    pe = machine(tlb=tlb)
    pe.store(VA, 0x0123_4567_89AB_CDEF)

    assert pe.load(VA) == 0x0123_4567_89AB_CDEF
    assert [pe.load(VA + 1, size) for size in (1, 2, 4)] == [0xCD, 0xABCD, 0x6789_ABCD]
    pe.stg(VA | 9 << 56)
    assert pe.ldg(VA) == 9
    with pytest.raises(GuestException) as caught:
        pe.load(VA)

    assert (caught.value.kind, caught.value.far) == ("tag-check", VA)
    with pytest.raises(GuestException, match="translation"):
        pe.store(VA + 0x1000, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pe: pe.load(-1), "va=-1: expected an integer from 0"),
        (lambda pe: pe.load("x"), "va='x': expected an integer"),
        (lambda pe: pe.store(0, 1 << 64), "expected an integer from 0 to 0xffffffffffffffff"),
        (lambda pe: pe.load(0, 3), "size=3: expected 1, 2, 4 or 8"),
        (lambda pe: pe.at(0, "S3E1R"), "kind='S3E1R'"),
        (lambda pe: pe.read(0, 8), "expected an address in a region"),
        (lambda pe: pe.read(RAM, 1 << 25), "count=33554432: expected an integer from 0"),
        (lambda pe: pe.tag(0x1000), "pa='0x1000': expected an address in a region"),
        (lambda pe: pe.set_tag(RAM, 16), "tag=16: expected an integer from 0 to 15"),
        (lambda pe: pe.write(RAM, "text"), "data='text': expected bytes"),
        (lambda pe: pe.write_tags(RAM, np.zeros(2)), "expected a one-dimensional array of uint8"),
        (lambda pe: pe.walk_many(np.zeros(2)), "an array of float64"),
        (lambda pe: pe.check_tags(np.zeros((2, 2), np.uint64)), "expected one dimension"),
    ],
)
def test_a_mistake_names_the_argument(call: Callable[[tv.Pe], object], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        call(tv.Pe())

    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": ["FEAT_MTE9"]}, "features='FEAT_MTE9': expected one of FEAT_MTE_"),
        ({"features": "FEAT_MTE_PERM"}, "a list of names"),
        ({"tlb": "maybe"}, "tlb='maybe'"),
        ({"regions": [(0, 1 << 20)]}, "(base, size, kind) of each"),
        ({"regions": [(0, 4096, "ram"), (0, 4096, "ram")]}, "regions apart from each other"),
        ({"regions": [(0, 4096, "rom")]}, "regions.kind='rom'"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        tv.Pe(**options)

    assert message in str(caught.value)


def esr_of_load(pe: tv.Pe, pointer: int) -> int:
    try:
        pe.load(pointer, 4)
    except GuestException as exception:
        return exception.esr
    return 0


def test_bulk_calls_answer_like_single_ones(tlb: str) -> None:
    pe = machine(tlb=tlb)
    pe.write_tags(DATA, np.arange(256, dtype=np.uint8) % 3)
    rng = np.random.default_rng(1)
    offsets = rng.integers(0, 0x1800, 500, dtype=np.uint64)
    tags = rng.integers(0, 3, 500, dtype=np.uint64)
    pointers = offsets + np.uint64(VA) | tags << np.uint64(56)

    esr = pe.check_tags(pointers, 4)
    par = pe.walk_many(pointers, "S1E1R")

    for pointer, found, translated in zip(
        pointers.tolist(), esr.tolist(), par.tolist(), strict=True
    ):
        assert translated == pe.at(pointer, "S1E1R")
        assert found == esr_of_load(pe, pointer)
    assert 50 < np.count_nonzero(esr) < 450


def test_tags_are_read_and_written_in_bulk() -> None:
    pe = tv.Pe()
    tags = np.arange(600, dtype=np.uint8) % 16

    pe.write_tags(RAM + 0x10, tags)

    assert pe.read_tags(RAM + 0x10, 600).tolist() == tags.tolist()
    assert (pe.tag(RAM), pe.tag(RAM + 0x20), pe.tag(RAM + 0x2F)) == (0, 1, 1)


def test_a_walk_is_drawn_with_every_descriptor() -> None:
    pe = machine()

    walk = pe.walk(VA + 0x123, "S1E1R")
    flags = "AttrIndx=0 AP=rw,EL0 AF"

    assert str(walk) == repr(walk)
    assert str(walk).splitlines() == [
        "AT S1E1R 0x201123",
        "├─ stage 1 level  2  [0x48000008] = 0x0000000048001003  table -> 0x48001000",
        f"├─ stage 1 level  3  [0x48001008] = {DATA | LEAF:#018x}  page -> 0x50000000  {flags}",
        "└─ PA 0x50000123, Normal Write-Back Tagged, inner shareable (PAR_EL1 0xf000000050000b80)",
    ]
    assert (walk.pa, walk.attributes, walk.shareability, walk.fault) == (
        DATA + 0x123,
        0xF0,
        3,
        None,
    )
    assert [at.kind for at in walk.levels] == ["table", "page"]


def test_a_drawn_fault_says_where_it_stopped() -> None:
    pe = machine()
    pe["VTCR_EL2"], pe["VTTBR_EL2"] = 32 | 2 << 16, 0x4900_0000
    pe["HCR_EL2"] |= 1

    walk = pe.walk(VA)

    assert str(walk).splitlines() == [
        "AT S12E1R 0x201000",
        "├─ stage 2 level  2  [0x49001200] = 0x0000000000000000  invalid",
        "└─ translation fault, stage 2, level 2, on the walk of stage 1 (PAR_EL1 0xb0d)",
    ]
    assert walk.fault is not None
    assert (walk.fault.stage, walk.fault.level, walk.pa) == (2, 2, None)


def test_a_checking_tlb_reports_a_missing_tlbi() -> None:
    pe = machine(tlb="check")
    pe.store(VA, 1)
    assert pe.tlb_reports() == []

    put(pe, LAST + 8, 0)
    assert pe.load(VA) == 1, "stale, as hardware may"

    (report,) = pe.tlb_reports()
    assert (
        str(report) == f"stale entry used: {VA:#x} is cached to {DATA:#x}, the tables lead nowhere"
    )
    assert pe.execute(TLBI_VMALLE1) is None
    with pytest.raises(GuestException, match="translation"):
        pe.load(VA)


def test_stage_2_can_forbid_access_to_tags_with_feat_mte_perm() -> None:
    for features, completes in (([], True), (["FEAT_MTE_PERM"], False)):
        pe = tv.Pe(features=features)
        # Stage 1 off and Tagged; one page of stage 2 whose MemAttr is NoTagAccess under FWB.
        pe["HCR_EL2"] = 1 << 31 | 1 << 12 | 1 | 1 << 46 | 1 << 56 | 1 << 57
        pe["VTCR_EL2"], pe["VTTBR_EL2"] = 34 | 2 << 16, ROOT
        pe["SCTLR_EL1"] = 1 << 43
        put(pe, ROOT, LAST | 3)
        put(pe, LAST, DATA | 3 | 1 << 10 | 3 << 6 | (0b1110 if features else 0b0110) << 2)
        outcome = pe.execute(STG_X1_X0)
        if completes:
            assert outcome is None
            continue
        assert outcome is not None
        assert (outcome.taken_to, outcome.dfsc, outcome.wnr) == (2, 0x0F, True)
        assert outcome.esr >> 41 & 1, "TagAccess"
        assert pe.walk(0).attributes == 0xE0
        assert pe["ID_AA64PFR2_EL1"] & 15 == 1


def test_random_tags_of_the_other_source_follow_the_seed() -> None:
    def tags(seed: int) -> list[int]:
        pe = tv.Pe(seed=seed)
        pe["GCR_EL1"] = 1 << 16
        pe["HCR_EL2"], pe["SCTLR_EL1"] = 1 << 56, 1 << 43
        found = []
        for _ in range(32):
            assert pe.execute(0x9ADF_1001) is None  # irg x1, x0
            found.append(pe["X1"] >> 56)
        return found

    assert tags(1) == tags(1)
    assert tags(1) != tags(2)
