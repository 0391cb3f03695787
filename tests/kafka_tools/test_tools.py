"""Kafka's own command-line tools work against this broker as they are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import zmqbroker

if TYPE_CHECKING:
    from collections.abc import Callable

    from zmqbroker.testing import BrokerProcess

TOOLS = "org.apache.kafka.tools"


@pytest.fixture
def at(broker: BrokerProcess) -> tuple[str, str]:
    """The words that name the broker."""
    return "--bootstrap-server", broker.kafka_bootstrap


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return request.node.name.replace("_", "-")


def test_topics_are_created_described_grown_and_deleted(
    java: Callable[..., str], at: tuple[str, str], topic: str
) -> None:
    command = f"{TOOLS}.TopicCommand"
    created = java(
        command, *at, "--create", "--topic", topic, "--partitions", "3", "--replication-factor", "1",
        "--config", "retention.ms=100000",
    )  # fmt: skip
    assert f"Created topic {topic}." in created
    assert topic in java(command, *at, "--list").splitlines()
    described = java(command, *at, "--describe", "--topic", topic)
    assert "PartitionCount: 3" in described
    assert "retention.ms=100000" in described
    java(command, *at, "--alter", "--topic", topic, "--partitions", "5")
    assert "PartitionCount: 5" in java(command, *at, "--describe", "--topic", topic)
    java(command, *at, "--delete", "--topic", topic)
    assert topic not in java(command, *at, "--list").splitlines()


def test_settings_are_described_and_changed(java: Callable[..., str], at: tuple[str, str], topic: str) -> None:
    java(f"{TOOLS}.TopicCommand", *at, "--create", "--topic", topic)
    command, entity = "kafka.admin.ConfigCommand", ("--entity-type", "topics", "--entity-name", topic)
    java(command, *at, *entity, "--alter", "--add-config", "retention.ms=5000,cleanup.policy=compact")
    described = java(command, *at, *entity, "--describe")
    assert "retention.ms=5000" in described
    assert "cleanup.policy=compact" in described
    java(command, *at, *entity, "--alter", "--delete-config", "retention.ms")
    assert "retention.ms=5000" not in java(command, *at, *entity, "--describe")


def test_console_clients_and_groups(
    java: Callable[..., str], at: tuple[str, str], topic: str, broker: BrokerProcess
) -> None:
    java(f"{TOOLS}.ConsoleProducer", *at, "--topic", topic, given="a\nb\nc\n")
    read = java(
        f"{TOOLS}.consumer.ConsoleConsumer", *at, "--topic", topic, "--from-beginning", "--max-messages", "3",
        "--timeout-ms", "30000", "--group", topic,
    )  # fmt: skip
    assert sorted(read.split()) == ["a", "b", "c"]
    command = f"{TOOLS}.consumer.group.ConsumerGroupCommand"
    assert topic in java(command, *at, "--list").splitlines()
    described = java(command, *at, "--describe", "--group", topic)
    assert any(line.split()[:6] == [topic, topic, "0", "3", "3", "0"] for line in described.splitlines()), described
    reset = java(command, *at, "--group", topic, "--topic", topic, "--reset-offsets", "--to-earliest", "--execute")
    assert any(line.split()[:4] == [topic, topic, "0", "0"] for line in reset.splitlines()), reset
    java(command, *at, "--delete", "--group", topic)
    assert topic not in java(command, *at, "--list").splitlines()
    with zmqbroker.Consumer(topic, bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest") as own:
        found = [record.value for records in own.poll(10_000).values() for record in records]
    assert sorted(found) == [b"a", b"b", b"c"]


def test_the_performance_tools(java: Callable[..., str], at: tuple[str, str], topic: str) -> None:
    count = "20000"
    produced = java(
        f"{TOOLS}.ProducerPerformance", "--topic", topic, "--num-records", count, "--record-size", "100",
        "--throughput", "-1", "--producer-props", f"bootstrap.servers={at[1]}",
    )  # fmt: skip
    assert f"{count} records sent" in produced
    consumed = java(f"{TOOLS}.ConsumerPerformance", "--topic", topic, "--messages", count, *at, "--timeout", "30000")
    assert int(consumed.splitlines()[-1].split(",")[4]) >= int(count)


def test_the_verifiable_clients(java: Callable[..., str], at: tuple[str, str], topic: str) -> None:
    produced = java(f"{TOOLS}.VerifiableProducer", "--topic", topic, "--max-messages", "100", *at)
    told = [json.loads(line) for line in produced.splitlines() if line.startswith("{")]
    assert told[-1]["sent"] == told[-1]["acked"] == 100
    consumed = java(
        f"{TOOLS}.VerifiableConsumer", "--topic", topic, "--max-messages", "100", "--group-id", topic,
        "--reset-policy", "earliest", *at,
    )  # fmt: skip
    counts = [json.loads(line) for line in consumed.splitlines() if '"records_consumed"' in line]
    assert sum(entry["count"] for entry in counts) == 100


def test_offsets_log_dirs_and_the_quorum(java: Callable[..., str], at: tuple[str, str], topic: str) -> None:
    java(f"{TOOLS}.ConsoleProducer", *at, "--topic", topic, given="a\nb\n")
    assert f"{topic}:0:2" in java(f"{TOOLS}.GetOffsetShell", *at, "--topic", topic)
    folders = java(f"{TOOLS}.LogDirsCommand", *at, "--describe", "--topic-list", topic)
    (broker,) = json.loads(folders.splitlines()[-1])["brokers"]
    (partition,) = broker["logDirs"][0]["partitions"]
    assert (partition["partition"], partition["size"] > 0) == (f"{topic}-0", True)
    quorum = java(f"{TOOLS}.MetadataQuorumCommand", *at, "describe", "--status")
    assert "LeaderId:" in quorum
    assert "Cluster ID:" in java(f"{TOOLS}.ClusterTool", "cluster-id", *at)
