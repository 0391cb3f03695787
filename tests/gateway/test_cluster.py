"""A cluster and Kafka's clients: every node says where it is reached, any will do at first, leaders are followed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from zmqbroker.testing import LocalCluster

from .kafka_clients import CLIENTS

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
