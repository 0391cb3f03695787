"""Clients of one broker for tests of transactions: they are closed when a test ends, in whatever state they are."""

import time
from contextlib import suppress

from zmqbroker import Consumer, Producer, TopicPartition, errors

COMMITTED = "read_committed"
UNCOMMITTED = "read_uncommitted"


class Clients:
    """Makes clients of one broker, which are closed when the test ends."""

    def __init__(self, broker, topic, closing):
        self.topic = topic
        self.server = broker.bootstrap_servers
        self._closing = closing

    def plain_producer(self, **settings):
        return self._keep(Producer(bootstrap_servers=self.server, **settings))

    def producer(self, transactional_id=None, **settings):
        name = transactional_id or f"tx of {self.topic}"
        producer = self.plain_producer(transactional_id=name, **settings)
        producer.init_transactions()
        return producer

    def consumer(self, *topics, **settings):
        defaults = {"auto_offset_reset": "earliest", "isolation_level": COMMITTED, "enable_auto_commit": False}
        return self._keep(Consumer(*topics, bootstrap_servers=self.server, **{**defaults, **settings}))

    def partitions(self, topic=None):
        with self.consumer() as consumer:
            topic = topic or self.topic
            return [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]

    def settle(self, topic=None):
        """Wait until every transaction is ended in the topic: markers are written after the commit is answered."""
        partitions = self.partitions(topic)
        with self.consumer() as stable, self.consumer(isolation_level=UNCOMMITTED) as written:
            deadline = time.monotonic() + 30
            while stable.end_offsets(partitions) != written.end_offsets(partitions):
                assert time.monotonic() < deadline, "a transaction is still open"

    def read(self, isolation_level=COMMITTED, topic=None, *, settled=True):
        """All values of a topic up to its present end, by partition."""
        partitions = self.partitions(topic)
        if settled:
            self.settle(topic)
        with self.consumer(isolation_level=isolation_level) as consumer:
            consumer.assign(partitions)
            ends = consumer.end_offsets(partitions)
            values = {partition.partition: [] for partition in partitions}
            while any(consumer.position(partition) < end for partition, end in ends.items()):
                for partition, records in consumer.poll(100).items():
                    values[partition.partition] += [record.value for record in records]
        return values

    def read_all(self, isolation_level=COMMITTED, topic=None, *, settled=True):
        """All values, in order of partitions and offsets."""
        return [value for values in self.read(isolation_level, topic, settled=settled).values() for value in values]

    def _keep(self, client):
        def close():
            with suppress(errors.ZmqBrokerError):  # a test may have left it in any state
                client.close()

        self._closing.callback(close)
        return client
