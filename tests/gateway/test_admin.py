"""Administration and look-ups through Kafka's clients: topics, settings, groups, offsets by time, deleted records."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
)
from confluent_kafka.error import KafkaException

from .kafka_members import unclosed_sockets

if TYPE_CHECKING:
    from collections.abc import Callable

    from zmqbroker.testing import Broker

    from .kafka_clients import Client

TIMEOUT_S = 30.0


@pytest.fixture
def admin(broker: Broker) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.kafka_bootstrap})


def result_of(futures: dict[Any, Any]) -> Any:
    """What the one future of an admin call comes to."""
    (future,) = futures.values()
    return future.result(TIMEOUT_S)


def config_of(admin: AdminClient, topic: str) -> dict[str, ConfigEntry]:
    found: dict[str, ConfigEntry] = result_of(
        admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)])
    )
    return found


def test_topics_are_created_grown_described_and_deleted(admin: AdminClient, topic: str) -> None:
    result_of(admin.create_topics([NewTopic(topic, 3, 1, config={"retention.ms": "5000"})]))
    assert len(admin.list_topics(timeout=TIMEOUT_S).topics[topic].partitions) == 3
    assert config_of(admin, topic)["retention.ms"].value == "5000"
    result_of(admin.create_partitions([NewPartitions(topic, 5)]))
    assert len(admin.list_topics(timeout=TIMEOUT_S).topics[topic].partitions) == 5
    with pytest.raises(KafkaException, match="exists already, with 5 partitions"):
        result_of(admin.create_topics([NewTopic(topic, 3, 1)]))
    result_of(admin.delete_topics([topic]))
    assert topic not in admin.list_topics(timeout=TIMEOUT_S).topics


def test_what_cannot_be_created_is_refused_in_words(admin: AdminClient, topic: str) -> None:
    for wrong, why in (
        (NewTopic(topic, 1, 9), "replication"),
        (NewTopic(topic, 1, 1, config={"retention.msss": "1"}), "the nearest known one is retention.ms"),
        (NewTopic("no/name", 1, 1), "no/name"),
    ):
        with pytest.raises(KafkaException, match=why):
            result_of(admin.create_topics([wrong]))
    assert topic not in admin.list_topics(timeout=TIMEOUT_S).topics


def test_settings_are_changed_one_by_one_and_as_a_whole(admin: AdminClient, topic: str) -> None:
    result_of(admin.create_topics([NewTopic(topic, 1, 1, config={"retention.ms": "5000", "segment.ms": "7000"})]))
    change = ConfigResource(
        ConfigResource.Type.TOPIC,
        topic,
        incremental_configs=[
            ConfigEntry("retention.ms", None, incremental_operation=AlterConfigOpType.DELETE),
            ConfigEntry("cleanup.policy", "compact", incremental_operation=AlterConfigOpType.APPEND),
        ],
    )
    result_of(admin.incremental_alter_configs([change]))
    found = config_of(admin, topic)
    assert (found["segment.ms"].value, found["cleanup.policy"].value) == ("7000", "compact,delete")
    assert found["retention.ms"].value != "5000"
    with pytest.warns(DeprecationWarning, match="alter_configs"):
        result_of(admin.alter_configs([ConfigResource(ConfigResource.Type.TOPIC, topic, {"segment.ms": "8000"})]))
    found = config_of(admin, topic)
    assert (found["segment.ms"].value, found["cleanup.policy"].value) == ("8000", "delete")


def test_groups_are_listed_described_and_deleted(
    admin: AdminClient, client_of: Callable[[str], Client], topic: str
) -> None:
    client = client_of("confluent-kafka")
    client.produce(topic, [b"a", b"b"])
    client.consume(topic, 2, topic)
    assert topic in [group.group_id for group in admin.list_consumer_groups().result(TIMEOUT_S).valid]
    described = result_of(admin.describe_consumer_groups([topic]))
    assert (described.state.name, described.members) == ("EMPTY", [])
    result_of(admin.delete_consumer_groups([topic]))
    assert topic not in [group.group_id for group in admin.list_consumer_groups().result(TIMEOUT_S).valid]


@pytest.fixture
def two_times(broker: Broker, topic: str) -> tuple[int, int]:
    """The times of two halves of a topic's ten records, ms since 1970."""
    now = time.time_ns() // 1_000_000
    early, late = now - 60_000, now - 10_000
    producer = Producer({"bootstrap.servers": broker.kafka_bootstrap})
    for number in range(10):
        producer.produce(topic, b"%d" % number, partition=0, timestamp=early if number < 5 else late)
    assert producer.flush(TIMEOUT_S) == 0
    return early, late


def test_offsets_are_found_by_time(broker: Broker, admin: AdminClient, topic: str, two_times: tuple[int, int]) -> None:
    early, late = two_times
    partition = TopicPartition(topic, 0)
    for spec, offset in (
        (OffsetSpec.earliest(), 0),
        (OffsetSpec.latest(), 10),
        (OffsetSpec.for_timestamp(early), 0),
        (OffsetSpec.for_timestamp(early + 1), 5),
        (OffsetSpec.for_timestamp(late + 1), -1),
        (OffsetSpec.max_timestamp(), 5),
    ):
        assert result_of(admin.list_offsets({partition: spec})).offset == offset, spec
    consumer = Consumer({"bootstrap.servers": broker.kafka_bootstrap, "group.id": topic})
    (found,) = consumer.offsets_for_times([TopicPartition(topic, 0, late)], timeout=TIMEOUT_S)
    consumer.assign([found])
    assert consumer.consume(1, TIMEOUT_S)[0].value() == b"5"
    consumer.close()


@unclosed_sockets()
def test_kafka_python_seeks_by_time(broker: Broker, topic: str, two_times: tuple[int, int]) -> None:
    from kafka import KafkaConsumer
    from kafka import TopicPartition as Partition

    consumer = KafkaConsumer(bootstrap_servers=broker.kafka_bootstrap)
    partition = Partition(topic, 0)
    consumer.assign([partition])
    assert consumer.beginning_offsets([partition]) == {partition: 0}
    assert consumer.end_offsets([partition]) == {partition: 10}
    found = consumer.offsets_for_times({partition: two_times[1]})[partition]
    consumer.seek(partition, found.offset)
    records: list[Any] = []
    while not records:
        records = consumer.poll(1000).get(partition, [])
    assert records[0].value == b"5"
    consumer.close()


@pytest.mark.usefixtures("two_times")
def test_records_are_deleted(admin: AdminClient, topic: str) -> None:
    deleted = result_of(admin.delete_records([TopicPartition(topic, 0, 4)]))
    assert deleted.low_watermark == 4
    assert result_of(admin.list_offsets({TopicPartition(topic, 0): OffsetSpec.earliest()})).offset == 4


def test_bad_records_are_refused(broker: Broker, admin: AdminClient, topic: str) -> None:
    config = {"cleanup.policy": "compact", "max.message.bytes": "2000"}
    result_of(admin.create_topics([NewTopic(topic, 1, 1, config=config)]))
    errors: list[Any] = []
    producer = Producer({"bootstrap.servers": broker.kafka_bootstrap, "enable.idempotence": False, "retries": 0})
    producer.produce(topic, b"no key", on_delivery=lambda error, _: errors.append(error))
    producer.flush(TIMEOUT_S)
    producer.produce(topic, b"x" * 3000, key=b"k", on_delivery=lambda error, _: errors.append(error))
    producer.flush(TIMEOUT_S)
    assert [error.name() for error in errors] == ["INVALID_RECORD", "MSG_SIZE_TOO_LARGE"]
    assert result_of(admin.list_offsets({TopicPartition(topic, 0): OffsetSpec.latest()})).offset == 0


@unclosed_sockets()
def test_topics_are_deleted_by_id_and_groups_that_are_not_known_are_dead(broker: Broker, topic: str) -> None:
    from kafka.protocol.admin import DeleteTopicsRequest, DescribeGroupsRequest
    from kafka.protocol.metadata import FindCoordinatorRequest, MetadataRequest

    asked = Bare(broker.kafka_bootstrap)
    made = asked.call(MetadataRequest(version=9, topics=[MetadataRequest.MetadataRequestTopic(name=topic)]))
    assert made.topics[0].name == topic
    (found,) = asked.call(
        MetadataRequest(version=12, topics=[MetadataRequest.MetadataRequestTopic(topic_id=None, name=topic)])
    ).topics
    named = DeleteTopicsRequest.DeleteTopicState(name=None, topic_id=found.topic_id)
    unknown = DeleteTopicsRequest.DeleteTopicState(name=None, topic_id=UUID(int=5))
    gone = asked.call(DeleteTopicsRequest(version=6, topics=[named, unknown], timeout_ms=10_000)).responses
    assert [(each.topic_id, each.error_code) for each in gone] == [(found.topic_id, 0), (UUID(int=5), 100)]
    found_at = asked.call(FindCoordinatorRequest(version=3, key="nobody", key_type=0))
    assert (found_at.error_code, found_at.node_id) == (0, 1)
    (group,) = asked.call(DescribeGroupsRequest(version=5, groups=["nobody"])).groups
    assert (group.error_code, group.group_state) == (0, "Dead")
    asked.close()


@pytest.mark.parametrize(("indexes", "code"), [([0, 1], 0), ([0, 2], 39), ([1, 1], 39)])
def test_topics_placed_by_hand_have_each_partition_once(
    broker: Broker, topic: str, indexes: list[int], code: int
) -> None:
    from kafka.protocol.admin import CreateTopicsRequest

    wanted = CreateTopicsRequest.CreatableTopic(
        name=topic,
        num_partitions=-1,
        replication_factor=-1,
        assignments=[
            CreateTopicsRequest.CreatableTopic.CreatableReplicaAssignment(partition_index=index, broker_ids=[1])
            for index in indexes
        ],
        configs=[],
    )
    asked = Bare(broker.kafka_bootstrap)
    (result,) = asked.call(CreateTopicsRequest(version=5, topics=[wanted], timeout_ms=10_000)).topics
    assert result.error_code == code, result.error_message
    asked.close()


class Bare:
    """A connection for single requests, by kafka-python's own messages."""

    def __init__(self, bootstrap: str) -> None:
        from kafka.protocol.parser import KafkaProtocol

        host, _, port = bootstrap.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=TIMEOUT_S)
        self._protocol = KafkaProtocol(client_id="bare")

    def call(self, request: Any) -> Any:
        self._protocol.send_request(request)
        self._socket.sendall(self._protocol.send_bytes())
        while True:
            for _, response in self._protocol.receive_bytes(self._socket.recv(65536)):
                return response

    def close(self) -> None:
        self._socket.close()
