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

Times are ms since 1970. A group whose generation has members but no assignment yet has -1 for the time of its state.
"""

from __future__ import annotations

import struct
from struct import Struct
from typing import NamedTuple

from ..errors import InvalidRecordError
from ..transport.group_messages import GroupEvent

EVENTS_KEPT = 256
"""Of each group: an event's key repeats after so many, and compaction keeps the newest."""
STRING_BYTES_MAX = 2**15 - 1

_OFFSET_KEYS = (0, 1)
_OFFSET_KEY, _OFFSET_VALUE = 1, 3
_GROUP_KEY, _GROUP_VALUE = 2, 3
_EVENT_KEY, _EVENT_VALUE = 100, 0

_INT16, _INT32, _INT64 = Struct(">h"), Struct(">i"), Struct(">q")
_NO_STRING = _INT16.pack(-1)


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


def _string(text: str | None) -> bytes:
    if text is None:
        return _NO_STRING
    data = text.encode()
    assert len(data) <= STRING_BYTES_MAX, f"a string of {len(data)} bytes does not fit into a record"
    return _INT16.pack(len(data)) + data


def _bytes(data: bytes) -> bytes:
    return _INT32.pack(len(data)) + data


def offset_key(group: str, topic: str, partition: int) -> bytes:
    """Encode the key of a committed offset."""
    return _INT16.pack(_OFFSET_KEY) + _string(group) + _string(topic) + _INT32.pack(partition)


def offset_value(state: OffsetState) -> bytes:
    """Encode a committed offset."""
    head = _INT16.pack(_OFFSET_VALUE) + _INT64.pack(state.offset) + _INT32.pack(state.leader_epoch)
    return head + _string(state.metadata) + _INT64.pack(state.commit_time_ms)


def group_key(group: str) -> bytes:
    """Encode the key of a group."""
    return _INT16.pack(_GROUP_KEY) + _string(group)


def group_value(state: GroupState) -> bytes:
    """Encode a group."""
    parts = [
        _INT16.pack(_GROUP_VALUE),
        _string(state.protocol_type),
        _INT32.pack(state.generation),
        _string(state.protocol),
        _string(state.leader),
        _INT64.pack(state.state_time_ms),
        _INT32.pack(len(state.members)),
    ]
    for member in state.members:
        parts += (
            *map(_string, (member.member_id, member.instance_id, member.client_id, member.client_host)),
            _INT32.pack(member.rebalance_timeout_ms),
            _INT32.pack(member.session_timeout_ms),
            _bytes(member.metadata),
            _bytes(member.assignment),
        )
    return b"".join(parts)


def event_key(group: str, slot: int) -> bytes:
    """Encode the key of an event; its slot is its sequence modulo EVENTS_KEPT."""
    return _INT16.pack(_EVENT_KEY) + _string(group) + _INT32.pack(slot)


def event_value(event: GroupEvent) -> bytes:
    """Encode an event."""
    return b"".join(
        (
            _INT16.pack(_EVENT_VALUE),
            _INT64.pack(event.sequence),
            _INT64.pack(event.time_ms),
            _string(event.kind),
            _INT32.pack(event.generation_id),
            *map(_string, (event.member_id, event.client_id, event.cause)),
        )
    )


class _Reader:
    """Reads one key or value from its start."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self.version = self.int16()

    def _number(self, layout: Struct) -> int:
        value: int = layout.unpack_from(self._data, self._position)[0]
        self._position += layout.size
        return value

    def int16(self) -> int:
        return self._number(_INT16)

    def int32(self) -> int:
        return self._number(_INT32)

    def int64(self) -> int:
        return self._number(_INT64)

    def _take(self, length: int) -> bytes:
        end = self._position + length
        if length < 0 or end > len(self._data):
            message = f"{length} bytes are announced at byte {self._position} of {len(self._data)}"
            raise ValueError(message)
        taken = self._data[self._position : end]
        self._position = end
        return taken

    def string(self) -> str:
        return self._take(self.int16()).decode()

    def string_or_none(self) -> str | None:
        length = self.int16()
        return None if length == -1 else self._take(length).decode()

    def bytes(self) -> bytes:
        return self._take(self.int32())

    def end(self) -> None:
        if self._position != len(self._data):
            message = f"{len(self._data) - self._position} bytes are left over"
            raise ValueError(message)


def decode(key: bytes, value: bytes | None) -> OffsetRecord | GroupRecord | EventRecord | None:
    """Decode a record; None: of a key version that is not known here, so somebody else's. Raises InvalidRecordError."""
    try:
        return _decode(_Reader(key), None if value is None else _Reader(value))
    except (struct.error, ValueError) as error:
        message = f"the record with key {key[:80]!r} is no valid record of __consumer_offsets: {error}"
        raise InvalidRecordError(message) from None


def _decode(key: _Reader, value: _Reader | None) -> OffsetRecord | GroupRecord | EventRecord | None:
    record: OffsetRecord | GroupRecord | EventRecord
    if key.version in _OFFSET_KEYS:
        record = OffsetRecord(key.string(), key.string(), key.int32(), None if value is None else _offset(value))
    elif key.version == _GROUP_KEY:
        record = GroupRecord(key.string(), None if value is None else _group(value))
    elif key.version == _EVENT_KEY:
        record = EventRecord(key.string(), key.int32(), None if value is None else _event(value))
    else:
        return None
    key.end()
    if value is not None:
        value.end()
    return record


def _check_version(value: _Reader, newest: int) -> None:
    if not 0 <= value.version <= newest:
        message = f"its value has version {value.version}, and 0 to {newest} are known"
        raise ValueError(message)


def _offset(value: _Reader) -> OffsetState:
    _check_version(value, _OFFSET_VALUE)
    offset = value.int64()
    leader_epoch = value.int32() if value.version >= _OFFSET_VALUE else -1
    state = OffsetState(offset, leader_epoch, value.string(), value.int64())
    if value.version == 1:
        value.int64()  # an expiry time of its own, which nobody sets any more
    return state


def _group(value: _Reader) -> GroupState:
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


def _member(value: _Reader) -> MemberState:
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


def _event(value: _Reader) -> GroupEvent:
    _check_version(value, _EVENT_VALUE)
    sequence, time_ms, kind = value.int64(), value.int64(), value.string()
    generation_id = value.int32()
    return GroupEvent(sequence, time_ms, kind, generation_id, value.string(), value.string(), value.string())
