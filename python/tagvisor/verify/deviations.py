"""Answers of QEMU 10.0.2 that differ from the architecture's, in rows that do not say so.

The emulator follows Arm's pseudocode. Where QEMU is known not to, this module says what QEMU
answers instead, from the descriptors and registers alone; a recorded answer is set apart only if it
is exactly that. Each class was found by comparing every recorded translation with the pseudocode:

``qemu-device-fwb``
    FWB = 1 and both stages Device: the type is stage 2's. Arm takes the stricter of the two
    (``AArch64.S2ApplyFWBMemAttrs``, ``S2CombineS1Device``).
``qemu-device-nc``
    FWB = 0, one stage nGRE or GRE and the other Normal: QEMU takes the Normal type's inner half for
    a Device type if it looks like a stricter one (0x4 like nGnRE, 0x8 like nGRE). Arm takes the
    Device stage's (``S2CombineS1MemAttrs``).
``qemu-transient``
    FWB = 0, transient Write-Back under stage-2 Write-Through: the transient hint is lost. Arm keeps
    stage 1's hints (``S2CombineS1AttrHints``).
``qemu-block-oa``
    A 64 KiB level-1 block of stage 1 whose base is inside the output size and whose output address
    is not: QEMU looks at the base, Arm at the address (``StageOA``, ``AArch64.OAOutOfRange``).
    For stage 2 the rows themselves are marked C1.
``qemu-zva-device``
    ``DC ZVA`` to Device memory completes, and so do ``DC GVA`` and ``DC GZVA`` without access to
    tags. Arm has an alignment fault
    (``AArch64.S1HasAlignmentFault``, ``AArch64.S2HasAlignmentFault``).
``qemu-ptw-level``
    ``HCR_EL2.PTW`` and a stage-1 table in memory that stage 2 makes Device: the permission fault is
    reported at level 0. Arm has the level of the stage-2 descriptor
    (``AArch64.S2CheckPermissions``).

None of them changes which accesses are tag checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tagvisor.pe import Outcome, Pe
    from tagvisor.walk import Walk, WalkLevel

__all__ = ["of_instruction", "of_translation"]

FWB = 1 << 46
MAIR_TAGGED, MAIR_WRITE_BACK = 0xF0, 0xFF
NGNRE, NGRE, NORMAL = 0x04, 0x08, 0x10
NON_CACHEABLE = 0b0100
GRANULE_64K = {0: 1, 1: 3}  # TG0 and TG1
TG_SHIFT = {0: 14, 1: 30}
OUTPUT_BITS = (32, 36, 40, 42, 44, 48, 52, 52)
DC_ZERO = {0xD50B_7420: "ZVA", 0xD50B_7460: "GVA", 0xD50B_7480: "GZVA"}
ALIGNMENT_FAULT = 0x21
PERMISSION_FAULT = 0x0C
PTW = 1 << 2
PAR_PTW = 1 << 8
ESR_S1PTW = 1 << 7
LEVEL_APART = (
    0x3F << 26 | ESR_S1PTW | 0x3F
)  # class, S1PTW and status; WnR is QEMU's on a table walk
ADDRESS_SIZE_LEVEL_1 = 0x01


def of_translation(pe: Pe, kind: str, va: int, recorded: int) -> str | None:
    """The class of a recorded ``PAR_EL1`` that is QEMU's own answer, or None."""
    walk = pe.walk(va, kind)
    leaves = [_leaf(walk, stage) for stage in (1, 2)]
    if walk.par & 1:
        if _is_block_beyond(pe, walk):
            return "qemu-block-oa"
        ptw = bool(walk.par & PAR_PTW) and _has_ptw_level(pe, walk.par >> 1 & 0x3F)
        return "qemu-ptw-level" if ptw and recorded == walk.par & ~(3 << 1) else None
    one, two = leaves
    if one is None or two is None:
        return None
    attr = pe["MAIR_EL1"] >> 8 * (one.descriptor >> 2 & 7) & 0xFF
    found = _combined(
        MAIR_WRITE_BACK if attr == MAIR_TAGGED else attr,
        two.descriptor >> 2 & 0xF,
        fwb=bool(pe["HCR_EL2"] & FWB),
    )
    if found is None:
        return None
    name, theirs = found
    return name if recorded == walk.par & ~(0xFF << 56) | theirs << 56 else None


def of_instruction(pe: Pe, word: int, ours: Outcome | None, recorded: int | None) -> str | None:
    """The class of an instruction's recorded syndrome (None: it completed) that is QEMU's own."""
    if ours is None:
        return None
    refused = ours.dfsc == ALIGNMENT_FAULT
    if word & ~0x1F in DC_ZERO and refused and recorded is None:
        return "qemu-zva-device"
    ptw = bool(ours.esr & ESR_S1PTW) and _has_ptw_level(pe, ours.dfsc)
    if ptw and recorded is not None and (recorded ^ ours.esr) & LEVEL_APART == ours.dfsc & 3:
        return "qemu-ptw-level"
    return None


def _has_ptw_level(pe: Pe, status: int) -> bool:
    """Whether a fault on a stage-1 table is a permission fault whose level QEMU may drop."""
    return bool(pe["HCR_EL2"] & PTW) and status & ~3 == PERMISSION_FAULT and status & 3 != 0


def _leaf(walk: Walk, stage: int) -> WalkLevel | None:
    """The last descriptor of a stage; of stage 2 those after stage 1's leaf count."""
    last = walk.levels[-1] if walk.levels else None
    if stage == 2:
        return last if last is not None and last.stage == 2 else None
    return next((at for at in reversed(walk.levels) if at.stage == 1), None)


def _combined(attr: int, mem_attr: int, *, fwb: bool) -> tuple[str, int] | None:
    """The memory type that QEMU makes of both stages' where it is not Arm's, and the class."""
    outer, inner = mem_attr >> 2, mem_attr & 3
    device = attr < NORMAL
    if fwb:
        stricter = device and not mem_attr & 4 and attr & 0xC < inner << 2
        return ("qemu-device-fwb", inner << 2) if stricter else None
    if device != (outer == 0):
        arms = attr & 0xC if device else inner << 2
        half = {1: NON_CACHEABLE}.get(inner, 0xF) if device else attr & 0xF
        return ("qemu-device-nc", half) if half in {NGNRE, NGRE} and half < arms else None
    if device:
        return None
    halves = [_half(attr >> 4, outer), _half(attr & 0xF, inner)]
    lost = any(half > NON_CACHEABLE and half < 8 for half in _transient(attr, outer, inner))
    return ("qemu-transient", halves[0] << 4 | halves[1]) if lost else None


def _transient(attr: int, outer: int, inner: int) -> list[int]:
    """The halves of a stage-1 type that are under Write-Through."""
    return [half for half, over in ((attr >> 4, outer), (attr & 0xF, inner)) if over == 2]


def _half(half: int, over: int) -> int:
    """A half of a Normal stage-1 type under a stage-2 one as QEMU has it."""
    if half == NON_CACHEABLE or over <= 1:
        return NON_CACHEABLE
    if over == 2 and half & 0b0100:
        return 0b1000 | half & 3  # Write-Through; a transient hint is lost
    return half


def _is_block_beyond(pe: Pe, walk: Walk) -> bool:
    """A level-1 block of the 64 KiB granule that lies inside the output size only in part."""
    fault, leaf = walk.fault, _leaf(walk, 1)
    upper = walk.va >> 55 & 1
    tcr = pe["TCR_EL1"]
    if fault is None or leaf is None or tcr >> TG_SHIFT[upper] & 3 != GRANULE_64K[upper]:
        return False
    descriptor = leaf.descriptor
    base = descriptor & 0xFFFF_FC00_0000_0000 & ((1 << 48) - 1) | (descriptor >> 12 & 0xF) << 48
    return (
        (fault.status, fault.stage, leaf.level) == (ADDRESS_SIZE_LEVEL_1, 1, 1)
        and descriptor & 3 == 1
        and base >> OUTPUT_BITS[tcr >> 32 & 7] == 0
    )
