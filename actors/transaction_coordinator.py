"""TransactionCoordinator: the transactional ids of one partition of ``__transaction_state``, as an actor (KIP-98).

The rules are groups/transaction_table.py's. This is where they meet time, the log, the controller, which gives producer
ids, and the partitions, which get markers once the outcome of a transaction is committed here.
"""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import (
    BrokerError,
    CoordinatorNotAvailableError,
    InvalidGroupIdError,
    InvalidProducerIdMappingError,
    InvalidTopicError,
    InvalidTxnStateError,
    ProducerFencedError,
)
from ..groups.effects import Now
from ..groups.partitioning import group_partition
from ..groups.transaction import NONE
from ..groups.transaction_table import TransactionTable
from ..quorum.internal_topics import check_not_internal, internal_topic
from ..transport import transaction_messages as t
from ..transport.internal_topics import OFFSETS_TOPIC, TRANSACTION_STATE_TOPIC
from ..transport.message_base import Body
from ..transport.messages import CreateTopicsRequest, InitProducerIdReply, InitProducerIdRequest
from ..transport.peer_messages import VerifyTransactionReply
from .calls import not_here
from .commands import (
    Answer,
    Command,
    ControllerCall,
    CoordinatorCall,
    EndWait,
    Message,
    Refusal,
    TopicGone,
    VerifyTransaction,
)
from .context import CONTROLLER
from .coordinator import Coordinator
from .transaction_markers import MARKER, MarkAgain, Markers

if TYPE_CHECKING:
    from ..groups.transaction import Transaction
    from ..transport.message_base import Request
    from .context import NodeContext

logger = logging.getLogger(__name__)

_FRESH_ID, _TOPIC = "fresh-id", "topic"
_CREATE_TIMEOUT_MS = 30_000
_FINAL = (InvalidProducerIdMappingError, InvalidTxnStateError, ProducerFencedError)
"""Errors after which a producer gives up."""


class Prepared(Message):
    """The outcome of a transaction is committed in the coordinator's log: markers may be written."""

    markers: Any
    transaction: Any


class TransactionCoordinator(Coordinator):
    """Coordinates the transactional ids that fall to this partition."""

    TOPIC: ClassVar[str] = TRANSACTION_STATE_TOPIC

    def __init__(self, context: NodeContext, partition: int) -> None:
        super().__init__(context, partition)
        self._numbers = itertools.count()
        self._handling: Command | None = None
        """What is being handled, to be answered if that fails."""
        self._begin()

    def _begin(self) -> None:
        self._table = TransactionTable(self.context.config)
        self._markers = Markers(self, NONE, self._ended)
        self._held: dict[int, CoordinatorCall] = {}
        """Requests that wait for the controller: for a fresh producer id, or for the topic of groups' offsets."""

    def _now(self) -> Now:
        clock = self.context.clock
        return Now(clock.monotonic_ms(), clock.wall_ms())

    # ---- the log

    def forget(self) -> None:
        """Forget everything; whoever waits has to ask again."""
        for call in self._held.values():
            self.refuse(call, CoordinatorNotAvailableError(f"{self.name} is read again: try again"))
        self._begin()

    def replay(self, key: bytes, value: bytes | None, offset: int) -> None:
        """Take one record of the log."""
        del offset
        self._table.replay(key, value)

    def loaded(self) -> None:
        """Go on with what was decided."""
        self._markers = Markers(self, self._leader_epoch, self._ended)
        self._table.loaded(self._now())
        self._carry_out()

    def _carry_out(self) -> None:
        """Append what has changed; what is decided is written into the partitions once that is committed."""
        table = self._table
        records, table.records = table.records, []
        for key, value in records:
            self.append(key, value)
        prepared, table.prepared = table.prepared, []
        for transaction in prepared:
            self.send(self.actor_ref, Prepared(self._markers, transaction))
        self.wake_at(table.deadline_ms())

    def _ended(self, transaction: Transaction) -> None:
        self._table.completed(transaction, self._now())
        self._carry_out()

    # ---- messages

    def handle(self, command: Command) -> None:
        """Handle a request, or a leader's question about a transaction."""
        self._handling = command
        try:
            self._handle_command(command)
        except _FINAL as error:
            self._confirm(command, error)
            self._handling = None
            raise
        except BrokerError:
            self._handling = None
            raise
        self._handling = None

    def _confirm(self, command: Command, error: BrokerError) -> None:
        """Have an error told only once a record is committed.

        A coordinator that was cut off, and has a successor without knowing it, would end good producers by what it does
        not know.
        """
        asked: Any = command if isinstance(command, VerifyTransaction) else getattr(command, "request", None)
        logger.info("transactional id %r: %s: %s", asked.transactional_id, error.name, error.message)
        self._table.confirm(asked.transactional_id)
        self._carry_out()

    def _handle_command(self, command: Command) -> None:
        if isinstance(command, VerifyTransaction):
            place = (command.topic, command.partition)
            number = self._table.verify(command.transactional_id, command.producer_id, command.producer_epoch, place)
            self.answer(command, VerifyTransactionReply(number))
            return
        assert isinstance(command, CoordinatorCall), command
        body = self._ask(command)
        self._carry_out()
        if isinstance(body, Body):
            self.answer(command, body)
        elif body is not None:
            self.refuse(command, body)

    def _ask(self, call: CoordinatorCall) -> Body | BrokerError | None:  # noqa: PLR0911 - one row for each request
        """The answer; None: it comes later."""
        table, now, request = self._table, self._now(), call.request
        match request:
            case InitProducerIdRequest():
                if table.check_init(request):
                    self._ask_controller(call, _FRESH_ID, InitProducerIdRequest())
                    return None
                return table.init(request, NONE, now)
            case t.AddPartitionsToTxnRequest():
                return table.add_partitions(request, self._problem_with, now)
            case t.AddOffsetsToTxnRequest():
                where = self._offsets_partition(request.group_id)
                if where is None:
                    self._ask_controller(call, _TOPIC, self._offsets_topic())
                    return None
                return t.AddOffsetsToTxnReply(table.add_offsets(request, where, now))
            case t.EndTxnRequest():
                table.end(request, now)
                return Body()
            case t.DescribeTransactionsRequest():
                return t.DescribeTransactionsReply([self._describe(each) for each in request.transactional_ids])
            case t.ListTransactionsRequest():
                return table.list_all(request, now)
            case _:
                assert False, f"{request!r} is not for a transaction coordinator"  # noqa: B011, PT015 - nobody routes it here

    def notice(self, message: Any) -> None:
        """Go on with an answer, or with what is committed now."""
        match message:
            case Prepared():
                if message.markers is self._markers:
                    self._markers.end(message.transaction)
            case MarkAgain():
                self._markers.again(message)
            case Answer(call=(kind, *_)) | Refusal(call=(kind, *_)) if kind == MARKER:
                self._markers.answered(message)
            case Answer(call=(kind, number)) | Refusal(call=(kind, number)) if kind == _FRESH_ID:
                call = self._held.pop(number, None)
                if call is not None:
                    self._got_id(call, message)
            case Answer(call=(kind, number)) | Refusal(call=(kind, number)) if kind == _TOPIC:
                call = self._held.pop(number, None)
                if call is not None:
                    self._got_topic(call, message)
            case EndWait() | TopicGone():
                pass  # nothing is held back for long, and a topic's end shows when a marker is to be written to it
            case _:
                super().notice(message)

    def tick(self, now_ms: float) -> None:
        """Abort what has taken too long, and forget what is old."""
        del now_ms
        for transactional_id in self._table.tick(self._now()):
            timeout_ms = self._table.transactions[transactional_id].timeout_ms
            logger.warning(
                "the transaction of %r is aborted, and its producer fenced: it was open for longer than its"
                " transaction.timeout.ms=%d",
                transactional_id,
                timeout_ms,
            )
            self.context.counters["transactions-timed-out"] += 1
        self._carry_out()

    def waiting(self) -> list[Command]:
        """Requests that are held back, and the one that could not be handled."""
        held: list[Command] = list(self._held.values())
        failed = self._handling
        return held if failed is None or any(failed is each for each in held) else [*held, failed]

    # ---- requests

    def _ask_controller(self, call: CoordinatorCall, kind: str, request: Request) -> None:
        number = next(self._numbers)
        self._held[number] = call
        question = ControllerCall(self.actor_ref, (kind, number), 0, request)
        told = self.reactor.tell(CONTROLLER, question)
        assert told, "a node without a controller has no coordinators"

    def _got_id(self, call: CoordinatorCall, message: Answer | Refusal) -> None:
        if isinstance(message, Refusal):
            why = f"no producer id can be had at the moment: {message.error.message}"
            self.refuse(call, CoordinatorNotAvailableError(why))
            return
        body, request = message.body, call.request
        assert isinstance(body, InitProducerIdReply), body
        assert isinstance(request, InitProducerIdRequest), request
        answer: Body | BrokerError
        try:
            self._table.check_init(request)  # another may have come first
            answer = self._table.init(request, body.producer_id, self._now())
        except BrokerError as error:
            self._confirm(call, error)
            answer = error
        self._carry_out()
        if isinstance(answer, Body):
            self.answer(call, answer)
        else:
            self.refuse(call, answer)

    def _problem_with(self, topic: str, partition: int) -> BrokerError | None:
        """Why a partition cannot be part of a transaction."""
        try:
            check_not_internal(topic, "write to it in a transaction")
        except InvalidTopicError as error:
            return error
        known = self.context.image.topics.get(topic)
        if known is None or partition >= len(known.partitions):
            return not_here(self.context, topic, partition)
        return None

    def _offsets_topic(self) -> CreateTopicsRequest:
        return CreateTopicsRequest([internal_topic(OFFSETS_TOPIC, self.context.config)], _CREATE_TIMEOUT_MS)

    def _got_topic(self, call: CoordinatorCall, message: Answer | Refusal) -> None:
        """The topic of groups' offsets is there, as far as this node knows by now, whoever made it."""
        if OFFSETS_TOPIC in self.context.image.topics:
            self._handle(call)
            return
        why = message.error.message if isinstance(message, Refusal) else repr(message.body)
        self.refuse(call, CoordinatorNotAvailableError(f"{OFFSETS_TOPIC} could not be made: {why}"))

    def _offsets_partition(self, group_id: str) -> tuple[str, int] | None:
        """Where a group's offsets are kept; None: the first group of all is meant, and nothing is there yet.

        Kafka's clients look for the group's coordinator, which makes the topic, only after they have added the offsets.
        """
        if not group_id:
            message = "the group id is empty; a group needs a name"
            raise InvalidGroupIdError(message)
        topic = self.context.image.topics.get(OFFSETS_TOPIC)
        return None if topic is None else (OFFSETS_TOPIC, group_partition(group_id, len(topic.partitions)))

    def _describe(self, transactional_id: str) -> t.TransactionDescription:
        try:
            return self._table.describe(transactional_id)
        except BrokerError as error:
            return t.TransactionDescription(transactional_id, error.code, error.message)
