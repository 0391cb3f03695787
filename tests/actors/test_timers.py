"""Timers: order, cancelling, bounded garbage."""

from __future__ import annotations

import pytest
from zmqbroker.actors.timers import GARBAGE_MIN, Timers


@pytest.fixture
def timers(clock):
    return Timers(clock)


def run_due(timers):
    for callback in timers.take_due():
        callback()


def test_timers_run_when_due_in_order_of_time(clock, timers):
    ran = []
    for delay_ms in (30, 10, 20):
        timers.call_later(delay_ms, lambda delay_ms=delay_ms: ran.append(delay_ms))

    run_due(timers)
    assert ran == []
    clock.now_ms += 20
    run_due(timers)
    assert ran == [10, 20]
    clock.now_ms += 10
    run_due(timers)
    assert ran == [10, 20, 30]


def test_timers_of_one_moment_run_in_the_order_they_were_set(clock, timers):
    ran = []
    for name in range(100):
        timers.call_later(5, lambda name=name: ran.append(name))
    clock.now_ms += 5
    run_due(timers)
    assert ran == list(range(100))


def test_next_due_skips_cancelled_timers(clock, timers):
    assert timers.next_due_ms() is None
    first = timers.call_later(5, list)
    timers.call_later(7, list)
    assert timers.next_due_ms() == clock.now_ms + 5
    first.cancel()
    assert timers.next_due_ms() == clock.now_ms + 7


def test_a_cancelled_timer_does_not_run_and_may_be_cancelled_again(clock, timers):
    ran = []
    timer = timers.call_later(5, lambda: ran.append(1))
    assert timer.active
    timer.cancel()
    timer.cancel()
    assert not timer.active
    clock.now_ms += 5
    run_due(timers)
    assert ran == []


def test_cancelling_a_timer_that_ran_does_nothing(clock, timers):
    timer = timers.call_later(5, list)
    clock.now_ms += 5
    run_due(timers)
    timer.cancel()
    assert len(timers) == 0
    assert timers.next_due_ms() is None


def test_a_timer_may_cancel_another_that_is_due_with_it(clock, timers):
    ran = []
    victims = []
    timers.call_later(5, lambda: [timer.cancel() for timer in victims])
    victims.append(timers.call_later(5, lambda: ran.append(2)))
    clock.now_ms += 5
    run_due(timers)
    assert ran == []


def test_a_timer_without_delay_set_by_a_timer_waits_for_the_next_round(timers):
    ran = []

    def again():
        ran.append(1)
        timers.call_later(0, again)

    timers.call_later(-3, again)
    run_due(timers)
    assert ran == [1]
    run_due(timers)
    assert ran == [1, 1]


def test_garbage_of_cancelled_timers_is_bounded(timers):
    live = [timers.call_later(1000, list) for _ in range(10)]
    for _ in range(10_000):
        timers.call_later(500, list).cancel()
        assert len(timers) <= len(live) + GARBAGE_MIN + 1
    for timer in live:
        timer.cancel()
    assert timers.next_due_ms() is None
    assert len(timers) == 0


def test_order_survives_a_rebuild(clock, timers):
    ran = []
    timers_set = [timers.call_later(index % 7, lambda index=index: ran.append(index)) for index in range(1000)]
    for index, timer in enumerate(timers_set):
        if index % 3:
            timer.cancel()
    clock.now_ms += 10
    run_due(timers)
    assert ran == sorted(range(0, 1000, 3), key=lambda index: (index % 7, index))
