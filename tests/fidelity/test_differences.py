"""Each known difference between the recorded kernels is one decision, and the model knows which.

A snippet is answered in two ways by two kernels; the first kernel with the second's value of the
named knobs answers like the second, and answers as itself again with its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

import tagvisor as tv
from tagvisor import scenario

HUGE_POOL = "sh echo 4 > /proc/sys/vm/nr_hugepages\n"
GUEST = "vm mte\nmmap A anon 2\nslot 1 0x51000000 A 0 2\n"


@dataclass(frozen=True)
class Difference:
    """One row of the table in docs/fidelity.md."""

    name: str
    kernels: tuple[str, str]
    knobs: tuple[str, ...]
    script: str
    shows: tuple[str, str]
    """What one answer of each kernel contains and the other's does not."""


DIFFERENCES = (
    Difference(
        "a MAP_SHARED slot",
        ("linux-6.1", "linux-6.12"),
        ("K21",),
        "vm mte\nmmap A memfd 2\nslot 1 0x51000000 A 0 2\n",
        ('"errno": "EINVAL"', '"cmd": "slot 1 0x51000000 A 0 2", "ret": 0'),
    ),
    Difference(
        "a hugetlb slot",
        ("linux-6.1", "linux-6.12"),
        ("K22",),
        f"{HUGE_POOL}vm mte\nmmap U hugetlb 512\nslot 4 0x60000000 U 0 512\ng stg 0x60001000 3\n",
        ('"v": "0"', '"kvm_run": "ENOSYS"'),
    ),
    Difference(
        "a hugetlb slot again",
        ("linux-6.12", "linux-7.3"),
        ("K32",),
        f"{HUGE_POOL}vm mte\nmmap U hugetlb 512\nslot 4 0x60000000 U 0 512\n",
        ('"errno": "EINVAL"', '"cmd": "slot 4 0x60000000 U 0 512", "ret": 0'),
    ),
    Difference(
        "PROT_MTE on hugetlb",
        ("linux-6.12", "linux-7.3"),
        ("K32",),
        f"{HUGE_POOL}mmap U hugetlb 512 mte\nstg U 300 4 5\nldg U 300 4\n",
        ('"errno": "EINVAL"', '"tag": "5"'),
    ),
    Difference(
        "COPY_TAGS with a part of a page's tags",
        ("linux-6.1", "linux-6.12"),
        ("K25",),
        f"{GUEST}g stgpage 0x51000000 3 0\ncopytags to 0x51000000 1 7 partial=100\n"
        "g ldgpage 0x51000000\n",
        ('"gtags": "7*100 3*156"', '"gtags": "0*256"'),
    ),
    Difference(
        "COPY_TAGS of more than INT_MAX bytes",
        ("linux-6.1", "linux-6.12"),
        ("copy_tags_length",),
        f"{GUEST}copytags from 0x51000000 1 len=0x80000000\n",
        ('"ret": 8192', '"errno": "EINVAL"'),
    ),
    Difference(
        "COPY_TAGS while writes are logged",
        ("linux-6.1", "linux-6.12"),
        ("K27",),
        "vm mte\nmmap A anon 2\nslot 1 0x51000000 A 0 2 1\ncopytags to 0x51000000 1 d\n",
        ('"ret": 4096', '"errno": "EBUSY"'),
    ),
    Difference(
        "the flag of the shared zero page",
        ("linux-6.12", "linux-7.3"),
        ("K18",),
        f"{GUEST}g ldg 0x51000000\npm A 0\n",
        ('"mte_tagged": 1', '"mte_tagged": 0'),
    ),
    Difference(
        "when a failed asynchronous check is told",
        ("linux-6.1", "linux-6.12"),
        ("async_report",),
        "mmap A anon 1 mte\nstg A 0 1 5\ntcf async\nrd A 0 0 0\nrd A 0 16 0\n",
        ('"async_segv": 1', '"val"'),
    ),
    Difference(
        "a page that the VMM writes while its guest reads the zero page there",
        ("linux-6.1", "linux-6.12"),
        ("K20",),
        f"{GUEST}g ld 0x51000000\nset A 0 7\npm A 0\n",
        ('"mte_tagged": 1', '"mte_tagged": 0'),
    ),
)


def answers(policy: tv.Policy, script: str) -> list[str]:
    return [json.dumps(answer) for answer in scenario.run_text(script, policy=policy, swap="zram")]


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda difference: difference.name)
def test_the_knob_makes_the_difference(difference: Difference) -> None:
    one, other = (tv.policy(name) for name in difference.kernels)
    changed = one.replace(**{knob: other.knobs[knob] for knob in difference.knobs})

    ones, others = answers(one, difference.script), answers(other, difference.script)

    assert ones != others
    assert any(difference.shows[0] in answer for answer in ones), ones
    assert any(difference.shows[1] in answer for answer in others), others
    assert answers(changed, difference.script) == others


@pytest.mark.parametrize(
    ("kernel", "answer"), [("linux-6.12", 0), ("linux-7.3", "EFAULT")], ids=str
)
def test_a_dax_file_under_a_live_slot_is_k22(kernel: str, answer: int | str) -> None:
    """6.12 maps it as device memory, whose tags read 0; 7.3 refuses the fault."""
    host = tv.Host(tv.policy(kernel), memory="1 MiB", zone_device="64 KiB")
    vmm = host.process()
    ram = vmm.mmap(1)
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(0x5100_0000, ram)
    vmm.mmap(1, backing="zone-device", shared=True, at=ram)
    cpu = vm.vcpu()

    seen: int | str | None
    try:
        seen = cpu.ldg(0x5100_0000)
    except tv.GuestExit as left:
        seen = left.errno_name

    assert seen == answer
