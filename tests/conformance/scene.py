"""A random machine for instruction steps: four data pages, tables around them, and registers.

Models what a guest kernel and a hypervisor might have set up with the 4K granule: stage 1 on, off
(HCR_EL2.DC) or off and Device; stage 2 on or off; per page and stage a memory type, permissions,
access flag, dirty bit management and validity; now and then a stage-1 table that stage 2 does not
map well. Both halves of the address space show the same pages. Every page of code that a bare-metal
target needs is mapped, readable and executable. Leaves out other granules, which `walks` covers.

The invariant: a scene is a function of the random generator it is made with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.oracle.words import MASK64, Memory, Registers

if TYPE_CHECKING:
    import random

PAGE, PAGES, GRANULES = 4096, 4, 256
BASE = 0x5100_0000  # of the data pages: VA, IPA and PA alike, but in another order
CODE = 0x4040_0000
STAGE2, STAGE1 = 0x4800_0000, 0x4810_0000  # level-1 tables; the others follow them
UPPER = MASK64 << 39 & MASK64  # turns an address into its alias under TTBR1_EL1
MAIRS = (0x00, 0x04, 0x08, 0x0C, 0x44, 0x4F, 0xF4, 0xFF, 0xBB, 0xAA, 0x77, 0xFB, 0xBF)

RW, VM, PTW, DC, FWB, ATA, DCT = 1 << 31, 1, 1 << 2, 1 << 12, 1 << 46, 1 << 56, 1 << 57
SCTLR_FIXED = 0x30D0_0800 | 1 << 2 | 1 << 12 | 1 << 14 | 1 << 26  # RES1, C, I, DZE, UCI
TCR_FIXED = 25 | 25 << 16 | 3 << 12 | 3 << 28 | 5 << 8 | 5 << 24 | 2 << 30 | 2 << 32
VTCR_FIXED = 1 << 31 | 2 << 16 | 3 << 12 | 5 << 8 | 1 << 6 | 24
S1_FLAT, S1_DEFAULT, S1_TABLES = range(3)


@dataclass
class Scene:
    """What a sequence of steps starts from."""

    regs: Registers
    tables: Memory
    data: list[bytes]  # by physical page
    tags: list[int]  # by physical granule
    stage1: int
    places: list[int]  # the physical page behind each virtual one, for good guesses

    def near_tag(self, va: int) -> int:
        """The tag that the granule of an address has at the start."""
        page, offset = divmod(va - BASE, PAGE)
        page = min(max(page, 0), PAGES - 1)
        return self.tags[self.places[page] * GRANULES + offset // 16]


def stage2_page(rng: random.Random, pa: int, *, fwb: bool, good: bool) -> int:
    """A level-3 descriptor, or 0."""
    if good:
        return pa | (6 if fwb else 15) << 2 | 3 << 6 | 3 << 8 | 1 << 10 | 3
    if rng.random() < 0.04:
        return 0
    memattr = rng.choice(
        (6, 6, 6, 7, 7, 5, 0, 1, 2, 3) if fwb else (15,) * 4 + (5, 10, 13, 0, 1, 2, 3)
    )
    s2ap = 3 if rng.random() < 0.7 else rng.randrange(4)
    flags = (rng.random() < 0.9) << 10 | (rng.random() < 0.3) << 51
    return pa | memattr << 2 | s2ap << 6 | rng.choice((0, 2, 3)) << 8 | flags | 3


def stage1_page(rng: random.Random, ipa: int, *, good: bool) -> int:
    """A level-3 descriptor, or 0; attribute indices 1 to 3 are Tagged more often than not."""
    if good:
        return ipa | 1 << 2 | 1 << 6 | 3 << 8 | 1 << 10 | 3
    if rng.random() < 0.03:
        return 0
    ap = rng.choice((1, 1, 1, 0, 2, 3))
    flags = (rng.random() < 0.9) << 10 | (rng.random() < 0.3) << 51 | rng.getrandbits(2) << 53
    return ipa | rng.randrange(1, 8) << 2 | ap << 6 | rng.choice((0, 2, 3)) << 8 | flags | 3


def stage2_tables(rng: random.Random, places: list[int], good: list[bool], *, fwb: bool) -> Memory:
    level2, level3, of_tables = STAGE2 + 0x4000, STAGE2 + 0x5000, STAGE2 + 0x6000
    block = 1 << 21

    def identity(ipa: int) -> int:
        return stage2_page(rng, ipa & -block, fwb=fwb, good=True) & ~2

    tables = {STAGE2 + 8: level2 | 3, level2 + 8 * (BASE >> 21 & 511): level3 | 3}
    for ipa in (CODE, STAGE1):
        tables[level2 + 8 * (ipa >> 21 & 511)] = identity(ipa)
    for page, place in enumerate(places):
        pa = BASE + PAGE * place
        tables[level3 + 8 * page] = stage2_page(rng, pa, fwb=fwb, good=good[page])
    if rng.random() < 0.15:  # a page of its own for each stage-1 table, one of them not good
        tables[level2 + 8 * (STAGE1 >> 21 & 511)] = of_tables | 3
        for offset in (0, 0x1000, 0x2000):
            table = STAGE1 + offset
            page = stage2_page(rng, table, fwb=fwb, good=offset != 0x2000)
            tables[of_tables + 8 * (table >> 12 & 511)] = page
    return tables


def stage1_tables(rng: random.Random, places: list[int], good: list[bool]) -> Memory:
    level2, level3 = STAGE1 + 0x1000, STAGE1 + 0x2000
    table_bits = rng.getrandbits(4) << 59 if rng.random() < 0.15 else 0
    tables = {
        STAGE1 + 8: level2 | 3,
        level2 + 8 * (CODE >> 21 & 511): CODE & -(1 << 21) | 3 << 6 | 3 << 8 | 1 << 10 | 1,
        level2 + 8 * (BASE >> 21 & 511): level3 | 3 | table_bits,
    }
    for page, place in enumerate(places):
        tables[level3 + 8 * page] = stage1_page(rng, BASE + PAGE * place, good=good[page])
    return tables


def configuration(rng: random.Random, scene: Scene) -> Registers:
    """Registers of tag checking, which change between the steps of a scene."""

    def chance(probability: float) -> int:
        return int(rng.random() < probability)

    tcf, tcf0 = rng.choice((0, 1, 1, 1, 2, 3)), rng.choice((0, 1, 1, 1, 2, 3))
    regs = dict(scene.regs)
    regs["SCTLR_EL1"] |= tcf << 40 | tcf0 << 38 | chance(0.9) << 43 | chance(0.9) << 42
    regs["SCTLR_EL1"] |= chance(0.1) << 1 | chance(0.3) << 6  # A, nAA
    regs["TCR_EL1"] |= chance(0.88) << 37 | chance(0.88) << 38  # TBI
    regs["TCR_EL1"] |= chance(0.2) << 57 | chance(0.2) << 58  # TCMA
    regs["HCR_EL2"] |= chance(0.93) * ATA
    regs["GCR_EL1"] = rng.choice((0, 0xFFFF, rng.getrandbits(16), rng.getrandbits(16)))
    regs["RGSR_EL1"] = rng.getrandbits(16) << 8 | rng.getrandbits(4)
    regs["TFSR_EL1"] = regs["TFSRE0_EL1"] = 0
    return regs


def make(rng: random.Random) -> Scene:
    """A scene."""

    def chance(probability: float) -> int:
        return int(rng.random() < probability)

    stage1 = rng.choice((S1_DEFAULT,) * 4 + (S1_TABLES,) * 6 + (S1_FLAT,) * chance(0.3))
    vm = chance(0.75)
    fwb = chance(0.3)
    hcr = RW | vm * VM | fwb * FWB | chance(0.1) * PTW
    if stage1 == S1_DEFAULT:
        hcr |= DC | chance(0.9) * DCT
    order1, order2 = rng.sample(range(PAGES), PAGES), rng.sample(range(PAGES), PAGES)
    if stage1 != S1_TABLES:
        order1 = list(range(PAGES))
    if not vm and stage1 != S1_DEFAULT:  # DC = 1 turns stage 2 on as VM does
        order2 = list(range(PAGES))
    good = [page < 2 for page in rng.sample(range(PAGES), PAGES)]
    good2 = [False] * PAGES
    for page in range(PAGES):
        good2[order1[page]] = good[page]
    mair = [0xFF, 0xF0, 0xF0, 0xF0, *rng.choices(MAIRS, k=4)]
    regs = {
        "HCR_EL2": hcr,
        "VTCR_EL2": VTCR_FIXED | chance(0.15) << 21 | chance(0.6) << 22,
        "VTTBR_EL2": STAGE2,
        "SCTLR_EL1": SCTLR_FIXED | (stage1 == S1_TABLES),
        "TCR_EL1": TCR_FIXED | chance(0.15) << 39 | chance(0.6) << 40 | rng.getrandbits(2) << 41,
        "TTBR0_EL1": STAGE1,
        "TTBR1_EL1": STAGE1,
        "MAIR_EL1": sum(attr << 8 * index for index, attr in enumerate(mair)),
    }
    tables = stage2_tables(rng, order2, good2, fwb=bool(fwb)) | stage1_tables(rng, order1, good)
    region = [rng.getrandbits(4) for _ in range(PAGES * GRANULES // 8)]
    tags = [
        region[granule // 8] if rng.random() < 0.75 else rng.getrandbits(4)
        for granule in range(PAGES * GRANULES)
    ]
    places = [order2[order1[page]] for page in range(PAGES)]
    data = [rng.randbytes(PAGE) for _ in range(PAGES)]
    return Scene(regs, tables, data, tags, stage1, places)
