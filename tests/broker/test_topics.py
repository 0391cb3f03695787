"""Topics over the wire: races to create, deletion under use, more partitions, settings that take effect at once."""

from __future__ import annotations

import pytest
from zmqbroker.transport.config_messages import (
    TOPIC_RESOURCE,
    AlterConfigsRequest,
    DescribeConfigsRequest,
    Resource,
    ResourceChange,
)
from zmqbroker.transport.messages import (
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    FetchRequest,
    MetadataRequest,
    NewTopic,
    PartitionCount,
    ProduceRequest,
)


def alter(client, topic, **settings):
    pairs = [(key.replace("_", "."), value) for key, value in settings.items()]
    (result,) = client.call(AlterConfigsRequest([ResourceChange(TOPIC_RESOURCE, topic, pairs)])).resources
    return result


def delete(client, topic):
    (result,) = client.call(DeleteTopicsRequest([topic], 5000)).topics
    return result.error_code


def folders(node):
    return node.on_reactor(node.context.folder.partition_folders)


def test_clients_that_race_to_create_a_topic_by_its_use_find_one(node):
    clients = [node.client() for _ in range(8)]
    numbers = [client.send(MetadataRequest(["a"], allow_auto_topic_creation=True)) for client in clients]
    replies = [
        client.body_of(client.reply_to(number), MetadataRequest)
        for client, number in zip(clients, numbers, strict=True)
    ]
    assert {(reply.topics[0].error_code, reply.topics[0].topic_id) for reply in replies} == {
        (0, replies[0].topics[0].topic_id)
    }
    assert [client.produce("a", b"x").base_offset for client in clients] == list(range(8))


def test_topics_are_created_by_use_only_where_client_and_broker_allow_it(make_node):
    client = make_node().client()
    assert client.call(MetadataRequest(["a"])).topics[0].error_code == 3
    assert client.call(MetadataRequest(["a/b"], allow_auto_topic_creation=True)).topics[0].error_code == 17
    client = make_node(auto_create_topics_enable=False).client()
    assert client.call(MetadataRequest(["a"], allow_auto_topic_creation=True)).topics[0].error_code == 3


def test_a_topic_deleted_and_created_at_once_is_another(node):
    client = node.client()
    old = client.create("a")
    client.produce("a", b"old")
    requests = [DeleteTopicsRequest(["a"], 5000), CreateTopicsRequest([NewTopic("a", 2)], 5000)] * 3
    numbers = [client.send(request) for request in requests]
    replies = [client.body_of(client.reply_to(n), r).topics[0] for n, r in zip(numbers, requests, strict=True)]
    assert [reply.error_code for reply in replies] == [0] * 6
    assert len({old.topic_id, *[reply.topic_id for reply in replies]}) == 4
    assert client.call(MetadataRequest(["a"])).topics[0].topic_id == replies[-1].topic_id
    assert client.produce("a", b"new").base_offset == 0
    assert client.values("a") == [b"new"]
    node.crash()
    assert node.start().client().values("a") == [b"new"]


def test_a_deleted_topic_is_gone_with_its_files_and_its_waiting_requests_are_answered(node, eventually):
    client, other = node.client(), node.client()
    client.create("a", 2)
    fetches = [other.send_fetch("a", 0, partition=partition, wait_ms=60_000) for partition in (0, 1)]
    eventually(lambda: node.on_reactor(lambda: node.leader("a", 1)._watches), "the fetches wait")
    produces = [other.send_produce("a", b"%d" % index, acks=(-1, 1)[index % 2]) for index in range(300)]
    assert delete(client, "a") == 0
    for number in fetches:
        (state,) = other.body_of(other.reply_to(number), FetchRequest).partitions
        assert state.error_code in (0, 3, 5, 6)
    codes = [other.body_of(other.reply_to(number), ProduceRequest).partitions[0].error_code for number in produces]
    assert set(codes) <= {0, 3, 6}
    assert other.produce("a", b"x").error_code == 3
    eventually(lambda: folders(node) == ["__cluster_metadata-0"], "the folders are gone")
    assert node.on_reactor(lambda: (node.context.open_requests, node.context.queued_bytes)) == (0, 0)


def test_a_topic_can_be_deleted_while_its_flush_is_under_way(make_node, faults, eventually):
    node = make_node()
    client = node.client()
    client.create("a")
    faults.hold_flushes("/a-0/")
    number = client.send_produce("a", b"x")
    eventually(lambda: faults.waiting, "the flush is under way")
    assert delete(client, "a") == 0
    assert client.reply_to(number).body[0][0][2] in (3, 6)
    faults.release()
    client.create("a")
    assert client.produce("a", b"y").base_offset == 0
    assert node.node is not None
    assert node.error is None


def test_a_folder_that_cannot_be_removed_holds_up_no_other_topic(make_node, faults):
    client = make_node().client()
    client.create("a")
    faults.full_for = "-offset-checkpoint"
    assert delete(client, "a") == 0
    client.create("b")
    assert client.produce("b", b"x").error_code == 0
    faults.full_for = ""
    client.create("a")
    assert client.values("a") == []


def test_more_partitions_are_there_at_once_and_after_a_restart(node):
    client = node.client()
    client.create("a")
    (result,) = client.call(CreatePartitionsRequest([PartitionCount("a", 3)], 1000)).topics
    assert (result.error_code, result.partitions) == (0, 3)
    assert client.produce("a", b"x", partition=2).base_offset == 0
    assert len(client.call(MetadataRequest(["a"])).topics[0].partitions) == 3
    client = node.restart().client()
    assert client.values("a", partition=2) == [b"x"]
    assert client.produce("a", b"x", partition=3).error_code == 3


def test_settings_take_effect_at_once(node):
    client = node.client()
    client.create("a")
    assert client.produce("a", b"x" * 500).error_code == 0
    assert alter(client, "a", max_message_bytes="300").error_code == 0
    assert client.produce("a", b"x" * 500).error_code == 10
    assert alter(client, "a", max_message_bytes=None).error_code == 0
    assert client.produce("a", b"x" * 500).error_code == 0
    assert alter(client, "a", segment_bytes="600").error_code == 0
    assert alter(client, "a", message_timestamp_type="LogAppendTime").error_code == 0
    assert client.produce("a", b"y").log_append_time_ms > 0
    node.restart()
    client = node.client()
    assert client.produce("a", b"y").log_append_time_ms > 0
    request = DescribeConfigsRequest([Resource(TOPIC_RESOURCE, "a")])
    found = {entry.name: (entry.value, entry.source) for entry in client.call(request).resources[0].configs}
    assert found["segment.bytes"] == ("600", "topic")
    assert found["max.message.bytes"][1] == "default"


@pytest.mark.parametrize("value", ["9" * 5000, "1e400", "٣", "-2", ""])
def test_a_setting_that_is_no_number_harms_nobody(node, value):
    client = node.client()
    client.create("a")
    assert alter(client, "a", retention_ms=value).error_code == 40
    assert client.produce("a", b"x").error_code == 0


def test_metadata_survive_every_kind_of_end(node):
    client = node.client()
    client.create("a", 2, retention_ms=5000)
    client.create("b")
    delete(client, "b")
    before = client.call(MetadataRequest()).topics
    restarted = node.restart().client().call(MetadataRequest()).topics
    for topic in (*before, *restarted):
        for state in topic.partitions:
            state.leader_epoch = -1  # each start of a leader is a new epoch
    assert restarted == before
    node.crash()
    after = node.start().client().call(MetadataRequest()).topics
    assert [(topic.topic, topic.topic_id, len(topic.partitions)) for topic in after] == [
        (topic.topic, topic.topic_id, len(topic.partitions)) for topic in before
    ]
    assert all(state.leader_epoch > 0 for state in after[0].partitions)


def test_a_full_disk_refuses_new_topics_and_takes_them_again(make_node, faults):
    client = make_node().client()
    faults.full_for = "/data-0/"
    assert client.ask(CreateTopicsRequest([NewTopic("a", 1)], 1000)).error_code == 56
    assert client.call(MetadataRequest()).topics == []
    faults.full_for = ""
    client.create("a")
    assert client.produce("a", b"x").error_code == 0


def test_a_partition_that_could_not_be_made_is_made_when_there_is_room(make_node, faults, eventually):
    client = make_node(log_flush_offset_checkpoint_interval_ms=20).client()
    faults.full_for = "/a-0/"
    client.create("a")
    refused = client.produce("a", b"x")
    assert (refused.error_code, "is offline" in refused.error_message) == (56, True)
    faults.full_for = ""
    eventually(lambda: client.produce("a", b"x").error_code == 0, "the partition is there")
