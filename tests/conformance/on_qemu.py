"""Units on QEMU, live, through a bare-metal program that executes single instructions and ATs.

The program in `target/` boots at EL2 under `qemu-system-aarch64 -M virt,virtualization=on,mte=on`,
reads a script of 64-bit words from memory, executes it, and writes its answers to a file by
semihosting. Here scripts are written and answers compared. A unit's state is not read back but for
its data and tags in the end.

What QEMU is known to answer otherwise is left out (`oracle.quirks`); so are NZCV and tables. The
invariant: a unit stops counting at its first difference, for the states have parted.
"""

from __future__ import annotations

import os
import shlex
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.conformance import comparison
from tests.conformance.scene import BASE, GRANULES, PAGE, PAGES
from tests.conformance.steps import RETURNED
from tests.oracle.machine import GRANULE, Taken
from tests.oracle.words import MASK64

if TYPE_CHECKING:
    from tests.conformance import steps, walks
    from tests.conformance.comparison import Tally
    from tests.oracle.words import Registers

TARGET = Path(__file__).resolve().parent / "target"
MACHINE = "virt,virtualization=on,mte=on"
SCRIPT, MOST_SCRIPT, MOST_ANSWERS = 0x4100_0000, 47 << 20, 31 << 20
END, WRITE64, READ64, SETREG, GETREG, TLBI, AT, EXEC, LDG, STG = range(10)
ANSWER_WORDS = {READ64: 1, GETREG: 1, AT: 1, EXEC: 16, LDG: 1}
AT_KINDS = ("S1E1R", "S1E1W", "S1E0R", "S1E0W", "S12E1R", "S12E1W", "S12E0R", "S12E0W")
REGISTER_IDS = {
    name: number
    for number, name in enumerate(
        (
            *("HCR_EL2", "VTCR_EL2", "VTTBR_EL2", "SCTLR_EL1", "TCR_EL1", "TTBR0_EL1"),
            *("TTBR1_EL1", "MAIR_EL1", "GCR_EL1", "RGSR_EL1", "TFSR_EL1", "TFSRE0_EL1"),
        )
    )
}
SPSR = (0x3C0, 0x3C5)  # EL0, EL1h; interrupts masked
COMPILE = (
    "-O2 -march=armv8.5-a+memtag -mgeneral-regs-only -mstrict-align -ffreestanding -nostdlib"
    " -static -fno-pic -fno-stack-protector -fno-builtin -mbranch-protection=none"
    " -Wl,--build-id=none"
)


class QemuError(Exception):
    """QEMU or the target program did not do its work."""


class Script:
    """Words for the target, and how many words each answer has."""

    def __init__(self) -> None:
        self.words: list[int] = []
        self.sizes: list[int] = []

    def add(self, op: int, *arguments: int) -> None:
        self.words.append(op)
        self.words += [argument & MASK64 for argument in arguments]
        if op in ANSWER_WORDS:
            self.sizes.append(ANSWER_WORDS[op])

    def registers(self, regs: Registers) -> None:
        for name, value in regs.items():
            self.add(SETREG, REGISTER_IDS[name], value)
        self.add(TLBI)


class Qemu:
    """A QEMU command and the target program, built when this object is made."""

    def __init__(self, command: str, compiler: str = "aarch64-linux-gnu-gcc") -> None:
        self.command = shlex.split(command)
        self.folder = tempfile.TemporaryDirectory(prefix="conformance-")
        self.path = Path(self.folder.name)
        sources = [str(TARGET / "start.S"), str(TARGET / "oracle.c")]
        link = ["-T", str(TARGET / "link.ld"), "-o", str(self.path / "oracle.elf")]
        build = [compiler, *COMPILE.split(), *sources, *link]
        result = subprocess.run(build, capture_output=True, text=True, check=False)
        if result.returncode:
            raise QemuError(f"{compiler} could not build the target: {result.stderr[-400:]}")
        # No modules of another QEMU that is installed.
        self.environment = {"QEMU_MODULE_DIR": self.folder.name} | os.environ

    def run(self, script: Script) -> list[tuple[int, ...]]:
        """The answers to a script, one tuple for each operation that has one."""
        if 8 * len(script.words) > MOST_SCRIPT or 8 * sum(script.sizes) > MOST_ANSWERS:
            raise QemuError("the script is longer than the target has room for")
        words = [*script.words, END]
        (self.path / "ops.bin").write_bytes(struct.pack(f"<{len(words)}Q", *words))
        answers = self.path / "out.bin"
        answers.unlink(missing_ok=True)
        loader = f"loader,file=ops.bin,addr={SCRIPT:#x},force-raw=on"
        arguments = (
            f"-M {MACHINE} -cpu max -m 1024 -display none -nic none -serial none -monitor none"
            f" -semihosting-config enable=on,target=native -kernel oracle.elf -device {loader}"
        )
        result = subprocess.run(
            [*self.command, *arguments.split()],
            cwd=self.path,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        if result.returncode or not answers.exists():
            raise QemuError(f"ended with {result.returncode}: {result.stderr[-400:]}")
        raw = answers.read_bytes()
        if len(raw) != 8 * sum(script.sizes):
            raise QemuError(f"{len(raw) // 8} answer words, {sum(script.sizes)} expected")
        answered, found, at = struct.unpack(f"<{len(raw) // 8}Q", raw), [], 0
        for size in script.sizes:
            found.append(answered[at : at + size])
            at += size
        return found

    def has_tags(self) -> bool:
        """Whether this QEMU keeps a tag for each granule: some old ones share them in a page."""
        script, places = Script(), {0x10 * i * i + 0x1000 * (i % 2): i for i in range(1, 16)}
        for offset, tag in places.items():
            script.add(STG, BASE + offset, tag)
        for offset in places:
            script.add(LDG, BASE + offset)
        return [answer[0] for answer in self.run(script)] == list(places.values())


def sent(step: steps.Step) -> bool:
    """Whether a step is given to QEMU: not those that it is known to answer otherwise."""
    return step.apart is None


def write_steps(script: Script, unit: steps.Unit) -> None:
    """The script of a unit of steps."""
    for pa, word in unit.scene.tables.items():
        script.add(WRITE64, pa, word)
    for page, data in enumerate(unit.scene.data):
        for offset in range(0, PAGE, 8):
            word = int.from_bytes(data[offset : offset + 8], "little")
            script.add(WRITE64, BASE + PAGE * page + offset, word)
    for granule, tag in enumerate(unit.scene.tags):
        script.add(STG, BASE + GRANULE * granule, tag)
    for regs, block in unit.blocks:
        script.registers(regs)
        for step in filter(sent, block):
            x = [step.inputs.get(number, 0) for number in range(6)]
            script.add(EXEC, SPSR[step.el] | step.tco << 25, step.word, *x)
            script.add(GETREG, REGISTER_IDS["RGSR_EL1"])
    for page in range(PAGES):
        for offset in range(0, PAGE, 8):
            script.add(READ64, BASE + PAGE * page + offset)
    for granule in range(PAGES * GRANULES):
        script.add(LDG, BASE + GRANULE * granule)
    for pa in unit.scene.tables:
        script.add(WRITE64, pa, 0)


def taken_of(answer: tuple[int, ...]) -> Taken | None:
    """The exception in an EXEC's answer."""
    status, esr1, far1, esr2, far2, hpfar = (answer[i] for i in (0, 6, 7, 9, 10, 11))
    if status == 0:
        return None
    return Taken(1, esr1, far1) if status == 1 else Taken(2, esr2, far2, hpfar)


def step_difference(step: steps.Step, answer: tuple[int, ...], rgsr: int, *, full: bool) -> str:
    """How a step's answer differs from the oracle's, or nothing."""
    taken = taken_of(answer)
    got = [comparison.exception(taken, step.taken, full=full)]
    want = [comparison.exception(step.taken, step.taken, full=full)]
    pairs = [(f"X{n}", answer[1 + n], step.outputs[n]) for n in step.outputs if n < RETURNED]
    pairs += [("TFSR_EL1", answer[14], step.tfsr), ("TFSRE0_EL1", answer[15], step.tfsre0)]
    pairs.append(("RGSR_EL1", rgsr, step.rgsr))
    for name, found, value in pairs:
        if found != value:
            got.append(f"{name} {found:#x}")
            want.append(f"{name} {value:#x}")
    return "" if got == want else f"QEMU {', '.join(got)}; oracle {', '.join(want)}"


def compare_steps(
    unit: steps.Unit, answers: list[tuple[int, ...]], tally: Tally, *, full: bool, keep: int
) -> None:
    """Compare a unit's answers, which stand in the order of its script."""
    reading = iter(answers)
    where = f"steps on QEMU, seed {unit.seed}"
    for regs, block in unit.blocks:
        for step in filter(sent, block):
            tally.counts["qemu_steps"] += 1
            answer, (rgsr,) = next(reading), next(reading)
            difference = step_difference(step, answer, rgsr, full=full)
            if difference:
                text = f"{where}: {comparison.step_text(step)}: {difference}"
                tally.mismatch(f"{text}; {comparison.registers_text(regs)}", keep)
                return
    for kind, state in (("data", unit.machine.mem), ("tags", unit.machine.allocation)):
        for pa in range(BASE, BASE + PAGES * PAGE, 8 if kind == "data" else GRANULE):
            (got,) = next(reading)
            if got != state[pa]:
                tally.mismatch(f"{where}: {kind} at {pa:#x} {got:#x}, oracle {state[pa]:#x}", keep)
                return


def write_walks(script: Script, unit: walks.Unit) -> None:
    """The script of a unit of walks."""
    for pa, word in unit.tables.items():
        script.add(WRITE64, pa, word)
    script.registers(unit.regs)
    for walk in unit.walks:
        script.add(AT, AT_KINDS.index(walk.kind), walk.va)
    for pa in unit.tables:
        script.add(WRITE64, pa, 0)


def compare_walks(
    unit: walks.Unit, answers: list[tuple[int, ...]], tally: Tally, *, keep: int
) -> None:
    """Compare a unit's answers."""
    for walk, (par,) in zip(unit.walks, answers, strict=True):
        tally.counts["qemu_walks"] += 1
        if par == walk.par or walk.apart is not None:
            continue
        text = f"walks on QEMU, seed {unit.seed}: {walk.kind} {walk.va:#x}: QEMU {par:#x}"
        text = f"{text}, oracle {walk.par:#x}; {comparison.registers_text(unit.regs)}"
        tally.mismatch(text, keep)
