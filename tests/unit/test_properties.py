"""The nine properties: each fails for the right reason, and holds where there is none."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

import tagvisor as tv

if TYPE_CHECKING:
    from collections.abc import Callable

    from tagvisor.host import SwapKind


IPA = 0x5000_0000
TAGS = np.full(256, 7, dtype=np.uint8)


@dataclass(frozen=True)
class Case:
    property: str
    does: Callable[[tv.Host], None]
    breaks: tv.Policy
    holds: tv.Policy
    because: str
    """What the summary must say."""
    swap_kind: SwapKind = "nvme"


def leave_a_tag(host: tv.Host) -> None:
    other = host.process("other")
    other.mmap(1, mte=True).page(0).stg(0, 5)
    other.exit()


def guest_with(host: tv.Host, *, mte: bool = True, log: bool = False) -> tuple[tv.Vm, tv.Mapping]:
    vmm = host.process()
    ram = vmm.mmap(1)
    ram.page(0).store(0x42)
    vm = vmm.create_vm(mte=mte)
    vm.add_memslot(IPA, ram, log_dirty=log)
    return vm, ram


def p1_a_tag_comes_back_from_swap(host: tv.Host) -> None:
    page = host.process("app").mmap(1, mte=True).page(0)
    page.stg(0, 5)
    host.evict(page)
    page.ldg(0)


def p2_a_frame_changes_hands(host: tv.Host) -> None:
    leave_a_tag(host)
    vm, _ = guest_with(host)
    vm.copy_tags_from(IPA, 1)


def p3_an_untagged_page_comes_back_from_swap(host: tv.Host) -> None:
    vm, ram = guest_with(host)
    host.evict(ram.page(0))
    ram.page(0).load()
    vm.vcpu().stg(IPA, 1)


def p4_a_guest_maps_a_page(host: tv.Host) -> None:
    vm = host.process().create_vm(mte=True)
    vm.add_memslot(IPA, vm.create_guest_memfd(1))
    vm.vcpu().stg(IPA, 1)


def p5_pmem_behind_a_guest(host: tv.Host) -> None:
    vmm = host.process()
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(IPA, vmm.mmap(1, backing="zone-device", shared=True))
    vm.vcpu().load(IPA)


def p6_a_swapped_page_is_unmapped(host: tv.Host) -> None:
    ram = host.process("app").mmap(1, mte=True)
    ram.page(0).stg(0, 5)
    host.evict(ram.page(0))
    ram.munmap()


def p7_the_vmm_writes_tags_it_has_sent(host: tv.Host) -> None:
    vm, _ = guest_with(host, log=True)
    vm.copy_tags_from(IPA, 1)
    vm.copy_tags_to(IPA, TAGS)


def p8_tags_of_pmem_are_asked_for(host: tv.Host) -> None:
    vm, ram = guest_with(host)
    vm.process.mmap(1, backing="zone-device", at=ram)
    vm.copy_tags_from(IPA, 1)


def p9_a_guest_without_mte_looks_for_it(host: tv.Host) -> None:
    vm, _ = guest_with(host, mte=False)
    vm.vcpu().mrs("GMID_EL1")


CASES = [
    Case(
        "P1",
        p1_a_tag_comes_back_from_swap,
        tv.linux("6.1.38"),
        tv.linux("6.1.39"),
        "app reads tag 0 of granule 0 of app page 0x00007f0000000000, but app wrote 5",
        "zram",
    ),
    Case(
        "P2",
        p2_a_frame_changes_hands,
        tv.policy("v12-series"),
        tv.policy("v13-series"),
        "vmm reads tag 5 of granule 0 of vmm page 0x00007f0000000000, but pfn 0x40001 holds tags "
        "left by other page 0x00007f0000000000 (discarded since)",
    ),
    Case(
        "P3",
        p3_an_untagged_page_comes_back_from_swap,
        tv.linux("6.2"),
        tv.linux("6.4"),
        "vcpu0 finds PG_mte_tagged of pfn 0x40001 set, but its tags were never initialised for vmm "
        "page 0x00007f0000000000",
    ),
    Case(
        "P4",
        p4_a_guest_maps_a_page,
        tv.linux("6.18"),
        tv.linux("7.2"),
        "ipa 0x0000000050000000 of MTE VM 0 is mapped Normal Write-Back to pfn 0x40001, whose "
        "PG_mte_tagged is clear",
    ),
    Case(
        "P5",
        p5_pmem_behind_a_guest,
        tv.policy("v10-series"),
        tv.policy("v11-series"),
        "ipa 0x0000000050000000 of an MTE VM is mapped Normal Write-Back to pfn 0x40100 of "
        "Persistent Memory, which has no tag storage",
    ),
    Case(
        "P6",
        p6_a_swapped_page_is_unmapped,
        tv.linux("6.12").replace(K1="swapoff"),
        tv.linux("6.12"),
        "is left over: swap slot",
    ),
    Case(
        "P7",
        p7_the_vmm_writes_tags_it_has_sent,
        tv.linux("6.6"),
        tv.linux("6.12"),
        "tags of ipa 0x0000000050000000 change after the VMM has read them, and the slot's dirty "
        "log does not show it",
    ),
    Case(
        "P8",
        p8_tags_of_pmem_are_asked_for,
        tv.linux("6.6"),
        tv.linux("6.12"),
        "a reference of pfn 0x40100 was leaked",
    ),
    Case(
        "P9",
        p9_a_guest_without_mte_looks_for_it,
        tv.linux("6.18"),
        tv.linux("7.0"),
        "vcpu0 of a VM without MTE reads GMID_EL1, and finds MTE",
    ),
]


def run(case: Case, policy: tv.Policy, *, ledger: bool = True) -> tv.Host:
    host = tv.Host(
        policy,
        memory="1 MiB",
        zone_device="64 KiB",
        swap="64 KiB",
        swap_kind=case.swap_kind,
        ledger=ledger,
    )
    with suppress(tv.LinuxError, tv.GuestExit, tv.GuestException):
        case.does(host)
    return host


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.property)
def test_a_property_fails_for_the_right_reason(case: Case) -> None:
    host = run(case, case.breaks)

    with pytest.raises(tv.PolicyViolation):
        host.check()

    (found,) = [v for v in host.violations if v.property == case.property]
    assert case.because in found.summary
    assert case.because in found.steps[-1].text


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.property)
def test_and_holds_where_there_is_none(case: Case) -> None:
    host = run(case, case.holds)

    host.check()
    assert host.violations == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.property)
def test_without_the_ledger_nobody_judges(case: Case) -> None:
    host = run(case, case.breaks, ledger=False)

    host.check()
    assert host.violations == []


def test_they_are_the_nine() -> None:
    assert [case.property for case in CASES] == [f"P{number}" for number in range(1, 10)]
