"""One look of the guard, in a process of its own: `python look.py NAME ... [--slower NAME=PERCENT]` prints JSON.

What is counted is the processor time of the whole process: what is moved to another thread counts too. The collector of
cycles is off in the slices, as what it costs depends on all else that lives in the process.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

sys.path.insert(0, str(FilePath(__file__).resolve().parent.parent))  # this folder is a package of its parent's

from guard import client_paths, kafka_paths, node_paths
from guard.judge import Slice, cost_of
from guard.work import CALIBRATION_TURNS, Path, Work, calibration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from guard.judge import Cost

PATHS: tuple[Path, ...] = (*client_paths.PATHS, *node_paths.PATHS, *kafka_paths.PATHS)
WARM_UPS = 10
ROUNDS = 200
LOOK_SECONDS = 14.0
"""A look ends by then, whether it has all its rounds or not: three of them take less than a minute."""
ROUNDS_A_COLLECTION = 10


def slowed(run: Callable[[], object], percent: float) -> Callable[[], None]:
    """The same, and so much longer."""

    def slower() -> None:
        begun = time.process_time_ns()
        run()
        until = begun + int((time.process_time_ns() - begun) * (1 + percent / 100))
        while time.process_time_ns() < until:
            pass

    return slower


def make_works(paths: Sequence[Path], closing: ExitStack, slower: Mapping[str, float]) -> dict[Path, Work]:
    """Set paths up and run each some times: caches are filled, and the interpreter has specialised its code."""
    works = {}
    for path in paths:
        work = path.make(closing)
        if path.name in slower:
            work = Work(slowed(work.run, slower[path.name]), work.prepare)
        works[path] = work
        for _ in range(WARM_UPS):
            work.prepare()
            work.run()
    return works


def look(works: Mapping[Path, Work]) -> dict[str, Cost]:
    """Take slices of all paths in turn, and say what each costs."""
    loop = calibration()
    for _ in range(WARM_UPS):
        loop()
    slices: dict[Path, list[Slice]] = {path: [] for path in works}
    deadline = time.monotonic() + LOOK_SECONDS
    gc.collect()
    gc.freeze()  # what is there already need not be looked through again and again
    gc.disable()
    try:
        for number in range(ROUNDS):
            for path, work in works.items():
                slices[path].append(_slice(work, loop))
            if number % ROUNDS_A_COLLECTION == 0:
                gc.collect()
            if time.monotonic() > deadline:
                break
    finally:
        gc.enable()
        gc.unfreeze()
    return {path.name: cost_of(found, units=path.units, turns=CALIBRATION_TURNS) for path, found in slices.items()}


def _slice(work: Work, loop: Callable[[], object]) -> Slice:
    """Calibration, the path, calibration. The path runs once before, untimed: it finds its caches as it leaves them.

    After all the other paths a first run takes up to twice as long, and how much depends on who else uses the caches.
    """
    before = _timed(loop)
    work.prepare()
    work.run()
    work.prepare()
    taken = _timed(work.run)
    return Slice(before, taken, _timed(loop))


def _timed(run: Callable[[], object]) -> int:
    begun = time.process_time_ns()
    run()
    return time.process_time_ns() - begun


def main() -> None:
    """Look, and print what each path costs."""
    parser = argparse.ArgumentParser(prog="look.py", description="Measure the paths of the guard once.")
    parser.add_argument("names", nargs="+", choices=[path.name for path in PATHS])
    parser.add_argument("--slower", action="append", default=[], metavar="NAME=PERCENT")
    args = parser.parse_args()
    slower = {name: float(percent) for name, _, percent in (word.partition("=") for word in args.slower)}
    with ExitStack() as closing:
        works = make_works([path for path in PATHS if path.name in args.names], closing, slower)
        print(json.dumps(look(works)))


if __name__ == "__main__":
    main()
