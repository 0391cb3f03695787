"""A client of a torture, in a process of its own: a producer, a reader, or a member of a group, until SIGTERM.

    python tests/faults/torture_client.py produce --servers ... --topic ... --partitions 4 --number 1 --log FILE

What its log looks like is said in torture_log.py.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from argparse import ArgumentParser
from collections import deque
from contextlib import suppress

from torture_log import (
    ACKED,
    CONFIRMED,
    DELIVERED,
    FAILED,
    GROUP,
    MEMBER_COMMIT,
    MEMBER_READ,
    OUTCOME,
    READ,
    SHARED,
    UNKNOWN,
    VALUE,
    value_of,
)
from zmqbroker import Consumer, Producer, ShareConsumer, TopicPartition
from zmqbroker.errors import (
    BufferTimeoutError,
    InvalidRecordError,
    InvalidRecordStateError,
    MessageTooLargeError,
    ZmqBrokerError,
)

NOT_STORED = (InvalidRecordError, MessageTooLargeError, BufferTimeoutError)
DELIVERY_MS = 60_000
SESSION_MS = 6_000


def complain(text):
    """A line on standard error, which is a file."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Client:
    """What both have."""

    def __init__(self, args):
        self.args = args
        self.file = os.open(args.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.stopping = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: self.stopping.set())


class Writer(Client):
    """Sends numbered records to each partition in turn."""

    def __init__(self, args):
        super().__init__(args)
        self._outcomes = deque()

    def run(self):
        args = self.args
        producer = Producer(
            bootstrap_servers=args.servers,
            acks="all",
            delivery_timeout_ms=DELIVERY_MS,
            request_timeout_ms=args.request_timeout_ms,
            client_id=f"writer-{args.number}",
        )
        sent = 0
        with producer:
            while not self.stopping.wait(args.pause_ms / 1000):
                for _ in range(args.burst):
                    for partition in range(args.partitions):
                        self._send(producer, partition, sent)
                    sent += 1
                self._write()
            try:
                producer.flush(DELIVERY_MS / 1000 + 5)
            except ZmqBrokerError as error:
                complain(f"flush: {type(error).__name__}: {error}")
        self._write()

    def _send(self, producer, partition, number):
        key = b"%d" % self.args.number
        try:
            future = producer.send(
                self.args.topic, value_of(self.args.number, partition, number), key, partition=partition
            )
        except ZmqBrokerError as error:
            self._failed(partition, number, error)
            return
        future.add_callback(self._stored, number)
        future.add_errback(self._failed, partition, number)

    def _stored(self, number, metadata):
        self._outcomes.append((ACKED, metadata.partition, number, metadata.offset, time.monotonic_ns()))

    def _failed(self, partition, number, error):
        complain(f"partition {partition}, number {number}: {type(error).__name__}: {error}")
        # A retriable refusal may follow on an attempt whose answer was lost: only the client's own word says more.
        is_certain = isinstance(error, NOT_STORED) or "they are not stored" in str(error)
        self._outcomes.append((FAILED if is_certain else UNKNOWN, partition, number, -1, time.monotonic_ns()))

    def _write(self):
        ready = [self._outcomes.popleft() for _ in range(len(self._outcomes))]
        os.write(self.file, b"".join([OUTCOME.pack(*outcome) for outcome in ready]))


class Member(Client):
    """Reads as a member of a group, and commits what it has read."""

    def run(self):
        args = self.args
        with Consumer(
            args.topic,
            bootstrap_servers=args.servers,
            group_id=args.group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=SESSION_MS // 4,
            client_id=f"member-{args.number}",
        ) as consumer:
            while not self.stopping.is_set():
                try:
                    found = consumer.poll(timeout_ms=200)
                    self._note(MEMBER_READ, [(p.partition, r[0].offset, r[-1].offset) for p, r in found.items()])
                    if found:
                        offsets = {partition: records[-1].offset + 1 for partition, records in found.items()}
                        consumer.commit(offsets, timeout_ms=SESSION_MS)
                        self._note(MEMBER_COMMIT, [(p.partition, offset, offset) for p, offset in offsets.items()])
                except ZmqBrokerError as error:
                    complain(f"{type(error).__name__}: {error}")
                    self.stopping.wait(0.05)

    def _note(self, kind, what):
        os.write(self.file, b"".join([GROUP.pack(kind, *fields) for fields in what]))


class Worker(Client):
    """Takes records out of the topic as a queue, and acknowledges each."""

    def __init__(self, args):
        super().__init__(args)
        self._refused = []
        self._asked_at = 0

    def run(self):
        args = self.args
        with ShareConsumer(
            args.topic,
            bootstrap_servers=args.servers,
            group_id=f"{args.group}-queue",
            acknowledgement_mode="explicit",
            on_acknowledge_error=lambda partition, _error, ranges: self._refused.append((partition, ranges)),
            client_id=f"worker-{args.number}",
        ) as consumer:
            while not self.stopping.is_set():
                try:
                    self._work(consumer)
                except ZmqBrokerError as error:
                    complain(f"{type(error).__name__}: {error}")
                    self.stopping.wait(0.05)

    def _work(self, consumer):
        now = time.monotonic_ns()
        records = consumer.poll(timeout_ms=200)
        if not records:
            return
        # Leased at the earliest when the records before them were handed out: since then they have been asked for.
        self._note(DELIVERED, records, self._asked_at)
        self._asked_at = now
        self._refused.clear()
        said = []
        for record in records:
            with suppress(InvalidRecordStateError):  # its lease has ended
                consumer.acknowledge(record)
                said.append(record)
        with suppress(InvalidRecordStateError):  # what was refused is known by then
            consumer.commit()
        refused = {
            (partition, offset)
            for partition, ranges in self._refused
            for first, last in ranges
            for offset in range(first, last + 1)
        }
        confirmed = [record for record in said if (record.topic_partition, record.offset) not in refused]
        self._note(CONFIRMED, confirmed, time.monotonic_ns())

    def _note(self, kind, records, at):
        os.write(self.file, b"".join([SHARED.pack(kind, r.partition, r.offset, at) for r in records]))


class Reader(Client):
    """Reads all partitions from their beginnings, and until their ends when it is told to stop."""

    def run(self):
        args = self.args
        partitions = [TopicPartition(args.topic, partition) for partition in range(args.partitions)]
        with Consumer(
            bootstrap_servers=args.servers,
            auto_offset_reset="earliest",
            request_timeout_ms=args.request_timeout_ms,
            client_id=f"reader-{args.number}",
        ) as consumer:
            consumer.assign(partitions)
            while not self.stopping.is_set():
                self._poll(consumer)
            ends = consumer.end_offsets(partitions)
            deadline = time.monotonic() + 30
            while any(consumer.position(partition) < end for partition, end in ends.items()):
                if time.monotonic() > deadline:
                    complain("the ends were not reached in time")
                    sys.exit(1)
                self._poll(consumer)

    def _poll(self, consumer):
        try:
            found = consumer.poll(timeout_ms=100)
        except ZmqBrokerError as error:
            complain(f"poll: {type(error).__name__}: {error}")
            self.stopping.wait(0.1)
            return
        lines = []
        for partition, records in found.items():
            for record in records:
                producer, _, number = VALUE.unpack_from(record.value)
                lines.append(READ.pack(partition.partition, record.offset, producer, number))
        os.write(self.file, b"".join(lines))


def main():
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("produce", "read", "join", "work"))
    parser.add_argument("--group", default="torture")
    parser.add_argument("--servers", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--partitions", type=int, required=True)
    parser.add_argument("--number", type=int, required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--pause-ms", type=float, default=10.0, help="between two rounds over the partitions")
    parser.add_argument("--burst", type=int, default=1, help="records of a partition in one round")
    parser.add_argument("--request-timeout-ms", type=int, default=30_000)
    args = parser.parse_args()
    {"produce": Writer, "read": Reader, "join": Member, "work": Worker}[args.what](args).run()


if __name__ == "__main__":
    sys.exit(main())
