"""Many bare connections of one process: one DEALER each, one context, one thread, and requests under way on all."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import zmq
from zmqbroker.log.records import encode_batch
from zmqbroker.transport.envelope import convert_body, encode_request, split_reply
from zmqbroker.transport.messages import PartitionData, ProduceReply, ProduceRequest

if TYPE_CHECKING:
    from rows.row import Measured

TIMEOUT_MS = 60_000
VALUE_BYTES = 100


class Swarm:
    """Connections that each keep so many Produce requests, of one record each, under way."""

    def __init__(self, address: str, topic: str, connections: int, depth: int) -> None:
        self._context = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, connections + 16)
        self._depth = depth
        self._sockets = [self._connect(address) for _ in range(connections)]
        now_ms = int(time.time() * 1000)
        request = ProduceRequest(1, 30_000, [PartitionData(topic, 0)])
        self._frames = [encode_request(request, 1), bytes(encode_batch([(now_ms, None, bytes(VALUE_BYTES), ())]))]

    def _connect(self, address: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.SNDHWM, 0),
            (zmq.RCVHWM, 0),
            (zmq.RCVTIMEO, TIMEOUT_MS),
        ):
            socket.setsockopt(option, value)
        socket.connect(address)
        return socket

    def fill(self) -> None:
        """Have an answer on each connection, then bring all requests under way."""
        for socket in self._sockets:
            socket.send_multipart(self._frames)
        for socket in self._sockets:
            self._check(socket.recv_multipart())
        for _ in range(self._depth):
            for socket in self._sockets:
                socket.send_multipart(self._frames)

    def run(self, seconds: float) -> Measured:
        """Take an answer of each connection and ask again, one connection after the other, for so long.

        All wait for whoever comes next, which costs nothing as long as the node serves them in turn.
        """
        count = 0
        begun = time.perf_counter()
        while (passed := time.perf_counter() - begun) < seconds:
            for socket in self._sockets:
                frames = socket.recv_multipart()
                socket.send_multipart(self._frames)
            count += len(self._sockets)
            self._check(frames)
        return {"requests": count, "seconds": passed}

    @staticmethod
    def _check(frames: list[bytes]) -> None:
        """See that a record was stored."""
        reply = split_reply(frames[0])
        problem = reply.error_message or convert_body(reply.body, ProduceReply).partitions[0].error_message
        if problem:
            message = f"the node refused a record: {problem}"
            raise RuntimeError(message)

    def close(self) -> None:
        """Disconnect all."""
        for socket in self._sockets:
            socket.close(0)
        self._context.term()
