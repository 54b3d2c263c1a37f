"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["write_whole"]


def write_whole(files: Mapping[Path, str]) -> None:
    """Write texts so that nobody ever sees a file half written.

    Each goes to a temporary file beside its place and is flushed to the disk; when all are, they
    are renamed. If anything fails before that, what was there before is untouched and nothing new
    is left behind.

    Args:
        files: What to write where; missing folders are made.

    Raises:
        OSError: It could not be done.
    """
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in files}
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary[path].open("x", encoding="utf-8", newline="\n") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
        for path, name in temporary.items():
            name.replace(path)
    finally:
        for name in temporary.values():
            name.unlink(missing_ok=True)
