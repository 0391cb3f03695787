"""docs/benchmarks.md and docs/benchmarks.svg: the tables of a run with the command that made them, and its plot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .plot import as_svg

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .row import Result

HEAD = """\
# Benchmarks

zmqbroker and other brokers side by side: the same work, in one run on one machine, in turns. Written by

    {command}

which starts every system by itself, in a temporary folder and on loopback. On another machine the figures are others,
and the ratios may be; run it where it matters. Bars are medians, lines the least and the greatest of the rounds; blue
is zmqbroker. What an acknowledgement means differs between the systems: each line says how durable a record is by then.

![The figures as bars](benchmarks.svg)

"""


def write_docs(folder: Path, command: str, tables: str, results: Sequence[Result]) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmarks.md").write_text(HEAD.format(command=command) + tables + "\n", encoding="utf-8")
    (folder / "benchmarks.svg").write_text(as_svg(results), encoding="utf-8")
