"""The producer's transactions (KIP-98): one transactional id's part of the protocol, run as a driver.

`transaction_states.py` has the states. What a transaction takes in, partitions and groups, its coordinator hears of
before anything is written there, so that it can end the transaction there: a batch waits until its partition is
admitted. One request is under way at a time, so that the end of a transaction overtakes nothing. A request that failed
in a way that may pass is sent again, the end of a transaction always with the same outcome.

After an abort the producer takes the next epoch of its id (KIP-360): sequence numbers begin anew, whatever became of
the batches that were dropped, and nothing of the aborted transaction that comes late can count for the next.

All methods are called under the client's lock.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol

from ..errors import (
    ConcurrentTransactionsError,
    IllegalStateError,
    InvalidTxnStateError,
    ProducerFencedError,
    TransactionAbortedError,
    ZmqBrokerError,
)
from ..transport.group_messages import TRANSACTION_COORDINATOR
from ..transport.messages import InitProducerIdReply, InitProducerIdRequest
from ..transport.transaction_messages import AddOffsetsToTxnReply, AddPartitionsToTxnReply, EndTxnRequest
from .backoff import retry_wait_s
from .connection import Answer, Call
from .coordinator import Coordinator
from .io import body_of
from .transaction_requests import (
    FENCED,
    OffsetsCommit,
    TransactionRequests,
    no_error,
    offsets_error,
    offsets_refused,
    partitions_error,
)
from .transaction_states import GOES_ON, NEXT, WHY_NOT, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..transport.message_base import Request
    from .io import ClientIO
    from .options import ProducerOptions
    from .rebalance_listener import ConsumerGroupMetadata
    from .types import OffsetAndMetadata, TopicPartition

_CONCURRENT_S = 0.005
"""The wait while the last transaction is being ended, at first: that takes the time of a write or two."""


class Batches(Protocol):
    """What the transactions need of the sender."""

    @property
    def is_idle(self) -> bool:
        """Whether no batch waits, and none is in flight."""
        ...

    def take_identity(self, identity: tuple[int, int]) -> None:
        """Number batches under this producer id and epoch from now on."""
        ...

    def close_all(self) -> None:
        """Close every open batch."""
        ...

    def drop(self, error: ZmqBrokerError) -> None:
        """Fail every batch that is not in flight."""
        ...

    def forget_failures(self) -> None:
        """The user is told of the records that failed."""
        ...


class Step(NamedTuple):
    """The next request, and what is done about its answer."""

    request: Request
    coordinator: Coordinator
    succeeded: Callable[[Answer], None]
    failed: Callable[[ZmqBrokerError], None]
    """Hears of an error that does not pass."""
    error_in: Callable[[Answer], ZmqBrokerError | None] = no_error


class Transactions:
    """One producer's transactions."""

    def __init__(self, io: ClientIO, options: ProducerOptions, batches: Batches) -> None:
        assert options.transactional_id is not None, "transactions need an id"
        self.transactional_id = options.transactional_id
        self.state = State.UNINITIALISED
        self.number = 0
        """Of the transaction that is open, or was last."""
        self.ended = 0
        """The number of the last that is ended."""
        self.error: ZmqBrokerError | None = None
        """Why the transaction has to be aborted, why the producer is of no use, or why it could not be initialised."""
        self.last_error: ZmqBrokerError | None = None
        """Why the last request is to be sent again."""
        self._io = io
        self._options = options
        self._batches = batches
        self._requests = TransactionRequests(self.transactional_id)
        self._coordinator = Coordinator(io, self.transactional_id, TRANSACTION_COORDINATOR)
        self._group_coordinators: dict[str, Coordinator] = {}
        self._admitted: set[tuple[str, int]] = set()
        """The partitions of the transaction."""
        self._wanted: dict[tuple[str, int], None] = {}
        """Partitions that are to be admitted."""
        self._groups: set[str] = set()
        """The groups of the transaction."""
        self._offsets: deque[OffsetsCommit] = deque()
        self._initialises = False
        self._touched = False
        """The coordinator may have heard of the transaction."""
        self._end_sent = False
        self._end_answered = False
        self._drops = False
        """Batches are to be dropped: in the next step, not under the sender's hands."""
        self._under_way = False
        self._not_before = 0.0
        self._failures = 0
        self._stepped = 0.0

    # ---- what the producer calls

    @property
    def is_initialised(self) -> bool:
        """Whether there is a producer id, and nobody has taken over."""
        return self.state not in (State.UNINITIALISED, State.FATAL_ERROR)

    @property
    def is_open(self) -> bool:
        """Whether records are taken."""
        return self.state is State.IN_TRANSACTION

    @property
    def awaits_decision(self) -> bool:
        """Whether there is a transaction of which the user has said neither that it be committed nor aborted."""
        return self.state in (State.IN_TRANSACTION, State.ABORTABLE_ERROR)

    @property
    def may_abort(self) -> bool:
        """Whether there is a transaction that is not ended, and whose outcome can still be chosen."""
        if self.state is State.COMMITTING:
            return not self._end_sent
        return self.awaits_decision or self.state is State.ABORTING

    @property
    def is_ending(self) -> bool:
        """Whether every record's fate is known, and the coordinator is told the outcome."""
        return self._end_sent

    @property
    def is_settled(self) -> bool:
        """Whether the coordinator knows of no open transaction, or will not hear of its end from here."""
        if self.state is State.ABORTING:
            return self._end_answered
        return self.state in (State.UNINITIALISED, State.READY, State.FATAL_ERROR)

    @property
    def is_fatal(self) -> bool:
        """Whether this producer is of no use any more."""
        return self.state is State.FATAL_ERROR

    @property
    def why_it_lasts(self) -> ZmqBrokerError | None:
        """What is known of why a coordinator has not answered yet."""
        errors = [self.last_error, *(c.last_error for c in self._coordinators())]
        return next((error for error in errors if error is not None), None)

    def check_open(self, what: str) -> None:
        """Raise why something cannot be done that needs an open transaction."""
        if self.state is not State.IN_TRANSACTION:
            self.refuse(what)

    def check_alive(self) -> None:
        """Raise why this producer is of no use any more, if it is."""
        if self.is_fatal:
            self.refuse("go on")

    def refuse(self, what: str) -> NoReturn:
        """Raise why something cannot be done now."""
        if self.state in (State.ABORTABLE_ERROR, State.FATAL_ERROR):
            raise self.why_dropped()
        message = (
            f"the producer with transactional_id={self.transactional_id!r} is {self.state.value}, so that it cannot"
            f" {what}: {WHY_NOT[self.state]}"
        )
        raise IllegalStateError(message)

    def initialise(self) -> None:
        """Get a producer id, which fences who had this transactional id before, and aborts what that left open."""
        self.check_alive()
        if self.state is not State.UNINITIALISED:
            message = f"init_transactions was called already for transactional_id={self.transactional_id!r}"
            raise IllegalStateError(message)
        self._initialises = True
        self.error = None

    def begin(self) -> None:
        """Open a transaction; the coordinator hears of it with the first partition or group."""
        if self.state is not State.READY:
            self.refuse("begin a transaction")
        self.number += 1
        self.error = None
        self._admitted.clear()
        self._groups.clear()
        self._requests.transaction = -1
        self._touched = self._end_sent = self._end_answered = False
        self._enter(State.IN_TRANSACTION)

    def add_offsets(
        self, group: ConsumerGroupMetadata, offsets: Mapping[TopicPartition, OffsetAndMetadata]
    ) -> OffsetsCommit:
        """Commit a group's offsets with the transaction."""
        self.check_open("send offsets")
        commit = OffsetsCommit(group, offsets)
        self._offsets.append(commit)
        return commit

    def commit(self) -> None:
        """Send what is left, then commit."""
        if self.state is not State.COMMITTING:
            self.check_open("commit")
            self._enter(State.COMMITTING)
            self._batches.close_all()

    def abort(self) -> None:
        """Drop what is not sent, wait for what is in flight, then abort."""
        if self.state is State.ABORTING:
            return
        if not self.may_abort:
            self.refuse("abort")
        self._enter(State.ABORTING)
        self._withdraw()
        self._drops = False
        self._batches.drop(self.why_dropped())
        self._batches.forget_failures()

    # ---- what the sender calls

    @property
    def goes_on(self) -> bool:
        """Whether a batch that failed may be sent again."""
        return self.state in GOES_ON

    def admits(self, topic: str, partition: int) -> bool:
        """Whether batches may be sent to a partition; if it is not part of the transaction yet, it is to be."""
        if self.state not in GOES_ON:
            return False
        if (topic, partition) in self._admitted:
            return True
        self._wanted.setdefault((topic, partition))
        return False

    def why_dropped(self) -> ZmqBrokerError:
        """The error of a batch that is not sent any more."""
        error = self.error
        if error is None:
            return TransactionAbortedError(f"{self._name} was aborted before the record was acknowledged")
        if self.state is State.FATAL_ERROR:
            return type(error)(error.message)
        return type(error)(f"{self._name} failed and has to be aborted: {error.message}")

    def fail(self, error: ZmqBrokerError) -> None:
        """Something of the open transaction failed: it can only be aborted."""
        if self.state in GOES_ON:
            self.error = error
            self._enter(State.ABORTABLE_ERROR)
            self._withdraw()
            self._drops = True

    def fence(self, error: ZmqBrokerError) -> None:
        """This is not the producer of its transactional id any more."""
        producer_id, epoch = self._requests.identity
        message = (
            f"the producer with transactional_id={self.transactional_id!r}, producer id {producer_id} and epoch {epoch}"
            f" was fenced: {error.message}. Another one has taken over, or a transaction took longer than"
            f" transaction_timeout_ms={self._options.transaction_timeout_ms}; close it, and make a new one if need be"
        )
        self._give_up(ProducerFencedError(message))

    def _give_up(self, error: ZmqBrokerError) -> None:
        if self.state is not State.FATAL_ERROR:
            self.error = error
            self._enter(State.FATAL_ERROR)
            self._withdraw()
            self._drops = True

    def _withdraw(self) -> None:
        """Ask for nothing more for this transaction."""
        self._wanted.clear()
        while self._offsets:
            self._offsets.popleft().done = True

    @property
    def _name(self) -> str:
        return f"transaction {self.number} of transactional_id={self.transactional_id!r}"

    def _enter(self, state: State) -> None:
        assert state in NEXT[self.state], f"{self.state.value} -> {state.value}"
        self.state = state
        self._io.progress += 1

    # ---- the driver

    def step(self, now: float) -> None:
        """Send what is due."""
        self._stepped = now
        if self._drops:
            self._drops = False
            self._batches.drop(self.why_dropped())
        if not self._under_way and now >= self._not_before:
            step = self._next_step()
            if step is not None:
                self._send(step, now)
        for coordinator in self._coordinators():
            coordinator.step(now)

    def next_deadline(self) -> float:
        """When `step` has something to do though nothing came."""
        deadline = min(coordinator.next_deadline() for coordinator in self._coordinators())
        if not self._under_way and self._not_before > self._stepped:
            return min(deadline, self._not_before)
        return deadline

    def _coordinators(self) -> tuple[Coordinator, ...]:
        return self._coordinator, *self._group_coordinators.values()

    def _next_step(self) -> Step | None:
        """What to ask next. A transaction of which no coordinator has heard ends here, without a word."""
        if self.state is State.UNINITIALISED and self._initialises:
            return self._identity_step(self._not_initialised)
        if self.state in GOES_ON:
            if self._wanted:
                return self._partitions_step()
            if self._offsets:
                commit = self._offsets[0]
                known = commit.group.group_id in self._groups
                return self._offsets_step(commit) if known else self._group_step(commit.group.group_id)
        if self.state in (State.COMMITTING, State.ABORTING) and self._batches.is_idle:
            if not self._touched:
                self._ended()
            elif not self._end_answered:
                return self._end_step()
            else:
                return self._identity_step(self._give_up)
        return None

    def _send(self, step: Step, now: float) -> None:
        connection = step.coordinator.connection()
        if connection is None:
            error, step.coordinator.error = step.coordinator.error, None
            if error is not None:
                step.failed(error)
            return
        self._under_way = True
        self._touched = self._touched or self.state in GOES_ON
        self._end_sent = self._end_sent or isinstance(step.request, EndTxnRequest)

        def done(outcome: Answer | ZmqBrokerError) -> None:
            self._under_way = False
            self._io.progress += 1
            error = outcome if isinstance(outcome, ZmqBrokerError) else step.error_in(outcome)
            if self.state is State.FATAL_ERROR:
                return  # by what a leader answered meanwhile
            if error is not None:
                self._judge(step, error)
            elif isinstance(outcome, Answer):
                self._failures = 0
                self.last_error = None
                step.succeeded(outcome)

        connection.submit(Call(step.request, done, now + self._options.request_timeout_ms / 1000), now)

    def _judge(self, step: Step, error: ZmqBrokerError) -> None:
        """A request failed: `step` sends it again if that may help, and if it is still wanted then."""
        if isinstance(error, FENCED):
            self.fence(error)
        elif not error.retriable:
            step.failed(error)
        else:
            self.last_error = error
            self._failures += 1
            wait_s = retry_wait_s(self._options, self._failures)
            if isinstance(error, ConcurrentTransactionsError):
                wait_s = min(wait_s, self._failures * _CONCURRENT_S)
            else:
                step.coordinator.lost(error)
            self._not_before = self._io.now() + wait_s

    # ---- the requests

    def _identity_step(self, failed: Callable[[ZmqBrokerError], None]) -> Step:
        timeout_ms = int(self._options.transaction_timeout_ms)
        request = InitProducerIdRequest(*self._requests.identity, self.transactional_id, timeout_ms)
        return Step(request, self._coordinator, self._identified, failed)

    def _identified(self, answer: Answer) -> None:
        reply = body_of(answer, InitProducerIdReply)
        self._requests.identity = (reply.producer_id, reply.producer_epoch)
        self._requests.last = reply.transaction
        self._batches.take_identity(self._requests.identity)
        self._ended()

    def _not_initialised(self, error: ZmqBrokerError) -> None:
        self._initialises = False
        self.error = error

    def _partitions_step(self) -> Step:
        wanted = list(self._wanted)

        def added(answer: Answer) -> None:
            self._requests.transaction = body_of(answer, AddPartitionsToTxnReply).transaction
            self._admitted.update(wanted)
            for partition in wanted:
                self._wanted.pop(partition, None)

        return Step(self._requests.add_partitions(wanted), self._coordinator, added, self.fail, partitions_error)

    def _group_step(self, group_id: str) -> Step:
        def added(answer: Answer) -> None:
            self._requests.transaction = body_of(answer, AddOffsetsToTxnReply).transaction
            self._groups.add(group_id)

        return Step(self._requests.add_group(group_id), self._coordinator, added, self.fail)

    def _offsets_step(self, commit: OffsetsCommit) -> Step:
        group = commit.group
        coordinator = self._group_coordinators.get(group.group_id)
        if coordinator is None:
            coordinator = self._group_coordinators[group.group_id] = Coordinator(self._io, group.group_id)

        def committed(_: Answer) -> None:
            if not commit.done:
                commit.done = True
                self._offsets.popleft()

        def failed(error: ZmqBrokerError) -> None:
            self.fail(offsets_refused(error, group))

        return Step(self._requests.commit_offsets(commit), coordinator, committed, failed, offsets_error)

    def _end_step(self) -> Step:
        if self.state is State.COMMITTING:
            request = self._requests.end(committed=True)
            return Step(request, self._coordinator, lambda _: self._ended(), self._give_up)
        request = self._requests.end(committed=False)
        return Step(request, self._coordinator, lambda _: self._end_heard(), self._not_aborted)

    def _not_aborted(self, error: ZmqBrokerError) -> None:
        if isinstance(error, InvalidTxnStateError):
            self._end_heard()  # the coordinator has not heard of its beginning: there is nothing to abort
        else:
            self._give_up(error)

    def _end_heard(self) -> None:
        self._end_answered = True

    def _ended(self) -> None:
        self.ended = self.number
        self._requests.last = max(self._requests.last, self._requests.transaction)
        self._enter(State.READY)
