"""The consumer's state machine: where each partition is, what was fetched ahead, and the fetches under way.

A partition has two positions. `position` is the next offset that the user gets; it moves with what is handed out only,
and it is what survives errors, broken connections and restarted brokers. `fetch_offset` runs ahead of it by what is
buffered. A seek moves both, drops the buffer, and gives the partition a new generation: answers to older fetches are
not for it.

A consumer that says its rack reads from a follower there, if the leader names one (KIP-392). Of what a follower says
only records count: after any error of it the leader is asked, and is believed.

All methods are called under the client's lock.
"""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import TYPE_CHECKING

from ..errors import (
    CorruptMessageError,
    OffsetOutOfRangeError,
    RequestTimedOutError,
    StorageError,
    ZmqBrokerError,
    error_for,
)
from ..transport.messages import EARLIEST, LATEST, FetchReply, FetchRequest, PartitionFetch, PartitionFetched
from .aborted import without_aborted
from .backoff import retry_wait_s
from .connection import FOREVER, Answer, Call, Connection
from .io import body_of
from .lookup import Outcomes, ask_leaders

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .io import ClientIO
    from .metadata import PartitionState
    from .options import ConsumerOptions
    from .types import TopicPartition

_MOST_FETCHES_A_NODE = 4
"""Long polls under way at one node, for different partitions: one that became free need not wait for the others."""

_PREFIX = Struct(">qi")
_DELTA = Struct(">i")


class FetchedPartition:
    """One assigned partition."""

    __slots__ = (
        "asked", "asked_near", "buffer", "buffer_start", "buffered_bytes", "committed", "consumed", "doubted", "error",
        "failures", "far_until", "fetch_offset", "fetching", "generation", "high_watermark", "log_start_offset",
        "missing_at", "near", "near_failures", "near_until", "not_before", "partition", "paused", "position", "reset",
        "resetting", "unplaced",
    )  # fmt: skip

    def __init__(self, partition: TopicPartition, reset: int | None) -> None:
        self.partition = partition
        self.position = -1
        """-1: not yet known."""
        self.fetch_offset = -1
        self.reset = reset
        """The timestamp (or EARLIEST, LATEST) to start at, to be looked up; None: the position is known."""
        self.resetting = False
        self.unplaced = False
        """Whether to start at the group's committed offset, which is not known yet; if there is none, by `reset`."""
        self.consumed = -1
        """The position when the user last asked for more: what was handed out before that is done with."""
        self.committed = -1
        """What the group's offset is, as far as this consumer knows."""
        self.paused = False
        self.fetching = False
        self.generation = 0
        self.buffer: deque[bytes] = deque()
        """Fetched and not yet decoded: batches as they came."""
        self.buffer_start = 0
        """How much of the first of these is decoded."""
        self.buffered_bytes = 0
        self.high_watermark = -1
        self.log_start_offset = -1
        self.not_before = 0.0
        self.failures = 0
        """Attempts in a row that failed."""
        self.asked: PartitionState | None = None
        """The leader that was asked last."""
        self.asked_near = False
        """Whether a follower was asked instead."""
        self.near: int | None = None
        """The follower to read from, until `near_until`."""
        self.near_until = 0.0
        self.near_failures = 0
        """Attempts in a row that failed at followers; until `far_until` the leader is to answer itself."""
        self.far_until = 0.0
        self.doubted: PartitionState | None = None
        """The leader at the last of them: the back-off is for it, not for another."""
        self.missing_at = -1
        """The version of the metadata at which a leader said that it does not have `fetch_offset`."""
        self.error: Exception | None = None
        """To be raised when the user has got everything before it."""

    @property
    def is_at_rest(self) -> bool:
        """Whether there is nothing to ask the brokers: not now, or not by the fetcher."""
        return self.paused or self.fetching or self.resetting or self.unplaced or self.error is not None

    def seek(self, offset: int) -> None:
        """Go on at an offset."""
        self._start_over()
        self.position = self.fetch_offset = offset
        self.reset = None

    def seek_by(self, timestamp: int) -> None:
        """Go on where a lookup by timestamp says."""
        self._start_over()
        self.position = self.fetch_offset = -1
        self.reset = timestamp

    def rewind(self) -> None:
        """Drop what was fetched ahead and fetch it again: it is not usable, or not wanted now."""
        self._start_over()
        self.fetch_offset = self.position

    def _start_over(self) -> None:
        self.generation += 1
        self.fetching = False
        self.resetting = False
        self.unplaced = False
        self.buffer.clear()
        self.buffer_start = 0
        self.buffered_bytes = 0
        self.error = None
        self.not_before = 0.0
        self.failures = 0
        self.doubted = None
        self.missing_at = -1


class Fetcher:
    """Drives the partitions of one consumer."""

    def __init__(self, io: ClientIO, options: ConsumerOptions) -> None:
        self.partitions: dict[TopicPartition, FetchedPartition] = {}
        self._stepped = 0.0
        self.counters = dict.fromkeys(("fetch_requests", "fetch_replies", "bytes_fetched", "fetch_errors"), 0)
        self._io = io
        self._options = options
        self.has_offsets = options.group_id is not None
        """Whether partitions start at the committed offsets of a group."""
        self._isolation = options.isolation
        self._fetches: dict[Connection, int] = {}

    def default_reset(self) -> int | None:
        """Where partitions without a position start; None: nowhere, auto_offset_reset is none."""
        return {"earliest": EARLIEST, "latest": LATEST}.get(self._options.reset)

    def assign(self, partitions: Iterable[TopicPartition], reset: int | None) -> None:
        """Add partitions; those that are there stay as they are. reset None: they raise until the user seeks."""
        for partition in partitions:
            if partition not in self.partitions:
                state = self.partitions[partition] = FetchedPartition(partition, reset)
                state.unplaced = self.has_offsets

    def revoke(self, keep: set[TopicPartition]) -> None:
        """Drop all partitions but these."""
        for partition in self.partitions.keys() - keep:
            state = self.partitions.pop(partition)
            state.generation += 1

    @property
    def buffered_bytes(self) -> int:
        """Of all partitions."""
        return sum(state.buffered_bytes for state in self.partitions.values())

    # ---- the driver

    def step(self, now: float) -> None:
        """Look up missing positions and fetch ahead."""
        self._stepped = now
        if not self.partitions:
            return
        lookups: dict[TopicPartition, int] = {}
        by_source: dict[tuple[Connection, str], list[FetchedPartition]] = {}
        for partition, state in self.partitions.items():
            if state.is_at_rest or self._waits(state, now):
                continue
            if state.reset is not None:
                lookups[partition] = state.reset
            elif state.position < 0:
                topic, number = partition
                message = f"{topic}-{number} has no position, and auto_offset_reset is none: seek to one"
                state.error = OffsetOutOfRangeError(message)
                self._io.progress += 1
            elif state.buffered_bytes < self._options.max_partition_fetch_bytes:
                source = self._source(state, now)
                if source is not None and not source.is_backing_off:
                    rack = self._options.client_rack if now >= state.far_until else ""
                    by_source.setdefault((source, rack), []).append(state)
        if lookups:
            self._look_up(lookups, now)
        if by_source:
            room = self._options.fetch_max_bytes - self.buffered_bytes
            for (source, rack), states in by_source.items():
                if room > 0 and self._fetches.get(source, 0) < _MOST_FETCHES_A_NODE:
                    self._fetch(source, rack, states, room, now)

    def _source(self, state: FetchedPartition, now: float) -> Connection | None:
        """Who is to be read from: the follower that the leader named, or the leader; None if it is not known."""
        metadata = self._io.metadata
        state.asked_near = False
        if state.near is not None and now < state.near_until:
            follower = metadata.node(state.near)
            if follower is not None and not follower.is_backing_off:
                state.asked_near = True
                return follower
            self._leave(state)
        state.near = None
        return metadata.leader(*state.partition)

    def _leave(self, state: FetchedPartition, error: ZmqBrokerError | None = None) -> None:
        """Read from the leader, for a while: a follower did not do."""
        state.near = None
        state.near_failures += 1
        silent = isinstance(error, RequestTimedOutError)  # the next one would cost as long again
        wait_s = (
            self._options.metadata_max_age_ms / 1000 if silent else retry_wait_s(self._options, state.near_failures)
        )
        state.far_until = self._io.now() + wait_s

    def _waits(self, state: FetchedPartition, now: float) -> bool:
        """Whether a partition is in its back-off, which another leader ends, or awaits news of its leader."""
        metadata = self._io.metadata
        if state.doubted is not None and state.doubted != metadata.state(*state.partition):
            state.doubted = None
            state.failures = 0
            state.not_before = 0.0
        return now < state.not_before or state.missing_at == metadata.version

    def next_deadline(self) -> float:
        """When a back-off ends."""
        return min(
            (state.not_before for state in self.partitions.values() if state.not_before > self._stepped),
            default=FOREVER,
        )

    # ---- positions

    def _look_up(self, lookups: dict[TopicPartition, int], now: float) -> None:
        generations = {partition: self.partitions[partition].generation for partition in lookups}

        def done(found: Outcomes) -> None:
            for partition, outcome in found.items():
                state = self.partitions.get(partition)
                if state is not None and state.generation == generations.get(partition):
                    state.resetting = False
                    self._place(state, outcome, lookups[partition])

        deadline = now + self._options.request_timeout_ms / 1000
        for partition in lookups:
            state = self.partitions[partition]
            state.resetting = True  # before they are asked: a refusal may come at once
            state.asked = self._io.metadata.state(*partition)
        asked = ask_leaders(self._io, lookups, done, deadline, self._isolation)
        for partition in lookups.keys() - set(asked):
            self.partitions[partition].resetting = False

    def _place(self, state: FetchedPartition, outcome: object, timestamp: int) -> None:
        self._io.progress += 1
        if isinstance(outcome, ZmqBrokerError):
            self._back_off(state, outcome)
            return
        offset = getattr(outcome, "offset", -1)
        if offset < 0 and timestamp != LATEST:
            state.reset = LATEST  # no record is that young: go on with what comes next
            return
        state.seek(max(0, offset))

    def _back_off(self, state: FetchedPartition, error: ZmqBrokerError, leader: Connection | None = None) -> None:
        self.counters["fetch_errors"] += 1
        if not error.retriable:
            state.error = error
            return
        self._io.metadata.refresh(besides=leader)
        state.failures += 1
        state.not_before = self._io.now() + retry_wait_s(self._options, state.failures)
        state.doubted = state.asked

    # ---- fetching

    def _fetch(self, source: Connection, rack: str, states: list[FetchedPartition], room: int, now: float) -> None:
        options = self._options
        metadata = self._io.metadata
        # The partition asked for first is served first when the answer is full: take turns.
        states.sort(key=lambda state: state.buffered_bytes)
        entries = []
        for state in states:
            topic, partition = state.partition
            known = state.asked = metadata.topics[topic][partition]
            most = options.max_partition_fetch_bytes
            entries.append(PartitionFetch(topic, partition, state.fetch_offset, most, known.leader_epoch))
            state.fetching = True
        generations = [state.generation for state in states]
        self._fetches[source] = self._fetches.get(source, 0) + 1
        self.counters["fetch_requests"] += 1

        def done(outcome: Answer | ZmqBrokerError) -> None:
            self._fetches[source] -= 1
            fresh = [
                state if state.generation == generation and self.partitions.get(state.partition) is state else None
                for state, generation in zip(states, generations, strict=True)
            ]
            self._answered(fresh, outcome, source)

        # Data that is buffered is not waited with: only an empty-handed consumer has reason to wait for more bytes.
        request = FetchRequest(
            *(options.fetch_max_wait_ms, options.fetch_min_bytes, room, entries, rack, self._isolation)
        )
        deadline = now + (options.request_timeout_ms + options.fetch_max_wait_ms) / 1000
        source.submit(Call(request, done, deadline), now)

    def _answered(
        self, states: list[FetchedPartition | None], outcome: Answer | ZmqBrokerError, source: Connection
    ) -> None:
        self._io.progress += 1
        self.counters["fetch_replies"] += 1
        if isinstance(outcome, ZmqBrokerError):
            for state in states:
                if state is not None:
                    state.fetching = False
                    self._no_answer(state, outcome, source)
            return
        entries = body_of(outcome, FetchReply).partitions
        for position, state in enumerate(states):
            if state is None:
                continue
            state.fetching = False
            entry = entries[position] if position < len(entries) else None
            if entry is None or (entry.topic, entry.partition) != state.partition:
                error = StorageError(f"the broker's answer does not match the fetch of {state.partition}")
                self._no_answer(state, error, source)
            elif entry.error_code:
                self._failed(state, entry, source)
            elif entry.preferred_read_replica >= 0:
                state.near = entry.preferred_read_replica
                state.near_until = self._io.now() + self._options.metadata_max_age_ms / 1000
            else:
                batches = outcome.batches[position] if position < len(outcome.batches) else b""
                self._store(state, entry, batches)

    def _failed(self, state: FetchedPartition, entry: PartitionFetched, source: Connection) -> None:
        error = error_for(entry.error_code, entry.error_message)
        if isinstance(error, OffsetOutOfRangeError) and not state.asked_near:
            self._out_of_range(state, error, source)
        else:
            self._no_answer(state, error, source)

    def _no_answer(self, state: FetchedPartition, error: ZmqBrokerError, source: Connection) -> None:
        if not state.asked_near:
            self._back_off(state, error, source)
            return
        self.counters["fetch_errors"] += 1
        self._io.metadata.refresh(besides=source)
        self._leave(state, error)

    def _out_of_range(self, state: FetchedPartition, error: OffsetOutOfRangeError, leader: Connection) -> None:
        metadata = self._io.metadata
        if state.buffer:
            # The user has not come that far yet; perhaps it exists by then.
            state.not_before = self._io.now() + self._options.retry_backoff_ms / 1000
            return
        if state.missing_at < 0:
            # A node that was the leader, or is behind, may say so too: believe it when others call it the leader.
            state.missing_at = metadata.version
            metadata.refresh(at_once=True, besides=leader)
            return
        reset = self.default_reset()
        if reset is None:
            topic, partition = state.partition
            state.error = OffsetOutOfRangeError(
                f"{topic}-{partition}: offset {state.fetch_offset} does not exist ({error.message}); seek to another"
            )
        else:
            state.seek_by(reset)

    def _store(self, state: FetchedPartition, entry: PartitionFetched, batches: bytes) -> None:
        state.high_watermark = entry.high_watermark
        state.log_start_offset = entry.log_start_offset
        state.failures = 0
        state.doubted = None
        state.missing_at = -1
        if state.asked_near:
            state.near_failures = 0
        if not batches:
            return
        self.counters["bytes_fetched"] += len(batches)
        start = state.fetch_offset
        end = end_of_batches(batches, start)
        if end == start:
            topic, partition = state.partition
            state.error = CorruptMessageError(
                f"{topic}-{partition}: what the broker sent for offset {start} ({len(batches)} bytes) is no whole batch"
            )
            return
        state.fetch_offset = end
        for stretch in without_aborted(batches, entry.aborted) if entry.aborted else (batches,):
            state.buffer.append(stretch)
            state.buffered_bytes += len(stretch)


def end_of_batches(batches: bytes, at_least: int) -> int:
    """The offset after the last whole batch; what does not look like batches is for the decoder to complain about."""
    position = 0
    end = at_least
    view = memoryview(batches)
    while len(batches) - position >= 61:  # noqa: PLR2004 - a batch's header
        base_offset, length = _PREFIX.unpack_from(view, position)
        (delta,) = _DELTA.unpack_from(view, position + 23)
        if length < 49 or position + 12 + length > len(batches):  # noqa: PLR2004 - no batch is that short
            break
        end = max(end, base_offset + delta + 1)
        position += 12 + length
    return end
