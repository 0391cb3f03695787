"""The judgement of `make bench-guard`, by slices that are made up; and that each of its paths still runs."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))
from guard import limits
from guard.judge import Cost, Slice, better, cost_of, judge, sentence, table
from guard.look import PATHS

sys.path.pop(0)

MARGIN = 0.25


def test_a_cost_is_counted_in_turns_of_the_calibration_loop() -> None:
    cost = cost_of([Slice(1000, 3000, 1000)] * 8, units=10, turns=100)
    assert cost == Cost(turns=30.0, nanoseconds=300.0)


def test_a_machine_of_half_the_speed_changes_no_cost() -> None:
    fast = cost_of([Slice(1000, 3000, 1000)] * 8, units=10, turns=100)
    slow = cost_of([Slice(2000, 6000, 2000)] * 8, units=10, turns=100)
    assert slow.turns == fast.turns


def test_disturbed_slices_do_not_count() -> None:
    calm = [Slice(1000, 3000, 1000)] * 10
    disturbed = [Slice(1000, 9000, 1000), Slice(5000, 4000, 1000), Slice(1000, 3500, 4000)] * 5
    assert cost_of([*disturbed, *calm], units=1, turns=1).turns == 3.0


def test_one_lucky_slice_does_not_count() -> None:
    slices = [Slice(3000, 3000, 3000), *[Slice(1000, 3000, 1000)] * 11]
    assert cost_of(slices, units=1, turns=1).turns == 3.0


def test_a_path_that_became_dearer_is_named_with_both_figures() -> None:
    verdicts = judge({"send": Cost(4.2, 900), "decode": Cost(2.4, 500)}, {"send": 3.0, "decode": 2.0}, MARGIN)
    assert [verdict.is_wrong for verdict in verdicts] == [True, False]
    said = sentence(verdicts[0], MARGIN)
    assert "40% more than the usual 3.00" in said
    assert "its limit is 3.75, 25% more, and that is exceeded by 12%" in said
    assert not sentence(verdicts[1], MARGIN)


def test_the_limit_itself_is_allowed() -> None:
    (verdict,) = judge({"send": Cost(3.75, 900)}, {"send": 3.0}, MARGIN)
    assert not verdict.is_wrong


def test_a_path_without_a_limit_and_a_limit_without_a_path_are_wrong() -> None:
    verdicts = judge({"new": Cost(1.0, 100)}, {"old": 1.0}, MARGIN)
    assert [(verdict.name, verdict.mark) for verdict in verdicts] == [("new", "no limit"), ("old", "gone")]
    assert all(verdict.is_wrong and "--write" in sentence(verdict, MARGIN) for verdict in verdicts)
    assert not any(verdict.is_too_dear for verdict in verdicts), "another look would not help"


def test_a_path_that_became_far_cheaper_is_right_and_said() -> None:
    (verdict,) = judge({"send": Cost(1.5, 300)}, {"send": 3.0}, MARGIN)
    assert not verdict.is_wrong
    assert "50% less than usual" in sentence(verdict, MARGIN)


def test_the_better_look_counts() -> None:
    first = {"send": Cost(4.0, 800), "decode": Cost(2.0, 400)}
    assert better(first, {"send": Cost(3.0, 900)}) == {"send": Cost(3.0, 900), "decode": Cost(2.0, 400)}
    assert better(first, {"send": Cost(5.0, 700)}) == first


def test_the_table_has_a_line_for_each_path() -> None:
    lines = table(judge({"send": Cost(4.2, 912), "new": Cost(388, 97_000)}, {"send": 3.0}, MARGIN)).splitlines()
    assert lines[1].split() == ["send", "4.20", "3.00", "3.75", "140%", "912", "ns", "too", "dear"]
    assert lines[2].split() == ["new", "388", "-", "-", "-", "97,000", "ns", "no", "limit"]


def test_limits_are_written_for_one_version_and_kept_for_the_others() -> None:
    known = limits.Limits(0.3, {"3.11": {"send": 3.0}, "3.12": {"send": 2.0}})
    read = limits.read(limits.written(known, "3.11", {"send": 3.14159, "decode": 388.25}))
    assert read == limits.Limits(0.3, {"3.11": {"send": 3.142, "decode": 388.2}, "3.12": {"send": 2.0}})


def test_every_path_has_a_limit() -> None:
    known = limits.read(limits.FILE.read_text(encoding="utf-8"))
    names = [path.name for path in PATHS]
    assert all(list(usual) == names for usual in known.usual.values())


@pytest.mark.parametrize("path", PATHS, ids=[path.name for path in PATHS])
def test_every_path_still_runs(path) -> None:
    with ExitStack() as closing:
        work = path.make(closing)
        for _ in range(2):
            work.prepare()
            work.run()
