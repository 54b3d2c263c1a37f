"""Swap devices: what a host is given, and what ``/proc/swaps`` says of them.

It reads arguments only; what the devices do is the native machine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from tagvisor import _check
from tagvisor.errors import ArgumentError

if TYPE_CHECKING:
    from tagvisor import _native

__all__ = ["SwapDevice", "SwapKind", "SwapSpec", "areas"]

SwapKind = Literal["nvme", "zram"]
"""A swap device: on ``zram`` a slot is freed at swap-in of the last user's page (synchronous I/O,
no swap cache),
on ``nvme`` the page stays in the swap cache with its slot."""

SwapSpec: TypeAlias = (
    int | str | Sequence[tuple[int | str, SwapKind] | tuple[int | str, SwapKind, int | None]]
)
"""A size, or several devices in the order of ``swapon``: each a size, a kind, and a priority if it
shall have one."""

_KINDS: tuple[SwapKind, ...] = get_args(SwapKind)
_MAX_PRIORITY = 32767


@dataclass(frozen=True, slots=True)
class SwapDevice:
    """A line of ``/proc/swaps``."""

    device: int
    """Its number, from 0 in the order of ``swapon``: the type in a swap entry."""
    kind: SwapKind
    """What it is."""
    slots: int
    """How many pages it holds."""
    used: int
    """How many of its slots are in use."""
    priority: int
    """The highest is filled first."""
    on: bool
    """False after ``swapoff``."""


def areas(swap: SwapSpec, kind: SwapKind) -> list[tuple[int, str, int | None]]:
    """The devices that ``Host(swap=..., swap_kind=...)`` names, as the native machine takes them.

    Args:
        swap: As given.
        kind: Of the one device, when ``swap`` is a size.

    Raises:
        SizeError: A size that cannot be.
        ArgumentError: ``swap`` is not of that form, or a kind or priority cannot be.
    """
    default = _check.choice("swap_kind", kind, _KINDS)
    if isinstance(swap, str) or not isinstance(swap, Sequence):
        size = _check.size("swap", swap, zero=True)
        return [(size, default, None)] if size else []
    return [_area(item) for item in swap]


def _area(item: object) -> tuple[int, str, int | None]:
    match item:
        case (size, kind):
            priority = None
        case (size, kind, priority):
            pass
        case _:
            expected = (
                'a size, or a list of (size, "zram" or "nvme") with a priority behind if need be'
            )
            raise ArgumentError("swap", item, expected)
    return (
        _check.size("swap", size),
        _check.choice("swap", cast("SwapKind", kind), _KINDS),
        None if priority is None else _check.integer("swap", priority, 0, _MAX_PRIORITY),
    )


def swaps(machine: _native.Machine) -> list[SwapDevice]:
    """``/proc/swaps`` of a machine."""
    lines = enumerate(machine.swaps())
    return [
        SwapDevice(device, cast("SwapKind", kind), slots, used, priority, on)
        for device, (kind, slots, used, priority, on) in lines
    ]
