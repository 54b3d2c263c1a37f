"""Memory attributes: a MAIR_EL1 byte, a stage-2 MemAttr, and how the two stages combine.

An attribute is kept as a MAIR byte with its FEAT_XS forms replaced by the plain ones. Leaves out
FEAT_MTE_PERM and HCR_EL2.CD; SCTLR_EL1.C is taken as 1.

Choices where the architecture leaves one: shareability 1 is non-shareable; stage 2 combines the
shareability of the stage-1 descriptor, not its effective value; a reserved MemAttr is
Non-cacheable, and FWB ignores MemAttr[3].
"""

from dataclasses import dataclass, replace

from tests.oracle.words import bit, bits

NON_SHAREABLE, OUTER_SHAREABLE, INNER_SHAREABLE = 0, 2, 3
NC = 0x4  # as one half of a MAIR attribute; the others carry hints
WT, WB, FORCED = 2, 3, 4  # stage-2 policies for one half, as MemAttr has them; FORCED by FWB
ATTR_TAGGED, ATTR_WRITE_BACK, ATTR_NON_CACHEABLE = 0xF0, 0xFF, 0x44


@dataclass(frozen=True)
class Attributes:
    """Memory attributes: `attr` as in a MAIR byte, `sh` as in a descriptor."""

    attr: int
    sh: int

    @property
    def is_device(self) -> bool:
        return self.attr < 0x10


def finish(attributes: Attributes) -> Attributes:
    """Effective shareability: Device and Normal Non-cacheable memory is outer shareable."""
    if attributes.is_device or attributes.attr == ATTR_NON_CACHEABLE:
        return replace(attributes, sh=OUTER_SHAREABLE)
    return replace(attributes, sh=NON_SHAREABLE if attributes.sh == 1 else attributes.sh)


def mair_attribute(mair: int, index: int) -> int:
    """A MAIR_EL1 byte, its FEAT_XS forms replaced by the plain ones."""
    attr = bits(mair, 8 * index + 7, 8 * index)
    if attr < 0x10:
        return attr & 0xC
    return {0x40: ATTR_NON_CACHEABLE, 0xA0: 0xAA}.get(attr, attr)


def combine_half(half: int, policy: int) -> int:
    """One half of a Normal stage-1 attribute under a stage-2 policy; hints are stage 1's."""
    if policy == FORCED:
        return 0xF if half == NC else half | 0x4  # 00RW -> 01RW, 10RW -> 11RW
    if half == NC or policy not in {WT, WB}:
        return NC
    return half & 0xB if policy == WT else half  # 01RW -> 00RW, 11RW -> 10RW


def combine_normal(attr: int, outer: int, inner: int) -> int:
    """Both halves; Tagged memory that stays write-back stays Tagged."""
    plain = ATTR_WRITE_BACK if attr == ATTR_TAGGED else attr
    result = (combine_half(plain >> 4, outer) << 4) | combine_half(plain & 0xF, inner)
    return attr if result == plain else result


def combine_stage2(stage1: Attributes, memattr: int, sh: int, *, fwb: bool) -> Attributes:
    """Stage-1 attributes under a stage-2 MemAttr[3:0] and SH."""
    attr = stage1.attr
    outer, inner = bits(memattr, 3, 2), bits(memattr, 1, 0)
    if not bit(memattr, 2) if fwb else outer == 0:  # Device at stage 2
        attr = min(attr, inner << 2) if stage1.is_device else inner << 2
    elif not fwb:
        attr = attr if stage1.is_device else combine_normal(attr, outer, inner)
    elif inner == 0b10:
        attr = ATTR_WRITE_BACK if stage1.is_device else combine_normal(attr, FORCED, FORCED)
    elif inner != 0b11:
        attr = attr if stage1.is_device else ATTR_NON_CACHEABLE
    widest_first = (OUTER_SHAREABLE, INNER_SHAREABLE, NON_SHAREABLE)
    sh = next((wide for wide in widest_first if wide in {stage1.sh, sh}), NON_SHAREABLE)
    return finish(Attributes(attr, sh))
