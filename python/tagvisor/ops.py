"""Operations as values: what an actor is to do when the explorer says so.

Each function names what the method of the same name does at once; :func:`tagvisor.explore` runs the
operations of several actors in every order of their atomic steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tagvisor import _check
from tagvisor._native import Op
from tagvisor.errors import ArgumentError
from tagvisor.files import File
from tagvisor.process import BACKINGS, same_machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from tagvisor.host import Host
    from tagvisor.process import Backing, Mapping, Page
    from tagvisor.vcpu import Vcpu
    from tagvisor.vm import Vm

__all__ = [
    "Op",
    "copy_tags_from",
    "copy_tags_to",
    "create_vcpu",
    "dontneed",
    "enable_mte",
    "evict",
    "ksm_run",
    "ldg",
    "load",
    "migrate",
    "mmap",
    "mprotect",
    "munmap",
    "peek_tags",
    "poke_tags",
    "stg",
    "store",
    "swapoff",
    "uffd_copy",
    "uffd_move",
    "user_ldg",
    "user_load",
    "user_stg",
    "user_store",
    "zswap_shrink",
]

_ACCESS_SIZES = (1, 2, 4, 8)
_MAX_PAGES = 1 << 16  # of one call; its answer is part of the explorer's state
_U64 = (1 << 64) - 1


def enable_mte(vm: Vm) -> Op:
    """``KVM_ENABLE_CAP(KVM_CAP_ARM_MTE)`` by a thread of the VMM, as :meth:`Vm.enable_mte`."""
    return Op.enable_mte(vm.machine, vm.id)


def create_vcpu(vm: Vm) -> Op:
    """``KVM_CREATE_VCPU`` by a thread of the VMM, as :meth:`Vm.vcpu`."""
    return Op.create_vcpu(vm.machine, vm.id)


def ldg(cpu: Vcpu, p: int) -> Op:
    """The guest's ``LDG`` at pointer ``p``."""
    return Op.guest_ldg(cpu.vm.machine, *cpu.ids(), _check.integer("p", p, 0, _U64))


def stg(cpu: Vcpu, p: int, tag: int | None = None) -> Op:
    """The guest's ``STG`` at pointer ``p``; the tag, 0 to 15, is the pointer's own by default."""
    pointer = _check.integer("p", p, 0, _U64)
    own = (pointer >> 56) & 15
    return Op.guest_stg(
        cpu.vm.machine,
        *cpu.ids(),
        pointer,
        own if tag is None else _check.integer("tag", tag, 0, 15),
    )


def load(cpu: Vcpu, p: int, size: int = 8) -> Op:
    """The guest's load of 1, 2, 4 or 8 bytes at pointer ``p``."""
    pointer = _check.integer("p", p, 0, _U64)
    return Op.guest_load(
        cpu.vm.machine, *cpu.ids(), pointer, _check.choice("size", size, _ACCESS_SIZES)
    )


def store(cpu: Vcpu, p: int, value: int, size: int = 8) -> Op:
    """The guest's store of 1, 2, 4 or 8 bytes at pointer ``p``."""
    pointer = _check.integer("p", p, 0, _U64)
    width = _check.choice("size", size, _ACCESS_SIZES)
    given = _check.integer("value", value, 0, (1 << 8 * width) - 1)
    return Op.guest_store(cpu.vm.machine, *cpu.ids(), pointer, width, given)


def user_ldg(page: Page, granule: int) -> Op:
    """The process's ``LDG`` of a granule, 0 to 255."""
    return Op.user_ldg(page.process.machine, page.process.mm, _granule(page, granule))


def user_stg(page: Page, granule: int, tag: int) -> Op:
    """The process's ``STG`` of a granule, 0 to 255, with a tag, 0 to 15."""
    pointer = _granule(page, granule)
    return Op.user_stg(
        page.process.machine, page.process.mm, pointer, _check.integer("tag", tag, 0, 15)
    )


def user_load(page: Page, offset: int = 0, size: int = 8, tag: int = 0) -> Op:
    """The process's load; arguments as for :meth:`tagvisor.Page.load`."""
    return Op.user_load(
        page.process.machine, page.process.mm, page.pointer(offset, size, tag), size
    )


def user_store(page: Page, value: int, offset: int = 0, size: int = 8, tag: int = 0) -> Op:
    """The process's store; arguments as for :meth:`tagvisor.Page.store`."""
    pointer = page.pointer(offset, size, tag)
    given = _check.integer("value", value, 0, (1 << 8 * size) - 1)
    return Op.user_store(page.process.machine, page.process.mm, pointer, size, given)


def evict(page: Page) -> Op:
    """Reclaim of one page, as :meth:`tagvisor.Host.evict`; the actor is reclaim itself."""
    return Op.evict(page.process.machine, page.process.mm, page.address)


def migrate(page: Page) -> Op:
    """The page moves to another frame, as :meth:`tagvisor.Host.migrate`."""
    return Op.migrate(page.process.machine, page.process.mm, page.address)


def ksm_run(host: Host) -> Op:
    """``ksmd`` scans, as :meth:`tagvisor.Host.ksm_run`."""
    return Op.ksm_run(host.machine)


def dontneed(mapping: Mapping, first: int = 0, pages: int | None = None) -> Op:
    """``madvise(MADV_DONTNEED)``, as :meth:`tagvisor.Mapping.dontneed`."""
    return Op.dontneed(mapping.process.machine, mapping.process.mm, *mapping.span(first, pages))


def munmap(mapping: Mapping) -> Op:
    """``munmap`` of all of a mapping."""
    return Op.munmap(mapping.process.machine, mapping.process.mm, mapping.address, mapping.pages)


def mmap(
    over: Mapping,
    *,
    backing: Backing | File = "anon",
    offset: int = 0,
    shared: bool = False,
    mte: bool = False,
    prot: str = "rw",
) -> Op:
    """``mmap(MAP_FIXED)`` over a mapping, as :meth:`tagvisor.Process.mmap` with ``at``."""
    known: str
    if isinstance(backing, File):
        same_machine("backing", backing, over.process.machine)
        known, file = "file", backing.id
    else:
        known, file = _check.choice("backing", backing, BACKINGS), None
    return Op.mmap_fixed(
        over.process.machine,
        over.process.mm,
        over.address,
        over.pages,
        known,
        _check.flag("shared", shared),
        _check.prot("prot", prot, mte=mte),
        file,
        _check.integer("offset", offset, 0, _U64),
    )


def peek_tags(page: Page, granule: int = 0, count: int = 1) -> Op:
    """``PTRACE_PEEKMTETAGS`` by a debugger: tags of ``count`` granules from ``granule`` on."""
    first = _granule(page, granule)
    many = _check.integer("count", count, 1, 256 - granule)
    return Op.peek_tags(page.process.machine, page.process.mm, first, many)


def poke_tags(page: Page, tags: Sequence[int], granule: int = 0) -> Op:
    """``PTRACE_POKEMTETAGS`` by a debugger: tags, each 0 to 15, from ``granule`` on."""
    first = _granule(page, granule)
    values = [_check.integer("tags", tag, 0, 15) for tag in tags]
    _check.integer("the number of tags", len(values), 1, 256 - granule)
    return Op.poke_tags(page.process.machine, page.process.mm, first, values)


def mprotect(
    mapping: Mapping,
    prot: str = "rw",
    *,
    mte: bool = False,
    first: int = 0,
    pages: int | None = None,
) -> Op:
    """``mprotect``, as :meth:`tagvisor.Mapping.mprotect`."""
    letters = _check.prot("prot", prot, mte=mte)
    return Op.mprotect(
        mapping.process.machine, mapping.process.mm, *mapping.span(first, pages), letters
    )


def copy_tags_from(vm: Vm, ipa: int, pages: int = 1) -> Op:
    """``KVM_ARM_MTE_COPY_TAGS`` from the guest, as :meth:`tagvisor.Vm.copy_tags_from`."""
    start = _check.page_aligned("ipa", ipa, 48)
    return Op.copy_tags_from(
        vm.machine, vm.id, start, _check.integer("pages", pages, 1, _MAX_PAGES)
    )


def copy_tags_to(vm: Vm, ipa: int, tags: npt.ArrayLike) -> Op:
    """``KVM_ARM_MTE_COPY_TAGS`` to the guest, as :meth:`tagvisor.Vm.copy_tags_to`."""
    start = _check.page_aligned("ipa", ipa, 48)
    array = _check.tags("tags", tags, 256)
    if array.size > 256 * _MAX_PAGES:
        raise ArgumentError("tags", f"{array.size} tags", f"at most {_MAX_PAGES} pages of them")
    return Op.copy_tags_to(vm.machine, vm.id, start, array.tobytes())


def uffd_copy(page: Page, data: bytes) -> Op:
    """``UFFDIO_COPY``, as :meth:`tagvisor.Page.uffd_copy`."""
    given = _check.page_data("data", data)
    return Op.uffd_copy(page.process.machine, page.process.mm, page.address, given)


def uffd_move(page: Page, source: Page) -> Op:
    """``UFFDIO_MOVE``, as :meth:`tagvisor.Page.uffd_move`."""
    process = page.process
    if source.process.machine is not process.machine or source.process.mm != process.mm:
        raise ArgumentError("source", source, "a Page of the same process")
    return Op.uffd_move(process.machine, process.mm, page.address, source.address)


def swapoff(host: Host, device: int = 0) -> Op:
    """``swapoff`` of a device, as :meth:`tagvisor.Host.swapoff`."""
    return Op.swapoff(host.machine, _check.integer("device", device, 0, len(host.swaps()) - 1))


def zswap_shrink(host: Host, pages: int = 1) -> Op:
    """Zswap's writeback, as :meth:`tagvisor.Host.zswap_shrink`."""
    return Op.zswap_shrink(host.machine, _check.integer("pages", pages, 1, 1 << 40))


def _granule(page: Page, granule: int) -> int:
    return page.address + 16 * _check.integer("granule", granule, 0, 255)
