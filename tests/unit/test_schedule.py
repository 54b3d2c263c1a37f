"""One interleaving told by hand: it runs whole, on the machine itself, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import tagvisor as tv
from tagvisor import ops

if TYPE_CHECKING:
    from tagvisor.explore import Turn

IPA = 0x5000_0000


def two_vcpus(policy: str) -> tuple[tv.Host, tv.Vcpu, tv.Vcpu]:
    """A present, unflagged page of the guest's memory and two vCPUs that will fault on it."""
    host = tv.Host(tv.policy(policy), memory="1 MiB")
    vmm = host.process()
    ram = vmm.mmap(1)
    ram.page(0).store(0x42)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, ram)
    return host, vm.vcpu(), vm.vcpu()


def play(host: tv.Host, writer: tv.Vcpu, reader: tv.Vcpu, turns: list[Turn]) -> None:
    actors = {
        "vcpu0": [ops.stg(writer, IPA, 5), ops.ldg(writer, IPA)],
        "vcpu1": [ops.ldg(reader, IPA + 16)],
    }
    tv.schedule(host, actors, turns)


BETWEEN: list[Turn] = [
    ("vcpu0", "sanitise_mte_tags: mte_clear_page_tags"),
    ("vcpu1", "sanitise_mte_tags: mte_clear_page_tags"),
    "vcpu0",
    "vcpu1",
]


def test_a_scripted_race_bites_where_the_faults_may_run_side_by_side() -> None:
    host = tv.Host(tv.linux("6.12").replace(K18="test-clear-set"), memory="1 MiB")
    vmm = host.process()
    ram = vmm.mmap(1)
    ram.page(0).store(0x42)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, ram)
    cpus = vm.vcpu(), vm.vcpu()

    actors = {"vcpu0": [ops.stg(cpus[0], IPA, 5)], "vcpu1": [ops.ldg(cpus[1], IPA + 16)]}
    tv.schedule(host, actors, BETWEEN)

    with pytest.raises(tv.PolicyViolation, match="P1"):
        host.check()


def test_without_stops_it_is_what_the_methods_do() -> None:
    host, writer, reader = two_vcpus("linux-6.12")

    play(host, writer, reader, ["vcpu0", "vcpu1"])

    host.check()
    assert writer.ldg(IPA) == 5


def test_an_actor_that_has_to_wait_ends_it_and_nothing_has_happened() -> None:
    host, writer, reader = two_vcpus("linux-6.12")
    before = host.stats(), host.log

    with pytest.raises(tv.ArgumentError, match=r"turn 2: vcpu1 waits in sanitise_mte_tags: try_"):
        play(
            host,
            writer,
            reader,
            [("vcpu0", "sanitise_mte_tags: mte_clear_page_tags"), "vcpu1", "vcpu0"],
        )

    assert (host.stats(), host.log) == before


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        (["vcpu0"], "vcpu1 is not finished"),
        ([("vcpu0", "munmap: unmap_vmas"), "vcpu1"], "never comes to munmap: unmap_vmas"),
        (["vcpu9"], "one of the actors: vcpu0, vcpu1"),
        ([("vcpu0", "munmap")], "a path and its step"),
    ],
)
def test_a_schedule_that_cannot_be_says_why(turns: list[Turn], problem: str) -> None:
    host, writer, reader = two_vcpus("linux-6.12")

    with pytest.raises(tv.ArgumentError, match=problem):
        play(host, writer, reader, turns)


def test_an_actor_stops_behind_a_step_whatever_comes_next() -> None:
    """What follows ``mmap_read_unlock`` differs between these two kernels: one of them notices."""
    retries = []
    for kernel in ("linux-6.1.18", "linux-6.1.27"):
        host, cpu, _ = two_vcpus(kernel)
        over = tv.Mapping(cpu.vm.process, 0x7F00_0000_0000, 1)
        actors = {"vcpu": [ops.stg(cpu, IPA, 5)], "vmm": [ops.mmap(over)]}
        tv.schedule(
            host, actors, [("vcpu", "after user_mem_abort: mmap_read_unlock"), "vmm", "vcpu"]
        )
        retries.append(host.stats()["stage2_retries"])

    assert retries == [0, 1]
