"""Where a consumer is in its partitions: positions, seeks, and offsets by time. The consumer's base class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..transport.messages import EARLIEST, LATEST
from .io import Wait
from .lookup import list_offsets
from .types import OffsetAndTimestamp, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .decoder import Chunk
    from .fetcher import FetchedPartition, Fetcher
    from .io import ClientIO, Flow


class Positions:
    """What a consumer knows and says of offsets."""

    _io: ClientIO
    _fetcher: Fetcher
    _timeout_s: float
    _isolation: int
    _chunk: Chunk | None
    """Decoded records that are not all handed out."""

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
        return self._io.run(self.offsets_by_time(timestamps))

    def offsets_by_time(
        self, timestamps: Mapping[TopicPartition, int]
    ) -> Flow[dict[TopicPartition, OffsetAndTimestamp | None]]:
        """`offsets_for_times` as a flow."""
        found = yield from list_offsets(self._io, timestamps, self._timeout_s, self._isolation)
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
        """The offset after the last readable record of each partition.

        With isolation_level="read_committed" that is the last stable offset: where the first open transaction begins.
        """
        return self._io.run(self.offsets(partitions, LATEST))

    def offsets(self, partitions: Iterable[TopicPartition], timestamp: int) -> Flow[dict[TopicPartition, int]]:
        """Offsets at a timestamp as a flow."""
        wanted = {TopicPartition(*partition): timestamp for partition in partitions}
        found = yield from list_offsets(self._io, wanted, self._timeout_s, self._isolation)
        return {partition: found[partition].offset for partition in wanted}

    def highwater(self, partition: TopicPartition) -> int | None:
        """The high watermark of a partition as of the last fetch; None: there was none."""
        with self._io.lock:
            mark = self._state(partition).high_watermark
        return mark if mark >= 0 else None

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

    def _state(self, partition: TopicPartition) -> FetchedPartition:
        state = self._fetcher.partitions.get(TopicPartition(*partition))
        if state is None:
            message = f"{partition} is not assigned to this consumer"
            raise ValueError(message)
        return state

    def _states(self, partitions: Sequence[TopicPartition]) -> list[FetchedPartition]:
        return [self._state(partition) for partition in partitions]
