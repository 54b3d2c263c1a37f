"""Swap through the Python API: devices, failures, and what else keeps tags outside memory."""

from __future__ import annotations

import pytest

import tagvisor as tv


def tagged(host: tv.Host, pages: int = 1) -> tv.process.Mapping:
    """Memory with ``PROT_MTE`` whose pages have the tag of their number plus 1."""
    ram = host.process("app").mmap(pages, mte=True)
    for i in range(pages):
        ram.page(i).stg(0, (i + 1) % 16)
    return ram


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "7.3"])
def test_a_page_whose_tags_cannot_be_saved_stays(kernel: str) -> None:
    host = tv.Host(tv.linux(kernel), memory="1 MiB", swap="1 MiB", swap_kind="zram")
    ram = tagged(host)
    host.fail_tag_saves(100)

    host.evict(ram.page(0))

    assert host.stats()["swap_outs"] == 0
    assert host.stats()["tag_save_failures"] > 0
    assert ram.page(0).ldg(0) == 1
    host.check()


def test_a_kernel_that_swaps_anyway_loses_tags() -> None:
    host = tv.Host(tv.linux("6.12").replace(K3="swap-anyway"), memory="1 MiB")
    ram = tagged(host, 2)
    host.fail_tag_saves(1, after=1)

    host.evict(ram.page(0))
    host.evict(ram.page(1))

    assert ram.page(0).ldg(0) == 1
    assert ram.page(1).ldg(0) == 0
    with pytest.raises(tv.PolicyViolation, match="P1"):
        host.check()


def test_a_count_of_failures_is_a_number() -> None:
    with pytest.raises(tv.ArgumentError, match="count"):
        tv.Host().fail_tag_saves(-1)
    with pytest.raises(tv.ArgumentError, match="after"):
        tv.Host().fail_tag_saves(1, after=-1)


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "7.3"])
def test_zram_and_a_disk_side_by_side(kernel: str) -> None:
    host = tv.Host(
        tv.linux(kernel), memory="1 MiB", swap=[("8 KiB", "zram", 10), ("1 MiB", "nvme", 5)]
    )
    ram = tagged(host, 3)
    gone = [host.evict(ram.page(i)) for i in range(3)]

    assert [entry.device for entry in gone] == [0, 0, 1]
    assert [device.used for device in host.swaps()] == [2, 1]
    host.swapoff(0)
    assert [device.on for device in host.swaps()] == [False, True]
    assert [ram.page(i).pagemap().present for i in range(3)] == [True, True, False]
    assert [ram.page(i).ldg(0) for i in range(3)] == [1, 2, 3]
    host.swapon(0)
    assert host.evict(ram.page(0)).device == 0
    host.check()


@pytest.mark.parametrize(("kernel", "devices"), [("6.12", [0, 0]), ("7.3", [0, 1])])
def test_without_priorities_newer_kernels_take_turns(kernel: str, devices: list[int]) -> None:
    host = tv.Host(kernel, memory="1 MiB", swap=[("64 KiB", "zram"), ("64 KiB", "nvme")])
    ram = tagged(host, 2)
    assert [host.evict(ram.page(i)).device for i in range(2)] == devices


@pytest.mark.parametrize(
    "swap",
    [
        [("8 KiB", "floppy")],
        [("0", "zram")],
        [("8 KiB", "zram", -2)],
        ["64 MiB"],
        [("8 KiB", "zram")] * 24,
        None,
    ],
)
def test_what_is_no_swap_device_names_the_argument(swap: object) -> None:
    with pytest.raises(tv.ArgumentError, match="swap"):
        tv.Host(swap=swap)  # type: ignore[arg-type]


def test_swapoff_of_what_is_not_on() -> None:
    host = tv.Host(memory="1 MiB", swap="64 KiB")
    with pytest.raises(tv.LinuxError, match="EBUSY"):
        host.swapon(0)
    host.swapoff()
    with pytest.raises(tv.LinuxError, match="EINVAL"):
        host.swapoff(0)
    with pytest.raises(tv.ArgumentError, match="device"):
        host.swapoff(-1)


@pytest.mark.parametrize(("kernel", "zero"), [("6.1", 0), ("6.12", 1)])
def test_a_page_of_zeros_saves_its_tags_all_the_same(kernel: str, zero: int) -> None:
    host = tv.Host(kernel, memory="1 MiB")
    ram = tagged(host)
    host.evict(ram.page(0))
    stats = host.stats()
    assert (stats["swap_outs_zero"], stats["tag_saves"]) == (zero, 1)
    assert ram.page(0).ldg(0) == 1


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "7.3"])
def test_zswap_writes_back_data_and_leaves_tags(kernel: str) -> None:
    host = tv.Host(kernel, memory="1 MiB", swap="1 MiB", zswap="64 KiB")
    ram = tagged(host, 15)
    for i in range(15):
        ram.page(i).store(100 + i, offset=16)
        host.evict(ram.page(i))
    assert host.stats()["zswap_pages"] == 15
    assert host.zswap_shrink(5) == 5
    assert host.stats()["saved_tag_pages"] == 15
    assert [ram.page(i).ldg(0) for i in range(15)] == list(range(1, 16))
    assert [ram.page(i).load(offset=16) for i in range(15)] == list(range(100, 115))
    host.check()


def test_zswap_writeback_beside_a_fault() -> None:
    host = tv.Host("6.12", memory="1 MiB", swap="64 KiB", zswap="64 KiB", log=False)
    ram = tagged(host)
    ram.page(0).store(7, offset=16)
    host.evict(ram.page(0))
    found = tv.explore(
        host,
        {"app": [tv.ops.user_ldg(ram.page(0), 0)], "zswap": [tv.ops.zswap_shrink(host)]},
    )
    assert found.complete
    assert found.violation is None
