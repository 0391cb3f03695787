"""Offsets over the wire: by time, ends of leader epochs, deleted records, and what retention removes."""

from __future__ import annotations

import time

import pytest
from zmqbroker.transport.config_messages import TOPIC_RESOURCE, AlterConfigsRequest, ResourceChange
from zmqbroker.transport.messages import (
    DeleteRecordsRequest,
    DescribeLogDirsRequest,
    ListOffsetsRequest,
    MetadataRequest,
    OffsetForLeaderEpochRequest,
    PartitionDeletion,
    PartitionEpoch,
    PartitionTimestamp,
)

LATEST, EARLIEST, NEWEST = -1, -2, -3


def look_up(client, timestamp, partition=0, topic="a", epoch=-1):
    request = ListOffsetsRequest([PartitionTimestamp(topic, partition, timestamp, epoch)])
    (found,) = client.call(request).partitions
    return found


def delete_before(client, offset, partition=0, topic="a"):
    request = DeleteRecordsRequest([PartitionDeletion(topic, partition, offset)], 1000)
    (result,) = client.call(request).partitions
    return result


def describe(client, topic="a", partition=0):
    found = client.call(DescribeLogDirsRequest()).partitions
    return next(entry for entry in found if (entry.topic, entry.partition) == (topic, partition))


def test_offsets_by_time(client):
    client.create("a")
    client.produce("a", b"0", b"1", timestamps=[1000, 1010])
    client.produce("a", b"2", b"3", timestamps=[1030, 1020])
    found = {at: look_up(client, at).offset for at in (LATEST, EARLIEST, NEWEST, 0, 1000, 1001, 1011, 1020, 1030, 1031)}
    expected = {LATEST: 4, EARLIEST: 0, NEWEST: 2, 0: 0, 1000: 0, 1001: 1, 1011: 2, 1020: 2, 1030: 2, 1031: -1}
    assert found == expected
    assert look_up(client, 1001).timestamp == 1010
    assert look_up(client, 2**62).error_code == 0


def test_offsets_of_an_empty_partition(client):
    client.create("a")
    assert [look_up(client, at).offset for at in (LATEST, EARLIEST, NEWEST, 5)] == [0, 0, -1, -1]


def test_times_that_are_none_and_partitions_that_are_not_there(client):
    client.create("a")
    assert look_up(client, -4).error_code != 0
    assert "is no time" in look_up(client, -4).error_message
    assert look_up(client, LATEST, partition=1).error_code == 3
    assert look_up(client, LATEST, topic="b").error_code == 3
    assert look_up(client, LATEST, epoch=5).error_code == 75


def test_deleted_records_are_out_of_range(client):
    client.create("a")
    for index in range(5):
        client.produce("a", b"%d" % index)
    result = delete_before(client, 3)
    assert (result.error_code, result.low_watermark) == (0, 3)
    assert client.fetch("a", 2)[0].error_code == 1
    assert client.fetch("a", 2)[0].log_start_offset == 3
    assert client.values("a", 3) == [b"3", b"4"]
    assert look_up(client, EARLIEST).offset == 3
    assert delete_before(client, 1).low_watermark == 3, "the start never goes back"
    assert delete_before(client, -1).low_watermark == 5
    assert client.values("a", 5) == []
    assert client.produce("a", b"5").log_start_offset == 5


@pytest.mark.parametrize("offset", [6, -2, 2**62])
def test_records_past_the_end_cannot_be_deleted(client, offset):
    client.create("a")
    client.produce("a", *[b"x"] * 5)
    assert delete_before(client, offset).error_code == 1
    assert look_up(client, EARLIEST).offset == 0


def test_deletion_holds_over_clean_and_unclean_restarts(node):
    client = node.client()
    client.create("a")
    client.produce("a", *[b"x"] * 5)
    delete_before(client, 2)
    node.crash()
    client = node.start().client()
    assert look_up(client, EARLIEST).offset == 2, "a deletion that was answered was taken back by a crash"
    delete_before(client, 4)
    client = node.restart().client()
    assert look_up(client, EARLIEST).offset == 4


def test_deletion_of_several_partitions_and_of_none(client):
    client.create("a", 2)
    client.produce("a", b"x")
    entries = [PartitionDeletion("a", 0, 1), PartitionDeletion("a", 1, 1), PartitionDeletion("b", 0, 0)]
    reply = client.call(DeleteRecordsRequest(entries, 1000))
    assert [entry.error_code for entry in reply.partitions] == [0, 1, 3]
    assert client.call(DeleteRecordsRequest([], 1000)).partitions == []


def test_ends_of_leader_epochs(node):
    client = node.client()
    client.create("a")
    client.produce("a", b"0", b"1")
    node.crash()
    client = node.start().client()
    client.produce("a", b"2")
    now = client.call(MetadataRequest(["a"])).topics[0].partitions[0].leader_epoch

    def end_of(epoch, current=-1):
        (found,) = client.call(OffsetForLeaderEpochRequest([PartitionEpoch("a", 0, epoch, current)])).partitions
        return found.error_code, found.leader_epoch, found.end_offset

    assert end_of(0) == (0, 0, 2)
    assert end_of(now) == (0, now, 3)
    assert end_of(0, current=now) == (0, 0, 2)
    assert end_of(0, current=0)[0] == 74
    assert end_of(0, current=now + 1)[0] == 75
    assert end_of(-1) == (0, -1, -1)
    found = look_up(client, NEWEST)
    assert (found.offset, found.leader_epoch) == (2, now)


def test_retention_by_time(make_node, eventually):
    client = make_node(log_retention_check_interval_ms=10).client()
    client.create("a", retention_ms=-1, segment_bytes=1000)
    old = time.time_ns() // 1_000_000 - 120_000
    for index in range(10):
        client.produce("a", b"%d" % index * 400, timestamp=old if index < 6 else old + 120_000)
    client.call(AlterConfigsRequest([ResourceChange(TOPIC_RESOURCE, "a", [("retention.ms", "60000")])]))
    eventually(lambda: look_up(client, EARLIEST).offset == 6, "the old segments are gone")
    assert client.fetch("a", 5)[0].error_code == 1
    assert len(client.values("a", 6)) == 4
    assert client.counters()["segments-deleted"] == 3


def test_retention_by_size(make_node, eventually):
    client = make_node(log_retention_check_interval_ms=10).client()
    client.create("a", retention_bytes=3000, segment_bytes=1000)
    for index in range(20):
        client.produce("a", b"%02d" % index * 200)
    eventually(lambda: describe(client).size_bytes < 4000, "the oldest segments are gone")
    start = look_up(client, EARLIEST).offset
    assert 0 < start < 18
    assert client.values("a", start) == [b"%02d" % index * 200 for index in range(start, 20)]
    assert describe(client).segments >= 3


def test_retention_removes_the_active_segment_too_once_it_is_old(make_node, eventually):
    client = make_node(log_retention_check_interval_ms=10).client()
    client.create("a", retention_ms=60_000, segment_ms=50)
    client.produce("a", b"x", timestamp=time.time_ns() // 1_000_000 - 120_000)
    eventually(lambda: look_up(client, EARLIEST).offset == 1, "the record is gone")
    assert client.produce("a", b"y").base_offset == 1
    assert client.values("a", 1) == [b"y"]


def test_a_described_log_has_its_figures(client):
    client.create("a", segment_bytes=1000)
    for _ in range(4):
        client.produce("a", b"x" * 500)
    found = describe(client)
    assert (found.log_start_offset, found.high_watermark, found.log_end_offset) == (0, 4, 4)
    assert (found.segments, found.error_message) == (4, None)
    assert found.size_bytes > 2000
    reply = client.call(DescribeLogDirsRequest())
    assert reply.total_bytes >= reply.usable_bytes > 0
