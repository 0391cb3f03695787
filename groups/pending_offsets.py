"""Offsets that were committed in transactions which have not ended yet. Pure.

They stand in records of their own, ours, until the transaction's marker comes: then they become offsets of their group,
or nothing, and their records go. So nothing in ``__consumer_offsets`` is transactional, and compaction keeps it small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .group_records import EndedRecord, PendingRecord, ended_key, ended_value, pending_key, pending_value

if TYPE_CHECKING:
    from collections.abc import Callable

    from .effects import Effects
    from .group_records import OffsetState


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
        self._ended: dict[int, tuple[int, int]] = {}
        """The last transaction of each producer that has ended here, and when, in ms since 1970."""

    def __len__(self) -> int:
        """Producers with an open transaction that has offsets."""
        return len(self._producers)

    def replay(self, record: PendingRecord | EndedRecord) -> None:
        """Take one record of the log."""
        if isinstance(record, EndedRecord):
            if record.transaction is None:
                self._ended.pop(record.producer_id, None)
            else:
                self._ended[record.producer_id] = record.transaction, record.time_ms
            return
        place = Place(record.group, record.topic, record.partition)
        if record.state is not None:
            self._producers.setdefault(record.producer_id, {})[place] = _Pending(record.transaction, record.state)
        elif record.producer_id in self._producers:
            self._take_out(record.producer_id, place)

    def has_ended(self, producer_id: int, transaction: int) -> bool:
        """Whether a transaction has ended here."""
        return producer_id in self._ended and transaction <= self._ended[producer_id][0]

    def add(self, producer_id: int, transaction: int, place: Place, state: OffsetState) -> None:
        """An offset is to count when the transaction is committed."""
        self._producers.setdefault(producer_id, {})[place] = _Pending(transaction, state)
        self._effects.append(pending_key(producer_id, *place), pending_value(transaction, state))

    def end(self, producer_id: int, transaction: int, now_ms: int) -> list[tuple[Place, OffsetState]]:
        """A transaction has ended: what was pending for it, and is no longer; nothing of another one.

        That it has ended is written down, be there nothing pending: a coordinator that has a successor without knowing
        it must not answer for what that one has.
        """
        last, _ = self._ended.get(producer_id, (transaction, 0))
        self._ended[producer_id] = max(last, transaction), now_ms
        self._effects.append(ended_key(producer_id), ended_value(*self._ended[producer_id]))
        mine = self._producers.get(producer_id, {})
        ended = [(place, pending.state) for place, pending in mine.items() if pending.transaction == transaction]
        for place, _ in ended:
            self._forget(producer_id, place)
        return ended

    def expire(self, before_ms: int) -> None:
        """Forget of whom nothing was heard since then, and nothing is pending."""
        for producer_id, (_, ended_ms) in list(self._ended.items()):
            if ended_ms < before_ms and producer_id not in self._producers:
                del self._ended[producer_id]
                self._effects.append(ended_key(producer_id), None)

    def overtaken(self, place: Place) -> None:
        """An offset was committed outside of any transaction, later than what is pending: that counts no more."""
        for producer_id in [producer_id for producer_id, mine in self._producers.items() if place in mine]:
            self._forget(producer_id, place)

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
