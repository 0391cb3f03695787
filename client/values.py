"""What users give a client, checked and made into what records hold and requests say."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from .types import OffsetAndMetadata, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def as_bytes(what: str, value: Any, serializer: Callable[[Any], bytes | None] | None) -> bytes | None:
    """A key or value as a record holds it. Raises TypeError for what is no bytes, and what the serializer raises."""
    if serializer is not None:
        value = serializer(value)
    if value is None or type(value) is bytes:
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    message = f"a record's {what} must be bytes or None, not {type(value).__name__}; or give a {what}_serializer"
    raise TypeError(message)


def checked_headers(headers: Sequence[tuple[str, bytes | None]]) -> list[tuple[str, bytes | None]]:
    """Headers as a record holds them. Raises TypeError for what are no pairs of a name and bytes."""
    pairs = []
    for pair in headers:
        try:
            name, value = pair
        except (TypeError, ValueError):
            name, value = None, None
        if not isinstance(name, str):
            message = f"headers must be (name, bytes or None) pairs, and {pair!r} is none"
            raise TypeError(message)
        pairs.append((name, as_bytes("header", value, None)))
    return pairs


def checked_timestamp(timestamp_ms: Any) -> int:
    """A record's timestamp. Raises ValueError for what is none."""
    if type(timestamp_ms) is not int or timestamp_ms < 0:
        message = f"timestamp_ms={timestamp_ms!r}: milliseconds since 1970 are expected, 0 or more"
        raise ValueError(message)
    return timestamp_ms


DELIVER_AT = "__deliver_at"
"""The header that says when share groups deliver a record: milliseconds since 1970, as decimal text."""


def with_deliver_at(
    headers: Sequence[tuple[str, bytes | None]] | None, deliver_at: Any
) -> list[tuple[str, bytes | None]]:
    """Headers, and the one that says when share groups deliver the record. Raises TypeError or ValueError."""
    if isinstance(deliver_at, datetime):
        if deliver_at.utcoffset() is None:
            message = f"deliver_at={deliver_at!r} has no time zone; give it one, for example datetime.now(UTC)"
            raise ValueError(message)
        when_ms: Any = round(deliver_at.timestamp() * 1000)
    else:
        when_ms = deliver_at
    if type(when_ms) is not int:
        message = f"deliver_at={deliver_at!r}: a datetime or whole milliseconds since 1970 are expected"
        raise TypeError(message)
    if not 0 <= when_ms < 2**63:
        message = f"deliver_at={deliver_at!r}: a time from 1970 on is expected, in milliseconds"
        raise ValueError(message)
    pairs = checked_headers(headers or ())
    if any(name == DELIVER_AT for name, _ in pairs):
        message = f"deliver_at and a header {DELIVER_AT} are given: one of them is enough"
        raise ValueError(message)
    return [*pairs, (DELIVER_AT, b"%d" % when_ms)]


def checked_offsets(
    offsets: Mapping[TopicPartition, OffsetAndMetadata | int],
) -> dict[TopicPartition, OffsetAndMetadata]:
    """Offsets to commit, in full. Raises ValueError for what is none."""
    wanted = {}
    for partition, offset in offsets.items():
        full = OffsetAndMetadata(offset) if isinstance(offset, int) else OffsetAndMetadata(*offset)
        if isinstance(full.offset, bool) or not isinstance(full.offset, int) or full.offset < 0:
            message = f"offset={full.offset!r} of {partition}: a number from 0 up is expected"
            raise ValueError(message)
        wanted[TopicPartition(*partition)] = full
    return wanted


def pairs_of(values: list[Any], keys: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Values and their keys. Raises ValueError if there are more of the ones than of the others."""
    if len(keys) != len(values):
        message = f"{len(values)} values and {len(keys)} keys were given: one key for each value is expected"
        raise ValueError(message)
    return list(zip(values, keys, strict=True))


def how_many(values: list[Any], position: int, framing: int, room: int) -> tuple[int, int]:
    """How many values from a position on fit into so many bytes (one at least), and how many bytes they take."""
    left = len(values) - position
    count = min(left, max(1, room // (framing + len(values[position] or b""))))
    while True:
        chunk = values[position : position + count]
        try:
            size = framing * count + sum(map(len, chunk))
        except TypeError:  # None among them
            size = framing * count + sum(len(value or b"") for value in chunk)
        if size <= room or count == 1:
            return count, size
        count = max(1, min(count - 1, count * room // size))
