"""The shape of the source: rules that hold only as long as somebody looks."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

import pytest

import tagvisor as tv
from tagvisor import _native

if TYPE_CHECKING:
    from pathlib import Path

PURE = ("arch", "mem", "host", "replay", "explore")

# crate -> what it may name. The arrows of the design: arch <- mem <- host <- {replay, explore}.
BELOW = {
    "arch": set(),
    "mem": {"tagvisor-arch"},
    "host": {"tagvisor-arch", "tagvisor-mem"},
    "replay": {"tagvisor-arch", "tagvisor-mem", "tagvisor-host"},
    "explore": {"tagvisor-arch", "tagvisor-mem", "tagvisor-host"},
}


def manifest(repository: Path, crate: str) -> dict[str, dict[str, object]]:
    return tomllib.loads((repository / "rust" / crate / "Cargo.toml").read_text())


def sources(repository: Path, crate: str) -> list[Path]:
    found = sorted((repository / "rust" / crate).rglob("*.rs"))
    assert found, f"no sources in rust/{crate}"
    return found


def test_every_pyclass_is_frozen(repository: Path) -> None:
    attributes = [
        (path.name, match[0])
        for path in sources(repository, "py")
        for match in re.finditer(r"#\[pyclass[^\]]*\]", path.read_text())
    ]

    assert len(attributes) >= 2
    assert [where for where in attributes if "frozen" not in where[1]] == []


@pytest.mark.parametrize("crate", PURE)
def test_a_pure_crate_knows_nothing_of_python(repository: Path, crate: str) -> None:
    tables = manifest(repository, crate)
    named = {
        name
        for table in ("dependencies", "dev-dependencies", "build-dependencies")
        for name in tables.get(table, {})
    }

    assert not named & {"pyo3", "numpy", "tagvisor-py"}
    for path in sources(repository, crate):
        assert not re.search(r"\b(pyo3|numpy)\b", path.read_text()), path


@pytest.mark.parametrize("crate", PURE)
def test_dependencies_run_one_way(repository: Path, crate: str) -> None:
    named = set(manifest(repository, crate).get("dependencies", {}))

    assert {name for name in named if name.startswith("tagvisor-")} <= BELOW[crate]


def test_only_the_binding_crate_may_have_unsafe_code(repository: Path) -> None:
    allowed = [
        path
        for crate in PURE
        for path in sources(repository, crate)
        if re.search(r"\ballow\(unsafe_code\)", path.read_text())
    ]

    assert allowed == []


def test_every_rust_file_opens_with_what_it_is(repository: Path) -> None:
    silent = [
        path
        for crate in (*PURE, "py")
        for path in sources(repository, crate)
        if not path.read_text().startswith("//!")
    ]

    assert silent == []


def test_the_package_has_one_version(repository: Path) -> None:
    python = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]
    rust = tomllib.loads((repository / "Cargo.toml").read_text())["workspace"]["package"]["version"]

    assert python == rust == tv.__version__ == tv.build_info()["version"]


def test_every_native_method_has_a_use_in_the_package(repository: Path) -> None:
    package = "\n".join(path.read_text() for path in (repository / "python").rglob("*.py"))
    names = [
        f".{method}("
        for cls in (_native.Machine, _native.Op, _native.Pe)
        for method in vars(cls)
        if not method.startswith("_")
    ]
    names += [name for name in vars(_native) if not name.startswith("_")]

    assert [name for name in names if name not in package] == []


def test_the_package_is_typed_and_the_stub_travels_with_it(repository: Path) -> None:
    package = repository / "python" / "tagvisor"

    assert (package / "py.typed").exists()
    assert (package / "_native.pyi").exists()


def test_public_names_are_those_that_exist() -> None:
    assert [name for name in tv.__all__ if not hasattr(tv, name)] == []
    assert sorted(tv.__all__) == sorted(set(tv.__all__))


def test_the_build_under_test_is_optimised() -> None:
    info = tv.build_info()

    assert info["profile"] == "release"
    assert set(info) == {"version", "profile", "abi", "target"}
