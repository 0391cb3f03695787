"""The base of coordinators, by the smallest one there can be: a map whose every change is a record."""

from __future__ import annotations

import queue
from typing import Any, ClassVar

import pytest
from zmqbroker.actors.actor import ReactorActor
from zmqbroker.actors.commands import Answer, Command, EndWait, Maintain, Refusal, TopicGone
from zmqbroker.actors.context import coordinator_address, partition_address
from zmqbroker.actors.coordinator import Coordinator
from zmqbroker.actors.partition import Partition
from zmqbroker.errors import InvalidRequestError
from zmqbroker.transport.message_base import Body

TOPIC = "register"


class Put(Command):
    key: bytes
    value: bytes | None


class Get(Command):
    key: bytes


class Value(Body):
    value: bytes | None


class Register(Coordinator):
    """Answers Get from its state, which Put changes."""

    TOPIC = TOPIC
    alarms = 0
    noticed: ClassVar[list[Any]] = []

    def notice(self, message: Any) -> None:
        self.noticed.append(message)

    def forget(self) -> None:
        self.state: dict[bytes, bytes | None] = {}

    def replay(self, key: bytes, value: bytes | None, offset: int) -> None:
        del offset
        self.state[key] = value

    def loaded(self) -> None:
        self.wake_at(self.context.clock.monotonic_ms() + 1)

    def tick(self, now_ms: float) -> None:
        del now_ms
        type(self).alarms += 1

    def handle(self, command: Command) -> None:
        if isinstance(command, Put):
            if command.key == b"bad":
                message = "no key may be bad"
                raise InvalidRequestError(message)
            self.state[command.key] = command.value
            self.append(command.key, command.value)
            self.answer(command, Value(command.value))
        else:
            assert isinstance(command, Get)
            self.answer(command, Value(self.state.get(command.key)))


class Asker(ReactorActor):
    """Hands what it is told to the test."""

    def __init__(self, heard: queue.Queue[Any]) -> None:
        super().__init__()
        self.heard = heard

    def on_receive(self, message: Any) -> None:
        self.heard.put(message)


class Bench:
    """A node with a register, and somebody who asks it."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.heard: queue.Queue[Any] = queue.Queue()
        self._calls = 0
        self._run(self._spawn)
        self.heard.get(timeout=20)

    def _run(self, work: Any) -> None:
        self.node.node._reactor.call_from_thread(work)

    def _spawn(self) -> None:
        reactor, context = self.node.node._reactor, self.node.context
        self.asker = reactor.spawn(Asker, self.heard, address="asker")
        reactor.spawn(Register, context, 0, address=coordinator_address(TOPIC, 0), supervised=True)
        self.heard.put("spawned")

    def send(self, kind: type[Command], *args: Any) -> int:
        self._calls += 1
        number = self._calls
        address = coordinator_address(TOPIC, 0)
        self._run(lambda: self.node.node._reactor.tell(address, kind(self.asker, number, 0, *args)))
        return number

    def tell(self, address: str, message: Any) -> None:
        self._run(lambda: self.node.node._reactor.tell(address, message))

    def ask(self, kind: type[Command], *args: Any) -> Any:
        number = self.send(kind, *args)
        message = self.heard.get(timeout=20)
        assert message.call == number
        return message.body.value if isinstance(message, Answer) else message.error


@pytest.fixture
def make_register(make_node):
    def make(node=None):
        if node is None:
            node = make_node()
            node.client().create(TOPIC)
        return Bench(node)

    return make


def test_state_survives_a_restart_and_a_crash(make_register):
    register = make_register()
    assert register.ask(Put, b"a", b"1") == b"1"
    assert register.ask(Put, b"a", b"2") == b"2"
    register = make_register(register.node.restart())
    assert register.ask(Get, b"a") == b"2"
    assert register.ask(Put, b"b", None) is None
    register.node.crash()
    register = make_register(register.node.start())
    assert (register.ask(Get, b"a"), register.ask(Get, b"b")) == (b"2", None)


def test_no_answer_leaves_before_what_it_tells_of_is_on_the_disk(make_register, faults, eventually):
    register = make_register()
    assert register.ask(Get, b"a") is None
    faults.hold_flushes(f"/{TOPIC}-0/")
    put, get = register.send(Put, b"a", b"1"), register.send(Get, b"a")
    eventually(lambda: faults.waiting == 1, "the flush of the change")
    assert register.heard.empty()
    faults.release()
    answers = [register.heard.get(timeout=20) for _ in range(2)]
    assert [answer.call for answer in answers] == [put, get]
    assert [answer.body.value for answer in answers] == [b"1", b"1"]


def test_a_full_disk_takes_the_change_back(make_register, faults):
    register = make_register()
    register.ask(Put, b"a", b"1")
    faults.full_for = f"/{TOPIC}-0/"
    error = register.ask(Put, b"a", b"2")
    assert error.name == "COORDINATOR_NOT_AVAILABLE"
    assert "No space left on device" in error.message
    faults.full_for = ""
    assert register.ask(Get, b"a") == b"1"
    assert register.ask(Put, b"a", b"3") == b"3"


def test_a_refusal_changes_nothing(make_register):
    register = make_register()
    error = register.ask(Put, b"bad", b"1")
    assert (error.name, error.message) == ("INVALID_REQUEST", "no key may be bad")
    assert register.ask(Get, b"bad") is None


def test_a_leader_that_fails_costs_a_reload_and_nothing_else(make_register, monkeypatch):
    register = make_register()
    register.ask(Put, b"a", b"1")

    def fail(_: Any) -> None:
        message = "the test fails this leader"
        raise RuntimeError(message)

    monkeypatch.setattr(Partition, "_maintain", fail)
    register.tell(partition_address(TOPIC, 0), Maintain())
    error = register.ask(Put, b"a", b"2")
    assert error.name == "COORDINATOR_NOT_AVAILABLE"
    assert register.ask(Get, b"a") == b"1"
    assert register.ask(Put, b"a", b"3") == b"3"


def test_many_changes_of_one_turn_are_one_append_and_answered_in_order(make_register):
    register = make_register()
    numbers = [register.send(Put, b"%d" % index, b"x" * 20_000) for index in range(200)]
    answers = [register.heard.get(timeout=20) for _ in numbers]
    assert [answer.call for answer in answers] == numbers
    assert not any(isinstance(answer, Refusal) for answer in answers)
    register = make_register(register.node.restart())
    assert register.ask(Get, b"199") == b"x" * 20_000


def test_an_alarm_wakes_the_coordinator(make_register, eventually):
    Register.alarms = 0
    make_register()
    eventually(lambda: Register.alarms == 1, "the alarm")


def test_what_comes_while_the_log_is_read_waits_or_is_taken_back(make_register, faults):
    register = make_register()
    register.ask(Put, b"a", b"1")
    faults.full_for = f"/{TOPIC}-0/"
    assert register.ask(Put, b"a", b"2").name == "COORDINATOR_NOT_AVAILABLE"
    faults.full_for = ""
    notice, gone, get = TopicGone("t", "id"), register.send(Get, b"a"), register.send(Get, b"a")
    address = coordinator_address(TOPIC, 0)
    register.tell(address, notice)
    register.tell(address, EndWait(gone))
    refusal = register.heard.get(timeout=20)
    assert (refusal.call, refusal.error.name) == (gone, "COORDINATOR_LOAD_IN_PROGRESS")
    answer = register.heard.get(timeout=20)
    assert (answer.call, answer.body.value) == (get, b"1")
    assert Register.noticed == [notice]
