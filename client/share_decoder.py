"""From the answers to share fetches to leased records: only what was acquired, out of the batches that hold it.

Offsets that were acquired and that no record has are gaps. A batch that does not decode is nobody's to read: its
acquired records are rejected, so that the queue goes on behind them. A record that a deserializer does not take is
released, and the user gets what the deserializer raised.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING

from ..errors import ZmqBrokerError
from ..log.batch import TIMESTAMP_TYPE_BIT, BatchHeader
from ..transport.share_messages import ACK_GAP, ACK_REJECT, ACK_RELEASE, AcquiredRecords, PartitionShared
from .decoder import next_batch, records_of
from .share_types import ShareRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..log.record import Record
    from .options import ShareConsumerOptions

logger = logging.getLogger(__name__)

_OFFSET = attrgetter("offset")
_MOST_KEPT = 16
"""Batches that are kept decoded, because only some of their records were leased."""

Said = tuple[int, int, int, str]
"""First and last offset, the kind of an acknowledgement, and its reason."""


class Fetched:
    """Leased records of one partition as they came."""

    __slots__ = ("batches", "count", "deadline", "entry", "lease")

    def __init__(self, entry: PartitionShared, batches: bytes, deadline: float, lease: int = 0) -> None:
        self.entry = entry
        self.batches = batches
        self.deadline = deadline
        """When their lease ends, on the clock of time.monotonic."""
        self.lease = lease
        self.count = sum(item.last_offset - item.first_offset + 1 for item in entry.acquired)


class Decoded:
    """What became of it."""

    __slots__ = ("parts", "said")

    def __init__(self) -> None:
        self.parts: list[list[ShareRecord] | Exception] = []
        """Records in order of offsets, and between them what a deserializer raised."""
        self.said: list[Said] = []
        """What the consumer has to say about acquired offsets that are in no part."""


class _Acquired:
    """Walks over the acquired ranges of one answer."""

    def __init__(self, ranges: list[AcquiredRecords]) -> None:
        self._ranges = sorted(ranges, key=lambda item: item.first_offset)
        self._index = 0
        self._next = self._ranges[0].first_offset if ranges else -1

    def up_to(self, last_offset: int | None = None) -> list[tuple[int, int, int]]:
        """(first, last, delivery count) of what is left up to an offset, or of all; they are left no more."""
        taken = []
        while self._index < len(self._ranges):
            item = self._ranges[self._index]
            if last_offset is not None and self._next > last_offset:
                break
            last = item.last_offset if last_offset is None else min(last_offset, item.last_offset)
            taken.append((self._next, last, item.delivery_count))
            self._next = last + 1
            if last == item.last_offset:
                self._index += 1
                if self._index < len(self._ranges):
                    self._next = self._ranges[self._index].first_offset
        return taken


class ShareDecoder:
    """Decodes by the consumer's settings."""

    def __init__(self, options: ShareConsumerOptions) -> None:
        self._check_crcs = options.check_crcs
        self._key = options.key_deserializer
        self._value = options.value_deserializer
        self._kept: dict[tuple[str, int], tuple[BatchHeader, Sequence[Record]]] = {}

    def decode(self, fetched: Fetched) -> Decoded:
        """Decode all acquired records of one partition."""
        out = Decoded()
        acquired = _Acquired(fetched.entry.acquired)
        position = 0
        while position < len(fetched.batches):
            try:
                header, batch = next_batch(fetched.batches, position)
            except ZmqBrokerError as error:
                self._reject(fetched, acquired.up_to(), error, out)
                return out
            position += header.size
            out.said += [(first, last, ACK_GAP, "") for first, last, _ in acquired.up_to(header.base_offset - 1)]
            mine = acquired.up_to(header.last_offset)
            if mine:
                self._decode_batch(fetched, header, batch, mine, out)
        for first, last, _ in acquired.up_to():
            reason = f"the broker leased offsets {first} to {last} and sent no batch that holds them"
            logger.error("%s-%d: %s", fetched.entry.topic, fetched.entry.partition, reason)
            out.said.append((first, last, ACK_RELEASE, reason))
        return out

    def _decode_batch(
        self,
        fetched: Fetched,
        header: BatchHeader,
        batch: memoryview,
        mine: list[tuple[int, int, int]],
        out: Decoded,
    ) -> None:
        try:
            records = self._records_of(fetched, header, batch, mine[-1][1])
        except ZmqBrokerError as error:
            self._reject(fetched, mine, error, out)
            return
        for first, last, count in mine:
            if first <= header.base_offset and last >= header.last_offset:
                found = records
            else:
                low = bisect_left(records, first, key=_OFFSET)
                found = records[low : bisect_right(records, last, lo=low, key=_OFFSET)]
            if len(found) != last - first + 1:
                out.said += _gaps(found, first, last)
            if self._key is not None or self._value is not None:
                self._deserialize(fetched, header, found, count, out)
            elif found:
                _append(out, _made(fetched, header, found, count))

    def _records_of(
        self, fetched: Fetched, header: BatchHeader, batch: memoryview, last_wanted: int
    ) -> Sequence[Record]:
        """A batch's records. One of which more may be leased later is kept: large ones come in many small answers."""
        partition = (fetched.entry.topic, fetched.entry.partition)
        kept = self._kept.pop(partition, None)
        if kept is not None and kept[0] == header:
            records = kept[1]
        else:
            records = records_of(header, batch, check_crc=self._check_crcs)
        if last_wanted < header.last_offset:
            while len(self._kept) >= _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            self._kept[partition] = header, records
        return records

    def _deserialize(
        self, fetched: Fetched, header: BatchHeader, records: Sequence[Record], count: int, out: Decoded
    ) -> None:
        made: list[ShareRecord] = []
        for record, raw in zip(_made(fetched, header, records, count), records, strict=True):
            key, value = raw.key, raw.value
            record.raw_sizes = (-1 if key is None else len(key), -1 if value is None else len(value))
            try:
                if self._key is not None and key is not None:
                    record.key = self._key(key)
                if self._value is not None and value is not None:
                    record.value = self._value(value)
            except Exception as error:  # noqa: BLE001 - it is the user's function, and the user gets what it raised
                where = f"{record.topic}-{record.partition} at offset {record.offset}"
                error.add_note(f"while deserializing {where}, which is released to be delivered again")
                _append(out, made)
                made = []
                out.parts.append(error)
                reason = f"a deserializer raised {type(error).__name__}: {error}"
                out.said.append((record.offset, record.offset, ACK_RELEASE, reason[:1000]))
            else:
                made.append(record)
        _append(out, made)

    def _reject(
        self, fetched: Fetched, ranges: list[tuple[int, int, int]], error: ZmqBrokerError, out: Decoded
    ) -> None:
        for first, last, _ in ranges:
            where = f"{fetched.entry.topic}-{fetched.entry.partition}, offsets {first} to {last}"
            logger.error("%s cannot be read and are rejected: %s", where, error.message)
            out.said.append((first, last, ACK_REJECT, error.message[:1000]))


def _made(fetched: Fetched, header: BatchHeader, records: Sequence[Record], count: int) -> list[ShareRecord]:
    topic, partition = fetched.entry.topic, fetched.entry.partition
    deadline, lease = fetched.deadline, fetched.lease
    epoch = header.leader_epoch
    kind = 1 if header.attributes & TIMESTAMP_TYPE_BIT else 0
    make = ShareRecord
    return [
        make(
            topic, partition, epoch, record.offset, record.timestamp, kind, record.key, record.value, record.headers,
            count, deadline, lease,
        )
        for record in records
    ]  # fmt: skip


def _append(out: Decoded, records: list[ShareRecord]) -> None:
    """Make the last part longer, if it is one of records: few long parts are cheaper to hand out."""
    if not records:
        return
    if out.parts and isinstance(out.parts[-1], list):
        out.parts[-1] += records
    else:
        out.parts.append(records)


def _gaps(records: Sequence[Record], first: int, last: int) -> list[Said]:
    """Where there is no record."""
    gaps: list[Said] = []
    expected = first
    for record in records:
        if record.offset > expected:
            gaps.append((expected, record.offset - 1, ACK_GAP, ""))
        expected = record.offset + 1
    if expected <= last:
        gaps.append((expected, last, ACK_GAP, ""))
    return gaps
