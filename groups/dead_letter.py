"""Dead letters: records that a share group gave up, as they stand in its dead-letter topic. Pure.

Key, value and headers are the record's own; headers that begin with ``__dlq.errors.`` say why it is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from ..log.record import NewRecord, Record

PREFIX: Final = "__dlq.errors."

WHOLE, WITHOUT_VALUE, BARE = range(3)
"""How much of a record its letter has: all; not its value; nothing but why it is there."""

_RECORD_BYTES: Final = 40
_HEADER_BYTES: Final = 10
"""What the lengths and times of a record, and the lengths of a header, take at most."""


class Origin(NamedTuple):
    """Where a record was, how often it was delivered, and why it was given up."""

    group: str
    topic: str
    partition: int
    offset: int
    deliveries: int
    reason: str


def dead_letter(record: Record | None, origin: Origin, wall_ms: int, form: int = WHOLE) -> NewRecord:
    """The record to write; None: it could not be read."""
    why = {
        "topic": origin.topic,
        "partition": origin.partition,
        "offset": origin.offset,
        "group": origin.group,
        "delivery.count": origin.deliveries,
        "message": origin.reason + _what_is_missing(record, origin, form),
        "timestamp": wall_ms,
    }
    added = [(PREFIX + name, str(value).encode()) for name, value in why.items()]
    if record is None or form == BARE:
        return wall_ms, None, None, added
    own = [(name, value) for name, value in record.headers if not name.startswith(PREFIX)]
    return wall_ms, record.key, record.value if form == WHOLE else None, [*own, *added]


def _what_is_missing(record: Record | None, origin: Origin, form: int) -> str:
    if record is None or form == WHOLE:
        return ""
    where = f"{origin.topic}-{origin.partition}-{origin.offset}"
    value = f"value of {len(record.value or b'')} bytes"
    if form == WITHOUT_VALUE:
        return f"; its {value} did not fit into the dead-letter topic and stands at {where}"
    key = f"key of {len(record.key or b'')} bytes"
    return f"; its {key}, {value} and {len(record.headers)} headers did not fit into the dead-letter topic: see {where}"


def smaller_form(record: Record | None, form: int) -> int | None:
    """What to try when a letter is too large; None: there is nothing smaller."""
    if record is None or form == BARE:
        return None
    return WITHOUT_VALUE if form == WHOLE and record.value else BARE


def letter_size(letter: NewRecord) -> int:
    """About how many bytes of a batch a letter takes, rather more than less."""
    _, key, value, headers = letter
    size = _RECORD_BYTES + len(key or b"") + len(value or b"")
    return size + sum(_HEADER_BYTES + len(name.encode()) + len(content or b"") for name, content in headers)
