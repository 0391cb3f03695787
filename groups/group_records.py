"""The records of ``__consumer_offsets``: Kafka's own formats, so that its tools can read them, and one of ours.

All numbers are big-endian. A key and a value begin with their own version (int16). Strings are an int16 length and
UTF-8 (-1: none), bytes an int32 length and bytes::

    key 0, 1  OffsetCommitKey    group, topic: string; partition: int32
    value 3   OffsetCommitValue  offset: int64; leader epoch: int32; metadata: string; commit time: int64
    key 2     GroupMetadataKey   group: string
    value 3   GroupMetadataValue protocol type: string; generation: int32; protocol, leader: string;
                                 time of the state: int64; members: int32 count, for each: member id, instance id,
                                 client id, host: string; rebalance, session time-out: int32; metadata,
                                 assignment: bytes
    key 100   event, our own     group: string; sequence modulo 256: int32
    value 0   event, our own     sequence, time: int64; kind: string; generation: int32; member id, client id,
                                 cause: string
    key 101   pending, our own   producer id: int64; group, topic: string; partition: int32
    value 0   pending, our own   number of the transaction: int64; then an OffsetCommitValue
    key 102   ended, our own     producer id: int64
    value 0   ended, our own     number of the producer's last transaction that has ended here, time: int64

Times are ms since 1970. A group whose generation has members but no assignment yet has -1 for the time of its state.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ..errors import InvalidRecordError
from ..transport.group_messages import GroupEvent
from .record_fields import INT16, INT32, INT64, FieldReader, bytes_field, string_field

EVENTS_KEPT = 256
"""Of each group: an event's key repeats after so many, and compaction keeps the newest."""

_OFFSET_KEYS = (0, 1)
_OFFSET_KEY, _OFFSET_VALUE = 1, 3
_GROUP_KEY, _GROUP_VALUE = 2, 3
_EVENT_KEY, _EVENT_VALUE = 100, 0
_PENDING_KEY, _PENDING_VALUE = 101, 0
_ENDED_KEY, _ENDED_VALUE = 102, 0
_PENDING_HEAD = 2 + 8
"""Bytes before the offset in the value."""


class OffsetState(NamedTuple):
    """A committed offset."""

    offset: int
    leader_epoch: int
    metadata: str
    commit_time_ms: int


class OffsetRecord(NamedTuple):
    """An offset was committed; None: forgotten."""

    group: str
    topic: str
    partition: int
    state: OffsetState | None


class MemberState(NamedTuple):
    """A member, as it is written down: with the metadata for the chosen protocol only."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    rebalance_timeout_ms: int
    session_timeout_ms: int
    metadata: bytes
    assignment: bytes


class GroupState(NamedTuple):
    """A group, as it is written down."""

    protocol_type: str
    generation: int
    protocol: str | None
    leader: str | None
    state_time_ms: int
    members: tuple[MemberState, ...] = ()


class GroupRecord(NamedTuple):
    """A generation of a group; None: the group is deleted."""

    group: str
    state: GroupState | None


class EventRecord(NamedTuple):
    """An event of a group; None: forgotten."""

    group: str
    slot: int
    event: GroupEvent | None


class PendingRecord(NamedTuple):
    """An offset that counts once its transaction is committed; None: it does not wait any more."""

    producer_id: int
    group: str
    topic: str
    partition: int
    transaction: int
    state: OffsetState | None


class EndedRecord(NamedTuple):
    """A producer's transactions up to this number have ended here; None: of the producer nothing is known any more."""

    producer_id: int
    transaction: int | None
    time_ms: int


def offset_key(group: str, topic: str, partition: int) -> bytes:
    """Encode the key of a committed offset."""
    return INT16.pack(_OFFSET_KEY) + string_field(group) + string_field(topic) + INT32.pack(partition)


def offset_value(state: OffsetState) -> bytes:
    """Encode a committed offset."""
    head = INT16.pack(_OFFSET_VALUE) + INT64.pack(state.offset) + INT32.pack(state.leader_epoch)
    return head + string_field(state.metadata) + INT64.pack(state.commit_time_ms)


def pending_key(producer_id: int, group: str, topic: str, partition: int) -> bytes:
    """Encode the key of an offset that waits for the end of a transaction."""
    head = INT16.pack(_PENDING_KEY) + INT64.pack(producer_id)
    return head + string_field(group) + string_field(topic) + INT32.pack(partition)


def pending_value(transaction: int, state: OffsetState) -> bytes:
    """Encode an offset that waits for the end of a transaction."""
    return INT16.pack(_PENDING_VALUE) + INT64.pack(transaction) + offset_value(state)


def ended_key(producer_id: int) -> bytes:
    """Encode the key of the last transaction of a producer that has ended."""
    return INT16.pack(_ENDED_KEY) + INT64.pack(producer_id)


def ended_value(transaction: int, time_ms: int) -> bytes:
    """Encode the last transaction of a producer that has ended."""
    return INT16.pack(_ENDED_VALUE) + INT64.pack(transaction) + INT64.pack(time_ms)


def group_key(group: str) -> bytes:
    """Encode the key of a group."""
    return INT16.pack(_GROUP_KEY) + string_field(group)


def group_value(state: GroupState) -> bytes:
    """Encode a group."""
    parts = [
        INT16.pack(_GROUP_VALUE),
        string_field(state.protocol_type),
        INT32.pack(state.generation),
        string_field(state.protocol),
        string_field(state.leader),
        INT64.pack(state.state_time_ms),
        INT32.pack(len(state.members)),
    ]
    for member in state.members:
        parts += (
            *map(string_field, (member.member_id, member.instance_id, member.client_id, member.client_host)),
            INT32.pack(member.rebalance_timeout_ms),
            INT32.pack(member.session_timeout_ms),
            bytes_field(member.metadata),
            bytes_field(member.assignment),
        )
    return b"".join(parts)


def event_key(group: str, slot: int) -> bytes:
    """Encode the key of an event; its slot is its sequence modulo EVENTS_KEPT."""
    return INT16.pack(_EVENT_KEY) + string_field(group) + INT32.pack(slot)


def event_value(event: GroupEvent) -> bytes:
    """Encode an event."""
    return b"".join(
        (
            INT16.pack(_EVENT_VALUE),
            INT64.pack(event.sequence),
            INT64.pack(event.time_ms),
            string_field(event.kind),
            INT32.pack(event.generation_id),
            *map(string_field, (event.member_id, event.client_id, event.cause)),
        )
    )


Record = OffsetRecord | GroupRecord | EventRecord | PendingRecord | EndedRecord


def decode(key: bytes, value: bytes | None) -> Record | None:
    """Decode a record; None: of a key version that is not known here, so somebody else's. Raises InvalidRecordError."""
    try:
        reader = FieldReader(key)
        if reader.version == _PENDING_KEY:
            return _pending(reader, value)
        return _decode(reader, None if value is None else FieldReader(value))
    except (struct.error, ValueError) as error:
        message = f"the record with key {key[:80]!r} is no valid record of __consumer_offsets: {error}"
        raise InvalidRecordError(message) from None


def _pending(key: FieldReader, value: bytes | None) -> PendingRecord:
    place = (key.int64(), key.string(), key.string(), key.int32())
    key.end()
    if value is None:
        return PendingRecord(*place, -1, None)
    head = FieldReader(value[:_PENDING_HEAD])
    _check_version(head, _PENDING_VALUE)
    offset = FieldReader(value[_PENDING_HEAD:])
    record = PendingRecord(*place, head.int64(), _offset(offset))
    offset.end()
    return record


def _decode(key: FieldReader, value: FieldReader | None) -> Record | None:
    record: Record
    if key.version in _OFFSET_KEYS:
        record = OffsetRecord(key.string(), key.string(), key.int32(), None if value is None else _offset(value))
    elif key.version == _GROUP_KEY:
        record = GroupRecord(key.string(), None if value is None else _group(value))
    elif key.version == _EVENT_KEY:
        record = EventRecord(key.string(), key.int32(), None if value is None else _event(value))
    elif key.version == _ENDED_KEY:
        producer_id = key.int64()
        ended = (None, -1) if value is None else _ended(value)
        record = EndedRecord(producer_id, *ended)
    else:
        return None
    key.end()
    if value is not None:
        value.end()
    return record


def _ended(value: FieldReader) -> tuple[int, int]:
    _check_version(value, _ENDED_VALUE)
    return value.int64(), value.int64()


def _check_version(value: FieldReader, newest: int) -> None:
    if not 0 <= value.version <= newest:
        message = f"its value has version {value.version}, and 0 to {newest} are known"
        raise ValueError(message)


def _offset(value: FieldReader) -> OffsetState:
    _check_version(value, _OFFSET_VALUE)
    offset = value.int64()
    leader_epoch = value.int32() if value.version >= _OFFSET_VALUE else -1
    state = OffsetState(offset, leader_epoch, value.string(), value.int64())
    if value.version == 1:
        value.int64()  # an expiry time of its own, which nobody sets any more
    return state


def _group(value: FieldReader) -> GroupState:
    _check_version(value, _GROUP_VALUE)
    protocol_type, generation = value.string(), value.int32()
    protocol, leader = value.string_or_none(), value.string_or_none()
    state_time_ms = value.int64() if value.version >= 2 else -1  # noqa: PLR2004 - since value version 2
    count = value.int32()
    members = tuple(_member(value) for _ in range(count))
    if members and protocol is None:
        message = f"it has {count} members and no assignor"
        raise ValueError(message)
    ids = {member.member_id for member in members}
    instances = [member.instance_id for member in members if member.instance_id is not None]
    if len(ids) < len(members) or len(set(instances)) < len(instances):
        message = f"two of its {count} members have one id"
        raise ValueError(message)
    return GroupState(protocol_type, generation, protocol, leader, state_time_ms, members)


def _member(value: FieldReader) -> MemberState:
    member_id = value.string()
    instance_id = value.string_or_none() if value.version >= _GROUP_VALUE else None
    client_id, client_host = value.string(), value.string()
    rebalance_timeout_ms = value.int32() if value.version >= 1 else -1
    session_timeout_ms = value.int32()
    if rebalance_timeout_ms < 0:
        rebalance_timeout_ms = session_timeout_ms
    metadata, assignment = value.bytes(), value.bytes()
    return MemberState(
        member_id, instance_id, client_id, client_host, rebalance_timeout_ms, session_timeout_ms, metadata, assignment
    )


def _event(value: FieldReader) -> GroupEvent:
    _check_version(value, _EVENT_VALUE)
    sequence, time_ms, kind = value.int64(), value.int64(), value.string()
    generation_id = value.int32()
    return GroupEvent(sequence, time_ms, kind, generation_id, value.string(), value.string(), value.string())
