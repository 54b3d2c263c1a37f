"""The zero page: nobody's memory, and everybody's, with a flag it should not have.

Models nothing; scripts are functions on a machine. Left out: see
:data:`tagvisor.bugs.left_out.LEFT_OUT`. Invariant: the same script runs under both policies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tagvisor.bugs.row import Bug

if TYPE_CHECKING:
    from tagvisor.host import Host

__all__ = ["ROWS"]

IPA = 0x5000_0000


def merge_zeros(host: Host) -> None:
    """KSM is to replace a page of zeros by the zero page."""
    zeros = host.process("app").mmap(1)
    zeros.page(0).store(0)
    zeros.madvise("mergeable")
    host.set_ksm_use_zero_pages(on=True)
    host.ksm_run()


def guest_reads_first(host: Host) -> None:
    """Before that, a guest reads memory that nobody ever wrote."""
    vmm = host.process()
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, vmm.mmap(1))
    vm.vcpu().load(IPA)
    merge_zeros(host)


ROWS = (
    Bug(
        id="B31",
        title="the zero page is flagged at boot, so nothing is equal to it",
        property="P8",
        broken="linux-6.12.0",
        fixed_in="linux-6.18",
        kind="sequential",
        knobs=("K15", "K17"),
        source="68d54ceeec0e (v5.12), f620d66af316 (v6.18-rc1; 6.6.113, 6.1.158, 5.15.195)",
        story=(
            "cpu_enable_mte sets PG_mte_tagged on the zero page, so that ptrace may read its tags.",
            "KSM finds a page of zeros, never tagged, that the zero page could replace.",
            "memcmp_pages finds one of the two flagged: not identical, whatever they hold.",
            "KSM's use_zero_pages is switched off for everybody, and nobody is told.",
        ),
        script=merge_zeros,
    ),
    Bug(
        id="B32",
        title="KVM flags the zero page when a guest reads untouched memory",
        property="P8",
        broken="linux-6.18",
        fixed_in="linux-7.2",
        kind="sequential",
        knobs=("K15", "K18"),
        source="f620d66af316 (v6.18-rc1), 2986a6257405 (June 2026, v7.2)",
        story=(
            "The zero page is no longer flagged at boot.",
            "A guest reads memory that its VMM never wrote: the host maps the zero page.",
            "sanitise_mte_tags finds it not flagged, clears its tags and flags it, for good.",
            "From then on nothing is equal to the zero page: B31 again, by any guest.",
        ),
        script=guest_reads_first,
    ),
)
