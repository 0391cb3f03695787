"""What `Producer.send` and its relatives cost the calling thread, stage by stage, with nothing at the other end.

Figures are nanoseconds a record of 100 bytes, the best of several rounds. "append" is `send` into a batch that never
fills; "with batches" closes, encodes and counts batches as a real run does, and discards them. The calibration lines
say how fast this machine is at the moment: compare ratios, not runs.
"""

import time
from collections.abc import Callable
from typing import Any

from zmqbroker import Producer
from zmqbroker.client import connection as connections
from zmqbroker.client.metadata import PartitionState
from zmqbroker.transport import messages as m

RECORDS = 200_000
ROUNDS = 7
VALUE = b"x" * 100


class NullConnection:
    """Takes every request and answers it in the same breath, as the fastest broker would."""

    is_backing_off = False
    is_usable = True
    is_called = False
    most_at_once = 1 << 30
    in_flight = 0
    address = "null"
    throttle_time_ms = 0

    def __init__(self, *, answers: bool = True) -> None:
        self.answers = answers
        self.held: list[Any] = []

    def submit(self, call: Any, now: float) -> None:
        """Answer a request, or keep it."""
        del now
        if not isinstance(call.request, m.ProduceRequest):
            call.done(connections.Answer(m.InitProducerIdReply(1, 0), []))
        elif self.answers:
            entries = [m.PartitionProduced(e.topic, e.partition, base_offset=0) for e in call.request.partitions]
            call.done(connections.Answer(m.ProduceReply(entries), []))
        else:
            self.held.append(call)

    def pump(self, now: float) -> int:
        """Nothing ever comes."""
        del now
        return 0

    def next_deadline(self) -> float:
        """Nothing is ever due."""
        return float("inf")

    def close(self) -> None:
        """Nothing to close."""


def make(connection: NullConnection, **settings: Any) -> Producer:
    """A producer that knows its topic and leader."""
    producer = Producer(**settings)
    io = producer.io
    with io.lock:
        io.connections["null"] = connection  # type: ignore[assignment]
        io.metadata.nodes = {1: "null"}
        io.metadata.topics = {"t": {number: PartitionState(1, 0) for number in range(4)}}
        io.metadata.version += 1
    return producer


def best(work: Callable[[], Any], records: int = RECORDS) -> float:
    """Nanoseconds a record."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times) / records * 1e9


def main() -> None:
    """Measure and print."""

    def nothing() -> None:
        for _ in range(RECORDS):
            pass

    def tuples() -> None:
        append = [].append
        for _ in range(RECORDS):
            append((time.time_ns() // 1_000_000, None, VALUE, ()))

    print(f"{'calibration: an empty loop':40} {best(nothing):7.0f}")
    print(f"{'calibration: a tuple with the time':40} {best(tuples):7.0f}")

    def send(producer: Producer) -> None:
        send_one = producer.send
        for _ in range(RECORDS):
            send_one("t", VALUE)

    def send_keyed(producer: Producer) -> None:
        send_one = producer.send
        keys = [b"key-%d" % number for number in range(1_000)] * (RECORDS // 1_000)
        for key in keys:
            send_one("t", VALUE, key)

    huge = {"batch_size": 2**31 - 1, "max_request_size": 2**31 - 1, "buffer_memory": 2**40, "acks": 1}
    producer = make(NullConnection(answers=False), **huge)
    producer.send("t", VALUE, partition=0)
    producer.send("t", VALUE)
    producer.send("t", VALUE)
    print(f"{'send: append':40} {best(lambda: send(producer)):7.0f}")

    # A null broker answers before Nagle could gather: linger makes the batches that a real run has.
    real = make(NullConnection(), acks=1, linger_ms=1000)
    print(f"{'send: with batches':40} {best(lambda: send(real)):7.0f}")
    print(f"{'send with keys: with batches':40} {best(lambda: send_keyed(real)):7.0f}")
    values = [VALUE] * RECORDS
    print(f"{'send_many: with batches':40} {best(lambda: real.send_many('t', values)):7.0f}")


if __name__ == "__main__":
    main()
