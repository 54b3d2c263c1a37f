from __future__ import annotations

import pickle

import pytest
from hypothesis import given, strategies as st

import tagvisor as tv
from tagvisor.scenario import commands as cmd, parse

EVERY_WORD = st.sampled_from(
    [
        "mmap",
        "munmap",
        "mprotect",
        "madvise",
        "rd",
        "wr",
        "set",
        "rand",
        "stg",
        "ldg",
        "fill",
        "tags",
        "fillall",
        "checkall",
        "tcf",
        "evict",
        "pm",
        "oldpf",
        "resident",
        "vm",
        "slot",
        "destroy",
        "copytags",
        "g",
        "fork",
        "swapout",
        "A",
        "B",
        "anon",
        "memfd",
        "0",
        "1",
        "4",
        "0x50000000",
        "rwm",
        "mte",
        "ro",
        "none",
        "late",
        "el1_32",
        "from",
        "to",
        "seq",
        "raw=f5",
        "len=100",
        "fixed=A",
        "sync",
        "async",
        "dontneed",
        "ldgpage",
        "f",
        "zz",
        "-1",
        "08",
        "0x",
        "99999999999999999999",
        "#",
        "\t",
        "\u00e9",
        "sh",
        "echo",
    ]
)


def refused(text: str | bytes) -> tv.ScenarioError:
    with pytest.raises(tv.ScenarioError) as caught:
        parse(text, "x.scn")
    return caught.value


def test_notes_comments_and_empty_lines_are_no_commands() -> None:
    text = (
        "scenario a b c\n\n# rd A 0\n  # indented\necho x\nsh true\ntrace on\nslab\nsleepms 5\n\r\n"
    )

    assert parse(text, "x.scn") == []


def test_a_command_keeps_its_line_and_text() -> None:
    (command,) = parse("# first\n\trd  A 0x2 010 f\r\n", "x.scn")

    assert command == cmd.Read(2, "\trd  A 0x2 010 f", "A", 2, 8, 15)


@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("12", 12), ("017", 15), ("0x1F", 31), ("0X1f", 31)]
)
def test_dec_is_strtoul_with_base_0(text: str, value: int) -> None:
    (command,) = parse(f"set A 0 {text}", "x.scn")

    assert isinstance(command, cmd.Set)
    assert command.value == value


@pytest.mark.parametrize("text", ["-1", "+1", "08", "0x", "1k", "x", "0x10000000000000000"])
def test_what_strtoul_would_forgive_is_an_error(text: str) -> None:
    error = refused(f"set A 0 {text}")

    assert error.line == 1
    assert repr(text) in error.problem


def test_hex_needs_no_prefix() -> None:
    (plain,) = parse("g st 0x50000000 1234 7", "x.scn")
    (prefixed,) = parse("g st 0x50000000 0x1234 0x7", "x.scn")

    assert isinstance(plain, cmd.Guest)
    assert isinstance(prefixed, cmd.Guest)
    assert (plain.operand, plain.address) == (0x1234, 0x7_0000_0000 << 24 | 0x5000_0000)
    assert (prefixed.operand, prefixed.address) == (plain.operand, plain.address)


def test_options_of_mmap_apply_from_left_to_right() -> None:
    last_none, last_mte = parse("mmap A anon 1 mte none\nmmap B anon 1 none mte", "x.scn")

    assert isinstance(last_none, cmd.Mmap)
    assert isinstance(last_mte, cmd.Mmap)
    assert last_none.prot == ""
    assert last_mte.prot == "m"


def test_mmap_names_what_it_maps() -> None:
    memfd, file = parse("mmap A memfdp 2 fd=B\nmmap F filep 1 file=/tmp/x off=0x2", "x.scn")

    assert isinstance(memfd, cmd.Mmap)
    assert isinstance(file, cmd.Mmap)
    assert (memfd.kind, memfd.fd, memfd.file) == ("memfdp", "B", None)
    assert (file.kind, file.file, file.offset) == ("filep", "/tmp/x", 2)


def test_what_a_child_executes_is_a_command_of_its_own() -> None:
    fork, read, leave = parse("fork\nc rd A 0\nc exit", "x.scn")

    assert isinstance(fork, cmd.Fork)
    assert isinstance(read, cmd.ChildCommand)
    assert read.text == "rd A 0"
    assert read.command == cmd.Read(2, "rd A 0", "A", 0, 0, 0)
    assert isinstance(leave, cmd.ChildCommand)
    assert leave.command is None


def test_shell_lines_do_what_later_answers_show_and_nothing_else() -> None:
    lines = (
        "sh echo 1 > /sys/kernel/mm/ksm/run; sleep 1\n"
        "sh echo 4 > /proc/sys/vm/nr_hugepages; grep x y\n"
        "sh echo 256K > /sys/fs/cgroup/t/memory.reclaim\nsh swapoff -a\nsh true\n"
    )

    done = [(c.what, c.amount) for c in parse(lines, "x.scn") if isinstance(c, cmd.MachineCommand)]

    assert done == [("ksm", 0), ("hugepages", 4), ("reclaim", 256 << 10), ("swapoff", 0)]


def test_a_word_that_is_no_command_is_kept_to_be_answered_so() -> None:
    assert parse("frobnicate A 0", "x.scn") == [cmd.Unknown(1, "frobnicate A 0")]


def test_copytags_to_sends_what_the_language_says() -> None:
    default, tag, seq, raw, bad, partial = (
        command.buffer
        for command in parse(
            "copytags to 0 1\ncopytags to 0 1 9\ncopytags to 0 1 seq\ncopytags to 0 1 raw=f5\n"
            "copytags to 0 1 badaddr\ncopytags to 0 2 partial=356",
            "x.scn",
        )
        if isinstance(command, cmd.CopyTags)
    )

    assert set(default) == {0xEE}
    assert set(tag) == {9}
    assert seq[:18] == bytes([*range(16), 0, 1])
    assert set(raw) == {0xF5}
    assert bad == b""
    assert partial == b"\x07" * 356


@pytest.mark.parametrize(
    ("line", "problem", "expected"),
    [
        ("mmap A", "without KIND", "mmap NAME KIND PAGES"),
        ("mmap A file 1", "without file=PATH", "mmap NAME KIND"),
        ("c g ldg 0", "the child cannot execute", "about memory"),
        ("mmap A floppy 4", "no such kind of memory", "anon"),
        ("mmap A anon 1 rw", "no such option: 'rw'", "mmap NAME"),
        ("mmap ABCDEFGHIJKLMNOP anon 1", "NAME is", "1 to 15 bytes"),
        ("rd A 0 0 10", "TAG is '10'", "0 to f"),
        ("ldg A 0 256", "G is '256'", "at most 0xff"),
        ("fill A 0 seq+x", "SPEC is 'seq+x'", "seq+N"),
        ("evict A 0 0", "one word too many", "evict NAME P"),
        ("tcf late", "no such tag check mode", "sync, async or none"),
        ("vm el1_32", "32-bit guest", "with mte"),
        ("vm mte fast", "no such option: 'fast'", "vm [mte]"),
        ("slot 1 0x50000000 A 0", "without N", "slot ID IPA NAME P N"),
        ("copytags into 0 1", "direction 'into'", "from or to"),
        ("copytags to 0 1 99", "'99'", "a tag, 0 to f"),
        ("copytags to 0 65", "N is '65'", "at most 0x40"),
        ("g", "without OP", "g ldg"),
        ("rd " + "A " * 16, "17 words", "at most 16"),
        ("echo " + "x" * 996, "1001 bytes", "at most 1000"),
        ("rd A \x07", "control character", "text file"),
    ],
)
def test_a_line_that_cannot_be_executed_says_what_is_wrong_and_what_would_be_right(
    line: str, problem: str, expected: str
) -> None:
    error = refused(f"# one line before\n{line}\n")

    assert (error.path, error.line) == ("x.scn", 2)
    assert problem in error.problem
    assert expected in error.expected
    assert "\n" not in str(error)


def test_bytes_that_are_no_text_are_refused() -> None:
    assert "0xff" in refused(b"rd A \xff").problem


def test_the_error_crosses_a_process_boundary() -> None:
    error = refused("mmap A")

    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301


@given(st.lists(st.lists(EVERY_WORD, max_size=18), max_size=6))
def test_any_words_are_commands_or_a_scenario_error(lines: list[list[str]]) -> None:
    text = "\n".join(" ".join(words) for words in lines)

    try:
        commands = parse(text, "x.scn")
    except tv.ScenarioError as error:
        assert 1 <= error.line <= len(lines)  # noqa: PT017 - the error is one of the two outcomes
    else:
        assert all(text.split("\n")[c.line - 1].endswith(c.text) for c in commands)


@given(st.binary(max_size=200))
def test_any_bytes_are_commands_or_a_scenario_error(text: bytes) -> None:
    try:
        commands = parse(text, "x.scn")
    except tv.ScenarioError as error:
        assert error.line >= 1  # noqa: PT017 - the error is one of the two outcomes
    else:
        assert len(commands) <= text.count(b"\n") + 1
