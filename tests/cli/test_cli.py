"""The command line as a user has it: exit codes, one line of complaint, nothing half written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tagvisor as tv
from tagvisor.trace.format import BATCH_EVENTS, Columns, TraceInfo, TraceWriter

DATA = Path(__file__).resolve().parents[1] / "data" / "scenario"


def tagvisor(*args: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tagvisor", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, check=False)


def assert_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.startswith("tagvisor: ")
    assert done.stderr.count("\n") == 1
    for part in parts:
        assert part in done.stderr


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole trace: one allocation, then stores all over it, three batches of events."""
    path = tmp_path_factory.mktemp("traces") / "stores.parquet"
    events, base, size = 3 * BATCH_EVENTS, 0x10_0000, 64 * 4096
    op = np.ones(events, dtype=np.uint8)
    op[0] = 2
    sizes = np.full(events, 8, dtype=np.uint32)
    sizes[0] = size
    addr = base + (np.arange(events, dtype=np.uint64) * 8) % size
    addr[0] = base
    info = TraceInfo(
        program="stores",
        command=("stores",),
        generator="a test",
        events=events,
        loads=0,
        stores=events - 1,
        mallocs=1,
        frees=0,
        reallocs=0,
        pages=64,
    )
    with TraceWriter(path) as writer:
        writer.write(Columns(op, sizes, addr))
        writer.close(info)
    return path


def test_version_and_help() -> None:
    assert tagvisor("--version").stdout == f"tagvisor {tv.__version__}\n"
    for command in ("run", "demo", "record", "replay", "bench", "policies", "matrix"):
        shown = tagvisor(command, "--help")
        assert shown.returncode == 0
        assert f"tagvisor {command}" in shown.stdout, f"{command} --help shows no example"


def test_no_command_shows_the_help_and_is_a_mistake() -> None:
    done = tagvisor()

    assert done.returncode == 2
    assert "Examples" in done.stdout
    assert done.stderr == ""


def test_run_prints_what_the_recorded_kernel_answered() -> None:
    names = ("a1-swap-anon", "k2-swap")

    done = tagvisor("run", *(DATA / f"{name}.scn" for name in names), "--kernel", "6.12")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "".join((DATA / f"{name}.6.12.jsonl").read_text() for name in names)


def test_run_writes_one_file_for_each_scenario_of_a_folder(tmp_path: Path) -> None:
    done = tagvisor("run", DATA, "--swap", "zram", "-o", tmp_path / "new" / "out")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    written = {path.name: path.read_text() for path in (tmp_path / "new" / "out").iterdir()}
    assert written == {
        f"{name}.jsonl": (DATA / f"{name}.6.12.jsonl").read_text()
        for name in ("a1-swap-anon", "k2-swap")
    }


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("mmap A anon\n", ["bad.scn:1", "without PAGES", "mmap NAME KIND PAGES"]),
        ("\nc rd A 0\n", ["bad.scn:2", "a child that is not there", "fork"]),
        ("evict B 0\n", ["bad.scn:1", "nothing is mapped under the name 'B'", "mmap B anon"]),
    ],
    ids=["malformed", "without child", "unmapped"],
)
def test_a_scenario_with_a_mistake_writes_nothing(
    tmp_path: Path, text: str, parts: list[str]
) -> None:
    bad, out = tmp_path / "bad.scn", tmp_path / "out"
    bad.write_text(text)

    assert_one_line(tagvisor("run", DATA / "a1-swap-anon.scn", bad), *parts)
    assert_one_line(tagvisor("run", DATA / "a1-swap-anon.scn", bad, "-o", out), *parts)
    assert not out.exists()


def test_paths_that_cannot_be_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "k2-swap.scn").write_text("")
    scenario = DATA / "k2-swap.scn"

    assert_one_line(tagvisor("run", tmp_path / "nosuch.scn"), "No such file", "a scenario file")
    assert_one_line(tagvisor("run", DATA.parent), "no scenario in this folder", "*.scn")
    assert_one_line(tagvisor("run", scenario, "-o", tmp_path / "file"), "expected a folder")
    twice = tagvisor("run", scenario, tmp_path / "k2-swap.scn", "-o", tmp_path / "out")
    assert_one_line(twice, "a second scenario of the name 'k2-swap'")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--kernel", "2.6"], ["2.6", "linux-6.12", "v10-series"]),
        (["--knob", "K99=x"], ["K99", "K22"]),
        (["--knob", "K1=never"], ["never", "slot-free"]),
        (["--knob", "K1"], ["'K1'", "KNOB=VALUE"]),
        (["--swap", "floppy"], ["floppy", "zram"]),
        (["--frob"], ["--frob"]),
    ],
    ids=["profile", "knob", "value", "form", "swap", "option"],
)
def test_a_policy_or_option_that_does_not_exist_is_one_line(
    options: list[str], parts: list[str]
) -> None:
    assert_one_line(tagvisor("run", DATA / "k2-swap.scn", *options), *parts)


def test_replay_prints_counters_for_people_and_programs(trace: Path) -> None:
    people = tagvisor("replay", trace, "--limit", "0.5", "--knob", "K1=restore")
    programs = tagvisor("replay", trace, "--limit", "32", "--json")

    assert people.returncode == 0
    assert "786,431" in people.stdout
    row = json.loads(programs.stdout)
    assert (row["accesses"], row["mismatches"], row["limit_pages"]) == (786_431, 0, 32)
    assert row["swap_outs"] > 0


def test_replay_has_a_trace_of_its_own() -> None:
    row = json.loads(tagvisor("replay", "--limit", "0.25", "--json").stdout)

    assert row["trace"] == "sqlite3-churn.parquet"
    assert row["accesses"] >= 1_000_000
    assert row["mismatches"] == 0


def test_the_ledger_judges_a_replay_and_says_what_it_saw() -> None:
    replayed = ("replay", "--limit", "0.25", "--ledger")

    lost = tagvisor(*replayed, "--knob", "K1=restore")

    assert "P6: mte_pages[" in lost.stdout
    assert "P6" not in tagvisor(*replayed).stdout


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--memory", "3 KiB"], ["memory='3 KiB'", "4096-byte pages"]),
        (["--memory", "much"], ["memory='much'", "64 MiB"]),
        (["--memory", "-4096"], ["memory='-4096'", "at least one page"]),
        (["--limit", "1.5"], ["limit=1.5", "up to 1.0"]),
        (["--limit", "some"], ["'some'", "such as 0.5"]),
        (["--seed", "-1"], ["seed=-1", "0"]),
        (["--kernel", "9.9"], ["9.9", "linux-6.12"]),
    ],
)
def test_a_replay_that_cannot_be_is_one_line(
    trace: Path, options: list[str], parts: list[str]
) -> None:
    assert_one_line(tagvisor("replay", trace, *options), *parts)


def test_a_truncated_a_foreign_and_no_trace_are_one_line(trace: Path, tmp_path: Path) -> None:
    truncated, foreign = tmp_path / "truncated.parquet", tmp_path / "foreign.parquet"
    truncated.write_bytes(trace.read_bytes()[:-100])
    foreign.write_text("not a trace at all, but text of some length")

    assert_one_line(tagvisor("replay", truncated), "truncated.parquet", "tagvisor record")
    assert_one_line(tagvisor("replay", foreign), "foreign.parquet", "tagvisor record")
    assert_one_line(tagvisor("replay", tmp_path / "nosuch"), "nosuch", "trace")


def test_ctrl_c_ends_a_replay_with_the_counters_so_far(trace: Path) -> None:
    code = f"""
import os, signal, sys
from tagvisor import _console, cli
whole = _console.replay
def interrupted(*args, progress, **kwargs):
    def tell(at):
        progress(at)
        os.kill(os.getpid(), signal.SIGINT)
    return whole(*args, progress=tell, **kwargs)
_console.replay = interrupted
sys.exit(cli.main(["replay", {str(trace)!r}, "--json"]))
"""

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    row = json.loads(done.stdout)
    assert done.returncode == 130
    assert row["interrupted"]
    assert 0 < row["accesses"] < 786_431


def test_ctrl_c_elsewhere_ends_with_130() -> None:
    code = """
import sys
from tagvisor import cli, scenario
def interrupted(*args, **kwargs): raise KeyboardInterrupt
scenario.run = interrupted
sys.exit(cli.main(["run", sys.argv[1]]))
"""

    command = [sys.executable, "-c", code, str(DATA / "k2-swap.scn")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_fault_of_tagvisor_itself_is_not_the_users() -> None:
    code = """
import sys
import tagvisor as tv
from tagvisor import cli, scenario
def broken(*args, **kwargs): raise tv.InternalError("index out of range")
scenario.run = broken
sys.exit(cli.main(["run", sys.argv[1]]))
"""

    command = [sys.executable, "-c", code, str(DATA / "k2-swap.scn")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 70
    assert done.stderr == "tagvisor: internal error: index out of range; please report it\n"


def test_a_reader_that_leaves_early_is_no_error() -> None:
    code = """
import os, sys
from tagvisor import cli
read, write = os.pipe()
os.close(read)
os.dup2(write, 1)
sys.exit(cli.main(["run", sys.argv[1]]))
"""

    command = [sys.executable, "-c", code, str(DATA / "k2-swap.scn")]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (1, "")


def test_a_program_that_cannot_be_recorded_is_one_line(tmp_path: Path) -> None:
    done = tagvisor("record", "-o", "x.parquet", "--", "no-such-program", cwd=tmp_path)

    assert_one_line(done, "no-such-program")
    assert list(tmp_path.iterdir()) == []


def test_bench_names_what_there_is_to_measure() -> None:
    assert_one_line(tagvisor("bench", "frob"), "'frob'", "replay")


def test_matrix_is_one_json_object_a_cell() -> None:
    rows = [json.loads(line) for line in tagvisor("matrix", "--json").stdout.splitlines()]

    (lost,) = [
        row for row in rows if (row["row"], row["sequence"]) == ("K1=restore", "read-only-swap-in")
    ]
    assert (lost["verdict"], lost["property"]) == ("tags lost", "P1")
    assert lost["steps"]


def test_matrix_steps_fit_into_a_mail() -> None:
    shown = tagvisor("matrix", "--steps").stdout

    text = shown[shown.index("\nP1 ") :]
    assert "P1 no-loss does not hold" in text
    assert max(map(len, text.splitlines())) <= 80  # the rules between; the texts themselves: 72
