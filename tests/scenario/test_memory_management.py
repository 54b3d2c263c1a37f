"""KSM, migration, memory failure and huge pages answer as recorded kernels did, on each of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

import tagvisor as tv
from tagvisor import scenario
from tagvisor.scenario.compare import compare, normalise, text_of

BUNDLE = Path(__file__).resolve().parents[1] / "data" / "scenario" / "memory-management.jsonl.gz"

with gzip.open(BUNDLE, "rt") as stream:
    RECORDED: list[dict[str, Any]] = [json.loads(line) for line in stream]

BY_NAME = {(found["name"], found["kernel"]): found for found in RECORDED}


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda r: f"{r['name']}-{r['kernel']}")
def test_every_answer_is_the_recorded_kernels(recorded: dict[str, Any]) -> None:
    name = recorded["name"]
    policy = f"linux-{recorded['kernel']}"

    answers = scenario.run_text(recorded["text"], name, policy=policy, swap="zram")

    found = compare(
        {name: normalise(recorded["answers"])}, {name: normalise(dict(a) for a in answers)}
    )
    wrong = [
        f"{place.index}: kernel {text_of(place.left)}, model {text_of(place.right)}"
        for place in found.differences
    ]
    assert wrong == []
    assert found.equal == found.compared > 0


@pytest.mark.parametrize("kernel", ["6.1", "6.12", "7.3"])
@pytest.mark.parametrize(
    ("name", "command", "tags"),
    [
        ("thp-restored-tail", "g ldgpage 0x51002000", "0*256"),  # the VMM had restored 7: row N01
        ("thp-restored-head", "g ldgpage 0x51002000", "9*256"),  # an earlier process' tags: N02
        ("thp-own-tags", "g ldgpage 0x51001000", "0*256"),  # the guest had written 5: N03
        ("thp-block", "g ldgpage 0x51002000", "5*256"),  # what the guest wrote: as it should be
        ("thp-tagged-tail", "tags A 2", "0*256"),  # the process had written 5: N04
        ("thp-tagged-head", "tags A 2", "9*256"),  # an earlier process' tags: N05
    ],
)
def test_real_kernels_show_what_the_model_found(
    name: str, command: str, tags: str, kernel: str
) -> None:
    answers = [a for a in BY_NAME[name, kernel]["answers"] if a.get("cmd") == command]

    if (name, kernel) == ("thp-tagged-head", "6.1"):
        tags = "0*256"  # the knob sync_pages
    assert answers[-1].get("gtags", answers[-1].get("tags")) == tags


def test_tails_that_keep_their_own_flag_answer_otherwise() -> None:
    lost = BY_NAME["thp-restored-tail", "7.3"]["text"]

    broken = scenario.run_text(lost, policy="linux-7.3")
    own = scenario.run_text(lost, policy=tv.policy("linux-7.3").replace(split_flags="own"))

    assert broken[-2]["gtags"] == "0*256"
    assert own[-2]["gtags"] == "7*256"
