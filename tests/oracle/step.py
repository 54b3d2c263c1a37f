"""One instruction at EL0 or EL1, to the registers, memory, tags and syndrome it leaves.

`step` finds the instruction's rule and applies it to a `machine.Machine`. Models the instructions
of `oracle.insns`. Leaves out the traps of SCTLR_EL1.DZE and UCI and of HCR_EL2.TDZ. The invariant:
a step that takes an exception has changed no register, no tag and no data (TFSR_EL1, TFSRE0_EL1
and the flags of descriptors apart).

Choices where the architecture leaves one: DC ZVA reports the first granule that fails; a store
exclusive without the monitor fails before its address is translated, and `Machine.remark` tells
when another implementation might have answered otherwise.
"""

from __future__ import annotations

from tests.oracle import tags as tag_rules
from tests.oracle.insns import XZR, Form, Insn, decode
from tests.oracle.machine import (
    EC_UNKNOWN,
    GRANULE,
    IL,
    PAGE,
    TAG_BLOCK,
    UNSPECIFIED,
    ZERO_BLOCK,
    Machine,
    Piece,
    Taken,
    TakenError,
)
from tests.oracle.walker import ALIGNMENT, Access, TranslationAbortError


def step(machine: Machine, word: int) -> Taken | None:
    """Execute one instruction; the exception it takes, or None."""
    insn = decode(word)
    if insn is None:
        raise ValueError(hex(word))
    machine.remark = None
    try:
        RULES[insn.row.form](machine, insn)
    except TakenError as end:
        return end.taken
    return None


def targets(insn: Insn) -> list[int]:
    """The data registers of a load or store."""
    return [insn.operands[name] for name in ("t", "t2") if name in insn.operands]


def load(machine: Machine, insn: Insn) -> None:
    row, va, registers = insn.row, machine.address(insn), targets(insn)
    pieces = machine.access(insn, va, row.size * len(registers), row.size, "r")
    value, width = machine.read(pieces), 8 * row.size
    machine.write_back(insn)
    for register in registers:
        part = value & ((1 << width) - 1)
        if row.sign and part >> (width - 1):
            part -= 1 << width
        machine.set(register, part if row.wide else part & 0xFFFF_FFFF)
        value >>= width


def store(machine: Machine, insn: Insn) -> None:
    row, va, registers = insn.row, machine.address(insn), targets(insn)
    width, value = 8 * row.size, 0
    for i, register in enumerate(registers):
        value |= (machine.get(register) & ((1 << width) - 1)) << width * i
    pieces = machine.access(insn, va, row.size * len(registers), row.size, "w")
    machine.write(pieces, value)
    machine.write_back(insn)


def load_exclusive(machine: Machine, insn: Insn) -> None:
    size = insn.row.size
    pieces = machine.access(insn, machine.address(insn), size, size, "r")
    machine.exclusive = pieces[0].pa, size
    machine.set(insn.operands["t"], machine.read(pieces))


def store_exclusive(machine: Machine, insn: Insn) -> None:
    size, va = insn.row.size, machine.address(insn)
    access = Access(read=False, write=True, el0=machine.el == 0, strict=va % size != 0)
    marked, machine.exclusive = machine.exclusive, None
    found = machine.translate_page(va, access)
    if isinstance(found, TranslationAbortError):
        passes, sound = marked is not None, False
    else:
        passes, sound = marked == (found.pa | va % PAGE, size), va % size == 0
    if marked is None and not sound:
        machine.remark = UNSPECIFIED
    machine.check_alignment(insn, va, size, size, access)
    if not passes:
        machine.set(insn.operands["s"], 1)
        return
    value = machine.get(insn.operands["t"]) & ((1 << 8 * size) - 1)
    machine.write(machine.access(insn, va, size, size, "w"), value)
    machine.set(insn.operands["s"], 0)


def atomic(machine: Machine, insn: Insn) -> None:
    """LDADD and its kind: a tag check fault is that of a read, and so synchronous if TCF is 3."""
    size, mask = insn.row.size, (1 << 8 * insn.row.size) - 1
    operand = machine.get(insn.operands["s"]) & mask
    pieces = machine.access(insn, machine.address(insn), size, size, "rw")
    old = machine.read(pieces)
    match insn.row.name.removeprefix("ld")[:3]:
        case "add":
            new = old + operand
        case "clr":
            new = old & ~operand
        case "eor":
            new = old ^ operand
        case "set":
            new = old | operand
        case _:
            new = operand
    machine.write(pieces, new & mask)
    machine.set(insn.operands["t"], old)


def compare_swap(machine: Machine, insn: Insn) -> None:
    """CAS and CASP: a permission to write is needed even if nothing is written."""
    count = 2 if insn.row.form is Form.COMPARE_SWAP_PAIR else 1
    width, size = 8 * insn.row.size, insn.row.size * count
    compare = new = 0
    for i in range(count):
        mask = (1 << width) - 1
        compare |= (machine.get(insn.operands["s"] + i) & mask) << width * i
        new |= (machine.get(insn.operands["t"] + i) & mask) << width * i
    pieces = machine.access(insn, machine.address(insn), size, size, "rw")
    old = machine.read(pieces)
    if old == compare:
        machine.write(pieces, new)
    for i in range(count):
        machine.set(insn.operands["s"] + i, old >> width * i & ((1 << width) - 1))


def load_tag(machine: Machine, insn: Insn) -> None:
    va = machine.address(insn)
    access = Access(read=True, write=False, el0=machine.el == 0)
    # FAR_ELx of a fault has the granule's address.
    piece = machine.reach(insn, va - va % GRANULE, GRANULE, access)[0]
    register = insn.operands["t"]
    tag = machine.read_tag(piece, piece.pa)
    machine.set(register, tag_rules.with_tag(machine.get(register), tag))


def store_tag(machine: Machine, insn: Insn) -> None:
    """STG, STZG, ST2G, STZ2G, STGP: not tag checked; Device memory takes the data only."""
    row, va = insn.row, machine.address(insn)
    if va % GRANULE:
        raise machine.data_abort(ALIGNMENT, va, write=True)
    access = Access(read=False, write=True, el0=machine.el == 0)
    pieces = machine.reach(insn, va, GRANULE * row.granules, access)
    if row.form is Form.STORE_TAG_PAIR:
        low, high = (machine.get(register) for register in targets(insn))
        machine.write(pieces, low | high << 64)
        tag = tag_rules.logical_tag(va)
    else:
        tag = tag_rules.logical_tag(machine.get(insn.operands["t"]))
        if row.zero:
            machine.write(pieces, 0)
    machine.write_tags(pieces, tag)
    machine.write_back(insn)


def tag_block(machine: Machine, insn: Insn) -> None:
    """LDGM, STGM, STZGM: the block that an address lies in; UNDEFINED at EL0."""
    if machine.el == 0:
        raise TakenError(Taken(1, EC_UNKNOWN << 26 | IL, 0))
    form, register = insn.row.form, insn.operands["t"]
    block = ZERO_BLOCK if form is Form.STORE_ZERO_TAGS else TAG_BLOCK
    va, loads = machine.address(insn), form is Form.LOAD_TAGS
    va -= va % block
    access = Access(read=loads, write=not loads)
    piece = machine.reach(insn, va, block, access)[0]
    value = machine.get(register)
    if form is Form.STORE_ZERO_TAGS:
        machine.write([piece], 0)
        machine.write_tags([piece], value & 0xF)
        return
    found = 0
    for i in range(TAG_BLOCK // GRANULE):
        pa = piece.pa + GRANULE * i
        if loads:
            found |= machine.read_tag(piece, pa) << 4 * i
        else:
            machine.write_tags([Piece(va, pa, GRANULE, piece.tagged)], value >> 4 * i & 0xF)
    if loads:
        machine.set(register, found)


def dc_zero(machine: Machine, insn: Insn) -> None:
    """DC ZVA is tag checked and zeroes data; DC GVA writes tags; DC GZVA does both, unchecked."""
    pointer, row = machine.get(insn.operands["n"]), insn.row
    # A tag store to Device memory may or may not be refused; without access to tags it is none.
    strict = not (row.tags and machine.tag_access(machine.el))
    access = Access(read=False, write=True, el0=machine.el == 0, strict=strict)
    block = pointer - pointer % ZERO_BLOCK
    pieces = machine.reach(insn, block, ZERO_BLOCK, access, far=pointer)
    if not row.tags:
        machine.check_tags(pieces, block, access)
    if row.zero:
        machine.write(pieces, 0)
    if row.tags:
        machine.write_tags(pieces, tag_rules.logical_tag(pointer))


def arithmetic(machine: Machine, insn: Insn) -> None:
    target, left = insn.operands["t"], machine.get(insn.operands["n"])
    right, gcr = machine.get(insn.operands.get("m", XZR)), machine.regs.get("GCR_EL1", 0)
    enabled = machine.tag_access(machine.el)
    match insn.row.name:
        case "irg":
            rgsr = machine.regs.get("RGSR_EL1", 0)
            value, rgsr = tag_rules.irg(left, right, gcr, rgsr, enabled=enabled)
            machine.regs["RGSR_EL1"] = rgsr
        case "addg":
            value = tag_rules.addg(left, insn.offset, insn.operands["tag"], gcr, enabled=enabled)
        case "subg":
            value = tag_rules.subg(left, insn.offset, insn.operands["tag"], gcr, enabled=enabled)
        case "gmi":
            value = tag_rules.gmi(left, right)
        case "subp":
            value = tag_rules.subp(left, right)
        case _:
            value, machine.nzcv = tag_rules.subps(left, right)
    machine.set(target, value)


def prefetch(machine: Machine, insn: Insn) -> None:
    """A hint: it changes nothing and takes no abort."""


RULES = {
    Form.LOAD: load,
    Form.STORE: store,
    Form.LOAD_EXCLUSIVE: load_exclusive,
    Form.STORE_EXCLUSIVE: store_exclusive,
    Form.ATOMIC: atomic,
    Form.COMPARE_SWAP: compare_swap,
    Form.COMPARE_SWAP_PAIR: compare_swap,
    Form.LOAD_TAG: load_tag,
    Form.STORE_TAG: store_tag,
    Form.STORE_TAG_PAIR: store_tag,
    Form.LOAD_TAGS: tag_block,
    Form.STORE_TAGS: tag_block,
    Form.STORE_ZERO_TAGS: tag_block,
    Form.DC_ZERO: dc_zero,
    Form.ARITHMETIC: arithmetic,
    Form.PREFETCH: prefetch,
}
