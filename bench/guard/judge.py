"""The guard's judgement: what a path costs by its slices, and whether that is within its limit. No clock, no files.

A slice of a path is taken between two slices of the calibration loop, so that each is set against what the machine
did just then. Others who use the machine take the processor away, which processor time does not count, and with it the
caches, which it does: a slice that was interrupted is dearer, the path's by more than the loop's. So slices are short
enough for many to pass between two interruptions, a slice is set against the faster of its neighbours, and what counts
is the lower quartile of these ratios. On two cores with a load of six that varied by one per cent from one look to the
next, with a load of fourteen by seven; medians and least values did by far more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LEAST_DISTURBED = 0.25
"""The quantile that counts."""
STALE = 0.75
"""A path that costs less than this of what it used to: its limit no longer guards anything near it."""
HEADS = ("path", "cost", "usual", "limit", "of usual", "now", "")


class Slice(NamedTuple):
    """What three neighbours took, in nanoseconds: a slice of the path in the middle, calibration on both sides."""

    before: int
    taken: int
    after: int


class Cost(NamedTuple):
    """What one unit of a path costs."""

    turns: float
    """In turns of the calibration loop."""
    nanoseconds: float
    """On this machine, now."""


class Verdict(NamedTuple):
    """One path, and what is said of it."""

    name: str
    cost: Cost | None
    """None: it is not measured any more."""
    usual: float | None
    """What it cost when the limits were written; None: it has no limit yet."""
    limit: float
    """In turns."""

    @property
    def is_too_dear(self) -> bool:
        """Whether the limit is exceeded."""
        return self.cost is not None and self.usual is not None and self.cost.turns > self.limit

    @property
    def is_wrong(self) -> bool:
        """Whether somebody has to look at it."""
        return self.cost is None or self.usual is None or self.is_too_dear

    @property
    def mark(self) -> str:
        """A word for the table."""
        if self.usual is None:
            return "no limit"
        if self.cost is None:
            return "gone"
        return "too dear" if self.is_too_dear else "cheaper" if self.is_stale else ""

    @property
    def is_stale(self) -> bool:
        """Whether it has become so much cheaper that the limit ought to follow."""
        return self.cost is not None and self.usual is not None and self.cost.turns < STALE * self.usual


def cost_of(slices: Sequence[Slice], *, units: int, turns: int) -> Cost:
    """The cost of one of the units of each slice, given how many turns a slice of the calibration has."""
    ratio = _quantile([found.taken / min(found.before, found.after) for found in slices])
    return Cost(ratio * turns / units, _quantile([found.taken for found in slices]) / units)


def _quantile(values: Sequence[float]) -> float:
    assert values, "nothing was measured"
    return sorted(values)[int(len(values) * LEAST_DISTURBED)]


def judge(costs: Mapping[str, Cost], usual: Mapping[str, float], margin: float) -> list[Verdict]:
    """Hold each cost against its limit, the usual one and a margin; behind them the limits of paths that are gone."""
    verdicts = []
    for name, cost in costs.items():
        its_usual = usual.get(name)
        verdicts.append(Verdict(name, cost, its_usual, (its_usual or 0.0) * (1 + margin)))
    verdicts += [Verdict(name, None, old, old * (1 + margin)) for name, old in usual.items() if name not in costs]
    return verdicts


def better(first: Mapping[str, Cost], second: Mapping[str, Cost]) -> dict[str, Cost]:
    """Of two looks at the same paths the cheaper one each: what disturbs a look makes it dearer, hardly cheaper.

    The second may have looked at some of them only.
    """
    return {name: min(cost, second.get(name, cost), key=lambda found: found.turns) for name, cost in first.items()}


def sentence(verdict: Verdict, margin: float) -> str:
    """What is wrong with one path, or worth to know; empty if nothing is."""
    name, cost, usual, limit = verdict
    if usual is None:
        return f"{name} has no limit: --write makes one"
    if cost is None:
        return f"{name} has a limit and is not measured any more: --write forgets it"
    if verdict.is_wrong:
        return (
            f"{name} costs {_shown(cost.turns)} turns of the calibration loop, {cost.turns / usual - 1:.0%} more than"
            f" the usual {_shown(usual)}; its limit is {_shown(limit)}, {margin:.0%} more, and that is exceeded by"
            f" {cost.turns / limit - 1:.0%}"
        )
    if verdict.is_stale:
        return f"{name} costs {1 - cost.turns / usual:.0%} less than usual: --write would make its limit follow"
    return ""


def table(verdicts: Sequence[Verdict]) -> str:
    """All paths, one a line."""
    rows = [HEADS]
    for verdict in verdicts:
        name, cost, usual, limit = verdict
        rows.append(
            (
                name,
                "-" if cost is None else _shown(cost.turns),
                "-" if usual is None else _shown(usual),
                "-" if usual is None else _shown(limit),
                "-" if cost is None or usual is None else f"{cost.turns / usual:.0%}",
                "-" if cost is None else f"{cost.nanoseconds:,.0f} ns",
                verdict.mark,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADS))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _shown(turns: float) -> str:
    return f"{turns:.2f}" if turns < 100 else f"{turns:.0f}"  # noqa: PLR2004 - four digits are enough to read
