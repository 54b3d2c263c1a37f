"""``tagvisor demo`` as a user starts it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tagvisor import demo

if TYPE_CHECKING:
    from pathlib import Path


def start(folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tagvisor", "demo", "-o", name]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )


def test_the_demo_shows_the_matrix_the_replay_and_the_same_report_twice(tmp_path: Path) -> None:
    first, second = start(tmp_path, "a.html"), start(tmp_path, "b.html")

    assert first.returncode == 0, first.stderr
    for words in ("tags lost", "tags leaked", "untaggable", "tag checks", "accesses/s", "a.html"):
        assert words in first.stdout
    assert demo.TRACE in first.stderr
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert second.returncode == 0


def test_a_report_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    done = start(tmp_path, "file/report.html")

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("tagvisor: ")
