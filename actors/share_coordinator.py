"""ShareCoordinator: holds the whole state of the share groups of one partition of ``__share_group_state`` (KIP-932).

Consumers ask it for records; it leases ranges, reads their batches from the partitions' leaders, and takes the
acknowledgements. An answer leaves once what it says is committed, leases too: so deliveries count over a restart, and a
coordinator that was cut off and has a successor hands out nothing that this one has finished.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from ..errors import (
    CoordinatorNotAvailableError,
    CorruptMessageError,
    InvalidGroupIdError,
    LeaderNotAvailableError,
    UnsupportedVersionError,
)
from ..groups.partitioning import group_partition
from ..groups.share_partition import SharePartition
from ..groups.share_records import (
    GroupKey,
    GroupState,
    PartitionKey,
    Snapshot,
    decode_key,
    decode_value,
    encode_key,
    encode_value,
)
from ..quorum.internal_topics import internal_topic
from ..transport.internal_topics import OFFSETS_TOPIC, SHARE_STATE_TOPIC
from ..transport.messages import CreateTopicsRequest, PartitionDeleted
from ..transport.share_messages import (
    AlterShareOffsetsRequest,
    DeleteShareGroupRequest,
    DescribeShareGroupsRequest,
    ShareAcknowledgeReply,
    ShareAcknowledgeRequest,
    ShareFetchRequest,
    ShareStatesRequest,
)
from .commands import (
    Answer,
    ClaimGroup,
    Command,
    ControllerCall,
    CoordinatorCall,
    DeleteBefore,
    EndWait,
    Message,
    Readable,
    Refusal,
    TopicGone,
    tell_back,
)
from .context import CONTROLLER, coordinator_address, partition_address
from .coordinator import Coordinator
from .elsewhere import tell_leader
from .share_admin import ShareAdmin
from .share_alarms import Alarms
from .share_chunks import ChunkCache
from .share_group import ShareGroup
from .share_log import StateLog
from .share_queue import ShareQueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..groups.share_records import ShareKey
    from ..transport.message_base import Body
    from .commands import Ref
    from .context import NodeContext
    from .share_alarms import Alarmed

Reply: TypeAlias = Answer | Refusal | Readable
"""What comes back from an actor that the coordinator has asked."""

_CREATE_TIMEOUT_MS: Final = 30_000


class Asked:
    """A question to another actor: who goes on with the answer, and in which life of the coordinator it was asked."""

    __slots__ = ("life", "then")

    def __init__(self, life: int, then: Callable[[Reply], None]) -> None:
        self.life = life
        self.then = then


class ShareCoordinator(Coordinator):
    """One partition of ``__share_group_state``."""

    TOPIC: ClassVar[str] = SHARE_STATE_TOPIC

    def __init__(self, context: NodeContext, partition: int) -> None:
        super().__init__(context, partition)
        self.groups: dict[str, ShareGroup] = {}
        self.chunks = ChunkCache()
        self._life = 0
        self._alarms = Alarms()
        self._state_log = StateLog(context.config.share_coordinator_snapshot_update_records_per_snapshot)
        self._replayed: dict[PartitionKey, SharePartition] = {}
        self._changed: dict[ShareQueue, None] = {}
        self._changed_groups: dict[ShareGroup, None] = {}
        self._replies: list[tuple[Command, Message]] = []
        self._admin = ShareAdmin(self)

    # ---- the log

    def forget(self) -> None:
        """Forget everything; who waits has to ask again."""
        error = CoordinatorNotAvailableError(f"{self.name} is read again: try again")
        for command in self.waiting():
            tell_back(command.reply_to, Refusal(command.call, command.index, error))
        self._life += 1
        self.groups = {}
        self.chunks = ChunkCache()
        self._alarms = Alarms()
        self._state_log = StateLog(self.context.config.share_coordinator_snapshot_update_records_per_snapshot)
        self._replayed.clear()
        self._changed.clear()
        self._changed_groups.clear()
        self._replies.clear()
        self._admin = ShareAdmin(self)

    def replay(self, key: bytes, value: bytes | None, offset: int) -> None:
        """Take one record of the log. Raises CorruptMessageError."""
        log = self._state_log
        log.read(offset)
        found = decode_key(key)
        if value is None:
            log.removed(found)
            if isinstance(found, GroupKey):
                self.groups.pop(found.group, None)
            else:
                self._replayed.pop(found, None)
            return
        state = decode_value(value)
        if isinstance(found, GroupKey):
            if not isinstance(state, GroupState):
                message = f"the key of share group {found.group} has the value of one of its partitions"
                raise CorruptMessageError(message)
            self.group(found.group).is_durable = True
            log.read_part(found, offset, 0, 1)
            return
        if isinstance(state, GroupState):
            message = f"the key of {found.topic}-{found.partition} has the value of a share group"
            raise CorruptMessageError(message)
        machine = self._replayed.get(found)
        if isinstance(state, Snapshot):
            log.read_part(found, offset, state.part, state.parts)
            if machine is None:
                machine = self._replayed[found] = SharePartition(state.start_offset)
        elif machine is None or not log.has_snapshot(found):
            return  # its snapshot comes later; what is before the oldest in use need not be there
        else:
            log.is_snapshot_due(found)
        machine.replay(state)

    def loaded(self) -> None:
        """Go on with the delays and the dead letters; topics that are gone take their state with them."""
        for key, machine in self._replayed.items():
            topic = self.context.image.topics.get(key.topic)
            if not self._state_log.has_snapshot(key):
                continue  # the log ended within the first, so that nothing was answered of it
            if topic is None or topic.topic_id != key.topic_id:
                self._tombstone(key)
                continue
            group = self.group(key.group)
            queue = group.queues[key.topic, key.partition] = ShareQueue(group, key, machine)
            machine.next_available(group.wall_ms, group.rules)
            queue.changed()
        self._replayed.clear()

    def write_snapshot(self, queue: ShareQueue) -> None:
        """Write the whole state of a partition."""
        assert queue.machine is not None, "a queue without a start has no state"
        key = encode_key(queue.key)
        for part in queue.machine.take_snapshot():
            self.append(key, encode_value(part))
        self._state_log.wrote_snapshot(queue.key, self._appends + 1)

    def write_group(self, group: ShareGroup) -> None:
        """Write that a group exists."""
        group.is_durable = True
        self.append(encode_key(group.key), encode_value(GroupState(self.context.clock.wall_ms())))
        self._state_log.wrote_snapshot(group.key, self._appends + 1)

    def remove_queue(self, queue: ShareQueue) -> None:
        """A partition's state is void: say so durably."""
        queue.is_gone = True
        if queue.group.queues.get((queue.key.topic, queue.key.partition)) is queue:
            del queue.group.queues[queue.key.topic, queue.key.partition]
        self._changed.pop(queue, None)
        self._alarms.clear(queue)
        for chunk in list(queue.chunks):
            queue.drop(chunk)
        if queue.machine is not None:
            self._tombstone(queue.key)

    def remove_group(self, group: ShareGroup) -> None:
        """A group is gone: say so durably."""
        for queue in list(group.queues.values()):
            self.remove_queue(queue)
        if group.is_durable:
            self._tombstone(group.key)
        self._changed_groups.pop(group, None)
        for alarmed in (group, group.dead_letters):
            self._alarms.clear(alarmed)
        self.groups.pop(group.group_id, None)

    def _tombstone(self, key: ShareKey) -> None:
        self.append(encode_key(key), None)
        self._state_log.removed(key)

    def committed(self, base_offset: int, last_offset: int) -> None:
        """Take note of how far the log goes; the last append may have more batches to come."""
        self._state_log.committed(self._committed, base_offset, last_offset)

    def _prune(self) -> None:
        before, stale = self._state_log.prefix()
        for key in stale:
            group = self.groups.get(key.group)
            if group is None:
                continue
            if isinstance(key, GroupKey):
                self.write_group(group)
                continue
            queue = group.queues.get((key.topic, key.partition))
            if queue is not None and queue.key == key and queue.machine is not None:
                self.write_snapshot(queue)
        if before is not None:
            self._state_log.deleting = True
            offset = before
            address = partition_address(self.TOPIC, self.partition)
            self.ask(address, lambda me, call: DeleteBefore(me, call, 0, offset), self._pruned)

    def _pruned(self, answer: Reply) -> None:
        log = self._state_log
        log.deleting = False
        if isinstance(answer, Answer):
            assert isinstance(answer.body, PartitionDeleted), f"a deletion was answered with {answer.body!r}"
            if not answer.body.error_code:
                log.start = max(log.start, answer.body.low_watermark)

    # ---- for its parts

    def ask(self, address: str, question: Callable[[Ref, Any], Message], then: Callable[[Reply], None]) -> None:
        """Ask the actor at an address, here or where its partition is led, and go on with what it says, not before."""
        call = Asked(self._life, then)
        if not tell_leader(self.context, self.reactor, address, question(self.actor_ref, call)):
            error = LeaderNotAvailableError(f"nobody serves {address} at the moment")
            tell_back(self.actor_ref, Refusal(call, 0, error))

    def ask_once_committed(
        self, address: str, question: Callable[[Ref, Any], Message], then: Callable[[Reply], None]
    ) -> None:
        """Ask as soon as everything appended so far is committed."""
        self.send(self.actor_ref, Readable(Asked(self._life, lambda _: self.ask(address, question, then)), 0))

    def group(self, group_id: str) -> ShareGroup:
        """A group, which begins if it is not there."""
        found = self.groups.get(group_id)
        if found is None:
            found = self.groups[group_id] = ShareGroup(self, group_id)
        return found

    def set_alarm(self, target: Alarmed, when_ms: float) -> None:
        """Have a part run at this time."""
        if self._alarms.set(target, when_ms):
            self.wake_at(when_ms)

    def clear_alarm(self, target: Alarmed) -> None:
        """Take its alarm back."""
        self._alarms.clear(target)

    def queue_changed(self, queue: ShareQueue) -> None:
        """What has changed of a partition is written at the end of the turn."""
        self._changed[queue] = None
        self._changed_groups[queue.group] = None

    def group_changed(self, group: ShareGroup) -> None:
        """There may be dead letters to write."""
        self._changed_groups[group] = None

    def reply(self, command: Command, answer: Message, *, durable: bool) -> None:
        """Answer: once what has changed is committed, or at once if it says nothing that has to be."""
        if durable:
            self._replies.append((command, answer))
        else:
            tell_back(command.reply_to, answer)

    def reply_body(self, command: Command, body: Body) -> None:
        """Answer once what has changed is committed."""
        self.reply(command, Answer(command.call, command.index, body), durable=True)

    # ---- messages

    def handle(self, command: Command) -> None:
        """Handle a request of a client."""
        if not isinstance(command, CoordinatorCall):
            message = f"{type(command).__name__} is no business of a share coordinator"
            raise UnsupportedVersionError(message)
        request = command.request
        match request:
            case ShareFetchRequest() | ShareAcknowledgeRequest():
                self._handle_member(command, request.group_id)
            case DescribeShareGroupsRequest():
                self._admin.describe(command, request)
            case ShareStatesRequest():
                self._admin.states(command, request)
            case AlterShareOffsetsRequest():
                self._admin.alter(command, request)
            case DeleteShareGroupRequest():
                self._admin.delete(command, request)
            case _:
                message = f"{type(request).__name__} is no request about share groups"
                raise UnsupportedVersionError(message)

    def _handle_member(self, command: CoordinatorCall, group_id: str) -> None:
        if not group_id:
            message = "the group id is empty; a group needs a name"
            raise InvalidGroupIdError(message)
        if group_id not in self.groups and isinstance(command.request, ShareAcknowledgeRequest):
            group = ShareGroup(self, group_id)  # has leased nothing to anybody, and does not begin with this
            self._serve_member(group, command)
            return
        group = self.group(group_id)
        if group.is_claimed and not group.is_busy:
            self._serve_member(group, command)
            return
        group.parked.append(command)
        if not group.is_busy:
            group.is_busy = True
            self._claim(group)

    def _serve_member(self, group: ShareGroup, command: CoordinatorCall) -> None:
        request = command.request
        if isinstance(request, ShareFetchRequest):
            group.fetch(command, request)
            return
        assert isinstance(request, ShareAcknowledgeRequest), f"{request!r} is not a member's"
        if request.leave:  # first, or what the member returns would be leased to itself again
            group.end_waits([fetch for fetch in group.waiting if fetch.member_id == request.member_id])
        results = group.acknowledge(request.member_id, request.acknowledgements)
        if request.leave:
            group.leave(request.member_id)
        elif request.member_id in group.members:
            group.hear(request.member_id, command.client_id, None)
        self.reply_body(command, ShareAcknowledgeReply(results, group.rules.lease_ms))

    def notice(self, message: Any) -> None:
        """Go on with an answer, or with what has changed in the cluster."""
        match message:
            case Answer(call=Asked()) | Refusal(call=Asked()) | Readable(call=Asked()):
                if message.call.life == self._life:
                    message.call.then(message)
            case EndWait():
                self._end_wait(message.call)
            case TopicGone():
                for group in self.groups.values():
                    gone = [queue for queue in group.queues.values() if queue.key.topic == message.topic]
                    for queue in gone:
                        if queue.key.topic_id == message.topic_id:
                            self.remove_queue(queue)
            case _:
                super().notice(message)

    def _end_wait(self, call: Any) -> None:
        for group in self.groups.values():
            for fetch in group.waiting:
                if fetch.command.call is call:
                    group.end_wait(fetch)
                    return
            for command in group.parked:
                if command.call is call and isinstance(command.request, ShareFetchRequest):
                    group.parked.remove(command)
                    error = CoordinatorNotAvailableError(f"the id of group {group.group_id} is still being claimed")
                    self.refuse(command, error)
                    return

    def tick(self, now_ms: float) -> None:
        """Run what is due."""
        for target in list(self._alarms.due(now_ms)):
            target.on_alarm(now_ms)
        next_ms = self._alarms.next_ms()
        if next_ms is not None:
            self.wake_at(next_ms)

    def on_turn_end(self) -> None:
        """Write what has changed, then answer."""
        if not self.is_loaded:
            return
        while self._changed_groups:
            groups, self._changed_groups = self._changed_groups, {}
            for group in groups:
                group.dead_letters.kick()
        changed, self._changed = self._changed, {}
        for queue in changed:
            machine = queue.machine
            if machine is None or not machine.has_changes:
                continue
            update = None if self._state_log.is_snapshot_due(queue.key) else machine.take_update()
            if update is None:
                self.write_snapshot(queue)
            else:
                self.append(encode_key(queue.key), encode_value(update))
        self._prune()
        replies, self._replies = self._replies, []
        for command, message in replies:
            self.send(command.reply_to, message)
        super().on_turn_end()

    # ---- the group's id

    def _claim(self, group: ShareGroup) -> None:
        """Ask the coordinator of consumer groups for the id: it is either kind's, never both."""
        topic = self.context.image.topics.get(OFFSETS_TOPIC)
        if topic is None:
            request = CreateTopicsRequest([internal_topic(OFFSETS_TOPIC, self.context.config)], _CREATE_TIMEOUT_MS)
            self.ask(
                CONTROLLER,
                lambda me, call: ControllerCall(me, call, 0, request),
                lambda answer: self._made_topic(group, answer),
            )
            return
        address = coordinator_address(OFFSETS_TOPIC, group_partition(group.group_id, len(topic.partitions)))
        self.ask(
            address,
            lambda me, call: ClaimGroup(me, call, 0, group.group_id),
            lambda answer: self._claimed(group, answer),
        )

    def _made_topic(self, group: ShareGroup, answer: Reply) -> None:
        if OFFSETS_TOPIC in self.context.image.topics:
            self._claim(group)
        elif isinstance(answer, Refusal):
            self._claimed(group, answer)
        else:
            error = CoordinatorNotAvailableError(f"{OFFSETS_TOPIC} could not be made: {answer!r}")
            self._claimed(group, Refusal(None, 0, error))

    def _claimed(self, group: ShareGroup, answer: Reply) -> None:
        group.is_busy = False
        parked, group.parked = group.parked, []
        if isinstance(answer, Refusal):
            if not group.is_durable:
                self.groups.pop(group.group_id, None)
            for command in parked:
                self.refuse(command, answer.error)
            return
        group.is_claimed = True
        if not group.is_durable:
            self.write_group(group)
        for command in parked:
            self._handle(command)

    def released(self, group: ShareGroup) -> None:
        """A group is gone and so is the claim to its id: who came meanwhile begins a new one."""
        parked, group.parked = group.parked, []
        self.groups.pop(group.group_id, None)
        for command in parked:
            self._handle(command)

    # ---- the end

    def waiting(self) -> list[Command]:
        """Fetches that wait for records, and whoever waits for a claim."""
        found: list[Command] = [*self._admin.waiting(), *(command for command, _ in self._replies)]
        for group in self.groups.values():
            found += group.parked
            found += [fetch.command for fetch in group.waiting]
        return found
