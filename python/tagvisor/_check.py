"""Arguments as the native module takes them, or an error that says what would be right.

Each function takes the argument's name first, so that the error can name it.
"""

from __future__ import annotations

import re
from decimal import Decimal
from operator import index
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from tagvisor.errors import ArgumentError, SizeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

__all__ = [
    "PAGE_SIZE",
    "choice",
    "flag",
    "integer",
    "page_aligned",
    "page_data",
    "prot",
    "size",
    "tags",
    "text",
]

PAGE_SIZE = 4096
GRANULES_PER_PAGE = 256
PA_BITS = 48  # ID_AA64MMFR0_EL1.PARange as far as the model goes

_UNITS = {"": 0, "B": 0, "KIB": 10, "MIB": 20, "GIB": 30, "TIB": 40}
_SIZE = re.compile(r"\s*(?P<number>-?\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]*)\s*")

T = TypeVar("T")


def integer(argument: str, value: object, low: int, high: int) -> int:
    """An integer from ``low`` to ``high``, both included; a bool is none."""
    if type(value) is int and low <= value <= high:
        return value  # the common case, on the way of every access
    if not isinstance(value, bool):
        try:
            number = index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
        else:
            if low <= number <= high:
                return number
    raise ArgumentError(argument, value, f"an integer from {_bound(low)} to {_bound(high)}")


def _bound(number: int) -> str:
    return f"{number:#x}" if number > 0xFFFF else str(number)


def size(argument: str, value: object, *, zero: bool = False) -> int:
    """A size in bytes: an int, or text such as ``"64 MiB"``.

    Args:
        argument: The argument's name.
        value: What was given.
        zero: May it be 0?

    Returns:
        A whole number of pages, in bytes.

    Raises:
        SizeError: Negative, zero where that cannot be, not a whole number of pages, more than 48
            bits of physical address can name, or not a size at all.
    """
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        shift = _UNITS.get(match["unit"].upper()) if match else None
        if match is None or shift is None:
            expected = 'a number of bytes, or text such as "64 MiB" (B, KiB, MiB, GiB, TiB)'
            raise SizeError(argument, value, expected)
        exact = Decimal(match["number"]) * (1 << shift)
        number = int(exact)
        whole = exact == number
    else:
        try:
            if isinstance(value, bool):
                raise TypeError  # noqa: TRY301 - a bool has __index__ and yet is no size
            number = index(value)  # type: ignore[arg-type]
        except TypeError:
            expected = 'a number of bytes, or text such as "64 MiB"'
            raise SizeError(argument, value, expected) from None
        whole = True
    if number < 0 or (number == 0 and not zero):
        raise SizeError(argument, value, f"at least {'0' if zero else 'one page (4 KiB)'}")
    if not whole or number % PAGE_SIZE:
        raise SizeError(argument, value, f"a whole number of {PAGE_SIZE}-byte pages")
    if number > 1 << PA_BITS:
        raise SizeError(
            argument,
            value,
            f"at most {1 << (PA_BITS - 40)} TiB, {PA_BITS} bits of physical address",
        )
    return number


def page_aligned(argument: str, value: object, bits: int) -> int:
    """An address of up to ``bits`` bits at the start of a page."""
    number = integer(argument, value, 0, (1 << bits) - 1)
    if number % PAGE_SIZE:
        raise ArgumentError(argument, value, f"an address at the start of a {PAGE_SIZE}-byte page")
    return number


def page_data(argument: str, value: object) -> bytes:
    """At most a page's bytes."""
    if not isinstance(value, bytes | bytearray) or len(value) > PAGE_SIZE:
        raise ArgumentError(argument, value, f"at most {PAGE_SIZE} bytes")
    return bytes(value)


def choice(argument: str, value: T, choices: Sequence[T]) -> T:
    """One of ``choices``."""
    if value not in choices:
        raise ArgumentError(argument, value, "one of " + ", ".join(map(repr, choices)))
    return value


def flag(argument: str, value: object) -> bool:
    """A bool and nothing else: ``mte="no"`` is a mistake, not a yes."""
    if not isinstance(value, bool | np.bool_):
        raise ArgumentError(argument, value, "True or False")
    return bool(value)


def text(argument: str, value: object) -> str:
    """Text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ArgumentError(argument, value, "text that is not empty")
    return value


def prot(argument: str, value: object, *, mte: object) -> str:
    """Letters of ``r`` and ``w``, with the native module's ``m`` (PROT_MTE) added by ``mte``."""
    if not isinstance(value, str) or set(value) - set("rw") or len(set(value)) != len(value):
        raise ArgumentError(argument, value, "letters of 'rw', or '' for PROT_NONE")
    return value + ("m" if flag("mte", mte) else "")


def tags(
    argument: str, value: npt.ArrayLike, multiple_of: int, *, exactly: bool = False
) -> npt.NDArray[np.uint8]:
    """A contiguous ``uint8`` array of allocation tags, one a granule, each 0 to 15.

    Args:
        argument: The argument's name.
        value: Anything numpy makes a one-dimensional integer array of.
        multiple_of: The length must be a positive multiple of this.
        exactly: The length must be this itself.

    Raises:
        ArgumentError: Not integers, a tag outside 0 to 15, not one-dimensional, or of another
            length.
    """
    array = np.asarray(value)
    fits = array.size == multiple_of if exactly else array.size and array.size % multiple_of == 0
    if array.ndim != 1 or not fits:
        count = f"{multiple_of} tags" if exactly else f"a multiple of {multiple_of} tags"
        given = f"an array of shape {array.shape}"
        raise ArgumentError(argument, given, f"one dimension, {count}")
    if array.dtype.kind not in "iu":
        raise ArgumentError(argument, f"an array of {array.dtype}", "an array of integers, 0 to 15")
    if array.min() < 0 or array.max() > 15:
        worst = int(array.max() if array.max() > 15 else array.min())
        raise ArgumentError(argument, f"an array with {worst} in it", "tags from 0 to 15")
    return np.ascontiguousarray(array, dtype=np.uint8)
