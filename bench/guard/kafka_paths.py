"""Paths of the Kafka listener: a Produce frame as it comes, a Fetch response as it leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from kafka.protocol.consumer import FetchRequest  # type: ignore[import-untyped]
from kafka.protocol.producer import ProduceRequest  # type: ignore[import-untyped]
from zmqbroker.gateway import data_apis
from zmqbroker.gateway.decoding import Cursor
from zmqbroker.gateway.exchange import Exchange, Outcome
from zmqbroker.gateway.fetch_session import FetchSession
from zmqbroker.gateway.protocol import APIS, FETCH, PRODUCE, codec, read_header
from zmqbroker.log.records import encode_batch
from zmqbroker.transport.messages import FetchReply, PartitionFetched

from .client_paths import NOW_MS, RECORDS_A_BATCH, TOPIC, VALUE
from .work import Path, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack

    from zmqbroker.errors import BrokerError
    from zmqbroker.transport.message_base import Request

PARTITIONS: Final = 4
FRAMES: Final = 16
RESPONSES: Final = 20


def _batch() -> bytes:
    return bytes(encode_batch([(NOW_MS, None, VALUE, ())] * RECORDS_A_BATCH))


def _frame(request: Any, key: int) -> bytes:
    """A request as the socket gives it, without its length, in the newest version that is offered."""
    request.API_VERSION = APIS[key].high
    request.with_header(correlation_id=7, client_id="guard")
    data: bytes = request.encode(version=APIS[key].high, header=True, framed=True)
    return data[4:]


def produce(_closing: ExitStack) -> Work:
    """Header and body, with a default batch for each of four partitions."""
    batch = _batch()
    partitions = [
        ProduceRequest.TopicProduceData.PartitionProduceData(index=number, records=batch)
        for number in range(PARTITIONS)
    ]
    topics = [ProduceRequest.TopicProduceData(name=TOPIC, partition_data=partitions)]
    frame = _frame(ProduceRequest(transactional_id=None, acks=-1, timeout_ms=30_000, topic_data=topics), PRODUCE)

    def run() -> None:
        for _ in range(FRAMES):
            header = read_header(frame)
            codec(header.api.key, header.version).read(Cursor(frame, header.body_at))

    return Work(run)


class FullLog:
    """The connection of an exchange, and a node behind it that has the same to answer to every fetch."""

    context: Any = None

    def __init__(self) -> None:
        self.fetch_session = FetchSession(1)
        entries = [
            PartitionFetched(TOPIC, number, high_watermark=1_000_000, last_stable_offset=1_000_000, log_start_offset=0)
            for number in range(PARTITIONS)
        ]
        self._outcome = Outcome(FetchReply(entries), [_batch()] * PARTITIONS, None)

    def ask(
        self, exchange: Exchange, request: Request, then: Callable[[Outcome], object], frames: Sequence[bytes] = ()
    ) -> None:
        """Answer at once."""
        del exchange, request, frames
        then(self._outcome)

    def answered(self, exchange: Exchange) -> None:
        """See that there is a response."""
        assert exchange.response_bytes > PARTITIONS * len(VALUE) * RECORDS_A_BATCH, "all batches are in the response"

    def disconnect(self, error: BrokerError) -> None:
        """Never: nothing is wrong."""
        raise error


def fetch(_closing: ExitStack) -> Work:
    """From the decoded request, through the fetch session, to the buffers of the response."""
    partitions = [
        FetchRequest.FetchTopic.FetchPartition(
            partition=number, current_leader_epoch=-1, fetch_offset=0, log_start_offset=-1, partition_max_bytes=1 << 20
        )
        for number in range(PARTITIONS)
    ]
    frame = _frame(
        FetchRequest(
            replica_id=-1,
            max_wait_ms=500,
            min_bytes=1,
            max_bytes=1 << 20,
            isolation_level=0,
            session_id=0,
            session_epoch=-1,
            topics=[FetchRequest.FetchTopic(topic=TOPIC, partitions=partitions)],
            forgotten_topics_data=[],
            rack_id="",
        ),
        FETCH,
    )
    header = read_header(frame)
    request = codec(FETCH, header.version).read(Cursor(frame, header.body_at))
    connection = FullLog()

    def run() -> None:
        for _ in range(RESPONSES):
            data_apis.fetch(Exchange(connection, header, request, len(frame)))

    return Work(run)


PATHS = (
    Path(
        "kafka_produce", "one Produce frame with batches for four partitions, decoded by the listener", FRAMES, produce
    ),
    Path("kafka_fetch", "one Fetch of four partitions, from its decoded request to its response", RESPONSES, fetch),
)
