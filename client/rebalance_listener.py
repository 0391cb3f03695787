"""What a consumer group tells its users: a listener for rebalances, and who a consumer is in its group."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from .types import TopicPartition


class ConsumerRebalanceListener:
    """Hears of partitions that come and go: subclass it and give it to `subscribe`.

    Called in the thread that polls, iterates or closes the consumer, between two records, and free to use the consumer:
    to commit, to seek. What it raises, the poll raises, after the rebalance. An AsyncConsumer awaits coroutines.
    """

    def on_partitions_revoked(self, revoked: set[TopicPartition]) -> Awaitable[None] | None:
        """These are given up next; until this returns nobody else reads them. Offsets may be committed here."""
        del revoked
        return None

    def on_partitions_assigned(self, assigned: set[TopicPartition]) -> Awaitable[None] | None:
        """These were added, none perhaps; nothing of them has been handed out yet."""
        del assigned
        return None

    def on_partitions_lost(self, lost: set[TopicPartition]) -> Awaitable[None] | None:
        """The group took these away from this consumer, and others may read them already: commits would be refused."""
        return self.on_partitions_revoked(lost)


class ConsumerGroupMetadata(NamedTuple):
    """Who a consumer is in its group; generation_id -1: no member at the moment."""

    group_id: str
    generation_id: int
    member_id: str
    group_instance_id: str | None
