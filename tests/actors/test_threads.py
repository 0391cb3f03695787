"""The reactor and other threads: one wake-up, order, and no message lost at the end."""

from __future__ import annotations

import threading

import pykka
import pytest
from zmqbroker.actors.actor import ReactorActor
from zmqbroker.actors.entry_queue import EntryQueue
from zmqbroker.actors.reactor import PASS_ENTRIES_MAX, NodeFatalError

DEADLINE_S = 10.0


class Collector(ReactorActor):
    def __init__(self, got, expected=0):
        super().__init__()
        self.got = got
        self.expected = expected
        self.complete = threading.Event()

    def on_receive(self, message):
        self.got.append(message)
        if len(self.got) == self.expected:
            self.complete.set()
        return message


def in_thread(function):
    thread = threading.Thread(target=function)
    thread.start()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def test_calls_from_a_thread_run_in_order_for_one_wake_up(reactor, poller):
    ran = []
    reactor.run_pass()
    in_thread(lambda: [reactor.call_from_thread(lambda n=n: ran.append(n)) for n in range(100)])
    assert poller.wakes == 1
    reactor.run_pass()
    assert ran == list(range(100))
    in_thread(lambda: reactor.call_from_thread(list))
    assert poller.wakes == 2


def test_calls_and_messages_of_a_thread_keep_their_order(reactor, run_idle):
    got = []
    ref = reactor.spawn(Collector, got, address="a")
    run_idle()

    def work():
        ref.tell(1)
        reactor.call_from_thread(lambda: ref.tell(2))
        reactor.tell("a", 3)

    in_thread(work)
    run_idle()
    assert got == [1, 2, 3]


def test_a_pass_runs_a_bounded_number_of_calls(reactor):
    ran = []
    reactor.run_pass()
    in_thread(lambda: [reactor.call_from_thread(lambda: ran.append(1)) for _ in range(PASS_ENTRIES_MAX + 5)])
    assert reactor.run_pass() is True
    assert len(ran) == PASS_ENTRIES_MAX
    assert reactor.run_pass() is False
    assert len(ran) == PASS_ENTRIES_MAX + 5


def test_a_call_that_calls_again_waits_for_the_next_pass(reactor):
    ran = []

    def again():
        ran.append(1)
        reactor.call_from_thread(again)

    reactor.call_from_thread(again)
    reactor.run_pass()
    assert ran == [1]


def test_what_was_told_before_the_first_pass_is_not_overtaken(reactor, run_idle):
    got = []
    ref = reactor.spawn(Collector, got, address="a")
    for number in range(PASS_ENTRIES_MAX + 5):
        ref.tell(number)
    reactor.run_pass()
    ref.tell("last")
    run_idle()
    assert got == [*range(PASS_ENTRIES_MAX + 5), "last"]


@pytest.mark.parametrize(
    "use",
    [
        lambda reactor: reactor.spawn(Collector, [], address="b"),
        lambda reactor: reactor.stop_actor("a"),
        lambda reactor: reactor.call_soon(list),
        lambda reactor: reactor.call_later(1, list),
        lambda reactor: reactor.run_pass(),
        lambda reactor: reactor.abort(),
    ],
)
def test_other_threads_are_kept_out(reactor, use):
    reactor.run_pass()
    caught = []

    def work():
        with pytest.raises(RuntimeError, match=r"reactor's own thread: use call_from_thread\(\)") as info:
            use(reactor)
        caught.append(info.value)

    in_thread(work)
    assert len(caught) == 1


def test_messages_of_many_threads_all_arrive_each_threads_in_order(background):
    threads, each = 4, 2000
    got = []
    ref = background.spawn(Collector, got, threads * each, address="a")
    complete = ref.proxy().complete.get()
    senders = [
        threading.Thread(target=lambda name=name: [ref.tell((name, number)) for number in range(each)])
        for name in range(threads)
    ]
    for sender in senders:
        sender.start()
    assert complete.wait(DEADLINE_S)
    for sender in senders:
        sender.join(DEADLINE_S)
    for name in range(threads):
        assert [number for sender, number in got if sender == name] == list(range(each))


def test_ask_works_from_another_thread(background):
    ref = background.spawn(Collector, [], address="a")
    assert ref.ask("x") == "x"
    assert background.reactor.tell("a", "y") is True
    assert ref.stop() is True
    assert ref.stop() is False
    assert background.reactor.tell("a", "z") is False


def test_stop_from_another_thread_ends_run(background):
    background.spawn(Collector, [], address="a")
    background.reactor.stop()
    background.join()
    assert background.error is None
    assert background.reactor.lookup("a") is None


def test_a_fatal_error_answers_the_thread_that_waits(background):
    class Broken(ReactorActor):
        def on_receive(self, _message):
            raise AssertionError

    ref = background.spawn(Broken, address="a")
    with pytest.raises(pykka.ActorDeadError):
        ref.ask("x", timeout=DEADLINE_S)
    background.join()
    assert isinstance(background.error, NodeFatalError)


def test_an_envelope_that_comes_too_late_is_answered_or_counted(reactor, run_idle, caplog):
    ref = reactor.spawn(Collector, [], address="a")
    run_idle()
    answers = []
    ref.stop(block=False)

    def work():  # the actor still lives, but its stop comes first
        answers.append(ref.ask("late", block=False))
        ref.tell("lost")

    in_thread(work)
    run_idle()
    with pytest.raises(pykka.ActorDeadError):
        answers[0].get()
    assert reactor.dead_letters == 1
    assert "1 messages were left behind by" in caplog.text


def test_an_envelope_that_comes_after_the_end_is_answered_or_counted(reactor, run_idle):
    """The thread saw a living actor, and was held up until all was over."""
    ref = reactor.spawn(Collector, [], address="a")
    run_idle()
    reactor.abort()
    ref.actor_stopped.clear()
    in_thread(lambda: ref.tell("lost"))
    answer = ref.ask("late", block=False)
    with pytest.raises(pykka.ActorDeadError):
        answer.get()
    assert reactor.dead_letters == 1


def test_no_ask_hangs_however_it_meets_the_end(background):
    """Threads ask on while the reactor stops: each ask has an answer, the message back or ActorDeadError."""
    ref = background.spawn(Collector, [], address="a")
    started = threading.Barrier(4)
    unanswered = []

    def ask_on():
        started.wait(DEADLINE_S)
        for number in range(100_000):
            try:
                ref.ask(number, timeout=DEADLINE_S)
            except pykka.ActorDeadError:
                return
            except pykka.Timeout as error:
                unanswered.append(error)
                return

    askers = [threading.Thread(target=ask_on) for _ in range(3)]
    for asker in askers:
        asker.start()
    started.wait(DEADLINE_S)
    background.reactor.stop()
    for asker in askers:
        asker.join(DEADLINE_S)
        assert not asker.is_alive()
    assert unanswered == []


def test_a_closed_entry_queue_refuses_what_waits_and_what_comes():
    refused = []
    entries = EntryQueue(wake=list, refuse=refused.append)
    early, late = (lambda: None), (lambda: None)
    assert entries.add(early) is True
    entries.close()
    assert refused == [early]
    assert entries.add(late) is False
    assert refused == [early, late]
    assert len(entries) == 0


def test_callbacks_that_never_ran_are_counted_at_the_end(reactor, caplog):
    caplog.set_level("INFO", logger="zmqbroker")
    reactor.call_from_thread(list)
    reactor.call_soon(list)
    reactor.abort()
    assert "before it ran 2 callbacks" in caplog.text
