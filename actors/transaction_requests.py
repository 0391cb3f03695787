"""Requests about transactions: to the coordinator of a transactional id, or to the leaders of partitions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import structs

from ..errors import BrokerError, InvalidRequestError, RequestTimedOutError
from ..transport import transaction_messages as t
from ..transport.internal_topics import OFFSETS_TOPIC, TRANSACTION_STATE_TOPIC
from ..transport.messages import InitProducerIdRequest
from ..transport.peer_messages import (
    MarkerWritten,
    VerifyTransactionRequest,
    WriteTxnMarkersReply,
    WriteTxnMarkersRequest,
)
from .calls import Call, ControllerRequestCall, GatherCall, PartitionsCall
from .commands import Answer, CoordinatorCall, DescribeProducers, Refusal, VerifyTransaction, WriteMarker
from .context import coordinator_address, partition_address
from .group_requests import GroupCall, coordinator_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..transport.message_base import Request
    from .calls import CallOwner
    from .commands import Ref


def _coordinator_of(session: CallOwner, transactional_id: str) -> Ref:
    """The actor that coordinates a transactional id. Raises the error that says why it is not here."""
    if not transactional_id:
        message = "the transactional id is empty; it needs a name, or has to be left out"
        raise InvalidRequestError(message)
    return coordinator_of(session, TRANSACTION_STATE_TOPIC, transactional_id)


class TransactionCall(GroupCall):
    """A request of one transactional id, answered by its coordinator."""

    def coordinator(self) -> Ref:
        """The coordinator's actor."""
        return _coordinator_of(self.session, self.request.transactional_id)


def init_producer_id(session: CallOwner, request: InitProducerIdRequest, correlation_id: int, size: int) -> Call:
    """Make the call for an InitProducerId."""
    if request.transactional_id is None:
        return ControllerRequestCall(session, request, correlation_id, size)
    return TransactionCall(session, request, correlation_id, size)


class DescribeTransactionsCall(GatherCall):
    """Describe transactional ids: one command for each."""

    def __init__(
        self, session: CallOwner, request: t.DescribeTransactionsRequest, correlation_id: int, size: int
    ) -> None:
        super().__init__(session, request, correlation_id, size)
        self._request = request

    def start(self) -> None:
        """Ask each one's coordinator."""
        ids = self._request.transactional_ids
        self.expect(len(ids))
        if not ids:
            self.complete()
        for index, transactional_id in enumerate(ids):
            try:
                coordinator = _coordinator_of(self.session, transactional_id)
            except BrokerError as error:
                self.on_refusal(Refusal(self, index, error))
                continue
            request = structs.replace(self._request, transactional_ids=[transactional_id])
            coordinator.tell(CoordinatorCall(self.session.actor_ref, self, index, request, self.session.client_id))

    def on_answer(self, answer: Answer) -> None:
        """Take the one entry of a coordinator's answer."""
        body = answer.body
        if isinstance(body, t.DescribeTransactionsReply):
            (body,) = body.transactions
        super().on_answer(Answer(self, answer.index, body))

    def on_refusal(self, refusal: Refusal) -> None:
        """Say of one id why it is not described."""
        error = refusal.error
        entry = t.TransactionDescription(self._request.transactional_ids[refusal.index], error.code, error.message)
        super().on_answer(Answer(self, refusal.index, entry))

    def on_deadline(self) -> None:
        """Say of the ids without answer that their time is up."""
        for index, result in enumerate(self.results):
            if result is None:
                self.on_refusal(Refusal(self, index, RequestTimedOutError("its coordinator did not answer in time")))

    def complete(self) -> None:
        """Reply with the entries."""
        self.reply(t.DescribeTransactionsReply(self.results))


class ListTransactionsCall(GatherCall):
    """The transactional ids of all coordinators of this node."""

    def __init__(self, session: CallOwner, request: t.ListTransactionsRequest, correlation_id: int, size: int) -> None:
        super().__init__(session, request, correlation_id, size)
        self._request = request

    def start(self) -> None:
        """Ask them all."""
        session = self.session
        topic = session.context.image.topics.get(TRANSACTION_STATE_TOPIC)
        count = 0 if topic is None else len(topic.partitions)
        found = [session.reactor.lookup(coordinator_address(TRANSACTION_STATE_TOPIC, index)) for index in range(count)]
        coordinators = [ref for ref in found if ref is not None]
        self.expect(len(coordinators))
        if not coordinators:
            self.complete()
        for index, ref in enumerate(coordinators):
            ref.tell(CoordinatorCall(session.actor_ref, self, index, self._request, session.client_id))

    def complete(self) -> None:
        """Reply with all that were listed."""
        listed = [entry for part in self.results for entry in part.transactions]
        unknown = self.results[0].unknown_states if self.results else []
        self.reply(t.ListTransactionsReply(sorted(listed, key=lambda entry: entry.transactional_id), unknown))


class DescribeProducersCall(PartitionsCall):
    """What the leaders of partitions know of their producers."""

    def __init__(self, session: CallOwner, request: t.DescribeProducersRequest, correlation_id: int, size: int) -> None:
        super().__init__(session, request, correlation_id, size)
        self.entries = request.partitions

    def command(self, entry: Any, index: int) -> DescribeProducers:
        """Build the command for one partition."""
        del entry
        return DescribeProducers(self.session.actor_ref, self, index)

    def error(self, entry: Any, error: BrokerError) -> t.PartitionProducers:
        """Build the result of a partition that failed."""
        return t.PartitionProducers(entry.topic, entry.partition, error.code, error.message)

    def complete(self) -> None:
        """Reply with the results."""
        self.reply(t.DescribeProducersReply(self.results))


# ---- between nodes


class WriteTxnMarkersCall(PartitionsCall):
    """A coordinator of another node has a transaction ended in partitions of this one."""

    def __init__(self, session: CallOwner, request: WriteTxnMarkersRequest, correlation_id: int, size: int) -> None:
        super().__init__(session, request, correlation_id, size)
        self._request = request
        self.entries = request.partitions

    def address(self, entry: Any) -> str:
        """Offsets are committed by their groups' coordinator."""
        where = coordinator_address if entry.topic == OFFSETS_TOPIC else partition_address
        return where(entry.topic, entry.partition)

    def command(self, entry: Any, index: int) -> WriteMarker:
        """Build the command for one partition."""
        del entry
        asked = self._request
        return WriteMarker(
            self.session.actor_ref,
            self,
            index,
            asked.producer_id,
            asked.producer_epoch,
            asked.committed,
            asked.coordinator_epoch,
            asked.transaction,
        )

    def on_answer(self, answer: Answer) -> None:
        """Take the outcome of one partition."""
        body: Any = answer.body
        written = MarkerWritten(body.topic, body.partition, body.error_code, body.error_message)
        super().on_answer(Answer(self, answer.index, written))

    def error(self, entry: Any, error: BrokerError) -> MarkerWritten:
        """Build the result of a partition that failed."""
        return MarkerWritten(entry.topic, entry.partition, error.code, error.message)

    def complete(self) -> None:
        """Reply with the results."""
        self.reply(WriteTxnMarkersReply(self.results))


class VerifyTransactionCall(Call):
    """A leader of another node asks about a transaction that is coordinated here."""

    def __init__(self, session: CallOwner, request: VerifyTransactionRequest, correlation_id: int, size: int) -> None:
        super().__init__(session, request, correlation_id, size)
        self._request = request

    def start(self) -> None:
        """Ask the coordinator, or say why not."""
        asked = self._request
        try:
            coordinator = _coordinator_of(self.session, asked.transactional_id)
        except BrokerError as error:
            self.fail(error)
            return
        coordinator.tell(
            VerifyTransaction(
                self.session.actor_ref,
                self,
                0,
                asked.transactional_id,
                asked.producer_id,
                asked.producer_epoch,
                asked.topic,
                asked.partition,
            )
        )

    def on_answer(self, answer: Answer) -> None:
        """Reply with what the coordinator says."""
        self.reply(answer.body)


TRANSACTION_CALLS: dict[type[Request], Callable[[CallOwner, Any, int, int], Call]] = {
    InitProducerIdRequest: init_producer_id,
    t.AddPartitionsToTxnRequest: TransactionCall,
    t.AddOffsetsToTxnRequest: TransactionCall,
    t.EndTxnRequest: TransactionCall,
    t.DescribeTransactionsRequest: DescribeTransactionsCall,
    t.ListTransactionsRequest: ListTransactionsCall,
    t.TxnOffsetCommitRequest: GroupCall,
    t.DescribeProducersRequest: DescribeProducersCall,
    WriteTxnMarkersRequest: WriteTxnMarkersCall,
    VerifyTransactionRequest: VerifyTransactionCall,
}
"""The call of each request about transactions."""
