"""Runs many seeds in processes, tells of the first that fails, shrinks it, and says how to see it again."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from .run import Counts, Result, run
from .shrink import shrink
from .transaction_mutations import MUTATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .faults import Plan

TWICE_EVERY = 100
"""One seed in so many runs twice, the second time in a process with other hashes, and must leave the same trace."""
PROGRESS_EVERY = 50
TASKS_A_PROCESS = 200
"""What a run leaves in memory goes with the process."""
COMMAND = "python -m zmqbroker.simulation"

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Finding:
    """A run that failed, fit to be sent between processes."""

    plan: Plan
    violation: str
    smallest: Plan
    smallest_violation: str

    def __str__(self) -> str:
        """Say what failed and how to see it."""
        lines = [f"seed {self.plan.seed} FAILED: {self.violation}", f"  replay:   {COMMAND} {self.plan}"]
        if self.smallest != self.plan:
            lines += [f"  smallest: {COMMAND} {self.smallest}", f"            {self.smallest_violation}"]
        return "\n".join(lines)


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)  # noqa: T201 - a program's output


def try_plan(plan: Plan, *, shrinking: bool = True, announce: bool = False) -> Finding | Counts:
    """Run a plan; what it tried, or what it found."""
    if announce:
        say(f"seed {plan.seed}")
    result = run(plan)
    if result.violation is None and plan.seed % TWICE_EVERY == TWICE_EVERY - 1:
        again = hash_elsewhere(plan)
        if again != result.trace_hash:
            text = f"not deterministic: the trace has the hash {result.trace_hash}, and in another process {again}"
            return Finding(plan, text, plan, text)
    if result.violation is None:
        return result.counts
    smallest = shrink(result, run) if shrinking else result
    return Finding(plan, str(result.violation), smallest.plan, str(smallest.violation))


def hash_elsewhere(plan: Plan) -> str:
    """The trace's hash of a plan that is run in another process, in which strings have other hashes."""
    environment = {**os.environ, "PYTHONHASHSEED": str(plan.seed + 1)}
    command = [sys.executable, "-m", "zmqbroker.simulation", *str(plan).split(), "--hash-only"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() or done.stderr


def _work(plan: Plan) -> Finding | Counts:
    return try_plan(plan, announce=True)


def run_seeds(plans: Sequence[Plan], jobs: int) -> int:
    """Run all plans, up to the first that fails; the exit code."""
    total = Counts()
    for number, outcome in enumerate(_each(_work, plans, jobs), 1):
        if isinstance(outcome, Finding):
            say(str(outcome))
            return 1
        total.add(outcome)
        if number % PROGRESS_EVERY == 0 or number == len(plans):
            say(f"{number} of {len(plans)} seeds are well: {total}")
    return 0


def _each(work: Callable[[Job], Outcome], jobs: Sequence[Job], processes: int) -> Iterator[Outcome]:
    """What comes of each job, as soon as it is done."""
    if processes == 1:
        yield from map(work, jobs)
        return
    with get_context("spawn").Pool(processes, maxtasksperchild=TASKS_A_PROCESS) as pool:
        yield from pool.imap_unordered(work, jobs)


def replay(plan: Plan) -> int:
    """Run one plan with a trace to be read; the exit code."""
    result = run(plan, say)
    say(f"{result.counts}; trace {result.trace_hash}")
    if result.violation is None:
        return 0
    say(f"FAILED: {result.violation}")
    return 1


class Noticed(NamedTuple):
    """What came of runs without a safety rule."""

    by: Result | None
    """The first run that ended in a violation of an invariant of the rule's own."""
    instead: Result | None
    """The first run before it that ended otherwise."""


def find_mutation(name: str, plans: Iterable[Plan], run_plan: Callable[[Plan], Result] = run) -> Noticed:
    """Run plans without a safety rule until one of its own invariants is violated."""
    mutation = MUTATIONS[name]
    instead: Result | None = None
    with mutation.applied():
        for plan in plans:
            result = run_plan(plan)
            if result.violation is None:
                continue
            if mutation.is_shown_by(result.violation):
                return Noticed(result, instead)
            instead = instead or result
    return Noticed(None, instead)


def try_mutation(name: str, plans: Sequence[Plan], run_plan: Callable[[Plan], Result] = run) -> tuple[bool, str]:
    """Whether a rule is missed if it is gone, and the line that says so."""
    found = find_mutation(name, plans, run_plan)
    if found.by is not None:
        return True, f"{name}: seed {found.by.plan.seed}: {found.by.violation}"
    if found.instead is not None:
        what = f"seed {found.instead.plan.seed}: {found.instead.violation}"
        return False, f"{name}: NOT NOTICED by its own invariant: {what}"
    return False, f"{name}: NOT NOTICED by {len(plans)} seeds: {MUTATIONS[name].rule}"


def _try(job: tuple[str, Sequence[Plan]]) -> tuple[bool, str]:
    return try_mutation(*job)


def run_mutations(names: Sequence[str], plan: Plan, seeds: int, jobs: int) -> int:
    """Take away each safety rule, one in a process; some seed from the plan's on has to notice. The exit code."""
    tried = []
    for name in names:
        mutation = MUTATIONS[name]
        if mutation.nodes_min > plan.nodes_max:
            say(f"{name}: left out, it takes {mutation.nodes_min} nodes")
        elif mutation.redundant:
            say(f"{name}: not tried: {mutation.redundant}")
        else:
            first = replace(plan, nodes_min=mutation.nodes_min, only=mutation.only)
            tried.append((name, plans_from(first, seeds)))
    unnoticed = 0
    for noticed, line in _each(_try, tried, jobs):
        unnoticed += not noticed
        say(line)
    return 1 if unnoticed else 0


def plans_from(plan: Plan, count: int) -> list[Plan]:
    """So many plans, with the seeds from the given one's on."""
    return [replace(plan, seed=plan.seed + number) for number in range(count)]
