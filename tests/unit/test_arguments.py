"""Arguments that cannot be: an error that names the argument, its value and what is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import tagvisor as tv
from tagvisor import _check

if TYPE_CHECKING:
    from collections.abc import Callable

IPA = 0x5000_0000


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (4096, 4096),
        (np.int64(8192), 8192),
        ("4096", 4096),
        ("4096 B", 4096),
        ("64 MiB", 64 << 20),
        ("64MiB", 64 << 20),
        ("1.5 gib", 3 << 29),
        (" 2 TiB ", 2 << 40),
        ("4 KiB", 4096),
    ],
)
def test_sizes_are_bytes_or_text(given: object, size: int) -> None:
    assert _check.size("memory", given) == size


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (-4096, "at least one page"),
        ("-64 MiB", "at least one page"),
        (0, "at least one page"),
        (4097, "a whole number of 4096-byte pages"),
        ("1 KiB", "a whole number of 4096-byte pages"),
        ("4096.5", "a whole number of 4096-byte pages"),
        ("512 TiB", "at most 256 TiB"),
        (1 << 60, "at most 256 TiB"),
        ("64 MB", "KiB, MiB, GiB, TiB"),
        ("much", "KiB, MiB, GiB, TiB"),
        ("", "KiB, MiB, GiB, TiB"),
        (64.0, "a number of bytes"),
        (True, "a number of bytes"),
        (None, "a number of bytes"),
    ],
)
def test_sizes_that_cannot_be_say_what_would_be_right(given: object, expected: str) -> None:
    with pytest.raises(tv.SizeError) as raised:
        _check.size("memory", given)

    assert raised.value.argument == "memory"
    assert raised.value.value == given
    assert expected in raised.value.expected


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"memory": "1 KiB"}, "memory"),
        ({"memory": 4096}, "memory"),
        ({"memory": "200 TiB"}, "memory"),
        ({"zone_device": -1}, "zone_device"),
        ({"mmio": "3 KiB"}, "mmio"),
        ({"swap": "200 TiB"}, "swap"),
        ({"swap_kind": "floppy"}, "swap_kind"),
        ({"ledger": 1}, "ledger"),
        ({"log": "no"}, "log"),
        ({"tlb_bits": -1}, "tlb_bits"),
        ({"tlb_bits": 60}, "tlb_bits"),
        ({"seed": -1}, "seed"),
        ({"seed": 1 << 64}, "seed"),
        ({"policy": 6.12}, "policy"),
    ],
)
def test_a_host_that_cannot_be_names_the_argument(arguments: dict[str, Any], argument: str) -> None:
    with pytest.raises(tv.ArgumentError) as raised:
        tv.Host(**arguments)

    assert raised.value.argument == argument
    assert str(raised.value).startswith(f"{argument}=")
    assert "expected" in str(raised.value)


def test_an_argument_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"memory='x': expected a number of bytes"):
        tv.Host(memory="x")


CASES: dict[str, tuple[str, Callable[[tv.Vm, tv.Mapping, tv.Vcpu], object]]] = {
    "mmap of no pages": ("pages", lambda _vm, ram, _cpu: ram.process.mmap(0)),
    "mmap of text": ("pages", lambda _vm, ram, _cpu: ram.process.mmap("4")),  # type: ignore[arg-type]
    "mmap of True": ("pages", lambda _vm, ram, _cpu: ram.process.mmap(True)),  # noqa: FBT003
    "mmap of a file": ("backing", lambda _vm, ram, _cpu: ram.process.mmap(1, backing="file")),  # type: ignore[arg-type]
    "mmap executable": ("prot", lambda _vm, ram, _cpu: ram.process.mmap(1, prot="rwx")),
    "mmap off page": ("at", lambda _vm, ram, _cpu: ram.process.mmap(1, at=ram.address + 8)),
    "page past the end": ("i", lambda _vm, ram, _cpu: ram.page(16)),
    "page before the start": ("i", lambda _vm, ram, _cpu: ram.page(-1)),
    "part past the end": ("pages", lambda _vm, ram, _cpu: ram.dontneed(first=8, pages=9)),
    "load of three bytes": ("size", lambda _vm, ram, _cpu: ram.page(0).load(size=3)),
    "load past the page": ("offset", lambda _vm, ram, _cpu: ram.page(0).load(offset=4089)),
    "load with a big tag": ("tag", lambda _vm, ram, _cpu: ram.page(0).load(tag=16)),
    "store of too much": ("value", lambda _vm, ram, _cpu: ram.page(0).store(256, size=1)),
    "store of a negative": ("value", lambda _vm, ram, _cpu: ram.page(0).store(-1)),
    "granule past the page": ("granule", lambda _vm, ram, _cpu: ram.page(0).ldg(256)),
    "tags of half a page": ("tags", lambda _vm, ram, _cpu: ram.page(0).fill_tags([1] * 128)),
    "tags past 15": ("tags", lambda _vm, ram, _cpu: ram.page(0).fill_tags([16] * 256)),
    "tags below 0": ("tags", lambda _vm, ram, _cpu: ram.page(0).fill_tags([-1] * 256)),
    "tags in fractions": ("tags", lambda _vm, ram, _cpu: ram.page(0).fill_tags([0.5] * 256)),
    "tags in a square": (
        "tags",
        lambda vm, _ram, _cpu: vm.copy_tags_to(IPA, np.zeros((16, 16), dtype=np.uint8)),
    ),
    "no tags": ("tags", lambda vm, _ram, _cpu: vm.copy_tags_to(IPA, [])),
    "tags of no page": ("ipa", lambda vm, _ram, _cpu: vm.copy_tags_from(IPA + 16, 1)),
    "a list as buffer": ("buf", lambda vm, _ram, _cpu: vm.copy_tags(IPA, 16, 1, [0])),  # type: ignore[arg-type]
    "a buffer with gaps": (
        "buf",
        lambda vm, _ram, _cpu: vm.copy_tags(IPA, 4096, 1, np.zeros(512, dtype=np.uint8)[::2]),
    ),
    "memslot off page": ("ipa", lambda vm, ram, _cpu: vm.add_memslot(IPA + 1, ram)),
    "memslot flags": ("flags", lambda vm, ram, _cpu: vm.add_memslot(0, ram, flags=4)),
    "pointer of 65 bits": ("p", lambda _vm, _ram, cpu: cpu.load(1 << 64)),
    "pointer below 0": ("p", lambda _vm, _ram, cpu: cpu.ldg(-16)),
    "pointer as text": ("p", lambda _vm, _ram, cpu: cpu.ldg("0x50000000")),  # type: ignore[arg-type]
    "tag of five bits": ("tag", lambda _vm, _ram, cpu: cpu.stg(IPA, 16)),
    "addg off granule": ("imm", lambda _vm, _ram, cpu: cpu.addg(IPA, 8, 0)),
    "addg too far": ("imm", lambda _vm, _ram, cpu: cpu.addg(IPA, 1024, 0)),
    "subg too many tags": ("tag_imm", lambda _vm, _ram, cpu: cpu.subg(IPA, 0, 16)),
    "irg with a wide mask": ("exclude", lambda _vm, _ram, cpu: cpu.irg(IPA, 0x1_0000)),
    "fill with a big step": ("step", lambda _vm, _ram, cpu: cpu.fill_page(IPA, 0, 16)),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.replace(" ", "-"))
def test_a_call_that_cannot_be_names_the_argument_and_changes_nothing(case: str) -> None:
    argument, call = CASES[case]
    host = tv.Host()
    vmm = host.process()
    ram = vmm.mmap(16)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, ram)
    cpu = vm.vcpu()
    before = host.log, host.stats()

    with pytest.raises(tv.ArgumentError) as raised:
        call(vm, ram, cpu)

    assert raised.value.argument == argument
    assert (host.log, host.stats()) == before


def test_a_page_of_another_host_is_refused() -> None:
    page = tv.Host().process().mmap(1).page(0)

    with pytest.raises(tv.ArgumentError, match="this very Host"):
        tv.Host().evict(page)


def test_memory_of_another_process_cannot_back_a_guest() -> None:
    host = tv.Host()
    vm = host.process("vmm").create_vm(mte=True)

    with pytest.raises(tv.ArgumentError, match="a mapping of the VMM"):
        vm.add_memslot(IPA, host.process("other").mmap(1))
