"""The tags in a core dump.

It holds what the native machine dumped; made by :meth:`tagvisor.Process.core_dump`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tagvisor import _native

__all__ = ["TagSegment", "segments"]

_PAGE_SIZE = 4096
_STORAGE = 128  # MTE_PAGE_TAG_STORAGE: two tags a byte


@dataclass(frozen=True, slots=True, eq=False)
class TagSegment:
    """A ``PT_AARCH64_MEMTAG_MTE`` segment."""

    address: int
    """``p_vaddr``: where the mapping starts."""
    pages: int
    """Pages of the mapping."""
    tags: npt.NDArray[np.uint8]
    """A row of 256 tags for each page that is dumped: all of the mapping, or none."""

    @property
    def memory_size(self) -> int:
        """``p_memsz``."""
        return self.pages * _PAGE_SIZE

    @property
    def file_size(self) -> int:
        """``p_filesz``: in the file a byte holds two tags."""
        return len(self.tags) * _STORAGE


def segments(machine: _native.Machine, mm: int) -> list[TagSegment]:
    """The segments of tags of a process's core dump."""
    return [
        TagSegment(address, pages, tags.reshape(-1, 256))
        for address, pages, tags in machine.core_dump(mm)
    ]
