"""The reactor: addresses, callbacks, passes on virtual time, stopping."""

from __future__ import annotations

import gc
import weakref

import pykka
import pytest
from zmqbroker.actors.actor import ReactorActor
from zmqbroker.actors.reactor import Reactor


class Plain(ReactorActor):
    def __init__(self, notes=None):
        super().__init__()
        self.notes = [] if notes is None else notes

    def on_receive(self, message):
        self.notes.append(message)
        return message

    def on_stop(self):
        self.notes.append(f"{self.address} stopped")


def test_lookup_and_tell_by_address(reactor, run_idle):
    notes = []
    ref = reactor.spawn(Plain, notes, address="a")
    assert reactor.lookup("a") is ref
    assert reactor.lookup("b") is None
    assert reactor.addresses() == ["a"]
    assert reactor.tell("a", 1) is True
    assert reactor.tell("b", 1) is False
    run_idle()
    assert notes == [1]


def test_spawn_refuses_a_taken_address_until_its_actor_is_gone(reactor, run_idle):
    ref = reactor.spawn(Plain, address="a")
    with pytest.raises(ValueError, match="'a' is taken"):
        reactor.spawn(Plain, address="a")
    ref.stop(block=False)
    run_idle()
    assert reactor.spawn(Plain, address="a").is_alive()


def test_a_constructor_that_raises_leaves_the_address_free(reactor):
    class Faulty(ReactorActor):
        def __init__(self):
            super().__init__()
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        reactor.spawn(Faulty, address="a", supervised=True)
    assert reactor.lookup("a") is None
    reactor.spawn(Plain, address="a")


def test_a_constructor_may_spawn_others(reactor, run_idle):
    class Parent(ReactorActor):
        def __init__(self, notes, *, before):
            if before:
                reactor.spawn(Plain, notes, address="child")
            super().__init__()
            if not before:
                self.reactor.spawn(Plain, notes, address="child")

    for before in (True, False):
        notes = []
        parent = reactor.spawn(Parent, notes, before=before, address="parent")
        assert (parent.actor_urn, reactor.lookup("child").actor_urn) == ("parent", "child")
        reactor.tell("child", 1)
        assert reactor.stop_actor("parent")
        assert reactor.stop_actor("child")
        run_idle()
        assert notes == [1, "child stopped"]


def test_an_actor_needs_a_reactor():
    for make in (Plain, Plain.start):
        with pytest.raises(RuntimeError, match=r"Plain needs a reactor: make it with Reactor\.spawn"):
            make()
    assert pykka.ActorRegistry.get_all() == []


def test_an_actor_class_must_call_the_constructor_of_its_base(reactor):
    class Forgetful(ReactorActor):
        def __init__(self):
            pass

    with pytest.raises(TypeError, match=r"Forgetful.__init__\(\) did not call super"):
        reactor.spawn(Forgetful, address="a")
    assert reactor.lookup("a") is None


def test_the_reactor_keeps_actors_alive_and_lets_dead_ones_go(reactor, run_idle):
    ref = reactor.spawn(Plain, address="a")
    watch = weakref.ref(ref._actor_weakref())
    gc.collect()
    assert watch() is not None
    ref.stop(block=False)
    run_idle()
    gc.collect()
    assert watch() is None
    with pytest.raises(pykka.ActorDeadError):
        ref.tell(1)


def test_two_reactors_have_equal_addresses_and_nothing_in_common(clock, poller):
    notes = ([], [])
    reactors = [Reactor(clock, poller), Reactor(clock, poller)]
    for reactor, own in zip(reactors, notes, strict=True):
        reactor.spawn(Plain, own, address="a")
    reactors[0].tell("a", "first")
    reactors[1].tell("a", "second")
    for reactor in reactors:
        reactor.run_pass()
        reactor.run_pass()
    assert notes == (["first"], ["second"])
    assert pykka.ActorRegistry.get_all() == []
    reactors[0].stop_actor("a")
    reactors[0].run_pass()
    assert reactors[0].lookup("a") is None
    assert reactors[1].lookup("a").is_alive()


def test_stop_all_of_pykkas_registry_leaves_our_actors_alone(reactor, run_idle):
    ref = reactor.spawn(Plain, address="a")
    run_idle()
    pykka.ActorRegistry.stop_all()
    run_idle()
    assert ref.is_alive()


def test_call_soon_runs_in_order_and_newcomers_in_the_next_pass(reactor):
    ran = []

    def again():
        ran.append(len(ran))
        reactor.call_soon(again)

    reactor.call_soon(again)
    reactor.call_soon(lambda: ran.append("other"))
    assert reactor.run_pass() is True
    assert ran == [0, "other"]
    reactor.run_pass()
    assert ran == [0, "other", 2]


def test_a_pass_waits_until_the_next_timer_and_no_longer_than_asked(reactor, poller, clock):
    ran = []
    reactor.call_later(50, lambda: ran.append(clock.now_ms))
    assert reactor.next_due_ms() == 1050.0
    reactor.run_pass(20)
    assert (poller.waits, ran) == ([20], [])
    reactor.run_pass(None)
    assert (poller.waits, ran) == ([20, 30], [1050.0])
    assert reactor.next_due_ms() is None
    reactor.run_pass(5)
    reactor.run_pass(None)
    assert poller.waits == [20, 30, 5, None]


def test_a_timer_can_be_cancelled(reactor, run_for):
    ran = []
    timer = reactor.call_later(50, lambda: ran.append(1))
    reactor.call_later(40, timer.cancel)
    run_for(100)
    assert ran == []


def test_a_failing_callback_is_logged_and_the_others_run(reactor, run_for, caplog):
    ran = []
    for schedule in (reactor.call_soon, reactor.call_from_thread, lambda callback: reactor.call_later(1, callback)):
        schedule(lambda: 1 / 0)
        schedule(lambda: ran.append(1))
    run_for(5)
    assert ran == [1, 1, 1]
    assert caplog.text.count("ZeroDivisionError") == 3


def test_stop_stops_the_last_born_first_after_its_messages(reactor):
    notes = []
    for name in ("a", "b", "c"):
        reactor.spawn(Plain, notes, address=name)
        reactor.tell(name, f"{name} told")
    reactor.stop()
    assert reactor.stopping
    assert not reactor.stopped
    reactor.run()
    assert reactor.stopped
    assert notes == ["a told", "b told", "c told", "c stopped", "b stopped", "a stopped"]


def test_an_actor_may_spawn_and_tell_while_the_reactor_stops(reactor):
    notes = []

    class Parting(Plain):
        def on_stop(self):
            self.reactor.spawn(Plain, self.notes, address="late")
            assert self.reactor.tell("first", "farewell")
            assert self.reactor.stopping

    reactor.spawn(Plain, notes, address="first")
    reactor.spawn(Parting, notes, address="second")
    reactor.stop()
    reactor.run()
    assert notes == ["farewell", "late stopped", "first stopped"]


def test_stop_works_from_an_actor(reactor):
    class Last(ReactorActor):
        def on_receive(self, _message):
            self.reactor.stop()

    reactor.spawn(Last, address="a").tell("end")
    reactor.run()
    assert reactor.stopped


def test_nothing_runs_after_the_end(reactor, caplog):
    ref = reactor.spawn(Plain, address="a")
    reactor.stop()
    reactor.run()
    assert reactor.tell("a", 1) is False
    assert ref.stop(block=False).get() is False
    assert reactor.call_from_thread(list) is False
    with pytest.raises(RuntimeError, match="has stopped"):
        reactor.spawn(Plain, address="b")
    with pytest.raises(RuntimeError, match="has stopped"):
        reactor.run_pass()
    reactor.run()
    assert caplog.records == []


def test_abort_runs_no_hook_and_answers_asks(reactor, run_idle):
    notes = []
    ref = reactor.spawn(Plain, notes, address="a")
    run_idle()
    answer = ref.ask(1, block=False)
    ref.tell(2)
    reactor.call_later(5, lambda: notes.append("timer"))
    reactor.abort()
    assert notes == []
    assert reactor.stopped
    assert reactor.dead_letters == 1
    assert reactor.next_due_ms() is None
    with pytest.raises(pykka.ActorDeadError):
        answer.get()


@pytest.mark.parametrize("inside", ["actor", "call_soon", "call_later", "poller"])
def test_abort_inside_of_a_pass_ends_it_without_an_error(reactor, poller, inside):
    class Aborting(Plain):
        def on_receive(self, message):
            super().on_receive(message)
            self.reactor.abort()

    notes = []
    reactor.spawn(Aborting, notes, address="a")
    other = reactor.spawn(Plain, notes, address="b")
    reactor.run_pass()
    match inside:
        case "actor":
            reactor.tell("a", "abort")
        case "call_soon":
            reactor.call_soon(reactor.abort)
        case "call_later":
            reactor.call_later(0, reactor.abort)
        case "poller":
            poller.ready.append(reactor.abort)
    answer = other.ask("not heard", block=False)
    assert reactor.run_pass() is False
    assert reactor.stopped
    assert notes == (["abort"] if inside == "actor" else [])
    with pytest.raises(pykka.ActorDeadError):
        answer.get()


def test_a_pass_inside_of_a_pass_is_refused(reactor):
    caught = []

    def nested():
        with pytest.raises(RuntimeError, match="while a pass is running") as info:
            reactor.run_pass()
        caught.append(info.value)

    reactor.call_soon(nested)
    reactor.run_pass()
    assert len(caught) == 1


def test_an_address_that_nobody_can_stop(reactor):
    assert reactor.stop_actor("nobody") is False
