"""`make bench`: measure the figures this project is held to, and print them as one table.

Rows are taken alternately (A B C, A B C, ...), so that a machine which is slow for a while is slow for all of them, and
each figure is the median of the rounds with its least and its greatest value. The broker is `zmqbroker start` in
processes of its own; the clients are in this one. The column "elsewhere" repeats what other systems reached on another
machine (2 cores, Python 3.11): orientation, not a comparison; that needs both sides in the same run.

    python bench/run.py [--rows NAME ...] [--rounds N] [--quick] [--format table|json] [--temp-dir DIR]
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rows import (
    calibration,
    commits,
    compaction,
    consume,
    failover,
    latency,
    memory,
    produce,
    queues,
    rebalance,
    recovery,
    replication,
    startup,
)
from rows.broker import BrokerUnderTest
from rows.report import Outcome, as_json, as_table, surroundings
from rows.row import Bench, SkipRowError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rows.row import Row

ROWS: tuple[Row, ...] = (
    *calibration.ROWS,
    *startup.ROWS,
    *recovery.ROWS,
    *compaction.ROWS,
    *memory.ROWS,
    *produce.ROWS,
    *consume.ROWS,
    *latency.ROWS,
    *queues.ROWS,
    *rebalance.ROWS,
    *commits.ROWS,
    *replication.ROWS,
    *failover.ROWS,
)
ROUNDS = 5
QUICK_ROUNDS = 2
LIMIT_SECONDS = 1800
"""Whatever hangs, the run ends by then."""


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench/run.py", description="Measure the broker and its clients.")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only rows whose name contains one of these words")
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, with --quick {QUICK_ROUNDS}")
    parser.add_argument("--quick", action="store_true", help="less than a minute: fewer rounds, a fifth of the records")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument(
        "--temp-dir", help="where the logs are written meanwhile; the disk under it is what is measured"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the brokers")
    args = parser.parse_args(words)
    if args.rounds is None:
        args.rounds = QUICK_ROUNDS if args.quick else ROUNDS
    if args.rounds < 1:
        parser.error("--rounds must be 1 or more")
    return args


def chosen(names: Sequence[str] | None) -> list[Row]:
    """The rows that were asked for. SystemExit if a word is in no row's name."""
    if not names:
        return list(ROWS)
    for name in names:
        if not any(name in row.name for row in ROWS):
            listing = "\n".join(f"  {row.name}" for row in ROWS)
            sys.exit(f"no row has {name!r} in its name; there are\n{listing}")
    return [row for row in ROWS if any(name in row.name for name in names)]


def measure(rows: Sequence[Row], bench: Bench, rounds: int) -> list[Outcome]:
    """Take all rounds of all rows. A row that fails once is left out from then on, and says why."""
    outcomes = [Outcome(row) for row in rows]
    for number in range(rounds):
        for outcome in outcomes:
            if outcome.problem:
                continue
            _say(f"round {number + 1} of {rounds}: {outcome.row.name}")
            gc.collect()
            try:
                if number == 0 and outcome.row.prepare is not None:
                    outcome.row.prepare(bench)
                outcome.rounds.append(outcome.row.measure(bench))
            except SkipRowError as reason:
                outcome.problem = f"skipped: {reason}"
            except Exception as error:  # noqa: BLE001 - one row that fails shall not cost the others
                outcome.problem = f"failed: {type(error).__name__}: {error}"
                outcome.is_failed = True
    _say("")
    return outcomes


def _say(text: str) -> None:
    """Show progress, on one line of a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _end_by_signal(number: int, _frame: object) -> NoReturn:
    """Leave through every `finally`, so that processes and folders go; a second signal does not disturb that."""
    signal.signal(number, signal.SIG_IGN)
    if number == signal.SIGALRM:
        sys.exit(f"the run did not end within {LIMIT_SECONDS} s")
    sys.exit(128 + number)


def main() -> int:
    """Measure and print; exit code 1 if a row failed, 130 after Ctrl-C."""
    args = parse()
    rows = chosen(args.rows)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _end_by_signal)
    signal.alarm(LIMIT_SECONDS)
    begun = time.monotonic()
    with ExitStack() as closing:
        folder = Path(tempfile.mkdtemp(prefix="zmqbroker-bench-", dir=args.temp_dir))
        closing.callback(shutil.rmtree, folder, ignore_errors=True)
        made = 0

        def make_broker() -> BrokerUnderTest:
            nonlocal made
            made += 1
            broker = BrokerUnderTest(folder / f"broker-{made}", args.set)
            closing.callback(broker.kill)
            return broker

        about = surroundings(folder, rounds=args.rounds, is_quick=args.quick, settings=args.set)
        outcomes = measure(rows, Bench(folder, closing, args.quick, make_broker), args.rounds)
    about["seconds"] = f"{time.monotonic() - begun:.0f}"
    print(json.dumps(as_json(about, outcomes), indent=2) if args.format == "json" else as_table(about, outcomes))
    return 1 if any(outcome.is_failed for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
