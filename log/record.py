"""A record as it is given to a codec, and as a codec gives it back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

Headers = Sequence[tuple[str, bytes | None]]
"""Names, which may repeat, and values of a record's headers."""

NewRecord = tuple[int, bytes | None, bytes | None, Headers]
"""A record to be written: (timestamp in ms, key, value, headers)."""

CREATE_TIME, LOG_APPEND_TIME = 0, 1


class Record(Protocol):
    """A record that was read; which class it is depends on the codec, because the fast one brings its own."""

    @property
    def offset(self) -> int:
        """Where it stands in its partition."""
        ...

    @property
    def timestamp(self) -> int:
        """Milliseconds since 1970-01-01 UTC; -1: it has none."""
        ...

    @property
    def timestamp_type(self) -> int:
        """0: the producer's time; 1: the broker's, when it was appended."""
        ...

    @property
    def key(self) -> bytes | None:
        """What decides on its partition, and by what a compacted topic keeps the last of."""
        ...

    @property
    def value(self) -> bytes | None:
        """What it says; in a compacted topic None deletes the key."""
        ...

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """Names and values beside it."""
        ...
