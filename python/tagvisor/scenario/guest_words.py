"""The commands of the VMM and its guest, read from their words.

Models ``vm``, ``slot``, ``destroy``, ``dirtylog``, ``copytags`` and the operations ``g OP``.

Invariant: as the parser's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tagvisor.scenario import commands as cmd

if TYPE_CHECKING:
    from tagvisor.scenario.commands import Command
    from tagvisor.scenario.words import Words

__all__ = ["copytags", "create_vm", "destroy", "dirtylog", "guest", "slot"]

PAGE_SIZE = 4096
GRANULES_PER_PAGE = 256
BUFFER_PAGES = 64
BUFFER_BYTES = BUFFER_PAGES * GRANULES_PER_PAGE
UNWRITTEN = 0xEE  # what the buffer is filled with, so that untouched bytes show
PARTIAL = 7  # what the readable bytes of a `partial` buffer hold
MAX_U32 = (1 << 32) - 1

REGISTERS = ("sctlr", "gmid", "pfr1", "gcr")
OPS = (
    *("ldg", "stg", "st2g", "stzg", "ld", "st", "gva", "gzva", "zva"),
    *("ldgm", "stgm", "ldgpage", "stgpage", "irg", "tlbi", "cigvac", "ivac", "igvac"),
    *REGISTERS,
)


def create_vm(w: Words) -> Command:
    """``vm [mte] [late] [el1_32]``."""
    options = list(w.rest())
    for option in options:
        if option not in {"mte", "late", "el1_32"}:
            w.fail(f"no such option: {option!r}")
    if "el1_32" in options and "mte" not in options:
        w.fail("a 32-bit guest is not modelled yet", "el1_32 with mte, which KVM refuses")
    return cmd.CreateVm(w.line, w.text, "mte" in options, "late" in options, "el1_32" in options)


def destroy(w: Words) -> Command:
    """``destroy``."""
    return cmd.Destroy(w.line, w.text)


def dirtylog(w: Words) -> Command:
    """``dirtylog ID``."""
    return cmd.DirtyLog(w.line, w.text, w.dec("ID", high=MAX_U32))


def slot(w: Words) -> Command:
    """``slot ID IPA NAME P N [FLAGS]``."""
    number, ipa, name = w.dec("ID", high=MAX_U32), w.dec("IPA"), w.name("NAME")
    page, pages, flags = w.dec("P"), w.dec("N"), w.dec("FLAGS", high=MAX_U32, default=0)
    return cmd.Slot(w.line, w.text, number, ipa, name, page, pages, flags)


def copytags(w: Words) -> Command:
    """``copytags from|to IPA N [...]``, options from left to right."""
    direction = w.word("from|to")
    if direction not in {"from", "to"}:
        w.fail(f"direction {direction!r}", "from or to")
    ipa = w.dec("IPA")
    length = w.dec("N", high=BUFFER_PAGES) * PAGE_SIZE
    flags, reserved = int(direction == "from"), 0
    content = bytes([UNWRITTEN]) * BUFFER_BYTES
    other: bytes | None = None
    for option in w.rest():
        key, equals, value = option.partition("=")
        match key + equals:
            case "len=":
                length = w.as_dec("len", value)
            case "flags=":
                flags = w.as_dec("flags", value)
            case "rsvd=":
                reserved = w.as_dec("rsvd", value)
            case "raw=":
                content = bytes([w.as_hex("raw", value, high=0xFF)]) * BUFFER_BYTES
            case "partial=":
                other = bytes([PARTIAL]) * w.as_dec("partial", value, high=PAGE_SIZE)
            case "badaddr":
                other = b""
            case "seq":
                content = bytes(k % 16 for k in range(BUFFER_BYTES))
            case _:
                content = bytes([w.as_tag("option", option)]) * BUFFER_BYTES
    buffer, shown = (content, None) if other is None else (other, content)
    return cmd.CopyTags(w.line, w.text, ipa, length, flags, reserved, buffer, shown)


def guest(w: Words) -> Command:
    """``g OP ...``."""
    op = w.word("OP")
    if op not in OPS:
        list(w.rest())  # the real interpreter looks no further
        return cmd.Guest(w.line, w.text, "bad", 0)
    if op in REGISTERS or op == "tlbi":
        return cmd.Guest(w.line, w.text, op, 0)
    address = w.dec("ADDR")
    operand = step = 0
    match op:
        case "stg" | "st2g" | "stzg" | "gva" | "gzva":
            operand = w.tag("TAG")
        case "ld":
            address |= w.tag("TAG", default=0) << 56
        case "st":
            operand = w.hex("VALUE")
            address |= w.tag("TAG", default=0) << 56
        case "stgm":
            operand = w.hex("BITS")
        case "stgpage":
            operand, step = w.tag("FIRST"), w.dec("STEP")
        case _:
            pass
    return cmd.Guest(w.line, w.text, op, address, operand, step % 16)
