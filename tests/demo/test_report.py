"""The report: one file that asks the network for nothing, the same bytes every time."""

from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from tagvisor import report
from tagvisor._files import write_whole
from tagvisor.matrix import Matrix, matrix
from tagvisor.report import ReplayView, counterexamples
from tagvisor.report.mail import COLUMNS, mail
from tagvisor.verdict import Step, Violation

if TYPE_CHECKING:
    from pathlib import Path

VOID = {"meta", "br", "hr", "img", "link", "input"}
REPLAY = ReplayView(
    trace="x<y>.parquet",
    about="A program & its heap.",
    policy="linux-6.12",
    seed=7,
    counters=(("accesses", 1_234_567),),
    accesses=(0, 500, 1000),
    saved_bytes=(0, 4096, 1024),
)


@cache
def played() -> Matrix:
    return matrix()


@cache
def page() -> str:
    return report.html(played(), REPLAY, version="1.2.3")


class Structure(HTMLParser):
    """Collects what links where, and whether every element that opens closes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in {"href", "src", "srcset", "action", "data"}:
                link = value or ""
                (self.targets if link.startswith("#") else self.outside).append(link)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_it_asks_the_network_for_nothing() -> None:
    structure = Structure()
    structure.feed(page())

    assert (
        re.findall(r"(?i)(?:https?:)?//[a-z]", re.sub(r"^\s*//.*$", "", page(), flags=re.MULTILINE))
        == []
    )
    assert not re.search(r"(?i)@import|url\((?!#)", page())
    assert structure.outside == []


def test_it_is_well_formed_and_every_link_leads_somewhere() -> None:
    structure = Structure()
    structure.feed(page())

    assert structure.open == []
    assert len(structure.ids) == len(set(structure.ids))
    assert {target[1:] for target in structure.targets} <= set(structure.ids)


def test_every_cell_that_does_not_hold_links_to_its_steps() -> None:
    text = page()

    examples = counterexamples(played())
    broken = [(row, s, c) for row, s, c in played() if c.violation is not None]
    assert len(examples) == len(broken)
    assert len(re.findall(r'<a href="#v\d+" data-sequence', text)) == len(broken)
    for example in examples.values():
        assert f'<div id="{example.anchor}">' in text


def test_it_shows_the_replay_escaped_and_a_plot_in_the_pages_colours() -> None:
    text = page()

    assert "1,234,567" in text
    assert "x&lt;y&gt;.parquet" in text
    assert "A program &amp; its heap." in text
    assert "<svg role=" in text
    assert "var(--accent)" in text
    assert "#01020" not in text
    assert "tagvisor 1.2.3" in text


def test_without_a_replay_there_is_no_replay_section() -> None:
    assert 'id="replay"' not in report.html(played(), None, version="1.2.3")


def test_the_same_results_are_the_same_bytes() -> None:
    assert report.html(matrix(), REPLAY, version="1.2.3") == page()


def test_it_works_without_scripts() -> None:
    without = re.sub(r"<script>.*?</script>", "", page(), flags=re.DOTALL)

    assert "onclick" not in without
    assert without.count("<details") > 3


def test_a_violation_as_mail_fits_into_72_columns_and_says_everything() -> None:
    for example in counterexamples(played()).values():
        lines = example.text.splitlines()
        assert max(map(len, lines)) <= COLUMNS
        flat = " ".join(example.text.split())
        assert example.violation.summary in flat
        for step in example.violation.steps:
            assert " ".join(step.text.split()) in flat


def test_a_word_longer_than_a_line_is_not_torn() -> None:
    word = "x" * 100
    violation = Violation("P1", "no-loss", word, (Step(1, "vcpu0", "path", "", word),))

    assert mail(violation).count(word) == 2


def test_write_replaces_the_page_whole(tmp_path: Path) -> None:
    place = tmp_path / "new" / "report.html"

    report.write(place, played(), REPLAY, version="1.2.3")

    assert place.read_text(encoding="utf-8") == page()
    assert list(place.parent.iterdir()) == [place]


def test_files_are_written_all_or_none(tmp_path: Path) -> None:
    first, taken = tmp_path / "first", tmp_path / "file" / "second"
    first.write_text("before")
    (tmp_path / "file").write_text("")

    with pytest.raises(OSError, match="file"):
        write_whole({first: "after", taken: "x"})

    assert first.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "first"]
