"""What several commands take alike: the kernel, its knobs, the swap device, JSON.

Models nothing. Invariant: an option is spelt and judged once.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from tagvisor.errors import ArgumentError, UnknownProfileError
from tagvisor.policy import Policy, policy

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["JsonOption", "KernelOption", "KnobOption", "Swap", "SwapOption", "chosen_policy"]


class Swap(StrEnum):
    """What is behind the swap device."""

    nvme = "nvme"
    zram = "zram"


KernelOption = Annotated[
    str,
    typer.Option(
        "--kernel",
        "-k",
        metavar="V",
        help="The kernel: a version such as 6.12, or another profile of `tagvisor policies`.",
    ),
]
KnobOption = Annotated[
    list[str] | None,
    typer.Option(
        "--knob",
        metavar="KNOB=VALUE",
        help="Replace one of the kernel's decisions, as in K1=restore; may be repeated.",
    ),
]
SwapOption = Annotated[Swap, typer.Option(help="What is behind the swap device.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line, for programs.")]


def chosen_policy(kernel: str, replaced: Sequence[str] | None) -> Policy:
    """The policy that ``--kernel`` and ``--knob`` ask for."""
    try:
        chosen = policy(kernel)
    except UnknownProfileError as error:
        raise UnknownProfileError("--kernel", kernel, error.expected) from None
    for pair in replaced or ():
        name, equals, value = pair.partition("=")
        if not (name and equals and value):
            raise ArgumentError("--knob", pair, "KNOB=VALUE, such as K1=restore")
        chosen = chosen.replace(**{name: value})
    return chosen
