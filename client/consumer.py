"""The consumer: reads partitions from a position on, by iteration or by polls, and fetches ahead meanwhile."""

from __future__ import annotations

import sys
from itertools import chain, islice
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .decoder import Chunk, Decoder
from .fetcher import Fetcher
from .group_methods import GroupMethods
from .io import ClientIO, Wait
from .options import ConsumerOptions, make_options
from .subscription import Subscription
from .types import ConsumerRecord, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator
    from types import TracebackType
    from typing import Self

    from typing_extensions import Unpack

    from .consumer_settings import ConsumerSettings
    from .group_session import GroupSession
    from .io import Flow
    from .rebalance_listener import ConsumerRebalanceListener

_CHUNK_RECORDS = 500
"""How many records are decoded at once, at least, if they are there."""


class Consumer(GroupMethods):
    """Reads records. Belongs to one thread at a time.

    Iterate it, or `poll` it. Nothing is connected before that. With a group_id it shares the partitions of its topics
    with the other members of the group, and commits offsets; without one it reads every partition, alone.
    Raises ConfigError for an unknown setting or a value out of range.

    Methods that ask brokers raise the broker's error if it is not retriable, or still there after request_timeout_ms.
    """

    def __init__(self, *topics: str, **settings: Unpack[ConsumerSettings]) -> None:
        self._setup(topics, make_options(ConsumerOptions, settings))
        self._io.start_thread("zmqbroker-consumer")

    @classmethod
    def without_thread(cls, topics: tuple[str, ...], options: ConsumerOptions) -> Self:
        """A consumer that an event loop drives."""
        consumer = cls.__new__(cls)
        consumer._setup(topics, options)  # noqa: SLF001 - of its own class
        return consumer

    def _setup(self, topics: tuple[str, ...], options: ConsumerOptions) -> None:
        self._options = options
        self.io = self._io = ClientIO(options)
        self._io.metadata.auto_create = options.allow_auto_create_topics
        self._fetcher = Fetcher(self._io, options)
        self._decoder = Decoder(options)
        self._group = self._join_group(options)
        self._subscription = Subscription(self._io, self._fetcher, self._group.member if self._group else None)
        self._io.drivers += [self._subscription, self._fetcher]
        self._timeout_s = options.request_timeout_ms / 1000
        self._isolation = options.isolation
        self._chunk: Chunk | None = None
        self._turn = 0
        self._records: Iterator[ConsumerRecord] | None = None
        if topics:
            self.subscribe(topics)

    def _join_group(self, options: ConsumerOptions) -> GroupSession | None:
        if options.group_id is None:
            return None
        from .group_session import GroupSession  # noqa: PLC0415 - only members of groups need it

        group = GroupSession(self._io, options, self._fetcher, self._settle)
        self._io.drivers += [group.coordinator, group.member, group.commits]
        return group

    # ---- what to read

    def subscribe(
        self,
        topics: str | Iterable[str] = (),
        pattern: str | None = None,
        listener: ConsumerRebalanceListener | None = None,
    ) -> None:
        """Read these topics, partitions that come later too, instead of what was read before.

        pattern: a regular expression instead; topics whose names it matches from their beginning, those that come later
        too. listener hears of partitions that come and go, if this consumer is in a group.
        """
        names = {topics} if isinstance(topics, str) else set(topics)
        if bool(names) == (pattern is not None) or not all(isinstance(name, str) and name for name in names):
            message = f"topics={topics!r}, pattern={pattern!r}: names of topics are expected, or a pattern"
            raise ConfigError(message)
        if listener is not None and self._group is None:
            message = "listener: without a group_id there are no rebalances to listen to; give the consumer a group_id"
            raise ConfigError(message)
        self._io.check_open()
        with self._io.lock:
            self._settle()
            if pattern is None:
                self._subscription.subscribe(names)
            else:
                self._subscription.subscribe_pattern(pattern)
            if self._group is not None:
                self._group.subscribed(listener)

    def unsubscribe(self) -> None:
        """Read nothing, and leave the group. The listener hears of it with the next poll, or when this is closed."""
        with self._io.lock:
            self._settle()
            self._subscription.clear()
            if self._group is not None:
                self._group.unsubscribe()

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read exactly these partitions; those that were read before go on where they are.

        With a group_id they start at the group's offsets, without taking part in its rebalances.
        """
        wanted = [TopicPartition(*partition) for partition in partitions]
        self._io.check_open()
        with self._io.lock:
            if self._group is not None:
                self._group.check_no_member()
            self._settle()
            self._subscription.assign(wanted)

    def subscription(self) -> set[str] | None:
        """The topics subscribed to; None if partitions are assigned by hand."""
        return self._subscription.topics

    def assignment(self) -> set[TopicPartition]:
        """The partitions that are read."""
        with self._io.lock:
            return set(self._fetcher.partitions)

    def pause(self, *partitions: TopicPartition) -> None:
        """Hand out nothing of these partitions until `resume`."""
        with self._io.lock:
            self._settle()
            for state in self._states(partitions):
                state.paused = True

    def resume(self, *partitions: TopicPartition) -> None:
        """Go on with partitions that were paused."""
        with self._io.lock:
            for state in self._states(partitions):
                state.paused = False

    def paused(self) -> set[TopicPartition]:
        """The partitions that are paused."""
        with self._io.lock:
            return {partition for partition, state in self._fetcher.partitions.items() if state.paused}

    # ---- records

    def poll(self, timeout_ms: float = 0, max_records: int | None = None) -> dict[TopicPartition, list[ConsumerRecord]]:
        """The next records, max_poll_records at most, as soon as there are any; empty if none came in time.

        Raises CorruptMessageError for a damaged batch, OffsetOutOfRangeError for a position that does not exist with
        auto_offset_reset none, and what a deserializer raised: the position stays before what is at fault.
        """
        if self._group is None:
            records = self._take(self._most(max_records))
            if records:
                return records
        return self._io.run(self.polled(timeout_ms, max_records))

    def polled(self, timeout_ms: float, max_records: int | None) -> Flow[dict[TopicPartition, list[ConsumerRecord]]]:
        """`poll` as a flow."""
        most = self._most(max_records)
        deadline = self._io.now() + timeout_ms / 1000
        if self._group is not None:
            self._group.enter(self._chunk)
        try:
            ready = True
            while True:
                if self._group is not None and self._group.has_event:
                    yield from self._group.attend()
                records = self._take(most)
                if records or not ready:
                    return records
                ready = yield Wait(self._has_news, deadline)
        finally:
            if self._group is not None:
                self._group.exit()

    def _most(self, max_records: int | None) -> int:
        most = self._options.max_poll_records if max_records is None else max_records
        if most < 1:
            message = f"max_records={max_records!r}: 1 or more is expected"
            raise ConfigError(message)
        return most

    def _take(self, most: int) -> dict[TopicPartition, list[ConsumerRecord]]:
        """What is buffered, up to so many records."""
        self._io.check_open()
        taken: dict[TopicPartition, list[ConsumerRecord]] = {}
        count = 0
        while count < most:
            chunk = self._chunk or self._next_chunk(_CHUNK_RECORDS, quiet=count > 0)
            if chunk is None:
                break
            records = list(islice(chunk.iterator, most - count))
            count += len(records)
            if not chunk.left:
                with self._io.lock:
                    self._settle()
            if records:
                taken.setdefault(chunk.state.partition, []).extend(records)
        if count:
            self._pump()  # ask for what comes next while the user is busy with this
        return taken

    def __iter__(self) -> Iterator[ConsumerRecord]:
        """Iterate over records for ever, or until none came for consumer_timeout_ms. Raises as `poll`."""
        # Made of C parts: a record costs no Python call. The chunk at hand is the consumer's, so that positions,
        # seeks and polls between two records know of it.
        return chain.from_iterable(self._chunks())

    def __next__(self) -> ConsumerRecord:
        """The next record. Raises StopIteration after consumer_timeout_ms without one."""
        if self._records is None:
            self._records = iter(self)
        try:
            return next(self._records)
        except BaseException:
            self._records = None
            raise

    def _chunks(self) -> Generator[Iterator[ConsumerRecord], None, None]:
        while (chunk := self.take_chunk() or self._io.run(self.chunk_came())) is not None:
            yield chunk

    def take_chunk(self) -> Iterator[ConsumerRecord] | None:
        """The next records that are here, to be handed out one by one; None: nothing is here."""
        self._io.check_open()
        if self._chunk is not None and not self._chunk.left:
            with self._io.lock:
                self._settle()
        group = self._group
        if group is None:
            return self._hand_out()
        busy = group.enter(self._chunk)
        try:
            return None if busy else self._hand_out()
        finally:
            group.exit()

    def _hand_out(self) -> Iterator[ConsumerRecord] | None:
        chunk = self._chunk or self._next_chunk(_CHUNK_RECORDS, quiet=False)
        if chunk is None:
            return None
        self._pump()
        return chunk.iterator if self._group is None else self._group.slice(chunk)

    def chunk_came(self) -> Flow[Iterator[ConsumerRecord] | None]:
        """Wait for `take_chunk` to have something; None after consumer_timeout_ms."""
        deadline = self._io.now() + self._options.consumer_timeout_ms / 1000
        if self._group is not None:
            self._group.enter(self._chunk)
        try:
            ready = True
            while True:
                if self._group is not None and self._group.has_event:
                    yield from self._group.attend()
                chunk = self._hand_out()
                if chunk is not None or not ready:
                    return chunk
                ready = yield Wait(self._has_news, deadline)
        finally:
            if self._group is not None:
                self._group.exit()

    def _pump(self) -> None:
        self._io.lock.acquire()
        self._io.pass_and_release()

    def _has_news(self) -> bool:
        """Whether there is something to hand out or to raise."""
        return (
            (self._chunk is not None and self._chunk.left > 0)
            or self._subscription.error is not None
            or (self._group is not None and self._group.has_event)
            or any(
                (state.buffer or state.error is not None) and not state.paused
                for state in self._fetcher.partitions.values()
            )
        )

    def _next_chunk(self, wanted: int, *, quiet: bool) -> Chunk | None:
        """Decode what is next, partition by partition in turn. Raises a partition's error unless quiet."""
        with self._io.lock:
            if not quiet and self._subscription.error is not None:
                error, self._subscription.error = self._subscription.error, None
                raise error
            states = list(self._fetcher.partitions.values())
            for position in range(len(states)):
                state = states[(self._turn + position) % len(states)]
                if state.paused:
                    continue
                chunk = self._decoder.decode(state, wanted) if state.buffer else None
                if chunk is not None:
                    self._turn = (self._turn + position + 1) % len(states)
                    self._chunk = chunk
                    return chunk
                if state.error is not None and not quiet:
                    fault, state.error = state.error, None
                    raise fault
        return None

    # ---- the cluster

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """The partitions of a topic; None if it does not exist."""
        return self._io.run(self.topic_partitions(topic))

    def topic_partitions(self, topic: str) -> Flow[set[int] | None]:
        """`partitions_for_topic` as a flow."""
        return self._subscription.partitions_of(topic, self._timeout_s)

    def topics(self) -> set[str]:
        """All topics that are no internal ones."""
        return self._io.run(self.all_topics())

    def all_topics(self) -> Flow[set[str]]:
        """`topics` as a flow."""
        return self._subscription.all_topics(self._timeout_s)

    def bootstrap_connected(self) -> bool:
        """Whether some broker is connected."""
        with self._io.lock:
            return any(connection.is_usable for connection in self._io.connections.values())

    def metrics(self) -> dict[str, float]:
        """Counters since the start, and what is buffered now."""
        with self._io.lock:
            group = self._group.metrics() if self._group is not None else {}
            return {**self._fetcher.counters, "buffered_bytes": self._fetcher.buffered_bytes, **group}

    # ---- the end

    def close(self, timeout_ms: float = 5_000) -> None:
        """Disconnect; what was fetched ahead is dropped. A member of a group commits, gives up its share and leaves.

        That takes timeout_ms at most. If enable_auto_commit is set, all that was handed out is committed; while an
        exception is being handled, all but what was handed out last. Raises what the rebalance listener raised.
        """
        in_work = sys.exc_info()[1] is not None
        try:
            if not self._io.closed:
                self._io.run(self.closing(timeout_ms, in_work=in_work))
        finally:
            self.shut()

    def closing(self, timeout_ms: float, *, in_work: bool) -> Flow[None]:
        """What `close` has to say to the brokers, as a flow."""
        if self._group is not None:
            with self._io.lock:
                self._group.end(self._chunk, in_work=in_work)
                self._chunk = None
            yield from self._group.closed(timeout_ms / 1000)

    def shut(self) -> None:
        """Disconnect."""
        with self._io.lock:
            if not self._io.closed:
                self._settle()
            self._io.drivers.clear()
        self._io.close()

    def __enter__(self) -> Self:
        """The consumer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
