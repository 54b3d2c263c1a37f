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
