"""Every order of the steps of two actors, and what it proves."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

import tagvisor as tv
from tagvisor import ops

if TYPE_CHECKING:
    from collections.abc import Callable

IPA = 0x5000_0000


class Setup:
    """A guest of two vCPUs over one page that the VMM has written: its tags are not initialised."""

    def __init__(self, policy: tv.Policy | str = "linux-6.12", *, ledger: bool = True) -> None:
        self.host = tv.Host(policy, memory="1 MiB", swap="64 KiB", ledger=ledger)
        vmm = self.host.process()
        self.ram = vmm.mmap(1)
        self.ram.page(0).store(0x42)
        self.vm = vmm.create_vm(mte=True)
        self.vm.add_memslot(IPA, self.ram)
        self.writer, self.reader = self.vm.vcpu(), self.vm.vcpu()

    def two_faults(self) -> dict[str, list[ops.Op]]:
        return {
            "vcpu0": [ops.stg(self.writer, IPA, 5), ops.ldg(self.writer, IPA)],
            "vcpu1": [ops.ldg(self.reader, IPA + 16)],
        }


def test_the_page_lock_makes_two_faults_on_one_page_safe_in_every_order() -> None:
    setup = Setup("linux-6.12")

    found = tv.explore(setup.host, setup.two_faults())

    assert found.complete
    assert found.violation is None
    assert found.states > 100
    assert found.transitions >= found.states - 1
    assert str(found) == f"{found.states} states, {found.transitions} transitions: no violation"


def test_without_the_page_lock_a_fault_may_clear_what_another_guest_thread_wrote() -> None:
    setup = Setup(tv.linux("6.12").replace(K18="test-clear-set"))

    found = tv.explore(setup.host, setup.two_faults())

    assert not found.complete
    assert found.violation is not None
    assert found.violation.property == "P1"
    actors = [step.actor for step in found.violation.steps]
    assert set(actors) == {"vcpu0", "vcpu1"}
    assert [step.n for step in found.violation.steps] == list(range(1, len(actors) + 1))
    assert "mte_clear_page_tags" in str(found)


def test_exploring_is_deterministic_and_changes_nothing() -> None:
    setup = Setup(tv.linux("6.12").replace(K18="test-and-set"))
    before = setup.host.log, setup.host.stats()

    first = tv.explore(setup.host, setup.two_faults())
    second = tv.explore(setup.host, setup.two_faults())

    assert first == second
    assert (setup.host.log, setup.host.stats()) == before
    setup.host.check()


def test_an_exploration_stops_at_its_limit() -> None:
    setup = Setup()

    found = tv.explore(setup.host, setup.two_faults(), max_states=50)

    assert not found.complete
    assert found.violation is None
    assert 50 <= found.states < 60
    assert str(found).endswith("no violation so far")


def test_every_operation_can_be_explored() -> None:
    setup = Setup()
    page = setup.ram.page(0)
    every = [
        ops.stg(setup.writer, IPA | 3 << 56),
        ops.ldg(setup.writer, IPA),
        ops.store(setup.writer, IPA | 3 << 56, 1, size=4),
        ops.load(setup.writer, IPA | 3 << 56, size=4),
        ops.user_store(page, 7, offset=64),
        ops.user_load(page, offset=64),
        ops.mprotect(setup.ram, "rw", mte=True),
        ops.user_stg(page, 9, 4),
        ops.user_ldg(page, 9),
        ops.copy_tags_from(setup.vm, IPA),
        ops.copy_tags_to(setup.vm, IPA, [2] * 256),
        ops.evict(page),
        ops.ldg(setup.reader, IPA),
        ops.swapoff(setup.host),
        ops.dontneed(setup.ram),
        ops.munmap(setup.ram),
    ]

    found = tv.explore(setup.host, {"everybody": every})

    assert found.complete
    assert found.violation is None


def test_operations_are_values() -> None:
    setup = Setup()

    assert ops.stg(setup.writer, IPA, 5) == ops.stg(setup.writer, IPA | 0 << 56, 5)
    assert ops.stg(setup.writer, IPA, 5) != ops.stg(setup.writer, IPA, 6)
    assert ops.stg(setup.writer, IPA, 5) != ops.stg(Setup().writer, IPA, 5)
    assert len({ops.ldg(setup.reader, IPA), ops.ldg(setup.reader, IPA)}) == 1
    assert repr(ops.stg(setup.writer, IPA, 5)) == "<Op stg 0x50000000, tag 5>"


def test_operations_of_another_host_are_refused() -> None:
    with pytest.raises(tv.ArgumentError, match="operations of this very Host"):
        tv.explore(Setup().host, Setup().two_faults())


CASES: dict[str, tuple[str, Callable[[], object]]] = {
    "nobody": ("actors", lambda: tv.explore(Setup().host, {})),
    "nothing to do": ("actors", lambda: tv.explore(Setup().host, {"vcpu0": []})),
    "no operation": ("actors", lambda: tv.explore(Setup().host, {"vcpu0": ["stg"]})),  # type: ignore[list-item]
    "no name": ("actors", lambda: tv.explore(Setup().host, {"": []})),
    "a crowd": ("actors", lambda: tv.explore(Setup().host, {str(n): [] for n in range(9)})),
    "no states": ("max_states", lambda: tv.explore(Setup().host, {}, max_states=0)),
    "no judge": (
        "host",
        lambda: tv.explore((alone := Setup(ledger=False)).host, alone.two_faults()),
    ),
    "tags past 15": ("tag", lambda: ops.stg(Setup().writer, IPA, 16)),
    "half a page of tags": ("tags", lambda: ops.copy_tags_to(Setup().vm, IPA, [0] * 128)),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.replace(" ", "-"))
def test_what_cannot_be_explored_names_the_argument(case: str) -> None:
    argument, call = CASES[case]

    with pytest.raises(tv.ArgumentError) as raised:
        call()

    assert raised.value.argument == argument


def test_a_host_with_a_tlb_cannot_be_explored() -> None:
    host = tv.Host(tlb_bits=4)
    cpu = host.process().create_vm(mte=True).vcpu()

    with pytest.raises(tv.ArgumentError, match="tlb_bits=0"):
        tv.explore(host, {"vcpu0": [ops.ldg(cpu, IPA)]})


@pytest.mark.usefixtures("keyboard")
def test_ctrl_c_ends_an_exploration() -> None:
    setup = Setup()
    busy = [ops.evict(setup.ram.page(0)), ops.ldg(setup.reader, IPA)] * 20
    actors = {"vcpu0": setup.two_faults()["vcpu0"] * 20, "vcpu1": busy, "kswapd": busy}
    pressed: list[float] = []

    def press() -> None:
        pressed.append(time.monotonic())
        signal.raise_signal(signal.SIGINT)

    timer = threading.Timer(0.3, press)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        tv.explore(setup.host, actors, max_states=1 << 31)
    timer.join()

    assert time.monotonic() - pressed[0] < 1
    setup.host.check()
