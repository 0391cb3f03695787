"""A failed assertion ends the reactor, wherever it fails, and is nobody's answer."""

from __future__ import annotations

import pykka
import pytest
from zmqbroker.actors.actor import ReactorActor
from zmqbroker.actors.future import BlockingOnReactorError
from zmqbroker.actors.reactor import NodeFatalError

WHERE = ["on_start", "on_receive", "on_turn_end", "on_stop", "on_failure"]


class Broken(ReactorActor):
    """Raises an error at the place it is told to."""

    def __init__(self, where, error):
        super().__init__()
        self.where = where
        self.error = error
        self.stops = []

    def fail_at(self, where):
        if where == self.where:
            raise self.error

    def on_start(self):
        self.fail_at("on_start")

    def on_receive(self, _message):
        if self.where == "on_failure":
            msg = "ordinary"
            raise ValueError(msg)
        self.fail_at("on_receive")

    def on_turn_end(self):
        self.fail_at("on_turn_end")

    def on_stop(self):
        self.fail_at("on_stop")

    def on_failure(self, *_exc_info):
        self.fail_at("on_failure")

    def method(self):
        raise self.error


class Bystander(ReactorActor):
    def __init__(self, notes):
        super().__init__()
        self.notes = notes

    def on_stop(self):
        self.notes.append("on_stop")


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("supervised", [False, True])
def test_an_assertion_in_an_actor_ends_the_reactor(reactor, where, supervised):
    notes = []
    error = AssertionError("1 is not 2")
    reactor.spawn(Bystander, notes, address="bystander")
    ref = reactor.spawn(Broken, where, error, address="broken", supervised=supervised)
    ref.tell("x")
    if where == "on_stop":
        ref.stop(block=False)
    with pytest.raises(NodeFatalError, match=r"Broken \(broken\).*1 is not 2") as info:
        reactor.run()
    assert info.value.__cause__ is error
    assert reactor.stopped
    assert reactor.lookup("bystander") is None
    assert notes == []  # as in a crash: state that is not trusted is not written either


def test_an_assertion_under_ask_is_fatal_and_not_the_answer(reactor):
    error = AssertionError("secret")
    ref = reactor.spawn(Broken, "on_receive", error, address="broken")
    answers = [ref.ask("x", block=False), ref.ask("y", block=False)]
    with pytest.raises(NodeFatalError) as info:
        reactor.run()
    assert info.value.__cause__ is error
    for answer in answers:
        with pytest.raises(pykka.ActorDeadError):
            answer.get()


def test_an_assertion_in_a_proxy_call_is_fatal(reactor):
    ref = reactor.spawn(Broken, "", AssertionError(), address="broken")
    answer = ref.proxy().method()
    with pytest.raises(NodeFatalError):
        reactor.run()
    with pytest.raises(pykka.ActorDeadError):
        answer.get()


@pytest.mark.parametrize("kind", ["call_later", "call_soon", "call_from_thread", "poller"])
def test_an_assertion_in_a_callback_is_fatal(reactor, poller, kind):
    error = AssertionError("callback")
    ran = []

    def callback():
        raise error

    def schedule(function):
        match kind:
            case "call_later":
                reactor.call_later(0, function)
            case "poller":
                poller.ready.append(function)
            case _:
                getattr(reactor, kind)(function)

    schedule(callback)
    schedule(lambda: ran.append(1))
    with pytest.raises(NodeFatalError, match="callback") as info:
        reactor.run_pass()
    assert info.value.__cause__ is error
    assert ran == []


def test_an_assertion_in_the_constructor_is_fatal_in_an_actor_that_spawns(reactor):
    class Parent(ReactorActor):
        def on_receive(self, _message):
            self.reactor.spawn(BrokenFromBirth, address="child")

    class BrokenFromBirth(ReactorActor):
        def __init__(self):
            super().__init__()
            raise AssertionError

    reactor.spawn(Parent, address="parent").ask("x", block=False)
    with pytest.raises(NodeFatalError):
        reactor.run()


def test_an_error_of_the_poller_is_fatal(reactor, monkeypatch):
    def wait(_timeout_ms):
        raise OSError(9, "bad descriptor")

    monkeypatch.setattr(reactor._poller, "wait", wait)
    with pytest.raises(NodeFatalError, match="bad descriptor") as info:
        reactor.run()
    assert isinstance(info.value.__cause__, OSError)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_run_as_it_is_and_other_peoples_actors_alone(reactor, where, kind):
    class Foreign(pykka.ThreadingActor):
        pass

    foreign = Foreign.start()
    try:
        ref = reactor.spawn(Broken, where, kind(), address="broken")
        ref.tell("x")
        if where == "on_stop":
            ref.stop(block=False)
        with pytest.raises(kind):
            reactor.run()
        assert reactor.stopped
        assert foreign.is_alive()
    finally:
        foreign.stop()


def test_ask_and_get_in_a_handler_raises(reactor, run_idle):
    caught = []

    class Asker(ReactorActor):
        def on_receive(self, _message):
            other = self.reactor.lookup("other")
            for wait in (
                lambda: other.ask("x"),
                lambda: other.ask("x", timeout=1),
                lambda: other.ask("x", block=False).map(str).get(),
                other.stop,
            ):
                with pytest.raises(BlockingOnReactorError, match="would wait for ever") as info:
                    wait()
                caught.append(info.value)

    class Other(ReactorActor):
        pass

    reactor.spawn(Other, address="other")
    reactor.spawn(Asker, address="asker").tell("go")
    run_idle()
    assert len(caught) == 4
    assert reactor.lookup("asker") is not None
    assert reactor.lookup("other") is None  # the stop was sent all the same


def test_waiting_between_passes_on_the_reactors_thread_raises(reactor, run_idle):
    class Echo(ReactorActor):
        def on_receive(self, message):
            return message

    ref = reactor.spawn(Echo, address="a")
    run_idle()
    future = ref.ask("x", block=False)
    with pytest.raises(BlockingOnReactorError):
        future.get()
    run_idle()
    assert future.get() == "x"


def test_a_handler_may_not_wait_for_another_reactor_either(reactor, run_idle, background):
    caught = []

    class Echo(ReactorActor):
        def on_receive(self, message):
            return message

    other = background.spawn(Echo, address="a")

    def ask():
        with pytest.raises(BlockingOnReactorError) as info:
            pykka.get_all([other.ask("x", block=False), ReactorActor._create_future()])
        caught.append(info.value)

    reactor.call_soon(ask)
    run_idle()
    assert len(caught) == 1
    assert other.ask("x") == "x"  # outside of a pass, this thread may
