"""What the members of a consumer group tell each other, as bytes: Kafka's consumer protocol, versions 0 to 3.

Layouts (big-endian; an array is a 32-bit count and its elements, a string a 16-bit length and UTF-8 text, bytes a
32-bit length and data; length -1: null)::

    subscription  version:int16 topics:[string] user_data:bytes?
                  owned:[topic:string partitions:[int32]]     from version 1 (KIP-429)
                  generation:int32                            from version 2 (KIP-792)
                  rack:string?                                from version 3 (KIP-881)
    assignment    version:int16 partitions:[topic:string partitions:[int32]] user_data:bytes?
    sticky's own  partitions:[topic:string partitions:[int32]] generation:int32, which its version 0 lacks

What a newer version adds stands at the end and is passed over.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ..errors import InconsistentGroupProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable

PROTOCOL_TYPE = "consumer"
"""The protocol type of groups whose members speak this."""
VERSION = 3
NO_GENERATION = -1

_INT16, _INT32 = Struct(">h"), Struct(">i")
_OWNED_SINCE, _GENERATION_SINCE, _RACK_SINCE = 1, 2, 3

Partition: TypeAlias = tuple[str, int]
"""Topic and partition."""


class Subscription(NamedTuple):
    """What a member wants to read, and what it reads now."""

    topics: tuple[str, ...]
    user_data: bytes | None = None
    """The assignor's own."""
    owned: tuple[Partition, ...] = ()
    generation: int = NO_GENERATION
    """In which the member got what it owns."""
    rack: str | None = None
    group_instance_id: str | None = None
    """Not of the bytes: the group's coordinator tells it beside them."""


class Assignment(NamedTuple):
    """What a member shall read."""

    partitions: tuple[Partition, ...]
    user_data: bytes | None = None


def encode_subscription(subscription: Subscription) -> bytes:
    """Encode as version 3."""
    return b"".join(
        (
            _INT16.pack(VERSION),
            _INT32.pack(len(subscription.topics)),
            *map(_text, subscription.topics),
            _bytes(subscription.user_data),
            _partitions(subscription.owned),
            _INT32.pack(subscription.generation),
            _INT16.pack(-1) if subscription.rack is None else _text(subscription.rack),
        )
    )


def decode_subscription(data: bytes, group_instance_id: str | None = None) -> Subscription:
    """Decode any version. Raises InconsistentGroupProtocolError for bytes that are none."""
    reader = _Reader(data, "subscription")
    version = reader.version()
    topics = tuple(reader.text() for _ in range(reader.count()))
    user_data = reader.nullable_bytes()
    owned = reader.partitions() if version >= _OWNED_SINCE else ()
    generation = reader.int32() if version >= _GENERATION_SINCE else NO_GENERATION
    rack = reader.nullable_text() if version >= _RACK_SINCE else None
    return Subscription(topics, user_data, owned, generation, rack, group_instance_id)


def encode_assignment(assignment: Assignment) -> bytes:
    """Encode as version 3."""
    return _INT16.pack(VERSION) + _partitions(assignment.partitions) + _bytes(assignment.user_data)


def decode_assignment(data: bytes) -> Assignment:
    """Decode any version; no bytes at all: nothing is assigned. Raises InconsistentGroupProtocolError."""
    if not data:
        return Assignment(())
    reader = _Reader(data, "assignment")
    reader.version()
    return Assignment(reader.partitions(), reader.nullable_bytes())


def encode_sticky_data(partitions: Iterable[Partition], generation: int) -> bytes:
    """What the eager sticky assignor writes into a member's user data: what it had, and in which generation."""
    return _partitions(partitions) + _INT32.pack(generation)


def decode_sticky_data(data: bytes) -> tuple[tuple[Partition, ...], int]:
    """Read what `encode_sticky_data` wrote, or the same without a generation. Raises InconsistentGroupProtocolError."""
    reader = _Reader(data, "sticky assignor's user data")
    partitions = reader.partitions()
    return partitions, reader.int32() if reader.left() else NO_GENERATION


def _text(text: str) -> bytes:
    data = text.encode()
    return _INT16.pack(len(data)) + data


def _bytes(data: bytes | None) -> bytes:
    return _INT32.pack(-1) if data is None else _INT32.pack(len(data)) + data


def _partitions(partitions: Iterable[Partition]) -> bytes:
    by_topic: dict[str, list[int]] = {}
    for topic, partition in partitions:
        by_topic.setdefault(topic, []).append(partition)
    parts = [_INT32.pack(len(by_topic))]
    for topic, numbers in by_topic.items():
        parts += (_text(topic), _INT32.pack(len(numbers)), *map(_INT32.pack, numbers))
    return b"".join(parts)


class _Reader:
    """Takes values off the front; every length is checked against what is left before anything is made of it."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0

    def left(self) -> int:
        return len(self._data) - self._at

    def version(self) -> int:
        found = self.int16()
        if found < 0:
            why = f"its version is {found}; 0 or more is expected"
            raise self._malformed(why)
        return found

    def int16(self) -> int:
        found: int = _INT16.unpack(self._take(_INT16.size))[0]
        return found

    def int32(self) -> int:
        found: int = _INT32.unpack(self._take(_INT32.size))[0]
        return found

    def count(self) -> int:
        """How many elements an array has; the smallest element takes two bytes."""
        found = self.int32()
        if not 0 <= found <= self.left() // _INT16.size:
            why = f"an array at byte {self._at} claims {found} elements in {self.left()} bytes"
            raise self._malformed(why)
        return found

    def text(self) -> str:
        found = self.nullable_text()
        if found is None:
            why = f"the text at byte {self._at} is null"
            raise self._malformed(why)
        return found

    def nullable_text(self) -> str | None:
        length = self.int16()
        if length == -1:
            return None
        try:
            return self._take(length).decode()
        except UnicodeDecodeError:
            why = f"the text before byte {self._at} is not UTF-8"
            raise self._malformed(why) from None

    def nullable_bytes(self) -> bytes | None:
        length = self.int32()
        return None if length == -1 else self._take(length)

    def partitions(self) -> tuple[Partition, ...]:
        found: list[Partition] = []
        for _ in range(self.count()):
            topic = self.text()
            numbers = [self.int32() for _ in range(self.count())]
            if numbers and min(numbers) < 0:
                why = f"topic {topic!r} has a partition {min(numbers)}; 0 or more is expected"
                raise self._malformed(why)
            found.extend((topic, number) for number in numbers)
        return tuple(found)

    def _take(self, size: int) -> bytes:
        if not 0 <= size <= self.left():
            why = f"{size} bytes are expected at byte {self._at}, and {self.left()} are left"
            raise self._malformed(why)
        self._at += size
        return self._data[self._at - size : self._at]

    def _malformed(self, why: str) -> InconsistentGroupProtocolError:
        message = f"not Kafka's consumer protocol: the {self._what} of {len(self._data)} bytes is malformed: {why}"
        return InconsistentGroupProtocolError(message)
