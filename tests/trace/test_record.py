"""Recording real programs: one stream, in order, with the program's own behaviour kept."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

from tagvisor.errors import RecordError
from tagvisor.trace.format import Columns, open_trace
from tagvisor.trace.record import RecordProgress, record

LOAD, STORE, MALLOC, FREE, REALLOC_FROM, REALLOC = range(6)
MARK = 1_000_003  # a size no library asks for; marks where the program's own calls begin


def build(folder: Path, source: str, *flags: str) -> str:
    program = folder / "program"
    (folder / "program.c").write_text(textwrap.dedent(source))
    cc = shutil.which("cc")
    assert cc is not None, "the tests need a C compiler"
    command = [cc, "-O0", "-fno-builtin", "-w", "-o", str(program), str(folder / "program.c")]
    subprocess.run([*command, *flags], check=True)
    return str(program)


def events(path: Path) -> Columns:
    batches = list(open_trace(path).batches())
    return Columns(*(np.concatenate(column) for column in zip(*batches, strict=True)))


def heap_events(columns: Columns) -> list[tuple[int, int, int]]:
    """(op, size, address) of the heap events after the mark."""
    mark = int(np.flatnonzero((columns.op == MALLOC) & (columns.size == MARK))[0])
    rows = [row for row in np.flatnonzero(columns.op >= MALLOC) if row > mark]
    return [(int(columns.op[r]), int(columns.size[r]), int(columns.addr[r])) for r in rows]


HEAP_PROGRAM = f"""
    #include <malloc.h>
    #include <stdlib.h>
    #include <string.h>
    int main(void) {{
        malloc({MARK});
        char *a = malloc(24);
        char *b = calloc(3, 7);
        for (int i = 0; i < 21; i++) b[i] = 'x';
        a = realloc(a, 4000);
        char *c = realloc(0, 48);
        void *d;
        posix_memalign(&d, 256, 100);
        char *e = aligned_alloc(64, 130);
        if ((unsigned long)d % 256 || (unsigned long)e % 64) return 8;
        if (malloc_usable_size(b) != 21) return 9;
        free(b);
        free(0);
        realloc(c, 0);
        free(d);
        free(a);
        free(e);
        return 3;
    }}
"""


def test_heap_events_are_the_programs_calls_in_order(tmp_path: Path) -> None:
    result = record([build(tmp_path, HEAP_PROGRAM)], tmp_path / "t.parquet")

    found = heap_events(events(tmp_path / "t.parquet"))
    a, b, moved, c, d, e = (found[i][2] for i in (0, 1, 3, 4, 5, 6))
    assert found[:12] == [
        (MALLOC, 24, a),
        (MALLOC, 21, b),
        (REALLOC_FROM, 0, a),
        (REALLOC, 4000, moved),
        (MALLOC, 48, c),
        (MALLOC, 100, d),
        (MALLOC, 130, e),
        (FREE, 0, b),
        (FREE, 0, c),
        (FREE, 0, d),
        (FREE, 0, moved),
        (FREE, 0, e),
    ]
    assert result.exit_status == 3
    assert result.info.exit_status == 3
    assert result.info.complete


def test_accesses_stand_between_the_heap_events_they_happened_between(tmp_path: Path) -> None:
    record([build(tmp_path, HEAP_PROGRAM)], tmp_path / "t.parquet")

    columns = events(tmp_path / "t.parquet")
    b = next(address for op, size, address in heap_events(columns) if (op, size) == (MALLOC, 21))
    born = np.flatnonzero((columns.op == MALLOC) & (columns.addr == b) & (columns.size == 21))[0]
    died = np.flatnonzero((columns.op == FREE) & (columns.addr == b))[0]
    inside = (columns.op == STORE) & (columns.addr >= b) & (columns.addr < b + 21)
    rows = np.flatnonzero(inside)
    rows = rows[(rows > born) & (rows < died)]
    assert columns.addr[rows].tolist() == list(range(b, b + 21))


def test_allocations_are_a_granule_apart(tmp_path: Path) -> None:
    source = f"""
        #include <stdlib.h>
        int main(void) {{ malloc({MARK}); for (int i = 0; i < 200; i++) malloc(i % 70 + 1); }}
    """
    record([build(tmp_path, source)], tmp_path / "t.parquet")

    found = heap_events(events(tmp_path / "t.parquet"))
    chunks = sorted((address, -(-size // 16) * 16) for op, size, address in found if op == MALLOC)
    assert len(chunks) == 200
    for (low, size), (high, _) in itertools.pairwise(chunks):
        assert low + size + 16 <= high


def test_threads_do_not_mix_their_events(tmp_path: Path) -> None:
    source = f"""
        #include <pthread.h>
        #include <stdlib.h>
        static void *work(void *own) {{
            size_t size = 1000 + (size_t)own;
            for (int i = 0; i < 300; i++) {{
                char *p = malloc(size);
                p[i] = 1;
                p = realloc(p, size + 500);
                free(p);
            }}
            return 0;
        }}
        int main(void) {{
            pthread_t t[4];
            malloc({MARK});
            for (size_t i = 0; i < 4; i++) pthread_create(&t[i], 0, work, (void *)i);
            for (int i = 0; i < 4; i++) pthread_join(t[i], 0);
        }}
    """
    result = record([build(tmp_path, source, "-pthread")], tmp_path / "t.parquet")

    assert result.exit_status == 0
    live: dict[int, int] = {}
    sizes = {1000 + own: 0 for own in range(4)}
    old = 0
    for op, size, address in heap_events(events(tmp_path / "t.parquet")):
        if op == MALLOC:
            assert address not in live
            live[address] = size
            if size in sizes:
                sizes[size] += 1
        elif op == REALLOC_FROM:
            old = address
        elif op == REALLOC:
            assert size == live.pop(old) + 500
            live[address] = size
        else:
            live.pop(address, None)
    assert set(sizes.values()) == {300}
    assert not any(1000 <= size < 1600 for size in live.values())


def test_a_child_runs_but_is_not_recorded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = f"""
        #include <stdio.h>
        #include <stdlib.h>
        #include <sys/wait.h>
        #include <unistd.h>
        int main(void) {{
            malloc({MARK});
            if (!fork()) {{ for (int i = 0; i < 50; i++) malloc(777); puts("child"); return 0; }}
            wait(0);
            malloc(555);
            system("echo grandchild");
            return 0;
        }}
    """
    result = record([build(tmp_path, source)], tmp_path / "t.parquet")

    sizes = [size for op, size, _ in heap_events(events(tmp_path / "t.parquet")) if op == MALLOC]
    assert (sizes.count(777), sizes.count(555)) == (0, 1)
    assert result.exit_status == 0
    assert capfd.readouterr().out.split() == ["child", "grandchild"]


def test_a_signal_is_passed_through(tmp_path: Path) -> None:
    source = "#include <signal.h>\nint main(void) { raise(SIGTERM); }"
    result = record([build(tmp_path, source)], tmp_path / "t.parquet")
    assert result.exit_status == -signal.SIGTERM


def test_a_program_of_the_system_is_recorded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[RecordProgress] = []
    result = record(["echo", "hello"], tmp_path / "t.parquet", note="n", progress=told.append)

    assert capfd.readouterr().out == "hello\n"
    info = open_trace(tmp_path / "t.parquet").info
    assert info == result.info
    assert (info.program, info.command, info.note) == ("echo", ("echo", "hello"), "n")
    assert info.accesses > 10_000
    assert info.pages > 50
    assert "valgrind" in info.generator


def test_a_limit_ends_the_program_and_keeps_the_trace(tmp_path: Path) -> None:
    source = "#include <unistd.h>\nint main(void) { volatile long n = 0; for (;;) n++; }"
    result = record([build(tmp_path, source)], tmp_path / "t.parquet", max_accesses=300_000)

    assert result.exit_status is None
    assert result.info.accesses == 300_000
    assert not open_trace(tmp_path / "t.parquet").info.complete


def commands_running() -> str:
    """The command lines of all processes, run together."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended since
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return "\n".join(found)


@pytest.mark.usefixtures("keyboard")
def test_ctrl_c_leaves_no_file_and_no_process(tmp_path: Path) -> None:
    source = "int main(void) { volatile long n = 0; for (;;) n++; }"
    program = build(tmp_path, source)
    timer = threading.Timer(1.0, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        record([program], tmp_path / "t.parquet")
    timer.join()
    assert not [path for path in tmp_path.iterdir() if "parquet" in path.name]
    assert str(program) not in commands_running()


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no-such-program: no such program"):
        record(["no-such-program"], tmp_path / "t.parquet")


def test_a_missing_tool_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "echo").symlink_to("/bin/echo")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(
        RecordError, match=r"valgrind is not installed: .* apt-get install valgrind"
    ):
        record(["echo"], tmp_path / "t.parquet")

    (tmp_path / "bin" / "valgrind").symlink_to("/usr/bin/valgrind")
    with pytest.raises(RecordError, match=r"cc is not installed: .* apt-get install gcc libc6-dev"):
        record(["echo"], tmp_path / "t.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_a_static_program_is_refused(tmp_path: Path) -> None:
    program = build(tmp_path, "int main(void) { return 0; }", "-static")
    with pytest.raises(RecordError, match="did not load the heap wrapper: record a dynamically"):
        record([program], tmp_path / "t.parquet")
    assert not (tmp_path / "t.parquet").exists()


def test_no_program_and_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no program was given"):
        record([], tmp_path / "t.parquet")
    with pytest.raises(RecordError, match="is not a directory"):
        record([sys.executable], tmp_path / "nowhere" / "t.parquet")
    with pytest.raises(RecordError, match="max_accesses=0"):
        record([sys.executable], tmp_path / "t.parquet", max_accesses=0)
