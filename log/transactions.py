"""Transactions in one partition's log: their markers, which are open, and which were aborted (KIP-98). Pure; no I/O.

A marker is a control batch of one record that ends the transaction of a producer in this partition::

    key     version 0: int16; type: int16, 0 abort, 1 commit
    value   version 0: int16; coordinator epoch: int32
    header  "transaction": int64, ours: the transaction's number, which grows from each of a producer to its next

The number is what tells a marker that comes late, because it was sent twice, from the end of the next transaction.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from operator import attrgetter
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from ..errors import BrokerError
from .plain_records import decode_batch, encode_batch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

_KEY, _VALUE, _NUMBER = Struct(">hh"), Struct(">hi"), Struct(">q")
_ABORT, _COMMIT = 0, 1
_NUMBER_NAME = "transaction"
_LAST_OFFSET = attrgetter("last_offset")
NO_TRANSACTION = -1


class Marker(NamedTuple):
    """What a control batch says of the end of a transaction."""

    committed: bool
    coordinator_epoch: int
    transaction: int = NO_TRANSACTION
    """The transaction's number; -1: it is not said, in a log that Kafka has written."""


def encode_marker(producer_id: int, producer_epoch: int, marker: Marker, timestamp: int) -> bytes:
    """The control batch of a marker."""
    key = _KEY.pack(0, _COMMIT if marker.committed else _ABORT)
    value = _VALUE.pack(0, marker.coordinator_epoch)
    headers = [(_NUMBER_NAME, _NUMBER.pack(marker.transaction))]
    return encode_batch(
        [(timestamp, key, value, headers)],
        producer_id=producer_id,
        producer_epoch=producer_epoch,
        transactional=True,
        control=True,
    )


def read_marker(batch: Buffer) -> Marker | None:
    """What a control batch says; None for another kind of control batch, or one that cannot be read."""
    try:
        (record,) = decode_batch(batch)
        _, kind = _KEY.unpack_from(record.key or b"")
        _, coordinator_epoch = _VALUE.unpack_from(record.value or b"")
    except (BrokerError, struct.error, ValueError):
        return None
    if kind not in (_ABORT, _COMMIT):
        return None
    number = dict(record.headers).get(_NUMBER_NAME) or b""
    known = len(number) == _NUMBER.size
    return Marker(kind == _COMMIT, coordinator_epoch, _NUMBER.unpack(number)[0] if known else NO_TRANSACTION)


class Aborted(NamedTuple):
    """An aborted transaction; last_offset is that of its marker."""

    producer_id: int
    first_offset: int
    last_offset: int
    stable_offset: int
    """Where the partition was stable up to when it ended: all that end later begin there or later."""


class Ended(NamedTuple):
    """A transaction whose marker may not be committed yet; last_offset is that of its marker."""

    first_offset: int
    last_offset: int


class Transactions:
    """The transactions of one log."""

    __slots__ = ("_aborted", "_ended", "_first_open", "_open")

    def __init__(self, aborted: Iterable[Aborted] = (), ended: Iterable[Ended] = ()) -> None:
        self._open: dict[int, int] = {}
        self._first_open: int | None = None
        """A memo of the smallest offset in _open."""
        self._aborted = list(aborted)
        """In the order of their markers."""
        self._ended = list(ended)

    def open_at(self, producer_id: int, first_offset: int) -> None:
        """Note where a producer's open transaction begins; -1: it has none."""
        before = self._open.pop(producer_id, None)
        if first_offset != NO_TRANSACTION:
            self._open[producer_id] = first_offset
            if self._first_open is None or first_offset < self._first_open:
                self._first_open = first_offset
        if before is not None and before == self._first_open:
            self._first_open = min(self._open.values(), default=None)

    def end(self, producer_id: int, marker_offset: int, *, committed: bool) -> None:
        """A marker was written."""
        first_offset = self._open[producer_id]
        self.open_at(producer_id, NO_TRANSACTION)
        self._ended.append(Ended(first_offset, marker_offset))
        if not committed:
            stable = marker_offset + 1 if self._first_open is None else self._first_open
            self._aborted.append(Aborted(producer_id, first_offset, marker_offset, stable))

    def marks(self) -> tuple[int, int]:
        """How much there is, for ``take_back``."""
        return len(self._aborted), len(self._ended)

    def take_back(self, marks: tuple[int, int]) -> None:
        """Forget the ends since these marks; who has an open transaction is said by ``open_at``."""
        del self._aborted[marks[0] :], self._ended[marks[1] :]

    def stable_offset(self, high_watermark: int) -> int:
        """The last stable offset: below it the outcome of every transaction is committed."""
        if not self._open and not self._ended:
            return high_watermark
        unstable = [ended.first_offset for ended in self._ended if ended.last_offset >= high_watermark]
        if self._first_open is not None:
            unstable.append(self._first_open)
        return min([high_watermark, *unstable])

    def settle(self, high_watermark: int) -> None:
        """The high watermark has moved: of what ended before it, the end is committed."""
        count = 0
        while count < len(self._ended) and self._ended[count].last_offset < high_watermark:
            count += 1
        del self._ended[:count]

    def aborted_between(self, start: int, end: int) -> list[Aborted]:
        """Those with an offset in a range, end not included, by their first offsets."""
        found = []
        for index in range(bisect_left(self._aborted, start, key=_LAST_OFFSET), len(self._aborted)):
            aborted = self._aborted[index]
            if aborted.first_offset < end:
                found.append(aborted)
            if aborted.stable_offset >= end:
                break
        return sorted(found, key=attrgetter("first_offset"))

    def is_aborted(self, producer_id: int, offset: int) -> bool:
        """Whether the batch of a transaction that stands at an offset was aborted."""
        return any(aborted.producer_id == producer_id for aborted in self.aborted_between(offset, offset + 1))

    def forget_before(self, offset: int) -> None:
        """What lies wholly before an offset is not read any more."""
        if self._aborted and self._aborted[0].last_offset < offset:
            del self._aborted[: bisect_left(self._aborted, offset, key=_LAST_OFFSET)]

    @property
    def aborted(self) -> list[Aborted]:
        """All that are known, in the order of their markers."""
        return list(self._aborted)

    @property
    def ended(self) -> list[Ended]:
        """Those whose marker may not be committed yet, in the order of their markers."""
        return list(self._ended)
