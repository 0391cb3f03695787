"""What administrators ask of share groups: to describe, to peek, to begin elsewhere, to delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ..errors import (
    BrokerError,
    CoordinatorNotAvailableError,
    GroupIdNotFoundError,
    InvalidRequestError,
    NonEmptyGroupError,
    UnknownTopicOrPartitionError,
)
from ..groups.partitioning import group_partition
from ..groups.share_partition import SharePartition
from ..groups.share_ranges import ACKNOWLEDGED, ACQUIRED, ARCHIVED, AVAILABLE, STATE_NAMES
from ..log.batch import read_header
from ..transport.internal_topics import OFFSETS_TOPIC
from ..transport.messages import PartitionFetched
from ..transport.share_messages import (
    AlterShareOffsetsReply,
    DeleteShareGroupReply,
    DescribeShareGroupsReply,
    PartitionAcknowledged,
    ShareGroupDescription,
    ShareMember,
    SharePartitionInfo,
    ShareRecordState,
    ShareStatesReply,
)
from .commands import Answer, Read, Refusal, ReleaseGroup
from .context import coordinator_address
from .share_queue import ShareQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..groups.share_ranges import Range
    from ..transport.share_messages import (
        AlterShareOffsetsRequest,
        DeleteShareGroupRequest,
        DescribeShareGroupsRequest,
        ShareOffset,
        ShareStatesRequest,
    )
    from .commands import Command, CoordinatorCall
    from .share_coordinator import Reply, ShareCoordinator
    from .share_group import ShareGroup


class _Found(NamedTuple):
    """The end of a partition, and the time of its first record that is not finished; -1: not known."""

    end: int
    oldest_ms: int


class ShareAdmin:
    """Requests that are not a member's."""

    def __init__(self, coordinator: ShareCoordinator) -> None:
        self._coordinator = coordinator
        self._open: dict[int, Command] = {}

    def waiting(self) -> list[Command]:
        """Requests that wait for other actors."""
        return list(self._open.values())

    def _known(self, group_id: str) -> ShareGroup:
        group = self._coordinator.groups.get(group_id)
        if group is None or not group.is_durable:
            raise _unknown_group(group_id)
        return group

    def _empty(self, group_id: str, doing: str) -> ShareGroup:
        group = self._coordinator.groups.get(group_id)
        if group is not None and group.is_busy:
            message = f"share group {group_id!r} is being claimed or deleted: try again"
            raise CoordinatorNotAvailableError(message)
        group = self._known(group_id)
        if group.members:
            names = ", ".join(list(group.members)[:3])
            message = f"share group {group_id!r} has {len(group.members)} members ({names}): stop them before {doing}"
            raise NonEmptyGroupError(message)
        return group

    # ---- to look

    def _probe(
        self, command: Command, queues: list[ShareQueue], then: Callable[[dict[ShareQueue, _Found]], None]
    ) -> None:
        """Find the end of each partition, and the time of its first record that is not finished."""
        found: dict[ShareQueue, _Found] = {}
        self._open[id(command)] = command

        def heard(queue: ShareQueue, answer: Reply) -> None:
            found[queue] = _found(answer)
            if len(found) == len(queues):
                finish()

        def finish() -> None:
            self._open.pop(id(command), None)
            then(found)

        if not queues:
            finish()
        for queue in queues:
            self._ask(queue, heard)

    def _ask(self, queue: ShareQueue, heard: Callable[[ShareQueue, Reply], None]) -> None:
        machine = queue.machine
        start = 0 if machine is None else machine.start_offset
        self._coordinator.ask(
            queue.address,
            lambda me, call: Read(me, call, 0, start, 1, -1),
            lambda answer: heard(queue, answer),
        )

    def describe(self, command: CoordinatorCall, request: DescribeShareGroupsRequest) -> None:
        """Describe one group."""
        if len(request.groups) != 1:
            message = f"a coordinator describes one group at a time, and {len(request.groups)} were asked for"
            raise InvalidRequestError(message)
        group = self._known(request.groups[0])
        queues = [group.queues[key] for key in sorted(group.queues) if group.queues[key].machine is not None]
        self._probe(command, queues, lambda found: self._describe(command, group, found))

    def _describe(self, command: Command, group: ShareGroup, found: dict[ShareQueue, _Found]) -> None:
        now_ms = group.now_ms
        members = [
            ShareMember(
                member_id,
                member.client_id,
                member.topics,
                sum(queue.machine.leased_to(member_id) for queue in found if queue.machine is not None),
                int(now_ms - member.heard_ms),
            )
            for member_id, member in group.members.items()
        ]
        description = ShareGroupDescription(
            group.group_id,
            state="Stable" if members else "Empty",
            coordinator_id=self._coordinator.context.config.node_id,
            dead_letter_topic=group.config.dead_letter_topic(group.group_id),
            members=members,
            partitions=[_describe_queue(queue, *found[queue]) for queue in found if not queue.is_gone],
        )
        self._coordinator.reply_body(command, DescribeShareGroupsReply([description]))

    def states(self, command: CoordinatorCall, request: ShareStatesRequest) -> None:
        """Say what is known of the records of one partition."""
        group = self._known(request.group_id)
        queue = group.queues.get((request.topic, request.partition))
        if queue is None or queue.machine is None:
            message = f"share group {request.group_id!r} does not read {request.topic}-{request.partition}"
            raise UnknownTopicOrPartitionError(message)
        known = queue
        limit = max(1, request.limit)
        self._probe(command, [known], lambda found: self._states(command, known, found[known].end, limit))

    def _states(self, command: Command, queue: ShareQueue, end: int, limit: int) -> None:
        machine = queue.machine
        assert machine is not None, "a queue loses no machine"
        group = queue.group
        if queue.is_gone:
            why = (
                f"{queue.key.topic}-{queue.key.partition} was taken from group {group.group_id!r} meanwhile: try again"
            )
            self._coordinator.refuse(command, UnknownTopicOrPartitionError(why))
            return
        lag_ms = group.wall_ms - group.now_ms
        states = [
            _state_of(found, group.wall_ms, lag_ms) for found, _ in zip(machine.ranges, range(limit), strict=False)
        ]
        if end > machine.next_offset and len(states) < limit:
            states.append(ShareRecordState(machine.next_offset, end - 1, "new", 0))
        self._coordinator.reply_body(command, ShareStatesReply(machine.start_offset, machine.next_offset, states))

    # ---- to change

    def alter(self, command: CoordinatorCall, request: AlterShareOffsetsRequest) -> None:
        """Have a group without members begin elsewhere."""
        group = self._empty(request.group_id, "its offsets are changed")
        results = [self._alter(group, entry) for entry in request.partitions]
        self._coordinator.reply_body(command, AlterShareOffsetsReply(results))

    def _alter(self, group: ShareGroup, entry: ShareOffset) -> PartitionAcknowledged:
        result = PartitionAcknowledged(entry.topic, entry.partition)
        queues = group.queues_of(entry.topic)
        if entry.partition >= len(queues):
            result.error_code = UnknownTopicOrPartitionError.code
            result.error_message = f"there is no partition {entry.topic}-{entry.partition}"
        elif entry.offset < 0:
            result.error_code = InvalidRequestError.code
            result.error_message = f"{entry.offset} is no offset: it has to be 0 or more"
        else:
            old = queues[entry.partition]
            key = (entry.topic, entry.partition)
            self._coordinator.remove_queue(old)
            queue = group.queues[key] = ShareQueue(group, old.key, None)
            queue.begin(SharePartition(entry.offset))
        return result

    def delete(self, command: CoordinatorCall, request: DeleteShareGroupRequest) -> None:
        """Delete a group without members: its state, then the claim to its id.

        The claim is given back even if there is no such group: a crash between the two may have left it.
        """
        coordinator = self._coordinator
        group_id = request.group_id
        topic = coordinator.context.image.topics.get(OFFSETS_TOPIC)
        group = coordinator.groups.get(group_id)
        if topic is None or (group is not None and (group.is_durable or group.is_busy)):
            group = self._empty(group_id, "it is deleted")
        is_known = group is not None and group.is_durable
        group = coordinator.group(group_id)
        coordinator.remove_group(group)
        coordinator.groups[group_id] = group  # those who come meanwhile wait in it
        group.is_busy, group.is_claimed, group.is_durable = True, False, False
        partitions = 1 if topic is None else len(topic.partitions)
        address = coordinator_address(OFFSETS_TOPIC, group_partition(group_id, partitions))
        self._open[id(command)] = command
        coordinator.ask_once_committed(
            address,
            lambda me, call: ReleaseGroup(me, call, 0, group_id),
            lambda answer: self._released(command, group, answer, is_known=is_known),
        )

    def _released(self, command: Command, group: ShareGroup, answer: Reply, *, is_known: bool) -> None:
        self._open.pop(id(command), None)
        if isinstance(answer, Refusal):
            self._coordinator.refuse(command, answer.error)
        elif is_known:
            self._coordinator.reply_body(command, DeleteShareGroupReply())
        else:
            self._coordinator.refuse(command, _unknown_group(group.group_id))
        self._coordinator.released(group)


def _unknown_group(group_id: str) -> GroupIdNotFoundError:
    return GroupIdNotFoundError(f"there is no share group {group_id!r}")


def _found(answer: Reply) -> _Found:
    if not isinstance(answer, Answer):
        return _Found(-1, -1)
    body = answer.body
    assert isinstance(body, PartitionFetched), f"a read was answered with {body!r}"
    try:
        oldest = read_header(answer.data).base_timestamp if answer.data else -1
    except BrokerError:
        oldest = -1
    return _Found(body.high_watermark, oldest)


def _describe_queue(queue: ShareQueue, end: int, oldest_ms: int) -> SharePartitionInfo:
    machine = queue.machine
    assert machine is not None, "what does not know its start is not described"
    machine.next_available(queue.group.wall_ms, queue.group.rules)
    if machine.has_changes:
        queue.changed()
    sizes = machine.ranges.sizes
    delayed = sum(found.size for found in machine.ranges if _is_delayed(found, queue.group.wall_ms))
    finished = sizes[ACKNOWLEDGED] + sizes[ARCHIVED]
    lag = max(end, machine.next_offset) - machine.start_offset - finished
    return SharePartitionInfo(
        queue.key.topic,
        queue.key.partition,
        machine.start_offset,
        machine.next_offset,
        sizes[AVAILABLE] - delayed,
        delayed,
        sizes[ACQUIRED],
        lag,
        oldest_ms if lag else -1,
        queue.dead_lettered,
    )


def _is_delayed(found: Range, wall_ms: int) -> bool:
    return found.state == AVAILABLE and found.not_before > wall_ms


def _state_of(found: Range, wall_ms: int, lag_ms: float) -> ShareRecordState:
    if _is_delayed(found, wall_ms):
        return ShareRecordState(found.first, found.last, "delayed", found.deliveries, "", found.not_before)
    until_ms = int(found.deadline + lag_ms) if found.state == ACQUIRED else -1
    state = STATE_NAMES[found.state]
    return ShareRecordState(found.first, found.last, state, found.deliveries, found.member, until_ms)
