"""`make bench-growth`: how cost grows with partitions, clients, sizes, consumers, nodes and time, and with what shape.

Each size of each row is measured in processes of its own: nodes and clients that are started for it, in a temporary
folder, on free ports of the loopback device, and that end with it, however it ends. What causes a shape, as far as it
is known, stands in causes.toml beside this file and is printed with it.

    python bench/growth/run.py [--rows NAME ...] [--quick] [--minutes N] [--format table|json] [--write-docs]
        [--temp-dir DIR] [--set KEY=VALUE]

All rows take about three quarters of an hour, the soak's ten minutes among them. Exit code 1 if something failed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this folder is a package of its parent's

from rows.report import surroundings

from growth import connections, laggards, logs, nodes, partitions, report, sizes, soak
from growth.row import Bench, Findings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from growth.row import Row

ROWS: tuple[Row, ...] = (
    *partitions.ROWS,
    *connections.ROWS,
    *sizes.ROWS,
    *logs.ROWS,
    *laggards.ROWS,
    *nodes.ROWS,
    *soak.ROWS,
)
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "growth.md"
MINUTES = 10.0
QUICK_MINUTES = 0.25
LIMIT_SECONDS = 5400
"""Whatever hangs, the run ends by then; the soak's minutes come on top."""


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench/growth/run.py", description="Measure how cost grows.")
    names = [row.name for row in ROWS]
    parser.add_argument("--rows", nargs="+", choices=names, metavar="NAME", help=f"only these of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="a few minutes: fewer sizes, a fifth of the time and data")
    parser.add_argument(
        "--minutes", type=float, help=f"how long the soak takes (default {MINUTES:g}, with --quick {QUICK_MINUTES:g})"
    )
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--write-docs", action="store_true", help="write the measured rows' sections of docs/growth.md")
    parser.add_argument(
        "--temp-dir", help="where the logs are written meanwhile; the disk under it is what is measured"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the nodes")
    args = parser.parse_args(words)
    if args.minutes is None:
        args.minutes = QUICK_MINUTES if args.quick else MINUTES
    return args


def _end_by_signal(number: int, _frame: object) -> NoReturn:
    """Leave through every `finally`, so that processes and folders go; a second signal does not disturb that."""
    signal.signal(number, signal.SIG_IGN)
    if number == signal.SIGALRM:
        sys.exit("the run did not end within its time")
    sys.exit(128 + number)


def measure(rows: Sequence[Row], bench: Bench) -> list[tuple[Row, Findings]]:
    """Take one row after the other. One that fails as a whole says why, and does not cost the others."""
    results = []
    for row in rows:
        bench.say(row.name)
        try:
            findings = row.measure(bench)
        except Exception as error:  # noqa: BLE001 - one row that fails shall not cost the others
            findings = Findings(notes=[f"failed: {type(error).__name__}: {error}"], is_failed=True)
        results.append((row, findings))
    bench.say("")
    return results


def about_of(folder: Path, args: argparse.Namespace) -> dict[str, str]:
    """What the figures depend on."""
    about = surroundings(folder, rounds=1, is_quick=False, settings=args.set)
    del about["rounds"]
    return {**about, "sizes": "quick: a fifth of the time and data" if args.quick else "all", "on": time.strftime("%F")}


def main() -> int:
    """Measure and print; exit code 1 if something failed, 130 after Ctrl-C."""
    args = parse()
    rows = [row for row in ROWS if not args.rows or row.name in args.rows]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _end_by_signal)
    signal.alarm(LIMIT_SECONDS + int(args.minutes * 60))
    begun = time.monotonic()
    with ExitStack() as closing:
        folder = Path(tempfile.mkdtemp(prefix="zmqbroker-growth-", dir=args.temp_dir))
        closing.callback(shutil.rmtree, folder, ignore_errors=True)
        about = about_of(folder, args)
        results = measure(rows, Bench(folder, args.quick, args.minutes, args.set))
    about["seconds"] = f"{time.monotonic() - begun:.0f}"
    if args.write_docs:
        old = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else ""
        sections = {row.title: report.section(row, findings, about) for row, findings in results}
        DOCUMENT.write_text(report.document(old, ROWS, sections), encoding="utf-8")
        for row in rows:
            print(f"no words in causes.toml for {row.name}: {'; '.join(report.unexplained(row))}", file=sys.stderr)
    if args.format == "json":
        print(json.dumps(report.as_json(about, results), indent=2))
    else:
        print(report.as_table(about, results))
    return 1 if any(findings.is_failed for _, findings in results) else 0


if __name__ == "__main__":
    sys.exit(main())
