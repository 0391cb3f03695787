"""Verification: is what a producer sends part of its open transaction? The transaction's coordinator knows (KIP-890).

A request that comes late, of a transaction that has ended, would begin one that nobody ends. So the first batch of a
transaction in a partition waits until the transaction's coordinator has said that the partition is part of it. A marker
that comes meanwhile makes that answer void, since it may be about the transaction that the marker ends; it is asked
again then.
"""

from __future__ import annotations

import itertools
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import (
    BrokerError,
    InvalidProducerEpochError,
    InvalidTxnStateError,
    NotEnoughReplicasError,
    ProducerFencedError,
)
from ..groups.partitioning import group_partition
from ..log.transactions import NO_TRANSACTION
from ..transport.internal_topics import TRANSACTION_STATE_TOPIC
from ..transport.peer_messages import VerifyTransactionReply
from .commands import Answer, Append, Refusal, VerifyTransaction
from .context import coordinator_address
from .elsewhere import tell_leader

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..log.batch import BatchHeader
    from ..log.partition_log import PartitionLog
    from .actor import ReactorActor
    from .context import NodeContext
    from .replica_log import ReplicaLog
    from .timers import Timer

_ASK_AGAIN_MS = 2000.0
VERIFY = "verify"
"""Of a call: the answer is for the Verifier of the actor."""


class Producer(NamedTuple):
    """Who says that it has a transaction open."""

    transactional_id: str
    producer_id: int
    producer_epoch: int


class _Question:
    """One that is not answered yet."""

    __slots__ = ("is_void", "producer", "then", "timer")

    def __init__(self, producer: Producer, then: Callable[[int | BrokerError], None]) -> None:
        self.producer = producer
        self.then = then
        self.is_void = False
        self.timer: Timer | None = None


class Verifier:
    """Asks the coordinators of transactions about one partition, for the actor that has it."""

    def __init__(self, context: NodeContext, actor: ReactorActor, topic: str, partition: int) -> None:
        self._context = context
        self._actor = actor
        self._place = (topic, partition)
        self._numbers = itertools.count()
        self._open: dict[int, _Question] = {}

    def ask(self, producer: Producer, then: Callable[[int | BrokerError], None]) -> None:
        """Ask, and go on with the number of the open transaction that the partition is part of, or with an error."""
        self._send(_Question(producer, then))

    def _send(self, question: _Question) -> None:
        number = next(self._numbers)
        self._open[number] = question
        self._put(number, question)

    def _put(self, number: int, question: _Question) -> None:
        transactional_id = question.producer.transactional_id
        topic = self._context.image.topics.get(TRANSACTION_STATE_TOPIC)
        if topic is None:
            message = f"transactional id {transactional_id!r} has no producer: call InitProducerId first"
            self._close(number)
            question.then(InvalidTxnStateError(message))
            return
        address = coordinator_address(TRANSACTION_STATE_TOPIC, group_partition(transactional_id, len(topic.partitions)))
        command = VerifyTransaction(self._actor.actor_ref, (VERIFY, self, number), 0, *question.producer, *self._place)
        question.timer = self._actor.reactor.call_later(_ASK_AGAIN_MS, partial(self._ask_again, number))
        if not tell_leader(self._context, self._actor.reactor, address, command):
            self._close(number)
            message = f"transactional id {transactional_id!r} has no coordinator at the moment: try again"
            question.then(NotEnoughReplicasError(message))

    def _ask_again(self, number: int) -> None:
        """Its node may hang, and another one coordinate the transaction since; the first answer counts."""
        question = self._open.get(number)
        if question is not None:
            self._put(number, question)

    def _close(self, number: int) -> _Question | None:
        question = self._open.pop(number, None)
        if question is not None and question.timer is not None:
            question.timer.cancel()
        return question

    def marked(self, producer_id: int) -> None:
        """A marker of this producer has come: what is answered from now on was perhaps asked before."""
        for question in self._open.values():
            if question.producer.producer_id == producer_id:
                question.is_void = True

    def answered(self, message: Answer | Refusal) -> None:
        """Take a coordinator's answer; one that was asked by the verifier of an earlier leadership is void."""
        _, verifier, number = message.call
        question = self._close(number) if verifier is self else None
        if question is None:
            return
        if question.is_void:
            question.is_void = False
            self._send(question)
        elif isinstance(message, Answer):
            assert isinstance(message.body, VerifyTransactionReply), message
            question.then(message.body.transaction)
        elif message.error.retriable:
            why = f"the coordinator of transactional id {question.producer.transactional_id!r}: {message.error.message}"
            # As Kafka's: what all producers take for a reason to send the same again.
            question.then(NotEnoughReplicasError(why))
        else:
            question.then(message.error)

    def forget(self) -> None:
        """Nobody waits for answers any more."""
        for number in list(self._open):
            self._close(number)


class Verification:
    """The transactional batches of one leader, on their way to be staged."""

    def __init__(self, replica: ReplicaLog, log: PartitionLog, stage: Callable[[Append, BatchHeader], Any]) -> None:
        self._replica = replica
        self._log = log
        self._stage = stage
        self._verifier = Verifier(replica.context, replica, replica.topic, replica.partition)
        self._waiting: dict[Producer, deque[tuple[Append, BatchHeader]]] = {}
        """All of a producer wait behind its first, as they have to be stored in their order."""
        self._ending: set[int] = set()
        """Producers whose marker is staged and not written yet: the log still says that their transaction is open."""
        self.answered = self._verifier.answered

    def take(self, command: Append, header: BatchHeader) -> None:
        """Stage a batch, at once if its transaction is known here to be open. Raises InvalidTxnStateError."""
        if command.transactional_id is None:
            message = f"a batch for {self._replica.name} is transactional, and its request has no transactional id"
            raise InvalidTxnStateError(message)
        entry = self._log.producers.get(header.producer_id)
        if entry is not None and header.producer_epoch < entry.epoch:
            message = f"epoch {header.producer_epoch} of producer {header.producer_id} is fenced by epoch {entry.epoch}"
            raise InvalidProducerEpochError(message)
        producer = Producer(command.transactional_id, header.producer_id, header.producer_epoch)
        waiting = self._waiting.get(producer)
        if waiting is not None:
            waiting.append((command, header))
            return
        if self._is_open(header) and header.producer_id not in self._ending:
            self._stage(command, header)
            return
        self._waiting[producer] = deque([(command, header)])
        self._verifier.ask(producer, lambda outcome: self._verified(producer, outcome))

    def _is_open(self, header: BatchHeader) -> bool:
        entry = self._log.producers.get(header.producer_id)
        return entry is not None and entry.open_at != NO_TRANSACTION and entry.epoch == header.producer_epoch

    def _verified(self, producer: Producer, outcome: int | BrokerError) -> None:
        entry = self._log.producers.get(producer.producer_id)
        if isinstance(outcome, int) and entry is not None and outcome <= entry.transaction:
            message = (
                f"the coordinator of {producer.transactional_id!r} calls transaction {outcome} open, and"
                f" {self._replica.name} has the end of {entry.transaction}: another node coordinates it by now"
            )
            outcome = NotEnoughReplicasError(message)
        if isinstance(outcome, ProducerFencedError):
            outcome = InvalidProducerEpochError(outcome.message)  # the name that leaders have for it, as Kafka's
        for command, header in self._waiting.pop(producer):
            if isinstance(outcome, BrokerError):
                self._replica.refuse_append(command, outcome)
            else:
                self._stage(command, header)

    def marked(self, producer_id: int) -> None:
        """A marker is about to be written."""
        self._verifier.marked(producer_id)
        self._ending.add(producer_id)

    def written(self) -> None:
        """What was staged is in the log."""
        self._ending.clear()

    def end(self) -> list[Append]:
        """Lead no more; the batches that wait."""
        self._verifier.forget()
        waiting, self._waiting = self._waiting, {}
        return [command for queue in waiting.values() for command, _ in queue]
