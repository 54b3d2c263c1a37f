"""Swap: tags that were restored too late, or twice.

Models nothing; scripts are functions on a machine. Left out: see
:data:`tagvisor.bugs.left_out.LEFT_OUT`. Invariant: the same script runs under both policies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tagvisor.bugs.row import Bug

if TYPE_CHECKING:
    from tagvisor.host import Host

__all__ = ["ROWS"]


def zram_read_fault(host: Host) -> None:
    """A process' tagged page goes to zram, and a read brings it back."""
    page = host.process("app").mmap(1, mte=True).page(0)
    page.stg(0, 5)
    page.store(0x2A, tag=5)
    host.evict(page)
    page.load(tag=5)


ROWS = (
    Bug(
        id="B12",
        title="swap slot freed before the tags are restored",
        property="P1",
        broken="linux-6.1.38",
        fixed_in="linux-6.1.39",
        kind="sequential",
        knobs=("K7",),
        source="c145e0b47c77 (v5.18), 6dca4ac6fc91 (v6.5; 6.1.39); report 5050805753ac469e...",
        story=(
            "A process' page with tag 5 is swapped out to zram; its tags are saved.",
            "A read faults: synchronous I/O, so the page comes without the swap cache.",
            "swap_free drops the slot's last user: its saved tags are erased.",
            "set_pte_at finds no saved tags and clears the page's.",
            "The read through a pointer with tag 5 gets SIGSEGV.",
        ),
        script=zram_read_fault,
        machine={"swap_kind": "zram"},
    ),
)
