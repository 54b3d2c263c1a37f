"""Files that can be mapped: memfd and tmpfs, ramfs, files on a disk.

Models what stands behind a file mapping as far as tags go: shmem (memfd, tmpfs) may have tags and
goes to swap with them; ramfs never leaves memory and may not; a file on a disk is written back
without them. Left out: names, directories, ``read`` and ``write``. Invariant: a file belongs to one
host, and lives as long as it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from tagvisor import _check

if TYPE_CHECKING:
    from tagvisor import _native

__all__ = ["File", "FileKind"]

FileKind = Literal["shmem", "ramfs", "disk"]
"""What kind of file it is."""

KINDS: tuple[FileKind, ...] = ("shmem", "ramfs", "disk")
_MAX_PAGES = 1 << 31


class File:
    """A file of the host. Made by :meth:`tagvisor.Host.file` and :meth:`tagvisor.Host.memfd`."""

    __slots__ = ("id", "kind", "machine", "pages")

    machine: _native.Machine
    """The machine it is on."""
    id: int
    """Its number there."""
    kind: FileKind
    pages: int
    """Its size in 4 KiB pages; an access beyond it is ``SIGBUS``."""

    def __init__(self, machine: _native.Machine, kind: FileKind, pages: int) -> None:
        self.machine = machine
        self.kind = _check.choice("kind", kind, KINDS)
        self.pages = _check.integer("pages", pages, 0, _MAX_PAGES)
        self.id = machine.create_file(self.kind, self.pages)

    def __repr__(self) -> str:
        return f"<File {self.id}: {self.kind}, {self.pages} pages>"

    def truncate(self, pages: int) -> None:
        """``ftruncate``.

        Args:
            pages: Its new size; what lies beyond is discarded, in memory and in swap.
        """
        self.machine.file_truncate(self.id, _check.integer("pages", pages, 0, _MAX_PAGES))
        self.pages = pages
