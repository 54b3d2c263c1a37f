"""The encodings of the instructions that the oracle executes, both ways.

A row of the table is one instruction: the bits that are fixed in it, where its operands stand, and
what it does in the terms of `oracle.step`. `encode` puts operands into a row's word and `decode`
finds the row and the operands of a word.

Models loads and stores of one and two general registers (unsigned, unscaled and unprivileged
offsets, pre- and post-indexed), exclusives of one register, acquire and release, compare-and-swap,
the LSE atomics without minimum and maximum, the instructions of FEAT_MTE and FEAT_MTE2, and DC ZVA,
GVA and GZVA. Leaves out register offsets, literals, SIMD, and SP as an operand: register 31 is XZR
here, so a word in which it means SP must not be given.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from tests.oracle.words import bits

XZR = 31


class Form(Enum):
    """What an instruction does; one rule of `oracle.step` each."""

    LOAD = auto()
    STORE = auto()
    LOAD_EXCLUSIVE = auto()
    STORE_EXCLUSIVE = auto()
    ATOMIC = auto()
    COMPARE_SWAP = auto()
    COMPARE_SWAP_PAIR = auto()
    LOAD_TAG = auto()
    STORE_TAG = auto()
    STORE_TAG_PAIR = auto()
    LOAD_TAGS = auto()
    STORE_TAGS = auto()
    STORE_ZERO_TAGS = auto()
    DC_ZERO = auto()
    ARITHMETIC = auto()
    PREFETCH = auto()


class Index(Enum):
    """When the offset is added to the base register; all but OFFSET write the base back."""

    OFFSET = 2
    PRE = 3
    POST = 1


@dataclass(frozen=True)
class Field:
    """Where an operand stands in the word."""

    name: str
    high: int
    low: int
    signed: bool = False


RT, RN, RT2, RS = Field("t", 4, 0), Field("n", 9, 5), Field("t2", 14, 10), Field("s", 20, 16)
RM = Field("m", 20, 16)
IMM12 = Field("imm", 21, 10)
IMM9, IMM7 = Field("imm", 20, 12, signed=True), Field("imm", 21, 15, signed=True)
UIMM6, UIMM4 = Field("imm", 21, 16), Field("tag", 13, 10)


@dataclass(frozen=True)
class Row:
    """One instruction."""

    name: str
    form: Form
    value: int  # the fixed bits
    fields: tuple[Field, ...]
    size: int = 8  # bytes of data for each register
    wide: bool = True  # the register is named X
    sign: bool = False  # a load extends the sign
    scale: int = 1  # of the immediate offset
    index: Index = Index.OFFSET
    unprivileged: bool = False
    ordered: bool = False  # acquire or release
    granules: int = 1  # whose tags are written
    zero: bool = False  # data is zeroed
    tags: bool = True  # tags are written

    @property
    def mask(self) -> int:
        """Which bits are fixed."""
        free = 0
        for field in self.fields:
            free |= (1 << field.high + 1) - (1 << field.low)
        return 0xFFFF_FFFF & ~free


@dataclass(frozen=True)
class Insn:
    """A row with its operands; an immediate is the number in the word, not yet scaled."""

    row: Row
    operands: dict[str, int]

    @property
    def offset(self) -> int:
        """What is added to the base register."""
        return self.operands.get("imm", 0) * self.row.scale

    def __str__(self) -> str:
        shown = " ".join(f"{name}={value}" for name, value in self.operands.items())
        return f"{self.row.name} {shown}"


def single_rows() -> list[Row]:
    """LDR, STR, LDRS, and their unscaled, unprivileged and indexed forms, of every size."""
    rows = [Row("prfm", Form.PREFETCH, 0xF980_0000, (RT, RN, IMM12), scale=8)]
    kinds = [  # log2 of the size, letter, opc, wide
        *((log2, letter, opc, log2 == 3) for log2, letter in enumerate("bhwx") for opc in (0, 1)),
        *((log2, letter, 2, True) for log2, letter in enumerate("bhw")),
        *((log2, letter, 3, False) for log2, letter in enumerate("bh")),
    ]
    for log2, letter, opc, wide in kinds:
        form, stem, sign = Form.LOAD if opc else Form.STORE, "ld" if opc else "st", opc > 1
        name = f"{'s' if sign else ''}{letter}{'64' if sign and wide else ''}"
        opcode, size = log2 << 30 | opc << 22 | 0x3800_0000, 1 << log2
        short = (RT, RN, IMM9)
        rows += [
            Row(f"{stem}r {name}", form, opcode | 1 << 24, (RT, RN, IMM12), size, wide, sign, size),
            Row(f"{stem}ur {name}", form, opcode, short, size, wide, sign),
            Row(
                f"{stem}tr {name}",
                form,
                opcode | 2 << 10,
                short,
                size,
                wide,
                sign,
                unprivileged=True,
            ),
        ]
        rows += [
            Row(
                f"{stem}r {name} {index.name.lower()}",
                form,
                opcode | index.value << 10,
                short,
                size,
                wide,
                sign,
                index=index,
            )
            for index in (Index.PRE, Index.POST)
        ]
    return rows


def pair_rows() -> list[Row]:
    """LDP, STP, LDPSW, STGP, LDNP and STNP."""
    rows = []
    kinds = (  # opc, L, name, form, size, wide, sign
        (0, 0, "stp w", Form.STORE, 4, False, False),
        (0, 1, "ldp w", Form.LOAD, 4, False, False),
        (2, 0, "stp x", Form.STORE, 8, True, False),
        (2, 1, "ldp x", Form.LOAD, 8, True, False),
        (1, 1, "ldpsw", Form.LOAD, 4, True, True),
        (1, 0, "stgp", Form.STORE_TAG_PAIR, 8, True, False),
    )
    for opc, load, name, form, size, wide, sign in kinds:
        scale = 16 if form is Form.STORE_TAG_PAIR else size
        opcode, fields = opc << 30 | load << 22 | 0x2800_0000, (RT, RN, RT2, IMM7)
        for index in Index:
            suffix = "" if index is Index.OFFSET else f" {index.name.lower()}"
            value = opcode | index.value << 23
            rows.append(
                Row(name + suffix, form, value, fields, size, wide, sign, scale, index=index)
            )
        if opc != 1:
            plain = name.replace("p", "np")
            rows.append(Row(plain, form, opcode, fields, size, wide, sign, scale))
    return rows


def ordered_rows() -> list[Row]:
    """Acquire, release, exclusives, compare-and-swap, and the atomics."""
    rows = []
    for log2, letter in enumerate("bhwx"):
        size, wide, top = 1 << log2, log2 == 3, log2 << 30
        for name, form, value, fields, ordered in (
            ("stlr", Form.STORE, 0x089F_FC00, (RT, RN), True),
            ("ldar", Form.LOAD, 0x08DF_FC00, (RT, RN), True),
            ("ldapr", Form.LOAD, 0x38BF_C000, (RT, RN), True),
            ("ldxr", Form.LOAD_EXCLUSIVE, 0x085F_7C00, (RT, RN), False),
            ("ldaxr", Form.LOAD_EXCLUSIVE, 0x085F_FC00, (RT, RN), True),
            ("stxr", Form.STORE_EXCLUSIVE, 0x0800_7C00, (RT, RN, RS), False),
            ("stlxr", Form.STORE_EXCLUSIVE, 0x0800_FC00, (RT, RN, RS), True),
            ("cas", Form.COMPARE_SWAP, 0x08A0_7C00, (RT, RN, RS), False),
            ("casal", Form.COMPARE_SWAP, 0x08E0_FC00, (RT, RN, RS), True),
        ):
            row = Row(f"{name} {letter}", form, value | top, fields, size, wide, ordered=ordered)
            rows.append(row)
        for name, opcode in (("add", 0), ("clr", 1), ("eor", 2), ("set", 3), ("swp", 8)):
            for order, bits_of_order in (("", 0), ("l", 1), ("a", 2), ("al", 3)):
                value = 0x3820_0000 | top | bits_of_order << 22 | opcode << 12
                full = ("" if name == "swp" else "ld") + name + order
                ordered = bits_of_order > 0
                row = Row(
                    f"{full} {letter}",
                    Form.ATOMIC,
                    value,
                    (RT, RN, RS),
                    size,
                    wide,
                    ordered=ordered,
                )
                rows.append(row)
    for letter, size, top in (("w", 4, 0), ("x", 8, 1 << 30)):
        for name, value, ordered in (("casp", 0x0820_7C00, False), ("caspal", 0x0860_FC00, True)):
            fields, form = (RT, RN, RS), Form.COMPARE_SWAP_PAIR
            wide = letter == "x"
            rows.append(
                Row(f"{name} {letter}", form, value | top, fields, size, wide, ordered=ordered)
            )
    return rows


def tag_rows() -> list[Row]:
    """FEAT_MTE, FEAT_MTE2 and the DC forms."""
    rows = [
        Row("ldg", Form.LOAD_TAG, 0xD960_0000, (RT, RN, IMM9), scale=16),
        Row("ldgm", Form.LOAD_TAGS, 0xD9E0_0000, (RT, RN)),
        Row("stgm", Form.STORE_TAGS, 0xD9A0_0000, (RT, RN)),
        Row("stzgm", Form.STORE_ZERO_TAGS, 0xD920_0000, (RT, RN), zero=True),
        Row("dc zva", Form.DC_ZERO, 0xD50B_7420, (Field("n", 4, 0),), zero=True, tags=False),
        Row("dc gva", Form.DC_ZERO, 0xD50B_7460, (Field("n", 4, 0),)),
        Row("dc gzva", Form.DC_ZERO, 0xD50B_7480, (Field("n", 4, 0),), zero=True),
        Row("irg", Form.ARITHMETIC, 0x9AC0_1000, (RT, RN, RM)),
        Row("gmi", Form.ARITHMETIC, 0x9AC0_1400, (RT, RN, RM)),
        Row("subp", Form.ARITHMETIC, 0x9AC0_0000, (RT, RN, RM)),
        Row("subps", Form.ARITHMETIC, 0xBAC0_0000, (RT, RN, RM)),
        Row("addg", Form.ARITHMETIC, 0x9180_0000, (RT, RN, UIMM6, UIMM4), scale=16),
        Row("subg", Form.ARITHMETIC, 0xD180_0000, (RT, RN, UIMM6, UIMM4), scale=16),
    ]
    for name, value, granules, zero in (
        ("stg", 0xD920_0000, 1, False),
        ("stzg", 0xD960_0000, 1, True),
        ("st2g", 0xD9A0_0000, 2, False),
        ("stz2g", 0xD9E0_0000, 2, True),
    ):
        for index in Index:
            suffix = "" if index is Index.OFFSET else f" {index.name.lower()}"
            rows.append(
                Row(
                    name + suffix,
                    Form.STORE_TAG,
                    value | index.value << 10,
                    (RT, RN, IMM9),
                    scale=16,
                    index=index,
                    granules=granules,
                    zero=zero,
                )
            )
    return rows


TABLE = {row.name: row for row in [*single_rows(), *pair_rows(), *ordered_rows(), *tag_rows()]}
# Those with more fixed bits come first: the unprivileged forms of size 3 with opc 2 are PRFM's.
BY_MASK: dict[int, dict[int, Row]] = {}
for _row in sorted(TABLE.values(), key=lambda row: -row.mask.bit_count()):
    BY_MASK.setdefault(_row.mask, {})[_row.value] = _row


def encode(row: Row, operands: dict[str, int]) -> int:
    """The word of an instruction."""
    word = row.value
    for field in row.fields:
        width = field.high - field.low + 1
        word |= (operands[field.name] & ((1 << width) - 1)) << field.low
    return word


def decode(word: int) -> Insn | None:
    """The instruction that a word encodes, or None if the table has none."""
    for mask, rows in BY_MASK.items():
        row = rows.get(word & mask)
        if row is not None:
            operands = {}
            for field in row.fields:
                value = bits(word, field.high, field.low)
                if field.signed and value >> (field.high - field.low):
                    value -= 2 << (field.high - field.low)
                operands[field.name] = value
            return Insn(row, operands)
    return None
