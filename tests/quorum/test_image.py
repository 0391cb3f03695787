"""The metadata image: the fold of the records equals a plain model; old images never change."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zmqbroker.quorum.image import MetadataImage, apply
from zmqbroker.quorum.records import CreateTopic, NextProducerId, RegisterNode, RemoveTopic, SetConfig, SetPartition

TOPIC = 2
names = st.sampled_from("abc")


class Model:
    """What the image should be, told in plain dictionaries."""

    def __init__(self):
        self.count = 0
        self.nodes, self.topics, self.configs, self.next_id = {}, {}, {}, 0

    def apply(self, record):
        match record:
            case RegisterNode():
                self.nodes[record.node_id] = (record.host, record.port, record.rack, self.count)
            case CreateTopic():
                self.topics[record.name] = (record.topic_id, [])
            case RemoveTopic():
                del self.topics[record.name]
                self.configs = {key: value for key, value in self.configs.items() if key[:2] != (TOPIC, record.name)}
            case SetPartition():
                partitions = self.topics[record.topic][1]
                state = (record.replicas, record.isr, record.leader, record.leader_epoch)
                partitions[record.partition : record.partition + 1] = [state]
            case SetConfig(kind, name, key, None):
                self.configs.pop((kind, name, key), None)
            case SetConfig(kind, name, key, value):
                self.configs[kind, name, key] = value
            case NextProducerId():
                self.next_id = record.producer_id
        self.count += 1

    def draw(self, data):
        """A record that may come next."""
        kinds = ["node", "config", "ids"] + ["remove", "partition"] * bool(self.topics)
        if len(self.topics) < 3:
            kinds.append("create")
        small = st.integers(0, 5)
        match data.draw(st.sampled_from(kinds)):
            case "node":
                return RegisterNode(data.draw(small), "host", data.draw(small), "rack", data.draw(st.booleans()))
            case "config":
                value = data.draw(st.none() | st.just("v") | st.just("w"))
                return SetConfig(data.draw(st.sampled_from([TOPIC, 256])), data.draw(names), data.draw(names), value)
            case "ids":
                return NextProducerId(self.next_id + data.draw(small))
            case "create":
                free = sorted(set("abc") - set(self.topics))
                return CreateTopic(data.draw(st.sampled_from(free)), f"id{self.count}")
            case "remove":
                return RemoveTopic(data.draw(st.sampled_from(sorted(self.topics))))
        topic = data.draw(st.sampled_from(sorted(self.topics)))
        partitions = self.topics[topic][1]
        index = data.draw(st.integers(0, len(partitions)))
        epoch = partitions[index][3] if index < len(partitions) else 0
        replicas = data.draw(st.lists(small, min_size=1, unique=True))
        isr = replicas[: data.draw(st.integers(1, len(replicas)))]
        return SetPartition(topic, index, replicas, isr, isr[0], epoch + data.draw(small))

    def check(self, image):
        assert image.end_offset == self.count
        nodes = {key: (node.host, node.port, node.rack, node.epoch) for key, node in image.nodes.items()}
        assert nodes == self.nodes
        topics = {
            name: (
                topic.topic_id,
                [(list(p.replicas), list(p.isr), p.leader, p.leader_epoch) for p in topic.partitions],
            )
            for name, topic in image.topics.items()
        }
        assert topics == self.topics
        configs = {(*key, name): value for key, found in image.configs.items() for name, value in found.items()}
        assert configs == self.configs
        assert all(image.configs.values()), "an empty table is no table"
        assert image.next_producer_id == self.next_id
        assert image.partitions_count == sum(len(partitions) for _, partitions in self.topics.values())


@settings(deadline=None)
@given(st.data())
def test_the_fold_equals_the_model_however_it_is_cut(data):
    model, image, records = Model(), MetadataImage(), []
    for _ in range(data.draw(st.integers(0, 30))):
        record = model.draw(data)
        before, frozen = image, copy.deepcopy(image)
        image = apply(image, [record], TOPIC)
        model.apply(record)
        records.append(record)
        assert before == frozen, "an image that others hold was changed"
    model.check(image)
    cut = data.draw(st.integers(0, len(records)))
    assert apply(apply(MetadataImage(), records[:cut], TOPIC), records[cut:], TOPIC) == image


def test_what_cannot_stand_in_a_metadata_log_ends_the_node():
    image = apply(MetadataImage(), [CreateTopic("a", "1"), SetPartition("a", 0, [1], [1], 1, 3), NextProducerId(5)], 2)
    for record in (
        CreateTopic("a", "2"),
        SetPartition("a", 2, [1], [1], 1, 0),
        SetPartition("a", 0, [1], [1], 1, 2),
        SetPartition("a", 0, [1], [2], 1, 4),
        NextProducerId(4),
    ):
        with pytest.raises(AssertionError):
            apply(image, [record], 2)


def test_a_recreated_topic_has_none_of_the_old_settings():
    records = [CreateTopic("a", "1"), SetConfig(TOPIC, "a", "k", "v"), RemoveTopic("a"), CreateTopic("a", "2")]
    assert apply(MetadataImage(), records, TOPIC).config_of(TOPIC, "a") == {}


def test_many_partitions_are_applied_in_time():
    records = [CreateTopic("a", "1"), *[SetPartition("a", index, [1], [1], 1, 0) for index in range(100_000)]]
    assert apply(MetadataImage(), records, TOPIC).partitions_count == 100_000
