"""A cluster and Kafka's clients: every node says where it is reached, any will do at first, leaders are followed."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from zmqbroker.testing import LocalCluster

from .kafka_clients import CLIENTS
from .kafka_transactions import PRODUCERS

if TYPE_CHECKING:
    from collections.abc import Iterator

PYTHON = [name for name in CLIENTS if name != "kcat"]
COUNT = 200


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(3, flags=["--set", "num.partitions=3", "--set", "log.level=WARNING"]) as found:
        yield found


def values(start: int = 0) -> list[bytes]:
    return [b"%d" % number for number in range(start, start + COUNT)]


@pytest.mark.parametrize("name", PYTHON)
@pytest.mark.parametrize("node_id", [1, 2, 3])
def test_clients_begin_at_any_node(name: str, node_id: int, cluster: LocalCluster) -> None:
    client = CLIENTS[name](cluster.nodes[node_id].kafka_bootstrap)
    topic = f"any-{name}-{node_id}"
    client.produce(topic, values())
    found = client.consume(topic, COUNT, topic)
    assert sorted(record.value or b"" for record in found) == sorted(values())
    assert {record.partition for record in found} == {0, 1, 2}


def test_every_node_is_told_with_its_own_address(cluster: LocalCluster) -> None:
    from confluent_kafka.admin import AdminClient

    for node in cluster.nodes.values():
        metadata = AdminClient({"bootstrap.servers": node.kafka_bootstrap}).list_topics(timeout=30)
        told = {broker.id: f"{broker.host}:{broker.port}" for broker in metadata.brokers.values()}
        assert told == {node_id: node.kafka_bootstrap for node_id, node in cluster.nodes.items()}


def test_what_was_acked_is_there_after_a_leader_was_killed(cluster: LocalCluster) -> None:
    client = CLIENTS["confluent-kafka"](cluster.kafka_bootstrap)
    client.produce("killed", values())
    cluster.nodes[3].kill()
    client.produce("killed", values(start=COUNT))
    found = client.consume("killed", 2 * COUNT, "killed")
    assert sorted(record.value or b"" for record in found) == sorted(values() + values(start=COUNT))
    cluster.start_node(3)
    again = client.consume("killed", 2 * COUNT, "killed-again")
    assert sorted(again) == sorted(found)


@pytest.mark.parametrize("name", PRODUCERS)
def test_transactions_have_their_coordinators_on_every_node(name: str, cluster: LocalCluster) -> None:
    topic = f"transactions-{name}"
    for number in range(6):  # ids with coordinators of their own, and partitions with other leaders
        with closing(PRODUCERS[name](cluster.nodes[1 + number % 3].kafka_bootstrap, f"{name}-{number}")) as producer:
            producer.begin()
            producer.send(topic, values(number * COUNT))
            (producer.abort if number % 2 else producer.commit)()
    found = CLIENTS[name](cluster.kafka_bootstrap).consume(topic, 3 * COUNT, topic, isolation="read_committed")
    wanted = [value for number in (0, 2, 4) for value in values(number * COUNT)]
    assert sorted(record.value or b"" for record in found) == sorted(wanted)


@pytest.mark.parametrize(
    ("name", "committed"), [("kafka-python", True), ("aiokafka", True), ("confluent-kafka", True), ("aiokafka", False)]
)
def test_a_transaction_outlives_each_node(name: str, cluster: LocalCluster, *, committed: bool) -> None:
    """Its coordinator is one of those that are killed while it is open, and so are the leaders that it wrote to."""
    topic = f"outlives-{name}-{committed}"
    with closing(PRODUCERS[name](cluster.kafka_bootstrap, topic, timeout_ms=300_000)) as producer:
        producer.begin()
        for node_id in cluster.nodes:
            producer.send(topic, values(node_id * COUNT))
            cluster.nodes[node_id].kill()
            cluster.start_node(node_id)
        (producer.commit if committed else producer.abort)()
        producer.begin()
        producer.send(topic, values())
        producer.commit()
    wanted = [value for number in ((0, *cluster.nodes) if committed else (0,)) for value in values(number * COUNT)]
    found = CLIENTS[name](cluster.kafka_bootstrap).consume(topic, len(wanted), topic, isolation="read_committed")
    assert sorted(record.value or b"" for record in found) == sorted(wanted)
