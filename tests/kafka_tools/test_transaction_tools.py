"""Kafka's own tools and transactions: what they show of them, and their clients that write and read in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zmqbroker.testing import BrokerProcess

TOOLS = "org.apache.kafka.tools"
TIMEOUT_S = 60.0


@pytest.fixture
def at(broker: BrokerProcess) -> tuple[str, str]:
    """The words that name the broker."""
    return "--bootstrap-server", broker.kafka_bootstrap


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return request.node.name.replace("_", "-")


@pytest.fixture
def writer(broker: BrokerProcess, topic: str) -> Iterator[Producer]:
    """A producer with an open transaction, in which a record is written."""
    producer = Producer({"bootstrap.servers": broker.kafka_bootstrap, "transactional.id": topic})
    producer.init_transactions(TIMEOUT_S)
    producer.begin_transaction()
    producer.produce(topic, b"open", partition=0)
    assert producer.flush(TIMEOUT_S) == 0
    yield producer
    producer.abort_transaction(TIMEOUT_S)


def rows(shown: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    return [line.split() for line in shown.splitlines()[1:]]


def test_transactions_are_listed_and_described(
    java: Callable[..., str], at: tuple[str, str], topic: str, writer: Producer
) -> None:
    del writer  # its transaction is what is shown
    command = f"{TOOLS}.TransactionsCommand"
    (listed,) = [row for row in rows(java(command, *at, "list")) if row[0] == topic]
    assert listed[3] == "Ongoing"
    (described,) = rows(java(command, *at, "describe", "--transactional-id", topic))
    assert described[1] == topic
    assert described[2] == listed[2], "the producer id"
    assert described[4] == "Ongoing"
    assert described[-1] == f"{topic}-0"
    producers = rows(java(command, *at, "describe-producers", "--topic", topic, "--partition", "0"))
    assert [row[0] for row in producers] == [listed[2]]
    assert producers[0][-1] == "0", "where the transaction begins"


def test_a_transaction_with_a_coordinator_is_not_found_hanging(
    java: Callable[..., str], at: tuple[str, str], topic: str, writer: Producer
) -> None:
    del writer
    command = (f"{TOOLS}.TransactionsCommand", *at, "find-hanging", "--max-transaction-timeout", "0")
    assert rows(java(*command, "--broker-id", "1")) == []
    assert rows(java(*command, "--topic", topic)) == []


def test_the_performance_producer_writes_in_transactions(java: Callable[..., str], at: tuple[str, str]) -> None:
    topic, count = "performance-in-transactions", "5000"
    produced = java(
        f"{TOOLS}.ProducerPerformance", "--topic", topic, "--num-records", count, "--record-size", "100",
        "--throughput", "5000", "--transaction-duration-ms", "100", "--transactional-id", topic,
        "--producer-props", f"bootstrap.servers={at[1]}",
    )  # fmt: skip
    assert f"{count} records sent" in produced
    read = java(
        f"{TOOLS}.consumer.ConsoleConsumer", *at, "--topic", topic, "--from-beginning", "--max-messages", count,
        "--timeout-ms", "30000", "--isolation-level", "read_committed",
    )  # fmt: skip
    assert len(read.splitlines()) == int(count)
    listed = java(f"{TOOLS}.TransactionsCommand", *at, "list")
    assert [row[3] for row in rows(listed) if row[0] == topic] == ["CompleteCommit"]


def test_the_console_consumer_reads_what_is_committed(
    java: Callable[..., str], at: tuple[str, str], topic: str, writer: Producer
) -> None:
    writer.abort_transaction(TIMEOUT_S)
    writer.begin_transaction()
    writer.produce(topic, b"committed", partition=0)
    writer.commit_transaction(TIMEOUT_S)
    writer.begin_transaction()
    for isolation, wanted in (("read_committed", ["committed"]), ("read_uncommitted", ["open", "committed"])):
        read = java(
            f"{TOOLS}.consumer.ConsoleConsumer", *at, "--topic", topic, "--from-beginning",
            "--max-messages", str(len(wanted)), "--timeout-ms", "30000", "--isolation-level", isolation,
        )  # fmt: skip
        assert read.split() == wanted


def test_the_message_copier_copies_each_record_once_though_it_aborts_at_random(
    java: Callable[..., str], at: tuple[str, str], topic: str, broker: BrokerProcess
) -> None:
    """Consume, copy, produce: from a plain topic as a member of a group, and from there again by its partition."""
    values = [f"value-{number}" for number in range(2000)]
    java(f"{TOOLS}.ConsoleProducer", *at, "--topic", topic, given="\n".join(values) + "\n")
    names = [topic, f"{topic}-1", f"{topic}-2"]
    for source, target, how in (
        (*names[:2], ("--group-mode", "--use-group-metadata")),
        (*names[1:], ("--max-messages", str(len(values)))),
    ):
        java(
            f"{TOOLS}.TransactionalMessageCopier", "--broker-list", broker.kafka_bootstrap, "--input-topic", source,
            "--input-partition", "0", "--output-topic", target, "--consumer-group", target,
            "--transactional-id", target, "--transaction-size", "100", "--enable-random-aborts", *how,
        )  # fmt: skip
        read = java(
            f"{TOOLS}.consumer.ConsoleConsumer", *at, "--topic", target, "--from-beginning", "--timeout-ms", "3000",
            "--isolation-level", "read_committed",
        )  # fmt: skip
        assert read.split() == values
