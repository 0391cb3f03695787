"""Makes a failing run smaller: fewer kinds of faults, nodes, clients and a shorter run, as long as it still fails."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .faults import draw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .faults import Plan
    from .run import Result

RUNS_MAX = 60
WORKLOADS = ("movers", "members", "sharers", "transactors", "administrators", "consumers", "producers")
_LENGTHS = (0.25, 0.5, 0.75)


def shrink(failed: Result, run: Callable[[Plan], Result], runs_max: int = RUNS_MAX) -> Result:
    """The smallest run found by greedy tries that violates the same invariant."""
    assert failed.violation is not None, "only a failed run can be shrunk"
    best = failed
    runs = 0
    progress = True
    while progress:
        progress = False
        for plan in smaller(best.plan):
            if runs == runs_max:
                return best
            runs += 1
            result = run(plan)
            if result.violation is not None and result.violation.invariant == failed.violation.invariant:
                best, progress = result, True
                break
    return best


def smaller(plan: Plan) -> Iterator[Plan]:
    """Plans with one thing less, those that leave out the most first."""
    swarm = draw(plan)
    for nodes in (1, 3):
        if nodes < swarm.nodes:
            yield replace(plan, nodes_max=nodes)
    for length in _LENGTHS:
        if length < plan.length:
            yield replace(plan, length=length)
    for kind in (*swarm.every_ms, *WORKLOADS):
        if kind not in plan.without:
            yield replace(plan, without=plan.without | {kind})
    if plan.clients_max > 1 and max(swarm.producers, swarm.consumers) > 1:
        yield replace(plan, clients_max=1)
