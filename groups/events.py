"""The flight recorder of a group: what happened to it, when and why. The newest 256 events are kept, in the log too."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ..transport.group_messages import GroupEvent
from .group_records import EVENTS_KEPT, event_key, event_value

if TYPE_CHECKING:
    from .effects import Effects, Now

JOINED = "joined"
LEFT = "left"
EVICTED = "evicted"
MEMBER_REPLACED = "member-replaced"
REBALANCE_STARTED = "rebalance-started"
REBALANCE_COMPLETED = "rebalance-completed"
BECAME_EMPTY = "became-empty"
OFFSETS_RESET = "offsets-reset"
OFFSETS_EXPIRED = "offsets-expired"
OFFSETS_DELETED = "offsets-deleted"
TOPIC_DELETED = "topic-deleted"
GROUP_DELETED = "group-deleted"

_CAUSE_LENGTH_MAX = 1000


class Recorder:
    """The events of one group."""

    def __init__(self, group_id: str, effects: Effects) -> None:
        self.group_id = group_id
        self.events: deque[GroupEvent] = deque(maxlen=EVENTS_KEPT)
        self._effects = effects

    def add(
        self, kind: str, now: Now, cause: str, *, generation: int = -1, member_id: str = "", client_id: str = ""
    ) -> None:
        """Record an event, durably."""
        sequence = self.events[-1].sequence + 1 if self.events else 0
        cause = cause if len(cause) <= _CAUSE_LENGTH_MAX else cause[: _CAUSE_LENGTH_MAX - 1] + "\N{HORIZONTAL ELLIPSIS}"
        event = GroupEvent(sequence, now.wall_ms, kind, generation, member_id, client_id, cause)
        self.events.append(event)
        self._effects.append(event_key(self.group_id, sequence % EVENTS_KEPT), event_value(event))

    def restore(self, slot: int, event: GroupEvent | None) -> None:
        """Take an event from the log, which has them in order; None: it was forgotten."""
        if event is not None:
            self.events.append(event)
            return
        kept = [known for known in self.events if known.sequence % EVENTS_KEPT != slot]
        self.events = deque(kept, maxlen=EVENTS_KEPT)

    def forget(self) -> None:
        """Forget all events, durably."""
        for event in self.events:
            self._effects.append(event_key(self.group_id, event.sequence % EVENTS_KEPT), None)
        self.events.clear()

    def newest(self, limit: int) -> list[GroupEvent]:
        """The newest events, oldest first."""
        return list(self.events)[-limit:] if limit else []
