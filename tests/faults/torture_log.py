"""What the producers and consumers of a torture write down: entries of a fixed size, in files of their own.

A producer notes each outcome, a consumer each record that it reads. Times are of the monotonic clock, in ns.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

ACKED, UNKNOWN, FAILED = range(3)
"""Stored; it is not known whether it is stored; certainly not stored."""

OUTCOME = Struct("<BHQqQ")
"""What has become of a record: kind, partition, number, offset, time."""
READ = Struct("<HqHQ")
"""What stood where: partition, offset, producer, number."""
MEMBER_READ, MEMBER_COMMIT = range(2)
GROUP = Struct("<BHqq")
"""What a member of the group did: kind, partition, and of a read the first and the last offset, of a commit that was
answered the offset, twice."""
DELIVERED, CONFIRMED = range(2)
SHARED = Struct("<BHqQ")
"""What a worker of the queue had: kind, partition, offset, time; delivered: not leased before that time; confirmed: its
acknowledgement was answered then."""
VALUE = Struct("<HHQ")
"""A record's value begins with: producer, partition, number."""
VALUE_BYTES = 100


class Outcome(NamedTuple):
    """See OUTCOME."""

    kind: int
    partition: int
    number: int
    offset: int
    at: int


class Read(NamedTuple):
    """See READ."""

    partition: int
    offset: int
    producer: int
    number: int


class GroupEvent(NamedTuple):
    """See GROUP."""

    kind: int
    partition: int
    first: int
    last: int


class Shared(NamedTuple):
    """See SHARED."""

    kind: int
    partition: int
    offset: int
    at: int


def entries(data, layout, kind):
    """All whole entries of a log."""
    return [kind._make(fields) for fields in layout.iter_unpack(data[: len(data) // layout.size * layout.size])]


def value_of(producer, partition, number):
    """A record's value."""
    return VALUE.pack(producer, partition, number).ljust(VALUE_BYTES, b".")
