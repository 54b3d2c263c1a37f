"""Tags that leave memory otherwise than by swap: core dumps and hibernation."""

from __future__ import annotations

import pytest

import tagvisor as tv


def test_a_core_dump_has_tags_by_page() -> None:
    host = tv.Host("6.12", memory="1 MiB")
    app = host.process("app")
    ram = app.mmap(3, mte=True)
    app.mmap(1)
    ram.page(0).stg(1, 3)
    ram.page(1).stg(2, 4)
    host.evict(ram.page(1))

    (segment,) = app.core_dump()

    assert (segment.address, segment.memory_size, segment.file_size) == (ram.address, 12288, 384)
    assert segment.tags.shape == (3, 256)
    assert (segment.tags[0, 1], segment.tags[1, 2], segment.tags.sum()) == (3, 4, 7)
    host.check()


@pytest.mark.parametrize(("kernel", "segments"), [("5.16", []), ("5.18", [256]), ("6.12", [0])])
def test_what_is_dumped_of_untouched_memory(kernel: str, segments: list[int]) -> None:
    app = tv.Host(kernel, memory="1 MiB").process("app")
    app.mmap(2, mte=True)
    assert [segment.file_size for segment in app.core_dump()] == segments


@pytest.mark.parametrize("kernel", ["5.14", "6.1", "6.12", "7.3"])
def test_a_guests_tags_survive_hibernation(kernel: str) -> None:
    host = tv.Host(kernel, memory="1 MiB", swap="64 KiB")
    vmm = host.process("vmm")
    ram = vmm.mmap(2)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(0x5000_0000, ram)
    cpu = vm.vcpu()
    cpu.stg(0x5000_0000, 5)
    cpu.stg(0x5000_1000, 6)
    host.evict(ram.page(1))

    assert host.hibernate() == (2 if kernel == "5.14" else 1)

    assert (cpu.ldg(0x5000_0000), cpu.ldg(0x5000_1000)) == (5, 6)
    host.check()


def test_a_huge_page_keeps_its_first_pages_tags_only() -> None:
    host = tv.Host("7.3", memory="16 MiB", swap="64 KiB")
    host.set_nr_hugepages(1)
    ram = host.process("app").mmap(512, backing="hugetlb", mte=True)
    ram.page(0).stg(0, 5)
    ram.page(300).stg(0, 5)

    host.hibernate()

    assert ram.page(0).ldg(0) == 5
    assert ram.page(300).ldg(0) != 5
    with pytest.raises(tv.PolicyViolation):
        host.check()


def test_hibernation_needs_swap_and_memory() -> None:
    with pytest.raises(tv.LinuxError, match="ENODEV"):
        tv.Host(memory="1 MiB", swap=0).hibernate()
    host = tv.Host(memory="1 MiB")
    ram = host.process("app").mmap(1, mte=True)
    ram.page(0).stg(0, 5)
    host.fail_tag_saves(1)
    with pytest.raises(tv.LinuxError, match="ENOMEM"):
        host.hibernate()
    assert ram.page(0).ldg(0) == 5
    host.check()


def missing(kernel: str) -> tuple[tv.Host, tv.Vcpu, tv.Mapping, tv.Mapping]:
    """A guest whose memory user space brings, and a page tagged 5 to bring there."""
    host = tv.Host(kernel, memory="1 MiB")
    vmm = host.process("vmm")
    ram = vmm.mmap(1, mte=True)
    ram.uffd_register()
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(0x5000_0000, ram)
    staging = vmm.mmap(1, mte=True)
    staging.page(0).store(42)
    staging.page(0).stg(0, 5)
    return host, vm.vcpu(), ram, staging


def test_a_page_moves_with_its_tags_to_a_guest_that_misses_it() -> None:
    host, cpu, ram, staging = missing("6.12")

    ram.page(0).uffd_move(staging.page(0))

    assert cpu.ldg(0x5000_0000) == 5
    assert cpu.load(0x5000_0000 | 5 << 56) == 42
    assert staging.page(0).load() == 0
    with pytest.raises(tv.LinuxError, match="EEXIST"):
        ram.page(0).uffd_move(staging.page(0))
    host.check()


def test_no_order_of_a_move_and_a_waiting_guest_loses_a_tag() -> None:
    host, cpu, ram, staging = missing("6.12")
    guest = [tv.ops.ldg(cpu, 0x5000_0000), tv.ops.stg(cpu, 0x5000_0000, 6)]
    move = tv.ops.uffd_move(ram.page(0), staging.page(0))
    found = tv.explore(host, {"vcpu0": guest, "vmm": [move]})
    assert found.complete
    assert found.violation is None


def test_where_a_page_cannot_come_from() -> None:
    _, _, ram, staging = missing("6.6")
    with pytest.raises(tv.LinuxError, match="EINVAL"):
        ram.page(0).uffd_move(staging.page(0))
    _, _, other, _ = missing("6.12")
    with pytest.raises(tv.ArgumentError, match="source"):
        ram.page(0).uffd_move(other.page(0))
    with pytest.raises(tv.ArgumentError, match="source"):
        ram.page(0).uffd_move(7)  # type: ignore[arg-type]
    with pytest.raises(tv.ArgumentError, match="source"):
        tv.ops.uffd_move(ram.page(0), other.page(0))
