"""The shape of a growth, from a few points: a power law, a knee between two of them, or a slope over time. No I/O.

On paper with two logarithmic scales a power law is a straight line, and its slope is the exponent: 0 for what does not
grow, 1 for what doubles with its cause. A fixed cost and one for each item make a curve with a knee, where the second
becomes the greater one; such costs are told as what they are. Whatever else is no straight line gets two of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

STRAIGHT = 1.3
"""A line that no point is further off than by this factor is as good as these measurements are."""
BEND = 0.3
"""Two lines whose exponents differ by less are no knee."""
FIXED_AND_EACH = 0.15
"""A fixed cost and one for each item are those of no point if they are off it by more than this share."""
FLAT = 0.05
"""A lesser exponent is none."""
NOTHING = 0.01
"""A lesser share is nothing."""
KNEE_POINTS_MIN = 3
TREND_POINTS_MIN = 4
CERTAIN = 2.0
"""A slope that is this many of its standard errors from nought is one."""


class Line(NamedTuple):
    """``y = height + slope * x``, and how far the points are off it."""

    slope: float
    height: float
    squares: float
    """The sum of the squared distances."""
    furthest: float


class Shape(NamedTuple):
    """How something grows: with one exponent, or with another one beyond a knee."""

    exponent: float
    knee: float | None = None
    beyond: float = 0.0

    def __str__(self) -> str:
        if self.knee is None:
            return _power(self.exponent)
        return f"{_power(self.exponent)} up to {self.knee:,g}, then {_power(self.beyond)}"


class FixedAndEach(NamedTuple):
    """How something grows that costs so much at all and so much for each item."""

    fixed: float
    each: float

    @property
    def knee(self) -> float:
        """Where both cost the same."""
        return self.fixed / self.each

    def __str__(self) -> str:
        return f"{digits(self.fixed)} and {digits(self.each)} each; knee at {digits(self.knee)}"


class Trend(NamedTuple):
    """A slope over time and its standard error, in the figure's unit a minute."""

    slope: float
    error: float

    @property
    def is_certain(self) -> bool:
        """Whether it is more than what chance makes of such measurements."""
        return abs(self.slope) > CERTAIN * self.error

    def __str__(self) -> str:
        if self.slope == self.error == 0.0:
            return "unchanged"
        shown = f"{self.slope:+.3g} ± {CERTAIN * self.error:.2g} a minute"
        return shown if self.is_certain else f"no trend ({shown})"


def fit(points: Sequence[tuple[float, float]]) -> Line:
    """The line with the least squares; two points at least, not all at the same x."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    assert spread > 0, f"no line goes through {points}"
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    height = mean_y - slope * mean_x
    distances = [y - height - slope * x for x, y in points]
    return Line(slope, height, sum(distance**2 for distance in distances), max(map(abs, distances)))


def fixed_and_each(points: Sequence[tuple[float, float]]) -> FixedAndEach | None:
    """A fixed cost and one for each item that come close to all points, by their shares; None if there are none."""
    # The least squares of (fixed + each * x) / y - 1, as a line through the points (x, y) weighted with 1 / y².
    weights = [1 / y**2 for _, y in points]
    total = sum(weights)
    mean_x = sum(w * x for w, (x, _) in zip(weights, points, strict=True)) / total
    mean_y = sum(w * y for w, (_, y) in zip(weights, points, strict=True)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, (x, _) in zip(weights, points, strict=True))
    each = sum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(weights, points, strict=True)) / spread
    fixed = mean_y - each * mean_x
    if fixed <= 0 or each <= 0 or any(abs((fixed + each * x) / y - 1) > FIXED_AND_EACH for x, y in points):
        return None
    return FixedAndEach(fixed, each)


def shape_of(points: Sequence[tuple[float, float]]) -> Shape | FixedAndEach | None:
    """How y grows with x, of points in the order of x; None if fewer than two have logarithms."""
    positive = [(x, y) for x, y in points if x > 0 and y > 0]
    logs = [(math.log(x), math.log(y)) for x, y in positive]
    if len(logs) < 2:  # noqa: PLR2004 - a line has two points
        return None
    line = fit(logs)
    if len(logs) < KNEE_POINTS_MIN or line.furthest <= math.log(STRAIGHT):
        return Shape(line.slope)
    found = fixed_and_each(positive)
    if found is not None:
        return found
    parts = [(fit(logs[: at + 1]), fit(logs[at:]), logs[at][0]) for at in range(1, len(logs) - 1)]
    before, after, knee = min(parts, key=lambda part: part[0].squares + part[1].squares)
    if abs(after.slope - before.slope) < BEND:
        return Shape(line.slope)
    return Shape(before.slope, math.exp(knee), after.slope)


def each_more(points: Sequence[tuple[float, float]]) -> float | None:
    """What one more of x adds at the end of the scale, between the last two points; None if there are no two."""
    if len(points) < 2:  # noqa: PLR2004
        return None
    (x_before, y_before), (x, y) = points[-2:]
    return 0.0 if abs(y - y_before) < NOTHING * abs(y) else (y - y_before) / (x - x_before)


def trend_of(points: Sequence[tuple[float, float]]) -> Trend | None:
    """The slope of y over minutes; None if there are too few points to tell it from chance."""
    if len(points) < TREND_POINTS_MIN:
        return None
    if len({y for _, y in points}) == 1:
        return Trend(0.0, 0.0)
    line = fit(points)
    mean_x = sum(x for x, _ in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return Trend(line.slope, math.sqrt(line.squares / (len(points) - 2) / spread))


def digits(number: float) -> str:
    """A number with three digits that count."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"  # noqa: PLR2004 - it has three of them


def _power(exponent: float) -> str:
    return "flat" if abs(exponent) < FLAT else f"x^{exponent:.2f}"
