"""Offsets that were committed in transactions which have not ended yet. Pure.

They stand in records of their own, ours, until the transaction's marker comes: then they become offsets of their group,
or nothing, and their records go. So nothing in ``__consumer_offsets`` is transactional, and compaction keeps it small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .group_records import PendingRecord, pending_key, pending_value

if TYPE_CHECKING:
    from collections.abc import Callable

    from .effects import Effects
    from .group_records import OffsetState


_ENDED_MAX = 10_000


class Place(NamedTuple):
    """Where an offset counts."""

    group: str
    topic: str
    partition: int


class _Pending(NamedTuple):
    transaction: int
    state: OffsetState


class PendingOffsets:
    """All of one partition of ``__consumer_offsets``."""

    def __init__(self, effects: Effects) -> None:
        self._effects = effects
        self._producers: dict[int, dict[Place, _Pending]] = {}
        self._ended: dict[int, int] = {}
        """The last transaction of each producer that has ended here, of the last so many."""

    def __len__(self) -> int:
        """Producers with an open transaction that has offsets."""
        return len(self._producers)

    def replay(self, record: PendingRecord) -> None:
        """Take one record of the log."""
        place = Place(record.group, record.topic, record.partition)
        if record.state is not None:
            self._producers.setdefault(record.producer_id, {})[place] = _Pending(record.transaction, record.state)
        elif record.producer_id in self._producers:
            self._take_out(record.producer_id, place)

    def has_ended(self, producer_id: int, transaction: int) -> bool:
        """Whether a transaction has ended here, as far as that is remembered."""
        return transaction <= self._ended.get(producer_id, -1)

    def add(self, producer_id: int, transaction: int, place: Place, state: OffsetState) -> None:
        """An offset is to count when the transaction is committed."""
        self._producers.setdefault(producer_id, {})[place] = _Pending(transaction, state)
        self._effects.append(pending_key(producer_id, *place), pending_value(transaction, state))

    def end(self, producer_id: int, transaction: int) -> list[tuple[Place, OffsetState]]:
        """A transaction has ended: what was pending for it, and is no longer. Nothing of a later one."""
        last = self._ended.pop(producer_id, transaction)
        self._ended[producer_id] = max(last, transaction)
        if len(self._ended) > _ENDED_MAX:
            del self._ended[next(iter(self._ended))]
        mine = self._producers.get(producer_id, {})
        ended = [(place, pending.state) for place, pending in mine.items() if pending.transaction <= transaction]
        for place, _ in ended:
            self._forget(producer_id, place)
        return ended

    def is_pending(self, place: Place) -> bool:
        """Whether an open transaction may change an offset."""
        return any(place in mine for mine in self._producers.values())

    def has_group(self, group: str) -> bool:
        """Whether an open transaction may give a group an offset."""
        return any(place.group == group for mine in self._producers.values() for place in mine)

    def drop(self, which: Callable[[Place], bool]) -> None:
        """Forget those whose topic, or group, is gone."""
        for producer_id, mine in list(self._producers.items()):
            for place in [place for place in mine if which(place)]:
                self._forget(producer_id, place)

    def _forget(self, producer_id: int, place: Place) -> None:
        self._take_out(producer_id, place)
        self._effects.append(pending_key(producer_id, *place), None)

    def _take_out(self, producer_id: int, place: Place) -> None:
        mine = self._producers[producer_id]
        mine.pop(place, None)
        if not mine:
            del self._producers[producer_id]
