"""The records of ``__transaction_state``: Kafka's own formats, so that its tools can read them.

A key and a value begin with their own version (int16); all numbers are big-endian::

    key 0     TransactionLogKey    transactional id: string
    value 0   TransactionLogValue  producer id: int64; producer epoch: int16; time-out: int32; state: int8; partitions:
                                   int32 count (-1: none), for each topic its name: string, and its partitions: int32
                                   count, int32 each; time of the last change, time of the start: int64

    key 100   former, our own      transactional id: string
    value 0   former, our own      producer id: int64; producer epoch: int16, which the present ones were given for

The time of the start is also the transaction's number: it is made to grow from each transaction to the next, and stays
when the transaction has ended.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from typing import NamedTuple

from ..errors import InvalidRecordError
from .record_fields import INT8, INT16, INT32, INT64, FieldReader, string_field


class State(StrEnum):
    """Of a transactional id."""

    EMPTY = "Empty"
    ONGOING = "Ongoing"
    PREPARE_COMMIT = "PrepareCommit"
    PREPARE_ABORT = "PrepareAbort"
    COMPLETE_COMMIT = "CompleteCommit"
    COMPLETE_ABORT = "CompleteAbort"


_STATES = tuple(State)
"""By Kafka's numbers, which go on with 6, Dead, and 7, PrepareEpochFence: these are never written down."""
_KEY_VERSION, _VALUE_VERSION = 0, 0
_FORMER_KEY, _FORMER_VALUE = 100, 0


class TransactionState(NamedTuple):
    """A transactional id, as it is written down."""

    producer_id: int
    producer_epoch: int
    timeout_ms: int
    state: State
    partitions: tuple[tuple[str, int], ...]
    update_ms: int
    number: int
    """Of the open or the last transaction, and when it began, in ms since 1970; -1: there was none."""


def transaction_key(transactional_id: str) -> bytes:
    """Encode a key."""
    return INT16.pack(_KEY_VERSION) + string_field(transactional_id)


def transaction_value(state: TransactionState) -> bytes:
    """Encode a value."""
    topics: dict[str, list[int]] = {}
    for topic, partition in state.partitions:
        topics.setdefault(topic, []).append(partition)
    parts = [
        INT16.pack(_VALUE_VERSION),
        INT64.pack(state.producer_id),
        INT16.pack(state.producer_epoch),
        INT32.pack(state.timeout_ms),
        INT8.pack(_STATES.index(state.state)),
        INT32.pack(len(topics)),
    ]
    for topic, partitions in topics.items():
        parts += (string_field(topic), INT32.pack(len(partitions)), *map(INT32.pack, partitions))
    parts += (INT64.pack(state.update_ms), INT64.pack(state.number))
    return b"".join(parts)


class FormerProducer(NamedTuple):
    """Whom the present producer id and epoch of a transactional id were given for."""

    producer_id: int
    producer_epoch: int


def former_key(transactional_id: str) -> bytes:
    """Encode the key of a former producer."""
    return INT16.pack(_FORMER_KEY) + string_field(transactional_id)


def former_value(producer_id: int, producer_epoch: int) -> bytes:
    """Encode a former producer."""
    return INT16.pack(_FORMER_VALUE) + INT64.pack(producer_id) + INT16.pack(producer_epoch)


def decode(key: bytes, value: bytes | None) -> tuple[str, TransactionState | FormerProducer | None] | None:
    """The transactional id of a record, and its state or its former producer; None: it is deleted.

    None alone: the record is somebody else's, or says of a former producer that nothing is known any more.

    Raises InvalidRecordError.
    """
    try:
        reader = FieldReader(key)
        is_former = reader.version == _FORMER_KEY
        if reader.version != _KEY_VERSION and not is_former:
            return None
        transactional_id = reader.string()
        reader.end()
        if is_former:
            return None if value is None else (transactional_id, _former(FieldReader(value)))
        return transactional_id, None if value is None else _state(FieldReader(value))
    except (struct.error, ValueError) as error:
        message = f"the record with key {key[:80]!r} is no valid record of __transaction_state: {error}"
        raise InvalidRecordError(message) from None


def _former(value: FieldReader) -> FormerProducer:
    _check_version(value, _FORMER_VALUE)
    found = FormerProducer(value.int64(), value.int16())
    value.end()
    return found


def _check_version(value: FieldReader, known: int) -> None:
    if value.version != known:
        message = f"its value has version {value.version}, and {known} is known"
        raise ValueError(message)


def _state(value: FieldReader) -> TransactionState:
    _check_version(value, _VALUE_VERSION)
    producer_id, producer_epoch, timeout_ms, state = value.int64(), value.int16(), value.int32(), value.int8()
    if not 0 <= state < len(_STATES):
        message = f"its state is {state}, and 0 to {len(_STATES) - 1} are known"
        raise ValueError(message)
    partitions: list[tuple[str, int]] = []
    for _ in range(max(0, value.int32())):
        topic = value.string()
        partitions += [(topic, value.int32()) for _ in range(value.int32())]
    read = TransactionState(
        producer_id, producer_epoch, timeout_ms, _STATES[state], tuple(partitions), value.int64(), value.int64()
    )
    value.end()
    return read
