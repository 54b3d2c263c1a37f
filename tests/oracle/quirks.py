"""Where QEMU 10.0.2 is known to answer otherwise than Arm's pseudocode, as predicates.

A name is what a comparison counts such a row under. Q1, Q2, Q5, R and C1 are those of the recorded
vectors; A, B, C and D were found by comparing them:

* A: FWB = 1, both stages Device, stage 1 the stricter: QEMU gives stage 2's type.
* B: FWB = 0, one stage nGRE or GRE Device and the other Normal: QEMU takes the low nibble of the
  Normal attribute for a Device type: an inner half of 0x4 gives nGnRE, 0x8 under GRE gives nGRE.
* C: FWB = 0, transient Write-Back of stage 1 under Write-Through of stage 2: QEMU gives a
  Write-Through that is not transient.
* C1, D: a 64K level-1 block whose base is inside the output size and whose output is not, at
  stage 2 and at stage 1: QEMU looks at the base only.
* E: DC ZVA on Device memory completes, and so do DC GVA and GZVA without access to tags; by the
  pseudocode it is an Alignment fault.
* R: a reserved MemAttr; Q5: MemAttr 1xxx with FWB = 1.
* Q1: how a tag check fault of DC ZVA is reported; Q2: read or write of an atomic's tag check fault;
  W: its other aborts, which QEMU finds as a read or as a write, whichever it tries first; also
  WnR of a load exclusive's alignment fault, which QEMU takes for a write.
* F: an unaligned access to Device memory, which QEMU lets through unless both stages are off.
* P: a stage-1 table in memory that stage 2 makes Device, with HCR_EL2.PTW: QEMU reports level 0.
* X: not a mistake: a store exclusive without the monitor, at an address that would abort.
"""

from __future__ import annotations

from tests.oracle.attributes import NC
from tests.oracle.insns import Form, Insn
from tests.oracle.machine import TAG_CHECK, UNSPECIFIED, Taken
from tests.oracle.walker import (
    ALIGNMENT,
    DEVICE_ALIGNMENT,
    DEVICE_WALK,
    OFFSET_OUT_OF_RANGE,
    Output,
    TranslationAbortError,
)
from tests.oracle.words import bit, bits


def attribute_class(stage1: int, memattr: int, *, fwb: bool) -> str | None:
    """The class of a combination of a stage-1 attribute byte and a stage-2 MemAttr."""
    stage1 = 0xFF if stage1 == 0xF0 else stage1
    outer, inner, device1 = bits(memattr, 3, 2), bits(memattr, 1, 0), stage1 < 0x10
    if fwb:
        if bit(memattr, 3):
            return "Q5"
        if memattr == 0b0100:
            return "R"
        stricter = device1 and not bit(memattr, 2) and stage1 < inner << 2
        return "A" if stricter else None
    if memattr in {4, 8, 12}:
        return "R"
    if device1 != (outer == 0):
        device, normal = (
            (stage1, {1: NC}.get(inner, 0xF)) if device1 else (inner << 2, stage1 & 0xF)
        )
        return "B" if normal in {4, 8} and normal < device else None
    if device1:
        return None
    halves = ((outer, stage1 >> 4), (inner, stage1 & 0xF))
    return "C" if any(policy == 2 and half in {5, 6, 7} for policy, half in halves) else None


def at_class(found: Output | TranslationAbortError, *, fwb: bool) -> str | None:
    """The class of what an AT found."""
    if isinstance(found, TranslationAbortError):
        if found.remark == OFFSET_OUT_OF_RANGE:
            return "C1" if found.stage2 else "D"
        return "P" if found.remark == DEVICE_WALK else None
    return attribute_class(*found.combined, fwb=fwb) if found.combined else None


READ_MODIFY_WRITE = {Form.ATOMIC, Form.COMPARE_SWAP, Form.COMPARE_SWAP_PAIR}


def step_class(insn: Insn, taken: Taken | None, remark: str | None) -> str | None:
    """The class of an instruction that takes an exception; `remark` is the machine's."""
    if remark in {UNSPECIFIED, DEVICE_WALK}:
        return "X" if remark == UNSPECIFIED else "P"
    status = 0 if taken is None else taken.esr & 0x3F
    if insn.row.form is Form.DC_ZERO:
        return {ALIGNMENT: "E", TAG_CHECK: "Q1"}.get(status)
    if remark == DEVICE_ALIGNMENT:
        return "F"
    if insn.row.form is Form.LOAD_EXCLUSIVE and status == ALIGNMENT:
        return "W"
    if taken is None or insn.row.form not in READ_MODIFY_WRITE:
        return None
    return "Q2" if status == TAG_CHECK else "W"
