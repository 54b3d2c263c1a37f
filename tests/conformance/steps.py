"""Random instruction steps, and what the oracle says of each.

A unit is one scene and a number of steps on it; every hundred of them the registers of tag
checking change. A step names an instruction of `oracle.insns` with random operands whose base
register points into the scene, mostly at a granule with the right tag. The oracle executes as the
steps are drawn, so that a compare-and-swap can be given what it compares with and a store
exclusive follows the load that opens the monitor.

The invariant: a unit is a function of its seed and options. Leaves out what the architecture
leaves to an implementation: equal registers where that is CONSTRAINED UNPREDICTABLE, and a store
exclusive after a load exclusive that took an exception.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from tests.conformance import scene as scenes
from tests.conformance.scene import BASE, PAGE, PAGES, S1_TABLES, UPPER, Scene
from tests.oracle.insns import TABLE, XZR, Form, Index, Row, decode, encode
from tests.oracle.machine import GRANULE, Machine, Taken
from tests.oracle.quirks import READ_MODIFY_WRITE, step_class
from tests.oracle.step import step
from tests.oracle.walker import Access, TranslationAbortError
from tests.oracle.words import MASK64, Registers, bit, bits

STEPS_PER_CONFIGURATION = 100
RETURNED = 4  # general registers that a bare-metal target hands back: X0 to X3
ARITHMETIC = [row for row in TABLE.values() if row.form is Form.ARITHMETIC]
EXCLUSIVE_STORES = [row for row in TABLE.values() if row.form is Form.STORE_EXCLUSIVE]
TAG_FORMS = {
    Form.LOAD_TAG,
    Form.STORE_TAG,
    Form.STORE_TAG_PAIR,
    Form.LOAD_TAGS,
    Form.STORE_TAGS,
    Form.STORE_ZERO_TAGS,
    Form.DC_ZERO,
}
STORE_TAGS_FORMS = {Form.STORE_TAG, Form.STORE_TAG_PAIR}


@dataclass
class Step:
    """One instruction on a given state, and its outcome by the oracle."""

    word: int
    text: str
    el: int
    tco: bool
    inputs: dict[int, int]
    taken: Taken | None = None
    outputs: dict[int, int] = field(default_factory=dict)
    nzcv: int | None = None
    rgsr: int = 0
    tfsr: int = 0
    tfsre0: int = 0
    apart: str | None = None  # the name of the class that must not be compared in full


@dataclass
class Unit:
    """A scene, its configurations with their steps, and the oracle's machine afterwards."""

    seed: int
    scene: Scene
    blocks: list[tuple[Registers, list[Step]]]
    machine: Machine
    apart: Counter[str]


def groups(skip: frozenset[str]) -> list[list[Row]]:
    """The instructions in groups that are drawn equally often: by what they are, not how many."""
    rows = [
        row
        for row in TABLE.values()
        if row.name not in skip and row.form is not Form.STORE_EXCLUSIVE
    ]
    plain = [row for row in rows if row.form in {Form.LOAD, Form.STORE} and not row.ordered]
    tagged = [row for row in rows if row.form in TAG_FORMS]
    ordered = [
        row
        for row in rows
        if row.ordered or row.form in READ_MODIFY_WRITE or row.form is Form.LOAD_EXCLUSIVE
    ]
    others = [row for row in rows if row.form in {Form.ARITHMETIC, Form.PREFETCH}]
    return [
        group for group in (plain, plain, plain, tagged, tagged, tagged, ordered, others) if group
    ]


class Draw:
    """Draws the steps of a unit and lets the oracle execute them."""

    def __init__(self, seed: int, skip: frozenset[str], *, bare_metal: bool) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.bare_metal = bare_metal
        self.groups = groups(skip)
        self.stores_exclusive = [row for row in EXCLUSIVE_STORES if row.name not in skip]
        self.scene = scenes.make(self.rng)
        self.machine = self.start()
        self.apart: Counter[str] = Counter()
        # The monitor: an address and size to store to, or nothing that a store may be tried with.
        self.opened: tuple[int, int, int] | None = None
        self.monitor_known = True

    def start(self) -> Machine:
        mem = dict(self.scene.tables)
        for page, data in enumerate(self.scene.data):
            for offset in range(0, PAGE, 8):
                word = int.from_bytes(data[offset : offset + 8], "little")
                mem[BASE + PAGE * page + offset] = word
        allocation = {BASE + GRANULE * i: tag for i, tag in enumerate(self.scene.tags)}
        return Machine({}, mem, allocation)

    # Operands

    def place(self, row: Row) -> int:
        """An address for an instruction, top byte not yet set."""
        rng = self.rng
        size = PAGES * PAGE
        offset = rng.randrange(size + 64)
        if rng.random() < 0.1:
            offset = rng.randint(1, PAGES) * PAGE - rng.randint(1, 40)
        if row.form in STORE_TAGS_FORMS and rng.random() < 0.85:
            offset &= -GRANULE
        if (row.ordered or row.form in READ_MODIFY_WRITE) and rng.random() < 0.5:
            offset &= -2 * row.size
        if row.form in {Form.LOAD_EXCLUSIVE, Form.STORE_EXCLUSIVE} and rng.random() < 0.7:
            offset &= -row.size
        return BASE + offset

    def pointer(self, va: int) -> int:
        """The address with a logical tag and a top byte, in the lower or the upper half."""
        rng, tcr = self.rng, self.machine.regs["TCR_EL1"]
        tag = self.scene.near_tag(va) if rng.random() < 0.65 else rng.getrandbits(4)
        granule = self.granule_of(va)
        if granule is not None and rng.random() < 0.35:
            tag = self.machine.allocation[granule]
        top = rng.getrandbits(4) if rng.random() < 0.3 else 0
        upper = self.scene.stage1 == S1_TABLES and rng.random() < 0.15
        if upper:
            va |= UPPER
            top = rng.choice((15, top))
        canonical = 0xF if upper else 0
        if not bit(tcr, 38 if upper else 37) and rng.random() < 0.7:
            tag = top = canonical
        if bit(tcr, 58 if upper else 57) and rng.random() < 0.2:
            tag = canonical
        return va & ((1 << 56) - 1) | top << 60 | tag << 56

    def granule_of(self, va: int) -> int | None:
        """The granule behind an address, as the tags stand now."""
        page, offset = divmod(va - BASE, PAGE)
        if not 0 <= page < PAGES:
            return None
        return BASE + PAGE * self.scene.places[page] + offset // GRANULE * GRANULE

    def value(self, va: int) -> int:
        """What a register holds: a random word, often one with the tag of the place."""
        word = self.rng.getrandbits(64)
        if self.rng.random() < 0.5:
            word = word & ~(0xF << 56) | self.scene.near_tag(va) << 56
        return word

    def registers(self, row: Row) -> dict[str, int]:
        """Distinct registers, now and then XZR for data."""
        rng, names = self.rng, [f.name for f in row.fields if f.name in {"n", "t", "t2", "s", "m"}]
        pool = range(RETURNED) if self.bare_metal else range(31)
        if row.form is Form.COMPARE_SWAP_PAIR:
            if self.bare_metal:
                return {"n": rng.randrange(2), "s": 2, "t": 4}
            even = rng.sample(range(0, 30, 2), 2)
            base = rng.choice([r for r in range(31) if r & -2 not in even])
            return {"n": base, "s": even[0], "t": even[1]}
        chosen = dict(zip(names, rng.sample(pool, len(names)), strict=True))
        if row.form not in TAG_FORMS | {Form.ARITHMETIC, Form.STORE_EXCLUSIVE}:
            for name in ("t", "s"):
                if name in chosen and rng.random() < 0.03:
                    chosen[name] = XZR
        if row.name == "irg" and rng.random() < 0.3:
            chosen["m"] = XZR
        return chosen

    def compared(self, pointer: int, row: Row) -> int | None:
        """What a compare-and-swap would find."""
        count = 2 if row.form is Form.COMPARE_SWAP_PAIR else 1
        found = self.machine.translate_page(pointer, Access(read=True, write=False))
        size = row.size * count
        if isinstance(found, TranslationAbortError) or pointer % PAGE + size > PAGE:
            return None
        pa = found.pa | pointer % PAGE
        return int.from_bytes(
            bytes(
                self.machine.mem.get(at & -8, 0) >> at % 8 * 8 & 0xFF for at in range(pa, pa + size)
            ),
            "little",
        )

    def draw(self, row: Row, pointer: int | None = None) -> Step:
        """A step with this instruction, on the machine as it stands."""
        rng = self.rng
        operands: dict[str, int] = {}
        for immediate in row.fields:
            if immediate.name in {"imm", "tag"}:
                width = immediate.high - immediate.low + 1
                number = rng.getrandbits(width) if rng.random() < 0.5 else 0
                operands[immediate.name] = (
                    number - ((number >> width - 1) << width) * immediate.signed
                )
        operands |= self.registers(row)
        va = self.place(row)
        target = self.pointer(va) if pointer is None else pointer
        reach = (
            0 if row.index is Index.POST or row.form is Form.ARITHMETIC else operands.get("imm", 0)
        )
        inputs = {operands["n"]: (target - reach * row.scale) & MASK64}
        for name in ("t", "t2", "s", "m"):
            register = operands.get(name, XZR)
            if register != XZR:
                inputs.setdefault(register, self.value(va))
        self.arrange(row, operands, inputs, target, va)
        word = encode(row, operands)
        el, tco = rng.getrandbits(1), rng.random() < 0.07
        return Step(word, str(decode(word)), el, tco, inputs)

    def arrange(
        self, row: Row, operands: dict[str, int], inputs: dict[int, int], target: int, va: int
    ) -> None:
        """Make interesting operands likelier."""
        rng, tag = self.rng, self.scene.near_tag(va)
        if row.form is Form.STORE_TAGS and rng.random() < 0.5:
            inputs[operands["t"]] = tag * 0x1111_1111_1111_1111
        if row.form is Form.STORE_ZERO_TAGS and rng.random() < 0.6:
            inputs[operands["t"]] = inputs[operands["t"]] & ~0xF | tag
        if row.name in {"subp", "subps"} and rng.random() < 0.3:
            inputs[operands["m"]] = target ^ rng.getrandbits(4) << 56 ^ rng.getrandbits(3)
        if row.form is Form.COMPARE_SWAP_PAIR:
            for name in ("s", "t"):
                inputs[operands[name] + 1] = rng.getrandbits(64)
        if row.form in {Form.COMPARE_SWAP, Form.COMPARE_SWAP_PAIR} and operands["s"] != XZR:
            found = self.compared(target, row) if rng.random() < 0.6 else None
            if found is not None:
                width = 8 * row.size
                inputs[operands["s"]] = found & ((1 << width) - 1)
                if row.form is Form.COMPARE_SWAP_PAIR:
                    inputs[operands["s"] + 1] = found >> width

    # Steps

    def next_step(self) -> Step:
        # At once: what a step in between does to the monitor is up to an implementation.
        if self.opened is not None and self.stores_exclusive:
            pointer, size, el = self.opened
            row = self.rng.choice([row for row in self.stores_exclusive if row.size == size])
            step_ = self.draw(row, pointer)
            step_.el = el
            return step_
        if (
            self.monitor_known
            and self.opened is None
            and self.rng.random() < 0.01
            and self.stores_exclusive
        ):
            return self.draw(self.rng.choice(self.stores_exclusive))
        return self.draw(self.rng.choice(self.rng.choice(self.groups)))

    def execute(self, drawn: Step) -> None:
        """Let the oracle execute a step, and keep what it says."""
        machine = self.machine
        machine.el, machine.tco = drawn.el, drawn.tco
        for register, value in drawn.inputs.items():
            machine.x[register] = value
        if self.bare_metal:
            machine.exclusive = None  # the target's exception returns clear the monitor
        drawn.taken = step(machine, drawn.word)
        insn = decode(drawn.word)
        assert insn is not None
        drawn.outputs = {register: machine.x[register] for register in drawn.inputs}
        drawn.nzcv = machine.nzcv if insn.row.name == "subps" else None
        drawn.rgsr = machine.regs["RGSR_EL1"]
        drawn.tfsr, drawn.tfsre0 = machine.regs["TFSR_EL1"], machine.regs["TFSRE0_EL1"]
        drawn.apart = step_class(insn, drawn.taken, machine.remark)
        self.follow_monitor(insn.row, drawn)

    def follow_monitor(self, row: Row, drawn: Step) -> None:
        if row.form is Form.LOAD_EXCLUSIVE:
            base = next(iter(drawn.inputs))
            completed = drawn.taken is None
            self.opened = (drawn.inputs[base], row.size, drawn.el) if completed else None
            self.monitor_known = completed
        elif row.form is Form.STORE_EXCLUSIVE:
            self.opened = None
            self.monitor_known = drawn.taken is None

    def differs_from_target(self, drawn: Step) -> bool:
        """Whether QEMU would end in another state, so that it must not see a step."""
        insn = decode(drawn.word)
        sctlr = self.machine.regs["SCTLR_EL1"]
        asymmetric = bits(sctlr, *((41, 40) if drawn.el else (39, 38))) == 3
        return insn is not None and insn.row.name == "dc zva" and asymmetric

    def unit(self, count: int) -> Unit:
        """A unit of `count` steps."""
        blocks: list[tuple[Registers, list[Step]]] = []
        done = 0
        while done < count:
            regs = scenes.configuration(self.rng, self.scene)
            self.machine.configure(dict(regs))
            block = []
            for _ in range(min(STEPS_PER_CONFIGURATION, count - done)):
                done += 1
                drawn = self.next_step()
                if self.bare_metal and self.differs_from_target(drawn):
                    self.apart["Q1"] += 1
                    continue
                self.execute(drawn)
                if drawn.apart is not None:
                    self.apart[drawn.apart] += 1
                block.append(drawn)
            blocks.append((regs, block))
        return Unit(self.seed, self.scene, blocks, self.machine, self.apart)
