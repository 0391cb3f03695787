"""One share group: its members, its partitions, and the fetches that wait for records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InvalidRecordStateError, UnknownTopicOrPartitionError
from ..groups.share_partition import Rules
from ..groups.share_records import GroupKey, PartitionKey
from ..transport.config_messages import GROUP_RESOURCE
from ..transport.share_messages import ACK_RETURN, Acknowledgement, PartitionAcknowledged
from .dead_letters import DeadLetters
from .share_alarms import Alarmed
from .share_fetch import ShareFetch
from .share_queue import ShareQueue, start_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..group_config import GroupConfig
    from ..quorum.image import MetadataImage
    from ..transport.share_messages import PartitionAcknowledgements, ShareFetchRequest
    from .commands import CoordinatorCall
    from .share_coordinator import ShareCoordinator

_ACKNOWLEDGEMENT_LATE = "nothing of it is leased to member {!r}: the group does not read {}-{}"


class ShareMember:
    """A consumer, known by what it asked for."""

    __slots__ = ("client_id", "heard_ms", "topics")

    def __init__(self, client_id: str) -> None:
        self.client_id = client_id
        self.topics: list[str] = []
        self.heard_ms = 0.0


class ShareGroup(Alarmed):
    """A share group. Only one that has claimed its id answers."""

    def __init__(self, coordinator: ShareCoordinator, group_id: str) -> None:
        self.coordinator = coordinator
        self.group_id = group_id
        self.is_durable = False
        """Whether the log says that the group exists."""
        self.is_claimed = False
        self.is_busy = False
        """Its id is being claimed or given back: its commands wait."""
        self.parked: list[CoordinatorCall] = []
        self.members: dict[str, ShareMember] = {}
        self.queues: dict[tuple[str, int], ShareQueue] = {}
        self.waiting: dict[ShareFetch, None] = {}
        self.dead_letters = DeadLetters(self)
        self._config: GroupConfig = coordinator.context.config.group_defaults
        self._config_of: MetadataImage | None = None
        self._rules = Rules()
        self._turn = 0

    @property
    def now_ms(self) -> float:
        """Monotonic."""
        return self.coordinator.context.clock.monotonic_ms()

    @property
    def wall_ms(self) -> int:
        """Since 1970."""
        return self.coordinator.context.clock.wall_ms()

    @property
    def config(self) -> GroupConfig:
        """The group's settings now."""
        if self._config_of is not self.coordinator.context.image:
            self._read_config()
        return self._config

    def _read_config(self) -> None:
        context = self.coordinator.context
        self._config_of = context.image
        overrides = context.image.config_of(GROUP_RESOURCE, self.group_id)
        self._config = config = context.config.group_defaults.with_overrides(overrides)
        self._rules = Rules(
            config.share_record_lock_duration_ms,
            config.share_delivery_count_limit,
            config.share_partition_max_record_locks,
            config.share_retry_backoff_ms,
            config.share_retry_backoff_max_ms,
        )

    @property
    def rules(self) -> Rules:
        """Those of the settings that the state machine goes by."""
        if self._config_of is not self.coordinator.context.image:
            self._read_config()
        return self._rules

    # ---- members

    def hear(self, member_id: str, client_id: str, topics: Sequence[str] | None) -> None:
        """A member has said something."""
        member = self.members.get(member_id)
        if member is None:
            member = self.members[member_id] = ShareMember(client_id)
        if topics is not None:
            member.topics = list(topics)
        member.heard_ms = self.now_ms
        timeout_ms = self.coordinator.context.config.group_share_session_timeout_ms
        self.coordinator.set_alarm(self, member.heard_ms + timeout_ms)

    def on_alarm(self, now_ms: float) -> None:
        """Forget the members that were not heard for too long."""
        timeout_ms = self.coordinator.context.config.group_share_session_timeout_ms
        for fetch in self.waiting:
            if fetch.member_id in self.members:
                self.members[fetch.member_id].heard_ms = now_ms
        for member_id, member in list(self.members.items()):
            if member.heard_ms + timeout_ms <= now_ms:
                self.remove_member(member_id)
        if self.members:
            first = min(member.heard_ms for member in self.members.values())
            self.coordinator.set_alarm(self, first + timeout_ms)

    def remove_member(self, member_id: str) -> None:
        """A member is gone; what was read ahead is kept only while there is somebody to read it."""
        self.members.pop(member_id, None)
        if not self.members:
            for queue in self.queues.values():
                for chunk in list(queue.chunks):
                    queue.drop(chunk)

    def leave(self, member_id: str) -> None:
        """A member says goodbye: all that is leased to it is available."""
        for queue in self.queues.values():
            if queue.machine is not None and queue.machine.leased:
                queue.machine.release_all(member_id, self.rules)
                queue.changed()
        self.remove_member(member_id)
        for queue in self.queues.values():
            self.pump(queue)

    # ---- partitions

    def queues_of(self, topic: str) -> list[ShareQueue]:
        """The partitions of a topic as it is now; empty if there is no such topic."""
        image = self.coordinator.context.image.topics.get(topic)
        if image is None:
            return []
        known = any(key[0] == topic for key in self.queues) if (topic, 0) not in self.queues else True
        found = []
        for index in range(len(image.partitions)):
            queue = self.queues.get((topic, index))
            if queue is None or queue.key.topic_id != image.topic_id:
                if queue is not None:
                    self.coordinator.remove_queue(queue)
                queue = ShareQueue(self, PartitionKey(self.group_id, topic, image.topic_id, index), None)
                queue.start_at = start_for(self.config.share_auto_offset_reset, topic_is_known=known)
                self.queues[topic, index] = queue
            found.append(queue)
        return found

    # ---- acknowledgements

    def acknowledge(self, member_id: str, entries: Sequence[PartitionAcknowledgements]) -> list[PartitionAcknowledged]:
        """What became of each entry."""
        results: list[PartitionAcknowledged] = []
        touched: dict[ShareQueue, None] = {}
        for entry in entries:
            result = PartitionAcknowledged(entry.topic, entry.partition)
            results.append(result)
            queue = self.queues.get((entry.topic, entry.partition))
            try:
                if queue is None or queue.machine is None:
                    message = _ACKNOWLEDGEMENT_LATE.format(member_id, entry.topic, entry.partition)
                    raise InvalidRecordStateError(message)  # noqa: TRY301 - is answered as any other
                queue.machine.expire(self.now_ms, self.rules)
                queue.machine.acknowledge(member_id, entry.acknowledgements, self.now_ms, self.wall_ms, self.rules)
                touched[queue] = None
            except InvalidRecordStateError as error:
                result.error_code, result.error_message = error.code, error.message
        for queue in touched:
            queue.changed()
            self.pump(queue)
        return results

    # ---- fetches

    def fetch(self, command: CoordinatorCall, request: ShareFetchRequest) -> None:
        """Acknowledge, then gather records."""
        self.hear(request.member_id, command.client_id, request.topics)
        fetch = ShareFetch(self, command, self.acknowledge(request.member_id, request.acknowledgements))
        found: list[ShareQueue] = []
        for topic in dict.fromkeys(request.topics):
            queues = self.queues_of(topic)
            found += queues
            if not queues:
                fetch.fail(topic, 0, UnknownTopicOrPartitionError(f"there is no topic {topic!r}"))
        if found:
            self._turn += 1
            start = self._turn % len(found)
            found = found[start:] + found[:start]
        fetch.queues = dict.fromkeys(found)
        self.waiting[fetch] = None
        wait_ms = min(request.max_wait_ms, self.coordinator.context.config.max_fetch_wait_ms)
        fetch.is_over = wait_ms == 0 or not found
        self.coordinator.set_alarm(fetch, self.now_ms + wait_ms)
        self._serve(fetch)

    def _serve(self, fetch: ShareFetch) -> None:
        for queue in fetch.queues:
            if fetch.room <= 0:
                break
            queue.deliver(fetch)
        self.finish_if_done(fetch)

    def pump(self, queue: ShareQueue) -> None:
        """A partition may have something: give it to those who wait, in the order in which they came."""
        dry = False
        for fetch in list(self.waiting):
            if not dry and queue in fetch.queues and fetch.room > 0 and fetch in self.waiting:
                dry = not queue.deliver(fetch)
            self.finish_if_done(fetch)

    def finish_all(self) -> None:
        """A read has ended: see who waits for nothing else."""
        for fetch in list(self.waiting):
            self.finish_if_done(fetch)

    def finish_if_done(self, fetch: ShareFetch) -> None:
        """Answer a fetch that has enough, or that got or will get nothing more at the moment."""
        if fetch not in self.waiting:
            return
        if not fetch.is_half_full:
            failed = bool(fetch.queues) and all(queue.error is not None for queue in fetch.queues)
            if not (fetch.records or fetch.is_over or failed or fetch.errors):
                return
            if any(queue.reading for queue in fetch.queues):
                return
        self._finish(fetch)

    def _finish(self, fetch: ShareFetch) -> None:
        self.waiting.pop(fetch)
        self.coordinator.clear_alarm(fetch)
        member = self.members.get(fetch.member_id)
        if member is not None:
            member.heard_ms = self.now_ms
        # Records leave once their lease is committed: one that has a successor without knowing it commits none.
        self.coordinator.reply(fetch.command, fetch.answer(), durable=bool(fetch.acknowledged or fetch.records))

    def end_wait(self, fetch: ShareFetch) -> None:
        """Perhaps nobody reads the answer: nothing is leased to it."""
        self.end_waits([fetch])

    def end_waits(self, fetches: Sequence[ShareFetch]) -> None:
        """Answer those that still wait with nothing; all of them give back what they hold before others get it."""
        touched: dict[ShareQueue, None] = {}
        for fetch in fetches:
            if fetch in self.waiting:
                self._give_back(fetch)
                self._finish(fetch)
                touched.update(fetch.queues)
        for queue in touched:
            self.pump(queue)

    def _give_back(self, fetch: ShareFetch) -> None:
        for queue, ranges in fetch.give_back().items():
            machine = queue.machine
            if machine is None or self.queues.get((queue.key.topic, queue.key.partition)) is not queue:
                continue
            back = [Acknowledgement(found.first_offset, found.last_offset, ACK_RETURN) for found in ranges]
            try:
                machine.acknowledge(fetch.member_id, back, self.now_ms, self.wall_ms, self.rules)
            except InvalidRecordStateError:
                continue  # its lease has ended by itself
            queue.changed()

    @property
    def key(self) -> GroupKey:
        """The group's own key in the log."""
        return GroupKey(self.group_id)
