"""What comes out of a run: a table of the goals, a table for each row, and what all of it depends on; or JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .row import Ratio, judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .row import Figure, Outcome, Result, Verdict
    from .system import System

FINE = 10
"""Below this, figures are shown with two decimals; below a thousand with one."""
COARSE = 1000
NOT_IN_DEBIAN = (
    "NATS's own tool (`nats bench`) and RabbitMQ's (PerfTest): Debian has no package of either, so their Python "
    "clients stand alone"
)
RATIOS = (
    "A ratio is that of the medians; in brackets are the least and the greatest of the rounds, which were taken in "
    "turns. Where less is better, a smaller ratio is."
)
GOAL_HEADS = (
    "work",
    "zmqbroker",
    "median (min-max)",
    "best relevant peer",
    "its median (min-max)",
    "ratio",
    "goal",
    "met",
)
MET = {True: "yes", False: "no", None: "?"}
SAID = {True: "met", False: "not met", None: "unknown"}


def shown(number: float) -> str:
    """A figure with as many digits as mean something."""
    if abs(number) < FINE:
        return f"{number:.2f}"
    return f"{number:.1f}" if abs(number) < COARSE else f"{number:,.0f}"


def spread(outcome: Outcome, figure: Figure) -> str:
    """The median with the least and the greatest value."""
    values = outcome.values(figure)
    return f"{shown(outcome.median(figure))} ({shown(min(values))}-{shown(max(values))})"


def times(ratio: Ratio) -> str:
    """A ratio with its spread."""
    return f"{ratio.median:.2f}x ({ratio.least:.2f}-{ratio.most:.2f})"


# ---- tables


def as_markdown(
    about: dict[str, str], kinds: Sequence[type[System]], missing: dict[str, str], results: Sequence[Result]
) -> str:
    """Everything, for people: at a terminal as in a file."""
    lines = ["## The goals", ""]
    lines += _table(GOAL_HEADS, _goal_lines(results))
    lines += [
        "",
        RATIOS,
        "",
        "## What was run",
        "",
    ]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += [f"- {_known(kind, missing)}" for kind in kinds]
    lines += ["", "## What is missing", ""]
    problems = [f"{name}: {reason}" for name, reason in missing.items()]
    problems += [line for result in results for line in _failures(result)]
    lines += [f"- {' '.join(problem.split())}" for problem in problems]
    lines.append(f"- {NOT_IN_DEBIAN}.")
    for result in results:
        lines += ["", f"## {result.row.name}", "", result.row.about, ""]
        lines += _row_table(result)
    return "\n".join(lines)


def _failures(result: Result) -> list[str]:
    failed = [outcome for outcome in result.outcomes if outcome.is_failed]
    return [f"{result.row.name}, {outcome.entry.label}: {outcome.problem}" for outcome in failed]


def _in_short(outcome: Outcome) -> str:
    return "failed" if outcome.is_failed else "missing"


def _known(kind: type[System], missing: dict[str, str]) -> str:
    if kind.name in missing:
        return f"{kind.name}: missing, as said below"
    return f"{kind.name}: {kind.version()}; {kind.settings}"


def _goal_lines(results: Iterable[Result]) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = []
    for result in results:
        for outcome in result.outcomes:
            for goal in outcome.entry.goals:
                verdict = judge(result, outcome, goal)
                figure = result.figure(goal.figure)
                work = result.row.name + (f", {figure.name}" if len(result.row.figures) > 1 else "")
                ours = f"{spread(outcome, figure)} {figure.unit}" if outcome.rounds else _in_short(outcome)
                peer, ratio = _compared(result, outcome, verdict)
                theirs = f"{spread(peer, figure)} {figure.unit}" if peer is not None else ""
                name = peer.entry.label if peer is not None else "none has a figure"
                met = MET[verdict.is_met]
                lines.append((work, outcome.entry.client, ours, name, theirs, ratio, goal.text, met))
    return lines


def _compared(result: Result, outcome: Outcome, verdict: Verdict) -> tuple[Outcome | None, str]:
    """Whom a goal's line is set against: whom the goal names, or the best of all, and the ratio to it."""
    if verdict.peer is not None and verdict.ratio is not None:
        return verdict.peer, times(verdict.ratio)
    figure = result.figure(verdict.goal.figure)
    best = result.best(figure)
    if best is None or not outcome.rounds or verdict.goal.against:
        return None, ""
    return best, times(Ratio.of(outcome, best, figure))


def _row_table(result: Result) -> list[str]:
    """A line for each system and client; ours with the ratio to the best peer of all, and with the goals."""
    figures = result.row.figures
    lines: list[tuple[str, ...]] = []
    for outcome in result.outcomes:
        entry = outcome.entry
        if outcome.rounds:
            values = tuple(spread(outcome, figure) for figure in figures)
        else:
            values = (_in_short(outcome), *("" for _ in figures[1:]))
        lines.append(
            (
                entry.system.name,
                entry.client,
                entry.durability,
                *values,
                _best_ratio(result, outcome),
                _goals(result, outcome),
            )
        )
    heads = [f"{figure.name}, {figure.unit}" for figure in figures]
    to_best = "to the best peer" if len(figures) == 1 else f"{figures[0].name} to the best peer"
    return _table(("system", "client", "durability", *heads, to_best, "goal: ratio"), lines)


def _best_ratio(result: Result, outcome: Outcome) -> str:
    """Of the first figure; nothing for the peers themselves."""
    figure = result.row.figures[0]
    best = result.best(figure)
    if not outcome.entry.system.is_ours or not outcome.rounds or best is None:
        return ""
    return f"{times(Ratio.of(outcome, best, figure))} {best.entry.label}"


def _goals(result: Result, outcome: Outcome) -> str:
    """Each goal of a line with the ratio to whom it names, and whether it is met."""
    found = []
    for goal in outcome.entry.goals:
        verdict = judge(result, outcome, goal)
        ratio = f"{times(verdict.ratio)}, " if verdict.ratio is not None else ""
        name = f"{goal.figure}: " if len(outcome.entry.goals) > 1 and len(result.row.figures) > 1 else ""
        found.append(f"{name}{goal.text}: {ratio}{SAID[verdict.is_met]}")
    return "; ".join(found)


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns are aligned, so that it can be read as it is."""
    cells = [[text.replace("|", "\\|").replace("\n", " ") for text in line] for line in (heads, *lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = ["| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in cells]
    return [padded[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *padded[1:]]


# ---- JSON


def as_json(
    about: dict[str, str], kinds: Sequence[type[System]], missing: dict[str, str], results: Sequence[Result]
) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "about": about,
        "systems": [
            {
                "system": kind.name,
                "version": None if kind.name in missing else kind.version(),
                "settings": kind.settings,
                "missing": missing.get(kind.name),
            }
            for kind in kinds
        ],
        "skipped": [NOT_IN_DEBIAN],
        "rows": [_json_row(result) for result in results],
    }


def _json_row(result: Result) -> dict[str, Any]:
    return {
        "row": result.row.name,
        "about": result.row.about,
        "lines": [
            {
                "system": outcome.entry.system.name,
                "client": outcome.entry.client,
                "durability": outcome.entry.durability or None,
                "problem": outcome.problem or None,
                "figures": [_json_figure(figure, outcome) for figure in result.row.figures if outcome.rounds],
                "goals": [_json_goal(judge(result, outcome, goal)) for goal in outcome.entry.goals],
            }
            for outcome in result.outcomes
        ],
    }


def _json_figure(figure: Figure, outcome: Outcome) -> dict[str, Any]:
    values = outcome.values(figure)
    return {
        "figure": figure.name,
        "unit": figure.unit,
        "better": figure.is_better,
        "median": outcome.median(figure),
        "min": min(values),
        "max": max(values),
        "rounds": values,
    }


def _json_goal(verdict: Verdict) -> dict[str, Any]:
    ratio = verdict.ratio
    return {
        "goal": verdict.goal.text,
        "figure": verdict.goal.figure,
        "peer": verdict.peer.entry.label if verdict.peer is not None else None,
        "ratio": {"median": ratio.median, "min": ratio.least, "max": ratio.most} if ratio is not None else None,
        "met": verdict.is_met,
    }
