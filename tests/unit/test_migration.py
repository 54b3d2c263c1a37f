"""Migration: what the guest wrote on one host is what it finds on the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import tagvisor as tv
from tagvisor import migration

if TYPE_CHECKING:
    from collections.abc import Callable

IPA = 0x5000_0000
PAGE = 4096
PAGES = 3

Write = tuple[str, int, int, int]
"""What is written ("tag" or "data"), page, granule, value."""


def guest(kernel: str = "linux-6.12") -> tuple[tv.Host, tv.Vm, tv.Vcpu]:
    host = tv.Host(kernel, memory="1 MiB")
    vmm = host.process()
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, vmm.mmap(PAGES))
    return host, vm, vm.vcpu()


def target(kernel: str = "linux-7.3") -> tv.Host:
    return tv.Host(kernel, memory="1 MiB")


def pointer(cpu: tv.Vcpu, page: int, granule: int) -> int:
    """With the tag that the granule has."""
    address = IPA + page * PAGE + 16 * granule
    return address | cpu.ldg(address) << 56


def write(cpu: tv.Vcpu, writes: list[Write]) -> None:
    for what, page, granule, value in writes:
        if what == "tag":
            cpu.stg(IPA + page * PAGE + 16 * granule, value % 16)
        else:
            cpu.store(pointer(cpu, page, granule), value)


def contents(cpu: tv.Vcpu) -> tuple[list[list[int]], list[list[int]]]:
    """Tags and data of every page."""
    tags = [cpu.page_tags(IPA + page * PAGE).tolist() for page in range(PAGES)]
    data = [
        [cpu.load(pointer(cpu, page, granule)) for granule in range(256)] for page in range(PAGES)
    ]
    return tags, data


granules = st.sampled_from([0, 1, 100, 255])
write_lists = st.lists(
    st.tuples(
        st.sampled_from(["tag", "data"]), st.integers(0, PAGES - 1), granules, st.integers(0, 255)
    ),
    max_size=6,
)


@settings(max_examples=25, deadline=None)
@given(before=write_lists, meanwhile=st.lists(write_lists, max_size=3), rounds=st.integers(0, 3))
def test_precopy_moves_data_and_tags_that_change_meanwhile(
    before: list[Write], meanwhile: list[list[Write]], rounds: int
) -> None:
    host, vm, cpu = guest()
    write(cpu, before)

    def run(number: int) -> None:
        if number < len(meanwhile):
            write(cpu, meanwhile[number])

    there = target()
    moved = migration.precopy(vm, there, run=run, max_rounds=rounds)

    there.check()
    host.check()
    assert contents(moved.vm.vcpu()) == contents(cpu)
    there.check()
    assert len(moved.report.rounds) <= rounds


@settings(max_examples=25, deadline=None)
@given(before=write_lists, there_first=write_lists)
def test_postcopy_moves_each_page_when_it_is_touched(
    before: list[Write], there_first: list[Write]
) -> None:
    _, vm, cpu = guest()
    write(cpu, before)
    _, _, as_if_it_had_stayed = twin = guest()
    write(as_if_it_had_stayed, [*before, *there_first])
    there = target()

    moving = migration.postcopy(vm, there)
    new = moving.vcpu()
    write(new, there_first)
    report = moving.finish()

    assert contents(new) == contents(as_if_it_had_stayed)
    assert report.missing == 0
    assert report.on_touch.pages + report.in_background.pages == PAGES
    there.check()
    twin[0].check()


def test_precopy_says_what_it_sent() -> None:
    _, vm, cpu = guest()
    cpu.stg(IPA, 5)
    cpu.store(IPA | 5 << 56, 1)
    todo: list[Callable[[], object]] = [
        lambda: cpu.stg(IPA + PAGE, 3),
        lambda: cpu.stg(IPA + 2 * PAGE, 3),
    ]

    moved = migration.precopy(vm, target(), run=lambda number: todo[number](), max_rounds=2)

    first, second = moved.report.rounds
    assert first == migration.Round(pages=3, data_bytes=4096, tag_bytes=128)
    assert second == migration.Round(pages=1, data_bytes=0, tag_bytes=128)
    assert moved.report.blackout == migration.Round(pages=1, data_bytes=0, tag_bytes=128)
    assert moved.report.total.tag_bytes == 3 * 128


def test_what_was_sent_and_became_zero_again_is_sent_again() -> None:
    _, vm, cpu = guest()
    cpu.stg(IPA, 5)
    cpu.store(IPA | 5 << 56, 7)

    def back_to_zero(number: int) -> None:
        if number == 0:
            cpu.store(IPA | 5 << 56, 0)
            cpu.stg(IPA, 0)

    there = target()
    moved = migration.precopy(vm, there, run=back_to_zero)

    new = moved.vm.vcpu()
    assert (new.ldg(IPA), new.load(IPA)) == (0, 0)
    there.check()


def test_a_threshold_ends_the_rounds() -> None:
    _, vm, cpu = guest()

    moved = migration.precopy(
        vm, target(), run=lambda _: cpu.stg(IPA, 1), max_rounds=9, threshold=1
    )

    assert len(moved.report.rounds) == 1
    assert moved.report.blackout.pages == 1


def test_tags_written_by_the_vmm_meanwhile_are_lost_where_no_log_shows_them() -> None:
    """B24: P7 fails on the source, and P1 on the host that the guest finds itself on."""
    host, vm, cpu = guest("linux-6.6")
    cpu.stg(IPA, 3)
    there = target()

    migration.precopy(vm, there, run=lambda _: vm.copy_tags_to(IPA, np.full(256, 9)))

    assert [found.property for found in host.violations] == ["P7"]
    with pytest.raises(tv.PolicyViolation, match="the guest on its source host wrote 9"):
        there.check()


def test_a_kernel_that_knows_better_refuses_them() -> None:
    host, vm, cpu = guest("linux-6.12")
    cpu.stg(IPA, 3)
    there = target()

    with pytest.raises(tv.LinuxError, match="EBUSY"):
        migration.precopy(vm, there, run=lambda _: vm.copy_tags_to(IPA, np.full(256, 9)))

    with pytest.raises(tv.LinuxError, match="ENOENT"):
        vm.dirty_log(0)  # the migration that failed has switched it off again
    host.check()


def test_a_target_that_clears_restored_tags_is_found_out() -> None:
    """B04, met by a guest that was migrated."""
    _, vm, cpu = guest()
    cpu.stg(IPA, 3)
    there = target("v12-series")

    moved = migration.precopy(vm, there)
    moved.vm.vcpu().ldg(IPA)

    with pytest.raises(tv.PolicyViolation, match="P1"):
        there.check()


def test_late_tags_fail_the_guest_and_overwrite_newer_ones() -> None:
    """B47."""
    _, vm, cpu = guest()
    cpu.stg(IPA, 5)
    cpu.stg(IPA + PAGE, 5)
    there = target()

    moving = migration.postcopy(vm, there, tags="late")
    new = moving.vcpu()
    with pytest.raises(tv.GuestException, match="tag check"):
        new.load(IPA | 5 << 56)
    new.stg(IPA + PAGE, 6)
    report = moving.finish()

    assert report.late_tag_bytes == 2 * 128
    assert new.ldg(IPA + PAGE) == 5
    summaries = [found.summary for found in there.violations if found.property == "P1"]
    assert any("reads tag 5" in summary and "wrote 6" in summary for summary in summaries)


def test_the_explorer_finds_the_guest_between_data_and_tags() -> None:
    """B47 as a race: between ``UFFDIO_COPY`` and ``KVM_ARM_MTE_COPY_TAGS`` the guest is awake."""
    there = tv.Host("linux-6.12", memory="256 KiB", swap=0)
    vmm = there.process()
    ram = vmm.mmap(1)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, ram)
    cpu = vm.vcpu()
    ram.uffd_register()
    tags = np.full(256, 5, dtype=np.uint8)
    there.machine.ledger_adopt(vmm.mm, ram.address, tags)
    bring = tv.ops.uffd_copy(ram.page(0), b"data")

    found = tv.explore(
        there, {"vmm": [bring, tv.ops.copy_tags_to(vm, IPA, tags)], "vcpu": [tv.ops.ldg(cpu, IPA)]}
    )
    alone = tv.explore(there, {"vcpu": [tv.ops.ldg(cpu, IPA)]})

    assert found.violation is not None
    assert found.violation.property == "P1"
    assert "brought by user space" in str(found.violation)
    assert alone.violation is not None
    assert "waits for another" in alone.violation.summary
    assert alone.violation.steps[-1].step == "handle_userfault"


def test_a_missing_page_is_asked_for_and_brought_once() -> None:
    there = tv.Host("linux-6.12", memory="1 MiB")
    vmm = there.process()
    ram = vmm.mmap(2)
    ram.uffd_register(first=1)
    assert ram.page(0).load() == 0
    with pytest.raises(tv.UserSignal, match="SIGBUS"):
        ram.page(1).load()
    assert [page.address for page in vmm.uffd_read()] == [ram.page(1).address]

    ram.page(1).uffd_copy((7).to_bytes(8, "little"))

    assert ram.page(1).load() == 7
    assert vmm.uffd_read() == []
    with pytest.raises(tv.LinuxError, match="EEXIST"):
        ram.page(1).uffd_copy(b"")
    with pytest.raises(tv.LinuxError, match="ENOENT"):
        ram.page(0).uffd_copy(b"")
    with pytest.raises(tv.ArgumentError, match="data"):
        ram.page(1).uffd_copy(bytes(4097))


def test_a_guest_without_mte_needs_no_tags() -> None:
    host = tv.Host(memory="1 MiB")
    vmm = host.process()
    vm = vmm.create_vm()
    vm.add_memslot(IPA, vmm.mmap(PAGES))
    vm.vcpu().store(IPA, 7)

    moved = migration.precopy(vm, target())

    assert moved.report.total.tag_bytes == 0
    assert moved.vm.vcpu().load(IPA) == 7


def test_what_cannot_be_migrated_says_why() -> None:
    _, vm, _ = guest()
    vm.set_dirty_log(0, on=True)

    with pytest.raises(tv.ArgumentError, match="logs writes"):
        migration.precopy(vm, target())
    with pytest.raises(tv.ArgumentError, match="max_rounds"):
        migration.precopy(vm, target(), max_rounds=-1)
    with pytest.raises(tv.ArgumentError, match="tags"):
        migration.postcopy(vm, target(), tags="never")  # type: ignore[arg-type]


def test_the_dirty_log_has_the_pages_written_since_it_was_asked() -> None:
    _, vm, cpu = guest()
    cpu.stg(IPA, 1)
    vm.set_dirty_log(0, on=True)

    assert vm.dirty_log(0).tolist() == [False, False, False]
    cpu.store(IPA | 1 << 56, 1)
    cpu.ldg(IPA + PAGE)
    cpu.stg(IPA + 2 * PAGE, 1)
    assert vm.dirty_log(0).tolist() == [True, False, True]
    assert vm.dirty_log(0).tolist() == [False, False, False]
    with pytest.raises(tv.LinuxError, match="EINVAL"):
        vm.dirty_log(4_000_000)
