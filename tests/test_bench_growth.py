"""What `make bench-growth` makes of its points: shapes, slopes, and a document of which only some sections are new."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
from growth import report
from growth.row import Bench, Findings, Point, Row, at_each
from growth.shape import FixedAndEach, Shape, each_more, shape_of, trend_of
from growth.sparse import BATCH_BYTES, fill
from rows.basics import Figure
from rows.row import SkipRowError

sys.path.pop(0)

from zmqbroker.log.partition_log import PartitionLog
from zmqbroker.log.real_disk import RealDisk
from zmqbroker.settings import TopicConfig

if TYPE_CHECKING:
    from rows.row import Measured

SIZES = (1, 10, 100, 1_000, 10_000)
ROW = Row("boxes", "Many boxes", "boxes", "default settings", (Figure("time", "ms"), Figure("rate", "1/s")), Findings)


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_a_power_law_is_its_exponent(exponent) -> None:
    shape = shape_of([(x, 7 * x**exponent) for x in SIZES])
    assert isinstance(shape, Shape)
    assert shape.knee is None
    assert shape.exponent == pytest.approx(exponent)


def test_what_does_not_grow_is_flat_though_it_is_not_quite_even() -> None:
    assert str(shape_of([(1, 40.0), (10, 42.0), (100, 39.0), (1_000, 41.0)])) == "flat"


def test_a_fixed_cost_and_one_for_each_are_told_apart() -> None:
    shape = shape_of([(x, 300 + 0.5 * x) for x in SIZES])
    assert isinstance(shape, FixedAndEach)
    assert shape == (pytest.approx(300), pytest.approx(0.5))
    assert str(shape) == "300 and 0.5 each; knee at 600"


def test_what_turns_worse_than_linear_has_a_knee() -> None:
    shape = shape_of([(x, x**0.1 if x <= 100 else 100**0.1 * (x / 100) ** 2) for x in SIZES])
    assert isinstance(shape, Shape)
    assert shape.knee == pytest.approx(100)
    assert (shape.exponent, shape.beyond) == (pytest.approx(0.1), pytest.approx(2.0))


def test_points_without_a_logarithm_are_left_out() -> None:
    assert shape_of([(0, 5.0), (1, 2.0), (10, 20.0), (100, 0.0)]) == Shape(pytest.approx(1.0))
    assert shape_of([(0, 5.0), (1, 2.0)]) is None


def test_each_more_is_the_difference_at_the_end() -> None:
    assert each_more([(1, 10.0), (10, 10.0), (110, 60.0)]) == 0.5
    assert each_more([(1, 10.0), (100, 10.0001)]) == 0.0
    assert each_more([(1, 10.0)]) is None


def test_a_slope_is_told_from_chance() -> None:
    grows = trend_of([(minute, 50 + 0.3 * minute + 0.01 * (minute % 2)) for minute in range(10)])
    noise = trend_of([(minute, 50 + 5 * (minute % 2)) for minute in range(10)])
    assert grows is not None
    assert noise is not None
    assert grows.slope == pytest.approx(0.3, abs=0.01)
    assert grows.is_certain
    assert not noise.is_certain
    assert str(trend_of([(minute, 80.0) for minute in range(10)])) == "unchanged"
    assert trend_of([(1, 1.0), (2, 2.0), (3, 3.0)]) is None


def test_one_size_that_fails_does_not_cost_the_others(tmp_path) -> None:
    def measure(_bench: Bench, size: float) -> Measured:
        if size == 2:
            message = "no room"
            raise SkipRowError(message)
        if size == 3:
            message = "broken"
            raise OSError(message)
        return {"time": size}

    findings = at_each((1, 2, 3, 4), (1, 2), measure)(Bench(tmp_path, is_quick=False, minutes=1))
    assert findings.points == [Point(1, {"time": 1}), Point(4, {"time": 4})]
    assert findings.notes == ["2 was left out: no room", "3 failed: OSError: broken"]
    assert findings.is_failed


def test_a_table_shows_points_and_shapes() -> None:
    findings = Findings([Point(x, {"time": 2.0 * x, "rate": 1e6 / x}) for x in (1, 10, 100)], ["1,000 was left out"])
    heads, lines = report.rows_of(ROW, findings)
    assert heads == ["boxes", "1", "10", "100", "shape", "each more"]
    assert lines == [
        ["time, ms", "2.00", "20.0", "200.0", "x^1.00", "2"],
        ["rate, 1/s", "1,000,000", "100,000", "10,000", "x^-1.00", ""],
    ]
    assert "1,000 was left out" in report.as_table({}, [(ROW, findings)])
    shape = report.as_json({}, [(ROW, findings)])["rows"][0]["shapes"]["time"]
    assert shape["exponent"] == pytest.approx(1.0)


def test_only_what_was_measured_is_written_anew() -> None:
    other = Row("bags", "Many bags", "bags", "none", (Figure("time", "ms"),), Findings)
    first = report.document(
        "", [ROW, other], {"Many boxes": "## Many boxes\n\nold\n", "Many bags": "## Many bags\n\nkept\n"}
    )
    second = report.document(first, [ROW, other], {"Many boxes": "## Many boxes\n\nnew\n"})
    assert second == first.replace("old", "new")
    assert second.index("Many boxes") < second.index("Many bags")
    assert second.count("# How cost grows") == 1


def test_words_are_there_for_figures_that_exist_only() -> None:
    from growth.run import ROWS

    figures = {row.name: {figure.name for figure in row.figures} for row in ROWS}
    for name, words in report.causes().items():
        assert words.keys() <= figures[name], name


def test_a_sparse_log_is_a_log_like_any_other(tmp_path) -> None:
    folder = str(tmp_path / "long-0")
    end = fill(folder, 64 * BATCH_BYTES, now_ms=1_000)
    log = PartitionLog.open(RealDisk(), folder, TopicConfig(), now_ms=1_000)
    assert log.damage is None
    assert log.log_end_offset == end
    assert log.recovery.scanned_bytes == log.size_bytes > 64 * BATCH_BYTES
    log.abandon()
