"""Records of ``__share_group_state``: what a share group has to know after a restart.

A key is a group, or one partition of a group's topic. The value of a partition is a snapshot, which holds all of its
state and may take several records, or an update, which holds what has changed since the record before it. Leases are
not kept: a record that was leased is available again, and its count says that it was delivered.
"""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

import msgspec

from ..errors import CorruptMessageError
from .share_ranges import ACQUIRED, ARCHIVED, AVAILABLE, Range

RANGES_MAX: Final = 10_000
"""Ranges of one record of a snapshot; an update that would have more is a snapshot."""


class GroupKey(NamedTuple):
    """The group itself: it has its id, whether or not it has state."""

    group: str


class PartitionKey(NamedTuple):
    """One partition of one group."""

    group: str
    topic: str
    topic_id: str
    partition: int


ShareKey: TypeAlias = GroupKey | PartitionKey

DurableRange: TypeAlias = tuple[int, int, int, int, int, str]
"""First, last, state, count, not before, reason."""


class _Value(msgspec.Struct, array_like=True, tag=True, forbid_unknown_fields=False):
    """Base of the values; a later version may add fields at the end, which this one then ignores."""


class GroupState(_Value):
    """The group exists."""

    created_ms: int


class Snapshot(_Value):
    """The whole state of a partition, or one part of it. It holds once all parts are there, one after the other.

    The leader epoch is that of the last batch before next_offset; -1: it is not known.
    """

    part: int
    parts: int
    start_offset: int
    next_offset: int
    ranges: list[DurableRange]
    leader_epoch: int = -1


class Update(_Value):
    """What has changed; ranges replace what was known of their offsets, from the start offset on."""

    start_offset: int
    next_offset: int
    ranges: list[DurableRange]
    leader_epoch: int = -1


ShareValue: TypeAlias = GroupState | Snapshot | Update

_encoder = msgspec.msgpack.Encoder()
_key_decoder: msgspec.msgpack.Decoder[list[str | int]] = msgspec.msgpack.Decoder(list[str | int])
_decoder: msgspec.msgpack.Decoder[ShareValue] = msgspec.msgpack.Decoder(ShareValue)


def encode_key(key: ShareKey) -> bytes:
    """A key as it stands in the log."""
    return _encoder.encode(tuple(key))


def decode_key(data: bytes) -> ShareKey:
    """The key of a record. Raises CorruptMessageError if it is none."""
    try:
        match _key_decoder.decode(data):
            case [str(group)]:
                return GroupKey(group)
            case [str(group), str(topic), str(topic_id), int(partition)]:
                return PartitionKey(group, topic, topic_id, partition)
            case other:
                message = f"{other!r} is the key of no record of a share group's state"
                raise CorruptMessageError(message)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"a key of {len(data)} bytes in a share group's state cannot be read: {error}"
        raise CorruptMessageError(message) from error


def encode_value(value: ShareValue) -> bytes:
    """A value as it stands in the log."""
    return _encoder.encode(value)


def decode_value(data: bytes) -> ShareValue:
    """The value of a record. Raises CorruptMessageError if it is not known here, or contradicts itself."""
    try:
        value = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"a record of {len(data)} bytes in a share group's state cannot be read: {error}"
        raise CorruptMessageError(message) from error
    if not isinstance(value, GroupState):
        _check(value)
    return value


def _check(value: Snapshot | Update) -> None:
    position, end = value.start_offset, value.next_offset
    if not 0 <= position <= end:
        message = f"a share group's state goes from offset {position} to {end}"
        raise CorruptMessageError(message)
    for first, last, state, count, not_before, _ in value.ranges:
        if not (position <= first <= last < end and AVAILABLE <= state <= ARCHIVED and count >= 0 <= not_before):
            message = f"a range {first} to {last} of state {state} cannot stand in {position} to {end}"
            raise CorruptMessageError(message)
        position = last + 1
    if isinstance(value, Snapshot) and not 0 <= value.part < value.parts:
        message = f"part {value.part} of {value.parts} is no part of a snapshot"
        raise CorruptMessageError(message)


def durable(found: Range) -> DurableRange:
    """What the log says of a range."""
    state = AVAILABLE if found.state == ACQUIRED else found.state
    return found.first, found.last, state, found.deliveries, found.not_before, found.reason
