"""`make bench-peers`: zmqbroker beside Kafka, Redis Streams, NATS JetStream and RabbitMQ, in one run on this machine.

Every system is started here, in a temporary folder and on free ports of loopback, and ended when no row needs it any
more. The lines of a row are taken in turns (A B C, A B C, ...), so that a machine which is slow for a while is slow for
all of them; each figure is the median of the rounds with its least and its greatest value. A system that cannot be
started is named with the reason. Nothing is installed: programs are looked for on the PATH.

    python bench/peers/run.py [--rows NAME ...] [--systems NAME ...] [--rounds N] [--quick] [--format table|json]
                              [--write-docs [DIR]] [--temp-dir DIR]
"""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parent.parent)  # the folders `peers` and `rows`, and no file of this folder

from rows.report import surroundings

from peers import cluster, consume, footprint, latency, produce, queues
from peers.document import write_docs
from peers.jetstream import JetStream
from peers.kafka_broker import Kafka, KafkaCluster
from peers.ours import Ours, OursCluster
from peers.rabbit import RabbitMQ
from peers.redis_streams import Redis
from peers.report import as_json, as_markdown
from peers.row import Outcome, Result
from peers.stage import MissingError, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from peers.row import Row
    from peers.system import System

ROWS: tuple[Row, ...] = (
    *produce.ROWS,
    *consume.ROWS,
    *latency.ROWS,
    *queues.ROWS,
    *footprint.ROWS,
    *cluster.ROWS,
)
SYSTEMS: tuple[type[System], ...] = (Ours, Kafka, Redis, JetStream, RabbitMQ, OursCluster, KafkaCluster)
ROUNDS = 5
QUICK_ROUNDS = 1
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
LIMIT_SECONDS = 4 * 3600
"""Whatever hangs, the run ends by then."""
ENDING: list[int | str] = []
"""Why the run shall end: looked at before each step, since an exception that meets a destructor is lost."""
DOCS = Path(__file__).parent.parent.parent / "docs"


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench/peers/run.py", description="Measure zmqbroker beside other brokers.")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only rows whose name contains one of these words")
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="only systems whose name contains one of these")
    parser.add_argument("--rounds", type=int, help=f"default {ROUNDS}, with --quick {QUICK_ROUNDS}")
    parser.add_argument("--quick", action="store_true", help="only try whether all works: few records, no warm-up")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument(
        "--write-docs", nargs="?", const=DOCS, type=Path, metavar="DIR", help="write benchmarks.md and .svg, into docs/"
    )
    parser.add_argument(
        "--temp-dir", help="where the data are written meanwhile; the disk under it is what is measured"
    )
    args = parser.parse_args(words)
    if args.rounds is None:
        args.rounds = QUICK_ROUNDS if args.quick else ROUNDS
    if args.rounds < 1:
        parser.error("--rounds must be 1 or more")
    return args


def chosen_rows(names: Sequence[str] | None) -> list[Row]:
    """The rows that were asked for. SystemExit if a word is in no row's name."""
    for name in names or ():
        if not any(name in row.name for row in ROWS):
            listing = "\n".join(f"  {row.name}" for row in ROWS)
            sys.exit(f"no row has {name!r} in its name; there are\n{listing}")
    return [row for row in ROWS if not names or any(name in row.name for name in names)]


def chosen_systems(names: Sequence[str] | None) -> list[type[System]]:
    """The systems that were asked for. SystemExit if a word is in no system's name."""
    for name in names or ():
        if not any(name.lower() in kind.name.lower() for kind in SYSTEMS):
            sys.exit(f"no system has {name!r} in its name; there are {', '.join(kind.name for kind in SYSTEMS)}")
    return [kind for kind in SYSTEMS if not names or any(name.lower() in kind.name.lower() for name in names)]


def measure(row: Row, kinds: Collection[type[System]], stage: Stage, rounds: int) -> Result:
    """Take all rounds of a row. A line that fails once is left out from then on, and says why."""
    outcomes = [Outcome(entry) for entry in row.entries if issubclass(entry.system, tuple(kinds))]
    for outcome in outcomes:
        _say(f"{row.name}: {outcome.entry.label}: made ready")
        prepare = outcome.entry.prepare
        _attempt(outcome, stage, (lambda: None) if prepare is None else partial(prepare, stage))
    for number in range(0 if row.warms_up and not stage.is_quick else 1, rounds + 1):
        for outcome in outcomes:
            if not outcome.problem:
                _say(f"{row.name}: {outcome.entry.label}: {f'round {number} of {rounds}' if number else 'warm-up'}")
                _attempt(outcome, stage, partial(_take, outcome, stage, counts=number > 0))
    result = Result(row, outcomes)
    if row.keeps is not None:
        label, key = row.keeps
        kept = result.best(row.figures[0], [label])
        if kept is not None:
            stage.kept[key] = kept.median(row.figures[0])
    return result


def _take(outcome: Outcome, stage: Stage, *, counts: bool) -> None:
    gc.collect()
    found = outcome.entry.measure(stage)
    if counts:
        outcome.rounds.append(found)


def _attempt(outcome: Outcome, stage: Stage, job: Callable[[], None]) -> None:
    if ENDING:
        sys.exit(ENDING[0])
    try:
        stage.check(outcome.entry.system)
        job()
    except MissingError as reason:
        outcome.problem = str(reason)
    except Exception as error:  # noqa: BLE001 - one line that fails shall not cost the others
        outcome.problem = f"{type(error).__name__}: {error}"
        outcome.is_failed = True


def _say(text: str) -> None:
    """Show progress, on one line of a terminal or as lines."""
    is_terminal = sys.stderr.isatty()
    print(f"\r\x1b[K{text}" if is_terminal else text, end="" if is_terminal else "\n", file=sys.stderr, flush=True)


def command_of(args: argparse.Namespace) -> str:
    """How this run is repeated, without the folders, which are other ones elsewhere."""
    words = [f"--rounds {args.rounds}"]
    words += ["--quick"] if args.quick else []
    for option, names in (("--rows", args.rows), ("--systems", args.systems)):
        words += [option, *(shlex.quote(name) for name in names)] if names else []
    words += ["--write-docs"] if args.write_docs is not None else []
    return f'make bench-peers ARGS="{" ".join(words)}"'


def _end_by_signal(number: int, _frame: object) -> NoReturn:
    """Leave through every `finally`, so that processes and folders go; a second signal does not disturb that."""
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    ENDING.append(f"the run did not end within {LIMIT_SECONDS} s" if number == signal.SIGALRM else 128 + number)
    sys.exit(ENDING[0])


def main() -> int:
    """Measure and print; exit code 1 if a line failed, 130 after Ctrl-C."""
    args = parse()
    rows, kinds = chosen_rows(args.rows), chosen_systems(args.systems)
    for signalled in SIGNALS:
        signal.signal(signalled, _end_by_signal)
    signal.alarm(LIMIT_SECONDS)
    begun = time.monotonic()
    with ExitStack() as closing:
        folder = Path(tempfile.mkdtemp(prefix="zmqbroker-peers-", dir=args.temp_dir))
        closing.callback(shutil.rmtree, folder, ignore_errors=True)
        about = {
            "command": f"`{command_of(args)}`",
            **surroundings(folder, rounds=args.rounds, is_quick=False, settings=()),
        }
        if args.quick:
            about["rounds"] += " (quick: a fiftieth of the records, no warm-up: figures that mean nothing)"
        stage = Stage(folder, closing, args.quick)
        for kind in kinds:
            with suppress(MissingError):
                stage.check(kind)
        results = []
        for number, row in enumerate(rows):
            results.append(measure(row, kinds, stage, args.rounds))
            later = [row for row in rows[number + 1 :] if row.uses_shared]
            stage.close_all_but({entry.system for row in later for entry in row.entries})
        if ENDING:
            sys.exit(ENDING[0])
        missing = {kind.name: reason for kind, reason in stage.problems.items()}
    about["seconds"] = f"{time.monotonic() - begun:.0f}"
    _say("")
    tables = as_markdown(about, kinds, missing, results)
    print(json.dumps(as_json(about, kinds, missing, results), indent=2) if args.format == "json" else tables)
    if args.write_docs is not None:
        write_docs(args.write_docs, command_of(args), tables, results)
    return 1 if any(outcome.is_failed for result in results for outcome in result.outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
