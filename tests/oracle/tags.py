"""Arm MTE tag arithmetic: what IRG, ADDG, SUBG, GMI, SUBP and SUBPS compute.

Models the shared functions behind those instructions (ChooseNonExcludedTag, the RGSR_EL1 shift
register) and each instruction as a function of its operands, GCR_EL1 and RGSR_EL1. Registers are
unsigned 64-bit integers. Whether tag access is enabled (SCTLR_EL1.ATA and its relatives) is decided
by the caller and passed as `enabled`; when it is not, a generated tag is 0.

Leaves out: GCR_EL1.RRND = 1 (an implementation may choose any tag it likes there, so there is
nothing to compare), tag storage, tag checks, and operand encoding such as SP against XZR.
"""

MASK64 = (1 << 64) - 1
TAG_SHIFT = 56
TAG_MASK = 0xF << TAG_SHIFT
ALL_EXCLUDED = 0xFFFF

# RGSR_EL1
RGSR_TAG_MASK = 0xF
RGSR_SEED_SHIFT = 8
RGSR_SEED_MASK = 0xFFFF << RGSR_SEED_SHIFT

# GCR_EL1
GCR_EXCLUDE_MASK = 0xFFFF
GCR_RRND = 1 << 16

# The two ranges of an ADDG or SUBG immediate.
TAG_OFFSETS = range(16)
BYTE_OFFSETS = range(0, 1024, 16)


def logical_tag(pointer: int) -> int:
    """The tag a pointer carries: bits 59:56."""
    return (pointer & TAG_MASK) >> TAG_SHIFT


def with_tag(pointer: int, tag: int) -> int:
    """The pointer with its bits 59:56 replaced."""
    return (pointer & ~TAG_MASK & MASK64) | (tag << TAG_SHIFT)


def is_excluded(tag: int, exclude: int) -> bool:
    """Whether a 16-bit exclusion mask has the tag's bit set."""
    return (exclude >> tag) & 1 == 1


def choose_non_excluded_tag(start: int, offset: int, exclude: int) -> int:
    """Step `offset` allowed tags on from `start`, wrapping, never resting on an excluded tag.

    With offset 0 an excluded start moves to the next allowed tag. If all 16 tags are excluded the
    answer is 0.
    """
    if exclude & ALL_EXCLUDED == ALL_EXCLUDED:
        return 0
    tag = start & 0xF
    if offset == 0:
        while is_excluded(tag, exclude):
            tag = (tag + 1) % 16
    for _ in range(offset):
        tag = (tag + 1) % 16
        while is_excluded(tag, exclude):
            tag = (tag + 1) % 16
    return tag


def next_random_tag_bit(rgsr: int) -> tuple[int, int]:
    """One step of the shift register in RGSR_EL1.SEED: (the new bit, RGSR_EL1 afterwards)."""
    seed = (rgsr & RGSR_SEED_MASK) >> RGSR_SEED_SHIFT
    top = ((seed >> 5) ^ (seed >> 3) ^ (seed >> 2) ^ seed) & 1
    seed = (top << 15) | (seed >> 1)
    return top, (rgsr & ~RGSR_SEED_MASK & MASK64) | (seed << RGSR_SEED_SHIFT)


def next_random_tag(rgsr: int) -> tuple[int, int]:
    """Four steps, the first giving bit 0: (the offset drawn, RGSR_EL1 afterwards)."""
    tag = 0
    for bit in range(4):
        value, rgsr = next_random_tag_bit(rgsr)
        tag |= value << bit
    return tag, rgsr


def irg(xn: int, xm: int, gcr: int, rgsr: int, *, enabled: bool = True) -> tuple[int, int]:
    """IRG Xd, Xn, Xm with RRND = 0: (Xd, RGSR_EL1 afterwards). XZR as Xm is 0."""
    if not enabled:
        return with_tag(xn, 0), rgsr
    if gcr & GCR_RRND:
        raise NotImplementedError("GCR_EL1.RRND = 1 leaves the choice to the implementation")
    exclude = (xm | gcr) & GCR_EXCLUDE_MASK
    start = rgsr & RGSR_TAG_MASK
    offset, rgsr = next_random_tag(rgsr)
    tag = choose_non_excluded_tag(start, offset, exclude)
    return with_tag(xn, tag), (rgsr & ~RGSR_TAG_MASK & MASK64) | tag


def _check_immediates(byte_offset: int, tag_offset: int) -> None:
    if byte_offset not in BYTE_OFFSETS:
        raise ValueError(byte_offset)
    if tag_offset not in TAG_OFFSETS:
        raise ValueError(tag_offset)


def _offset_tag(xn: int, tag_offset: int, gcr: int, *, enabled: bool) -> int:
    if not enabled:
        return 0
    return choose_non_excluded_tag(logical_tag(xn), tag_offset, gcr & GCR_EXCLUDE_MASK)


def addg(xn: int, byte_offset: int, tag_offset: int, gcr: int, *, enabled: bool = True) -> int:
    """ADDG Xd, Xn, #byte_offset, #tag_offset."""
    _check_immediates(byte_offset, tag_offset)
    tag = _offset_tag(xn, tag_offset, gcr, enabled=enabled)
    return with_tag((xn + byte_offset) & MASK64, tag)


def subg(xn: int, byte_offset: int, tag_offset: int, gcr: int, *, enabled: bool = True) -> int:
    """SUBG Xd, Xn, #byte_offset, #tag_offset: the address goes down, the tag still goes up."""
    _check_immediates(byte_offset, tag_offset)
    tag = _offset_tag(xn, tag_offset, gcr, enabled=enabled)
    return with_tag((xn - byte_offset) & MASK64, tag)


def gmi(xn: int, xm: int) -> int:
    """GMI Xd, Xn, Xm: the exclusion mask Xm with the tag of Xn added."""
    return (xm | (1 << logical_tag(xn))) & MASK64


def signed_address(pointer: int) -> int:
    """Bits 55:0 of a pointer read as a signed number."""
    address = pointer & ((1 << 56) - 1)
    return address - (1 << 56) if address >> 55 else address


def subp(xn: int, xm: int) -> int:
    """SUBP Xd, Xn, Xm: the difference of the two addresses, tags and top bytes ignored."""
    return (signed_address(xn) - signed_address(xm)) & MASK64


def subps(xn: int, xm: int) -> tuple[int, int]:
    """SUBPS Xd, Xn, Xm: (Xd, NZCV with N as bit 3), as comparing the addresses sets it."""
    left, right = signed_address(xn), signed_address(xm)
    difference = left - right
    result = difference & MASK64
    negative = result >> 63
    zero = int(result == 0)
    carry = int((left & MASK64) >= (right & MASK64))
    overflow = int(not -(1 << 63) <= difference < (1 << 63))
    return result, (negative << 3) | (zero << 2) | (carry << 1) | overflow
