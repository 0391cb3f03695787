"""A client that produces idempotently: retries with the same sequences, and a new epoch after a final failure."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from ..errors import (
    CorruptMessageError,
    DuplicateSequenceError,
    FencedLeaderEpochError,
    InvalidProducerEpochError,
    InvalidRecordError,
    MessageTooLargeError,
    NotEnoughReplicasError,
    OutOfOrderSequenceError,
    UnknownLeaderEpochError,
)
from ..log.batch import MAX_SEQUENCE
from ..log.plain_records import encode_batch
from ..transport.messages import (
    ACKS_ALL,
    InitProducerIdReply,
    InitProducerIdRequest,
    PartitionData,
    ProduceReply,
    ProduceRequest,
)
from .history import Fate, Sent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..transport.messages import PartitionProduced
    from .client import Outcome, SimClient
    from .history import History, Partition

_BACKOFF_MS = (20.0, 200.0)
_TIMEOUT_MS = 2_000
_DECIDED_BEFORE_APPEND = frozenset(
    error.code
    for error in (
        CorruptMessageError,
        FencedLeaderEpochError,
        InvalidProducerEpochError,
        InvalidRecordError,
        MessageTooLargeError,
        NotEnoughReplicasError,
        OutOfOrderSequenceError,
        UnknownLeaderEpochError,
    )
)
"""Errors after which this try has certainly appended nothing; any other leaves that open."""
STORED = DuplicateSequenceError.code
"""To a batch of which a try was not answered: it is stored, and so far back that nobody knows where. Another leader has
acked what came behind it, as its own answer was on the way.
"""
_FINAL = frozenset((OutOfOrderSequenceError.code, InvalidProducerEpochError.code))
_BAD_SHARE = 0.015
_ANEW_SHARE = 0.005
_FAR_SEQUENCE = 1_000_000


class _Batch:
    """Records that are sent together, with the sequence of their first."""

    def __init__(self, values: list[bytes], deadline_ms: float) -> None:
        self.values = values
        self.deadline_ms = deadline_ms
        self.sequence = -1
        self.in_flight = False
        self.in_doubt = False
        """A try that was not answered may have appended it."""


class _Lane:
    """What a producer has not settled of one partition, in order."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.batches: deque[_Batch] = deque()
        self.next_sequence = 0
        self.records = 0
        self.safe_epoch = -1
        """The newest in which something was acked that no later leader lacks: earlier ones are fenced for ever."""
        self.recovering = False
        """A try failed: wait until nothing is in flight, then send all again in order."""
        self.waiting = False

    @property
    def in_flight(self) -> int:
        return sum(batch.in_flight for batch in self.batches)


class ProducerWorkload:
    """One idempotent producer."""

    def __init__(
        self, client: SimClient, history: History, partitions: Sequence[Partition], *, all_acks: bool = True
    ) -> None:
        self.name = client.name
        self._client = client
        self._history = history
        self._random = random = client.world.stream(f"{client.name}/work")
        self._lanes = [_Lane(partition) for partition in partitions]
        self._acks = -1 if all_acks else random.choice((-1, 1))
        self._think_ms = random.choice((5.0, 20.0, 60.0))
        self._in_flight_max = random.choice((1, 2, 5))
        self._delivery_ms = random.choice((1_500.0, 8_000.0, 60_000.0, 60_000.0))
        self._value_bytes = random.choice((20, 200, 1000))
        self._producer_id = -1
        self._epoch = -1
        self._initialising = False
        self._quiet = False

    # ---- the workload

    def start(self) -> None:
        """Get a producer id, and begin."""
        self._initialise()
        self._tick()

    def quiesce(self) -> None:
        """Make no more records, and settle all that are made."""
        self._quiet = True
        for lane in self._lanes:
            for batch in lane.batches:
                batch.deadline_ms = float("inf")

    @property
    def busy(self) -> str:
        """Batches that are not settled."""
        left = sum(len(lane.batches) for lane in self._lanes)
        return f"{left} batches" if left else ""

    def _later(self, what: str, callback: object, delay_ms: float) -> None:
        assert callable(callback)
        self._client.world.later(delay_ms, f"{self.name} {what}", callback)

    def _tick(self) -> None:
        if self._quiet:
            return
        lane = self._random.choice(self._lanes)
        if self._epoch >= 0 and self._random.random() < _BAD_SHARE:
            self._send_bad(lane)
        elif self._epoch >= 0 and self._random.random() < _ANEW_SHARE:
            self._give_up()  # as a process that starts again, whose predecessor may still have something to say
        elif len(lane.batches) < 2 * self._in_flight_max:
            values = self._make(lane, self._random.choice((1, 1, 2, 5)))
            lane.batches.append(_Batch(values, self._client.world.now_ms + self._delivery_ms))
            self._pump(lane)
        self._later("think", self._tick, self._random.expovariate(1.0) * self._think_ms)

    def _make(self, lane: _Lane, count: int) -> list[bytes]:
        values = []
        for _ in range(count):
            label = f"{self.name}:{lane.partition[0]}-{lane.partition[1]}:{lane.records}:"
            value = label.encode().ljust(self._random.randint(1, self._value_bytes), b".")
            self._history.send(value, Sent(self.name, lane.records, lane.partition, self._acks))
            lane.records += 1
            values.append(value)
        return values

    # ---- sending

    def _pump(self, lane: _Lane) -> None:
        """Send what may be sent of a partition."""
        if self._initialising or lane.waiting:
            return
        if lane.recovering:
            if lane.in_flight:
                return
            lane.recovering = False
        if self._expired(lane):
            self._give_up()
            return
        leader = self._client.leader(*lane.partition)
        for batch in lane.batches:
            if lane.in_flight >= self._in_flight_max:
                return
            if batch.in_flight:
                continue
            if leader is None:
                self._wait(lane)
                return
            if batch.sequence < 0:
                batch.sequence = lane.next_sequence
                lane.next_sequence = (lane.next_sequence + len(batch.values)) & MAX_SEQUENCE
            self._send(lane, batch, leader)

    def _expired(self, lane: _Lane) -> bool:
        first = lane.batches[0] if lane.batches else None
        return first is not None and not first.in_flight and first.deadline_ms <= self._client.world.now_ms

    def _encode(self, values: list[bytes], epoch: int, sequence: int) -> bytes:
        # The broker refuses timestamps that are far from its own clock: 0 of CreateTime is accepted.
        records = [(0, None, value, ()) for value in values]
        return bytes(encode_batch(records, producer_id=self._producer_id, producer_epoch=epoch, base_sequence=sequence))

    def _send(self, lane: _Lane, batch: _Batch, leader: tuple[str, int]) -> None:
        batch.in_flight = True
        request = ProduceRequest(self._acks, _TIMEOUT_MS, [PartitionData(*lane.partition, leader[1])])
        data = self._encode(batch.values, self._epoch, batch.sequence)
        self._client.ask(leader[0], request, partial(self._produced, lane, batch), [data], 1.5 * _TIMEOUT_MS)

    def _produced(self, lane: _Lane, batch: _Batch, outcome: Outcome) -> None:
        batch.in_flight = False
        result = outcome.body.partitions[0] if isinstance(outcome.body, ProduceReply) else None
        if result is not None and (result.error_code == 0 or (result.error_code == STORED and batch.in_doubt)):
            self._acked(lane, batch, result)
            self._pump(lane)
            return
        code = result.error_code if result is not None else outcome.error.code if outcome.error is not None else None
        batch.in_doubt = batch.in_doubt or (outcome.sent and code not in _DECIDED_BEFORE_APPEND)
        lane.recovering = True
        what = result.error_message if result is not None else outcome.error or "no answer"
        self._client.world.show(self.name, f"{lane.partition} sequence {batch.sequence}: {code} {what}")
        if self._initialising:
            self._initialise_when_quiet()
        elif code in _FINAL and batch is lane.batches[0]:
            text = f"sequence {batch.sequence} of epoch {self._epoch} is refused for good: {result or outcome.error}"
            self._client.world.trace(self.name, text)
            self._give_up()
        else:
            self._wait(lane)

    def _acked(self, lane: _Lane, batch: _Batch, result: PartitionProduced) -> None:
        for earlier in lane.batches:
            if earlier is batch:
                break
            if not (earlier.in_flight or earlier.in_doubt):  # it may be stored: its answer is lost, or not here yet
                text = f"{lane.partition} took sequence {batch.sequence} of {self.name}, and refused {earlier.sequence}"
                self._client.world.violated("15", text)
        lane.batches.remove(batch)
        if self._acks == ACKS_ALL:
            lane.safe_epoch = self._epoch
        for position, value in enumerate(batch.values):
            offset = result.base_offset + position if result.base_offset >= 0 else -1
            self._history.settle(value, Fate.ACKED, offset)
        if self._initialising:
            self._initialise_when_quiet()

    def _wait(self, lane: _Lane) -> None:
        """Try again in a while, with new metadata."""
        if not lane.waiting:
            lane.waiting = True
            refresh = partial(self._client.refresh, partial(self._refreshed, lane))
            self._later("back-off", refresh, self._random.uniform(*_BACKOFF_MS))

    def _refreshed(self, lane: _Lane) -> None:
        lane.waiting = False
        self._pump(lane)

    # ---- epochs

    def _give_up(self) -> None:
        """A batch failed for good: settle all that was tried, and go on in a new epoch, whose sequences begin anew."""
        if not self._initialising:
            self._initialising = True
            self._initialise_when_quiet()

    def _initialise_when_quiet(self) -> None:
        if any(lane.in_flight for lane in self._lanes):
            return
        for lane in self._lanes:
            tried = [batch for batch in lane.batches if batch.sequence >= 0]
            for batch in tried:
                for value in batch.values:
                    self._history.settle(value, Fate.UNKNOWN if batch.in_doubt else Fate.FAILED)
            lane.batches = deque(batch for batch in lane.batches if batch.sequence < 0)
            lane.next_sequence = 0
            lane.recovering = False
        self._initialise()

    def _initialise(self) -> None:
        self._initialising = True
        request = InitProducerIdRequest(self._producer_id, self._epoch)
        self._client.ask(self._client.any_address(), request, self._initialised)

    def _initialised(self, outcome: Outcome) -> None:
        if not isinstance(outcome.body, InitProducerIdReply):
            self._later("back-off", self._initialise, self._random.uniform(*_BACKOFF_MS))
            return
        world, reply = self._client.world, outcome.body
        if reply.producer_id == self._producer_id and reply.producer_epoch <= self._epoch:
            world.violated("15", f"{self.name} was given epoch {reply.producer_epoch} after {self._epoch}")
        self._producer_id, self._epoch = reply.producer_id, reply.producer_epoch
        self._initialising = False
        self._history.note_producer(self._producer_id, self.name)
        world.trace(self.name, f"is producer {self._producer_id} in epoch {self._epoch}")
        for lane in self._lanes:
            self._pump(lane)

    # ---- what must be refused

    def _send_bad(self, lane: _Lane) -> None:
        """Send a batch that must be refused: a wrong CRC, a gap in the sequence, or an epoch that is over."""
        leader = self._client.leader(*lane.partition)
        if leader is None or not lane.next_sequence:
            return
        values = self._make(lane, 1)
        kinds = ("epoch", "epoch", "epoch", "crc", "gap") if 0 < self._epoch == lane.safe_epoch else ("crc", "gap")
        what = self._random.choice(kinds)
        if what == "epoch":
            # What comes next, or what begins an epoch: nothing but the epoch itself is wrong with it.
            data = self._encode(values, self._epoch - 1, self._random.choice((lane.next_sequence, 0)))
        elif what == "gap":
            data = self._encode(values, self._epoch, lane.next_sequence + _FAR_SEQUENCE)
        else:
            data = self._encode(values, self._epoch, lane.next_sequence)
            data = data[:-1] + bytes([data[-1] ^ 1])
        request = ProduceRequest(-1, _TIMEOUT_MS, [PartitionData(*lane.partition, leader[1])])
        self._client.ask(leader[0], request, partial(self._bad_refused, what, values[0]), [data])

    def _bad_refused(self, what: str, value: bytes, outcome: Outcome) -> None:
        result = outcome.body.partitions[0] if isinstance(outcome.body, ProduceReply) else None
        if result is not None and result.error_code == 0:
            self._client.world.violated("15", f"a batch with a bad {what} of {self.name} was accepted: {value!r}")
        self._history.settle(value, Fate.FAILED)  # whether it was refused or lost: it must never be read
