"""Segments are Kafka's: its DumpLogSegments reads ours, and ours reads what a real Kafka broker has written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import zmqbroker
from zmqbroker.testing import BrokerProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from .kafka_server import KafkaBroker

COMPRESSIONS = ("none", "gzip", "snappy", "lz4", "zstd")
COUNT = 100


def test_kafka_reads_our_segments(java: Callable[..., str], tmp_path: Path) -> None:
    with BrokerProcess(data_dir=str(tmp_path / "ours")) as broker:
        for compression in COMPRESSIONS:
            with zmqbroker.Producer(
                bootstrap_servers=broker.bootstrap_servers, compression_type=compression
            ) as producer:
                for number in range(COUNT):
                    producer.send("t", b"value-%d" % number, key=b"key-%d" % number, headers=[("h", b"1")])
        broker.stop()
        (segment,) = Path(broker.data_dir).glob("t-0/*.log")
        dumped = java("kafka.tools.DumpLogSegments", "--files", str(segment), "--print-data-log")
    records = [line for line in dumped.splitlines() if "payload: value-" in line]
    assert len(records) == COUNT * len(COMPRESSIONS)
    assert "isvalid: true" in dumped
    assert "isvalid: false" not in dumped
    for compression in COMPRESSIONS[1:]:
        assert f"compresscodec: {compression}" in dumped


def test_we_read_kafka_s_segments(kafka: KafkaBroker, tmp_path: Path) -> None:
    from confluent_kafka import Producer

    for compression in COMPRESSIONS:
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "compression.type": compression})
        for number in range(COUNT):
            producer.produce("t", b"value-%d" % number, key=b"key-%d" % number, headers={"h": b"1"})
        assert producer.flush(60) == 0
    kafka.stop()
    with BrokerProcess(data_dir=str(tmp_path / "ours")) as broker:
        with zmqbroker.Admin(bootstrap_servers=broker.bootstrap_servers) as admin:
            admin.create_topics([zmqbroker.NewTopic("t", 1)])
        broker.stop()
        (segment,) = (kafka.data_dir / "t-0").glob("*.log")
        ours = Path(broker.data_dir) / "t-0"
        for old in ours.glob("0*"):
            old.unlink()
        shutil.copy(segment, ours / segment.name)
        broker.start()
        with zmqbroker.Consumer(
            "t", bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest"
        ) as consumer:
            found: list[tuple[bytes | None, bytes | None]] = []
            while records := consumer.poll(5_000):
                found += [(record.key, record.value) for each in records.values() for record in each]
    expected = [(b"key-%d" % number, b"value-%d" % number) for number in range(COUNT)]
    assert found == expected * len(COMPRESSIONS)
