"""Requests about groups find their coordinator, and nobody else touches the topics that hold its state."""

from __future__ import annotations

import pytest
from zmqbroker.errors import BrokerError
from zmqbroker.groups.partitioning import group_partition, java_hash
from zmqbroker.transport.config_messages import (
    GROUP_RESOURCE,
    TOPIC_RESOURCE,
    AlterConfigsRequest,
    DescribeConfigsRequest,
    Resource,
    ResourceChange,
)
from zmqbroker.transport.group_messages import (
    SHARE_COORDINATOR,
    FindCoordinatorRequest,
    HeartbeatRequest,
    ListGroupsRequest,
)
from zmqbroker.transport.messages import (
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteRecordsRequest,
    DeleteTopicsRequest,
    MetadataRequest,
    NewTopic,
    PartitionCount,
    PartitionDeletion,
)

OFFSETS, STATE = "__consumer_offsets", "__share_group_state"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", 0), ("a", 97), ("hello", 99162322), ("polygenelubricants", -(2**31)), ("\U0001d518", 1772419)],
)
def test_the_hash_is_javas(text, expected):
    assert java_hash(text) == expected


def test_a_group_has_one_partition_whatever_the_sign_of_its_hash():
    assert 0 <= group_partition("polygenelubricants", 50) < 50
    assert group_partition("hello", 50) == 22


def test_find_coordinator_makes_the_internal_topics_once(make_node):
    client = make_node(offsets_topic_num_partitions=3).client()
    found = client.call(FindCoordinatorRequest(["g", "h"])).coordinators
    assert [(entry.key, entry.node_id, entry.error_code) for entry in found] == [("g", 1, 0), ("h", 1, 0)]
    client.call(FindCoordinatorRequest(["g"]))
    client.call(FindCoordinatorRequest(["g"], SHARE_COORDINATOR))
    topics = {topic.topic: topic for topic in client.call(MetadataRequest()).topics}
    assert {name: (len(topic.partitions), topic.is_internal) for name, topic in topics.items()} == {
        OFFSETS: (3, True),
        STATE: (16, True),
    }


def test_what_cannot_be_found_says_why(make_node):
    client = make_node(offsets_topic_num_partitions=1).client()
    with pytest.raises(BrokerError, match="key_type is 7") as refused:
        client.call(FindCoordinatorRequest(["g"], 7))
    assert refused.value.name == "INVALID_REQUEST"
    heartbeat = HeartbeatRequest("g", 1, "m", None)
    assert client.ask(heartbeat).error_code == 16  # NOT_COORDINATOR: nobody has asked for one yet
    assert client.call(ListGroupsRequest()).groups == []
    (entry,) = client.call(FindCoordinatorRequest([""])).coordinators
    assert (entry.error_code, entry.error_message) == (24, "the group id is empty; a group needs a name")
    assert client.ask(HeartbeatRequest("", 1, "m", None)).error_code == 24


def test_internal_topics_are_the_brokers_own(make_node):
    client = make_node(offsets_topic_num_partitions=1).client()
    (made,) = client.call(CreateTopicsRequest([NewTopic(OFFSETS, 7)], 1000)).topics
    assert made.error_code == 17
    (missing,) = client.call(MetadataRequest([OFFSETS], allow_auto_topic_creation=True)).topics
    assert missing.error_code == 3
    client.call(FindCoordinatorRequest(["g"]))
    results = [
        client.produce(OFFSETS, b"x"),
        client.call(DeleteTopicsRequest([OFFSETS], 1000)).topics[0],
        client.call(CreatePartitionsRequest([PartitionCount(OFFSETS, 9)], 1000)).topics[0],
        client.call(DeleteRecordsRequest([PartitionDeletion(OFFSETS, 0, -1)], 1000)).partitions[0],
        client.call(
            AlterConfigsRequest([ResourceChange(TOPIC_RESOURCE, OFFSETS, [("cleanup.policy", "delete")])])
        ).resources[0],
    ]
    assert [result.error_code for result in results] == [17] * 5
    assert all(OFFSETS in result.error_message for result in results)
    assert client.values(OFFSETS) == []


def test_the_settings_of_a_share_group(make_node):
    client = make_node(group_share_delivery_count_limit=3).client()
    change = ResourceChange(GROUP_RESOURCE, "q", [("share.record.lock.duration.ms", "5s")])
    assert client.call(AlterConfigsRequest([change])).resources[0].error_code == 0
    (described,) = client.call(DescribeConfigsRequest([Resource(GROUP_RESOURCE, "q")])).resources
    values = {entry.name: (entry.value, entry.source) for entry in described.configs}
    assert values["share.record.lock.duration.ms"] == ("5000", "group")
    assert values["share.delivery.count.limit"] == ("3", "broker")
    assert values["share.auto.offset.reset"] == ("earliest", "default")
    for key, value, expected in (
        ("share.lock", "1", "nearest known one is share"),
        ("share.record.lock.duration.ms", "1ms", "share.record.lock.duration.ms"),
    ):
        change = ResourceChange(GROUP_RESOURCE, "q", [(key, value)])
        result = client.call(AlterConfigsRequest([change])).resources[0]
        assert result.error_code == 40
        assert expected in result.error_message
    back = ResourceChange(GROUP_RESOURCE, "q", [("share.record.lock.duration.ms", None)])
    assert client.call(AlterConfigsRequest([back])).resources[0].error_code == 0
    (described,) = client.call(DescribeConfigsRequest([Resource(GROUP_RESOURCE, "q")])).resources
    assert ("share.record.lock.duration.ms", "30000") in {(entry.name, entry.value) for entry in described.configs}
