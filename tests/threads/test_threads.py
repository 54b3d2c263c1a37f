"""Threads and processes: one machine serves one thread at a time, and nobody hangs."""

from __future__ import annotations

import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

import tagvisor as tv

# Any of these that hangs is a deadlock between the GIL and a machine's lock.
pytestmark = pytest.mark.timeout(60)

IPA = 0x5000_0000
PAGE = 4096


def guest() -> tuple[tv.Host, tv.Vm]:
    host = tv.Host(memory="4 MiB", swap="4 MiB", log=False)
    vmm = host.process()
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, vmm.mmap(8))
    return host, vm


def test_threads_share_a_machine_and_see_their_own_writes() -> None:
    host, vm = guest()
    host.set_memory_limit(4)
    cpus = [vm.vcpu() for _ in range(8)]

    def work(page: int) -> list[int]:
        cpu, base = cpus[page], IPA + page * PAGE
        for granule in range(256):
            cpu.stg(base + 16 * granule, (page + granule) % 16)
        return [int(tag) for tag in cpu.page_tags(base)]

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(work, range(8)))

    assert seen == [[(page + granule) % 16 for granule in range(256)] for page in range(8)]
    host.check()


def test_a_long_call_lets_other_threads_run() -> None:
    host, vm = guest()
    actors = {
        str(n): [tv.ops.ldg(vm.vcpu(), IPA + 16 * n), tv.ops.ldg(vm.vcpu(), IPA)] for n in range(4)
    }
    busy = threading.Thread(target=tv.explore, args=(host, actors), kwargs={"max_states": 60_000})
    ticks = 0

    busy.start()
    while busy.is_alive():
        ticks += 1
        time.sleep(0.001)
    busy.join()

    assert ticks > 20


# Source, not a function: a spawned worker has the package on its path, not this file.
SEQUENCE = """
import tagvisor as tv
host = tv.Host(policy, memory="4 MiB", swap="4 MiB")
vmm = host.process()
ram = vmm.mmap(1)
vm = vmm.create_vm(mte=True)
vm.add_memslot(0x5000_0000, ram)
cpu = vm.vcpu()
cpu.stg(0x5000_0000, 5)
host.evict(ram.page(0))
ram.page(0).load()
host.evict(ram.page(0))
cpu.ldg(0x5000_0000)
host.check()
"""


def test_policies_go_to_worker_processes_and_violations_come_back() -> None:
    holds, loses = tv.linux("6.12"), tv.linux("6.12").replace(K1="restore")

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        kept = pool.submit(exec, SEQUENCE, {"policy": holds})
        lost = pool.submit(exec, SEQUENCE, {"policy": loses})

        assert kept.exception() is None
        with pytest.raises(tv.PolicyViolation) as raised:
            lost.result()
    assert raised.value.violation.property in {"P1", "P6"}


def test_a_machine_is_not_pickled_by_mistake() -> None:
    host, _ = guest()

    with pytest.raises(TypeError, match="Machine"):
        multiprocessing.reduction.ForkingPickler.dumps(host)
