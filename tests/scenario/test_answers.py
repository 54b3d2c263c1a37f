from __future__ import annotations

import json

from hypothesis import given, strategies as st

from tagvisor import scenario
from tagvisor.scenario.answers import Keys, number_answers, tag_string

PAGE_OF_TAGS = st.lists(st.integers(0, 15), min_size=256, max_size=256)


def test_a_sequence_wins_over_runs() -> None:
    assert tag_string((i + 3) % 16 for i in range(256)) == "seq+3"
    assert tag_string((i + 10) % 16 for i in range(256)) == "seq+10"


def test_runs_are_hexadecimal_tags_and_decimal_counts() -> None:
    assert tag_string([0] * 256) == "0*256"
    assert tag_string([10] * 100 + [3] * 156) == "a*100 3*156"


def test_a_text_longer_than_300_characters_stops_after_that_run() -> None:
    alternating = [0, 2] * 128

    text = tag_string(alternating)

    assert text.endswith(("2*1...", "0*1..."))
    assert 300 < len(text.removesuffix("...")) <= 300 + len(" f*256")


@given(PAGE_OF_TAGS)
def test_a_tag_string_that_is_not_cut_gives_the_tags_back(tags: list[int]) -> None:
    text = tag_string(tags)

    if text.startswith("seq+"):
        back = [(int(text[4:]) + i) % 16 for i in range(256)]
        assert back == tags
        return
    runs = [run.split("*") for run in text.removesuffix("...").split(" ")]
    back = [int(tag, 16) for tag, count in runs for _ in range(int(count))]
    assert back == (tags[: len(back)] if text.endswith("...") else tags)


def test_answers_are_numbered_and_end() -> None:
    said: list[tuple[str, str, Keys]] = [("p", "rd A 0", {"val": "0"}), ("c", 'x "\\', {"ret": 0})]
    answers = number_answers(said)

    lines = scenario.json_lines(answers).splitlines()

    assert lines[0] == '{"i": 0, "who": "p", "cmd": "rd A 0", "val": "0"}'
    assert json.loads(lines[1]) == {"i": 1, "who": "c", "cmd": 'x "\\', "ret": 0}
    assert lines[2] == '{"end": 1}'
