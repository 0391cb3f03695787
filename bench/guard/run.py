"""`make bench-guard`: hold what a record costs on each part of its way against committed limits. Less than a minute.

Each path is measured in slices of less than a millisecond between slices of a loop of plain Python, and its cost is
counted in turns of that loop (work.py). So the figures hardly depend on how fast the machine is, nor on what else it
does (judge.py says how), and a commit that makes a path dearer is noticed anywhere.

A path that exceeds its limit (limits.toml) is looked at again, up to three times, each time in another process, and the
best look counts: where the system puts a process's memory alone makes some paths dearer by a fifth.

    python bench/guard/run.py [--paths NAME ...] [--write] [--slower NAME=PERCENT ...]

Exit code 1 if a limit is exceeded or missing. --slower makes a path dearer than it is, to see that it is noticed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from functools import reduce
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

sys.path.insert(0, str(FilePath(__file__).resolve().parent.parent))  # this folder is a package of its parent's

from guard import limits
from guard.judge import Cost, Verdict, better, judge, sentence, table
from guard.look import PATHS

if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES = [path.name for path in PATHS]
LOOK = FilePath(__file__).with_name("look.py")
LOOKS = 3
LOOK_TIMEOUT_SECONDS = 60.0


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="bench/guard/run.py",
        description="Hold costs against committed limits.",
        epilog="\n".join(["paths:", *(f"  {path.name:15}{path.what}" for path in PATHS)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--paths", nargs="+", choices=NAMES, metavar="NAME", help="only these")
    parser.add_argument("--write", action="store_true", help="write the limits anew from what is measured")
    parser.add_argument(
        "--slower", nargs="+", default=[], metavar="NAME=PERCENT", help="pretend that paths cost so much more"
    )
    args = parser.parse_args(words)
    if args.write and (args.paths or args.slower):
        parser.error("--write takes all paths as they are")
    return args


def look(names: Sequence[str], slower: Sequence[str] = ()) -> dict[str, Cost]:
    """What each of these paths costs, measured in a process of its own."""
    command = [sys.executable, str(LOOK), *names, *(f"--slower={word}" for word in slower)]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=LOOK_TIMEOUT_SECONDS, check=True)
    return {name: Cost(*cost) for name, cost in json.loads(done.stdout).items()}


def examine(names: Sequence[str], known: limits.Limits, slower: Sequence[str]) -> list[Verdict]:
    """Measure and judge; what seems to be too dear is looked at again."""
    table_of_version = known.usual.get(limits.python_version(), {})
    left_out = set(NAMES) - set(names)
    usual = {name: figure for name, figure in table_of_version.items() if name not in left_out}
    costs = look(names, slower)
    for _ in range(LOOKS - 1):
        doubtful = [verdict.name for verdict in judge(costs, usual, known.margin) if verdict.is_too_dear]
        if not doubtful:
            break
        print(f"another look at {', '.join(doubtful)}", file=sys.stderr)
        costs = better(costs, look(doubtful, slower))
    return judge(costs, usual, known.margin)


def write(known: limits.Limits) -> list[Verdict]:
    """Measure with all looks, and make that the limits; how they compare with those before."""
    costs = reduce(better, (look(NAMES) for _ in range(LOOKS)))
    version = limits.python_version()
    text = limits.written(known, version, {name: cost.turns for name, cost in costs.items()})
    limits.FILE.write_text(text, encoding="utf-8")
    return judge(costs, known.usual.get(version, {}), known.margin)


def main() -> int:
    """Measure, print, and say by the exit code whether all is within its limits."""
    args = parse()
    begun = time.monotonic()
    known = limits.read(limits.FILE.read_text(encoding="utf-8"))
    verdicts = write(known) if args.write else examine(args.paths or NAMES, known, args.slower)
    print(table(verdicts))
    print(f"Python {limits.python_version()}, {time.monotonic() - begun:.0f} s; cost in turns of the calibration loop")
    if args.write:
        print(f"these costs are the usual ones from now on, in {limits.FILE.name}")
        return 0
    for said in filter(None, (sentence(verdict, known.margin) for verdict in verdicts)):
        print(said)
    return 1 if any(verdict.is_wrong for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
