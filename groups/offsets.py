"""The committed offsets of one group: the last write wins, in the order of the log. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import (
    GroupSubscribedToTopicError,
    InvalidRequestError,
    OffsetMetadataTooLargeError,
    UnknownTopicOrPartitionError,
)
from ..transport import group_messages as g
from .group_records import OffsetState, offset_key, offset_value
from .record_fields import STRING_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..errors import BrokerError
    from .effects import Effects

NO_OFFSET = -1
_MOVES_TOLD = 3
"""How many partitions an event names."""


class GroupOffsets:
    """The offsets of one group, by topic and partition."""

    def __init__(self, group_id: str, effects: Effects) -> None:
        self.group_id = group_id
        self.by_partition: dict[tuple[str, int], OffsetState] = {}
        self._effects = effects

    def __len__(self) -> int:
        return len(self.by_partition)

    def restore(self, topic: str, partition: int, state: OffsetState | None) -> None:
        """Take an offset from the log; None: it was forgotten."""
        if state is None:
            self.by_partition.pop((topic, partition), None)
        else:
            self.by_partition[topic, partition] = state

    # ---- commit

    def check(
        self, entry: g.OffsetToCommit, metadata_bytes_max: int, exists: Callable[[str, int], bool]
    ) -> BrokerError | None:
        """What is wrong with one partition's commit, if anything."""
        if entry.offset < NO_OFFSET:
            message = f"offset {entry.offset} cannot be committed for {entry.topic}-{entry.partition}: it is negative"
            return InvalidRequestError(message)
        limit = min(metadata_bytes_max, STRING_BYTES_MAX)
        size = len(entry.metadata.encode()) if len(entry.metadata) * 4 > limit else 0
        if size > limit:
            message = (
                f"the metadata of the commit for {entry.topic}-{entry.partition} have {size} bytes, and "
                f"offset.metadata.max.bytes allows {limit}"
            )
            return OffsetMetadataTooLargeError(message)
        if not exists(entry.topic, entry.partition):
            message = f"there is no partition {entry.topic}-{entry.partition}, so that no offset of it can be committed"
            return UnknownTopicOrPartitionError(message)
        return None

    def commit(self, entry: g.OffsetToCommit, wall_ms: int) -> OffsetState | None:
        """Commit one partition's offset, which was checked; returns what was committed before."""
        before = self.by_partition.get((entry.topic, entry.partition))
        state = OffsetState(entry.offset, entry.leader_epoch, entry.metadata, wall_ms)
        self.set(entry.topic, entry.partition, state)
        return before

    def set(self, topic: str, partition: int, state: OffsetState) -> None:
        """Let an offset count, and write it down."""
        self.by_partition[topic, partition] = state
        self._effects.append(offset_key(self.group_id, topic, partition), offset_value(state))

    # ---- fetch

    def fetch(self, wanted: list[g.TopicPartitionEntry] | None) -> g.OffsetFetchReply:
        """The offsets of these partitions, or of all that have one."""
        if wanted is None:
            return g.OffsetFetchReply([_told(*key, state) for key, state in sorted(self.by_partition.items())])
        found = self.by_partition
        return g.OffsetFetchReply(
            [_told(entry.topic, entry.partition, found.get((entry.topic, entry.partition))) for entry in wanted]
        )

    # ---- forget

    def forget(self, keys: Iterable[tuple[str, int]]) -> int:
        """Forget offsets; returns how many there were."""
        count = 0
        for key in keys:
            if self.by_partition.pop(key, None) is not None:
                self._effects.append(offset_key(self.group_id, *key), None)
                count += 1
        return count

    def delete(
        self, wanted: list[g.TopicPartitionEntry], is_subscribed: Callable[[str], bool]
    ) -> tuple[g.OffsetDeleteReply, int]:
        """Delete offsets of topics that nobody is subscribed to; returns how many there were."""
        results = []
        free = []
        for entry in wanted:
            code, message = 0, None
            if is_subscribed(entry.topic):
                code = GroupSubscribedToTopicError.code
                message = f"group {self.group_id!r} is subscribed to {entry.topic}: stop its members first"
            else:
                free.append((entry.topic, entry.partition))
            results.append(g.PartitionCommitted(entry.topic, entry.partition, code, message))
        return g.OffsetDeleteReply(results), self.forget(free)

    def of_topic(self, topic: str) -> list[tuple[str, int]]:
        """The partitions of a topic that have an offset."""
        return [key for key in self.by_partition if key[0] == topic]


def _told(topic: str, partition: int, state: OffsetState | None) -> g.CommittedOffset:
    if state is None:
        return g.CommittedOffset(topic, partition)
    return g.CommittedOffset(
        topic, partition, state.offset, state.leader_epoch, state.metadata, commit_time_ms=state.commit_time_ms
    )


def moves_text(moves: list[tuple[g.OffsetToCommit, OffsetState]]) -> str:
    """Partitions whose offset went from one to another, for people."""
    told = [f"{new.topic}-{new.partition} from {old.offset} to {new.offset}" for new, old in moves[:_MOVES_TOLD]]
    more = f" and {len(moves) - _MOVES_TOLD} more" if len(moves) > _MOVES_TOLD else ""
    return ", ".join(told) + more
