"""From fetched batches to the records that a user gets, a few batches at a time."""

from __future__ import annotations

from operator import length_hint
from typing import TYPE_CHECKING

from ..errors import CorruptMessageError, ZmqBrokerError
from ..log.batch import HEADER_SIZE, TIMESTAMP_TYPE_BIT, BatchHeader, computed_crc, read_header
from ..log.records import decode_records
from .types import ConsumerRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..log.record import Record
    from .fetcher import FetchedPartition
    from .options import ConsumerOptions

MAX_DECOMPRESSED_BYTES = 256 * 1024 * 1024
"""A batch that decompresses to more is refused: no broker stores one, so it is damaged or meant to do harm."""


class Chunk:
    """Decoded records of one partition on their way to the user."""

    __slots__ = ("generation", "iterator", "next_position", "records", "state")

    def __init__(self, state: FetchedPartition, records: list[ConsumerRecord], next_position: int) -> None:
        self.state = state
        self.generation = state.generation
        self.records = records
        self.iterator = iter(records)
        """What is not handed out yet."""
        self.next_position = next_position
        """Where the partition is when all of them are."""

    @property
    def position(self) -> int:
        """Offset of the next record to hand out."""
        left = self.left
        return self.records[-left].offset if left else self.next_position

    @property
    def left(self) -> int:
        """How many records are not handed out yet."""
        return length_hint(self.iterator)

    def drop(self) -> None:
        """Hand out no more of them."""
        self.records.clear()


class Decoder:
    """Decodes by the consumer's settings."""

    def __init__(self, options: ConsumerOptions) -> None:
        self._check_crcs = options.check_crcs
        self._key = options.key_deserializer
        self._value = options.value_deserializer

    def decode(self, state: FetchedPartition, wanted: int) -> Chunk | None:
        """Decode batches from the front of a partition's buffer until so many records are there; None: nothing is.

        Moves nothing but the buffer: the position is the chunk's to tell. A batch that is not right ends it, and is
        the partition's error: CorruptMessageError, UnsupportedCompressionError, or what a deserializer raised.
        """
        records: list[ConsumerRecord] = []
        position = state.position
        while state.buffer and len(records) < wanted:
            frame = state.buffer[0]
            try:
                header, batch = next_batch(frame, state.buffer_start)
                if header.next_offset > position:
                    position = self._decode_batch(state, header, batch, position, records)
            except ZmqBrokerError as error:
                topic, partition = state.partition
                message = f"{topic}-{partition} at offset {position}: {error.message}"
                state.rewind()
                state.error = type(error)(message)
                break
            if state.error is not None:
                break
            state.buffer_start += header.size
            state.buffered_bytes -= header.size
            if state.buffer_start >= len(frame):
                state.buffer.popleft()
                state.buffer_start = 0
        if records:
            return Chunk(state, records, position)
        state.position = position
        return None

    def _decode_batch(
        self,
        state: FetchedPartition,
        header: BatchHeader,
        batch: memoryview,
        position: int,
        out: list[ConsumerRecord],
    ) -> int:
        """Append the records of one batch from a position on; returns the position after it."""
        records = records_of(header, batch, check_crc=self._check_crcs)
        if not records:
            return header.next_offset
        if header.base_offset < position:
            records = [record for record in records if record.offset >= position]
        topic, partition = state.partition
        epoch = header.leader_epoch
        kind = 1 if header.attributes & TIMESTAMP_TYPE_BIT else 0
        if self._key is not None or self._value is not None:
            return self._deserialize(state, header, records, out)
        make = ConsumerRecord
        out += [
            make(
                topic, partition, epoch, record.offset, record.timestamp, kind, record.key, record.value, record.headers
            )
            for record in records
        ]
        return header.next_offset

    def _deserialize(
        self, state: FetchedPartition, header: BatchHeader, records: Sequence[Record], out: list[ConsumerRecord]
    ) -> int:
        topic, partition = state.partition
        kind = 1 if header.attributes & TIMESTAMP_TYPE_BIT else 0
        for record in records:
            key, value = record.key, record.value
            sizes = (-1 if key is None else len(key), -1 if value is None else len(value))
            try:
                new_key = self._key(key) if self._key is not None and key is not None else key
                new_value = self._value(value) if self._value is not None and value is not None else value
            except Exception as error:  # noqa: BLE001 - it is the user's function, and the user gets what it raised
                error.add_note(f"while deserializing {topic}-{partition} at offset {record.offset}")
                state.rewind()
                state.error = error
                return record.offset
            out.append(
                ConsumerRecord(
                    *(topic, partition, header.leader_epoch, record.offset, record.timestamp, kind),
                    *(new_key, new_value, record.headers, sizes),
                )
            )
        return header.next_offset


def next_batch(frame: bytes, start: int) -> tuple[BatchHeader, memoryview]:
    """The batch at a position of what was fetched. Raises CorruptMessageError for what is no whole batch."""
    header = read_header(frame, start)
    end = start + header.size
    if end > len(frame):
        message = f"the batch is {header.size} bytes long and {len(frame) - start} came"
        raise CorruptMessageError(message)
    return header, memoryview(frame)[start:end]


def records_of(header: BatchHeader, batch: memoryview, *, check_crc: bool) -> Sequence[Record]:
    """The records of one whole batch; none of a control batch, which is not for users.

    Raises CorruptMessageError, UnsupportedCompressionError or InvalidRecordError for a batch that is not right.
    """
    if check_crc and (crc := computed_crc(batch)) != header.crc:
        message = f"the batch's CRC-32C is {crc:#010x} and should be {header.crc:#010x}; it was damaged on its way"
        raise CorruptMessageError(message)
    if header.is_control or header.records_count == 0:
        return ()
    data: memoryview | bytes = batch[HEADER_SIZE:]
    if header.compression:
        from ..log.compression import decompress  # noqa: PLC0415 - only compressed batches need it

        data = decompress(header.compression, data, MAX_DECOMPRESSED_BYTES)
    records: Sequence[Record] = decode_records(header, data)
    return records
