"""Paths of the clients: records into batches, and batches into records, with nothing at the other end."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from zmqbroker import Producer
from zmqbroker.client.connection import Answer
from zmqbroker.client.decoder import Decoder
from zmqbroker.client.fetcher import FetchedPartition
from zmqbroker.client.metadata import PartitionState
from zmqbroker.client.options import ConsumerOptions, ProducerOptions, make_options
from zmqbroker.client.types import TopicPartition
from zmqbroker.log.batch import stamp
from zmqbroker.log.records import encode_batch
from zmqbroker.transport import messages as m

from .work import Path, Work

if TYPE_CHECKING:
    from contextlib import ExitStack

TOPIC: Final = "guarded"
VALUE: Final = b"x" * 100
SENT: Final = 520
SENT_AT_ONCE: Final = 1_000
CALLS: Final = 1
PARTITIONS: Final = 4
BATCH_BYTES: Final = 32 * 1024
NOW_MS: Final = 1_700_000_000_000
BATCHES_FETCHED: Final = 8
RECORDS_A_BATCH: Final = 125
"""As many as a producer's default batch holds."""


class NullConnection:
    """Takes every request and answers it in the same breath, as the fastest broker would."""

    is_backing_off = is_called = False
    is_usable = True
    in_flight = throttle_time_ms = 0
    most_at_once = 2**31
    address = "null"

    def submit(self, call: Any, now: float) -> None:
        """Answer a request."""
        del now
        if isinstance(call.request, m.ProduceRequest):
            entries = [m.PartitionProduced(e.topic, e.partition, base_offset=0) for e in call.request.partitions]
            call.done(Answer(m.ProduceReply(entries), []))
        else:
            call.done(Answer(m.InitProducerIdReply(1, 0), []))

    def pump(self, now: float) -> int:
        """Nothing ever comes."""
        del now
        return 0

    def next_deadline(self) -> float:
        """Nothing is ever due."""
        return float("inf")

    def close(self) -> None:
        """Nothing to close."""


def _producer(closing: ExitStack) -> Producer:
    """A producer without a thread of its own, which would only disturb, that knows its topic and its leader.

    A null broker answers before Nagle could gather: linger makes the full batches that a real run has. Each slice ends
    with a flush: were a batch left open, some slices would encode one batch more than others.
    """
    settings = {"acks": 1, "linger_ms": 100_000, "batch_size": BATCH_BYTES, "delivery_timeout_ms": 1_000_000}
    producer = Producer.without_thread(make_options(ProducerOptions, settings))
    io: Any = producer.io
    with io.lock:
        io.connections["null"] = NullConnection()
        io.metadata.nodes = {1: "null"}
        io.metadata.topics = {TOPIC: {number: PartitionState(1, 0) for number in range(PARTITIONS)}}
        io.metadata.version += 1
    closing.callback(producer.shut)
    return producer


def send(closing: ExitStack) -> Work:
    """One record a call."""
    producer = _producer(closing)

    def run() -> None:
        send_one = producer.send
        for _ in range(SENT):
            send_one(TOPIC, VALUE)
        producer.flush()

    return Work(run)


def send_many(closing: ExitStack) -> Work:
    """A thousand records a call."""
    producer = _producer(closing)
    values = [VALUE] * SENT_AT_ONCE

    def run() -> None:
        for _ in range(CALLS):
            producer.send_many(TOPIC, values)
        producer.flush()

    return Work(run)


def decode(_closing: ExitStack) -> Work:
    """What a consumer makes of a fetch."""
    decoder = Decoder(make_options(ConsumerOptions, {}))
    frame = bytearray()
    for number in range(BATCHES_FETCHED):
        batch = bytearray(encode_batch([(NOW_MS, None, VALUE, ())] * RECORDS_A_BATCH))
        stamp(batch, number * RECORDS_A_BATCH, 0)
        frame += batch
    state = FetchedPartition(TopicPartition(TOPIC, 0), None)
    fetched = bytes(frame)

    def prepare() -> None:
        state.seek(0)
        state.buffer = deque([fetched])
        state.buffered_bytes = len(fetched)

    def run() -> None:
        chunk = decoder.decode(state, BATCHES_FETCHED * RECORDS_A_BATCH)
        assert chunk is not None
        assert chunk.left == BATCHES_FETCHED * RECORDS_A_BATCH, "every record comes out"

    return Work(run, prepare)


PATHS = (
    Path("send", "one record through Producer.send, with its share of closing and encoding its batch", SENT, send),
    Path("send_many", "one record of a thousand through Producer.send_many", CALLS * SENT_AT_ONCE, send_many),
    Path("decode", "one record out of a fetch, as a ConsumerRecord", BATCHES_FETCHED * RECORDS_A_BATCH, decode),
)
