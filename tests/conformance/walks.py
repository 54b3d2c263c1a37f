"""Random address translations, and what the oracle says of each.

A unit is one set of registers, the tables that the oracle met while it walked a number of
addresses, and PAR_EL1 for each. A descriptor is invented when the oracle first reads its place:
mostly a table or a leaf that leads on, sometimes anything. So every path is dense with what
matters and no level, granule or size needs a generator of its own.

Registers cover stage 1, stage 2 and both; the three granules; TxSZ, SL0, SL2 and the output size,
legal and not; DS; FWB; AP, APTable, S2AP; HPD, EPD, TBI; PTW; HA and HD. Leaves out what
`oracle.walker` leaves out. The invariant: a unit is a function of its seed and options.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from tests.oracle.quirks import at_class
from tests.oracle.walker import (
    OFFSET_OUT_OF_RANGE,
    PERMISSION,
    Output,
    TranslationAbortError,
    at,
    par_of,
)
from tests.oracle.words import MASK64, Memory, Registers, bit, bits

LOW, HIGH, STEP = 0x4800_0000, 0x7FFF_0000, 0x1_0000  # where tables and most leaves lie
RAM_END = 0x8000_0000
WALKS_PER_UNIT = 40
S1, S2, BOTH = "S1", "S2", "S12"

RW, VM, PTW, DC, FWB, ATA, DCT = 1 << 31, 1, 1 << 2, 1 << 12, 1 << 46, 1 << 56, 1 << 57
SCTLR = 0x30D0_0800 | 1 << 43 | 1 << 42 | 1 << 2 | 1 << 12
# Attribute bytes for MAIR_EL1: every kind of Device and Normal memory, none reserved.
MAIRS = bytes.fromhex("0004080c 444ff4fff0 bbaa88f8 77fbbf7f5713")
# MemAttr without and with FWB: nothing reserved, nothing of FEAT_MTE_PERM.
MEMORY_TYPES, FORCED_TYPES = (0, 1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15), (0, 1, 2, 3, 5, 6, 7)
GRANULES = {0: 12, 1: 16, 2: 14, 3: 12}
# granule -> start level -> SL2:SL0
START_LEVELS = {
    12: {-1: 0b100, 0: 0b010, 1: 0b001, 2: 0b000, 3: 0b011},
    14: {0: 0b011, 1: 0b010, 2: 0b001, 3: 0b000},
    16: {1: 0b010, 2: 0b001, 3: 0b000},
}


@dataclass
class Walk:
    """One AT and what the oracle finds."""

    kind: str
    va: int
    par: int
    apart: str | None


@dataclass
class Unit:
    """Registers and tables before the first walk, the walks, and the tables afterwards."""

    regs: Registers
    tables: Memory
    seed: int | None = None
    walks: list[Walk] = field(default_factory=list)
    after: Memory = field(default_factory=dict)
    apart: Counter[str] = field(default_factory=Counter)


class Invented(Memory):
    """Memory whose words are made up when they are first read.

    `first` keeps them as they were invented; `outside` tells that a place beyond the RAM of the
    machine was read, where nothing can be put.
    """

    def __init__(self, rng: random.Random, regs: Registers, *, bare_metal: bool) -> None:
        super().__init__()
        self.rng = rng
        self.first: Memory = {}
        self.outside = False
        self.bare_metal = bare_metal
        self.wild = rng.choice((0.0, 0.0, 0.3, 1.0))
        self.leaf_rate = rng.uniform(0.1, 0.5)
        self.fwb = bool(regs["HCR_EL2"] & FWB)
        # MemAttr 1xxx is a matter of choice; with PTW a choice would decide about a fault.
        self.choices = not bare_metal and not (self.fwb and regs["HCR_EL2"] & PTW)
        self.ds = bit(regs["TCR_EL1"], 59) or bit(regs["VTCR_EL2"], 32)
        sizes = bits(regs["TCR_EL1"], 34, 32), bits(regs["VTCR_EL2"], 18, 16)
        self.wide = all(size >= 6 for size in sizes)

    def get(self, pa: int, default: int = 0) -> int:  # type: ignore[override]
        """The word at an address."""
        if pa not in self:
            if not LOW <= pa < RAM_END:
                self.outside = True
                return default
            self[pa] = self.first[pa] = self.invent()
        return self[pa]

    def restore(self, before: Memory) -> None:
        """Take flag updates back; what was invented since stays."""
        for pa in self:
            self[pa] = before.get(pa, self.first[pa])

    def invent(self) -> int:
        """A descriptor; nobody knows of which level or stage."""
        rng, wild = self.rng, self.wild
        page = rng.randrange(LOW, HIGH, STEP)
        what = rng.random()
        if what < 0.04 * wild:
            return rng.getrandbits(64) & (-4 if self.bare_metal else MASK64)
        if what < 0.06:
            return rng.choice((0, 2, page, page | 2))
        word = page | (3 if what > self.leaf_rate else rng.choice((1, 1, 3)))
        # What these bits mean depends on the stage: AttrIndx and AP, or MemAttr and S2AP.
        word |= self.memory_type() << 2
        word |= (3 if rng.random() < 0.75 else rng.getrandbits(2)) << 6
        word |= (rng.random() < 0.93) << 10 | (rng.random() < 0.3) << 51
        # With DS these are address bits; without it 1 is reserved, and a matter of choice.
        word |= rng.choice((0, 2, 3)) << 8
        if self.ds and rng.random() < 0.9:  # mostly an output below 2^50
            word &= ~(3 << 8)
        if rng.random() < 0.3:
            word |= rng.getrandbits(11) << 53
        if rng.random() < 0.15 * wild:
            # QEMU minds address bits above the output size even where a large block has none.
            word |= 1 << rng.randint(42 if self.bare_metal else 30, 49)
        if rng.random() < 0.1 * wild and (self.wide or not self.bare_metal):
            word |= 1 << rng.randint(12, 15)
        return word

    def memory_type(self) -> int:
        if self.choices:
            return self.rng.getrandbits(4)
        return self.rng.choice(FORCED_TYPES if self.fwb else MEMORY_TYPES)


def translation_control(rng: random.Random, *, ds: bool, bare_metal: bool) -> int:
    """TCR_EL1."""

    def chance(probability: float) -> int:
        return int(rng.random() < probability)

    def size() -> int:
        if rng.random() < 0.08:
            return rng.getrandbits(6)
        if ds and rng.random() < 0.4:
            return rng.randint(12, 17)
        return rng.randint(12 if rng.random() < 0.2 else 16, 48)

    tg0 = rng.choice((0, 1, 2)) if chance(0.97) else 3
    tg1 = rng.choice((1, 2, 3)) if chance(0.97) else 0
    ips = rng.choice((0, 1, 2, 3, 4, 5, 5, 5, 6, 6, 7))
    if ds and bare_metal:
        ips = 6
    return (
        size() | chance(0.03) << 7 | rng.getrandbits(4) << 8 | rng.choice((0, 2, 3)) << 12
        | tg0 << 14 | size() << 16 | chance(0.03) << 23 | rng.getrandbits(4) << 24
        | rng.choice((0, 2, 3)) << 28 | tg1 << 30 | ips << 32
        | chance(0.5) << 37 | chance(0.5) << 38
        | chance(0.2) << 39 | chance(0.5) << 40 | chance(0.3) << 41 | chance(0.3) << 42 | ds << 59
    )  # fmt: skip


def stage2_control(rng: random.Random, *, ds: bool, both: bool, bare_metal: bool) -> int:
    """VTCR_EL2, most of the time with a start level that fits the size.

    Under stage 1 the input mostly has 32 bits or more: all its tables lie below that.
    """
    tg0 = rng.choice((0, 1, 2)) if rng.random() < 0.97 else 3
    granule = GRANULES[tg0]
    levels = [
        lev for lev in START_LEVELS[granule] if ds or (lev >= 0 and (granule, lev) != (14, 0))
    ]
    if rng.random() < 0.87:
        level = min(rng.choice(levels), rng.choice((1, 2, 3))) if both else rng.choice(levels)
        sl = START_LEVELS[granule][level]
        least = (3 - level) * (granule - 3) + granule + 1
        most = min(52 if ds or granule == 16 else 48, least + granule)
        if both and most >= 32 and rng.random() < 0.95:
            least = max(least, 32)
        t0sz = 64 - rng.randint(least, max(least, most))
    else:
        sl, t0sz = rng.getrandbits(3), rng.getrandbits(6)
    ps = rng.choice((0, 1, 2, 3, 4, 5, 5, 5, 6, 6, 7))
    if ds and bare_metal:
        ps = 6
    ha, hd = rng.random() < 0.2, rng.random() < 0.5
    return (
        1 << 31 | t0sz & 0x3F | (sl & 3) << 6 | rng.getrandbits(4) << 8
        | rng.choice((0, 2, 3)) << 12 | tg0 << 14 | ps << 16 | ha << 21 | hd << 22
        | ds << 32 | (sl >> 2) << 33
    )  # fmt: skip


def table_base(rng: random.Random) -> int:
    base = rng.randrange(LOW, HIGH, STEP)
    if rng.random() < 0.03:
        base |= 1 << rng.randint(2, 5)
    if rng.random() < 0.02:
        base |= 1 << rng.randint(32, 47)
    return base


def registers(rng: random.Random, stages: str, *, bare_metal: bool) -> Registers:
    """A configuration for walks of stage 1, stage 2 or both."""

    def chance(probability: float) -> int:
        return int(rng.random() < probability)

    two = stages == BOTH
    tcr = translation_control(rng, ds=rng.random() < 0.35, bare_metal=bare_metal)
    if two and bare_metal:
        tcr &= ~(1 << 40)  # QEMU's AT sets the dirty state, and so writes a table through stage 2
    hcr = RW | ATA | two * (VM | chance(0.3) * FWB | chance(0.15) * PTW)
    if stages == S2:
        hcr |= DC | VM | chance(0.5) * DCT | chance(0.3) * FWB
    return {
        "HCR_EL2": hcr,
        "VTCR_EL2": stage2_control(rng, ds=rng.random() < 0.35, both=two, bare_metal=bare_metal),
        "VTTBR_EL2": table_base(rng),
        "SCTLR_EL1": SCTLR | (stages != S2),
        "TCR_EL1": tcr,
        "TTBR0_EL1": table_base(rng),
        "TTBR1_EL1": table_base(rng),
        "MAIR_EL1": sum(rng.choice(MAIRS) << 8 * i for i in range(8)),
    }


def address(rng: random.Random, regs: Registers, stages: str) -> int:
    """An address that the configuration can mostly translate."""
    tcr = regs["TCR_EL1"]
    if rng.random() < 0.03:
        return rng.getrandbits(64)
    if stages == S2:
        size = 64 - bits(regs["VTCR_EL2"], 5, 0)
        va = rng.getrandbits(max(1, min(size, 52))) & ~(1 << 55)
        upper = False
    else:
        upper = rng.random() < 0.5
        size = min(64 - bits(tcr, 21 if upper else 5, 16 if upper else 0), 55)
        va = rng.getrandbits(max(1, size)) | (MASK64 << size & MASK64) * upper
    if bit(tcr, 38 if upper else 37) and rng.random() < 0.5:
        va = va & ((1 << 56) - 1) | rng.getrandbits(8) << 56
    return va


def qemu_aborts(found: Output | TranslationAbortError) -> bool:
    """Q3: QEMU stops at an AT that meets a stage-2 permission fault.

    Where it checks the base of a block only (C1, D), it may go on to one.
    """
    if not isinstance(found, TranslationAbortError):
        return False
    if found.remark == OFFSET_OUT_OF_RANGE:
        return True
    return found.stage2 and not found.walk and found.kind == PERMISSION


def make(seed: int, *, bare_metal: bool) -> Unit:
    """A unit of walks; for the bare-metal target without what QEMU cannot be asked.

    It has fewer than `WALKS_PER_UNIT` where most of its tables would lie outside the RAM.
    """
    unit = draw(random.Random(seed), WALKS_PER_UNIT, bare_metal=bare_metal)
    unit.seed = seed
    return unit


def draw(rng: random.Random, count: int, *, bare_metal: bool = False) -> Unit:
    """A unit of at most `count` walks from a source of random numbers."""
    stages = rng.choice((S1, S2, BOTH, BOTH))
    regs = registers(rng, stages, bare_metal=bare_metal)
    memory = Invented(rng, regs, bare_metal=bare_metal)
    unit = Unit(regs, memory.first)
    for _ in range(3 * count):
        if len(unit.walks) == count:
            break
        reads = {S1: S1, S2: BOTH}.get(stages) or rng.choice((S1, BOTH, BOTH))
        kind = f"{reads}E{rng.getrandbits(1)}{rng.choice('RW')}"
        va = address(rng, regs, stages)
        before = dict(memory)
        memory.outside = False
        found = at(regs, memory, kind, va)
        if memory.outside or (bare_metal and qemu_aborts(found)):
            memory.restore(before)
            continue
        apart = at_class(found, fwb=memory.fwb)
        if apart is not None:
            unit.apart[apart] += 1
        unit.walks.append(Walk(kind, va, par_of(found), apart))
    unit.after = dict(memory)
    return unit
