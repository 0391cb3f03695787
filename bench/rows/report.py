"""What comes out of a run: the surroundings, and each figure's median with its range, as a table or as JSON."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import zmq

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .row import Figure, Measured, Row

HEADS = ("row", "figure", "median", "min", "max", "unit", "goal", "elsewhere*")
NUMERIC = {"median", "min", "max"}
FINE = 10
"""Below this, figures are shown with two decimals; below a thousand with one."""
COARSE = 1000


@dataclass
class Outcome:
    """A row and what its rounds gave."""

    row: Row
    rounds: list[Measured] = field(default_factory=list)
    problem: str = ""
    is_failed: bool = False

    def values(self, figure: Figure) -> list[float]:
        """One value for each round."""
        return [measured[figure.name] for measured in self.rounds]


def surroundings(folder: Path, *, rounds: int, is_quick: bool, settings: Sequence[str]) -> dict[str, str]:
    """What the figures depend on."""
    return {
        "zmqbroker": version("zmqbroker"),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
        "msgspec": version("msgspec"),
        "aiokafka": version("aiokafka"),
        "CPUs": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load before": ", ".join(f"{load:.2f}" for load in os.getloadavg()),
        "file system": _file_system(folder),
        "rounds": f"{rounds}{' (quick: a fifth of the records)' if is_quick else ''}",
        "broker settings": ", ".join(settings) or "default",
    }


def _file_system(folder: Path) -> str:
    """Its kind, by the longest mount point above the folder, and what is free."""
    free = f"{shutil.disk_usage(folder).free / 1e9:.0f} GB free"
    kind = "unknown"
    if sys.platform == "linux":
        with open("/proc/self/mounts", encoding="utf-8") as mounts:  # noqa: PTH123 - not a file to make paths of
            points = {words[1]: words[2] for words in map(str.split, mounts)}
        above = [point for point in points if str(folder.resolve()).startswith(point.rstrip("/") + "/")]
        kind = points[max(above, key=len)] if above else kind
    return f"{kind}, {free}"


def as_json(about: dict[str, str], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "surroundings": about,
        "rows": [
            {
                "row": outcome.row.name,
                "settings": outcome.row.settings,
                "problem": outcome.problem or None,
                "figures": [
                    {
                        "figure": figure.name,
                        "unit": figure.unit,
                        "goal": figure.goal or None,
                        "elsewhere": figure.elsewhere or None,
                        "median": statistics.median(outcome.values(figure)),
                        "min": min(outcome.values(figure)),
                        "max": max(outcome.values(figure)),
                        "rounds": outcome.values(figure),
                    }
                    for figure in outcome.row.figures
                    if outcome.rounds
                ],
            }
            for outcome in outcomes
        ],
    }


def as_table(about: dict[str, str], outcomes: Sequence[Outcome]) -> str:
    """Everything, for people."""
    lines = [f"{name + ':':<17}{value}" for name, value in about.items()]
    lines.append("")
    lines += [f"{outcome.row.name + ':':<31}{outcome.row.settings}" for outcome in outcomes]
    lines.append("")
    table = [HEADS]
    for outcome in outcomes:
        name = outcome.row.name
        for figure in outcome.row.figures if outcome.rounds else ():
            values = outcome.values(figure)
            shown = (_shown(number) for number in (statistics.median(values), min(values), max(values)))
            table.append((name, figure.name, *shown, figure.unit, figure.goal, figure.elsewhere))
            name = ""
        if outcome.problem:
            table.append((name, outcome.problem, "", "", "", "", "", ""))
    lines += _aligned(table)
    lines.append("")
    lines.append("* what others reached on another machine, as the goals note it: no comparison with the figures above")
    return "\n".join(lines)


def _aligned(table: list[tuple[str, ...]]) -> list[str]:
    measured = [cells for cells in table if cells[2]]
    widths = [max(len(cells[column]) for cells in measured) for column in range(len(HEADS))]
    lines = []
    for cells in table:
        padded = [
            cell.rjust(width) if head in NUMERIC else cell.ljust(width)
            for cell, width, head in zip(cells, widths, HEADS, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return [lines[0], "-" * max(map(len, lines)), *lines[1:]]


def _shown(number: float) -> str:
    if abs(number) < FINE:
        return f"{number:.2f}"
    return f"{number:.1f}" if abs(number) < COARSE else f"{number:,.0f}"
