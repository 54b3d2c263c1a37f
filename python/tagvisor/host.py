"""The machine: physical memory, swap, the host kernel and its policy, and the judge of it all."""

from __future__ import annotations

from typing import Literal

from tagvisor import _check, _native
from tagvisor.errors import ArgumentError, PolicyViolation
from tagvisor.files import File, FileKind
from tagvisor.policy import Policy, policy as profile
from tagvisor.process import Page, Pagemap, Process, same_machine
from tagvisor.swap import SwapDevice, SwapKind, SwapSpec, areas, swaps
from tagvisor.verdict import Step, Violation

__all__ = ["Host", "SwapKind", "Thp"]

Thp = Literal["madvise", "never"]
"""Which faults get a transparent huge page."""

_U64 = (1 << 64) - 1


class Host:
    """An arm64 Linux host with MTE and KVM.

    Cost follows what is touched, not what is configured: a 1 TiB host with 100 touched pages is
    small. One host is used by one thread at a time; others wait. Same arguments, same calls: same
    results, everywhere.

    Args:
        policy: The kernel, as a profile's name or a :class:`tagvisor.Policy`.
        memory: RAM with tag storage, in bytes or as text such as ``"64 MiB"``.
        zone_device: Memory with ``struct page`` but without tag storage, such as pmem.
        mmio: Device memory without ``struct page``.
        swap: The swap device's size; 0 for none. Or several devices, such as
            ``[("64 MiB", "zram", 10), ("1 GiB", "nvme", 5)]``: size, kind and, if it shall have
            one, priority; the highest is filled first.
        swap_kind: ``"nvme"`` or ``"zram"``, when ``swap`` is one size.
        zswap: Size of the pool of compressed pages in front of the devices, counted before
            compression; 0 for no zswap.
        ledger: Judge every step. Off, nothing changes but that no violation is found.
        log: Keep the numbered steps that a violation comes with.
        tlb_bits: Each vCPU has a TLB of ``2**tlb_bits`` entries; 0 for none, so that each access
            walks.
        seed: Of ``RGSR_EL1``, from which IRG draws.
        init_on_free: The kernel zeroes pages when they are freed (``init_on_free=1``), so not when
            they are allocated.

    Raises:
        SizeError: A size that cannot be.
        UnknownProfileError: No profile of that name.
        ArgumentError: Another argument that cannot be.
    """

    __slots__ = ("machine", "policy")

    policy: Policy
    """The kernel's decisions."""
    machine: _native.Machine
    """The native machine; what is public here is all there is to it."""

    def __init__(
        self,
        policy: Policy | str = "linux-6.12",
        *,
        memory: int | str = "64 MiB",
        zone_device: int | str = 0,
        mmio: int | str = 0,
        swap: SwapSpec = "64 MiB",
        swap_kind: SwapKind = "nvme",
        zswap: int | str = 0,
        ledger: bool = True,
        log: bool = True,
        tlb_bits: int = 0,
        seed: int = 1,
        init_on_free: bool = False,
    ) -> None:
        if isinstance(policy, str):
            policy = profile(policy)
        elif not isinstance(policy, Policy):
            raise ArgumentError("policy", policy, "a profile's name or a tagvisor.Policy")
        self.policy = policy
        self.machine = _native.Machine(
            policy.name,
            policy.values,
            memory=_check.size("memory", memory),
            zone_device=_check.size("zone_device", zone_device, zero=True),
            mmio=_check.size("mmio", mmio, zero=True),
            swap=areas(swap, swap_kind),
            zswap=_check.size("zswap", zswap, zero=True),
            ledger=_check.flag("ledger", ledger),
            log=_check.flag("log", log),
            tlb_bits=_check.integer("tlb_bits", tlb_bits, 0, 64),
            seed=_check.integer("seed", seed, 0, _U64),
            init_on_free=_check.flag("init_on_free", init_on_free),
        )
        if policy.decides:
            self.machine.set_decider(policy.decide)

    def __repr__(self) -> str:
        return f"<Host {self.policy.name}>"

    def process(self, name: str = "vmm") -> Process:
        """A new process, with an address space of its own."""
        return Process(self.machine, _check.text("name", name))

    def file(self, kind: FileKind, pages: int) -> File:
        """A file to map.

        Args:
            kind: ``"shmem"`` (tmpfs), ``"ramfs"`` or ``"disk"``.
            pages: Its size in 4 KiB pages.
        """
        return File(self.machine, kind, pages)

    def memfd(self, pages: int) -> File:
        """``memfd_create`` and ``ftruncate``: shmem that only its mappings name.

        Args:
            pages: Its size in 4 KiB pages.
        """
        return File(self.machine, "shmem", pages)

    def set_nr_hugepages(self, pages: int) -> int:
        """Write ``/proc/sys/vm/nr_hugepages``.

        Args:
            pages: How many huge pages of 2 MiB the pool shall have.

        Returns:
            How many it has: fewer when memory is short, more when they are in use.
        """
        return self.machine.set_nr_hugepages(_check.integer("pages", pages, 0, 1 << 40))

    def check_extension_arm_mte(self) -> bool:
        """``KVM_CHECK_EXTENSION(KVM_CAP_ARM_MTE)``: may a VM have MTE?"""
        return self.machine.check_extension_arm_mte()

    def evict(self, page: Page) -> Pagemap:
        """``MADV_PAGEOUT`` of one page, then drop it from the swap cache.

        The next access really swaps it in.

        Returns:
            What the page table holds then.

        Raises:
            LinuxError: The page cannot be paged out.
            ArgumentError: Not a page of this host.
        """
        if not isinstance(page, Page):
            raise ArgumentError("page", page, "a Page, such as mapping.page(0)")
        same_machine("page", page.process, self.machine)
        return Pagemap(*self.machine.evict(page.process.mm, page.address))

    def set_transparent_hugepage(self, enabled: Thp, *, use_zero_page: bool = True) -> None:
        """Write to ``/sys/kernel/mm/transparent_hugepage/``.

        Args:
            enabled: ``"madvise"``: a fault in memory that was advised ``MADV_HUGEPAGE`` gets a huge
                page. ``"never"``, as after boot.
            use_zero_page: A read where nothing is maps the huge zero folio; else it gets a huge
                page as a write does.
        """
        chosen = _check.choice("enabled", enabled, ("madvise", "never"))
        zero = _check.flag("use_zero_page", use_zero_page)
        self.machine.set_transparent_hugepage(chosen == "madvise", zero)

    def migrate(self, page: Page) -> None:
        """Move a page to another frame, as ``move_pages`` and compaction do.

        Args:
            page: A page of this host.

        Raises:
            LinuxError: ``ENOENT``, nothing is mapped there; ``EFAULT``, it does not move, such as
                the zero page; ``EAGAIN``, somebody holds it.
            ArgumentError: Not a page of this host.
        """
        if not isinstance(page, Page):
            raise ArgumentError("page", page, "a Page, such as mapping.page(0)")
        same_machine("page", page.process, self.machine)
        self.machine.migrate(page.process.mm, page.address)

    def set_ksm_use_zero_pages(self, *, on: bool) -> None:
        """``/sys/kernel/mm/ksm/use_zero_pages``: replace pages of zeros by the zero page."""
        self.machine.set_ksm_use_zero_pages(_check.flag("on", on))

    def ksm_run(self) -> int:
        """``ksmd`` scans memory that was advised ``MADV_MERGEABLE`` until nothing is left to merge.

        Returns:
            How many pages were merged.
        """
        return self.machine.ksm_run()

    def swapoff(self, device: int | None = None) -> None:
        """``swapoff``: every page of a device comes back into memory, saved tags with it.

        Args:
            device: Its number; by default all that are on, as ``swapoff -a``.

        Raises:
            LinuxError: ``ENOMEM``, they do not fit; ``EINVAL``, no such device is on.
        """
        if device is None:
            self.machine.swapoff()
        else:
            self.machine.swapoff_device(_check.integer("device", device, 0, 255))

    def swapon(self, device: int) -> None:
        """``swapon`` of a device that was turned off, with the priority it had.

        Args:
            device: Its number.

        Raises:
            LinuxError: ``EBUSY``, it is on; ``EINVAL``, there is none.
        """
        self.machine.swapon(_check.integer("device", device, 0, 255))

    def zswap_shrink(self, pages: int) -> int:
        """Zswap writes its oldest pages back to their devices; their saved tags stay as they are.

        It does so by itself when the pool is full.

        Args:
            pages: How many to look at; one that is in the swap cache is left alone.

        Returns:
            How many were written.
        """
        return self.machine.zswap_shrink(_check.integer("pages", pages, 0, 1 << 40))

    def swaps(self) -> list[SwapDevice]:
        """``/proc/swaps``: the swap devices, in the order of their numbers."""
        return swaps(self.machine)

    def fail_tag_saves(self, count: int, *, after: int = 0) -> None:
        """Inject failures: the next allocations of a buffer for a page's tags find no memory.

        What becomes of the page that was to be swapped out is knob ``K3``: every merged kernel
        keeps it in memory, dirty, with its slot.

        Args:
            count: How many; 0 for no more.
            after: How many succeed first.
        """
        self.machine.fail_tag_saves(
            _check.integer("count", count, 0, _U64), _check.integer("after", after, 0, _U64)
        )

    def hibernate(self) -> int:
        """Suspend to disk, and resume: memory loses its tags and gets back those that were saved.

        Returns:
            How many pages had their tags saved.

        Raises:
            LinuxError: ``ENODEV``, no swap device is on; ``ENOMEM``, no memory for the tags
                (:meth:`fail_tag_saves`), and nothing has happened.
        """
        return self.machine.hibernate()

    def set_memory_limit(self, pages: int) -> None:
        """Limit how many pages may be resident at once, as a memory control group does.

        Beyond it the oldest are reclaimed (first in, first out, with a second chance).

        Args:
            pages: At least 1.
        """
        self.machine.set_memory_limit(_check.integer("pages", pages, 1, _U64))

    def check(self) -> None:
        """Audit every granule, slot and frame.

        Raises:
            PolicyViolation: A property does not hold; with the numbered steps that led there.
        """
        found = self.machine.check()
        if found is not None:
            raise PolicyViolation(Violation.from_native(found))

    @property
    def violations(self) -> list[Violation]:
        """What the ledger has found so far, in the order it was found."""
        return [Violation.from_native(found) for found in self.machine.violations()]

    @property
    def log(self) -> list[Step]:
        """The steps so far; empty when the log is off."""
        return [Step(*line) for line in self.machine.log()]

    def stats(self) -> dict[str, int]:
        """Counters: faults, swap-outs, tags saved and restored, and so on, by name."""
        return self.machine.stats()
