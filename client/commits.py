"""The offsets of a group: a driver that commits them, one request after the other, and finds where partitions start.

One commit is under way at a time, so that no older one can overtake a newer one; those that wait meanwhile travel
together, and of one partition the newest counts. A commit belongs to a tenure of its member: once partitions were lost
or given up, what was to be committed before that is refused here already, for another member may own them now.

All methods are called under the client's lock, flows excepted.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from ..errors import (
    CommitFailedError,
    CoordinatorLoadInProgressError,
    FencedInstanceIdError,
    IllegalGenerationError,
    RebalanceInProgressError,
    RequestTimedOutError,
    UnknownMemberIdError,
    UnstableOffsetCommitError,
    ZmqBrokerError,
    error_for,
)
from ..transport.group_messages import (
    CommittedOffset,
    OffsetCommitReply,
    OffsetCommitRequest,
    OffsetFetchReply,
    OffsetFetchRequest,
    OffsetToCommit,
    TopicPartitionEntry,
)
from ..transport.messages import READ_COMMITTED
from .connection import FOREVER, Answer, Call
from .group_member import Stage
from .io import Wait, body_of
from .types import OffsetAndMetadata, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from .coordinator import Coordinator
    from .fetcher import Fetcher
    from .group_member import GroupMember
    from .io import ClientIO, Flow
    from .options import ConsumerOptions

    CommitCallback = Callable[[dict[TopicPartition, OffsetAndMetadata], Exception | None], Any]

logger = logging.getLogger(__name__)

_REBALANCED = (UnknownMemberIdError, IllegalGenerationError, RebalanceInProgressError)


class Commit:
    """Offsets on their way to the coordinator."""

    __slots__ = ("callback", "deadline", "done", "error", "generation", "offsets", "tenure")

    def __init__(
        self,
        offsets: dict[TopicPartition, OffsetAndMetadata],
        member: GroupMember,
        deadline: float,
        callback: CommitCallback | None,
    ) -> None:
        self.offsets = offsets
        self.tenure = member.tenure
        self.generation = member.generation
        self.deadline = deadline
        self.callback = callback
        self.done = False
        self.error: ZmqBrokerError | None = None


class Commits:
    """Commits and start positions of one consumer."""

    def __init__(
        self, io: ClientIO, options: ConsumerOptions, coordinator: Coordinator, member: GroupMember, fetcher: Fetcher
    ) -> None:
        self.counters = dict.fromkeys(("commits", "commit_errors"), 0)
        self._io = io
        self._options = options
        self._coordinator = coordinator
        self._member = member
        self._fetcher = fetcher
        self._queue: deque[Commit] = deque()
        self._sent: list[Commit] = []
        self._not_before = 0.0
        self._last_error: ZmqBrokerError | None = None
        self._next_auto = io.now() + options.auto_commit_interval_ms / 1000
        self._placing = False

    # ---- commits

    def add(
        self,
        offsets: dict[TopicPartition, OffsetAndMetadata],
        callback: CommitCallback | None = None,
        timeout_ms: float | None = None,
    ) -> Commit:
        """Commit these as soon as may be."""
        timeout_s = (self._options.request_timeout_ms if timeout_ms is None else timeout_ms) / 1000
        commit = Commit(offsets, self._member, self._io.now() + timeout_s, callback)
        if offsets:
            self._queue.append(commit)
        else:
            self._end(commit, None)
        return commit

    def add_consumed(self, timeout_ms: float | None = None) -> Commit | None:
        """Commit what the user is done with, as far as it is not committed yet; None: there is nothing."""
        moved = {
            partition: OffsetAndMetadata(state.consumed)
            for partition, state in self._fetcher.partitions.items()
            if state.consumed >= 0 and state.consumed != state.committed
        }
        return self.add(moved, self._auto_committed, timeout_ms) if moved else None

    def waited(self, commit: Commit) -> Flow[None]:
        """Wait for the end of a commit. Raises why it failed."""
        yield Wait(lambda: commit.done, commit.deadline + 1.0)
        if commit.error is not None:
            raise commit.error
        if not commit.done:
            message = f"the coordinator did not answer a commit for group {self._member.group_id!r} in time"
            raise RequestTimedOutError(message)

    def drained(self, deadline: float) -> Flow[None]:
        """Wait until nothing is left to be committed, or time is over."""
        yield Wait(lambda: not self._queue and not self._sent, deadline)

    # ---- the driver

    def step(self, now: float) -> None:
        """Send what is due."""
        if self._options.enable_auto_commit and now >= self._next_auto:
            self._next_auto = now + self._options.auto_commit_interval_ms / 1000
            if not self._queue and not self._sent and self._may_commit:
                self.add_consumed()
        if self._queue:
            self._give_up(now)
        if self._queue and not self._sent and now >= self._not_before and self._may_commit:
            self._send(now)
        if not self._placing and now >= self._not_before:
            unplaced = [partition for partition, state in self._fetcher.partitions.items() if state.unplaced]
            if unplaced:
                self._find(unplaced, now)

    def next_deadline(self) -> float:
        """When `step` has something to do though nothing came."""
        deadline = self._next_auto if self._options.enable_auto_commit else FOREVER
        if self._queue or not self._placing:
            deadline = min([deadline, *(commit.deadline for commit in self._queue)])
            if self._not_before > self._io.now():
                deadline = min(deadline, self._not_before)
        return deadline

    @property
    def _may_commit(self) -> bool:
        """Whether the present generation can commit: that of a member, or none where partitions are assigned."""
        member = self._member
        return member.stage in (Stage.OUT, Stage.STABLE) or (member.stage is Stage.JOINING and bool(member.owned))

    def _give_up(self, now: float) -> None:
        """End the commits that came too late: for their time-out, or for their member."""
        member = self._member
        for commit in list(self._queue):
            given_up = member.stage is Stage.STABLE and not commit.offsets.keys() <= member.owned
            if commit.tenure != member.tenure or member.stage is Stage.WAITING or given_up:
                self._queue.remove(commit)
                self._end(commit, self._failed(commit, member.lost or "this consumer is no member of it at the moment"))
            elif now >= commit.deadline:
                self._queue.remove(commit)
                message = f"no commit for group {member.group_id!r} succeeded within its time-out"
                self._end(commit, self._last_error or RequestTimedOutError(message))

    def _failed(self, commit: Commit, why: str) -> CommitFailedError:
        mine, now = commit.generation, self._member.generation
        message = (
            f"group {self._member.group_id!r} has rebalanced: the commit belongs to generation {mine}, and this"
            f" consumer is in generation {now} now (-1: in none): {why}. Partitions may have other owners: poll to take"
            " part again, and commit what is handed out then"
        )
        return CommitFailedError(message)

    def _send(self, now: float) -> None:
        connection = self._coordinator.connection()
        if connection is None:
            error, self._coordinator.error = self._coordinator.error, None
            if error is not None:
                self._sent = list(self._queue)
                self._queue.clear()
                self._answered_all(error)
            return
        self._sent = list(self._queue)
        self._queue.clear()
        merged: dict[TopicPartition, OffsetAndMetadata] = {}
        for commit in self._sent:
            merged.update(commit.offsets)
        member = self._member
        generation = member.generation
        request = OffsetCommitRequest(
            member.group_id,
            generation,
            member.member_id,
            self._options.group_instance_id if generation >= 0 else None,
            [
                OffsetToCommit(tp.topic, tp.partition, offset.offset, offset.leader_epoch, offset.metadata)
                for tp, offset in merged.items()
            ],
        )
        deadline = now + self._options.request_timeout_ms / 1000
        connection.submit(Call(request, lambda outcome: self._answered(outcome, merged, generation), deadline), now)

    def _answered(
        self,
        outcome: Answer | ZmqBrokerError,
        merged: Mapping[TopicPartition, OffsetAndMetadata],
        generation: int,
    ) -> None:
        self._io.progress += 1
        errors: dict[TopicPartition, ZmqBrokerError] = {}
        if isinstance(outcome, ZmqBrokerError):
            errors = dict.fromkeys(merged, outcome)
        else:
            for entry in body_of(outcome, OffsetCommitReply).partitions:
                partition = TopicPartition(entry.topic, entry.partition)
                if entry.error_code:
                    errors[partition] = error_for(entry.error_code, entry.error_message)
                elif (state := self._fetcher.partitions.get(partition)) is not None:
                    state.committed = merged[partition].offset
        dropped = (*_REBALANCED, FencedInstanceIdError)
        refusal = next((error for error in errors.values() if isinstance(error, dropped)), None)
        if refusal is not None:
            self._member.commit_refused(refusal, generation)
        if any(_moves_coordinator(error) for error in errors.values()):
            self._coordinator.lost(next(error for error in errors.values() if _moves_coordinator(error)))
        self._settle(errors, generation)

    def _answered_all(self, error: ZmqBrokerError) -> None:
        errors = {partition: error for commit in self._sent for partition in commit.offsets}
        self._settle(errors, self._member.generation)

    def _settle(self, errors: Mapping[TopicPartition, ZmqBrokerError], generation: int) -> None:
        """End each commit that was sent, or send it again."""
        sent, self._sent = self._sent, []
        member = self._member
        # It came between two generations, and what this member owned it owns still.
        overtaken = bool(member.owned) and (member.generation != generation or member.stage is Stage.JOINING)
        again = []
        for commit in sent:
            error = next((errors[partition] for partition in commit.offsets if partition in errors), None)
            if isinstance(error, _REBALANCED) and overtaken and commit.tenure == member.tenure:
                again.append(commit)
            elif isinstance(error, _REBALANCED):
                self._end(commit, self._failed(commit, error.message))
            elif error is not None and error.retriable and self._io.now() < commit.deadline:
                self._last_error = error
                again.append(commit)
            else:
                self._end(commit, error)
        if again:
            self._not_before = self._io.now() + self._options.retry_backoff_ms / 1000
            self._queue.extendleft(reversed(again))

    def _end(self, commit: Commit, error: ZmqBrokerError | None) -> None:
        commit.done = True
        commit.error = error
        self.counters["commits" if error is None else "commit_errors"] += 1
        self._io.progress += 1
        callback = commit.callback
        if callback is not None:
            self._io.after.append(lambda: callback(commit.offsets, error))

    def _auto_committed(self, offsets: object, error: Exception | None) -> None:
        del offsets
        if error is not None:
            logger.warning("automatic commit for group %r: %s", self._member.group_id, error)

    # ---- where partitions start

    def _find(self, unplaced: list[TopicPartition], now: float) -> None:
        connection = self._coordinator.connection()
        if connection is None:
            error, self._coordinator.error = self._coordinator.error, None
            if error is not None:
                self._place({}, unplaced, error)
            return
        self._placing = True
        generations = {partition: self._fetcher.partitions[partition].generation for partition in unplaced}

        def done(outcome: Answer | ZmqBrokerError) -> None:
            self._placing = False
            self._io.progress += 1
            waiting = [
                partition
                for partition, generation in generations.items()
                if (state := self._fetcher.partitions.get(partition)) is not None
                and state.unplaced
                and state.generation == generation
            ]
            if isinstance(outcome, ZmqBrokerError):
                self._place({}, waiting, outcome)
            else:
                entries = body_of(outcome, OffsetFetchReply).partitions
                self._place({TopicPartition(entry.topic, entry.partition): entry for entry in entries}, waiting, None)

        request = self._fetch_request(unplaced)
        connection.submit(Call(request, done, now + self._options.request_timeout_ms / 1000), now)

    def _fetch_request(self, partitions: Iterable[TopicPartition]) -> OffsetFetchRequest:
        """Ask for committed offsets; a reader of what is committed waits for those that a transaction may change."""
        entries = [TopicPartitionEntry(tp.topic, tp.partition) for tp in partitions]
        return OffsetFetchRequest(self._member.group_id, entries, self._options.isolation == READ_COMMITTED)

    def _place(
        self,
        found: Mapping[TopicPartition, CommittedOffset],
        waiting: Iterable[TopicPartition],
        failure: ZmqBrokerError | None,
    ) -> None:
        lost: ZmqBrokerError | None = failure if failure is not None and failure.retriable else None
        for partition in waiting:
            state = self._fetcher.partitions[partition]
            entry = found.get(partition)
            error = failure
            if entry is not None and entry.error_code:
                error = error_for(entry.error_code, entry.error_message)
            if error is not None and error.retriable:
                lost = error
            elif error is not None:
                state.error = error
                state.unplaced = False
            elif entry is not None and entry.offset >= 0:
                state.seek(entry.offset)
                state.committed = entry.offset
            else:
                state.unplaced = False  # `reset` says where
        if lost is not None:
            self._last_error = lost
            self._not_before = self._io.now() + self._options.retry_backoff_ms / 1000
            if _moves_coordinator(lost):
                self._coordinator.lost(lost)

    def committed(
        self, partitions: list[TopicPartition], timeout_s: float
    ) -> Flow[dict[TopicPartition, OffsetAndMetadata | None]]:
        """Ask for committed offsets. Raises the error that is left in the end."""
        io = self._io
        deadline = io.now() + timeout_s
        request = self._fetch_request(partitions)
        while True:
            yield Wait(lambda: self._coordinator.connection() or self._coordinator.error, deadline)
            with io.lock:
                connection = self._coordinator.connection()
                failure, self._coordinator.error = self._coordinator.error, None
            try:
                if connection is None:
                    message = f"no coordinator of group {self._member.group_id!r} was found in time"
                    raise failure or self._coordinator.last_error or RequestTimedOutError(message)
                answer = yield from io.call(request, connection, max(0.001, deadline - io.now()))
                return _read(body_of(answer, OffsetFetchReply).partitions, partitions)
            except ZmqBrokerError as error:
                if not error.retriable or io.now() >= deadline:
                    raise
                if _moves_coordinator(error):
                    with io.lock:
                        self._coordinator.lost(error)
            yield from io.pause(io.options.retry_backoff_ms / 1000)


def _read(
    entries: Iterable[CommittedOffset], partitions: Iterable[TopicPartition]
) -> dict[TopicPartition, OffsetAndMetadata | None]:
    found: dict[TopicPartition, OffsetAndMetadata | None] = dict.fromkeys(partitions)
    for entry in entries:
        if entry.error_code:
            raise error_for(entry.error_code, entry.error_message)
        if entry.offset >= 0:
            offset = OffsetAndMetadata(entry.offset, entry.metadata, entry.leader_epoch)
            found[TopicPartition(entry.topic, entry.partition)] = offset
    return found


def _moves_coordinator(error: ZmqBrokerError) -> bool:
    """Whether another node, or another connection, may do better."""
    return error.retriable and not isinstance(error, (CoordinatorLoadInProgressError, UnstableOffsetCommitError))
