"""Unmodified Kafka clients: the same jobs through each of them, and what one has written is read by every other."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import zmqbroker

from .kafka_clients import CLIENTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from zmqbroker.testing import Broker

    from .kafka_clients import Client

COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")
PYTHON = [name for name in CLIENTS if name != "kcat"]


def values(count: int, start: int = 0) -> list[bytes]:
    return [b"value-%d" % number for number in range(start, start + count)]


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_each_compression(name: str, compression: str, client_of: Callable[[str], Client], topic: str) -> None:
    client = client_of(name)
    client.produce(topic, values(50), compression=compression)
    found = client.consume(topic, 50, topic)
    assert sorted(record.value for record in found) == sorted(values(50))
    assert all(record.key == record.value for record in found)


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("acks", [0, 1, -1])
def test_each_acks(name: str, acks: int, client_of: Callable[[str], Client], topic: str) -> None:
    client = client_of(name)
    client.produce(topic, values(20), acks=acks)
    assert sorted(record.value for record in client.consume(topic, 20, topic)) == sorted(values(20))


@pytest.mark.parametrize("name", CLIENTS)
def test_a_group_goes_on_where_it_had_committed(name: str, client_of: Callable[[str], Client], topic: str) -> None:
    client = client_of(name)
    client.produce(topic, values(10))
    first = client.consume(topic, 10, topic)
    client.produce(topic, values(10, start=10))
    second = client.consume(topic, 10, topic)
    assert sorted(record.value for record in first) == sorted(values(10))
    assert sorted(record.value for record in second) == sorted(values(10, start=10))


def test_what_one_has_written_every_other_reads(broker: Broker, client_of: Callable[[str], Client], topic: str) -> None:
    names = list(CLIENTS)
    for number, name in enumerate(names):
        client_of(name).produce(topic, values(10, start=10 * number), compression="lz4")
    with zmqbroker.Producer(bootstrap_servers=broker.bootstrap_servers) as producer:
        for value in values(10, start=10 * len(names)):
            producer.send(topic, value, key=value)
    total = 10 * (len(names) + 1)
    partitions: dict[bytes, int] = {}
    for name in names:
        found = client_of(name).consume(topic, total, f"{topic}-{name}")
        assert sorted(record.value or b"" for record in found) == sorted(values(total)), name
        partitions.update({record.value or b"": record.partition for record in found})
    with zmqbroker.Consumer(
        topic, bootstrap_servers=broker.bootstrap_servers, group_id=f"{topic}-own", auto_offset_reset="earliest"
    ) as consumer:
        deadline, read = time.monotonic() + 30, {}
        while len(read) < total and time.monotonic() < deadline:
            for records in consumer.poll(500).values():
                read.update({record.value: record.partition for record in records})
    assert read == partitions, "records have the same partition for all"
