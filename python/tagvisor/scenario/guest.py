"""The VMM of a scenario and its guest agent.

Models what the recorded systems' VMM does: one VM with one vCPU at a time, memslot 0 of 64 KiB at
0x40000000 for the agent, and one operation of the agent per ``g`` command. The guest runs at EL1
with sync tag checks; its stage 1 is the agent's own table of 1 GiB blocks, which lies in the
memslot: the identity, Tagged, but for an untagged alias of the second GiB. Leaves out the agent's
code: an operation is executed as the one instruction it is.

Invariant: as the host room's, and a guest operation answers as the real VMM prints it: a value, an
exception of the guest, an MMIO access beside the value, or a failed KVM_RUN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tagvisor.errors import GuestException, GuestExit, LinuxError, ScenarioError
from tagvisor.scenario import commands as cmd
from tagvisor.scenario.answers import tag_string

if TYPE_CHECKING:
    from collections.abc import Callable

    from tagvisor import Process, Vcpu, Vm
    from tagvisor.scenario.answers import Keys
    from tagvisor.scenario.commands import GuestCommand
    from tagvisor.scenario.host import HostRoom

__all__ = ["GuestRoom"]

PAGE_SIZE = 4096

AGENT_SLOT = 0
AGENT_IPA = 0x4000_0000
AGENT_PAGES = 16
AGENT_TABLE = AGENT_IPA + 0x1000
AGENT_CODE = AGENT_IPA + 0x2000

# The agent's stage 1: one table of 1 GiB blocks, 39 bits of address. Attributes of MAIR_EL1: 0 is
# Normal Tagged, 1 is Normal, 2 is Device.
TABLE_ENTRIES = 512
BLOCK = 1 << 10 | 3 << 8 | 1  # AF, inner shareable, a block
TAGGED, UNTAGGED, DEVICE = (attr << 2 for attr in (0, 1, 2))
NEVER_EXECUTE = 3 << 53
STAGE1 = (
    ("MAIR_EL1", 0xFFF0),
    ("TCR_EL1", 0x0022_0080_3519),  # T0SZ 25, EPD1, 40 bits out, TBI0
    ("TTBR0_EL1", AGENT_TABLE),
)
SCTLR_SET = 0x1005  # I, C, M
SCTLR_TAGS = 1 << 43 | 1 << 40  # ATA, TCF sync
SCTLR_TAGS_MASK = 0xF << 40 | 3 << 38  # TCF0, TCF, ATA0, ATA

NO_VCPU = -9
START_FAILED = -1
KVM_EXIT_INTR = 10
KVM_EXIT_MEMORY_FAULT = 39
MMIO_READ = 0x5A5A_5A5A_5A5A_5A5A  # what the VMM answers an MMIO load with
REGISTERS = {
    "sctlr": "SCTLR_EL1",
    "gmid": "GMID_EL1",
    "pfr1": "ID_AA64PFR1_EL1",
    "gcr": "GCR_EL1",
}

DFSC_TAG_CHECK = 0x11
ESR_WNR = 1 << 6
ZVA_BLOCK = 64


class GuestRoom:
    """Everything a scenario's VMM has.

    Args:
        process: The VMM.
        room: Its mappings.
    """

    def __init__(self, process: Process, room: HostRoom) -> None:
        self.process = process
        self.room = room
        self._vm: Vm | None = None
        self._vcpu: Vcpu | None = None
        self._mte = False

    def execute(self, command: GuestCommand) -> Keys:
        """What the command answers."""
        match command:
            case cmd.CreateVm():
                return self._create(command)
            case cmd.Slot():
                return self._slot(command)
            case cmd.CopyTags():
                return self._copy_tags(command)
            case cmd.DirtyLog():
                return self._dirty_log(command)
            case cmd.Guest():
                return self._guest(command)
            case cmd.Destroy():
                self._close()
                return {"ret": 0}
            case _:
                message = f"no way to execute {command!r}"
                raise AssertionError(message)

    def _close(self) -> None:
        if self._vm is not None:
            self._vm.destroy()
        self._vm = self._vcpu = None
        self._mte = False

    def _create(self, command: cmd.CreateVm) -> Keys:
        self._close()
        self._vm = vm = self.process.create_vm()
        # The real VMM prints `ok` for an `enable` it does not try, and `-` for a `late_enable`.
        enable = _tried(vm.enable_mte) if command.mte and not command.late else "ok"
        self._mte = command.mte and not command.late and enable == "ok"
        vcpu = self._create_vcpu(vm, el1_32=command.el1_32)
        late_enable = _tried(vm.enable_mte) if command.late else "-"
        start = NO_VCPU if self._vcpu is None else self._start(vm, self._vcpu)
        return {
            "cap": 1,  # KVM_CHECK_EXTENSION: the modelled host has MTE under every policy
            "enable": enable,
            "vcpu": vcpu,
            "late_enable": late_enable,
            "start": start,
        }

    def _create_vcpu(self, vm: Vm, *, el1_32: bool) -> str:
        if el1_32:
            return "EINVAL"  # kvm_vcpu_init_check_features: no 32-bit EL1 in a VM with MTE
        try:
            self._vcpu = vm.vcpu()
        except LinuxError as refused:
            return refused.errno_name
        return "ok"

    def _start(self, vm: Vm, vcpu: Vcpu) -> int:
        """Fill the agent's memslot, add it and run to the first yield, which fetches its code."""
        machine, mm = self.process.machine, self.process.mm
        try:
            memory = self.process.mmap(AGENT_PAGES)
            for page in range(AGENT_PAGES):
                machine.user_store(mm, memory.address + page * PAGE_SIZE, 8, 0)
            for entry in range(TABLE_ENTRIES):
                at = memory.address + AGENT_TABLE - AGENT_IPA + 8 * entry
                machine.user_store(mm, at, 8, _block(entry))
            vm.add_memslot(AGENT_IPA, memory, slot=AGENT_SLOT)
            for name, value in STAGE1:
                machine.vcpu_set_reg(vm.id, vcpu.index, name, value)
            sctlr = machine.vcpu_get_reg(vm.id, vcpu.index, "SCTLR_EL1") & ~SCTLR_TAGS_MASK
            sctlr |= SCTLR_SET | SCTLR_TAGS
            machine.vcpu_set_reg(vm.id, vcpu.index, "SCTLR_EL1", sctlr)
            vcpu.load(AGENT_CODE)
        except (LinuxError, GuestException, GuestExit):
            return START_FAILED
        return 0

    def _slot(self, command: cmd.Slot) -> Keys:
        if self._vm is None:
            return {"ret": -1, "errno": "EBADF"}
        address = self.room.address(command.name, command.page)
        self.process.machine.set_user_memory_region(
            self._vm.id, command.slot, command.ipa, address, command.pages, command.flags
        )
        return {"ret": 0}

    def _dirty_log(self, command: cmd.DirtyLog) -> Keys:
        if self._vm is None:
            return {"ret": -1, "bitmap": "0"}
        try:
            bitmap = self.process.machine.get_dirty_log(self._vm.id, command.slot)
        except LinuxError:
            return {"ret": -1, "bitmap": "0"}
        return {"ret": 0, "bitmap": f"{int.from_bytes(bitmap[:8], 'little'):x}"}

    def _copy_tags(self, command: cmd.CopyTags) -> Keys:
        if self._vm is None:
            return {"ret": -1, "errno": "EBADF", "tags": ""}
        buffer = np.frombuffer(command.buffer, dtype=np.uint8).copy()
        reserved = (command.reserved, 0)
        try:
            done = self._vm.copy_tags(command.ipa, command.length, command.flags, buffer, reserved)
        except LinuxError as refused:
            return {"ret": -1, "errno": refused.errno_name, "tags": ""}
        shown = buffer.tobytes() if command.shown is None else command.shown
        text = tag_string(shown[:256]) if command.flags == 1 and done > 0 else ""
        return {"ret": done, "errno": "0", "tags": text}

    def _guest(self, command: cmd.Guest) -> Keys:
        if self._vcpu is None:
            problem = "a guest operation without a guest"
            raise ScenarioError(
                self.room.path, command.line, problem, "`vm mte` in an earlier line"
            )
        try:
            return self._operate(self._vcpu, command)
        except GuestException as taken:
            return _exception(command.op, taken)
        except GuestExit as left:
            return _exit(command.op, left)

    def _operate(self, vcpu: Vcpu, command: cmd.Guest) -> Keys:
        pointer, operand = command.address, command.operand
        value = 0
        match command.op:
            case "ldg":
                value = vcpu.ldg(pointer)
            case "stg":
                vcpu.stg(pointer, operand)
            case "st2g":
                vcpu.st2g(pointer, operand)
            case "stzg":
                vcpu.stzg(pointer, operand)
            case "ld":
                value = vcpu.load(pointer)
            case "st":
                vcpu.store(pointer, operand)
            case "gva":
                vcpu.dc_gva(_tagged(pointer, operand))
            case "gzva":
                vcpu.dc_gzva(_tagged(pointer, operand))
            case "zva":
                vcpu.dc_zva(pointer)
            case "ldgm":
                value = vcpu.ldgm(pointer)
            case "stgm":
                vcpu.stgm(pointer, operand)
            case "irg":
                value = vcpu.irg(pointer)
            case "stgpage":
                vcpu.fill_page(pointer, operand, command.step)
            case "ldgpage":
                return {"gtags": tag_string(vcpu.page_tags(pointer))}
            case "sctlr" | "gmid" | "pfr1" | "gcr":
                name = REGISTERS[command.op]
                value = self.process.machine.guest_mrs(vcpu.vm.id, vcpu.index, name)
            case "tlbi":
                pass  # the vCPU's TLB keeps nothing that a guest could see stale
            case "cigvac" | "ivac" | "igvac":
                return {"unsupported": 1}  # cache maintenance: the model has no caches
            case "bad":
                return {"bad": 1}
            case _:
                message = f"no way to execute {command!r}"
                raise AssertionError(message)
        return {"v": f"{value:x}"}


def _block(entry: int) -> int:
    """Entry of the agent's table: identity, but that the third GiB is the second one, untagged."""
    kinds = {0: DEVICE | NEVER_EXECUTE, 2: UNTAGGED}
    output = 1 if entry == 2 else entry
    return output << 30 | BLOCK | kinds.get(entry, TAGGED)


def _tried(call: Callable[[], None]) -> str:
    try:
        call()
    except LinuxError as refused:
        return refused.errno_name
    return "ok"


def _tagged(pointer: int, tag: int) -> int:
    return pointer | tag << 56


def _exception(op: str, taken: GuestException) -> Keys:
    esr, far = taken.esr, taken.far
    if op == "zva" and esr & 0x3F == DFSC_TAG_CHECK:
        # Not what the model says: a tag check fault of DC ZVA is a store's (WnR 1), by the
        # architecture and in `taken.esr`. The recorded answers come from an emulated CPU that
        # reports WnR 0, and a recorded answer compares exactly, so the answer shows what was
        # recorded. This is the only place that knows.
        # It also reports the start of the block where the architecture, and `taken.far`, have the
        # first granule that fails.
        esr &= ~ESR_WNR
        far &= ~(ZVA_BLOCK - 1)
    return {
        "guest_esr": f"{esr:x}",
        "ec": f"{esr >> 26:x}",
        "dfsc": f"{esr & 0x3F:x}",
        "far": f"{far:x}",
    }


def _exit(op: str, left: GuestExit) -> Keys:
    if left.mmio is None:
        failed: Keys = {"run": -1, "kvm_run": left.errno_name or ""}
        if left.memory_fault is not None:
            flags, gpa, size = left.memory_fault
            told = f"flags={flags:x} gpa={gpa:x} size={size:x}"
            return {**failed, "exit": KVM_EXIT_MEMORY_FAULT, "mf": told}
        return {**failed, "exit": KVM_EXIT_INTR if left.errno_name == "EINTR" else 0}
    access = left.mmio
    value = MMIO_READ if op == "ld" else 0
    direction = "W" if access.write else "R"
    return {"v": f"{value:x}", "mmio": f"{direction} {access.ipa:x} len {access.length}"}
