"""What the documentation shows is what happens."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from typing import TYPE_CHECKING, Any

import pytest

import tagvisor as tv

if TYPE_CHECKING:
    from pathlib import Path

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(tv.__path__, "tagvisor.")
    if not module.name.endswith(("__main__", "._native"))
)


@pytest.mark.parametrize("name", ["tagvisor", *MODULES])
def test_examples_in_docstrings_hold(name: str) -> None:
    # `tagvisor.policy` the attribute is a function: ask for the module by name.
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)

    assert found.failed == 0


def test_the_package_shows_examples() -> None:
    assert doctest.testmod(tv).attempted > 10


def test_the_readmes_python_runs(repository: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    assert blocks

    for block in blocks:
        names: dict[str, Any] = {}
        exec(block, names)  # noqa: S102 - our own README


def test_the_readme_names_the_two_commands(repository: Path) -> None:
    readme = (repository / "README.md").read_text()

    assert "uv run --no-editable tagvisor demo" in readme
    assert "uv run --no-editable pytest" in readme


def test_every_decision_is_numbered_once(repository: Path) -> None:
    text = (repository / "docs" / "decisions.md").read_text()
    numbers = [int(number) for number in re.findall(r"^## D(\d+)\. ", text, re.MULTILINE)]

    assert numbers == list(range(1, len(numbers) + 1))
