"""A virtual CPU and its instructions.

Pointers are plain ints with the logical tag in bits 59:56, as registers hold them. The register
forms (``irg``, ``addg``, ``subg``, ``gmi``, ``subp``) touch no memory; the others go through stage
2, fault pages in, and check tags as the architecture does.

An access that faults in the guest raises :class:`tagvisor.GuestException`; one that leaves
``KVM_RUN`` raises :class:`tagvisor.GuestExit`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tagvisor import _check
from tagvisor.errors import LinuxError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tagvisor.vm import Vm

__all__ = ["Vcpu"]

_U64 = (1 << 64) - 1
_ACCESS_SIZES = (1, 2, 4, 8)


def _tag_of(pointer: int) -> int:
    return (pointer >> 56) & 15


class Vcpu:
    """A virtual CPU. Made by :meth:`tagvisor.Vm.vcpu`."""

    __slots__ = ("_machine", "index", "vm")

    vm: Vm
    """The VM it belongs to."""
    index: int
    """Its index there, from 0."""

    def __init__(self, vm: Vm, index: int) -> None:
        self.vm = vm
        self.index = index
        self._machine = vm.machine

    def __repr__(self) -> str:
        return f"<Vcpu {self.index} of {self.vm!r}>"

    def ids(self) -> tuple[int, int]:
        """The VM's number and its own index, as the native module names it.

        Raises:
            LinuxError: ``EBADF``, the VM has been closed.
        """
        if not self.vm.alive:
            raise LinuxError("EBADF", "ioctl(KVM_RUN)")
        return self.vm.id, self.index

    def irg(self, xn: int, exclude: int = 0) -> int:
        """``IRG``: the pointer ``xn`` with a random logical tag.

        Args:
            xn: A pointer.
            exclude: Mask of tags not to be chosen, bit *i* for tag *i*, besides those of
                ``GCR_EL1.Exclude``. With all sixteen excluded the tag is 0.
        """
        pointer, mask = _pointer("xn", xn), _check.integer("exclude", exclude, 0, 0xFFFF)
        return self._machine.guest_irg(*self.ids(), pointer, mask)

    def addg(self, xn: int, imm: int, tag_imm: int) -> int:
        """``ADDG``: add to the address and, over the tags not excluded, to the tag.

        Args:
            xn: A pointer.
            imm: Bytes to add: a multiple of 16, at most 1008.
            tag_imm: How many steps to add to the tag, 0 to 15.
        """
        return self._machine.guest_addg(*self.ids(), _pointer("xn", xn), *_offsets(imm, tag_imm))

    def subg(self, xn: int, imm: int, tag_imm: int) -> int:
        """``SUBG``: as :meth:`addg`, but subtract from the address."""
        return self._machine.guest_subg(*self.ids(), _pointer("xn", xn), *_offsets(imm, tag_imm))

    def gmi(self, xn: int, mask: int) -> int:
        """``GMI``: ``mask`` with the bit of the logical tag of ``xn`` set, for :meth:`irg`."""
        return self._machine.guest_gmi(*self.ids(), _pointer("xn", xn), _pointer("mask", mask))

    def subp(self, a: int, b: int) -> int:
        """``SUBP``: the difference of two addresses without their top bytes, modulo 2**64."""
        return self._machine.guest_subp(*self.ids(), _pointer("a", a), _pointer("b", b))

    def ldg(self, p: int) -> int:
        """``LDG``: the allocation tag of the granule at ``p``; 0 where memory is not tagged."""
        return self._machine.guest_ldg(*self.ids(), _pointer("p", p))

    def stg(self, p: int, tag: int | None = None) -> None:
        """``STG``: set the allocation tag of the granule at ``p``.

        Args:
            p: A pointer, a multiple of 16.
            tag: The tag, 0 to 15; the pointer's own by default.
        """
        self._machine.guest_stg(*self.ids(), *_pointer_and_tag(p, tag))

    def st2g(self, p: int, tag: int | None = None) -> None:
        """``ST2G``: as :meth:`stg`, for two granules."""
        self._machine.guest_st2g(*self.ids(), *_pointer_and_tag(p, tag))

    def stzg(self, p: int, tag: int | None = None) -> None:
        """``STZG``: as :meth:`stg`, and zero the granule's data."""
        self._machine.guest_stzg(*self.ids(), *_pointer_and_tag(p, tag))

    def ldgm(self, p: int) -> int:
        """``LDGM``: the 16 tags of the 256-byte block at ``p``, granule 0 in the low four bits."""
        return self._machine.guest_ldgm(*self.ids(), _pointer("p", p))

    def stgm(self, p: int, bits: int) -> None:
        """``STGM``: set the 16 tags of the 256-byte block at ``p``, laid out as :meth:`ldgm`'s."""
        self._machine.guest_stgm(*self.ids(), _pointer("p", p), _pointer("bits", bits))

    def dc_gva(self, p: int, tag: int | None = None) -> None:
        """``DC GVA``: set the tags of the 64-byte block at ``p``; ``tag`` as for :meth:`stg`."""
        self._machine.guest_dc_gva(*self.ids(), *_pointer_and_tag(p, tag))

    def dc_gzva(self, p: int, tag: int | None = None) -> None:
        """``DC GZVA``: as :meth:`dc_gva`, and zero the block's data."""
        self._machine.guest_dc_gzva(*self.ids(), *_pointer_and_tag(p, tag))

    def dc_zva(self, p: int) -> None:
        """``DC ZVA``: zero the data of the 64-byte block at ``p``, tags checked as a store."""
        self._machine.guest_dc_zva(*self.ids(), _pointer("p", p))

    def load(self, p: int, size: int = 8) -> int:
        """Load 1, 2, 4 or 8 bytes, little endian, tags checked."""
        _check.choice("size", size, _ACCESS_SIZES)
        return self._machine.guest_load(*self.ids(), _pointer("p", p), size)

    def store(self, p: int, value: int, size: int = 8) -> None:
        """Store 1, 2, 4 or 8 bytes, little endian, tags checked."""
        _check.choice("size", size, _ACCESS_SIZES)
        given = _check.integer("value", value, 0, (1 << 8 * size) - 1)
        self._machine.guest_store(*self.ids(), _pointer("p", p), size, given)

    def mrs(self, register: str) -> int:
        """``MRS`` at EL1.

        Args:
            register: Its architectural name, such as ``GMID_EL1``.

        Raises:
            GuestException: It is UNDEFINED there, as ``GCR_EL1`` in a VM without MTE.
        """
        return self.vm.machine.guest_mrs(*self.ids(), _check.text("register", register))

    def get_reg(self, register: str) -> int:
        """``KVM_GET_ONE_REG`` by the VMM.

        Args:
            register: Its architectural name, such as ``SCTLR_EL1``.

        Raises:
            LinuxError: ``ENOENT``, the VM has no such register.
        """
        return self.vm.machine.vcpu_get_reg(*self.ids(), _check.text("register", register))

    def set_reg(self, register: str, value: int) -> None:
        """``KVM_SET_ONE_REG``. With ``SCTLR_EL1.M`` set the guest's own stage 1 is walked.

        Args:
            register: Its architectural name.
            value: 64 bits.

        Raises:
            LinuxError: ``ENOENT``, the VM has no such register; ``EINVAL``, it cannot change.
        """
        word = _check.integer("value", value, 0, (1 << 64) - 1)
        self.vm.machine.vcpu_set_reg(*self.ids(), _check.text("register", register), word)

    def page_tags(self, p: int) -> npt.NDArray[np.uint8]:
        """256 ``LDG``: the tags of the page ``p`` points into."""
        return self._machine.guest_page_tags(*self.ids(), _pointer("p", p))

    def fill_page(self, p: int, first: int, step: int) -> None:
        """256 ``STG`` over the page ``p`` points into.

        Granule *i* gets ``(first + i * step) % 16``.

        Args:
            p: A pointer into the page.
            first: The first granule's tag, 0 to 15.
            step: From one granule to the next, 0 to 15.
        """
        tag = _check.integer("first", first, 0, 15)
        by = _check.integer("step", step, 0, 15)
        self._machine.guest_fill_page(*self.ids(), _pointer("p", p), tag, by)


def _pointer(argument: str, value: int) -> int:
    return _check.integer(argument, value, 0, _U64)


def _pointer_and_tag(p: int, tag: int | None) -> tuple[int, int]:
    pointer = _pointer("p", p)
    return pointer, _tag_of(pointer) if tag is None else _check.integer("tag", tag, 0, 15)


def _offsets(imm: int, tag_imm: int) -> tuple[int, int]:
    """ADDG and SUBG have six bits for the granules and four for the tag."""
    offset = _check.integer("imm", imm, 0, 1008)
    if offset % 16:
        _check.choice("imm", imm, range(0, 1009, 16))
    return offset, _check.integer("tag_imm", tag_imm, 0, 15)
