"""Files, advice, tag checks, debuggers and registers through the Python API."""

from __future__ import annotations

import numpy as np
import pytest

import tagvisor as tv


@pytest.fixture
def host() -> tv.Host:
    return tv.Host(policy=tv.linux("6.12"), memory="16 MiB", swap="1 MiB")


def test_two_processes_see_one_memfds_tags(host: tv.Host) -> None:
    file = host.memfd(4)
    one = host.process("one").mmap(2, backing=file, offset=1, shared=True, mte=True)
    two = host.process("two").mmap(4, backing=file, shared=True, mte=True)

    one.page(0).stg(3, 9)
    host.evict(two.page(3))

    assert two.page(1).ldg(3) == 9
    assert two.page(0).ldg(3) == 0


def test_what_lies_beyond_the_end_of_a_file_is_sigbus(host: tv.Host) -> None:
    file = host.file("shmem", 2)
    ram = host.process().mmap(2, backing=file, shared=True)
    ram.page(1).store(1)

    file.truncate(1)

    with pytest.raises(tv.UserSignal) as caught:
        ram.page(1).load()
    assert caught.value.signal == "SIGBUS"


def test_a_file_on_a_disk_may_not_have_tags(host: tv.Host) -> None:
    with pytest.raises(tv.LinuxError) as caught:
        host.process().mmap(1, backing=host.file("disk", 1), shared=True, mte=True)
    assert caught.value.errno_name == "EINVAL"


def test_a_file_of_another_host_is_refused(host: tv.Host) -> None:
    with pytest.raises(tv.ArgumentError, match="backing"):
        tv.Host(memory="1 MiB").process().mmap(1, backing=host.memfd(1))
    with pytest.raises(tv.ArgumentError, match="offset"):
        host.process().mmap(1, offset=1)


def test_huge_pages_come_from_the_pool(host: tv.Host) -> None:
    vmm = host.process()
    with pytest.raises(tv.LinuxError, match="ENOMEM"):
        vmm.mmap(512, backing="hugetlb")

    assert host.set_nr_hugepages(2) == 2
    huge = vmm.mmap(512, backing="hugetlb")
    huge.page(511).store(7)

    assert huge.page(0).pagemap().present


def test_advice_is_the_kernels_to_refuse(host: tv.Host) -> None:
    ram = host.process().mmap(2)
    ram.page(0).store(5)
    ram.madvise("dontneed", 0, 1)
    assert ram.page(0).load() == 0

    with pytest.raises(tv.LinuxError) as caught:
        ram.madvise("remove")
    assert caught.value.errno_name == "EINVAL"
    with pytest.raises(tv.ArgumentError, match="'pageout'"):
        ram.madvise("MADV_PAGEOUT")  # type: ignore[arg-type]


def test_what_a_failed_check_does_is_the_process_choice(host: tv.Host) -> None:
    process = host.process()
    page = process.mmap(1, mte=True).page(0)
    page.stg(0, 5)

    process.set_tag_check("async")
    page.load(tag=6)
    process.set_tag_check("none")
    page.load(tag=6)
    process.set_tag_check("sync")

    with pytest.raises(tv.UserSignal):
        page.load(tag=6)
    assert process.take_async_faults() == 1
    assert process.take_async_faults() == 0


def test_a_debugger_reads_and_writes_tags(host: tv.Host) -> None:
    ram = host.process().mmap(2, mte=True)
    ram.page(0).fill_tags(np.arange(256) % 16)

    assert ram.page(0).poke_tags([1, 2, 3], granule=254) == 3

    assert ram.page(0).peek_tags(250, 10).tolist() == [10, 11, 12, 13, 1, 2, 3, 0, 0, 0]
    plain = host.process().mmap(1)
    plain.page(0).store(1)
    with pytest.raises(tv.LinuxError) as caught:
        plain.page(0).peek_tags()
    assert caught.value.errno_name == "EIO"


def test_a_vcpu_has_registers_by_name(host: tv.Host) -> None:
    cpu = host.process().create_vm(mte=True).vcpu()
    cpu.set_reg("GCR_EL1", 0x1_0001)
    assert cpu.mrs("GCR_EL1") == cpu.get_reg("GCR_EL1") == 0x1_0001
    with pytest.raises(tv.LinuxError, match="ENOENT"):
        cpu.get_reg("VTTBR_EL2")

    plain = host.process().create_vm().vcpu()
    with pytest.raises(tv.GuestException) as caught:
        plain.mrs("GCR_EL1")
    assert caught.value.kind == "undefined"
    assert caught.value.esr == 1 << 25


def test_the_guests_own_stage_1_decides_where_tags_are(host: tv.Host) -> None:
    vmm = host.process()
    ram = vmm.mmap(4)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(0x4000_0000, ram)
    cpu = vm.vcpu()
    block = 1 << 10 | 3 << 8 | 1
    ram.page(0).store(1 << 30 | block, offset=8)  # the second GiB: Tagged
    ram.page(0).store(1 << 30 | block | 1 << 2, offset=16)  # and again, Untagged
    for name, value in {
        "MAIR_EL1": 0xFFF0,
        "TCR_EL1": 25 | 1 << 23 | 2 << 32 | 1 << 37,
        "TTBR0_EL1": 0x4000_0000,
        "SCTLR_EL1": cpu.get_reg("SCTLR_EL1") | 0x1005,
    }.items():
        cpu.set_reg(name, value)

    cpu.stg(0x4000_1000, 6)

    assert cpu.ldg(0x4000_1000) == 6
    assert cpu.ldg(0x8000_1000) == 0
    with pytest.raises(tv.GuestException) as caught:
        cpu.load(0xC000_0000)
    assert caught.value.kind == "translation"
