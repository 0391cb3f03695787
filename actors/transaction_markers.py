"""Markers: a transaction that is decided is written into each of its partitions, again and again until all have it."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import BrokerError, InvalidProducerEpochError, TransactionCoordinatorFencedError, error_for
from ..groups.transaction_records import State
from ..log.transactions import Marker, encode_marker
from ..transport.internal_topics import OFFSETS_TOPIC
from ..transport.messages import ACKS_ALL
from .commands import Answer, Append, Message, Refusal, WriteMarker
from .context import coordinator_address, partition_address
from .elsewhere import tell_leader

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..groups.transaction import Transaction
    from .coordinator import Coordinator

logger = logging.getLogger(__name__)

MARKER = "marker"
"""Of a call: the answer is for the Markers of the actor."""
_LOOK_MS = 100.0
"""How often partitions without their marker are looked at."""
_UNANSWERED_MS = 5000.0
_RETRY_MS, _RETRY_MAX_MS = 100.0, 2000.0
"""After a failure, and after many."""


class MarkAgain(Message):
    """The time has come to look at the partitions that have no marker yet."""

    writer: Any


class _Part:
    """A partition that has no marker yet."""

    __slots__ = ("failures", "leader", "next_ms", "why")

    def __init__(self) -> None:
        self.leader: tuple[int, int] | None = None
        """Whom a marker was sent to last."""
        self.failures = 0
        self.next_ms = 0.0
        """When another one is sent, to the same leader."""
        self.why = ""


class _Ending:
    """A transaction of which some partitions have no marker yet."""

    def __init__(self, transaction: Transaction) -> None:
        self.transaction = transaction
        self.left = {partition: _Part() for partition in transaction.partitions}

    def __str__(self) -> str:
        return f"transactional id {self.transaction.transactional_id!r}"


class Markers:
    """The transactions that one coordinator is ending, in one of its lives.

    A leader may hang, and another take its place, long before the answer to a marker is given up. So the partitions
    that are left are looked at now and then, and a new leader gets a marker at once: to write it twice does no harm.
    """

    def __init__(self, coordinator: Coordinator, leader_epoch: int, on_done: Callable[[Transaction], None]) -> None:
        self._coordinator = coordinator
        self._epoch = leader_epoch
        self._on_done = on_done
        self._made = 0
        self._endings: dict[int, _Ending] = {}
        self._looking = False

    def end(self, transaction: Transaction) -> None:
        """Write the markers of a transaction whose outcome is committed."""
        self._made += 1
        ending = self._endings[self._made] = _Ending(transaction)
        self._mark_left(self._made, ending)

    def again(self, message: MarkAgain) -> None:
        """Look at what is left."""
        if message.writer is self:
            self._looking = False
            for number, ending in list(self._endings.items()):
                self._mark_left(number, ending)

    def _mark_left(self, number: int, ending: _Ending) -> None:
        now_ms = self._coordinator.context.clock.monotonic_ms()
        for partition, part in list(ending.left.items()):
            leader = self._leader(partition)
            if leader is None:
                logger.info("%s-%d is deleted, and needs no marker of %s", *partition, ending)
                del ending.left[partition]
            elif leader != part.leader or now_ms >= part.next_ms:
                part.leader = leader
                part.next_ms = now_ms + _UNANSWERED_MS  # whoever takes it may fail over it, and not answer
                self._mark(number, ending, partition, part)
        if not ending.left:
            self._done(number, ending)
        elif not self._looking:
            self._looking = True
            coordinator = self._coordinator
            tell = partial(coordinator.reactor.tell, coordinator.address, MarkAgain(self))
            coordinator.reactor.call_later(_LOOK_MS, tell)

    def _leader(self, partition: tuple[str, int]) -> tuple[int, int] | None:
        """The leader of a partition and its epoch; None: there is no such partition."""
        topic = self._coordinator.context.image.topics.get(partition[0])
        if topic is None or partition[1] >= len(topic.partitions):
            return None
        state = topic.partitions[partition[1]]
        return state.leader, state.leader_epoch

    def _mark(self, number: int, ending: _Ending, partition: tuple[str, int], part: _Part) -> None:
        coordinator, transaction = self._coordinator, ending.transaction
        command = WriteMarker(
            coordinator.actor_ref,
            (MARKER, self, number, partition),
            0,
            transaction.producer_id,
            transaction.producer_epoch,
            transaction.state is State.PREPARE_COMMIT,
            self._epoch,
            transaction.number,
        )
        address = coordinator_address(*partition) if partition[0] == OFFSETS_TOPIC else partition_address(*partition)
        if not tell_leader(coordinator.context, coordinator.reactor, address, command):
            self._failed(ending, partition, part, f"nobody serves {address} at the moment")

    def answered(self, message: Answer | Refusal) -> None:
        """Take the answer of a partition's leader."""
        _, writer, number, partition = message.call
        ending = self._endings.get(number)
        part = None if ending is None else ending.left.get(partition)
        if writer is not self or ending is None or part is None:
            return
        error = _error_of(message)
        if error is None:
            del ending.left[partition]
        elif isinstance(error, InvalidProducerEpochError):
            logger.warning("%s-%d needs no marker of %s: %s", *partition, ending, error.message)
            del ending.left[partition]
        elif isinstance(error, TransactionCoordinatorFencedError):
            logger.warning("%s is left to another coordinator: %s", ending, error.message)
            del self._endings[number]
        else:
            self._failed(ending, partition, part, error.message)
        if not ending.left:
            self._done(number, ending)

    def _failed(self, ending: _Ending, partition: tuple[str, int], part: _Part, why: str) -> None:
        if why != part.why:
            part.why = why
            logger.info("%s-%d has no marker of %s yet: %s", *partition, ending, why)
        part.failures += 1
        wait_ms = min(_RETRY_MS * 2 ** min(part.failures - 1, 10), _RETRY_MAX_MS)
        part.next_ms = self._coordinator.context.clock.monotonic_ms() + wait_ms

    def _done(self, number: int, ending: _Ending) -> None:
        if self._endings.pop(number, None) is not None:
            self._on_done(ending.transaction)


def marker_append(command: WriteMarker, leader_epoch: int, now_ms: int) -> Append:
    """The append that writes a marker into the log of a partition."""
    marker = Marker(command.committed, command.coordinator_epoch, command.transaction)
    batch = encode_marker(command.producer_id, command.producer_epoch, marker, now_ms)
    return Append(command.reply_to, command.call, command.index, batch, ACKS_ALL, leader_epoch)


def _error_of(message: Answer | Refusal) -> BrokerError | None:
    if isinstance(message, Refusal):
        return message.error
    body: Any = message.body
    return error_for(body.error_code, body.error_message) if body.error_code else None
