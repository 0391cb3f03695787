"""The figures as bars with their spread, written as SVG by hand: no library that draws is needed."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from .report import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .row import Figure, Outcome, Result

WIDTH = 1100
LABEL_WIDTH = 390
VALUE_WIDTH = 230
LEFT = 16
BAR = 14
STEP = 20
HEAD = 34
GAP = 14
CAP = 3
OURS, PEER, SPREAD, INK, PAPER = "#1b6ca8", "#b9bec6", "#333333", "#1c1c1c", "#ffffff"


def as_svg(results: Iterable[Result]) -> str:
    """A panel of bars for each figure of each row that has any."""
    parts: list[str] = []
    top = GAP
    for result in results:
        outcomes = [outcome for outcome in result.outcomes if outcome.rounds]
        for figure in result.row.figures:
            if outcomes and figure.is_drawn:
                name = result.row.name + (f", {figure.name}" if len(result.row.figures) > 1 else "")
                parts += _panel(f"{name} ({figure.unit}, {figure.is_better} is better)", figure, outcomes, top)
                top += HEAD + STEP * len(outcomes) + GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}" '
        f'font-family="sans-serif" font-size="12" fill="{INK}">'
    )
    return "\n".join([head, f'<rect width="{WIDTH}" height="{top}" fill="{PAPER}"/>', *parts, "</svg>", ""])


def _panel(title: str, figure: Figure, outcomes: Sequence[Outcome], top: int) -> list[str]:
    room = WIDTH - LEFT - LABEL_WIDTH - VALUE_WIDTH
    scale = room / (max(max(outcome.values(figure)) for outcome in outcomes) or 1.0)
    parts = [f'<text x="{LEFT}" y="{top + 20}" font-size="14" font-weight="bold">{escape(title)}</text>']
    for number, outcome in enumerate(outcomes):
        parts += _bar(figure, outcome, top + HEAD + STEP * number, scale)
    return parts


def _bar(figure: Figure, outcome: Outcome, top: int, scale: float) -> list[str]:
    start, middle, base = LEFT + LABEL_WIDTH, top + BAR / 2, top + BAR - 3
    values, median = outcome.values(figure), outcome.median(figure)
    least, most = (start + scale * value for value in (min(values), max(values)))
    colour = OURS if outcome.entry.system.is_ours else PEER
    told = f"{shown(median)} ({shown(min(values))}-{shown(max(values))})"
    line = f'stroke="{SPREAD}" stroke-width="1"'
    return [
        f'<text x="{start - 8}" y="{base}" text-anchor="end">{escape(outcome.entry.label)}</text>',
        f'<rect x="{start}" y="{top}" width="{scale * median:.1f}" height="{BAR}" fill="{colour}"/>',
        f'<line x1="{least:.1f}" y1="{middle}" x2="{most:.1f}" y2="{middle}" {line}/>',
        *(f'<line x1="{x:.1f}" y1="{middle - CAP}" x2="{x:.1f}" y2="{middle + CAP}" {line}/>' for x in (least, most)),
        f'<text x="{most + 8:.1f}" y="{base}">{told}</text>',
    ]
