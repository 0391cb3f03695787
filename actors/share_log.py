"""How a share coordinator keeps its log short: when a key's whole state is written, and what of the log may go.

The log holds updates that count from a snapshot on. So everything before the oldest snapshot in use may be deleted; a
key that changes seldom, and whose snapshot holds up the rest, has it written again.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ..groups.share_records import ShareKey

LOG_FACTOR: Final = 4
"""How many times the interval between snapshots, or the number of keys, the log may hold in records."""
_REFRESH_MAX: Final = 100


class StateLog:
    """Offsets of the snapshots in use. They are lower bounds, which is on the safe side."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self.start = -1
        """The log's first record, as far as it is known."""
        self.end = 0
        """The log holds committed records up to here at least."""
        self._snapshots: dict[ShareKey, int] = {}
        self._begun: dict[ShareKey, int] = {}
        self._updates: dict[ShareKey, int] = {}
        self._uncommitted: deque[tuple[int, ShareKey, int]] = deque()
        self._looked_at = 0
        self.deleting = False

    # ---- at start

    def read(self, offset: int) -> None:
        """A record was read at this offset."""
        if self.start < 0:
            self.start = offset
        self.end = self._looked_at = offset + 1

    def read_part(self, key: ShareKey, offset: int, part: int, parts: int) -> None:
        """Part of a snapshot was read."""
        if part == 0:
            self._begun[key] = offset
        if part == parts - 1 and key in self._begun:
            self._snapshots[key] = self._begun.pop(key)
            self._updates[key] = 0

    def has_snapshot(self, key: ShareKey) -> bool:
        """Whether there is a whole snapshot that updates of a key count from."""
        return key in self._snapshots

    # ---- as it goes on

    def is_snapshot_due(self, key: ShareKey) -> bool:
        """Count an update; whether it shall be a snapshot."""
        updates = self._updates.get(key, 0) + 1
        self._updates[key] = updates
        return updates >= self._interval

    def wrote_snapshot(self, key: ShareKey, append: int) -> None:
        """A snapshot goes into the append of this number."""
        self._updates[key] = 0
        self._uncommitted.append((append, key, self.end))
        self._snapshots.setdefault(key, self.end)

    def removed(self, key: ShareKey) -> None:
        """A key has ended."""
        for table in (self._snapshots, self._begun, self._updates):
            table.pop(key, None)

    def committed(self, append: int, base_offset: int, last_offset: int) -> None:
        """All of this append, and the log up to the last offset, is committed."""
        if self.start < 0:
            self.start = base_offset
        self.end = max(self.end, last_offset + 1)
        while self._uncommitted and self._uncommitted[0][0] <= append:
            _, key, bound = self._uncommitted.popleft()
            if key in self._snapshots:
                self._snapshots[key] = max(self._snapshots[key], bound)

    def prefix(self) -> tuple[int | None, list[ShareKey]]:
        """What may be deleted: all before an offset; and which keys want a new snapshot, so that more may be."""
        step = max(16, self._interval // 2)
        if self.start < 0 or self.end - self._looked_at < step:
            return None, []
        self._looked_at = self.end
        oldest = min(self._snapshots.values(), default=self.end)
        stale: list[ShareKey] = []
        if self.end - oldest > LOG_FACTOR * max(self._interval, len(self._snapshots)):
            middle = oldest + (self.end - oldest) // 2
            stale = [key for key, offset in self._snapshots.items() if offset <= middle][:_REFRESH_MAX]
        enough = oldest - self.start >= step and not self.deleting
        return (oldest if enough else None), stale
