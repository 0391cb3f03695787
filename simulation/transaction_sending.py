"""The batches of a transactional producer: sent again and again with the same sequences, until all are acked."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import (
    CorruptMessageError,
    FencedLeaderEpochError,
    InvalidProducerEpochError,
    InvalidRecordError,
    InvalidTxnStateError,
    MessageTooLargeError,
    NotEnoughReplicasError,
    OutOfOrderSequenceError,
    ProducerFencedError,
    UnknownLeaderEpochError,
)
from ..log.batch import MAX_SEQUENCE
from ..log.plain_records import encode_batch
from ..transport.messages import ACKS_ALL, PartitionData, ProduceReply, ProduceRequest
from .history import Fate, Sent
from .producing import STORED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .client import Outcome, SimClient
    from .history import History, Partition
    from .transaction_history import Transaction

_BACKOFF_MS = (20.0, 200.0)
_TIMEOUT_MS = 2_000
_VALUE_BYTES = 200
FENCED = frozenset((InvalidProducerEpochError.code, ProducerFencedError.code))
"""Answers by which the producer has a successor, or its transaction has taken too long."""
_REFUSED = frozenset((OutOfOrderSequenceError.code, InvalidTxnStateError.code))
"""Answers after which the transaction has to be aborted, if they are about the first of what is left."""
DECIDED_BEFORE_APPEND = (
    frozenset(
        error.code
        for error in (
            CorruptMessageError,
            FencedLeaderEpochError,
            InvalidRecordError,
            MessageTooLargeError,
            NotEnoughReplicasError,
            UnknownLeaderEpochError,
        )
    )
    | FENCED
    | _REFUSED
)
"""Errors after which this try has certainly appended nothing; any other leaves that open."""


class Identity:
    """Who a producer is at the moment."""

    def __init__(self, transactional_id: str) -> None:
        self.transactional_id = transactional_id
        self.producer_id = -1
        self.epoch = -1

    @property
    def pair(self) -> tuple[int, int]:
        """Producer id and epoch."""
        return self.producer_id, self.epoch


class _Batch:
    """Records that are sent together, with the sequence of their first."""

    def __init__(self, values: Sequence[bytes]) -> None:
        self.values = values
        self.sequence = -1
        self.in_flight = False
        self.in_doubt = False
        """A try that was not answered may have appended it."""
        self.settled = False


class _Lane:
    """What is not acked of one partition, in order."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.batches: deque[_Batch] = deque()
        self.next_sequence = 0
        self.records = 0
        self.recovering = False
        """A try failed: wait until nothing is in flight, then send all again in order."""
        self.waiting = False

    @property
    def in_flight(self) -> int:
        return sum(batch.in_flight for batch in self.batches)


class Sender:
    """Sends the batches of one process. ``who`` may be changed while it is empty."""

    def __init__(
        self,
        client: SimClient,
        history: History,
        name: str,
        who: Identity,
        *,
        partitions: Sequence[Partition],
        patience_ms: float,
    ) -> None:
        self._client = client
        self._history = history
        self._name = name
        self._who = who
        self._patience_ms = patience_ms
        self._random = client.world.stream(f"{name}/sender")
        self._lanes = {partition: _Lane(partition) for partition in partitions}
        self._in_flight_max = self._random.choice((1, 2, 5))
        self._gives_up_share = self._random.choice((0.0, 0.9))
        """How often one that gets no answer has the transaction aborted."""
        self._resume: Callable[[Any], object] | None = None
        self.is_fenced = False
        self.is_refused = False

    def begin(self) -> None:
        """Another epoch: its sequences begin anew."""
        assert self.is_empty, "what was sent in one epoch is not sent in the next"
        self.is_fenced = self.is_refused = False
        for lane in self._lanes.values():
            lane.next_sequence = 0
            lane.recovering = False

    def make(self, transaction: Transaction, partition: Partition, count: int) -> list[bytes]:
        """Records for a partition, to be sent in the transaction."""
        lane, values = self._lanes[partition], []
        for _ in range(count):
            label = f"{transaction.process}:{transaction.number}:{partition[0]}-{partition[1]}:{lane.records}:"
            value = label.encode().ljust(self._random.randint(1, _VALUE_BYTES), b".")
            self._history.send(value, Sent(self._name, lane.records, partition, ACKS_ALL))
            self._history.transactions.send(transaction, value)
            lane.records += 1
            values.append(value)
        return values

    def encode(self, values: Sequence[bytes], sequence: int) -> bytes:
        """A batch of the present transaction."""
        # The broker refuses timestamps that are far from its own clock: 0 of CreateTime is accepted.
        producer_id, epoch = self._who.pair
        return encode_batch(
            [(0, None, value, ()) for value in values],
            producer_id=producer_id,
            producer_epoch=epoch,
            base_sequence=sequence,
            transactional=True,
        )

    def next_sequence(self, partition: Partition) -> int:
        """What a further batch would begin with."""
        return self._lanes[partition].next_sequence

    def send(self, transaction: Transaction, partition: Partition, count: int) -> None:
        """Make a batch, and send it again and again until it is acked."""
        lane = self._lanes[partition]
        lane.batches.append(_Batch(self.make(transaction, partition, count)))
        self._pump(lane)

    # ---- waiting for the end

    @property
    def is_empty(self) -> bool:
        """Whether everything is acked, or dropped."""
        return not any(lane.batches for lane in self._lanes.values())

    def settled(self, resume: Callable[[Any], object]) -> None:
        """Call back when everything is acked, or it is known that not all will be."""
        self._resume = resume
        self._tell()

    def _tell(self) -> None:
        resume = self._resume
        if resume is not None and (self.is_empty or self.is_fenced or self.is_refused):
            self._resume = None
            resume(None)

    def drop(self) -> bool:
        """Send nothing of what is left again; True if its sequences are used up, or it may still arrive."""
        used = False
        for lane in self._lanes.values():
            for batch in lane.batches:
                used = used or batch.sequence >= 0
                self._settle(batch, Fate.UNKNOWN if batch.in_doubt or batch.in_flight else Fate.FAILED)
            lane.batches.clear()
        return used

    def _settle(self, batch: _Batch, fate: Fate, base_offset: int = -1) -> None:
        batch.settled = True
        for position, value in enumerate(batch.values):
            self._history.settle(value, fate, base_offset + position if base_offset >= 0 else -1)

    # ---- sending

    def _pump(self, lane: _Lane) -> None:
        if lane.waiting or self.is_fenced or self.is_refused:
            return
        if lane.recovering:
            if lane.in_flight:
                return
            lane.recovering = False
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

    def _send(self, lane: _Lane, batch: _Batch, leader: tuple[str, int]) -> None:
        batch.in_flight = True
        who = self._who
        is_late = self._history.transactions.is_over(who.transactional_id, *who.pair)
        entry = PartitionData(*lane.partition, leader[1])
        request = ProduceRequest(ACKS_ALL, _TIMEOUT_MS, [entry], who.transactional_id)
        done = partial(self._produced, lane, batch, is_late)
        self._client.ask(leader[0], request, done, [self.encode(batch.values, batch.sequence)], self._patience_ms)

    def _produced(self, lane: _Lane, batch: _Batch, is_late: bool, outcome: Outcome) -> None:  # noqa: FBT001 - of a partial
        batch.in_flight = False
        result = outcome.body.partitions[0] if isinstance(outcome.body, ProduceReply) else None
        fine = result is not None and result.error_code == 0
        if fine and is_late:
            self._history.transactions.done_late(self._name, f"the append of {batch.values[0]!r}")
        if batch.settled:
            return
        if result is not None and (fine or (result.error_code == STORED and batch.in_doubt)):
            lane.batches.remove(batch)
            self._settle(batch, Fate.ACKED, result.base_offset)
            self._pump(lane)
            self._tell()
            return
        code = result.error_code if result is not None else outcome.error.code if outcome.error is not None else None
        batch.in_doubt = batch.in_doubt or (outcome.sent and code not in DECIDED_BEFORE_APPEND)
        what = result.error_message if result is not None else outcome.error or "no answer"
        self._client.world.show(self._name, f"{lane.partition} sequence {batch.sequence}: {code} {what}")
        lane.recovering = True
        if code in FENCED:
            self.is_fenced = True
            self._tell()
        elif (code in _REFUSED and batch is lane.batches[0]) or (code is None and self._gives_up()):
            self._client.world.trace(self._name, f"{lane.partition} sequence {batch.sequence} is given up: {what}")
            self.is_refused = True
            self._tell()
        else:
            self._wait(lane)

    def _gives_up(self) -> bool:
        return self._random.random() < self._gives_up_share

    def _wait(self, lane: _Lane) -> None:
        """Try again in a while, with new metadata."""
        if not lane.waiting:
            lane.waiting = True
            refresh = partial(self._client.refresh, partial(self._refreshed, lane))
            self._client.world.later(self._random.uniform(*_BACKOFF_MS), f"{self._name} back-off", refresh)

    def _refreshed(self, lane: _Lane) -> None:
        lane.waiting = False
        self._pump(lane)
