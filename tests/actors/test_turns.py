"""Turns: fairness, the end-of-turn hook, and how often I/O is looked at."""

from __future__ import annotations

import itertools

import pytest
from zmqbroker.actors.actor import ReactorActor
from zmqbroker.actors.mailbox import TURN_MESSAGES_MAX
from zmqbroker.actors.reactor import PASS_MESSAGES_MAX


class Noter(ReactorActor):
    """Writes down all that happens to it."""

    def __init__(self, notes):
        super().__init__()
        self.notes = notes

    def on_start(self):
        self.notes.append((self.address, "start"))

    def on_receive(self, message):
        self.notes.append((self.address, message))

    def on_stop(self):
        self.notes.append((self.address, "stop"))

    def on_failure(self, _type, exception_value, _traceback):
        self.notes.append((self.address, "failure", exception_value.args))


class TurnNoter(Noter):
    def on_turn_end(self):
        self.notes.append((self.address, "turn end"))


def of(notes, address):
    return [note[1] for note in notes if note[0] == address]


def test_reactor_and_address_are_known_in_the_constructor(reactor):
    class Early(ReactorActor):
        def __init__(self):
            super().__init__()
            self.seen = (self.reactor, self.address, self.actor_urn)

    ref = reactor.spawn(Early, address="early")
    assert ref.actor_urn == "early"
    reactor.run_pass()
    future = ref.proxy().seen
    reactor.run_pass()
    assert future.get() == (reactor, "early", "early")


def test_on_start_runs_in_a_turn_of_its_own_before_any_message(reactor, run_idle):
    notes = []
    ref = reactor.spawn(TurnNoter, notes, address="a")
    ref.tell(1)
    assert notes == []
    run_idle()
    assert of(notes, "a") == ["start", 1, "turn end"]


def test_on_turn_end_follows_each_turn_even_a_full_one(reactor, run_idle):
    notes = []
    ref = reactor.spawn(TurnNoter, notes, address="a")
    run_idle()
    for number in range(TURN_MESSAGES_MAX + 1):
        ref.tell(number)
    run_idle()
    expected = ["start", *range(TURN_MESSAGES_MAX), "turn end", TURN_MESSAGES_MAX, "turn end"]
    assert of(notes, "a") == expected


def test_no_turn_end_without_a_turn(reactor, run_idle):
    notes = []
    reactor.spawn(TurnNoter, notes, address="a")
    run_idle()
    run_idle()
    assert of(notes, "a") == ["start"]


def test_what_the_hook_tells_its_own_actor_comes_in_the_next_turn(reactor, run_idle):
    class Echo(TurnNoter):
        def on_turn_end(self):
            super().on_turn_end()
            if len(self.notes) < 6:
                self.actor_ref.tell("again")

    notes = []
    ref = reactor.spawn(Echo, notes, address="a")
    ref.tell("first")
    run_idle()
    assert of(notes, "a") == ["start", "first", "turn end", "again", "turn end", "again", "turn end"]


def test_a_turn_ends_before_a_stop_is_handled(reactor, run_idle):
    notes = []
    ref = reactor.spawn(TurnNoter, notes, address="a")
    ref.tell(1)
    stopped = ref.stop(block=False)
    ref.tell(2)
    run_idle()
    assert of(notes, "a") == ["start", 1, "turn end", "stop"]
    assert stopped.get() is True
    assert reactor.dead_letters == 1


def test_a_failing_hook_fails_the_actor_as_a_told_message_does(reactor, run_idle, caplog):
    class Faulty(Noter):
        def on_turn_end(self):
            msg = "hook"
            raise ValueError(msg)

    notes = []
    ref = reactor.spawn(Faulty, notes, address="a")
    answer = ref.ask("answered all the same", block=False)
    run_idle()
    assert answer.get() is None
    assert notes[-1] == ("a", "failure", ("hook",))
    assert not ref.is_alive()
    assert reactor.lookup("a") is None
    assert "ValueError: hook" in caplog.text


def test_no_turn_end_after_a_failure(reactor, run_idle):
    class Faulty(TurnNoter):
        def on_receive(self, message):
            super().on_receive(message)
            raise ValueError(message)

    notes = []
    ref = reactor.spawn(Faulty, notes, address="a")
    ref.tell("x")
    ref.tell("left behind")
    run_idle()
    assert notes == [("a", "start"), ("a", "x"), ("a", "failure", ("x",))]
    assert reactor.dead_letters == 1


def test_busy_actors_take_turns_in_order(reactor, run_idle):
    notes = []
    refs = [reactor.spawn(Noter, notes, address=name) for name in ("a", "b")]
    run_idle()
    notes.clear()
    for ref in refs:
        for number in range(TURN_MESSAGES_MAX * 2):
            ref.tell(number)
    run_idle()
    turns = [notes[start][0] for start in range(0, len(notes), TURN_MESSAGES_MAX)]
    assert turns == ["a", "b", "a", "b"]
    assert of(notes, "a") == of(notes, "b") == list(range(TURN_MESSAGES_MAX * 2))


def test_an_actor_that_tells_itself_for_ever_leaves_others_their_turn(reactor):
    class Endless(ReactorActor):
        def on_receive(self, message):
            self.actor_ref.tell(message)

    notes = []
    reactor.spawn(Endless, address="endless")
    other = reactor.spawn(Noter, notes, address="other")
    reactor.tell("endless", 1)
    reactor.run_pass()
    other.tell("hello")
    reactor.run_pass()
    assert of(notes, "other") == ["start", "hello"]


@pytest.mark.parametrize("partners", [1, 2])
def test_io_is_looked_at_however_busy_the_actors_are(reactor, poller, partners):
    class Relay(ReactorActor):
        def __init__(self, next_address, handled):
            super().__init__()
            self.next_address = next_address
            self.handled = handled

        def on_receive(self, message):
            self.handled.append(message)
            assert self.reactor.tell(self.next_address, message)

    handled = []
    for index in range(partners):
        reactor.spawn(Relay, str((index + 1) % partners), handled, address=str(index))
    reactor.tell("0", "ball")
    looked = []
    for _ in range(5):
        poller.ready.append(lambda: looked.append(len(handled)))
        assert reactor.run_pass(None)
    assert looked[0] == 0
    steps = [later - earlier for earlier, later in itertools.pairwise(looked)]
    assert all(0 < step <= PASS_MESSAGES_MAX + TURN_MESSAGES_MAX for step in steps)
    assert poller.waits == [0.0] * 5


def test_an_idle_actor_keeps_no_message_alive(reactor, run_idle):
    ref = reactor.spawn(Noter, [], address="a")
    ref.tell("x")
    run_idle()
    assert ref.actor_inbox.current is None
