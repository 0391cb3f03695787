"""Transactions end to end through one node: the coordinator and its log, markers, and what keeps these from coming."""

from __future__ import annotations

from typing import Any

import pytest
from zmqbroker.actors import transaction_markers
from zmqbroker.actors.context import coordinator_address
from zmqbroker.errors import BrokerError
from zmqbroker.groups.partitioning import group_partition
from zmqbroker.groups.transaction_records import State, TransactionState, decode
from zmqbroker.transport import group_messages as g
from zmqbroker.transport import transaction_messages as t
from zmqbroker.transport.internal_topics import OFFSETS_TOPIC, TRANSACTION_STATE_TOPIC
from zmqbroker.transport.messages import DeleteTopicsRequest, InitProducerIdRequest

PARTITIONS = 4
STATE_LOG = f"/{TRANSACTION_STATE_TOPIC}-{group_partition('tx', PARTITIONS)}/"


def test_all_or_nothing_in_several_partitions(producer, reader):
    number = producer.add(("a", 0), ("a", 1), ("b", 0))
    for topic, partition in (("a", 0), ("a", 1), ("b", 0)):
        producer.send(topic, b"1", b"2", partition=partition)
    assert reader.values("a") == reader.values("b") == []
    assert reader.end("a") == 0
    producer.end()
    producer.is_in("CompleteCommit")
    for topic, partition in (("a", 0), ("a", 1), ("b", 0)):
        assert reader.values(topic, partition) == [b"1", b"2"]
        ((offset, producer_id, epoch, marker),) = reader.markers(topic, partition)
        assert (offset, producer_id, epoch) == (2, *producer.who)
        assert (marker.committed, marker.transaction) == (True, number)
        assert reader.end(topic, partition) == 3
    assert reader.markers("b", 1) == [], "it was not a part"
    assert producer.add(("a", 0), ("b", 1)) > number
    producer.send("a", b"no")
    producer.end(committed=False)
    producer.is_in("CompleteAbort")
    assert reader.values("a") == [b"1", b"2"]
    assert [marker.committed for *_, marker in reader.markers("a")] == [True, False]
    assert len(reader.markers("b", 1)) == 1, "nothing was written there, and that is ended too"
    assert reader.end("a") == 5


def test_two_producers_do_not_get_into_each_others_way(make_producer, reader):
    one, two = make_producer().init(), make_producer("other").init()
    one.add(("a", 0))
    two.add(("a", 0))
    for value in (b"1", b"2"):
        one.send("a", b"one " + value)
        two.send("a", b"two " + value)
    one.end(committed=False)
    one.is_in("CompleteAbort")
    assert reader.values("a") == []
    assert reader.end("a") == 1, "the other one's is open"
    one.add(("a", 0))
    one.send("a", b"one 3")
    one.end()
    two.end()
    two.is_in("CompleteCommit")
    one.is_in("CompleteCommit")
    assert reader.values("a") == [b"two 1", b"two 2", b"one 3"]


def test_offsets_of_a_group_are_part_of_it(producer, reader, client):
    client.call(g.OffsetCommitRequest("g", -1, "", None, [g.OffsetToCommit("a", 0, 3)]))
    number = producer.add_offsets()
    assert producer.add(("b", 0)) == number
    assert producer.commit_offset(7) == 0
    producer.send("b", b"x")
    assert reader.committed() == [(3, 88)]
    assert reader.committed(stable=False) == [(3, 0)]
    producer.end()
    producer.is_in("CompleteCommit")
    assert reader.committed() == [(7, 0)]
    assert reader.values("b") == [b"x"]
    producer.add_offsets()
    producer.commit_offset(9)
    producer.end(committed=False)
    producer.is_in("CompleteAbort")
    assert reader.committed() == [(7, 0)]
    assert reader.markers(OFFSETS_TOPIC, group_partition("g", PARTITIONS)) == [], "they need no control batch"


def test_offsets_need_an_open_transaction_that_they_were_added_to(producer, make_producer):
    assert producer.error_of(producer.commit_offset, 7) == "INVALID_TXN_STATE"
    producer.add(("a", 0))
    assert producer.error_of(producer.commit_offset, 7) == "INVALID_TXN_STATE"
    producer.add_offsets()
    assert producer.commit_offset(7) == 0
    assert producer.error_of(lambda: producer.commit_offset(7, transaction=producer.number - 1)) == "INVALID_TXN_STATE"
    assert producer.commit_offset(7, topic="none") == 3
    assert producer.error_of(lambda: producer.commit_offset(7, generation_id=3, member_id="m")) == "UNKNOWN_MEMBER_ID"
    make_producer().init()
    assert producer.error_of(producer.commit_offset, 8) == "PRODUCER_FENCED"


def test_whoever_takes_over_aborts_what_is_open(producer, make_producer, reader):
    producer.add(("a", 0))
    producer.send("a", b"old")
    successor = make_producer().init()
    assert successor.who == (producer.who[0], producer.who[1] + 2), "the epoch between them ended the transaction"
    ((_, _, epoch, marker),) = reader.markers("a")
    assert (epoch, marker.committed) == (producer.who[1] + 1, False)
    for refused in (producer.end, lambda: producer.add(("a", 0))):
        assert producer.error_of(refused) == "PRODUCER_FENCED"
    late = producer.produced(producer.send_batch("a", b"late"))
    assert late.error_code == 47, late
    successor.add(("a", 0))
    successor.send("a", b"new")
    successor.end()
    successor.is_in("CompleteCommit")
    assert reader.values("a") == [b"new"]


def test_a_transaction_that_takes_too_long_is_aborted(client, make_producer, reader, node):
    slow = make_producer().init(timeout_ms=1)
    slow.add(("a", 0))
    slow.is_in("CompleteAbort")
    assert slow.error_of(slow.end) == "PRODUCER_FENCED"
    assert len(reader.markers("a")) == 1
    assert client.counters()["transactions-timed-out"] == 1
    again = make_producer().init(asked=slow.who)
    assert again.who == (slow.who[0], slow.who[1] + 1), "it goes on under the epoch that has ended it"
    assert node.on_reactor(lambda: node.context.open_requests) == 0


def test_requests_that_come_twice(producer, client):
    first = producer.add(("a", 0))
    producer.end()
    producer.is_in("CompleteCommit")
    producer.end()
    assert producer.describe().state == "CompleteCommit"
    second = producer.add(("a", 0))
    late = t.EndTxnRequest("tx", *producer.who, committed=True, transaction=first)
    assert producer.error_of(client.call, late) == "INVALID_TXN_STATE"
    assert (producer.describe().state, producer.describe().start_ms) == ("Ongoing", second)


def test_what_cannot_be_part_of_a_transaction(producer, client):
    entries = [
        g.TopicPartitionEntry(*place) for place in (("a", 0), ("none", 0), ("a", 7), (TRANSACTION_STATE_TOPIC, 0))
    ]
    reply = client.call(t.AddPartitionsToTxnRequest("tx", *producer.who, entries))
    assert [entry.error_code for entry in reply.partitions] == [55, 3, 3, 17]
    assert all(entry.error_message for entry in reply.partitions)
    assert producer.describe().state == "Empty"


def test_nobody_is_told_where_there_is_no_coordinator(make_node, settings):
    client = make_node(**settings).client()
    for request, code in (
        (InitProducerIdRequest(transactional_id="tx"), 16),
        (InitProducerIdRequest(transactional_id=""), 42),
        (t.EndTxnRequest("tx", 1, 0, committed=True), 16),
        (t.AddOffsetsToTxnRequest("", 1, 0, "g"), 42),
    ):
        reply = client.ask(request)
        assert reply.error_code == code, reply
        assert len(reply.error_message) > 20
    assert client.call(t.ListTransactionsRequest()).transactions == []
    (found,) = client.call(t.DescribeTransactionsRequest(["tx"])).transactions
    assert found.error_code == 16
    (found,) = client.call(g.FindCoordinatorRequest(["tx"], g.TRANSACTION_COORDINATOR)).coordinators
    assert (found.node_id, found.error_code) == (1, 0)
    assert client.ask(t.EndTxnRequest("tx", 1, 0, committed=True)).error_code == 49


def test_offsets_of_the_first_group_of_all(make_node, settings, make_producer):
    """Nobody has looked for a group's coordinator yet, so that the topic of offsets is not there."""
    client = make_node(**settings).client()
    client.call(g.FindCoordinatorRequest(["tx"], g.TRANSACTION_COORDINATOR))
    producer = make_producer(its_client=client).init()
    assert producer.add_offsets() > 0
    assert (
        producer.error_of(lambda: client.call(t.AddOffsetsToTxnRequest("tx", *producer.who, ""))) == "INVALID_GROUP_ID"
    )
    producer.end()
    producer.is_in("CompleteCommit")


def test_description_and_listing_over_all_coordinators(make_producer, client):
    names = [f"tx-{number}" for number in range(8)]
    assert len({group_partition(name, PARTITIONS) for name in names}) == PARTITIONS
    producers = [make_producer(name).init() for name in names]
    assert len({one.who[0] for one in producers}) == len(names)
    producers[3].add(("b", 1), ("a", 0))
    listed = client.call(t.ListTransactionsRequest())
    assert [(one.transactional_id, one.producer_id, one.state) for one in listed.transactions] == [
        (one.name, one.who[0], "Ongoing" if one is producers[3] else "Empty") for one in producers
    ]
    assert [one.transactional_id for one in client.call(t.ListTransactionsRequest(["Ongoing"])).transactions] == [
        "tx-3"
    ]
    found = client.call(t.DescribeTransactionsRequest(["tx-3", "none", ""])).transactions
    assert [one.error_code for one in found] == [0, 105, 42]
    assert (found[0].state, found[0].timeout_ms, found[0].producer_id) == ("Ongoing", 60_000, producers[3].who[0])
    assert [(one.topic, one.partition) for one in found[0].partitions] == [("a", 0), ("b", 1)]
    assert client.call(t.DescribeTransactionsRequest([])).transactions == []


def test_kafkas_records_stand_in_the_log(producer, client):
    producer.add(("a", 0))
    producer.end()
    producer.is_in("CompleteCommit")
    _, records = client.fetch(TRANSACTION_STATE_TOPIC, partition=group_partition("tx", PARTITIONS))
    found = [decode(record.key, record.value) for record in records]
    states = [state for _, state in found if isinstance(state, TransactionState)]
    assert [state.state for state in states] == [
        State.EMPTY,
        State.ONGOING,
        State.PREPARE_COMMIT,
        State.COMPLETE_COMMIT,
    ]
    assert [state.partitions for state in states] == [(), (("a", 0),), (("a", 0),), ()]


# ---- markers that cannot be written for a while


@pytest.fixture
def stuck(producer, faults):
    """A transaction that is committed, of which one partition, a-1, has no marker: its disk is full."""
    producer.add_offsets()
    producer.add(("a", 0), ("a", 1))
    producer.send("a", b"x")
    producer.send("a", b"x", partition=1)
    producer.commit_offset(7)
    faults.full_for = "/a-1/"
    producer.end()
    return producer


def check_committed(reader):
    assert reader.values("a") == reader.values("a", 1) == [b"x"]
    assert reader.committed() == [(7, 0)]
    assert [[marker.committed for *_, marker in reader.markers("a", number)] for number in (0, 1)] == [[True], [True]]


def test_a_marker_is_written_again_and_again(stuck, reader, faults, eventually, make_producer):
    client = stuck.client
    eventually(lambda: reader.values("a") == [b"x"] and reader.committed() == [(7, 0)], "the others have theirs")
    assert reader.values("a", 1) == []
    assert stuck.describe().state == "PrepareCommit"
    entries = [g.TopicPartitionEntry("a", 0)]
    for request in (
        t.AddPartitionsToTxnRequest("tx", *stuck.who, entries),
        t.AddOffsetsToTxnRequest("tx", *stuck.who, "g"),
        InitProducerIdRequest(transactional_id="tx"),
        t.EndTxnRequest("tx", *stuck.who, committed=True),
    ):
        assert client.ask(request).error_code == 51
    assert client.ask(t.EndTxnRequest("tx", *stuck.who, committed=False)).error_code == 48
    other = make_producer("other").init()
    other.add(("a", 0))
    faults.full_for = ""
    stuck.is_in("CompleteCommit")
    check_committed(reader)


@pytest.mark.parametrize("end", ["stop", "crash"])
def test_what_was_decided_is_carried_out_by_the_next_process(stuck, node, faults, make_reader, end):
    if end == "stop":
        node.stop()
    else:
        node.crash()
    node.start()
    stuck.client = node.client()
    stuck.is_in("PrepareCommit")
    faults.full_for = ""
    stuck.is_in("CompleteCommit")
    check_committed(make_reader(stuck.client))
    before = stuck.who
    assert stuck.init().who == (before[0], before[1] + 1)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_topic_that_is_deleted_meanwhile_needs_no_marker(producer, client, faults, reader, when):
    client.create("gone")
    producer.add(("gone", 0), ("a", 0))
    producer.send("gone", b"x")
    producer.send("a", b"x")
    delete = DeleteTopicsRequest(["gone"], 10_000)
    if when == "before":
        client.call(delete)
        producer.end()
    else:
        faults.full_for = "/gone-0/"
        producer.end()
        assert producer.describe().state == "PrepareCommit"
        client.call(delete)
    producer.is_in("CompleteCommit")
    assert reader.values("a") == [b"x"]


def test_a_leader_that_fails_over_a_marker_gets_it_again(producer, node, reader):
    producer.add(("a", 0))
    producer.send("a", b"x")

    node.on_reactor(lambda: setattr(node.leader("a")._role, "stage_marker", fail))
    producer.end()
    producer.is_in("CompleteCommit")
    assert reader.values("a") == [b"x"]
    assert len(reader.markers("a")) == 1


# ---- the coordinator's own troubles


def test_what_cannot_be_written_down_is_not_decided(producer, reader, faults):
    producer.add(("a", 0))
    producer.send("a", b"x")
    faults.full_for = STATE_LOG
    assert producer.error_of(producer.end) == "COORDINATOR_NOT_AVAILABLE"
    faults.full_for = ""
    producer.is_in("Ongoing")
    assert reader.markers("a") == []
    producer.send("a", b"y")
    producer.end()
    producer.is_in("CompleteCommit")
    assert reader.values("a") == [b"x", b"y"]


def test_no_marker_leaves_before_the_decision_is_on_the_disk(producer, reader, faults, client, eventually):
    producer.add(("a", 0))
    producer.send("a", b"x")
    faults.hold_flushes(STATE_LOG)
    number = client.send(t.EndTxnRequest("tx", *producer.who, committed=True))
    eventually(lambda: faults.waiting == 1, "the decision is on its way to the disk")
    assert reader.markers("a") == []
    assert client.hears_nothing()
    faults.release()
    assert client.reply_to(number).error_code == 0
    producer.is_in("CompleteCommit")


def fail(*_: Any) -> None:
    message = "the test ends this actor"
    raise RuntimeError(message)


@pytest.fixture(params=["reload", "raise"])
def begin_anew(request, node, producer, coordinator_of):
    """Have the coordinator read its log again, because its log took no record, or since the actor failed."""

    def begin() -> None:
        if request.param == "reload":
            node.on_reactor(lambda: coordinator_of()._start_over(BrokerError("the test fails it")))
        else:
            node.on_reactor(lambda: setattr(coordinator_of()._table, "describe", fail))
            assert producer.describe().error_code == 15

    return begin


def test_a_coordinator_that_begins_anew_knows_what_is_open_and_what_is_decided(
    producer, make_producer, reader, begin_anew, faults
):
    same = next(name for name in map(str, range(99)) if group_partition(name, 4) == group_partition("tx", 4))
    other = make_producer(same).init()
    other.add(("b", 0))
    other.send("b", b"x")
    producer.add(("a", 0))
    producer.send("a", b"x")
    faults.full_for = "/a-0/"
    producer.end()
    begin_anew()
    faults.full_for = ""
    producer.is_in("CompleteCommit")
    assert reader.values("a") == [b"x"]
    other.is_in("Ongoing")
    other.send("b", b"y")
    other.end()
    other.is_in("CompleteCommit")
    assert reader.values("b") == [b"x", b"y"]


def test_a_groups_coordinator_that_fails_over_a_marker_gets_it_again(producer, node, reader, monkeypatch):
    """It does not say so: the marker is sent again since it is not answered."""
    monkeypatch.setattr(transaction_markers, "_UNANSWERED_MS", 200.0)
    producer.add_offsets()
    producer.commit_offset(7)
    address = coordinator_address(OFFSETS_TOPIC, group_partition("g", PARTITIONS))
    node.on_reactor(lambda: setattr(node.actor(address)._table, "end_transaction", fail))
    producer.end()
    producer.is_in("CompleteCommit")
    assert reader.committed() == [(7, 0)]


def test_whoever_waits_for_a_producer_id_is_answered(node, client, coordinator_of, eventually, monkeypatch):
    """The controller does not answer; the coordinator reads its log again meanwhile."""
    from zmqbroker.actors import transaction_coordinator

    held: list[Any] = []
    coordinator = coordinator_of()
    original = coordinator.reactor.tell

    def tell(address: str, message: Any) -> bool:
        if isinstance(message, transaction_coordinator.ControllerCall):
            held.append(message)
            return True
        return original(address, message)

    node.on_reactor(lambda: monkeypatch.setattr(coordinator.reactor, "tell", tell))
    number = client.send(InitProducerIdRequest(transactional_id="tx"))
    eventually(lambda: held, "the controller is asked")
    assert node.on_reactor(lambda: len(coordinator.waiting())) == 1
    node.on_reactor(lambda: coordinator._start_over(BrokerError("the test fails it")))
    assert client.reply_to(number).error_code == 15
    node.on_reactor(monkeypatch.undo)
    eventually(lambda: client.ask(InitProducerIdRequest(transactional_id="tx")).error_code == 0, "it is back")


def test_open_transactions_outlive_restarts(producer, node, make_reader):
    producer.add_offsets()
    number = producer.add(("a", 0))
    producer.send("a", b"x")
    producer.commit_offset(7)
    for end in (node.stop, node.crash):
        end()
        node.start()
        reader = make_reader(node.client())
        producer.client = node.client()
        producer.is_in("Ongoing")
        assert reader.end("a") == 0
        assert reader.committed() == [(-1, 88)]
        assert producer.add(("a", 0)) == number
    assert producer.send("a", b"y") == 1
    producer.end()
    producer.is_in("CompleteCommit")
    assert make_reader(node.client()).values("a") == [b"x", b"y"]
    assert make_reader(node.client()).committed() == [(7, 0)]
