"""What pykka promises of any actor, held against the reactor's actors and pykka's own ThreadingActor alike."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pykka
import pytest
from pykka.messages import ProxyCall, ProxyGetAttr, ProxySetAttr
from zmqbroker.actors.actor import ReactorActor

DEADLINE_S = 10.0


class Events:
    """What happened to an actor, for a test to wait for."""

    def __init__(self):
        self.order = []
        self._happened = threading.Condition()

    def add(self, event):
        with self._happened:
            self.order.append(event)
            self._happened.notify_all()

    def wait_for(self, event):
        with self._happened:
            assert self._happened.wait_for(lambda: event in self.order, DEADLINE_S), (event, self.order)


class Part:
    """A part of an actor that its proxy may look into."""

    def __init__(self):
        self.value = "inner"

    def double(self, number):
        return 2 * number


class Behaviour(pykka.Actor):
    """The same for both kinds."""

    shared = "of the class"

    def __init__(self, events=None, fail_in=()):
        super().__init__()
        self.events = events or Events()
        self.fail_in = fail_in
        self.attribute = "of the instance"
        self.part = pykka.traversable(Part())
        self.opaque = Part()
        self._private = 1

    def _hook(self, name):
        self.events.add(name)
        if name in self.fail_in:
            raise LookupError(name)

    def on_start(self):
        self._hook("on_start")

    def on_stop(self):
        self._hook("on_stop")

    def on_failure(self, exception_type, exception_value, traceback):
        self.failure = (exception_type, exception_value, traceback)
        self.events.add(("failed", exception_type, str(exception_value), traceback is not None))
        self._hook("on_failure")

    def on_receive(self, message):
        match message:
            case "raise":
                msg = "as asked"
                raise LookupError(msg)
            case "thread":
                return threading.get_ident()
            case "stop yourself":
                self.stop()
            case threading.Event():
                message.wait(DEADLINE_S)
            case _:
                self.events.add(message)
        return message

    def add(self, left, right=0):
        self.events.add(("add", left, right))
        return left + right

    def fail(self):
        msg = "in a method"
        raise LookupError(msg)

    @property
    def computed(self):
        return self.attribute.upper()


class OnReactor(Behaviour, ReactorActor):
    pass


class OnThread(Behaviour, pykka.ThreadingActor):
    pass


@pytest.fixture(params=["reactor", "threading"])
def start(request):
    """Start an actor of the kind under test."""
    if request.param == "threading":
        yield OnThread.start
        pykka.ActorRegistry.stop_all(timeout=DEADLINE_S)
        return
    background = request.getfixturevalue("background")
    names = itertools.count()

    def start_on_reactor(*args, **kwargs):
        return background.spawn(OnReactor, *args, address=f"actor/{next(names)}", **kwargs)

    yield start_on_reactor
    assert background.error is None


@pytest.fixture
def events():
    return Events()


@pytest.fixture
def ref(start, events):
    return start(events)


def ended(ref):
    assert ref.actor_stopped.wait(DEADLINE_S)
    return not ref.is_alive()


# Starting


def test_a_started_actor_is_alive_and_knows_itself(ref):
    assert isinstance(ref, pykka.ActorRef)
    assert ref.is_alive()
    proxy = ref.proxy()
    assert proxy.actor_ref is ref
    assert ref.ask(ProxyGetAttr(attr_path=("actor_ref",))) is ref
    assert ref.ask(ProxyGetAttr(attr_path=("actor_urn",))) == ref.actor_urn


def test_urns_differ(start):
    assert len({start().actor_urn for _ in range(5)}) == 5


def test_names_of_actor_and_ref(ref):
    assert str(ref) == f"{ref.actor_class.__name__} ({ref.actor_urn})"
    assert repr(ref) == f"<ActorRef for {ref}>"


def test_on_start_precedes_every_message(ref, events):
    ref.tell("first")
    events.wait_for("first")
    assert events.order == ["on_start", "first"]


def test_a_failing_on_start_ends_the_actor_without_on_failure(start, events, caplog):
    ref = start(events, fail_in=["on_start"])
    assert ended(ref)
    assert events.order == ["on_start"]
    assert "LookupError: on_start" in caplog.text


# Telling and asking


def test_tell_returns_nothing_and_does_not_wait(ref):
    gate = threading.Event()
    assert ref.tell(gate) is None
    gate.set()


def test_messages_of_one_sender_keep_their_order(ref, events):
    for number in range(500):
        ref.tell(number)
    events.wait_for(499)
    assert events.order == ["on_start", *range(500)]


def test_tells_and_asks_keep_their_order(ref, events):
    ref.tell(1)
    future = ref.ask(2, block=False)
    ref.tell(3)
    assert ref.ask(4) == 4
    assert events.order == ["on_start", 1, 2, 3, 4]
    assert future.get() == 2


def test_ask_answers_with_what_on_receive_returns(ref):
    assert ref.ask({"any": "value"}) == {"any": "value"}
    answer = object()
    assert ref.ask(answer) is answer
    assert ref.ask(None) is None


def test_all_hooks_and_messages_share_one_thread(ref):
    threads = {ref.ask("thread") for _ in range(5)}
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_many_threads_may_ask_at_once(ref):
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ref.ask, range(400))) == list(range(400))


def test_an_actor_may_tell_itself(ref):
    proxy = ref.proxy()
    assert proxy.actor_ref.ask("stop yourself") == "stop yourself"
    assert ended(ref)


# Exceptions


def test_an_exception_under_ask_is_the_answer_and_the_actor_lives(ref):
    with pytest.raises(LookupError, match="as asked") as info:
        ref.ask("raise")
    assert "on_receive" in [entry.name for entry in info.traceback]
    assert ref.ask("still here") == "still here"


def test_an_exception_under_tell_ends_the_actor(ref, events, caplog):
    ref.tell("raise")
    assert ended(ref)
    events.wait_for("on_failure")
    assert events.order == ["on_start", ("failed", LookupError, "as asked", True), "on_failure"]
    assert f"Unhandled exception in {ref}" in caplog.text
    assert "LookupError: as asked" in caplog.text


def test_a_failing_on_failure_is_logged(start, events, caplog):
    ref = start(events, fail_in=["on_failure"])
    ref.tell("raise")
    assert ended(ref)
    events.wait_for("on_failure")
    deadline = time.monotonic() + DEADLINE_S
    while "LookupError: on_failure" not in caplog.text:
        assert time.monotonic() < deadline
    assert "on_stop" not in events.order


def test_messages_behind_a_failure_are_answered(ref):
    gate = threading.Event()
    ref.tell(gate)
    ref.tell("raise")
    behind = ref.ask("behind", block=False)
    gate.set()
    with pytest.raises(pykka.ActorDeadError):
        behind.get(timeout=DEADLINE_S)


# Stopping


def test_stop_waits_for_the_end(ref, events):
    assert ref.stop() is True
    assert not ref.is_alive()
    assert events.order == ["on_start", "on_stop"]


def test_stop_without_waiting_gives_a_future(ref):
    future = ref.stop(block=False)
    assert future.get(timeout=DEADLINE_S) is True
    assert not ref.is_alive()


def test_stopping_a_dead_actor_is_false(ref):
    ref.stop()
    assert ref.stop() is False
    assert ref.stop(block=False).get() is False


def test_stop_handles_what_came_before_and_refuses_what_came_after(ref, events):
    gate = threading.Event()
    ref.tell(gate)
    ref.tell("before")
    first = ref.stop(block=False)
    after = ref.ask("after", block=False)
    second = ref.stop(block=False)
    gate.set()
    assert first.get(timeout=DEADLINE_S) is True
    with pytest.raises(pykka.ActorDeadError):
        after.get(timeout=DEADLINE_S)
    assert second.get(timeout=DEADLINE_S) is True
    assert events.order == ["on_start", "before", "on_stop"]


def test_a_failing_on_stop_is_logged_and_the_actor_is_gone(start, events, caplog):
    ref = start(events, fail_in=["on_stop"])
    assert ref.stop() is True
    assert not ref.is_alive()
    assert "LookupError: on_stop" in caplog.text
    assert "on_failure" not in events.order


def test_a_dead_actor_takes_no_message(ref):
    ref.stop()
    with pytest.raises(pykka.ActorDeadError, match="not found"):
        ref.tell("x")
    with pytest.raises(pykka.ActorDeadError, match="not found"):
        ref.ask("x")
    future = ref.ask("x", block=False)
    with pytest.raises(pykka.ActorDeadError):
        future.get()
    with pytest.raises(pykka.ActorDeadError):
        ref.proxy()


# Proxies


def test_a_proxy_calls_methods(ref):
    proxy = ref.proxy()
    assert proxy.add(1, right=2).get() == 3
    assert proxy.part.double(4).get() == 8


def test_a_proxy_reads_and_writes_attributes(ref):
    proxy = ref.proxy()
    assert proxy.attribute.get() == "of the instance"
    assert proxy.shared.get() == "of the class"
    assert proxy.computed.get() == "OF THE INSTANCE"
    proxy.attribute = "changed"
    assert proxy.computed.get() == "CHANGED"
    proxy.part.value = "changed, too"
    assert proxy.part.value.get() == "changed, too"
    assert isinstance(proxy.opaque.get(), Part)


def test_a_proxy_knows_what_is_there(ref):
    proxy = ref.proxy()
    assert {"add", "attribute", "shared", "part"} <= set(dir(proxy))
    with pytest.raises(AttributeError, match="nothing"):
        _ = proxy.nothing
    with pytest.raises(AttributeError, match="_private"):
        _ = proxy._Behaviour_private


def test_exceptions_of_proxied_methods_are_answers(ref):
    with pytest.raises(LookupError, match="in a method"):
        ref.proxy().fail().get()
    assert ref.is_alive()


def test_a_deferred_call_tells(ref, events):
    assert ref.proxy().add.defer(1, 2) is None
    events.wait_for(("add", 1, 2))
    ref.proxy().fail.defer()
    assert ended(ref)


def test_proxy_messages_without_a_proxy(ref):
    assert ref.ask(ProxyCall(attr_path=("add",), args=(1,), kwargs={"right": 1})) == 2
    assert ref.ask(ProxySetAttr(attr_path=("attribute",), value=7)) is None
    assert ref.ask(ProxyGetAttr(attr_path=("attribute",))) == 7


def test_proxies_of_one_actor_are_equal(start):
    one, other = start(), start()
    assert one.proxy() == one.proxy()
    assert hash(one.proxy()) == hash(one.proxy())
    assert one.proxy() != other.proxy()


# Futures


def test_a_future_times_out_and_answers_later(ref):
    gate = threading.Event()
    ref.tell(gate)
    future = ref.ask("x", block=False)
    with pytest.raises(pykka.Timeout):
        future.get(timeout=0.01)
    with pytest.raises(pykka.Timeout):
        ref.ask("y", timeout=0)
    gate.set()
    assert future.get(timeout=DEADLINE_S) == "x"
    assert future.get() == "x"


def test_futures_combine(ref):
    one, two = (ref.ask(number, block=False) for number in (1, 2))
    assert one.map(lambda number: number + 10).get() == 11
    assert one.join(two).get() == [1, 2]
    assert one.join(two).reduce(lambda left, right: left + right).get() == 3
    assert one.join(two).filter(lambda number: number > 1).get() == [2]
    assert pykka.get_all([two, one]) == [2, 1]


def test_a_future_can_be_set_once(ref):
    future = ref.actor_class._create_future()
    future.set(1)
    for again in (lambda: future.set(2), future.set_exception, lambda: future.set_get_hook(lambda _: 3)):
        with pytest.raises(Exception, match=r"^$"):
            again()
    assert future.get() == 1


def test_a_future_holds_an_exception(ref):
    future = ref.actor_class._create_future()
    future.set_exception((LookupError, LookupError("held"), None))
    for _ in range(2):
        with pytest.raises(LookupError, match="held"):
            future.get()


def test_a_future_can_be_awaited(ref):
    future = ref.ask("x", block=False)
    steps = future.__await__()
    next(steps)
    with pytest.raises(StopIteration) as info:
        next(steps)
    assert info.value.value == "x"
