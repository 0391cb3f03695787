"""A bare client: one DEALER, one thread, no state but the correlation id; what it costs is next to nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

import zmq
from zmqbroker.log.records import encode_batch
from zmqbroker.transport.envelope import convert_body, encode_request, split_reply
from zmqbroker.transport.messages import (
    LATEST,
    ApiVersionsRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    FetchReply,
    FetchRequest,
    ListOffsetsReply,
    ListOffsetsRequest,
    MetadataRequest,
    NewTopic,
    NodeStatusReply,
    NodeStatusRequest,
    PartitionData,
    PartitionFetch,
    PartitionTimestamp,
    ProduceReply,
    ProduceRequest,
)

from .basics import wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zmqbroker.transport.message_base import Body, Request

B = TypeVar("B")

TIMEOUT_SECONDS = 30.0
RECONNECT_MS = 2
WINDOW = 64
"""Requests that await their answers while a log is filled."""


class RawClient:
    """Requests of the native protocol. A connection that fails is tried again every 2 ms, and nothing is sent again."""

    def __init__(self, address: str) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        self._socket.connect(address)
        self._last_id = 0

    def close(self) -> None:
        """Disconnect."""
        self._socket.close(0)
        self._context.term()

    def send(self, request: Request, batches: Sequence[bytes] = ()) -> int:
        """Send one request; its correlation id."""
        self._last_id += 1
        self._socket.send_multipart([encode_request(request, self._last_id), *batches])
        return self._last_id

    def receive(self, reply: type[B], seconds: float = TIMEOUT_SECONDS) -> tuple[B, list[bytes]]:
        """The next answer, which has to be of this type. Raises TimeoutError, or RuntimeError if it is an error."""
        if not self._socket.poll(seconds * 1000):
            message = f"the broker did not answer within {seconds:g} s"
            raise TimeoutError(message)
        frames = self._socket.recv_multipart()
        raw = split_reply(frames[0])
        if raw.error_code:
            message = f"the broker answered error {raw.error_code}: {raw.error_message}"
            raise RuntimeError(message)
        return convert_body(raw.body, reply), frames[1:]

    def call(self, request: Request, reply: type[B], seconds: float = TIMEOUT_SECONDS) -> tuple[B, list[bytes]]:
        """Send one request and wait for its answer."""
        self.send(request)
        return self.receive(reply, seconds)

    # ---- requests

    def wait_ready(self, seconds: float = TIMEOUT_SECONDS) -> None:
        """Wait for the answer to a Metadata request, which is on its way as soon as somebody listens.

        Who greets is not heard again before the node serves clients.
        """
        self.call(ApiVersionsRequest("bench", "zmqbroker-bench"), ApiVersionsRequest.REPLY, seconds)
        self.call(MetadataRequest([]), MetadataRequest.REPLY, seconds)

    def status(self) -> NodeStatusReply:
        """How the node is."""
        return self.call(NodeStatusRequest(), NodeStatusReply)[0]

    def create_topic(self, name: str, **configs: str) -> None:
        """Create a topic of one partition; configs with underscores for dots."""
        pairs = [(key.replace("_", "."), value) for key, value in configs.items()]
        body = self.call(CreateTopicsRequest([NewTopic(name, 1, 1, pairs)], 10_000), CreateTopicsRequest.REPLY)[0]
        _raise_if_refused(body)
        wait_for(lambda: self._end_or_error(name) == 0, f"topic {name}")

    def delete_topic(self, name: str) -> None:
        """Delete a topic and its records."""
        _raise_if_refused(self.call(DeleteTopicsRequest([name], 10_000), DeleteTopicsRequest.REPLY)[0])

    def end_offset(self, topic: str) -> int:
        """Where readers of the topic's only partition may read up to."""
        end = self._end_or_error(topic)
        if end < 0:
            message = f"the end of {topic} is not known: error {-end}"
            raise RuntimeError(message)
        return end

    def _end_or_error(self, topic: str) -> int:
        reply = self.call(ListOffsetsRequest([PartitionTimestamp(topic, 0, LATEST)]), ListOffsetsReply)[0]
        entry = reply.partitions[0]
        return -entry.error_code if entry.error_code else entry.offset

    def fetch(self, topic: str, offset: int, max_bytes: int = 1 << 20) -> bytes:
        """The batches from an offset on, as soon as it may be read."""
        wait_ms = int(TIMEOUT_SECONDS * 500)
        request = FetchRequest(wait_ms, 1, max_bytes, [PartitionFetch(topic, 0, offset, max_bytes)])
        reply, frames = self.call(request, FetchReply)
        if reply.partitions[0].error_code:
            message = f"fetching {topic} at {offset} failed: {reply.partitions[0].error_message}"
            raise RuntimeError(message)
        return frames[0]

    def fill(self, topic: str, total_bytes: int, *, value_bytes: int, batch_bytes: int, acks: int = 1) -> int:
        """Produce about so many bytes in equal batches, many in flight; how many records."""
        now_ms = int(time.time() * 1000)
        count = max(1, batch_bytes // (value_bytes + 10))
        batch = encode_batch([(now_ms, None, bytes(value_bytes), [])] * count)
        request = ProduceRequest(acks, 30_000, [PartitionData(topic, 0)])
        batches = left = max(1, total_bytes // len(batch))
        in_flight = 0
        while left or in_flight:
            while left and in_flight < WINDOW:
                self.send(request, [batch])
                left -= 1
                in_flight += 1
            entry = self.receive(ProduceReply)[0].partitions[0]
            in_flight -= 1
            if entry.error_code:
                message = f"producing to {topic} failed: {entry.error_message}"
                raise RuntimeError(message)
        return count * batches


def _raise_if_refused(body: Body) -> None:
    for entry in body.topics:  # type: ignore[attr-defined]
        if entry.error_code:
            message = f"topic {entry.topic}: {entry.error_message}"
            raise RuntimeError(message)
