"""Paths of a node: a batch through its leader, a message between actors, an envelope."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

from zmqbroker.actors.actor import ReactorActor
from zmqbroker.actors.reactor import Reactor
from zmqbroker.clock import SystemClock
from zmqbroker.log.partition_log import PartitionLog
from zmqbroker.log.records import encode_batch
from zmqbroker.log.staging import Appended
from zmqbroker.log.validation import check_batch
from zmqbroker.settings import TopicConfig
from zmqbroker.simulation.disk import MemoryDisk
from zmqbroker.transport.envelope import (
    convert_body,
    decode_request,
    encode_reply,
    encode_request,
    split_reply,
    split_request,
)
from zmqbroker.transport.messages import PartitionData, PartitionProduced, ProduceReply, ProduceRequest

from .client_paths import NOW_MS, TOPIC, VALUE
from .work import Path, Work

if TYPE_CHECKING:
    from contextlib import ExitStack

RECORDS: Final = 1_000
BATCHES: Final = 5
TURN: Final = 64
TURNS: Final = 7
PAGE_BYTES: Final = 4096
PLACES: Final = 13
ENVELOPES: Final = 70


def append(closing: ExitStack) -> Work:
    """What a leader does with a batch, on the simulator's disk, in a log that is new in each slice.

    Not on the real disk: the page cache would take the same write in as steady a time, but a fifth of the figure would
    then be the kernel's, another on each file system, and not this code's. The log is new in each slice so that it gets
    memory again whose pages the process has already.
    """
    config = TopicConfig()
    made = bytes(encode_batch([(NOW_MS, None, VALUE, ())] * RECORDS))
    spacings = cycle(range(0, PAGE_BYTES, PAGE_BYTES // PLACES))
    kept: list[Any] = []

    def let_go() -> None:
        if kept:
            kept[0].abandon()
            kept.clear()

    def prepare() -> None:
        let_go()
        # Copying costs more between some pairs of addresses than between others: each slice has another pair.
        spacing = bytes(next(spacings))
        batch = bytes(memoryview(made))
        kept.extend((PartitionLog.open(MemoryDisk(), "guarded-0", config, now_ms=NOW_MS), batch, spacing))

    def run() -> None:
        log, batch, _ = kept
        for _ in range(BATCHES):
            header = check_batch(batch, config, now_ms=NOW_MS)
            (result,) = log.append([(header, batch)], leader_epoch=0, now_ms=NOW_MS)
            assert isinstance(result, Appended), result

    closing.callback(let_go)
    return Work(run, prepare)


class Sink(ReactorActor):
    """Takes what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def on_receive(self, message: Any) -> None:
        """Add it up."""
        self.taken += message


class NoPoller:
    """There is nothing to wait for."""

    def wait(self, timeout_ms: float | None) -> None:
        """Return at once."""

    def wake(self) -> None:
        """Wake nobody."""

    def close(self) -> None:
        """Nothing is held."""


def actor(closing: ExitStack) -> Work:
    """Messages from the reactor's own thread, a turn's worth at a time, without the sockets' poll of each pass."""
    reactor = Reactor(SystemClock(), NoPoller())
    sink = reactor.spawn(Sink, address="sink")
    closing.callback(reactor.abort)
    reactor.run_pass()

    def run() -> None:
        tell = sink.tell
        for _ in range(TURNS):
            for _ in range(TURN):
                tell(1)
            reactor.run_pass()

    return Work(run)


def envelope(_closing: ExitStack) -> Work:
    """A Produce request and its reply: each encoded once and decoded once, with its body checked."""
    request = ProduceRequest(1, 30_000, [PartitionData(TOPIC, number, 3) for number in range(4)])
    reply = ProduceReply([PartitionProduced(TOPIC, number, base_offset=number) for number in range(4)])

    def run() -> None:
        for number in range(ENVELOPES):
            decode_request(split_request(encode_request(request, number)))
            convert_body(split_reply(encode_reply(request.API, number, reply)).body, ProduceReply)

    return Work(run)


PATHS = (
    Path(
        "append",
        "one batch of 1,000 records of 100 B through the leader: check_batch and PartitionLog.append",
        BATCHES,
        append,
    ),
    Path("actor", "one message told to an actor and handled", TURNS * TURN, actor),
    Path("envelope", "one Produce request of four partitions and its reply, encoded and decoded", ENVELOPES, envelope),
)
