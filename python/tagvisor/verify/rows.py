"""Vector files, row by row.

Models the outside of the files: JSON lines with a header, numbers as text. Leaves out what the rows
of a format mean. Invariant: reading a field that is not there, or is something else, names the file
and the line.
"""

from __future__ import annotations

import gzip
import json
import zlib
from typing import TYPE_CHECKING, Any

from tagvisor.errors import VectorError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["FORMATS", "Row", "Vectors"]

VERSION = 1
FORMATS = ("mte-seq", "mte-alu", "s2-at", "case", "s1-at", "s12-at")
"""The formats there are."""


class Row:
    """A row, with its place in the file; reading a field that is not there names both."""

    __slots__ = ("fields", "line", "path", "text")

    def __init__(self, path: str, line: int, text: str, fields: object) -> None:
        self.path = path
        self.line = line
        self.text = text
        if not isinstance(fields, dict):
            raise self.wrong("no row", "a JSON object")
        self.fields: dict[str, Any] = fields

    def wrong(self, problem: str, expected: str) -> VectorError:
        """What to raise."""
        return VectorError(self.path, self.line, problem, expected)

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def _get(self, name: str) -> Any:
        try:
            return self.fields[name]
        except KeyError:
            raise self.wrong(f"no {name!r}", f"a row with {name!r}") from None

    def hex(self, name: str, default: int | None = None) -> int:
        """An address, register or word."""
        if default is not None and name not in self.fields:
            return default
        return self._hex(name, self._get(name))

    def _hex(self, name: str, value: object) -> int:
        if isinstance(value, str) and value.startswith("0x"):
            try:
                number = int(value, 16)
            except ValueError:
                number = 1 << 64
            if number < 1 << 64:
                return number
        raise self.wrong(f"{name}={value!r}", 'a 64-bit number as "0x..."')

    def integer(self, name: str, default: int | None = None) -> int:
        """A tag, level, state, flag or count."""
        value = self._get(name) if default is None else self.fields.get(name, default)
        if type(value) is not int:
            raise self.wrong(f"{name}={value!r}", "an integer")
        return value

    def string(self, name: str) -> str:
        """Text."""
        value = self._get(name)
        if not isinstance(value, str):
            raise self.wrong(f"{name}={value!r}", "text")
        return value

    def items(self, name: str) -> list[Any]:
        """A list of anything."""
        value = self._get(name)
        if not isinstance(value, list):
            raise self.wrong(f"{name}={value!r}", "a list")
        return value

    def hexes(self, name: str) -> list[int]:
        """Registers."""
        return [self._hex(name, value) for value in self.items(name)]

    def pairs(self, name: str) -> list[tuple[int, Any]]:
        """Physical addresses and what is there."""
        found = []
        for pair in self.items(name):
            if not isinstance(pair, list) or len(pair) != 2:
                raise self.wrong(f"{pair!r} in {name!r}", "a pair of address and value")
            found.append((self._hex(name, pair[0]), pair[1]))
        return found

    def words(self, name: str) -> list[tuple[int, int]]:
        """Physical addresses and the 64-bit words there."""
        return [(pa, self._hex(name, value)) for pa, value in self.pairs(name)]

    def row(self, name: str) -> Row:
        """A row in the row."""
        return Row(self.path, self.line, self.text, self._get(name))

    def rows(self, name: str) -> list[Row]:
        """Rows in the row."""
        return [Row(self.path, self.line, self.text, value) for value in self.items(name)]

    def numbers(self, name: str) -> dict[str, int]:
        """Named addresses or registers."""
        inner = self.row(name)
        return {key: inner.hex(key) for key in inner.fields}

    def nibbles(self, name: str, count: int) -> list[int]:
        """Tags, a hex digit each."""
        text = self.string(name)
        try:
            found = [int(digit, 16) for digit in text]
        except ValueError:
            found = []
        if len(found) != count:
            raise self.wrong(f"{name!r} of {len(text)} digits", f"{count} hex digits")
        return found


class Vectors:
    """A vector file, opened: its header has been read and judged.

    Args:
        path: The file, JSON lines; gzip when its name ends in ``.gz``.

    Raises:
        VectorError: It is not a vector file, or of a version or format that is not known.
        OSError: It cannot be opened.
    """

    __slots__ = ("format", "header", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        first = next(self._lines(), None)
        if first is None:
            raise VectorError(str(path), 0, "the file is empty", "a vector file")
        header = first.fields
        if header.get("format") not in FORMATS:
            problem = f"format {header['format']!r}" if "format" in header else "no format named"
            raise first.wrong(f"not a vector file: {problem}", "one of " + ", ".join(FORMATS))
        if header.get("version") != VERSION:
            raise first.wrong(f"version {header.get('version')!r}", f"version {VERSION}")
        self.header = first
        self.format: str = header["format"]

    def _lines(self) -> Iterator[Row]:
        path = str(self.path)
        number = 0
        try:
            opened = gzip.open if self.path.suffix == ".gz" else open
            with opened(self.path, "rt", encoding="utf-8") as lines:
                for number, line in enumerate(lines, 1):
                    text = line.rstrip("\n")
                    yield Row(path, number, text, json.loads(text))
        except (json.JSONDecodeError, UnicodeDecodeError):
            problem = "not JSON" if number > 1 else "not a vector file: no JSON"
            raise VectorError(path, number, problem, "a JSON object on each line") from None
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise VectorError(path, 0, f"damaged: {error}", "a whole gzip file") from None

    def __iter__(self) -> Iterator[Row]:
        rows = self._lines()
        next(rows, None)
        return rows
