"""The stub's return types against what comes back: stubtest compares signatures, not answers.

`assert_type` is mypy's: it holds the stub to the type that the line below it finds at run time.
"""

from __future__ import annotations

from typing import assert_type

import numpy as np
import numpy.typing as npt
import pytest

import tagvisor as tv
from tagvisor import _native

IPA = 0x5000_0000


@pytest.fixture
def machine() -> _native.Machine:
    """With process 0, its page at the returned address behind VM 0, and vCPU 0."""
    machine = tv.Host(tv.linux("6.12").replace(K1="restore"), memory="1 MiB").machine
    machine.create_process("vmm")
    return machine


def test_processes(machine: _native.Machine) -> None:
    address = machine.mmap(0, 1, "anon", False, "rwm", None)  # noqa: FBT003 - the native order
    assert_type(address, int)
    assert type(address) is int
    machine.user_store(0, address, 8, 1)
    assert type(machine.user_load(0, address, 8)) is int
    assert type(machine.user_ldg(0, address)) is int

    tags = machine.user_tags(0, address)
    assert_type(tags, npt.NDArray[np.uint8])
    assert tags.dtype == np.uint8
    assert tags.shape == (256,)

    present = machine.pagemap(0, address)
    assert [type(field) for field in present] == [bool, bool, int, type(None), bool, type(None)]
    swapped = machine.evict(0, address)
    assert [type(field) for field in swapped] == [bool, bool, type(None), int, bool, int]


def test_guests_and_verdicts(machine: _native.Machine) -> None:
    address = machine.mmap(0, 1, "anon", False, "rw", None)  # noqa: FBT003 - the native order
    vm = machine.create_vm(0)
    assert type(vm) is int
    machine.enable_cap_arm_mte(vm)
    assert type(machine.create_vcpu(vm)) is int
    machine.set_user_memory_region(vm, 0, IPA, address, 1, 0)
    machine.guest_stg(vm, 0, IPA, 5)
    assert type(machine.guest_ldg(vm, 0, IPA)) is int
    assert machine.guest_page_tags(vm, 0, IPA).dtype == np.uint8
    assert type(machine.mte_copy_tags(vm, IPA, 4096, 1, (0, 0), np.zeros(256, np.uint8))) is int
    assert machine.check() is None

    machine.evict(0, address)
    machine.user_load(0, address, 8)
    machine.evict(0, address)
    machine.guest_ldg(vm, 0, IPA)

    found = machine.check()
    assert found is not None
    property_, title, summary, steps = found
    assert {type(property_), type(title), type(summary)} == {str}
    assert [type(field) for field in steps[0]] == [int, str, str, str, str]
    assert [type(field) for field in machine.log()[0]] == [int, str, str, str, str]
    assert machine.violations()[0] == found
    assert {(type(name), type(value)) for name, value in machine.stats().items()} == {(str, int)}


def test_exploring(machine: _native.Machine) -> None:
    op = _native.Op.evict(machine, 0, machine.mmap(0, 1, "anon", False, "rw", None))  # noqa: FBT003
    states, transitions, complete, size, values, violation, deadlock = _native.explore(
        machine,
        [("kswapd", [op], False)],
        ["P1"],
        100,
        True,  # noqa: FBT003 - symmetry
    )

    assert {type(states), type(transitions), type(size), type(values)} == {int}
    assert complete is True
    assert (violation, deadlock) == (None, None)


def test_policies() -> None:
    name, values = _native.policy_profile("6.12")
    assert_type(values, list[tuple[str, str]])
    assert type(name) is str
    assert {tuple(map(type, pair)) for pair in values} == {(str, str)}
    assert [type(field) for field in _native.policy_knobs()[0]] == [str, str, str, str, str, list]
