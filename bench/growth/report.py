"""What comes out of a run: a table with the shape of each growth for people, JSON for programs, and a document."""

from __future__ import annotations

import textwrap
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .shape import digits, each_more, shape_of, trend_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rows.basics import Figure

    from .row import Findings, Row

CAUSES = Path(__file__).with_name("causes.toml")
SHOWN_MOMENTS = 5
"""Columns of a row over time: so many of its moments, evenly spread."""
WIDTH = 120
FINE = 10
COARSE = 1000

INTRODUCTION = """\
# How cost grows

Written by `make bench-growth ARGS=--write-docs`, which measures it; with `--rows` only some sections are measured and
written anew. The figures are those of one machine at one time, named at the end of each section; the shapes matter more
than the figures.

*Shape* is the exponent of a power law through the points: x^1.00 for what doubles with its cause, flat for what does
not grow. Where no power law goes through them it is a fixed cost and one for each, with the knee where the second
becomes the greater one, or, if that does not fit either, two exponents and the knee between. *Each more* is what one
more has cost between the last two sizes. Over time there is a slope instead, with twice its standard error; one that
chance alone may have made is called no trend.
"""


def causes() -> dict[str, dict[str, str]]:
    """What is known of why, in words: by row, by figure."""
    return tomllib.loads(CAUSES.read_text(encoding="utf-8"))


def unexplained(row: Row) -> list[str]:
    """The figures of a row of which causes.toml does not say what causes their shape."""
    known = causes().get(row.name, {})
    return [figure.name for figure in row.figures if figure.name not in known]


def rows_of(row: Row, findings: Findings) -> tuple[list[str], list[list[str]]]:
    """The heads of a row's table and its lines, one a figure."""
    points = findings.points
    if row.over_time and len(points) > SHOWN_MOMENTS:
        last = len(points) - 1
        points = [points[round(last * number / (SHOWN_MOMENTS - 1))] for number in range(SHOWN_MOMENTS)]
    heads = [row.x, *(f"{point.x:,.3g}" if row.over_time else f"{point.x:,g}" for point in points)]
    heads += ["slope"] if row.over_time else ["shape", "each more"]
    lines = []
    for figure in row.figures:
        name = f"{figure.name}, {figure.unit}" if figure.unit else figure.name
        cells = [shown(point.figures[figure.name]) if figure.name in point.figures else "-" for point in points]
        lines.append([name, *cells, *shape_cells(row, findings, figure)])
    return heads, lines


def shape_cells(row: Row, findings: Findings, figure: Figure) -> list[str]:
    """How a figure grows, in words; of a rate nobody asks what one more adds."""
    curve = findings.curve(figure)
    if row.over_time:
        trend = trend_of(curve)
        return [str(trend) if trend is not None else "-"]
    shape, more = shape_of(curve), each_more(curve)
    is_rate = figure.unit.endswith("/s")
    return [str(shape) if shape is not None else "-", "" if is_rate or more is None else digits(more)]


def as_table(about: Mapping[str, str], results: Sequence[tuple[Row, Findings]]) -> str:
    """Everything, for people."""
    lines = [f"{name + ':':<17}{value}" for name, value in about.items()]
    known = causes()
    for row, findings in results:
        lines += ["", f"{row.title} ({row.name}): {row.settings}", ""]
        heads, cells = rows_of(row, findings)
        widths = [max(len(line[column]) for line in (heads, *cells)) for column in range(len(heads))]
        for line in (heads, *cells):
            padded = [
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            lines.append("  ".join(padded).rstrip())
        lines += [f"  {name}: {words}" for name, words in known.get(row.name, {}).items()]
        lines += [f"  ! {note}" for note in findings.notes]
    return "\n".join(lines)


def as_json(about: Mapping[str, str], results: Sequence[tuple[Row, Findings]]) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "surroundings": dict(about),
        "rows": [
            {
                "row": row.name,
                "settings": row.settings,
                "x": row.x,
                "points": [{"x": point.x, "figures": point.figures} for point in findings.points],
                "shapes": {figure.name: _shape_json(row, findings, figure) for figure in row.figures},
                "notes": findings.notes,
            }
            for row, findings in results
        ],
    }


def _shape_json(row: Row, findings: Findings, figure: Figure) -> dict[str, float | None] | None:
    curve = findings.curve(figure)
    found = trend_of(curve) if row.over_time else shape_of(curve)
    return None if found is None else dict(found._asdict())


def section(row: Row, findings: Findings, about: Mapping[str, str]) -> str:
    """One row's part of the document."""
    heads, cells = rows_of(row, findings)
    known = causes().get(row.name, {})
    lines = [f"## {row.title}", "", _wrapped(f"{row.settings[0].upper()}{row.settings[1:]}."), ""]
    lines += [_cells(heads), _cells(["---", *["---:"] * (len(heads) - 1)]), *map(_cells, cells), ""]
    lines += [_wrapped(f"- *{name}:* {words}", "  ") for name, words in known.items()]
    lines += [""] * bool(known)
    lines += [_wrapped(f"- {note}", "  ") for note in findings.notes]
    lines += [""] * bool(findings.notes)
    lines += [_wrapped("; ".join(f"{name} {value}" for name, value in about.items()) + "."), ""]
    return "\n".join(lines)


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def document(old: str, rows: Sequence[Row], sections: Mapping[str, str]) -> str:
    """The document with new sections in place of the old ones of the same titles; the others stay as they are."""
    kept = {}
    for part in f"\n{old}".split("\n## ")[1:]:
        kept[part.split("\n", 1)[0]] = f"## {part.rstrip()}\n"
    parts = [sections.get(row.title) or kept.get(row.title, "") for row in rows]
    return "\n".join([INTRODUCTION, *(part.rstrip() + "\n" for part in parts if part)])


def shown(number: float) -> str:
    """A figure with as many digits as it deserves."""
    if abs(number) < FINE:
        return f"{number:.2f}"
    return f"{number:.1f}" if abs(number) < COARSE else f"{number:,.0f}"
