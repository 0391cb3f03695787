"""The user's side of a consumer group: what the thread that polls has to do for its membership, between two records.

Each poll and each slice of an iteration comes by `enter` and `exit`; if the member has an event, `attend` runs first:
commit, give partitions up or take them up, call the listener, let the member join. Nothing of this happens behind the
user's back, so that a record that is being worked on belongs to its consumer.

Iteration has no hook for each record. It hands out slices instead, as long as the user needs about 30 ms for, so that
rebalances and commits come in time.
"""

from __future__ import annotations

import logging
from inspect import isawaitable
from itertools import islice
from typing import TYPE_CHECKING, Any

from ..errors import CommitFailedError, ConfigError
from .commits import Commits
from .coordinator import Coordinator
from .group_member import GroupMember, Stage
from .io import Wait
from .rebalance_listener import ConsumerGroupMetadata, ConsumerRebalanceListener

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from collections.abc import Set as AbstractSet

    from .decoder import Chunk
    from .fetcher import Fetcher
    from .io import ClientIO, Flow
    from .options import ConsumerOptions
    from .types import ConsumerRecord, OffsetAndMetadata, TopicPartition

logger = logging.getLogger(__name__)

_SLICE_S = 0.03
"""How long the user shall be busy with one slice."""
_SLICE_RECORDS = 500
_FIRST_SLICE_RECORDS = 8
_SLICE_GROWTH = 4
_COMMIT_MS = 5_000
"""How long a rebalance, or the end, waits for the commit before it."""
_LEAVE_S = 1.0


class GroupSession:
    """One consumer's group, as the user's thread sees it."""

    def __init__(self, io: ClientIO, options: ConsumerOptions, fetcher: Fetcher, settle: Callable[[], None]) -> None:
        assert options.group_id is not None, "a session needs a group"
        self.coordinator = Coordinator(io, options.group_id)
        self.member = GroupMember(io, options, self.coordinator)
        self.commits = Commits(io, options, self.coordinator, self.member, fetcher)
        self.listener = ConsumerRebalanceListener()
        self.instance_id = options.group_instance_id
        self._io = io
        self._options = options
        self._fetcher = fetcher
        self._settle = settle  # books what was handed out of the consumer's chunk
        self._attending = False
        self._faults: list[Exception] = []
        """What the listener raised."""
        self._leaves = False
        self._slice = _FIRST_SLICE_RECORDS
        self._handed = 0
        self._handed_at = 0.0

    # ---- coming and going

    @property
    def has_event(self) -> bool:
        """Whether `attend` has something to do."""
        return (self.member.event or self._leaves) and not self._attending

    def enter(self, chunk: Chunk | None) -> bool:
        """The user asks for more: what it got before is done with. Whether `attend` has something to do."""
        with self._io.lock:
            if self._attending:
                return False
            self._book(chunk)
            self.member.polls += 1
            if self._handed:
                pace = (self._io.now() - self._handed_at) / self._handed
                fitting = int(_SLICE_S / pace) if pace > 0 else _SLICE_RECORDS
                self._slice = max(1, min(fitting, self._slice * _SLICE_GROWTH, _SLICE_RECORDS))
                self._handed = 0
            return self.has_event

    def exit(self) -> None:
        """The user gets an answer, and may be busy with it for max_poll_interval_ms."""
        with self._io.lock:
            if not self._attending:
                self.member.polls -= 1
                self.member.polled_at = self._io.now()

    def slice(self, chunk: Chunk) -> Iterator[ConsumerRecord]:
        """As many of a chunk's records as the user will soon be done with."""
        self._handed = min(self._slice, chunk.left)
        self._handed_at = self._io.now()
        return islice(chunk.iterator, self._slice)

    def end(self, chunk: Chunk | None, *, in_work: bool) -> None:
        """The user is done with what it got; or, where something went wrong, with all but what it got last."""
        if not in_work:
            self._book(chunk)
        elif chunk is not None and self._handed and chunk.generation == chunk.state.generation:
            handed_out = len(chunk.records) - chunk.left
            chunk.state.consumed = chunk.records[handed_out - 1].offset if handed_out else chunk.position

    def _book(self, chunk: Chunk | None) -> None:
        for state in self._fetcher.partitions.values():
            state.consumed = state.position
        if chunk is not None and chunk.generation == chunk.state.generation:
            chunk.state.consumed = chunk.position

    # ---- events

    def attend(self) -> Flow[None]:
        """Do what the member's events ask for. Raises what the listener raised, or why this cannot be a member."""
        self._attending = True
        try:
            while (self.member.event or self._leaves) and not self._io.closed:
                yield from self._attend_once()
        finally:
            self._attending = False
        if self._faults:
            faults, self._faults = self._faults, []
            raise faults[0]

    def _attend_once(self) -> Flow[None]:
        member = self.member
        if member.lost:
            yield from self._tell_lost()
        elif self._leaves:
            yield from self._give_up_all()
            with self._io.lock:
                self._leaves = False
                if member.stage is not Stage.OUT:
                    member.leave("the consumer unsubscribed")
        elif member.error is not None:
            with self._io.lock:
                error = member.take_error()
            assert error is not None, "an error does not go by itself"
            raise error
        elif member.assigned is not None:
            yield from self._take_up()
        else:
            yield from self._rejoin()

    def _tell_lost(self) -> Flow[None]:
        member = self.member
        lost = set(member.owned)
        with self._io.lock:
            self._settle()
        try:
            yield from self._call(self.listener.on_partitions_lost, lost)
        finally:
            with self._io.lock:
                self._settle()
                self._fetcher.revoke(self._fetcher.partitions.keys() - lost)
                member.forget_owned()

    def _rejoin(self) -> Flow[None]:
        """Give up what has to be given up before the next generation, then join it."""
        member = self.member
        if self._options.is_cooperative:
            gone = {partition for partition in member.owned if partition.topic not in member.topics}
        else:
            gone = set(member.owned)
        yield from self._commit_consumed()
        if gone:
            yield from self._give_up(gone)
        with self._io.lock:
            if not member.lost and member.stage in (Stage.WAITING, Stage.STABLE) and member.assigned is None:
                member.join()

    def _take_up(self) -> Flow[None]:
        """Give up what was taken away, take up what was added, and tell the listener."""
        member = self.member
        with self._io.lock:
            if member.assigned is None:
                return
            gone = member.owned - member.assigned
        if gone:
            yield from self._commit_consumed()
            yield from self._give_up(gone)
        with self._io.lock:
            if member.assigned is None:
                return  # lost meanwhile
            assigned = member.take_up()
            added = assigned - member.owned
            member.owned = assigned
            self._io.metadata.add_topics({partition.topic for partition in assigned})
            self._fetcher.assign(sorted(added), self._fetcher.default_reset())
            if gone:
                member.rejoin = f"gave up {len(gone)} partitions, which others may take now"
        yield from self._call(self.listener.on_partitions_assigned, added)

    def _give_up(self, gone: set[TopicPartition]) -> Flow[None]:
        member = self.member
        with self._io.lock:
            self._settle()
        try:
            if not member.lost:
                yield from self._call(self.listener.on_partitions_revoked, set(gone))
                yield from self.commits.drained(self._io.now() + _COMMIT_MS / 1000)
        finally:
            with self._io.lock:
                if not member.lost:
                    self._settle()
                    self._fetcher.revoke(self._fetcher.partitions.keys() - gone)
                    member.give_up(gone)

    def _commit_consumed(self) -> Flow[None]:
        with self._io.lock:
            commit = self.commits.add_consumed(_COMMIT_MS) if self._options.enable_auto_commit else None
        deadline = self._io.now() + _COMMIT_MS / 1000
        if commit is not None:
            yield Wait(lambda: commit.done, deadline)
        yield from self.commits.drained(deadline)

    def _call(self, method: Callable[[set[TopicPartition]], Any], partitions: set[TopicPartition]) -> Flow[None]:
        """Call the listener; what it raises is kept for the end."""
        try:
            task = method(partitions)
            if isawaitable(task):
                yield Wait(lambda: None, 0.0, task)
        except Exception as error:  # noqa: BLE001 - it is the user's, and the user gets it from the poll
            self._faults.append(error)

    # ---- leaving

    def subscribed(self, listener: ConsumerRebalanceListener | None) -> None:
        """The user has subscribed to something; under the lock."""
        self._leaves = False
        self.listener = listener or ConsumerRebalanceListener()

    def check_no_member(self) -> None:
        """Raise ConfigError if this is a member of its group."""
        if self.member.stage is not Stage.OUT:
            message = (
                f"this consumer is a member of group {self.member.group_id!r}, which assigns its partitions:"
                " unsubscribe and poll once before you assign others, or use another consumer"
            )
            raise ConfigError(message)

    def unsubscribe(self) -> None:
        """Leave, with the next `attend`; under the lock."""
        self._leaves = bool(self.member.owned) or self.member.stage is not Stage.OUT

    def _give_up_all(self) -> Flow[None]:
        if self.member.stage is not Stage.OUT:
            yield from self._commit_consumed()
        if self.member.owned and not self.member.lost:
            yield from self._give_up(set(self.member.owned))

    def closed(self, timeout_s: float) -> Flow[None]:
        """Commit, give everything up and leave, within this time. Raises what the listener raised."""
        member = self.member
        deadline = self._io.now() + timeout_s
        self._attending = True
        by_hand = member.stage is Stage.OUT
        if member.lost:
            yield from self._tell_lost()
        if self._options.enable_auto_commit and (by_hand or member.is_stable or member.owned):
            with self._io.lock:
                commit = self.commits.add_consumed(max(1.0, (deadline - self._io.now()) * 1000))
            if commit is not None:
                yield Wait(lambda: commit.done, deadline)
        yield from self.commits.drained(deadline)
        if member.owned:
            yield from self._call(self.listener.on_partitions_revoked, set(member.owned))
            yield from self.commits.drained(deadline)
        if member.is_nameless:
            yield Wait(lambda: not member.is_nameless, min(deadline, self._io.now() + _LEAVE_S))
        answered: list[bool] = []
        with self._io.lock:
            asked = not by_hand and member.leave("the consumer was closed", lambda: answered.append(True))
        if asked:
            yield Wait(lambda: answered, min(deadline, self._io.now() + _LEAVE_S))
        if self._faults:
            raise self._faults[0]

    # ---- commits

    def commit(self, offsets: dict[TopicPartition, OffsetAndMetadata], timeout_ms: float | None) -> Flow[None]:
        """Commit and wait. Raises CommitFailedError, or the coordinator's error that is left in the end."""
        with self._io.lock:
            self._io.check_open()
            self.check_owned(offsets.keys())
            commit = self.commits.add(offsets, None, timeout_ms)
        yield from self.commits.waited(commit)

    def membership(self, partitions: AbstractSet[TopicPartition]) -> ConsumerGroupMetadata:
        """Who this is in the group; under the lock. Raises CommitFailedError if it may not commit these partitions."""
        member = self.member
        if partitions:
            self.check_owned(partitions)
            if member.stage is not Stage.OUT and member.generation < 0:
                message = (
                    f"this consumer is no member of group {member.group_id!r} at the moment"
                    f" ({member.lost or 'it has to join again'}): its partitions may have other owners; poll, and"
                    " commit what is handed out then"
                )
                raise CommitFailedError(message)
        return ConsumerGroupMetadata(member.group_id, member.generation, member.member_id, self.instance_id)

    def check_owned(self, partitions: AbstractSet[TopicPartition]) -> None:
        """Raise CommitFailedError for partitions that a member does not own."""
        member = self.member
        if member.stage is Stage.OUT or not (others := partitions - member.owned):
            return
        topic, partition = min(others)
        message = (
            f"{topic}-{partition} is not assigned to this member of group {member.group_id!r} in generation"
            f" {member.generation} (-1: it is in none): the group may have rebalanced; poll, and commit what is handed"
            " out then"
        )
        raise CommitFailedError(message)

    def metrics(self) -> dict[str, float]:
        """Counters since the start, and seconds since the last heartbeat (-1: there was none)."""
        beat = self.member.heartbeat_at
        ago = self._io.now() - beat if beat else -1.0
        return {**self.member.counters, **self.commits.counters, "last_heartbeat_seconds_ago": ago}
