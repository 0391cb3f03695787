"""One process with a transactional id: it takes the id over, makes one transaction after the other, dies, or is fenced.

What it does stands here as scripts. It may seem dead to others, and go on beside its successor for a while: all that it
asks for anew from then on has to be refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import (
    ConcurrentTransactionsError,
    CoordinatorLoadInProgressError,
    InvalidProducerEpochError,
    InvalidProducerIdMappingError,
    InvalidTxnStateError,
    NotCoordinatorError,
    ProducerFencedError,
)
from ..transport import transaction_messages as t
from ..transport.group_messages import (
    GROUP_COORDINATOR,
    TRANSACTION_COORDINATOR,
    OffsetFetchRequest,
    OffsetToCommit,
    TopicPartitionEntry,
)
from ..transport.messages import ACKS_ALL, InitProducerIdRequest, PartitionData, ProduceReply, ProduceRequest
from .coordinated import Coordinated
from .history import Fate
from .scripts import Running, Script, Wait, sleep
from .transaction_history import Outcome as End
from .transaction_sending import DECIDED_BEFORE_APPEND, Identity, Sender

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..transport.message_base import Request
    from .client import Outcome, SimClient
    from .history import History, Partition
    from .transaction_history import Transaction

_BACKOFF_MS = (20.0, 200.0)
_SOON_MS = (1.0, 40.0)
"""While the last transaction is being ended, or another's."""
_NOTHING_DONE = (ConcurrentTransactionsError, CoordinatorLoadInProgressError, NotCoordinatorError)
"""Answers after which this try has certainly changed nothing, and another one may."""
_FENCED = (InvalidProducerEpochError, ProducerFencedError)
_LOOKS = 20
_LAST = 3


class _FencedError(Exception):
    """Another process has taken the transactional id over, or the transaction has taken too long."""


class _RefusedError(Exception):
    """The transaction can only be aborted."""


class _DeadError(Exception):
    """The process is gone."""


class _Answer(NamedTuple):
    body: Any
    in_doubt: bool
    """Whether an earlier try may arrive once more."""


@dataclass(frozen=True)
class Habits:
    """What all processes of a transactional id are like."""

    transactional_id: str
    group: str
    partitions: Sequence[Partition]
    timeout_ms: int
    """Of its transactions."""
    think_ms: float
    patience_ms: float
    """How long it waits for an answer."""
    says_numbers_share: float
    """How often it says which transaction is meant, as Kafka's clients cannot."""
    is_coordinator: Callable[[int, str, str], bool]
    """Whether the group or transactional id, by the kind of its key, is coordinated at an address."""


class Process:
    """One process."""

    def __init__(
        self, client: SimClient, history: History, name: str, habits: Habits, seems_dead: Callable[[], object]
    ) -> None:
        self.name = name
        self.rests = False
        """It was told to come to rest, and has done so."""
        self._client = client
        self._world = client.world
        self._history = history
        self._known = history.transactions
        self._habits = habits
        self._seems_dead = seems_dead
        self._random = client.world.stream(f"{name}/work")
        self._who = Identity(habits.transactional_id)
        self._sender = Sender(
            client, history, name, self._who, partitions=habits.partitions, patience_ms=habits.patience_ms
        )
        where = partial(Coordinated, client)
        is_mine = partial(habits.is_coordinator, TRANSACTION_COORDINATOR, habits.transactional_id)
        self._coordinator = where(habits.transactional_id, TRANSACTION_COORDINATOR, is_mine)
        is_groups = partial(habits.is_coordinator, GROUP_COORDINATOR, habits.group)
        self._groups = where(habits.group, GROUP_COORDINATOR, is_groups)
        self._transaction: Transaction | None = None
        self._number = self._last = -1
        """Of the open transaction, and of the one before, as the coordinator has said."""
        self._must_bump = False
        """Something of this epoch may still arrive that would be taken for a part of the next transaction."""
        self._quiet = False
        self._ended = 0
        """How many transactions were ended since it was told to come to rest."""
        self._running: Running | None = None

    # ---- from outside

    def begin(self, on_end: Callable[[], object]) -> None:
        """Live; on_end hears that the process has ended by itself."""
        self._running = Running(self._life(), on_end)
        self._running.begin()

    def quiesce(self) -> None:
        """Commit a last transaction after some more, that may meet what comes late, and rest."""
        self._quiet = True

    def vanish(self) -> None:
        """Die here and now."""
        if self._running is not None:
            self._running.cancel()
        self._close()
        self._client.disconnect()

    def check(self, done: Callable[[], object]) -> None:
        """Ask once more what offsets are committed."""
        Running(self._look_at_offsets(), done).begin()

    # ---- what a script is made of

    def _sleep(self, low_ms: float, high_ms: float) -> Wait:
        return sleep(self._world, self._random.uniform(low_ms, high_ms), f"{self.name} waits")

    def _think(self) -> Wait:
        delay_ms = self._random.expovariate(1.0) * self._habits.think_ms
        return sleep(self._world, delay_ms, f"{self.name} thinks")

    def _is_over(self) -> bool:
        return self._known.is_over(self._habits.transactional_id, *self._who.pair)

    def _ask(
        self, where: Coordinated, request: Request, is_fine: Callable[[Any], bool] = lambda _: True
    ) -> Script[_Answer]:
        """Ask again and again until it is done. Raises _FencedError, _RefusedError."""
        in_doubt, is_late = False, self._is_over()
        while True:
            outcome: Outcome = yield lambda resume: where.ask(request, resume, self._habits.patience_ms)
            error = outcome.error
            if outcome.body is not None and is_fine(outcome.body):
                if is_late and where.is_current:
                    self._known.done_late(self.name, f"{request}")
                self._history.operations += 1
                return _Answer(outcome.body, in_doubt)
            self._world.show(self.name, f"{type(request).__name__}: {error or outcome.body or 'no answer'}")
            if isinstance(error, InvalidProducerIdMappingError):
                self._known.forgotten(self.name, error.message)
            if isinstance(error, _FENCED):
                raise _FencedError
            if isinstance(error, InvalidTxnStateError):
                raise _RefusedError(error.message)
            in_doubt = in_doubt or (outcome.sent and not isinstance(error, _NOTHING_DONE))
            yield self._sleep(*(_SOON_MS if isinstance(error, ConcurrentTransactionsError) else _BACKOFF_MS))

    # ---- the life of a process

    def _life(self) -> Script[None]:
        try:
            yield from self._initialise(-1, -1)
            while not self.rests:
                yield from self._one_after_the_other()
        except _FencedError:
            self._world.trace(self.name, "cannot go on")
            self._seems_dead()
            yield from self._haunt()
        except _DeadError:
            self._world.trace(self.name, "dies")

    def _one_after_the_other(self) -> Script[None]:
        try:
            while not self.rests:
                yield self._think()
                if self._must_bump:
                    yield self._sleep(0.0, self._random.choice((1.0, 100.0, 1_000.0)))
                    yield from self._bump()
                elif self._random.random() < 0.02:  # noqa: PLR2004 - seldom without a need
                    yield from self._bump()
                yield from self._make_transaction(is_last=self._quiet and self._ended >= _LAST)
        except _RefusedError as error:
            self._world.trace(self.name, f"has lost track of its transaction: {error}")
            self._close()
            yield from self._bump()
        except _FencedError:
            self._world.trace(self.name, "is fenced")
            self._close()
            if self._is_over() or self._random.choice((True, False)):
                raise
            yield from self._bump()  # if its transaction has but taken too long it may go on (KIP-588)

    def _initialise(self, producer_id: int, epoch: int) -> Script[None]:
        asked_ms, who = self._world.now_ms, self._who
        request = InitProducerIdRequest(producer_id, epoch, who.transactional_id, self._habits.timeout_ms)
        answer = yield from self._ask(self._coordinator, request)
        reply = answer.body
        self._known.began(who.transactional_id, self.name, reply.producer_id, reply.producer_epoch, asked_ms)
        self._history.note_producer(reply.producer_id, who.transactional_id)
        self._world.trace(self.name, f"is producer {reply.producer_id} in epoch {reply.producer_epoch}")
        who.producer_id, who.epoch, self._last = reply.producer_id, reply.producer_epoch, reply.transaction
        self._sender.begin()
        self._must_bump = False
        yield from self._look_at_offsets()

    def _bump(self) -> Script[None]:
        """Take the next epoch (KIP-360): a transaction that is open is aborted."""
        self._sender.drop()
        yield from self._initialise(*self._who.pair)

    def _close(self) -> None:
        """Nobody will end the open transaction but the coordinator."""
        self._sender.drop()
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            self._known.end(transaction, End.UNKNOWN if transaction.commit_asked else End.ABORTED)

    # ---- a transaction

    def _make_transaction(self, *, is_last: bool) -> Script[None]:
        random, partitions = self._random, list(self._habits.partitions)
        transaction = self._transaction = self._known.begin(self._habits.transactional_id, self.name)
        self._number = -1
        chosen = partitions if is_last else random.sample(partitions, random.randint(1, len(partitions)))
        later = [] if is_last else [partition for partition in chosen[1:] if random.random() < 0.3]  # noqa: PLR2004
        first = [partition for partition in chosen if partition not in later]
        offsets = random.sample(partitions, random.randint(1, len(partitions)))
        when = "last" if is_last else random.choice(("first", "last", "never"))
        if when == "first":
            yield from self._add_offsets(transaction, offsets)
        yield from self._add_partitions(first)
        yield from self._write(transaction, first, is_last=is_last)
        if when == "last":
            yield from self._add_offsets(transaction, offsets)
        if later:
            yield from self._add_partitions(later)
            yield from self._write(transaction, chosen, is_last=is_last)
        what = "commit" if is_last else random.choices(("commit", "abort", "hurry", "bump"), (70, 12, 14, 4))[0]
        if what == "bump":
            yield from self._bump()
            self._close()
            return
        if what != "hurry":
            yield self._sender.settled
            if self._sender.is_fenced:
                raise _FencedError
        yield from self._end(transaction, committed=what == "commit" and self._sender.is_empty, is_last=is_last)

    def _write(self, transaction: Transaction, partitions: Sequence[Partition], *, is_last: bool) -> Script[None]:
        for _ in range(self._random.choice((1, 1, 2, 4))):
            for partition in partitions:
                self._sender.send(transaction, partition, self._random.choice((1, 1, 2, 5)))
                if not is_last:
                    yield from self._mishap()

    def _mishap(self) -> Script[None]:
        what = self._random.random()
        if self._quiet or what > 0.3:  # noqa: PLR2004 - shares of what happens between two batches
            return
        if what < 0.01:  # noqa: PLR2004
            raise _DeadError
        if what < 0.02:  # noqa: PLR2004
            self._world.trace(self.name, "seems to be dead")
            self._seems_dead()
            yield self._sleep(0.0, self._random.choice((1.0, 100.0, 1_000.0)))
        elif what < 0.03:  # noqa: PLR2004
            yield self._sleep(0.0, 1.5 * self._habits.timeout_ms)
        else:
            yield self._think()

    def _add_partitions(self, partitions: Sequence[Partition]) -> Script[None]:
        entries = [TopicPartitionEntry(*partition) for partition in partitions]
        request = t.AddPartitionsToTxnRequest(*self._self(), entries, self._said(self._last, t.NOT_SAID))
        answer = yield from self._ask(self._coordinator, request, _has_no_error)
        self._is_part_of(answer.body.transaction)

    def _said(self, number: int, not_said: int = -1) -> int:
        """What is said of a transaction's number: most often what it is, as Kafka's clients know of none."""
        return number if self._random.random() < self._habits.says_numbers_share else not_said

    def _self(self) -> tuple[str, int, int]:
        return self._habits.transactional_id, *self._who.pair

    def _is_part_of(self, number: int) -> None:
        transaction = self._transaction
        if transaction is not None and self._number not in (-1, number):
            self._known.ended_by_nobody(transaction, f"it was number {self._number}, and {number} is open")
        self._number = number

    def _add_offsets(self, transaction: Transaction, partitions: Sequence[Partition]) -> Script[None]:
        request = t.AddOffsetsToTxnRequest(*self._self(), self._habits.group, self._said(self._last, t.NOT_SAID))
        answer = yield from self._ask(self._coordinator, request)
        self._is_part_of(answer.body.transaction)
        entries = [OffsetToCommit(*each, self._known.next_offset(transaction, each)) for each in partitions]
        number = self._said(self._number)
        commit = t.TxnOffsetCommitRequest(*self._self(), self._habits.group, entries, transaction=number)
        answer = yield from self._ask(self._groups, commit, _has_no_error)
        self._must_bump = self._must_bump or (answer.in_doubt and number == -1)
        yield from self._look_at_offsets(tries=1)  # most often to hear that they are not stable

    def _end(self, transaction: Transaction, *, committed: bool, is_last: bool) -> Script[None]:
        yield from self._mishap()
        if committed:
            transaction.commit_asked = True
        else:
            # What is sent already may arrive after the end, and needs an epoch that is over then.
            self._must_bump = self._sender.drop() or self._must_bump
        number = self._said(self._number)
        request = t.EndTxnRequest(*self._self(), committed=committed, transaction=number)
        answer = yield from self._ask(self._coordinator, request)
        self._must_bump = self._must_bump or (answer.in_doubt and number == -1)
        self._last = self._number
        self._known.end(transaction, End.COMMITTED if committed else End.ABORTED)
        self._transaction = None
        if committed and transaction.offsets:
            yield from self._look_at_offsets()
        self._ended += self._quiet
        self.rests = is_last and committed

    def _look_at_offsets(self, tries: int = 1_000) -> Script[None]:
        """What is committed, of a group that nobody else commits offsets of."""
        for _ in range(tries):
            asked_ms = self._world.now_ms
            entries = [TopicPartitionEntry(*partition) for partition in self._habits.partitions]
            request = OffsetFetchRequest(self._habits.group, entries, require_stable=True)
            outcome: Outcome = yield lambda resume: self._groups.ask(request, resume)  # noqa: B023 - called at once
            found = outcome.body.partitions if outcome.body is not None and self._groups.is_current else []
            for each in found:
                if not each.error_code:
                    place = (each.topic, each.partition)
                    self._known.fetched(self._habits.transactional_id, place, each.offset, asked_ms)
            if found and not any(each.error_code for each in found):
                return
            if not found:
                self._groups.forget()
            yield self._sleep(*_BACKOFF_MS)

    # ---- after its time

    def _haunt(self) -> Script[None]:
        """Go on trying in vain, once there is a successor."""
        for _ in range(_LOOKS):
            if self._is_over():
                break
            yield self._sleep(*_BACKOFF_MS)
        else:
            return
        for _ in range(self._random.randint(1, 5)):
            yield self._think()
            what = self._random.choice(("end", "end", "add", "offsets", "init", "batch", "batch", "batch"))
            if what == "batch":
                yield from self._haunt_partition(self._random.choice(list(self._habits.partitions)))
                continue
            where = self._groups if what == "offsets" else self._coordinator
            request = self._doomed(what)
            outcome: Outcome = yield lambda resume: where.ask(request, resume)  # noqa: B023 - called at once
            if outcome.body is not None and _has_no_error(outcome.body) and where.is_current:
                self._known.done_late(self.name, f"{request}")

    def _doomed(self, what: str) -> Request:
        partition = self._random.choice(list(self._habits.partitions))
        if what == "end":
            committed, number = self._random.choice((True, False)), self._random.choice((self._number, -1))
            return t.EndTxnRequest(*self._self(), committed=committed, transaction=number)
        if what == "add":
            return t.AddPartitionsToTxnRequest(*self._self(), [TopicPartitionEntry(*partition)])
        if what == "offsets":
            return t.TxnOffsetCommitRequest(*self._self(), self._habits.group, [OffsetToCommit(*partition, 0)])
        name, timeout_ms = self._habits.transactional_id, self._habits.timeout_ms
        return InitProducerIdRequest(*self._who.pair, name, timeout_ms)

    def _haunt_partition(self, partition: Partition) -> Script[None]:
        leader = self._client.leader(*partition)
        if leader is None:
            return
        transaction = self._known.begin(self._habits.transactional_id, self.name)
        self._known.end(transaction, End.ABORTED)
        values = self._sender.make(transaction, partition, 1)
        sequence = self._random.choice((self._sender.next_sequence(partition), 0))
        batch = self._sender.encode(values, sequence)
        entry = PartitionData(*partition, leader[1])
        request = ProduceRequest(ACKS_ALL, 1_000, [entry], self._habits.transactional_id)
        outcome: Outcome = yield lambda resume: self._client.ask(leader[0], request, resume, [batch])
        result = outcome.body.partitions[0] if isinstance(outcome.body, ProduceReply) else None
        if result is not None and result.error_code == 0:
            self._known.done_late(self.name, f"the append of {values[0]!r}")
        is_failed = not outcome.sent or (result is not None and result.error_code in DECIDED_BEFORE_APPEND)
        self._history.settle(values[0], Fate.FAILED if is_failed else Fate.UNKNOWN)


def _has_no_error(body: Any) -> bool:
    return not any(each.error_code for each in getattr(body, "partitions", ()))
