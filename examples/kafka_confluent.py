"""Kafka's own client, unchanged, at a broker that starts in a tenth of a second: no JVM, no container.

A test of yours that needs Kafka can do the same: with `pip install zmqbroker` there is a pytest fixture, too.
"""

from __future__ import annotations

from argparse import ArgumentParser

from confluent_kafka import Consumer, Producer
from zmqbroker.testing import Broker


def main() -> None:
    """Write some records with confluent-kafka and read them in a group."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10)
    count = parser.parse_args().count
    with Broker() as broker:
        producer = Producer({"bootstrap.servers": broker.kafka_bootstrap, "enable.idempotence": True})
        for number in range(count):
            producer.produce("greetings", f"hello {number}".encode(), key=b"me")
        producer.flush(30)
        print(f"wrote {count} records through {broker.kafka_bootstrap}", flush=True)
        consumer = Consumer(
            {"bootstrap.servers": broker.kafka_bootstrap, "group.id": "readers", "auto.offset.reset": "earliest"}
        )
        consumer.subscribe(["greetings"])
        read = 0
        while read < count:
            for message in consumer.consume(count, timeout=1.0):
                read += 1
                value = (message.value() or b"").decode()
                print(f"read {value!r} at offset {message.offset()}", flush=True)
        consumer.close()
        producer.purge()


if __name__ == "__main__":
    main()
