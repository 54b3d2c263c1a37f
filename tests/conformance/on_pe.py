"""Units on the emulator under test, `tagvisor.Pe`.

Every step's exception, its registers, NZCV, RGSR_EL1, TFSR_EL1 and TFSRE0_EL1 are compared, and
in the end all data, tags and tables. A unit stops at its first difference, for the states have
parted. An instruction or register that the emulator refuses is a difference too.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from tests.conformance import comparison
from tests.conformance.scene import BASE, GRANULES, PAGE, PAGES
from tests.oracle.machine import GRANULE, Taken
from tests.oracle.words import bit

import tagvisor

if TYPE_CHECKING:
    from tests.conformance import steps, walks
    from tests.conformance.comparison import Tally
    from tests.oracle.words import Memory, Registers


def write_words(pe: tagvisor.Pe, memory: Memory) -> None:
    for pa, word in memory.items():
        pe.write(pa, word.to_bytes(8, "little"))


def set_registers(pe: tagvisor.Pe, regs: Registers) -> None:
    for name, value in regs.items():
        pe[name] = value


def wrong_words(pe: tagvisor.Pe, memory: Memory) -> str:
    """The first words that are not as the oracle has them, or nothing."""
    wrong = []
    for pa, word in memory.items():
        got = int.from_bytes(pe.read(pa, 8), "little")
        if got != word:
            wrong.append(f"{pa:#x}: {got:#x}, oracle {word:#x}")
    return "; ".join(wrong[:4])


def run_step(pe: tagvisor.Pe, step: steps.Step, *, full: bool) -> str:
    """Execute a step; how it differs, or nothing."""
    pe["EL"] = step.el
    pe["TCO"] = step.tco << 25
    for number, value in step.inputs.items():
        pe[f"X{number}"] = value
    outcome = pe.execute(step.word)
    taken = None
    if outcome is not None:
        taken = Taken(outcome.taken_to, outcome.esr, outcome.far, outcome.hpfar)
    if step.apart == "X":
        return ""
    got = [comparison.exception(taken, step.taken, full=full)]
    want = [comparison.exception(step.taken, step.taken, full=full)]
    pairs = [(f"X{number}", value) for number, value in step.outputs.items()]
    pairs += [("TFSR_EL1", step.tfsr), ("TFSRE0_EL1", step.tfsre0), ("RGSR_EL1", step.rgsr)]
    if step.nzcv is not None:
        pairs.append(("NZCV", step.nzcv << 28))
    for name, value in pairs:
        found = pe[name]
        if found != value:
            got.append(f"{name} {found:#x}")
            want.append(f"{name} {value:#x}")
    return "" if got == want else f"got {', '.join(got)}; oracle {', '.join(want)}"


def run_steps(unit: steps.Unit, tally: Tally, *, full: bool, keep: int) -> None:
    """Run a unit of steps."""
    where = f"steps, seed {unit.seed}"
    pe = tagvisor.Pe()
    write_words(pe, unit.scene.tables)
    for page, data in enumerate(unit.scene.data):
        pe.write(BASE + PAGE * page, data)
    for granule, tag in enumerate(unit.scene.tags):
        pe.set_tag(BASE + GRANULE * granule, tag)
    for regs, block in unit.blocks:
        set_registers(pe, regs)
        for step in block:
            tally.counts["steps"] += 1
            try:
                difference = run_step(pe, step, full=full)
            except tagvisor.ArgumentError as error:
                difference = f"refused: {error}"
            if difference:
                text = f"{where}: {comparison.step_text(step)}: {difference}"
                tally.mismatch(f"{text}; {comparison.registers_text(regs)}", keep)
                return
    difference = end_state(pe, unit)
    if difference:
        tally.mismatch(f"{where}: at the end {difference}", keep)


def end_state(pe: tagvisor.Pe, unit: steps.Unit) -> str:
    """How data, tags and tables differ, or nothing."""
    words, tags = unit.machine.mem, unit.machine.allocation
    for page in range(PAGES):
        places = range(BASE + PAGE * page, BASE + PAGE * (page + 1), 8)
        want = b"".join(words[pa].to_bytes(8, "little") for pa in places)
        got = pe.read(BASE + PAGE * page, PAGE)
        if got != want:
            at = next(i for i in range(PAGE) if got[i] != want[i])
            return f"byte {BASE + PAGE * page + at:#x} is {got[at]:#x}, oracle {want[at]:#x}"
    for granule in range(PAGES * GRANULES):
        pa = BASE + GRANULE * granule
        if pe.tag(pa) != tags[pa]:
            return f"tag of {pa:#x} is {pe.tag(pa)}, oracle {tags[pa]}"
    return wrong_words(pe, {pa: words[pa] for pa in unit.scene.tables})


def run_walks(units: list[walks.Unit], tally: Tally, *, keep: int) -> None:
    """Run units of walks, each on a machine of its own: nothing of one can linger in the next."""
    for unit in units:
        try:
            compare_walks(unit, tally, keep)
        except tagvisor.ArgumentError as error:
            tally.mismatch(f"walks, seed {unit.seed}: refused: {error}", keep)


def compare_walks(unit: walks.Unit, tally: Tally, keep: int) -> None:
    pe = tagvisor.Pe()
    write_words(pe, unit.tables)
    set_registers(pe, unit.regs)
    by_kind = defaultdict(list)
    for walk in unit.walks:
        by_kind[walk.kind].append(walk)
    for kind, asked in by_kind.items():
        vas = np.array([walk.va for walk in asked], dtype=np.uint64)
        for walk, par in zip(asked, answers(pe, unit, vas, kind), strict=True):
            tally.counts["walks"] += 1
            if (par ^ walk.par) & counted(walk):
                text = f"walks, seed {unit.seed}: {kind} {walk.va:#x}: got {par:#x}"
                text = f"{text}, oracle {walk.par:#x}; {comparison.registers_text(unit.regs)}"
                tally.mismatch(text, keep)
    difference = wrong_words(pe, unit.after)
    if difference:
        tally.mismatch(f"walks, seed {unit.seed}: afterwards {difference}", keep)


def counted(walk: walks.Walk) -> int:
    """Which bits of PAR_EL1 count: not the memory type that a reserved MemAttr stands for."""
    return ~(0xFF << 56 | 3 << 7) if walk.apart in {"R", "Q5"} else ~0


def answers(pe: tagvisor.Pe, unit: walks.Unit, vas: np.ndarray, kind: str) -> list[int]:
    """PAR_EL1 of each; one by one where a walk may change what the next one reads."""
    if bit(unit.regs["TCR_EL1"], 39) or bit(unit.regs["VTCR_EL2"], 21):
        return [pe.at(int(va), kind) for va in vas]
    return [int(par) for par in pe.walk_many(vas, kind)]
