"""The controller's decisions: each entry stands for itself, and what is decided can be applied."""

from __future__ import annotations

import pytest
from zmqbroker.errors import InvalidRequestError, InvalidTopicError, PolicyViolationError
from zmqbroker.quorum import decisions
from zmqbroker.quorum.image import MetadataImage, apply
from zmqbroker.quorum.records import (
    CreateTopic,
    NextProducerId,
    RegisterNode,
    RemoveTopic,
    SetConfig,
    SetNodeState,
    SetPartition,
)
from zmqbroker.settings import broker_config
from zmqbroker.transport.config_messages import (
    BROKER_RESOURCE,
    CLIENT_RESOURCE,
    TOPIC_RESOURCE,
    AlterConfigsRequest,
    ResourceChange,
)
from zmqbroker.transport.messages import (
    CreatePartitionsRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    NewTopic,
    PartitionCount,
)

CONFIG = broker_config({"num_partitions": 2})
WRITTEN = {"min.insync.replicas": "1", "unclean.leader.election.enable": "false"}
"""What a topic with fewer than three replicas has written down without being asked."""


def a_cluster(nodes=3):
    records = [RegisterNode(node, "h", 1, f"r{node}", clean=True) for node in range(1, nodes + 1)]
    records += [SetNodeState(node, fenced=False, stopping=False, draining=False) for node in range(1, nodes + 1)]
    return apply(MetadataImage(), records, TOPIC_RESOURCE)


def topic_id(name, offset):
    return f"{name}@{offset}"


def create(image, *topics, validate_only=False, config=CONFIG):
    return decisions.create_topics(image, CreateTopicsRequest(list(topics), 1000, validate_only), config, topic_id)


def codes(decision):
    return [entry.error_code for entry in decision.reply.topics]


def with_topic(name="a", partitions=2, factor=2, **configs):
    image = a_cluster()
    pairs = [(key.replace("_", "."), value) for key, value in configs.items()]
    return apply(image, create(image, NewTopic(name, partitions, factor, pairs)).records, TOPIC_RESOURCE)


def test_a_topic_is_created_with_its_partitions_and_settings():
    decision = create(a_cluster(), NewTopic("a", 3, 2, [("retention_ms", "1h"), ("flush", "os")]))
    (result,) = decision.reply.topics
    assert (result.error_code, result.topic_id, result.partitions, result.replication_factor) == (0, "a@6", 3, 2)
    image = apply(a_cluster(), decision.records, TOPIC_RESOURCE)
    assert len(image.topics["a"].partitions) == 3
    assert all(len(set(state.replicas)) == 2 for state in image.topics["a"].partitions)
    assert all(state.leader == state.replicas[0] for state in image.topics["a"].partitions)
    assert dict(image.config_of(TOPIC_RESOURCE, "a")) == {"retention.ms": "3600000", "flush": "os", **WRITTEN}
    assert isinstance(decision.records[0], CreateTopic)


def test_defaults_come_from_the_broker():
    (result,) = create(a_cluster(), NewTopic("a")).reply.topics
    assert (result.partitions, result.replication_factor) == (2, 3)
    (result,) = create(a_cluster(1), NewTopic("a")).reply.topics
    assert result.replication_factor == 1
    (result,) = create(a_cluster(), NewTopic("a"), config=broker_config({"default_replication_factor": 2})).reply.topics
    assert result.replication_factor == 2


@pytest.mark.parametrize(
    ("topic", "code"),
    [
        (NewTopic(".."), 17),
        (NewTopic("."), 17),
        (NewTopic(""), 17),
        (NewTopic("a/b"), 17),
        (NewTopic("a\0"), 17),
        (NewTopic("a\n"), 17),
        (NewTopic("ä"), 17),
        (NewTopic("a" * 250), 17),
        (NewTopic("__cluster_metadata"), 17),
        (NewTopic("a", 0), 37),
        (NewTopic("a", -2), 37),
        (NewTopic("a", decisions.MAX_PARTITIONS + 1), 37),
        (NewTopic("a", 1, 0), 38),
        (NewTopic("a", 1, 4), 38),
        (NewTopic("a", 1, -2), 38),
        (NewTopic("a", configs=[("nothing", "1")]), 40),
        (NewTopic("a", configs=[("retention.ms", "soon")]), 40),
        (NewTopic("a", configs=[("retention.ms", "-2")]), 40),
        (NewTopic("a", configs=[("segment.bytes", "1"), ("segment_bytes", "100")]), 42),
        (NewTopic("__consumer_offsets", 7), 17),
        (NewTopic("a", 1, 2, configs=[("min.insync.replicas", "3")]), 40),
        (NewTopic("a", assignments=[[1], [4]]), 39),
        (NewTopic("a", assignments=[[1, 1]]), 39),
        (NewTopic("a", assignments=[[]]), 39),
        (NewTopic("a", assignments=[[1], [1, 2]]), 39),
        (NewTopic("a", 1, assignments=[[1]]), 42),
        (NewTopic("a", -1, 1, assignments=[[1]]), 42),
    ],
)
def test_what_cannot_be_created_leaves_the_others(topic, code):
    decision = create(a_cluster(), NewTopic("before", 1), topic, NewTopic("after", 1))
    assert codes(decision) == [0, code, 0]
    assert decision.reply.topics[1].error_message
    assert set(apply(a_cluster(), decision.records, TOPIC_RESOURCE).topics) == {"before", "after"}


def test_names_at_the_limits_are_taken():
    names = ["a" * 249, "...", "_", "-", "A.b_c-9"]
    assert codes(create(a_cluster(), *[NewTopic(name, 1) for name in names])) == [0] * 5
    with pytest.raises(InvalidTopicError, match="249 characters, and this one has 250"):
        decisions.check_topic_name("a" * 250)


def test_a_topic_is_there_once():
    assert codes(create(with_topic("a"), NewTopic("a"), NewTopic("b", 1), NewTopic("b", 1))) == [36, 0, 36]


def test_assignments_by_hand_are_taken_as_they_are():
    decision = create(a_cluster(), NewTopic("a", assignments=[[2, 3], [3, 1]]))
    image = apply(a_cluster(), decision.records, TOPIC_RESOURCE)
    assert [(state.replicas, state.leader) for state in image.topics["a"].partitions] == [((2, 3), 2), ((3, 1), 3)]


def test_validate_only_decides_the_same_and_changes_nothing():
    topics = [NewTopic("a", 3), NewTopic("..")]
    decision = create(a_cluster(), *topics, validate_only=True)
    assert decision.records == []
    assert decision.reply == create(a_cluster(), *topics).reply


def test_the_partitions_of_one_request_are_bounded():
    """One request must not be able to fill the memory, however many topics it names."""
    most = decisions.MAX_PARTITIONS
    decision = create(a_cluster(1), *[NewTopic(f"t{index}", most // 2, 1) for index in range(50)])
    assert codes(decision) == [0, 0] + [37] * 48
    assert sum(isinstance(record, SetPartition) for record in decision.records) == most
    image = apply(a_cluster(1), decision.records, TOPIC_RESOURCE)
    assert image.partitions_count == most


def test_the_entries_of_one_request_are_bounded():
    too_many = decisions.MAX_ENTRIES + 1
    with pytest.raises(PolicyViolationError, match="split it"):
        create(a_cluster(), *[NewTopic(f"t{index}", 1) for index in range(too_many)])
    with pytest.raises(PolicyViolationError):
        add(a_cluster(), *[(f"t{index}", 1) for index in range(too_many)])
    with pytest.raises(PolicyViolationError):
        alter(a_cluster(), *[(CLIENT_RESOURCE, f"c{index}", []) for index in range(too_many)])


def test_topics_are_deleted_once():
    decision = decisions.delete_topics(with_topic("a"), DeleteTopicsRequest(["a", "b", "a"], 1000), CONFIG)
    assert codes(decision) == [0, 3, 3]
    assert decision.records == [RemoveTopic("a")]
    assert decision.reply.topics[0].topic_id == "a@6"


def test_of_topics_with_an_id_only_those_are_deleted():
    wanted = DeleteTopicsRequest(["a", "b", "a"], 1000, ["other", "", "a@6"])
    decision = decisions.delete_topics(with_topic("a"), wanted, CONFIG)
    assert (codes(decision), decision.records) == ([103, 3, 0], [RemoveTopic("a")])
    with pytest.raises(InvalidRequestError, match="one for each"):
        decisions.delete_topics(with_topic("a"), DeleteTopicsRequest(["a", "b"], 1000, ["a@6"]), CONFIG)


def test_topics_are_not_deleted_where_that_is_off():
    config = broker_config({"delete_topic_enable": False})
    decision = decisions.delete_topics(with_topic("a"), DeleteTopicsRequest(["a", "b"], 1000), config)
    assert (codes(decision), decision.records) == ([44, 44], [])


def add(image, *wanted, validate_only=False):
    counts = [PartitionCount(*entry) for entry in wanted]
    return decisions.create_partitions(image, CreatePartitionsRequest(counts, 1000, validate_only))


def test_partitions_are_added_and_never_taken_away():
    image = with_topic("a", 2)
    decision = add(image, ("a", 1), ("a", 2), ("none", 3), ("a", 100_001), ("a", 5), ("a", 5), ("a", 6))
    assert codes(decision) == [37, 37, 3, 37, 0, 37, 0]
    after = apply(image, decision.records, TOPIC_RESOURCE)
    assert len(after.topics["a"].partitions) == 6
    assert {len(state.replicas) for state in after.topics["a"].partitions} == {2}
    assert after.topics["a"].partitions[:2] == image.topics["a"].partitions
    assert add(image, ("a", 5), validate_only=True).records == []


def alter(image, *changes, validate_only=False):
    return decisions.alter_configs(
        image, AlterConfigsRequest([ResourceChange(*change) for change in changes], validate_only), CONFIG
    )


def results(decision):
    return [entry.error_code for entry in decision.reply.resources]


def test_settings_are_changed_and_dropped_and_the_others_stay():
    image = with_topic("a", retention_ms="1h", flush="os")
    decision = alter(image, (TOPIC_RESOURCE, "a", [("retention_ms", None), ("segment.bytes", "1MiB")]))
    assert results(decision) == [0]
    after = apply(image, decision.records, TOPIC_RESOURCE)
    assert dict(after.config_of(TOPIC_RESOURCE, "a")) == {"flush": "os", "segment.bytes": str(2**20), **WRITTEN}
    assert alter(image, (TOPIC_RESOURCE, "a", [("flush", "ack")]), validate_only=True).records == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ((TOPIC_RESOURCE, "none", [("flush", "os")]), 3),
        ((TOPIC_RESOURCE, "a", [("nothing", "os")]), 40),
        ((TOPIC_RESOURCE, "a", [("nothing", None)]), 40),
        ((TOPIC_RESOURCE, "a", [("flush", "sometimes")]), 40),
        ((TOPIC_RESOURCE, "a", [("flush", "os"), ("flush", "ack")]), 42),
        ((TOPIC_RESOURCE, "a", [("retention.ms", "1"), ("retention_ms", "2")]), 42),
        ((TOPIC_RESOURCE, "a", [("flush", "os"), ("retention.ms", "never")]), 40),
        ((TOPIC_RESOURCE, "a", [("min.insync.replicas", "3")]), 40),
        ((TOPIC_RESOURCE, "a", [("retention.ms", "9" * 5000)]), 40),
        ((BROKER_RESOURCE, "1", [("num.partitions", "3")]), 42),
        ((7, "a", []), 42),
        ((CLIENT_RESOURCE, "c", [("producer_byte_rate", "0")]), 40),
        ((CLIENT_RESOURCE, "c", [("producer_byte_rate", "-1")]), 40),
        ((CLIENT_RESOURCE, "c", [("producer_byte_rate", "1.5")]), 40),
        ((CLIENT_RESOURCE, "c", [("producer_byte_rate", "²")]), 40),
        ((CLIENT_RESOURCE, "c", [("producer_byte_rate", str(2**63))]), 40),
        ((CLIENT_RESOURCE, "c", [("producer_byte_rate", "9" * 5000)]), 40),
        ((CLIENT_RESOURCE, "c", [("flush", "os")]), 40),
    ],
)
def test_a_change_that_is_not_allowed_is_not_half_taken(change, code):
    good = (TOPIC_RESOURCE, "a", [("segment.bytes", "1000")])
    decision = alter(with_topic("a"), change, good)
    assert results(decision) == [code, 0]
    assert decision.records == [SetConfig(TOPIC_RESOURCE, "a", "segment.bytes", "1000")]


def test_quotas_are_set_and_dropped():
    image = with_topic("a")
    image = apply(image, alter(image, (CLIENT_RESOURCE, "", [("consumer_byte_rate", "5")])).records, TOPIC_RESOURCE)
    assert dict(image.config_of(CLIENT_RESOURCE, "")) == {"consumer_byte_rate": "5"}
    image = apply(image, alter(image, (CLIENT_RESOURCE, "", [("consumer_byte_rate", None)])).records, TOPIC_RESOURCE)
    assert not image.config_of(CLIENT_RESOURCE, "")


def test_some_settings_are_for_all_nodes_at_once():
    image = a_cluster()
    rate = "replication.throttled.rate"
    decision = alter(image, (BROKER_RESOURCE, "", [(rate, "50MB")]))
    assert results(decision) == [0]
    image = apply(image, decision.records, TOPIC_RESOURCE)
    assert dict(image.config_of(BROKER_RESOURCE, "")) == {rate: "50000000"}
    for settings in ([("listen", "tcp://127.0.0.1:1")], [(rate, "fast")], [(rate, "-1")], [("no.such", "1")]):
        assert results(alter(image, (BROKER_RESOURCE, "", settings))) == [40]
    assert results(alter(image, (BROKER_RESOURCE, "1", [(rate, "1")]))) == [42], "one node's are in its file"
    image = apply(image, alter(image, (BROKER_RESOURCE, "", [(rate, None)])).records, TOPIC_RESOURCE)
    assert not image.config_of(BROKER_RESOURCE, "")


def test_producer_ids_come_in_blocks_that_follow_each_other():
    image = a_cluster()
    first, records = decisions.next_producer_ids(image)
    assert records == [NextProducerId(first.stop)]
    second, _ = decisions.next_producer_ids(apply(image, records, TOPIC_RESOURCE))
    assert (first.start, second.start, len(second)) == (0, first.stop, decisions.PRODUCER_ID_BLOCK)


def test_epochs_of_a_producer_id_end_before_they_overflow():
    assert decisions.bumped_epoch(5, 2).producer_epoch == 3
    assert decisions.bumped_epoch(5, 2**15 - 2).producer_epoch == 2**15 - 1
    for producer_id, epoch in ((5, 2**15 - 1), (-1, 0), (5, -1), (-1, -1)):
        assert decisions.bumped_epoch(producer_id, epoch) is None


def test_an_unclean_start_begins_new_epochs_where_the_node_leads():
    image = with_topic("a", 3, 2)
    mine = [index for index, state in enumerate(image.topics["a"].partitions) if state.leader == 1]
    unfenced = SetNodeState(1, fenced=False, stopping=False, draining=False)
    assert decisions.registration(image, 1, clean=True) == [unfenced]
    first, *records = decisions.registration(image, 1, clean=False)
    assert first == unfenced
    assert [record.partition for record in records] == mine
    assert all(isinstance(record, SetPartition) and record.leader_epoch == 1 for record in records)
    apply(image, records, TOPIC_RESOURCE)
