"""A partition's actor that raises: everybody who waits is answered, it comes back, and nothing acked is lost."""

from __future__ import annotations

import pytest
from zmqbroker.actors.commands import Retire, StopWatching
from zmqbroker.actors.context import METADATA_KEEPER
from zmqbroker.transport.messages import (
    CreateTopicsRequest,
    DeleteTopicsRequest,
    DescribeLogDirsRequest,
    FetchRequest,
    ListOffsetsRequest,
    NewTopic,
    PartitionTimestamp,
    ProduceRequest,
)


def break_leader(node, method, topic="a", partition=0):
    """Have the next call of one method of a leader raise."""

    def replace():
        leader = node.leader(topic, partition)
        if not hasattr(leader, method):
            leader = leader._role
        original = getattr(leader, method)

        def fail(*_):
            setattr(leader, method, original)
            message = "injected"
            raise ValueError(message)

        setattr(leader, method, fail)

    node.on_reactor(replace)


def look_up(client, timestamp):
    return client.call(ListOffsetsRequest([PartitionTimestamp("a", 0, timestamp, -1)])).partitions[0]


def produced(client, number):
    return client.body_of(client.reply_to(number), ProduceRequest).partitions[0]


@pytest.mark.parametrize("method", ["stage", "append_staged", "_appended", "appended"])
def test_every_produce_is_answered_and_the_leader_comes_back(node, eventually, method):
    client = node.client()
    client.create("a")
    client.produce("a", b"before")
    break_leader(node, method)
    numbers = [client.send_produce("a", b"%d" % index) for index in range(300)]
    codes = [produced(client, number).error_code for number in numbers]
    assert set(codes) - {0} <= {-1, 5, 6}
    assert any(codes)
    eventually(lambda: client.produce("a", b"after").error_code == 0, "the leader is back")
    values = client.values("a")
    assert values[0] == b"before"
    acked = [b"%d" % index for index, code in enumerate(codes) if code == 0]
    assert [value for value in values if value in acked] == acked
    assert node.on_reactor(lambda: (node.context.open_requests, node.context.queued_bytes)) == (0, 0)


def test_fetches_are_answered(node, eventually):
    client = node.client()
    client.create("a")
    client.produce("a", b"x")
    waiting = client.send_fetch("a", 1, wait_ms=60_000)
    eventually(lambda: node.on_reactor(lambda: node.leader("a")._watches), "the fetch waits")
    break_leader(node, "_read_data")
    numbers = [client.send_fetch("a", 0, wait_ms=60_000) for _ in range(100)]
    for number in [waiting, *numbers]:
        (state,) = client.body_of(client.reply_to(number), FetchRequest).partitions
        assert state.error_code in (-1, 0, 5, 6)
    eventually(lambda: client.fetch("a")[0].error_code == 0, "the leader is back")
    assert client.values("a") == [b"x"]


@pytest.mark.parametrize("method", ["_find_offset", "_delete_before", "_find_epoch_end", "_describe"])
def test_look_ups_are_answered(node, eventually, method):
    from zmqbroker.transport.messages import (
        DeleteRecordsRequest,
        ListOffsetsRequest,
        OffsetForLeaderEpochRequest,
        PartitionDeletion,
        PartitionEpoch,
        PartitionTimestamp,
    )

    requests = {
        "_find_offset": ListOffsetsRequest([PartitionTimestamp("a", 0, -1)]),
        "_delete_before": DeleteRecordsRequest([PartitionDeletion("a", 0, 0)], 20_000),
        "_find_epoch_end": OffsetForLeaderEpochRequest([PartitionEpoch("a", 0, 0)]),
        "_describe": DescribeLogDirsRequest(),
    }
    client = node.client()
    client.create("a")

    def replace():
        def fail(_):
            message = "injected"
            raise ValueError(message)

        leader = node.leader("a")
        kind = next(kind for kind, handler in leader._handlers.items() if handler.__name__ == method)
        leader._handlers[kind] = fail

    node.on_reactor(replace)
    request = requests[method]
    numbers = [client.send(request) for _ in range(100)]
    replies = [client.body_of(client.reply_to(number), request) for number in numbers]
    assert all(reply.partitions[0].error_message for reply in replies[:1])
    eventually(lambda: client.produce("a", b"x").error_code == 0, "the leader is back")


def test_a_failed_leader_takes_no_unflushed_record_for_a_flushed_one(make_node, faults, eventually):
    """The node had stopped cleanly before; what its logs were appended since is not therefore on the disk."""
    node = make_node()
    node.client().create("a")
    node.restart()
    client = node.client()
    sequence = {"producer_id": 1, "producer_epoch": 0, "base_sequence": 0}
    client.produce("a", b"0", **sequence)
    faults.hold_flushes("/a-0/")
    assert client.produce("a", b"1", acks=1).error_code == 0
    eventually(lambda: faults.waiting, "the flush is under way")
    break_leader(node, "stage")
    client.produce("a", b"lost", acks=1)
    eventually(lambda: client.fetch("a")[0].error_code == 0, "the leader is back")
    seen = [record.value for record in client.fetch("a")[1]]
    faults.release()
    assert b"1" not in seen, "an unflushed record was read"
    eventually(lambda: look_up(client, -1).offset == 2, "the record that recovery found is flushed")
    assert client.values("a") == [b"0", b"1"]
    assert client.produce("a", b"0", **sequence).base_offset == 0, "the repeat is known"


def test_a_leader_that_fails_while_it_is_retired_ends_all_the_same(node, eventually):
    client = node.client()
    client.create("a")

    def break_then_retire():
        leader = node.leader("a")

        def fail(_):
            message = "injected"
            raise ValueError(message)

        leader._on_notice = fail
        for message in (StopWatching(None, 0), Retire(node.node._reactor.lookup(METADATA_KEEPER))):
            leader.actor_ref.tell(message)
        keeper = node.node._reactor._actors[METADATA_KEEPER]
        keeper._ending.add(leader.address)

    node.on_reactor(break_then_retire)
    eventually(lambda: not node.on_reactor(lambda: node.node._reactor._actors[METADATA_KEEPER]._ending), "it has ended")
    client.create("b")
    assert client.produce("b", b"x").error_code == 0, "the metadata keeper goes on"


def test_the_other_partitions_do_not_notice(node):
    client = node.client()
    client.create("a", 2)
    break_leader(node, "stage")
    assert client.produce("a", b"x").error_code == -1
    assert client.produce("a", b"x", partition=1).error_code == 0


def test_while_it_is_down_clients_are_told_to_come_back(node):
    client = node.client()
    client.create("a")
    break_leader(node, "stage")
    client.produce("a", b"x")
    result = client.produce("a", b"x")
    assert (result.error_code, "starting again" in result.error_message) == (5, True)
    assert client.fetch("a", wait_ms=60_000)[0].error_code == 5
    (entry,) = client.call(DescribeLogDirsRequest()).partitions
    assert "no actor serves this partition" in entry.error_message


@pytest.mark.parametrize("alone", [True, False])
def test_a_topic_whose_leader_is_down_can_be_deleted_and_created_again(node, eventually, alone):
    client = node.client()
    client.create("a")
    client.produce("a", b"old")
    break_leader(node, "stage")
    client.produce("a", b"x")
    requests = [DeleteTopicsRequest(["a"], 5000), CreateTopicsRequest([NewTopic("a", 1)], 5000)]
    if not alone:  # while this one is flushed the two behind it are gathered, and become one image
        requests.insert(0, CreateTopicsRequest([NewTopic("b", 1)], 5000))
    numbers = [client.send(request) for request in requests]
    for number, request in zip(numbers, requests, strict=True):
        assert client.body_of(client.reply_to(number), request).topics[0].error_code == 0
    eventually(lambda: client.produce("a", b"new").error_code == 0, "the new topic is led")
    assert client.values("a") == [b"new"]


def test_a_message_that_nobody_sends_ends_the_node(node):
    node.client().create("a")

    def tell():
        node.leader("a").actor_ref.tell("what is this?")

    node.on_reactor(tell)
    assert "what is this?" in str(node.wait())
