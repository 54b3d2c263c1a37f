"""Virtual machines: KVM's ioctls as a VMM calls them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tagvisor import _check
from tagvisor.errors import ArgumentError
from tagvisor.vcpu import Vcpu

if TYPE_CHECKING:
    import numpy.typing as npt

    from tagvisor import _native
    from tagvisor.process import Mapping, Process

__all__ = ["DIRTY_LOG", "READ_ONLY", "GuestMemfd", "Memslot", "Vm"]

DIRTY_LOG = 1
"""``KVM_MEM_LOG_DIRTY_PAGES``."""
READ_ONLY = 2
"""``KVM_MEM_READONLY``."""

COPY_TAGS_TO_GUEST = 0
"""``KVM_ARM_TAGS_TO_GUEST``."""
COPY_TAGS_FROM_GUEST = 1
"""``KVM_ARM_TAGS_FROM_GUEST``."""

_U64 = (1 << 64) - 1
_U32 = (1 << 32) - 1
_MAX_PAGES = 1 << 31


@dataclass(frozen=True, slots=True)
class GuestMemfd:
    """Guest memory that the VMM need not map. Made by :meth:`Vm.create_guest_memfd`."""

    vm: Vm
    file: int
    """Its number on the machine."""
    pages: int
    """How many 4 KiB pages it has."""


@dataclass(frozen=True, slots=True)
class Memslot:
    """A memslot, as it was asked for."""

    slot: int
    """Its number."""
    ipa: int
    """Guest physical address."""
    address: int
    """Address in the VMM."""
    pages: int
    flags: int
    """:data:`DIRTY_LOG`, :data:`READ_ONLY`, or both."""


class Vm:
    """A virtual machine. Made by :meth:`tagvisor.Process.create_vm`.

    Once it is destroyed every method, and every instruction of its vCPUs, raises
    :class:`tagvisor.LinuxError` with ``EBADF``.
    """

    __slots__ = ("_slots", "alive", "id", "machine", "mte", "process")

    process: Process
    """The VMM."""
    machine: _native.Machine
    """The machine it runs on."""
    id: int
    """Its number there."""
    alive: bool
    """Has the VMM not closed it?"""
    mte: bool
    """Has it ``KVM_CAP_ARM_MTE``?"""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.machine = process.machine
        self.id = self.machine.create_vm(process.mm)
        self.alive = True
        self.mte = False
        self._slots: dict[int, Memslot] = {}

    def __repr__(self) -> str:
        slots = ", ".join(f"{slot}: {known.ipa:#x}" for slot, known in sorted(self._slots.items()))
        return f"<Vm of {self.process.name!r}, memslots {{{slots}}}>"

    def enable_mte(self) -> None:
        """``KVM_ENABLE_CAP(KVM_CAP_ARM_MTE)``.

        Raises:
            LinuxError: ``EINVAL`` once a vCPU exists, or when the host has no MTE to give.
        """
        self.machine.enable_cap_arm_mte(self.id)
        self.mte = True

    def enable_mte_perm(self) -> None:
        """``KVM_ENABLE_CAP(KVM_CAP_ARM_MTE_PERM)``: proposed in January 2025, in no kernel.

        Memory that may not have tags, such as a file's, is no longer refused behind an MTE guest.
        It is mapped ``NoTagAccess`` at stage 2 (``FEAT_MTE_PERM``): data can be accessed unchecked,
        and an access to tags, a checked one too, leaves ``KVM_RUN`` with a
        :class:`tagvisor.GuestExit` whose ``memory_fault`` says where. The profile
        ``mte-perm-series`` has it, or K22 = ``no-tag-access``.

        Raises:
            LinuxError: ``EINVAL`` once a vCPU exists, or where the kernel has no such capability.
        """
        self.machine.enable_cap_arm_mte_perm(self.id)

    def enable_eager_split(self, chunk: int | str = "2 MiB") -> None:
        """``KVM_ENABLE_CAP(KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE)``.

        A huge page is mapped for the guest as one block of 2 MiB, where guest and VMM address are
        aligned alike. When its memslot begins to log writes, the block is split into pages at
        once; without this capability the first write to it breaks it.

        Args:
            chunk: How much is split at a time: 4 KiB, 2 MiB or 1 GiB; 0 for not at all.

        Raises:
            LinuxError: ``EINVAL``: the kernel has no such capability (up to 6.4), no page or block
                has that size, or the VM has memslots.
        """
        self.machine.enable_cap_eager_split(self.id, _check.size("chunk", chunk, zero=True))

    def vcpu(self) -> Vcpu:
        """``KVM_CREATE_VCPU``.

        It runs at EL1 with the MMU on, memory Normal Tagged, the top byte ignored and synchronous
        tag checks. Addresses are IPAs: the guest's stage 1 is the identity map.
        """
        return Vcpu(self, self.machine.create_vcpu(self.id))

    def create_guest_memfd(self, pages: int) -> GuestMemfd:
        """``KVM_CREATE_GUEST_MEMFD``: guest memory that is a file of KVM, not a mapping.

        Args:
            pages: Its size in 4 KiB pages.

        Raises:
            LinuxError: ``EINVAL``, the kernel has none on arm64 (up to 6.17).
        """
        count = _check.integer("pages", pages, 1, _MAX_PAGES)
        return GuestMemfd(self, self.machine.create_guest_memfd(self.id, count), count)

    def add_memslot(
        self,
        ipa: int,
        backing: Mapping | GuestMemfd,
        *,
        first: int = 0,
        pages: int | None = None,
        slot: int | None = None,
        flags: int = 0,
        log_dirty: bool = False,
    ) -> int:
        """``KVM_SET_USER_MEMORY_REGION``: guest physical memory, and what stands behind it.

        Args:
            ipa: Guest physical address, page aligned.
            backing: A mapping of the VMM. The slot refers to its addresses: whatever the VMM maps
                there later stands behind the guest then. Or a ``guest_memfd`` of this VM.
            first: The first page of ``backing``.
            pages: How many; to its end by default.
            slot: The slot's number; the lowest free one by default. An existing slot is changed.
            flags: :data:`DIRTY_LOG`, :data:`READ_ONLY`, or both.
            log_dirty: The same as :data:`DIRTY_LOG` in ``flags``.

        Returns:
            The slot's number.

        Raises:
            LinuxError: KVM refuses: ``EEXIST`` for an overlap, ``EINVAL`` for what an MTE VM may
                not have behind it.
            ArgumentError: ``backing`` belongs to another process.
        """
        if slot is None:
            slot = next(n for n in itertools.count() if n not in self._slots)
        number = _check.integer("slot", slot, 0, _U32)
        start = _check.page_aligned("ipa", ipa, 48)
        known = _check.integer("flags", flags, 0, DIRTY_LOG | READ_ONLY)
        if _check.flag("log_dirty", log_dirty):
            known |= DIRTY_LOG
        if isinstance(backing, GuestMemfd):
            address, count = self._add_guest_memfd(number, start, backing, first, pages, known)
        elif backing.process is not self.process:
            raise ArgumentError("backing", backing, f"a mapping of the VMM, {self.process!r}")
        else:
            address, count = backing.span(first, pages)
            self.machine.set_user_memory_region(self.id, number, start, address, count, known)
        self._slots[number] = Memslot(number, start, address, count, known)
        return number

    def _add_guest_memfd(
        self, slot: int, ipa: int, backing: GuestMemfd, first: int, pages: int | None, flags: int
    ) -> tuple[int, int]:
        """A slot that no mapping of the VMM stands behind; its address there and its length."""
        if backing.vm is not self:
            raise ArgumentError("backing", backing, "a guest_memfd of this very VM")
        start = _check.integer("first", first, 0, backing.pages - 1)
        left = backing.pages - start
        count = left if pages is None else _check.integer("pages", pages, 1, left)
        hole = self.process.mmap(count, prot="")
        hole.munmap()
        self.machine.set_user_memory_region2(
            self.id, slot, ipa, hole.address, count, flags, backing.file, start
        )
        return hole.address, count

    def set_dirty_log(self, slot: int, *, on: bool) -> None:
        """``KVM_SET_USER_MEMORY_REGION`` of an existing slot: log its writes from now on, or not.

        Raises:
            ArgumentError: No such slot.
            LinuxError: KVM refuses.
        """
        known = self._slots.get(_check.integer("slot", slot, 0, _U32))
        if known is None:
            raise ArgumentError("slot", slot, f"one of {sorted(self._slots)}")
        logs = _check.flag("on", on)
        flags = known.flags | DIRTY_LOG if logs else known.flags & ~DIRTY_LOG
        self.machine.set_user_memory_region(
            self.id, slot, known.ipa, known.address, known.pages, flags
        )
        self._slots[slot] = replace(known, flags=flags)

    def dirty_log(self, slot: int) -> npt.NDArray[np.bool_]:
        """``KVM_GET_DIRTY_LOG``: which pages were written since it was asked last.

        Asking clears the log: what the guest writes from then on is seen by the next call.

        Args:
            slot: A slot that logs (``log_dirty``).

        Returns:
            One value a page of the slot.

        Raises:
            LinuxError: ``ENOENT``, no such slot, or it does not log.
        """
        number = _check.integer("slot", slot, 0, _U32)
        bitmap = np.frombuffer(self.machine.get_dirty_log(self.id, number), dtype=np.uint8)
        bits = np.unpackbits(bitmap, bitorder="little").astype(np.bool_)
        return bits[: self._slots[number].pages]

    @property
    def memslots(self) -> tuple[Memslot, ...]:
        """Its memslots, by number."""
        return tuple(known for _, known in sorted(self._slots.items()))

    def remove_memslot(self, slot: int) -> None:
        """``KVM_SET_USER_MEMORY_REGION`` with size 0: the slot and its stage-2 mappings go.

        Raises:
            LinuxError: ``EINVAL``, no such slot.
        """
        number = _check.integer("slot", slot, 0, _U32)
        known = self._slots.get(number)
        ipa = 0 if known is None else known.ipa
        self.machine.set_user_memory_region(self.id, number, ipa, 0, 0, 0)
        self._slots.pop(number, None)

    def copy_tags(
        self,
        ipa: int,
        length: int,
        flags: int,
        buf: npt.NDArray[np.uint8],
        reserved: tuple[int, int] = (0, 0),
    ) -> int:
        """``KVM_ARM_MTE_COPY_TAGS`` as it is.

        For what :meth:`copy_tags_from` and :meth:`copy_tags_to` do not let through.

        Args:
            ipa: ``guest_ipa``.
            length: Bytes of guest memory.
            flags: :data:`COPY_TAGS_TO_GUEST`, :data:`COPY_TAGS_FROM_GUEST`, or anything else KVM
                shall refuse.
            buf: One byte a granule, changed in place when tags come from the guest. Where it ends,
                the VMM's memory ends: KVM finds ``EFAULT`` there.
            reserved: The two reserved words.

        Returns:
            Bytes of guest memory covered, which may be less than ``length``.

        Raises:
            LinuxError: KVM refuses.
        """
        if not isinstance(buf, np.ndarray) or buf.dtype != np.uint8 or buf.ndim != 1:
            raise ArgumentError("buf", buf, "a one-dimensional numpy array of uint8")
        if not buf.flags.c_contiguous or not buf.flags.writeable:
            raise ArgumentError("buf", buf, "a contiguous and writeable array")
        first, second = reserved
        return self.machine.mte_copy_tags(
            self.id,
            _check.integer("ipa", ipa, 0, _U64),
            _check.integer("length", length, 0, _U64),
            _check.integer("flags", flags, 0, _U64),
            (
                _check.integer("reserved[0]", first, 0, _U64),
                _check.integer("reserved[1]", second, 0, _U64),
            ),
            buf,
        )

    def copy_tags_from(self, ipa: int, pages: int) -> npt.NDArray[np.uint8]:
        """Read the guest's tags, as a VMM does that migrates it.

        Args:
            ipa: Guest physical address, page aligned.
            pages: How many pages.

        Returns:
            ``pages * 256`` tags.

        Raises:
            LinuxError: KVM refuses, or a page of the range has no usable memory behind it.
        """
        count = _check.integer("pages", pages, 1, _MAX_PAGES)
        tags = np.zeros(count * 256, dtype=np.uint8)
        self._copy_all(_check.page_aligned("ipa", ipa, 48), COPY_TAGS_FROM_GUEST, tags)
        return tags

    def copy_tags_to(self, ipa: int, tags: npt.ArrayLike) -> None:
        """Write the guest's tags, as a VMM does that restores it.

        Args:
            ipa: Guest physical address, page aligned.
            tags: A multiple of 256 tags, each 0 to 15.

        Raises:
            LinuxError: KVM refuses, or a page of the range has no usable memory behind it.
        """
        array = _check.tags("tags", tags, 256).copy()
        self._copy_all(_check.page_aligned("ipa", ipa, 48), COPY_TAGS_TO_GUEST, array)

    def _copy_all(self, ipa: int, flags: int, tags: npt.NDArray[np.uint8]) -> None:
        """Call again after a short count, as a VMM must: the next call returns why it was short."""
        done = 0
        while done < tags.size:
            left = tags[done:]
            done += self.copy_tags(ipa + done * 16, left.size * 16, flags, left) // 16

    def destroy(self) -> None:
        """Close the VM: its stage 2 goes, the VMM's memory stays. Its vCPUs cannot run any more."""
        self.machine.destroy_vm(self.id)
        self.alive = False
