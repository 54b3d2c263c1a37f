"""One command for the table of scores.

``python -m tests.fidelity`` runs every bundled scenario under each recorded kernel and prints the
scores, and with ``--differences`` what differs, grouped by command. ``--write`` puts the table into
``docs/fidelity.md``. Given a folder of recordings (``recorded/KERNEL-SWAP/*.jsonl`` with ``scn/``,
``corpus/KERNEL.jsonl`` with ``corpus/scn/``) it judges those, and ``--bundle`` packs them into the
file that the tests use.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter
from pathlib import Path

from tests.fidelity.scores import BUNDLE, Recording, Score, bundled, score

PAGE = Path(__file__).resolve().parents[2] / "docs" / "fidelity.md"
BEGIN, END = "<!-- scores -->", "<!-- /scores -->"


def from_folder(folder: Path) -> list[Recording]:
    """The recordings in a folder as the recording kit lays it out."""
    found = []
    for answers in sorted(folder.glob("recorded/*/*.jsonl")):
        kernel, _, swap = answers.parent.name.partition("-")
        text = (folder / "scn" / f"{answers.stem}.scn").read_text()
        lines = [json.loads(line) for line in answers.read_text().splitlines()]
        found.append(Recording(answers.stem, kernel, swap, text, lines))
    for corpus in sorted(folder.glob("corpus/*.jsonl")):
        for line in corpus.read_text().splitlines():
            record = json.loads(line)
            text = (folder / "corpus" / "scn" / f"{record['id']}.scn").read_text()
            found.append(Recording(record["id"], corpus.stem, "zram", text, record["answers"]))
    return found


def table(scores: list[Score]) -> str:
    """The scores as a Markdown table."""
    lines = ["| kernel | swap | scenarios | answers | equal | |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {s.kernel} | {s.swap} | {s.scenarios} | {s.compared:,} | {s.equal:,}"
        f" | {s.percent:.2f} % |"
        for s in scores
    ]
    return "\n".join(lines)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fidelity", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="recordings; the bundled ones if none")
    parser.add_argument("--differences", type=int, default=0, metavar="N", help="shown a command")
    parser.add_argument("--write", action="store_true", help="put the table into docs/fidelity.md")
    parser.add_argument("--bundle", action="store_true", help="pack the folder for the tests")
    arguments = parser.parse_args()
    recordings = from_folder(arguments.folder) if arguments.folder else bundled()
    if arguments.bundle:
        rows = [json.dumps(vars(recording)) for recording in recordings]
        packed = gzip.compress(("\n".join(rows) + "\n").encode(), 9, mtime=0)
        BUNDLE.write_bytes(packed)
    scores = score(recordings)
    print(table(scores))
    for s in scores:
        groups = Counter(difference.group for difference in s.differences)
        if arguments.differences and groups:
            print(f"\n{s.kernel} {s.swap}: {dict(groups.most_common())}")
        for group in groups if arguments.differences else ():
            shown = [d for d in s.differences if d.group == group][: arguments.differences]
            for difference in shown:
                print(f"  {difference}")
    if arguments.write:
        page = PAGE.read_text()
        head, _, rest = page.partition(BEGIN)
        _, _, tail = rest.partition(END)
        PAGE.write_text(f"{head}{BEGIN}\n{table(scores)}\n{END}{tail}")
    return 0


sys.exit(main())
