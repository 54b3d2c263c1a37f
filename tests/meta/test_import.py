"""`import tagvisor` is quick: it loads numpy and the native module, the rest when it is used."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("typer", "rich", "jinja2", "pyarrow", "matplotlib", "pandas", "IPython")


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter has after the statement."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    return set(done.stdout.split())


def test_import_loads_numpy_and_nothing_heavy() -> None:
    modules = loaded_by("import tagvisor")

    assert {"tagvisor", "numpy"} <= modules
    assert modules.isdisjoint(HEAVY)


def test_the_probe_would_notice() -> None:
    assert "jinja2" in loaded_by("import tagvisor, jinja2")
