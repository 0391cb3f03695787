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
_RETRY_MS = 100.0


class MarkAgain(Message):
    """The time has come to try a marker again that was not written."""

    writer: Any
    number: int
    partition: tuple[str, int]


class _Ending:
    """A transaction of which some partitions have no marker yet."""

    def __init__(self, transaction: Transaction) -> None:
        self.transaction = transaction
        self.left = dict(transaction.partitions)


class Markers:
    """The transactions that one coordinator is ending, in one of its lives."""

    def __init__(self, coordinator: Coordinator, leader_epoch: int, on_done: Callable[[Transaction], None]) -> None:
        self._coordinator = coordinator
        self._epoch = leader_epoch
        self._on_done = on_done
        self._made = 0
        self._endings: dict[int, _Ending] = {}

    def end(self, transaction: Transaction) -> None:
        """Write the markers of a transaction whose outcome is committed."""
        self._made += 1
        ending = self._endings[self._made] = _Ending(transaction)
        for partition in list(ending.left):
            self._mark(self._made, ending, partition)
        self._look(self._made, ending)

    def _mark(self, number: int, ending: _Ending, partition: tuple[str, int]) -> None:
        coordinator, transaction = self._coordinator, ending.transaction
        call = (MARKER, self, number, partition)
        command = WriteMarker(
            coordinator.actor_ref,
            call,
            0,
            transaction.producer_id,
            transaction.producer_epoch,
            transaction.state is State.PREPARE_COMMIT,
            self._epoch,
            transaction.number,
        )
        address = coordinator_address(*partition) if partition[0] == OFFSETS_TOPIC else partition_address(*partition)
        if not tell_leader(coordinator.context, coordinator.reactor, address, command):
            self._later(number, ending, partition, f"nobody serves {address} at the moment")

    def again(self, message: MarkAgain) -> None:
        """Try once more."""
        ending = self._endings.get(message.number)
        if message.writer is self and ending is not None:
            self._mark(message.number, ending, message.partition)
            self._look(message.number, ending)

    def answered(self, message: Answer | Refusal) -> None:
        """Take the answer of a partition's leader."""
        _, writer, number, partition = message.call
        ending = self._endings.get(number)
        if writer is not self or ending is None:
            return
        error = _error_of(message)
        name = f"{partition[0]}-{partition[1]}"
        if error is None:
            ending.left.pop(partition, None)
        elif isinstance(error, InvalidProducerEpochError):
            logger.warning("%s needs no marker of %s: %s", name, _who(ending), error.message)
            ending.left.pop(partition, None)
        elif isinstance(error, TransactionCoordinatorFencedError):
            logger.warning("%s is left to another coordinator: %s", _who(ending), error.message)
            del self._endings[number]
            return
        else:
            self._later(number, ending, partition, error.message)
        self._look(number, ending)

    def _later(self, number: int, ending: _Ending, partition: tuple[str, int], why: str) -> None:
        coordinator = self._coordinator
        topic = coordinator.context.image.topics.get(partition[0])
        if topic is None or partition[1] >= len(topic.partitions):
            logger.info("%s-%d is deleted, and needs no marker of %s", *partition, _who(ending))
            ending.left.pop(partition, None)
            return
        logger.info("%s-%d has no marker of %s yet: %s", *partition, _who(ending), why)
        message = MarkAgain(self, number, partition)
        coordinator.reactor.call_later(_RETRY_MS, partial(coordinator.reactor.tell, coordinator.address, message))

    def _look(self, number: int, ending: _Ending) -> None:
        if not ending.left and self._endings.pop(number, None) is not None:
            self._on_done(ending.transaction)


def marker_append(command: WriteMarker, leader_epoch: int, now_ms: int) -> Append:
    """The append that writes a marker into the log of a partition."""
    marker = Marker(command.committed, command.coordinator_epoch, command.transaction)
    batch = encode_marker(command.producer_id, command.producer_epoch, marker, now_ms)
    return Append(command.reply_to, command.call, command.index, batch, ACKS_ALL, leader_epoch)


def _who(ending: _Ending) -> str:
    return f"transactional id {ending.transaction.transactional_id!r}"


def _error_of(message: Answer | Refusal) -> BrokerError | None:
    if isinstance(message, Refusal):
        return message.error
    body: Any = message.body
    return error_for(body.error_code, body.error_message) if body.error_code else None
