"""The consumer: reads partitions from a position on, by iteration or by polls, and fetches ahead meanwhile."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypedDict

from ..errors import ConfigError
from ..transport.messages import EARLIEST, LATEST
from .decoder import Chunk, Decoder
from .fetcher import FetchedPartition, Fetcher
from .io import ClientIO, Wait
from .lookup import list_offsets
from .options import ConsumerOptions, make_options
from .subscription import Subscription
from .types import ConsumerRecord, OffsetAndTimestamp, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from typing_extensions import Unpack

    from .io import Flow

_CHUNK_RECORDS = 500
"""How many records are decoded at once, at least, if they are there."""


class ConsumerSettings(TypedDict, total=False):
    """The keywords of a consumer; `client.options.ConsumerOptions` says what they mean."""

    bootstrap_servers: str | Sequence[str]
    client_id: str
    group_id: str | None
    key_deserializer: Callable[[bytes], Any] | None
    value_deserializer: Callable[[bytes], Any] | None
    allow_auto_create_topics: bool
    auto_offset_reset: str
    fetch_min_bytes: int
    fetch_max_wait_ms: int
    fetch_max_bytes: int
    max_partition_fetch_bytes: int
    max_poll_records: int
    consumer_timeout_ms: float
    check_crcs: bool
    request_timeout_ms: int
    connect_timeout_ms: int
    retry_backoff_ms: int
    reconnect_backoff_ms: int
    reconnect_backoff_max_ms: int
    metadata_max_age_ms: int


class Consumer:
    """Reads records. Belongs to one thread at a time.

    Iterate it, or `poll` it. Nothing is connected before that. Without a group it reads every partition of its topics,
    alone, and commits nothing. Raises ConfigError for an unknown setting or a value out of range.

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
        self._subscription = Subscription(self._io, self._fetcher)
        self._io.drivers += [self._subscription, self._fetcher]
        self._timeout_s = options.request_timeout_ms / 1000
        self._chunk: Chunk | None = None
        """Decoded records that are not all handed out."""
        self._turn = 0
        self._records: Iterator[ConsumerRecord] | None = None
        if topics:
            self.subscribe(topics)

    # ---- what to read

    def subscribe(self, topics: str | Iterable[str]) -> None:
        """Read all partitions of these topics, those that come later too, instead of what was read before."""
        names = {topics} if isinstance(topics, str) else set(topics)
        if not names or not all(isinstance(name, str) and name for name in names):
            message = f"topics={topics!r}: names of topics are expected"
            raise ConfigError(message)
        self._io.check_open()
        with self._io.lock:
            self._settle()
            self._subscription.subscribe(names)

    def unsubscribe(self) -> None:
        """Read nothing."""
        with self._io.lock:
            self._settle()
            self._subscription.clear()

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read exactly these partitions; those that were read before go on where they are."""
        wanted = [TopicPartition(*partition) for partition in partitions]
        self._io.check_open()
        with self._io.lock:
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
        records = self._take(self._most(max_records))
        return records or self._io.run(self.polled(timeout_ms, max_records))

    def polled(self, timeout_ms: float, max_records: int | None) -> Flow[dict[TopicPartition, list[ConsumerRecord]]]:
        """`poll` as a flow."""
        most = self._most(max_records)
        deadline = self._io.now() + timeout_ms / 1000
        while True:
            ready = yield Wait(self._has_news, deadline)
            records = self._take(most)
            if records or not ready:
                return records

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
        chunk = self._chunk or self._next_chunk(_CHUNK_RECORDS, quiet=False)
        if chunk is None:
            return None
        self._pump()
        return chunk.iterator

    def chunk_came(self) -> Flow[Iterator[ConsumerRecord] | None]:
        """Wait for `take_chunk` to have something; None after consumer_timeout_ms."""
        deadline = self._io.now() + self._options.consumer_timeout_ms / 1000
        while True:
            ready = yield Wait(self._has_news, deadline)
            chunk = self.take_chunk()
            if chunk is not None or not ready:
                return chunk

    def _pump(self) -> None:
        self._io.lock.acquire()
        self._io.pass_and_release()

    def _has_news(self) -> bool:
        """Whether there is something to hand out or to raise."""
        return (
            (self._chunk is not None and self._chunk.left > 0)
            or self._subscription.error is not None
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

    def _settle(self) -> None:
        """Book what was handed out of the chunk at hand, and put the rest back: under the lock."""
        chunk, self._chunk = self._chunk, None
        if chunk is None:
            return
        state = chunk.state
        if state.generation != chunk.generation:
            return  # it has been sent elsewhere meanwhile
        state.position = chunk.position
        if chunk.left:
            # Fetched again: what is decoded cannot be put back, and this is rare (a seek, a pause, a new subscription).
            chunk.drop()
            state.rewind()

    # ---- positions

    def position(self, partition: TopicPartition) -> int:
        """The offset of the next record of a partition; waits until it is known."""
        return self._io.run(self.positioned(partition))

    def positioned(self, partition: TopicPartition) -> Flow[int]:
        """`position` as a flow."""
        with self._io.lock:
            state = self._state(partition)
            chunk = self._chunk
            if chunk is not None and chunk.state is state:
                return chunk.position
        if state.position < 0:
            yield Wait(lambda: state.position >= 0 or state.error, self._io.now() + self._timeout_s)
        if state.position < 0:
            if state.error is not None:
                raise state.error
            raise self._io.metadata.why_unknown(partition.topic)
        return state.position

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on at an offset; if it does not exist, auto_offset_reset says what happens when it is read."""
        if not isinstance(offset, int) or isinstance(offset, bool) or offset < 0:
            message = f"offset={offset!r}: 0 or more is expected"
            raise ValueError(message)
        with self._io.lock:
            self._settle()
            self._state(partition).seek(offset)

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """Go on at the first record of these partitions; of all if none are named."""
        self._seek_by(partitions, EARLIEST)

    def seek_to_end(self, *partitions: TopicPartition) -> None:
        """Go on with the record after the last that is there when the brokers are asked."""
        self._seek_by(partitions, LATEST)

    def seek_to_time(self, timestamp_ms: int, *partitions: TopicPartition) -> None:
        """Go on at the first record that is not older (ms since 1970); at the end where all are."""
        if timestamp_ms < 0:
            message = f"timestamp_ms={timestamp_ms}: 0 or more is expected"
            raise ValueError(message)
        self._seek_by(partitions, timestamp_ms)

    def _seek_by(self, partitions: Sequence[TopicPartition], timestamp: int) -> None:
        with self._io.lock:
            self._settle()
            for state in self._states(partitions or tuple(self._fetcher.partitions)):
                state.seek_by(timestamp)

    def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """The first record of each partition that is not older than a time (ms since 1970); None: all are older."""
        found = self._io.run(list_offsets(self._io, timestamps, self._timeout_s))
        return {
            partition: None
            if entry.offset < 0
            else OffsetAndTimestamp(entry.offset, entry.timestamp, entry.leader_epoch)
            for partition, entry in found.items()
        }

    def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offset of each partition."""
        return self._io.run(self.offsets(partitions, EARLIEST))

    def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset after the last readable record of each partition."""
        return self._io.run(self.offsets(partitions, LATEST))

    def offsets(self, partitions: Iterable[TopicPartition], timestamp: int) -> Flow[dict[TopicPartition, int]]:
        """Offsets at a timestamp as a flow."""
        wanted = {TopicPartition(*partition): timestamp for partition in partitions}
        found = yield from list_offsets(self._io, wanted, self._timeout_s)
        return {partition: found[partition].offset for partition in wanted}

    def highwater(self, partition: TopicPartition) -> int | None:
        """The high watermark of a partition as of the last fetch; None: there was none."""
        with self._io.lock:
            mark = self._state(partition).high_watermark
        return mark if mark >= 0 else None

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
            return {**self._fetcher.counters, "buffered_bytes": self._fetcher.buffered_bytes}

    # ---- the end

    def close(self) -> None:
        """Disconnect; what was fetched ahead is dropped."""
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

    def _state(self, partition: TopicPartition) -> FetchedPartition:
        state = self._fetcher.partitions.get(TopicPartition(*partition))
        if state is None:
            message = f"{partition} is not assigned to this consumer"
            raise ValueError(message)
        return state

    def _states(self, partitions: Sequence[TopicPartition]) -> list[FetchedPartition]:
        return [self._state(partition) for partition in partitions]
