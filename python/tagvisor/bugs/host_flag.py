"""The flag protocol of the host: who believes ``PG_mte_tagged``, and what lies behind it.

Models nothing; scripts are functions on a machine. Left out: see
:data:`tagvisor.bugs.left_out.LEFT_OUT`. Invariant: the same script runs under both policies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tagvisor.bugs.row import Bug

__all__ = ["ROWS"]

ROWS: tuple[Bug, ...] = ()
