"""A machine with tagged memory: registers, both translation stages, tag checks, and its aborts.

What every instruction of `oracle.step` shares. Models the order of checks (alignment of ordered and
atomic accesses, then translation, Device alignment and permission of every page touched, then the
tag of every granule); synchronous, asynchronous and asymmetric tag check faults, PSTATE.TCO, TBI,
TCMA and ATA; which exception level takes what; and what the local exclusive monitor marks.

Leaves out time and other observers, EL2 as the level that executes, PAN and UAO, big-endian data,
and instruction fetches.

Choices where the architecture leaves one: an access that crosses pages checks both first; FAR_ELx
keeps all bits of the pointer; HPFAR_EL2 is written for every exception to EL2; an unaligned atomic
access inside 16 bytes completes on every Normal memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.oracle import tags as tag_rules
from tests.oracle.attributes import ATTR_TAGGED
from tests.oracle.insns import XZR, Form, Index, Insn
from tests.oracle.walker import ALIGNMENT, Access, Output, TranslationAbortError, translate
from tests.oracle.words import MASK64, Memory, Registers, bit, bits

PAGE, GRANULE, ZERO_BLOCK, TAG_BLOCK = 4096, 16, 64, 256
TAG_CHECK = 0x11  # fault status code
EC_UNKNOWN, EC_DATA_ABORT = 0x00, 0x24  # a data abort from a lower level
UNSPECIFIED = "another implementation may rightly answer otherwise"
IL, ISV, WNR, S1PTW = 1 << 25, 1 << 24, 1 << 6, 1 << 7


@dataclass(frozen=True)
class Taken:
    """An exception that was taken, in the target's syndrome registers."""

    taken_to: int
    esr: int
    far: int
    hpfar: int = 0


class TakenError(Exception):
    """Ends an instruction with an exception of the architecture."""

    def __init__(self, taken: Taken) -> None:
        super().__init__(taken)
        self.taken = taken


@dataclass(frozen=True)
class Piece:
    """A part of an access that lies in one page."""

    va: int
    pa: int
    size: int
    tagged: bool


@dataclass
class Machine:
    """Registers, memory by 64-bit words, and tags by granule; a missing word or tag is 0.

    Translation tables lie in `mem` too. `configure` must be called after a change of them or of a
    register.
    """

    regs: Registers = field(default_factory=dict)
    mem: Memory = field(default_factory=dict)
    allocation: dict[int, int] = field(default_factory=dict)
    x: list[int] = field(default_factory=lambda: [0] * 32)
    el: int = 1
    tco: bool = False
    nzcv: int = 0
    exclusive: tuple[int, int] | None = None  # what the monitor marks: PA and size
    remark: str | None = None  # about the last step: UNSPECIFIED or its fault's

    def __post_init__(self) -> None:
        self.configure(self.regs)

    def configure(self, regs: Registers) -> None:
        """Take new system registers."""
        self.regs = regs
        self.translations: dict[tuple[int, Access], Output | TranslationAbortError] = {}
        tcr, vtcr = regs.get("TCR_EL1", 0), regs.get("VTCR_EL2", 0)
        self.updates_tables = bit(tcr, 39) or bit(vtcr, 21)  # HA

    # Registers

    def get(self, register: int) -> int:
        return 0 if register == XZR else self.x[register]

    def set(self, register: int, value: int) -> None:
        if register != XZR:
            self.x[register] = value & MASK64

    def address(self, insn: Insn) -> int:
        """Where the instruction goes; write-back comes later, if nothing goes wrong."""
        offset = 0 if insn.row.index is Index.POST else insn.offset
        return (self.get(insn.operands["n"]) + offset) & MASK64

    def write_back(self, insn: Insn) -> None:
        if insn.row.index is not Index.OFFSET:
            base = insn.operands["n"]
            self.set(base, self.get(base) + insn.offset)

    # Exceptions

    def data_abort(self, status: int, far: int, *, write: bool) -> TakenError:
        """One that EL1 takes."""
        esr = (EC_DATA_ABORT + self.el) << 26 | IL | write * WNR | status
        return TakenError(Taken(1, esr, far))

    def translation_abort(
        self, abort: TranslationAbortError, access: Access, far: int, insn: Insn
    ) -> TakenError:
        write = access.write and not access.read if abort.write is None else abort.write
        self.remark = abort.remark
        if not abort.stage2:
            return self.data_abort(abort.status, far, write=write)
        esr = EC_DATA_ABORT << 26 | IL | abort.walk * S1PTW | write * WNR | abort.status
        if not abort.walk:
            esr |= syndrome(insn)
        return TakenError(Taken(2, esr, far, abort.ipa >> 12 << 4))

    # Translation and tags

    def translate_page(self, va: int, access: Access) -> Output | TranslationAbortError:
        """The walk for the page of an address, remembered while it can have no side effect."""
        tbi = bit(self.regs.get("TCR_EL1", 0), 38 if bit(va, 55) else 37)
        page = (bits(va, 55, 0) if tbi else va) >> 12
        found = self.translations.get((page, access))
        if found is None:
            try:
                found = translate(self.regs, self.mem, page << 12, access)
            except TranslationAbortError as abort:
                found = abort
            if not self.updates_tables:
                self.translations[page, access] = found
        return found

    def reach(
        self, insn: Insn, va: int, size: int, access: Access, far: int | None = None
    ) -> list[Piece]:
        """Translate every page; a fault in the second one reports where that page starts."""
        pieces = []
        far = va if far is None else far
        while size:
            here = min(size, PAGE - va % PAGE)
            found = self.translate_page(va, access)
            if isinstance(found, TranslationAbortError):
                raise self.translation_abort(found, access, far, insn)
            tagged = found.attributes.attr == ATTR_TAGGED
            pieces.append(Piece(va, found.pa | va % PAGE, here, tagged))
            va = (va + here) & MASK64
            far = va
            size -= here
        return pieces

    def tag_access(self, el: int) -> bool:
        """AArch64.AllocationTagAccessIsEnabled."""
        ata = bit(self.regs.get("SCTLR_EL1", 0), 43 if el else 42)
        return ata and bit(self.regs.get("HCR_EL2", 0), 56)

    def is_checked(self, va: int, el: int) -> bool:
        """AArch64.AccessIsTagChecked."""
        tcr, upper = self.regs.get("TCR_EL1", 0), bit(va, 55)
        if self.tco or not self.tag_access(el) or not bit(tcr, 37 + upper):
            return False
        return not (bit(tcr, 57 + upper) and bits(va, 59, 55) in {0b00000, 0b11111})

    def check_tags(self, pieces: list[Piece], pointer: int, access: Access) -> None:
        """Compare the pointer's tag with that of every granule; the first that differs counts."""
        el = 0 if access.el0 else 1
        tcf = bits(self.regs.get("SCTLR_EL1", 0), *((41, 40) if el else (39, 38)))
        if tcf == 0 or not self.is_checked(pointer, el):
            return
        for piece in pieces:
            if not piece.tagged:
                continue
            first = piece.pa - piece.pa % GRANULE
            for granule in range(first, piece.pa + piece.size, GRANULE):
                if self.allocation.get(granule, 0) == tag_rules.logical_tag(pointer):
                    continue
                if tcf == 1 or (tcf == 3 and access.read):
                    start = piece.va - piece.va % GRANULE + granule - first
                    far = pointer if pointer - pointer % GRANULE == start else start
                    raise self.data_abort(TAG_CHECK, far, write=not access.read)
                name = "TFSR_EL1" if el else "TFSRE0_EL1"
                self.regs[name] = self.regs.get(name, 0) | (2 if bit(pointer, 55) else 1)
                return

    def check_alignment(self, insn: Insn, va: int, size: int, unit: int, access: Access) -> None:
        """AArch64.UnalignedAccessFaults with FEAT_LSE2."""
        if va % unit == 0:
            return
        sctlr, in_16_bytes = self.regs.get("SCTLR_EL1", 0), va % 16 + size <= 16
        atomic = insn.row.form in SINGLE_COPY_ATOMIC
        ordered = insn.row.ordered and not bit(sctlr, 6)  # nAA
        if bit(sctlr, 1) or ((atomic or ordered) and not in_16_bytes):
            raise self.data_abort(ALIGNMENT, va, write=not access.read)

    def access(self, insn: Insn, va: int, size: int, unit: int, way: str) -> list[Piece]:
        """All checks of an ordinary access whose natural alignment is `unit`."""
        access = Access(
            read="r" in way,
            write="w" in way,
            el0=self.el == 0 or insn.row.unprivileged,
            strict=va % unit != 0,
        )
        self.check_alignment(insn, va, size, unit, access)
        pieces = self.reach(insn, va, size, access)
        self.check_tags(pieces, va, access)
        return pieces

    # Memory

    def read(self, pieces: list[Piece]) -> int:
        value = done = 0
        for piece in pieces:
            for pa in range(piece.pa, piece.pa + piece.size):
                byte = self.mem.get(pa & -8, 0) >> pa % 8 * 8 & 0xFF
                value |= byte << 8 * done
                done += 1
        return value

    def write(self, pieces: list[Piece], value: int) -> None:
        for piece in pieces:
            for pa in range(piece.pa, piece.pa + piece.size):
                shift = pa % 8 * 8
                word = self.mem.get(pa & -8, 0) & ~(0xFF << shift)
                self.mem[pa & -8] = word | (value & 0xFF) << shift
                value >>= 8

    def write_tags(self, pieces: list[Piece], tag: int) -> None:
        if self.tag_access(self.el):
            for piece in pieces:
                if piece.tagged:
                    for granule in range(piece.pa, piece.pa + piece.size, GRANULE):
                        self.allocation[granule] = tag

    def read_tag(self, piece: Piece, pa: int) -> int:
        return self.allocation.get(pa, 0) if piece.tagged and self.tag_access(self.el) else 0


SINGLE_COPY_ATOMIC = {
    Form.LOAD_EXCLUSIVE,
    Form.STORE_EXCLUSIVE,
    Form.ATOMIC,
    Form.COMPARE_SWAP,
    Form.COMPARE_SWAP_PAIR,
}


def syndrome(insn: Insn) -> int:
    """ISV, SAS, SSE, SRT, SF and AR, which stage-2 faults of single-register forms carry."""
    row = insn.row
    if row.form not in {Form.LOAD, Form.STORE} or "t2" in insn.operands:
        return 0
    if row.index is not Index.OFFSET:
        return 0
    sas = {1: 0, 2: 1, 4: 2, 8: 3}[row.size]
    low = row.wide << 15 | row.ordered << 14
    return ISV | sas << 22 | row.sign << 21 | insn.operands["t"] << 16 | low
