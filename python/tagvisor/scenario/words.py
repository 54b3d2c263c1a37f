"""The words of one scenario line, read from left to right.

Models the number formats of the language: *dec* is C's ``strtoul`` with base 0 (``0x`` hexadecimal,
a leading ``0`` octal, else decimal), *hex* is base 16 with or without ``0x``. Leaves out what
``strtoul`` forgives: signs, digits followed by something else, and values above 64 bits are errors
here, because a script that has them means something else than it does.

Invariant: every failure is a :class:`tagvisor.ScenarioError` that quotes the word and the command's
usage.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn

from tagvisor.errors import ScenarioError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Words"]

MAX_U64 = (1 << 64) - 1
MAX_NAME = 15

_DEC = re.compile(r"0[xX](?P<hex>[0-9a-fA-F]+)|(?P<oct>0[0-7]*)|(?P<dec>[1-9][0-9]*)")
_HEX = re.compile(r"(?:0[xX])?(?P<hex>[0-9a-fA-F]+)")


class Words:
    """A cursor over a line's words, past the command's own name.

    Args:
        path: The scenario's file, for errors.
        line: The line's number.
        text: The line.
        words: Its words.
        usage: How the command is written, for errors.
    """

    def __init__(self, path: str, line: int, text: str, words: list[str], usage: str) -> None:
        self.path = path
        self.line = line
        self.text = text
        self.usage = usage
        self._words = words
        self._next = 1

    def fail(self, problem: str, expected: str | None = None) -> NoReturn:
        """The line is wrong; ``expected`` is the command's usage unless given."""
        raise ScenarioError(self.path, self.line, problem, expected or self.usage)

    def more(self) -> bool:
        """Is there another word?"""
        return self._next < len(self._words)

    def word(self, what: str) -> str:
        """The next word, which has to be there."""
        if not self.more():
            self.fail(f"{self._words[0]!r} without {what}")
        self._next += 1
        return self._words[self._next - 1]

    def rest(self) -> Iterator[str]:
        """The remaining words."""
        while self.more():
            yield self.word("")

    def end(self) -> None:
        """No word may be left."""
        if self.more():
            self.fail(f"{self._words[self._next]!r} is one word too many")

    def name(self, what: str) -> str:
        """The next word as the name of an object."""
        return self.object_name(what, self.word(what))

    def object_name(self, what: str, word: str) -> str:
        """``word`` as the name of an object."""
        if not 1 <= len(word.encode()) <= MAX_NAME:
            self.fail(f"{what} is {word!r}", f"a name of 1 to {MAX_NAME} bytes")
        return word

    def dec(
        self, what: str, *, low: int = 0, high: int = MAX_U64, default: int | None = None
    ) -> int:
        """The next word as a *dec* number."""
        if default is not None and not self.more():
            return default
        return self.as_dec(what, self.word(what), low=low, high=high)

    def as_dec(self, what: str, word: str, *, low: int = 0, high: int = MAX_U64) -> int:
        """``word`` as a *dec* number."""
        match = _DEC.fullmatch(word)
        if match is None:
            self.fail(f"{what} is {word!r}", "a number such as 12 or 0x50000000")
        number = int(match["hex"] or match["oct"] or match["dec"], _base(match))
        return self._in_range(what, word, number, low, high)

    def hex(self, what: str, *, high: int = MAX_U64) -> int:
        """The next word as a *hex* number."""
        return self.as_hex(what, self.word(what), high=high)

    def as_hex(self, what: str, word: str, *, high: int = MAX_U64) -> int:
        """``word`` as a *hex* number."""
        match = _HEX.fullmatch(word)
        if match is None:
            self.fail(f"{what} is {word!r}", "hexadecimal digits")
        return self._in_range(what, word, int(match["hex"], 16), 0, high)

    def tag(self, what: str, *, default: int | None = None) -> int:
        """The next word as a tag."""
        if default is not None and not self.more():
            return default
        return self.as_tag(what, self.word(what))

    def as_tag(self, what: str, word: str) -> int:
        """``word`` as a tag: *hex*, 0 to f."""
        match = _HEX.fullmatch(word)
        if match is None or (tag := int(match["hex"], 16)) > 15:
            self.fail(f"{what} is {word!r}", "a tag, 0 to f")
        return tag

    def _in_range(self, what: str, word: str, number: int, low: int, high: int) -> int:
        if not low <= number <= high:
            bound = f"at most {high:#x}" if number > high else f"at least {low}"
            self.fail(f"{what} is {word!r}", bound)
        return number


def _base(match: re.Match[str]) -> int:
    return {"hex": 16, "oct": 8, "dec": 10}[match.lastgroup or "dec"]
