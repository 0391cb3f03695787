"""Records that wait to be encoded, kept by column: a producer's open batch. No I/O.

Most records have no key and no headers, and many in a row have one timestamp. So a record costs one reference in a
list, timestamps are kept as runs, and keys and headers take no room before the first record that has one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .record import Headers, NewRecord

NO_HEADERS: list[tuple[str, bytes | None]] = []
"""What all records without headers share; never changed."""


class RecordColumns:
    """Records in order; each is a timestamp in ms, a key, a value and headers."""

    __slots__ = ("extras", "last_timestamp", "runs", "values")

    def __init__(self) -> None:
        self.values: list[bytes | None] = []
        self.runs: list[tuple[int, int]] = []
        """(position of the first record, timestamp) of each run of equal timestamps."""
        self.last_timestamp = -1
        """Of the last run; -1 while there is none."""
        self.extras: list[tuple[bytes | None, Headers]] | None = None
        """Key and headers of every record, once one has any."""

    def __len__(self) -> int:
        return len(self.values)

    def append(self, timestamp: int, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        """Add one record."""
        if timestamp != self.last_timestamp:
            self.runs.append((len(self.values), timestamp))
            self.last_timestamp = timestamp
        if self.extras is not None:
            self.extras.append((key, headers))
        elif key is not None or headers:
            extras: list[tuple[bytes | None, Headers]] = [(None, NO_HEADERS)] * len(self.values)
            extras.append((key, headers))
            self.extras = extras
        self.values.append(value)

    def extend(self, timestamp: int, key: bytes | None, values: Sequence[bytes | None]) -> None:
        """Add records with one timestamp and one key, and no headers."""
        if not values:
            return
        self.append(timestamp, key, values[0], NO_HEADERS)
        self.values.extend(values[1:])
        if self.extras is not None:
            self.extras.extend([(key, NO_HEADERS)] * (len(values) - 1))

    def timestamp(self, position: int) -> int:
        """The timestamp of one record."""
        return next(timestamp for first, timestamp in reversed(self.runs) if first <= position)

    def rows(self) -> Iterator[NewRecord]:
        """The records one by one."""
        ends = [*(first for first, _ in self.runs[1:]), len(self.values)] if self.runs else []
        for (first, timestamp), end in zip(self.runs, ends, strict=True):
            for position in range(first, end):
                key, headers = (None, NO_HEADERS) if self.extras is None else self.extras[position]
                yield timestamp, key, self.values[position], headers

    def part(self, first: int, end: int) -> RecordColumns:
        """A copy of some neighbouring records."""
        part = RecordColumns()
        for position, row in enumerate(self.rows()):
            if first <= position < end:
                part.append(*row)
        return part
