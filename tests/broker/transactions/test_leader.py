"""What the leader of a partition takes of transactions, whom it asks before it does, and what its readers are told."""

from __future__ import annotations

from typing import Any

import pytest
from zmqbroker.actors import verification
from zmqbroker.actors.commands import Answer, Append, Refusal, WriteMarker
from zmqbroker.actors.context import partition_address
from zmqbroker.actors.leading import Leading
from zmqbroker.errors import (
    CoordinatorNotAvailableError,
    InvalidProducerIdMappingError,
    InvalidTxnStateError,
    NotLeaderOrFollowerError,
    ProducerFencedError,
)
from zmqbroker.transport import group_messages as g
from zmqbroker.transport import transaction_messages as t
from zmqbroker.transport.messages import InitProducerIdRequest
from zmqbroker.transport.peer_messages import VerifyTransactionReply


def code_of(producer: Any, *values: bytes, **options: Any) -> int:
    """What becomes of a batch for a-0."""
    found = producer.produced(producer.send_batch("a", *(values or (b"x",)), **options))
    assert bool(found.error_code) == bool(found.error_message)
    return found.error_code


# ---- what is taken


def test_what_a_leader_takes(producer, make_producer, reader):
    assert code_of(producer, sequence=0) == 48, "nothing was added"
    producer.add(("a", 1))
    assert code_of(producer, sequence=0) == 48, "another partition was"
    producer.add(("a", 0))
    assert code_of(producer, sequence=0, name=None) == 48, "without a transactional id there is nobody to ask"
    assert code_of(producer, sequence=0, name="other") == 49
    assert code_of(producer, sequence=0, who=(producer.who[0] + 7, 0)) == 49
    assert code_of(producer, sequence=0, who=(producer.who[0], 1)) == 47
    assert code_of(producer, sequence=5) == 45, "a producer begins with 0"
    assert code_of(producer, sequence=0) == 0
    assert code_of(producer, sequence=0) == 0, "a repeat"
    assert code_of(producer, sequence=2) == 45
    plain = {"producer_id": producer.who[0], "producer_epoch": 0, "base_sequence": 1}
    found = producer.client.produce("a", b"plain", **plain)
    assert found.error_code == 48, "it is no part of the transaction that is open here"
    producer.end()
    producer.is_in("CompleteCommit")
    assert code_of(producer, sequence=1) == 48, "it comes late"
    assert code_of(producer, sequence=0) == 48
    successor = make_producer().init()
    successor.add(("a", 0))
    assert code_of(producer, sequence=1) == 47
    assert code_of(successor) == 0
    assert code_of(producer, sequence=1) == 47
    assert reader.end("a") == 2
    assert reader.values("a") == [b"x"]


def test_a_fenced_producer_is_told_by_a_leader_that_has_not_heard_of_the_next(producer, make_producer):
    producer.add(("a", 0))
    make_producer().init()
    assert code_of(producer, sequence=0) == 47


def test_all_of_a_turn_are_verified_once_and_stored_in_their_order(producer, node, reader):
    producer.add(("a", 0))
    asked: list[Any] = []
    original = verification.tell_leader

    def tell_leader(*arguments: Any) -> bool:
        asked.append(arguments[-1])
        return original(*arguments)

    node.on_reactor(lambda: setattr(verification, "tell_leader", tell_leader))
    try:
        numbers = [producer.send_batch("a", b"%d" % value) for value in range(50)]
        assert [producer.produced(number).base_offset for number in numbers] == list(range(50))
    finally:
        verification.tell_leader = original
    assert len(asked) == 1, "the others are behind the first, or its transaction is known to be open"
    producer.end()
    producer.is_in("CompleteCommit")
    assert reader.values("a") == [b"%d" % value for value in range(50)]


# ---- what readers are told


def test_what_readers_are_told(producer, make_producer, reader, client):
    other = make_producer("other").init()
    client.produce("a", b"plain")
    other.add(("a", 0))
    producer.add(("a", 0))
    other.send("a", b"o1")
    producer.send("a", b"p1")
    state, batches = reader.fetch("a")
    assert (state.high_watermark, state.last_stable_offset, len(batches)) == (3, 1, 1)
    producer.end(committed=False)
    producer.is_in("CompleteAbort")
    producer.add(("a", 0))
    producer.send("a", b"p2")
    other.end(committed=False)
    other.is_in("CompleteAbort")
    client.produce("a", b"plain too")
    state, batches = reader.fetch("a")
    assert (state.last_stable_offset, batches[-1][0].next_offset) == (4, 4), "the second one is open"
    assert [(entry.first_offset, entry.producer_id) for entry in state.aborted] == [
        (1, other.who[0]),
        (2, producer.who[0]),
    ]
    producer.end()
    producer.is_in("CompleteCommit")
    assert reader.values("a") == [b"plain", b"p2", b"plain too"]
    assert reader.values("a", offset=4) == [b"p2", b"plain too"]
    state, _ = reader.fetch("a", 5)
    assert [entry.producer_id for entry in state.aborted] == [other.who[0]], "the marker alone is in what was read"
    state, _ = reader.fetch("a", 6)
    assert state.aborted == []
    state, records = client.fetch("a")
    assert (state.last_stable_offset, state.aborted, len(records)) == (8, [], 8), "who does not ask gets all"


def test_the_end_for_readers_of_committed_records(producer, reader, client):
    client.produce("a", b"plain", timestamp=1000)
    producer.add(("a", 0))
    producer.send("a", b"x")
    assert (client.end_offset("a"), reader.end("a"), reader.end("a", timestamp=-2)) == (2, 1, 0)
    assert reader.end("a", timestamp=900) == client.end_offset("a", timestamp=900) == 0
    assert (client.end_offset("a", timestamp=2000), reader.end("a", timestamp=2000)) == (1, -1)
    assert (client.end_offset("a", timestamp=-3), reader.end("a", timestamp=-3)) == (1, -1)
    producer.end()
    producer.is_in("CompleteCommit")
    assert (client.end_offset("a"), reader.end("a"), reader.end("a", timestamp=2000)) == (3, 3, 1)


def test_a_reader_that_waits_is_told_when_the_transaction_ends(producer, reader, node, eventually):
    producer.add(("a", 0))
    producer.send("a", b"x")
    waiting = reader.send_fetch("a", wait_ms=20_000)
    eventually(lambda: node.on_reactor(lambda: node.leader("a")._watches), "the fetch waits")
    producer.send("a", b"y")
    eventually(lambda: node.on_reactor(lambda: node.leader("a")._watches), "it waits on, though there is more")
    producer.end()
    state, batches = reader.fetched(waiting)
    assert (state.last_stable_offset, len(batches)) == (3, 3)


@pytest.mark.parametrize("end", ["stop", "crash"])
def test_readers_are_told_the_same_after_a_restart(producer, make_producer, make_reader, node, end):
    other = make_producer("other").init()
    for _ in range(3):
        producer.add(("a", 0))
        producer.send("a", b"no")
        producer.end(committed=False)
        producer.is_in("CompleteAbort")
    other.add(("a", 0))
    other.send("a", b"open")
    before = make_reader(node.client()).fetch("a")
    assert (len(before[0].aborted), before[0].last_stable_offset) == (3, 6)
    getattr(node, end)()
    node.start()
    reader = make_reader(node.client())
    assert reader.fetch("a") == before
    other.client = reader.client
    assert code_of(other, b"more") == 0, "the leader knows that it is open"
    other.end()
    other.is_in("CompleteCommit")
    assert reader.values("a") == [b"open", b"more"]


def test_producers_are_described(producer, client):
    request = t.DescribeProducersRequest([g.TopicPartitionEntry(*place) for place in (("a", 0), ("a", 1), ("none", 0))])
    client.produce("a", b"x", producer_id=5, producer_epoch=3, base_sequence=0, timestamp=7000)
    producer.add(("a", 0), ("a", 1))
    producer.send("a", b"x", b"y")
    found, empty, none = client.call(request).partitions
    assert (empty.producers, none.error_code) == ([], 3)
    (plain,) = [one for one in found.producers if one.producer_id == 5]
    (mine,) = [one for one in found.producers if one is not plain]
    assert (plain.producer_id, plain.producer_epoch, plain.last_sequence, plain.last_timestamp) == (5, 3, 0, 7000)
    assert (plain.coordinator_epoch, plain.transaction_start_offset) == (-1, -1)
    assert (mine.producer_id, mine.producer_epoch, mine.last_sequence) == (*producer.who, 1)
    assert (mine.coordinator_epoch, mine.transaction_start_offset) == (-1, 1)
    producer.end()
    producer.is_in("CompleteCommit")
    found, marked, _ = client.call(request).partitions
    (mine,) = [one for one in found.producers if one.producer_id == producer.who[0]]
    assert mine.transaction_start_offset == -1
    assert mine.coordinator_epoch >= 0
    assert [(one.producer_id, one.last_sequence) for one in marked.producers] == [(producer.who[0], -1)]


# ---- verification, with a coordinator that the test plays


class Played:
    """The transaction's coordinator of a leader, which answers when the test says so."""

    def __init__(self, node: Any, heard: list[Any], asker: Any, eventually: Any) -> None:
        self.node = node
        self._eventually = eventually
        self.heard = heard
        """What was answered to the markers that the test has sent."""
        self.asked: list[Any] = []
        self.serves = True
        self._asker = asker

    def tell_leader(self, _context: Any, _reactor: Any, _address: str, command: Any) -> bool:
        if self.serves:
            self.asked.append(command)
        return self.serves

    def answer(self, outcome: Any, index: int = -1) -> None:
        """Answer a question: the number of the transaction, or an error."""
        command = self.asked[index]
        message = Refusal(command.call, 0, outcome) if isinstance(outcome, Exception) else None
        self.tell(message or Answer(command.call, 0, VerifyTransactionReply(outcome)))

    def tell(self, *messages: Any) -> None:
        """Tell the leader of a-0 all of this at once."""
        leader = partition_address("a", 0)
        self.node.on_reactor(lambda: [self.node.node._reactor.tell(leader, message) for message in messages])

    def wait_for(self, count: int) -> None:
        """Wait until so many batches are held back."""

        def held() -> int:
            leading = self.node.leader("a")._role
            return sum(len(queue) for queue in leading.verification._waiting.values())

        self._eventually(lambda: self.node.on_reactor(held) == count, f"{count} batches wait")

    def marker(self, who: Any, number: int, *, committed: bool = False, epoch: int = 0) -> WriteMarker:
        """A marker, of which the answer is heard."""
        return WriteMarker(self._asker, ("marker", number), 0, *who, committed, epoch, number)


@pytest.fixture
def played(node, producer, heard_class, monkeypatch, eventually):
    assert producer.who[0] >= 0, "it has its id before the test takes the coordinator's place"
    heard: list[Any] = []
    asker = node.on_reactor(lambda: node.node._reactor.spawn(heard_class, heard, address="asker"))
    coordinator = Played(node, heard, asker, eventually)
    monkeypatch.setattr(verification, "tell_leader", coordinator.tell_leader)
    return coordinator


@pytest.fixture
def asked(played, eventually):
    """Wait until so many questions were asked."""
    return lambda count: eventually(lambda: len(played.asked) == count, f"{count} questions")


@pytest.fixture
def said(played, eventually):
    """Wait until so many markers are answered; returns the error codes."""

    def codes(count: int) -> list[int]:
        eventually(lambda: len(played.heard) == count, f"{count} answers")
        return [each.error.code if isinstance(each, Refusal) else each.body.error_code for each in played.heard]

    return codes


def test_the_question_names_what_it_is_about(producer, played, asked):
    number = producer.send_batch("a", b"x")
    asked(1)
    (command,) = played.asked
    assert (command.transactional_id, command.producer_id, command.producer_epoch) == ("tx", *producer.who)
    assert (command.topic, command.partition) == ("a", 0)
    played.answer(5)
    assert producer.produced(number).error_code == 0


def test_what_comes_meanwhile_waits_behind_the_first_and_others_do_not(producer, played, asked, client):
    numbers = [producer.send_batch("a", b"1")]
    asked(1)
    numbers += [producer.send_batch("a", b"2"), producer.send_batch("a", b"3", b"4")]
    assert client.produce("a", b"plain").base_offset == 0
    played.answer(5)
    assert [producer.produced(number).base_offset for number in numbers] == [1, 2, 3]
    assert len(played.asked) == 1


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (InvalidTxnStateError("it is no part"), 48),
        (InvalidProducerIdMappingError("another"), 49),
        (ProducerFencedError("fenced"), 47),
        (CoordinatorNotAvailableError("it starts"), 19),
        (NotLeaderOrFollowerError("it moved"), 19),
    ],
)
def test_a_refusal_is_that_of_all_who_wait(producer, played, asked, outcome, code):
    numbers = [producer.send_batch("a", b"1"), producer.send_batch("a", b"2")]
    asked(1)
    played.wait_for(2)
    played.answer(outcome)
    assert [producer.produced(number).error_code for number in numbers] == [code, code]
    number = producer.send_batch("a", b"1", sequence=0)
    asked(2)
    played.answer(5)
    assert producer.produced(number).base_offset == 0, "the next one asks again"


def test_without_a_coordinator_a_producer_has_to_try_again(producer, played):
    played.serves = False
    assert code_of(producer) == 19


def test_a_marker_makes_the_answer_void(producer, played, asked, said):
    """The answer was perhaps given before the transaction ended."""
    number = producer.send_batch("a", b"late")
    asked(1)
    played.tell(played.marker(producer.who, 5))
    assert said(1) == [0]
    played.answer(5)
    asked(2)
    played.answer(InvalidTxnStateError("it has ended"))
    assert producer.produced(number).error_code == 48
    number = producer.send_batch("a", b"next", sequence=0)
    asked(3)
    played.tell(played.marker((producer.who[0] + 1, 0), 5))
    played.answer(6)
    assert producer.produced(number).error_code == 0, "that of another producer says nothing of this one"


def test_a_batch_behind_the_marker_of_its_turn_begins_nothing(producer, played, said, reader, eventually):
    """The log still says that the transaction is open when the batch comes."""
    node = played.node
    number = producer.send_batch("a", b"1")
    eventually(lambda: len(played.asked) == 1, "a question")
    played.answer(5)
    assert producer.produced(number).base_offset == 0
    late: list[Append] = []
    original = Leading.stage

    def keep(_: Any, command: Append) -> None:
        late.append(command)

    node.on_reactor(lambda: setattr(Leading, "stage", keep))
    number = producer.send_batch("a", b"late")
    eventually(lambda: late, "the batch is there")
    node.on_reactor(lambda: setattr(Leading, "stage", original))
    played.tell(played.marker(producer.who, 5, committed=True), late[0])
    assert said(1) == [0]
    eventually(lambda: len(played.asked) == 2, "another question")
    played.answer(InvalidTxnStateError("it has ended"))
    assert producer.produced(number).error_code == 48
    assert reader.values("a") == [b"1"]
    assert reader.end("a") == 2, "nothing is open"


def test_what_a_coordinator_says_that_has_a_successor_does_not_count(producer, played, asked, said):
    played.tell(played.marker(producer.who, 5))
    assert said(1) == [0]
    number = producer.send_batch("a", b"late")
    asked(1)
    played.answer(5)
    assert producer.produced(number).error_code == 19, "this partition has the end of that transaction"


def test_a_coordinator_that_does_not_answer_is_asked_again(producer, played, asked, monkeypatch):
    monkeypatch.setattr(verification, "_ASK_AGAIN_MS", 5.0)
    number = producer.send_batch("a", b"x")
    asked(3)
    monkeypatch.setattr(verification, "_ASK_AGAIN_MS", 60_000.0)
    played.answer(5, index=0)
    assert producer.produced(number).error_code == 0, "the first answer counts"
    played.answer(InvalidTxnStateError("too late"), index=1)
    assert code_of(producer) == 0


def test_whoever_waits_is_told_when_the_leader_leads_no_more(producer, played, asked, node):
    number = producer.send_batch("a", b"1")
    asked(1)
    first = node.on_reactor(lambda: node.leader("a")._role)

    def lead_anew() -> None:
        leader = node.leader("a")
        leader._end_role(NotLeaderOrFollowerError("the test has it lead anew"))
        leader._take_role()

    node.on_reactor(lead_anew)
    assert producer.produced(number).error_code == 6
    number = producer.send_batch("a", b"1", sequence=0)
    asked(2)
    played.answer(InvalidTxnStateError("what the first was told"), index=0)
    played.answer(7, index=1)
    assert producer.produced(number).error_code == 0, "the answer to the first leadership is none to the second"
    assert node.on_reactor(lambda: node.leader("a")._role) is not first


def test_two_epochs_of_a_producer_are_asked_about_apart(producer, played, asked):
    old = producer.send_batch("a", b"old")
    asked(1)
    new = producer.send_batch("a", b"new", sequence=0, who=(producer.who[0], 1))
    asked(2)
    played.answer(6, index=1)
    assert producer.produced(new).error_code == 0
    played.answer(6, index=0)
    assert producer.produced(old).error_code == 47


# ---- markers


def test_markers_that_are_refused_and_those_that_come_twice(producer, played, asked, said, reader):
    number = producer.send_batch("a", b"x")
    asked(1)
    played.answer(5)
    producer.produced(number)
    who, next_epoch = producer.who, (producer.who[0], 1)
    played.tell(
        played.marker(who, 5, epoch=3),
        played.marker(who, 5, epoch=3),
        played.marker(who, 4, epoch=4),
        played.marker(who, 6, epoch=2),
        played.marker(next_epoch, 6, epoch=3),
        played.marker(who, 7, epoch=3),
    )
    codes = sorted(zip(said(6), [each.call[1] for each in played.heard], strict=True))
    assert codes == [(0, 4), (0, 5), (0, 5), (0, 6), (47, 7), (52, 6)]
    assert [(offset, epoch, marker.transaction) for offset, _, epoch, marker in reader.markers("a")] == [
        (1, 0, 5),
        (2, 1, 6),
    ]
    assert reader.end("a") == 3


def test_a_marker_waits_for_enough_replicas(producer, played, asked, said, node):
    number = producer.send_batch("a", b"x")
    asked(1)
    played.answer(5)
    producer.produced(number)
    original = Leading._min_isr
    node.on_reactor(lambda: setattr(Leading, "_min_isr", property(lambda _: 2)))
    played.tell(played.marker(producer.who, 5))
    assert said(1) == [19]
    node.on_reactor(lambda: setattr(Leading, "_min_isr", original))
    played.tell(played.marker(producer.who, 5))
    assert said(2) == [19, 0]


def test_a_node_that_does_not_lead_writes_no_marker(producer, played, said, node):
    node.on_reactor(lambda: node.leader("a")._end_role(NotLeaderOrFollowerError("the test ends it")))
    played.tell(played.marker(producer.who, 5))
    (code,) = said(1)
    assert code in (5, 6)
    node.on_reactor(lambda: node.leader("a")._take_role())


def test_without_the_topic_of_transactions_nobody_has_one(make_node, settings, make_producer):
    client = make_node(**settings).client()
    client.create("a")
    producer = make_producer(its_client=client)
    producer.who = (client.call(InitProducerIdRequest()).producer_id, 0)
    assert code_of(producer) == 48
