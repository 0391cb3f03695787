"""Supervision: restarts with back-off, and what becomes of messages meanwhile."""

from __future__ import annotations

import pykka
import pytest
from zmqbroker.actors.actor import ReactorActor
from zmqbroker.actors.reactor import NodeFatalError


class Frail(ReactorActor):
    """Fails when told so."""

    def __init__(self, lives, *, fails_to_start=()):
        super().__init__()
        lives.append(self.reactor.clock.monotonic_ms())
        if len(lives) in fails_to_start:
            msg = "no start"
            raise ValueError(msg)

    def on_receive(self, message):
        if message == "fail":
            msg = "told to fail"
            raise ValueError(msg)
        assert message != "assert"
        return message


def fail(reactor, run_idle):
    assert reactor.tell("frail", "fail")
    run_idle()
    assert reactor.lookup("frail") is None


def test_a_failed_actor_is_restarted_at_its_address(reactor, run_idle, run_for, caplog):
    lives = []
    first = reactor.spawn(Frail, lives, address="frail", supervised=True)
    fail(reactor, run_idle)
    assert "ValueError: told to fail" in caplog.text  # with the traceback
    assert "the actor frail failed and restarts in 100 ms" in caplog.text
    assert reactor.tell("frail", "nobody at home") is False
    with pytest.raises(pykka.ActorDeadError):
        first.tell("x")
    with pytest.raises(ValueError, match="'frail' is taken"):
        reactor.spawn(Frail, [], address="frail")
    run_for(99)
    assert reactor.lookup("frail") is None
    run_for(1)
    second = reactor.lookup("frail")
    assert second is not first
    answer = second.ask("hello", block=False)
    run_idle()
    assert answer.get() == "hello"
    assert lives == [1000, 1100]


def test_the_delay_doubles_up_to_ten_seconds_and_starts_anew_after_a_minute_alive(reactor, run_idle, run_for):
    lives = []
    reactor.spawn(Frail, lives, address="frail", supervised=True)
    for delay_ms in (100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000):
        fail(reactor, run_idle)
        run_for(delay_ms - 1)
        assert reactor.lookup("frail") is None
        run_for(1)
        assert reactor.lookup("frail") is not None
    run_for(59_999)
    fail(reactor, run_idle)
    run_for(9_999)
    assert reactor.lookup("frail") is None
    run_for(1)
    run_for(60_000)
    fail(reactor, run_idle)
    run_for(100)
    assert reactor.lookup("frail") is not None


def test_messages_left_behind_are_answered_or_counted(reactor, run_idle, caplog):
    ref = reactor.spawn(Frail, [], address="frail", supervised=True)
    run_idle()
    ref.tell("fail")
    answer = ref.ask("x", block=False)
    for message in ("a", "b", 3):
        ref.tell(message)
    run_idle()
    with pytest.raises(pykka.ActorDeadError):
        answer.get()
    assert reactor.dead_letters == 3
    assert "3 messages were left behind by Frail (frail): 1 int, 2 str" in caplog.text


def test_an_exception_under_ask_is_an_answer_and_no_failure(reactor, run_idle):
    ref = reactor.spawn(Frail, [], address="frail", supervised=True)
    answer = ref.ask("fail", block=False)
    run_idle()
    with pytest.raises(ValueError, match="told to fail"):
        answer.get()
    assert ref.is_alive()


def test_an_actor_that_cannot_be_made_again_is_tried_again(reactor, run_idle, run_for, caplog):
    lives = []
    reactor.spawn(Frail, lives, fails_to_start=(2, 3), address="frail", supervised=True)
    fail(reactor, run_idle)
    run_for(10_000)
    assert lives == [1000, 1100, 1300, 1700]
    assert reactor.lookup("frail") is not None
    assert caplog.text.count("ValueError: no start") == 2


def test_an_actor_that_fails_in_on_start_or_at_the_end_of_a_turn_is_restarted(reactor, run_for):
    starts = []

    class Hooks(ReactorActor):
        def on_start(self):
            starts.append("start")
            if len(starts) == 1:
                raise ValueError

        def on_turn_end(self):
            starts.append("turn end")
            raise ValueError

    reactor.spawn(Hooks, address="a", supervised=True)
    run_for(100)
    assert starts == ["start", "start"]
    reactor.tell("a", 1)
    run_for(200)
    assert starts == ["start", "start", "turn end", "start"]


def test_an_actor_that_was_stopped_is_not_restarted(reactor, run_for):
    lives = []
    ref = reactor.spawn(Frail, lives, address="frail", supervised=True)
    ref.stop(block=False)
    run_for(1000)
    assert (reactor.lookup("frail"), len(lives)) == (None, 1)
    reactor.spawn(Frail, lives, address="frail")


def test_a_stop_that_waits_behind_the_failing_message_holds(reactor, run_for):
    lives = []
    ref = reactor.spawn(Frail, lives, address="frail", supervised=True)
    ref.tell("fail")
    stopped = ref.stop(block=False)
    run_for(1000)
    assert stopped.get() is True
    assert (reactor.lookup("frail"), len(lives)) == (None, 1)


def test_a_failing_on_stop_is_no_reason_to_restart(reactor, run_for):
    starts = []

    class BadEnd(ReactorActor):
        def on_start(self):
            starts.append(1)

        def on_stop(self):
            raise ValueError

    reactor.spawn(BadEnd, address="a", supervised=True).stop(block=False)
    run_for(1000)
    assert starts == [1]


def test_stop_actor_cancels_a_restart(reactor, run_idle, run_for):
    lives = []
    reactor.spawn(Frail, lives, address="frail", supervised=True)
    fail(reactor, run_idle)
    assert reactor.stop_actor("frail") is True
    assert reactor.stop_actor("frail") is False
    run_for(1000)
    assert len(lives) == 1
    reactor.spawn(Frail, lives, address="frail")


def test_stop_actor_stops_one_that_lives_for_good(reactor, run_idle, run_for):
    lives = []
    reactor.spawn(Frail, lives, address="frail", supervised=True)
    run_idle()
    reactor.tell("frail", "fail")
    assert reactor.stop_actor("frail") is True
    run_for(1000)
    assert (reactor.lookup("frail"), len(lives)) == (None, 1)


def test_an_unsupervised_actor_stays_dead(reactor, run_idle, run_for):
    reactor.spawn(Frail, [], address="frail")
    fail(reactor, run_idle)
    run_for(100_000)
    assert reactor.lookup("frail") is None


def test_nothing_is_restarted_while_the_reactor_stops(reactor, run_idle):
    lives = []
    reactor.spawn(Frail, lives, address="frail", supervised=True)
    fail(reactor, run_idle)
    reactor.stop()
    reactor.run()
    assert len(lives) == 1


def test_an_assertion_is_fatal_however_supervised(reactor):
    reactor.spawn(Frail, [], address="frail", supervised=True).tell("assert")
    with pytest.raises(NodeFatalError):
        reactor.run()


def test_an_assertion_in_the_constructor_is_fatal_at_a_restart_too(reactor, run_idle, run_for):
    class FrailFromBirth(Frail):
        def __init__(self, lives):
            super().__init__(lives)
            assert len(lives) == 1

    reactor.spawn(FrailFromBirth, [], address="frail", supervised=True)
    fail(reactor, run_idle)
    with pytest.raises(NodeFatalError):
        run_for(100)


def test_an_actor_that_fails_in_the_pass_of_the_stop_is_not_restarted(reactor):
    lives = []
    reactor.spawn(Frail, lives, address="frail", supervised=True).tell("fail")
    reactor.call_later(0, reactor.stop)
    reactor.run()
    assert len(lives) == 1
