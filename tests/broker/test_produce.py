"""Produce over the wire: acknowledgements, refusals of one batch beside others, leader epochs, timestamps, sizes."""

from __future__ import annotations

import time

import pytest
from zmqbroker.errors import BrokerError, InvalidRequestError, InvalidRequiredAcksError, StorageError
from zmqbroker.log.batch import stamp_append_time
from zmqbroker.transport.messages import MetadataRequest, PartitionData, ProduceRequest

DAY_MS = 86_400_000


def test_acks_all_and_acks_1_answer_with_the_offset(client):
    client.create("a")
    assert client.produce("a", b"0", b"1", acks=-1).base_offset == 0
    assert client.produce("a", b"2", acks=1).base_offset == 2
    result = client.produce("a", b"3")
    assert (result.error_code, result.base_offset, result.log_start_offset, result.log_append_time_ms) == (0, 3, 0, -1)
    assert client.values("a") == [b"0", b"1", b"2", b"3"]


def test_acks_0_is_never_answered_and_is_appended_in_order(client, eventually):
    client.create("a")
    for number in range(20):
        client.send_produce("a", b"%d" % number, acks=0)
    assert client.hears_nothing()
    eventually(lambda: client.end_offset("a") == 20, "all are appended")
    assert client.values("a") == [b"%d" % number for number in range(20)]


def test_a_refused_batch_with_acks_0_is_counted_and_logged(client, caplog, batch):
    client.create("a")
    broken = bytearray(batch(b"x"))
    broken[-1] ^= 1
    client.send(ProduceRequest(0, 1000, [PartitionData("a", 0)]), bytes(broken))
    assert client.hears_nothing()
    assert client.counters()["batches-refused"] == 1
    assert "a batch for a-0 with acks=0 was refused: CORRUPT_MESSAGE" in caplog.text


@pytest.mark.parametrize("acks", [2, -2, 32767])
def test_other_acks_are_refused(client, batch, acks):
    client.create("a")
    with pytest.raises(InvalidRequiredAcksError, match=f"acks is {acks}"):
        client.call(ProduceRequest(acks, 1000, [PartitionData("a", 0)]), batch(b"x"))
    assert client.end_offset("a") == 0


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_a_number_of_batches_that_does_not_fit_is_refused_as_a_whole(client, batch, batches):
    client.create("a", 2)
    request = ProduceRequest(-1, 1000, [PartitionData("a", 0), PartitionData("a", 1)])
    with pytest.raises(InvalidRequestError, match=f"2 partitions are named and {batches} batches follow"):
        client.call(request, *[batch(b"x")] * batches)
    assert client.end_offset("a") == client.end_offset("a", 1) == 0


def test_frames_after_a_request_without_batches_are_refused(client):
    from zmqbroker.transport.messages import NodeStatusRequest

    with pytest.raises(InvalidRequestError, match="comes alone"):
        client.call(NodeStatusRequest(), b"something")


def test_a_request_without_partitions_is_answered(client):
    assert client.call(ProduceRequest(-1, 1000, [])).partitions == []


def test_each_partition_stands_for_itself(client, batch):
    client.create("a", 2)
    wrong = bytearray(batch(b"x"))
    wrong[-1] ^= 0xFF
    entries = [("a", 0), ("a", 2), ("b", 0), ("a", 1), ("a", 1)]
    request = ProduceRequest(-1, 1000, [PartitionData(*entry) for entry in entries])
    reply = client.call(request, batch(b"0"), batch(b"1"), batch(b"2"), bytes(wrong), batch(b"4"))
    assert [(entry.topic, entry.partition) for entry in reply.partitions] == entries
    assert [entry.error_code for entry in reply.partitions] == [0, 3, 3, 2, 0]
    assert "no partition 2" in reply.partitions[1].error_message
    assert "no topic 'b'" in reply.partitions[2].error_message
    assert client.values("a") == [b"0"]
    assert client.values("a", partition=1) == [b"4"]


def test_leader_epochs_are_compared(node):
    client = node.client()
    client.create("a")
    node.crash()
    client = node.start().client()
    now = client.call(MetadataRequest(["a"])).topics[0].partitions[0].leader_epoch
    assert now > 0, "a crash begins another leader epoch"
    fenced = client.produce("a", b"x", leader_epoch=0)
    assert (fenced.error_code, f"leader epoch {now}" in fenced.error_message) == (74, True)
    unknown = client.produce("a", b"x", leader_epoch=now + 1)
    assert (unknown.error_code, f"newer {now + 1}" in unknown.error_message) == (75, True)
    assert client.produce("a", b"x", leader_epoch=now).error_code == 0
    assert client.fetch("a", leader_epoch=0)[0].error_code == 74
    assert client.fetch("a", leader_epoch=now + 1)[0].error_code == 75
    assert client.values("a") == [b"x"]


def test_a_batch_larger_than_the_topic_allows_is_refused_by_name(client):
    client.create("a", max_message_bytes=200)
    result = client.produce("a", b"x" * 200)
    assert result.error_code == 10
    assert "max.message.bytes of its topic allows 200" in result.error_message
    assert client.produce("a", b"x").base_offset == 0


def test_log_append_time_is_the_brokers(client):
    client.create("a", message_timestamp_type="LogAppendTime")
    before = time.time_ns() // 1_000_000
    result = client.produce("a", b"x", b"y", timestamp=1000)
    assert before <= result.log_append_time_ms <= before + 60_000
    _, records = client.fetch("a")
    assert [(record.timestamp, record.timestamp_type) for record in records] == [(result.log_append_time_ms, 1)] * 2


def test_timestamps_too_far_ahead_are_refused(client):
    client.create("a")
    ahead = time.time_ns() // 1_000_000 + DAY_MS
    result = client.produce("a", b"x", timestamp=ahead)
    assert result.error_code == 32
    assert client.produce("a", b"x", timestamp=0).error_code == 0


def test_a_client_cannot_stamp_the_brokers_time(client, batch):
    client.create("a")
    stamped = bytearray(batch(b"x"))
    stamp_append_time(stamped, 5)
    reply = client.call(ProduceRequest(-1, 1000, [PartitionData("a", 0)]), bytes(stamped))
    assert reply.partitions[0].error_code == 32


def test_several_batches_of_one_turn_are_one_after_the_other(client):
    client.create("a")
    numbers = [client.send_produce("a", b"%d" % index, acks=index % 2 or -1) for index in range(200)]
    offsets = [client.body_of(client.reply_to(number), ProduceRequest).partitions[0].base_offset for number in numbers]
    assert offsets == list(range(200))
    assert client.values("a") == [b"%d" % index for index in range(200)]


def test_a_produce_that_is_not_flushed_in_time_is_answered_as_timed_out(make_node, faults, batch, eventually):
    client = make_node().client()
    client.create("a")
    faults.hold_flushes("/a-0/")
    reply = client.call(ProduceRequest(-1, 50, [PartitionData("a", 0)]), batch(b"x"))
    assert reply.partitions[0].error_code == 7
    assert "whether it took effect is unknown" in reply.partitions[0].error_message
    faults.release()
    eventually(lambda: client.values("a") == [b"x"], "it took effect")


def test_errors_of_the_whole_request_are_typed(client):
    reply = client.ask(ProduceRequest(7, 1000, []))
    assert issubclass(InvalidRequiredAcksError, BrokerError)
    assert reply.error_code == InvalidRequiredAcksError.code != StorageError.code
    assert reply.body is None
