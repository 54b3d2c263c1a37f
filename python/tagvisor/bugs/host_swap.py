"""Swap: tags that were restored too late, or twice.

Models nothing; scripts are functions on a machine. Left out: see
:data:`tagvisor.bugs.left_out.LEFT_OUT`. Invariant: the same script runs under both policies.
"""

from __future__ import annotations

from tagvisor.bugs.row import Bug

__all__ = ["ROWS"]


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
        machine={"swap_kind": "zram"},
        waiting="swap_free before the tags are restored (K7)",
    ),
    Bug(
        id="B13",
        title="tags restored twice for a page in the swap cache",
        property="P1",
        broken="linux-6.12 K11=overwrite",
        fixed_in="linux-6.12",
        kind="sequential",
        knobs=("K11",),
        source="v3 of the mend of B12, mail CAMn1gO4pWpcu_F...; the warning went in v4",
        story=(
            "A tagged page is shared by parent and child, and swapped out.",
            "The parent's fault restores it into the swap cache page and flags it.",
            "The parent stores a new tag.",
            "The child's fault restores once more: that is the swap's older tag.",
        ),
        waiting="fork",
    ),
)
