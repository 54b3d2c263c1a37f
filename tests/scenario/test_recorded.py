"""Scenarios answer as the recorded Linux 6.12.107 did, on both kinds of swap device."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

import tagvisor as tv
from tagvisor import scenario

DATA = Path(__file__).resolve().parents[1] / "data" / "scenario"
NAMES = ("a1-swap-anon", "k2-swap")


@pytest.mark.parametrize("swap", ["nvme", "zram"])
@pytest.mark.parametrize("name", NAMES)
def test_every_answer_is_the_recorded_kernels(name: str, swap: Literal["nvme", "zram"]) -> None:
    answers = scenario.run(DATA / f"{name}.scn", policy="linux-6.12", swap=swap)

    assert scenario.json_lines(answers) == (DATA / f"{name}.6.12.jsonl").read_text()


@pytest.mark.parametrize(
    ("name", "kernel"),
    [(f"block-merge.{kernel}", kernel) for kernel in ("6.1", "6.12", "7.3")]
    + [("hugetlb-log.7.3", "7.3")],
)
def test_leaks_that_the_model_found_answer_as_they_were_then_recorded(
    name: str, kernel: str
) -> None:
    found = DATA.parent / "found"

    answers = scenario.run(
        found / f"{name.removesuffix(f'.{kernel}')}.scn", policy=f"linux-{kernel}", swap="zram"
    )

    assert scenario.json_lines(answers) == (found / f"{name}.jsonl").read_text()


def test_a_scenario_answers_with_the_same_bytes_twice() -> None:
    first, second = (scenario.json_lines(scenario.run(DATA / "k2-swap.scn")) for _ in range(2))

    assert first == second


def test_a_policy_that_erases_saved_tags_at_restore_answers_otherwise() -> None:
    wrong = tv.linux("6.12").replace(K1="restore")

    answers = scenario.run(DATA / "a1-swap-anon.scn", policy=wrong)

    assert scenario.json_lines(answers) != (DATA / "a1-swap-anon.6.12.jsonl").read_text()


def test_the_recorded_emulators_write_bit_is_in_the_answer_and_not_in_the_model() -> None:
    lines = "vm mte\nmmap A anon 1\nslot 1 0x50000000 A 0 1\ng stg 0x50000000 5\ng zva 0x50000000\n"
    host = tv.Host()
    vmm = host.process()
    vm = vmm.create_vm(mte=True)
    vm.add_memslot(0x5000_0000, vmm.mmap(1))
    cpu = vm.vcpu()
    cpu.stg(0x5000_0000, 5)

    with pytest.raises(tv.GuestException) as fault:
        cpu.dc_zva(0x5000_0000)

    assert scenario.run_text(lines)[4]["guest_esr"] == "96000011"
    assert fault.value.esr == 0x9600_0051
