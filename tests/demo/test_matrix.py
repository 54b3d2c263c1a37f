"""The matrix: what the thread argued, judged by the ledger."""

from __future__ import annotations

from functools import cache

import pytest

import tagvisor as tv
from tagvisor import matrix as m
from tagvisor.matrix import Cell, Matrix, Verdict


@cache
def whole() -> Matrix:
    return m.matrix()


def cell(label: str, sequence: m.Sequence) -> Cell:
    (found,) = [c for row, s, c in whole() if row.label == label and s.id == sequence.id]
    return found


def test_it_has_every_value_of_the_knobs_and_every_profile_with_guests() -> None:
    values = {knob.id: [value.name for value in knob.values] for knob in tv.knobs()}

    labels = [row.label for row in whole().rows]

    assert labels == [
        *(f"K1={value}" for value in values["K1"]),
        *(f"K18={value}" for value in values["K18"]),
        *(f"K22={what} K23={where}" for what in values["K22"] for where in values["K23"]),
        *(
            profile.name
            for profile in tv.profiles()
            if tv.policy(profile.name).knobs["cap_arm_mte"] == "present"
        ),
    ]


@pytest.mark.parametrize(
    ("value", "read_only", "slot_reuse"),
    [
        ("restore", Verdict.TAGS_LOST, Verdict.HOLDS),
        ("page-free", Verdict.TAGS_LOST, Verdict.HOLDS),
        ("slot-free", Verdict.HOLDS, Verdict.HOLDS),
        ("swapoff", Verdict.HOLDS, Verdict.TAGS_LEAKED),
    ],
)
def test_only_erasing_saved_tags_at_slot_free_holds(
    value: str, read_only: Verdict, slot_reuse: Verdict
) -> None:
    assert cell(f"K1={value}", m.READ_ONLY_SWAP_IN).verdict == read_only
    assert cell(f"K1={value}", m.SLOT_REUSE).verdict == slot_reuse


@pytest.mark.parametrize("where", ["never", "slot", "fault", "slot-and-fault"])
def test_zone_device_mapped_cacheable_reaches_untaggable_memory(where: str) -> None:
    label = f"K22=cacheable K23={where}"

    assert cell(label, m.ZONE_DEVICE).verdict == Verdict.UNTAGGABLE
    assert cell(label, m.REPLACED_MEMORY).verdict == Verdict.UNTAGGABLE


@pytest.mark.parametrize("what", ["device", "device-else-refuse", "refuse"])
def test_a_check_at_the_slot_alone_lets_the_vmm_swap_the_mapping(what: str) -> None:
    assert cell(f"K22={what} K23=slot", m.ZONE_DEVICE).verdict == Verdict.HOLDS
    assert cell(f"K22={what} K23=slot", m.REPLACED_MEMORY).verdict == Verdict.UNTAGGABLE


@pytest.mark.parametrize("where", ["fault", "slot-and-fault"])
@pytest.mark.parametrize("what", ["device", "device-else-refuse", "refuse"])
def test_a_check_at_the_fault_holds(what: str, where: str) -> None:
    assert cell(f"K22={what} K23={where}", m.ZONE_DEVICE).verdict == Verdict.HOLDS
    assert cell(f"K22={what} K23={where}", m.REPLACED_MEMORY).verdict == Verdict.HOLDS


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        ("test-and-set", Verdict.TAGS_LEAKED),
        ("test-clear-set", Verdict.TAGS_LOST),
        ("lock", Verdict.HOLDS),
    ],
)
def test_two_faults_on_one_page_need_the_lock(value: str, verdict: Verdict) -> None:
    assert cell(f"K18={value}", m.TWO_FAULTS).verdict == verdict


def test_merged_kernels_hold_but_for_b10_and_b11() -> None:
    """The series let untaggable memory in; some kernels flag a swapped-in page without tags."""
    always = ("flag-always", "clear-first-always", "lock-always")
    with_kvm = [
        row.label
        for row in m.rows()
        if row.group == "profiles" and row.policy.knobs["cap_arm_mte"] == "present"
    ]
    flag_without_tags = [name for name in with_kvm if tv.policy(name).knobs["K4"] in always]

    bad = {(row.label, s.id) for row, s, c in whole() if row.group == "profiles" and c.violation}

    assert {(name, sequence) for name, sequence in bad if name in with_kvm} == {
        ("v10-series", "zone-device"),
        ("v10-series", "replaced-memory"),
        *((name, "slot-reuse") for name in flag_without_tags),
    }


def test_how_linux_refuses_is_said() -> None:
    label = "K22=refuse K23=slot-and-fault"

    assert cell(label, m.ZONE_DEVICE).note == "refused -EINVAL at slot"
    assert cell(label, m.REPLACED_MEMORY).note == "KVM_RUN -EFAULT"


def test_every_violation_has_numbered_steps() -> None:
    for row, sequence, found in whole():
        if found.violation is not None:
            steps = found.violation.steps
            assert len(steps) > 5, (row.label, sequence.id)
            assert [step.n for step in steps] == sorted({step.n for step in steps})


def test_it_is_the_same_twice() -> None:
    assert m.matrix() == whole()


def test_saved_tags_that_outlive_their_slot_are_seen_even_when_nobody_reads_them() -> None:
    def leave_saved_tags(host: tv.Host) -> str:
        vmm = host.process()
        ram = vmm.mmap(1, mte=True)
        ram.page(0).stg(0, 5)
        host.evict(ram.page(0))
        ram.munmap()
        return ""

    play = m._on_fresh_host(leave_saved_tags)

    assert play(tv.linux("6.12").replace(K1="swapoff")).verdict == Verdict.OUTLIVE
    assert play(tv.linux("6.12")).verdict == Verdict.HOLDS


def test_saved_tags_that_go_before_their_slot_are_seen_even_when_nobody_reads_them() -> None:
    def swap_in_by_a_read(host: tv.Host) -> str:
        vmm = host.process()
        ram = vmm.mmap(1, mte=True)
        ram.page(0).stg(0, 5)
        host.evict(ram.page(0))
        ram.page(0).load(16)
        return ""

    play = m._on_fresh_host(swap_in_by_a_read)

    assert play(tv.linux("6.12").replace(K1="restore")).verdict == Verdict.FREED_EARLY
    assert play(tv.linux("6.12")).verdict == Verdict.HOLDS
