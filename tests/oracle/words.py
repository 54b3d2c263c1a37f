"""Fields of machine words, and the two kinds of dictionary that the oracle works on.

A word is a Python integer, so nothing here wraps around or has a sign.
"""

Registers = dict[str, int]  # by the architecture's name; a missing one is 0
Memory = dict[int, int]  # physical address to 64-bit word; a missing one is 0

MASK64 = (1 << 64) - 1


def bits(value: int, high: int, low: int) -> int:
    return (value >> low) & ((1 << (high - low + 1)) - 1)


def bit(value: int, at: int) -> bool:
    return (value >> at) & 1 == 1
