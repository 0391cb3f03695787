"""All groups of one partition of ``__consumer_offsets``: which exist, of which kind, and what is written down. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import (
    BrokerError,
    CoordinatorNotAvailableError,
    GroupIdNotFoundError,
    IllegalGenerationError,
    InconsistentGroupProtocolError,
    InvalidGroupIdError,
    InvalidTxnStateError,
    NonEmptyGroupError,
    UnknownMemberIdError,
    UnstableOffsetCommitError,
)
from ..transport import group_messages as g
from ..transport import transaction_messages as t
from . import events
from .classic_group import ClassicGroup, State
from .consumer_protocol import PROTOCOL_TYPE
from .deadlines import Deadlines
from .effects import Effects
from .events import Recorder
from .group_records import (
    EndedRecord,
    EventRecord,
    GroupRecord,
    GroupState,
    OffsetRecord,
    OffsetState,
    PendingRecord,
    decode,
    group_key,
    group_value,
)
from .offsets import GroupOffsets, moves_text
from .pending_offsets import PendingOffsets, Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..settings import BrokerConfig
    from .effects import Now, Token

NO_NUMBER = -1
SHARE = "share"
"""As protocol type: the id is a share group's, whose state is kept elsewhere."""
CLASSIC = "classic"
_MINUTE_MS = 60_000


class GroupTable:
    """The groups. What a method wants done stands in ``effects`` then; a BrokerError means that nothing changed."""

    def __init__(self, config: BrokerConfig) -> None:
        self.config = config
        self.effects = Effects()
        self.groups: dict[str, ClassicGroup] = {}
        self.offsets: dict[str, GroupOffsets] = {}
        self.pending = PendingOffsets(self.effects)
        self.recorders: dict[str, Recorder] = {}
        self.shares: set[str] = set()
        self.unknown_records = 0
        """Records of key versions that are not known here, seen at replay."""
        self._deadlines: Deadlines[str] = Deadlines()
        self._check_ms = 0.0
        self._states: dict[str, GroupState] = {}

    # ---- the log

    def replay(self, key: bytes, value: bytes | None) -> None:
        """Take one record of the log. Raises InvalidRecordError."""
        match decode(key, value):
            case OffsetRecord(group, topic, partition, state):
                self._offsets(group).restore(topic, partition, state)
            case GroupRecord(group, None):
                self._states.pop(group, None)
            case GroupRecord(group, GroupState() as group_state):
                self._states[group] = group_state
            case PendingRecord() | EndedRecord() as record:
                self.pending.replay(record)
            case EventRecord(group, slot, event):
                self._recorder(group).restore(slot, event)
            case _:
                self.unknown_records += 1

    def loaded(self, now: Now, has_topic: Callable[[str], bool]) -> None:
        """The log is read: make the groups, and forget the offsets of topics that were deleted meanwhile."""
        states, self._states = self._states, {}
        self.offsets = {group: offsets for group, offsets in self.offsets.items() if offsets}
        self.recorders = {group: recorder for group, recorder in self.recorders.items() if recorder.events}
        for group_id, state in states.items():
            if state.protocol_type == SHARE:
                self.shares.add(group_id)
                continue
            group = self._new_group(group_id)
            group.restore(state)
            group.restored(now)
            self._keep(group)
        for group_id in self.offsets.keys() - self.groups.keys():
            self._keep(self._new_group(group_id))
        gone = {topic for offsets in self.offsets.values() for topic, _ in offsets.by_partition if not has_topic(topic)}
        for topic in sorted(gone):
            self.topic_gone(topic, now)
        self.pending.drop(lambda place: not has_topic(place.topic))
        self._check_ms = now.monotonic_ms + self.config.offsets_retention_check_interval_ms

    # ---- finding groups

    def _offsets(self, group_id: str) -> GroupOffsets:
        found = self.offsets.get(group_id)
        if found is None:
            found = self.offsets[group_id] = GroupOffsets(group_id, self.effects)
        return found

    def _recorder(self, group_id: str) -> Recorder:
        found = self.recorders.get(group_id)
        if found is None:
            found = self.recorders[group_id] = Recorder(group_id, self.effects)
        return found

    def _new_group(self, group_id: str) -> ClassicGroup:
        """Make a group, which is not one of the table's yet."""
        recorder = self.recorders.get(group_id) or Recorder(group_id, self.effects)
        return ClassicGroup(group_id, self.config, self.effects, recorder)

    def _keep(self, group: ClassicGroup) -> None:
        """Take a group into the table, and note when something is due in it."""
        self.groups[group.group_id] = group
        self.recorders.setdefault(group.group_id, group.recorder)
        self._deadlines.set(group.group_id, group.deadlines.next_ms())

    def check_kind(self, group_id: str) -> None:
        """Raise InvalidGroupIdError, or InconsistentGroupProtocolError for the id of a share group."""
        if not group_id:
            message = "the group id is empty; a group needs a name"
            raise InvalidGroupIdError(message)
        if group_id in self.shares:
            message = f"{group_id!r} is a share group (a queue), and no consumer group: use another group id"
            raise InconsistentGroupProtocolError(message)

    def _known(self, group_id: str, error: type[BrokerError] = UnknownMemberIdError) -> ClassicGroup:
        self.check_kind(group_id)
        group = self.groups.get(group_id)
        if group is None:
            message = f"there is no consumer group {group_id!r}"
            raise error(message)
        return group

    # ---- members

    def join(
        self, token: Token, request: g.JoinGroupRequest, client_id: str, new_id: Callable[[], str], now: Now
    ) -> None:
        """Handle a JoinGroup; a new member makes the group."""
        self.check_kind(request.group_id)
        group = self.groups.get(request.group_id)
        if group is None and request.member_id:
            message = f"there is no consumer group {request.group_id!r}: join it with an empty member id"
            raise UnknownMemberIdError(message)
        group = group or self._new_group(request.group_id)
        group.join(token, request, client_id, new_id, now)
        self._keep(group)

    def sync(self, token: Token, request: g.SyncGroupRequest, now: Now) -> None:
        """Handle a SyncGroup."""
        group = self._known(request.group_id)
        group.sync(token, request, now)
        self._keep(group)

    def heartbeat(self, token: Token, request: g.HeartbeatRequest, now: Now) -> None:
        """Handle a Heartbeat."""
        group = self._known(request.group_id)
        group.heartbeat(token, request, now)
        self._keep(group)

    def leave(self, request: g.LeaveGroupRequest, now: Now) -> g.LeaveGroupReply:
        """Handle a LeaveGroup."""
        group = self._known(request.group_id)
        reply = group.leave(request, now)
        self._keep(group)
        return reply

    def end_wait(self, token: Token, group_id: str, now: Now) -> None:
        """Answer a held request of a group now."""
        group = self.groups.get(group_id)
        if group is not None:
            group.end_wait(token, now)
            self._keep(group)

    # ---- offsets

    def commit(
        self, request: g.OffsetCommitRequest, exists: Callable[[str, int], bool], now: Now
    ) -> g.OffsetCommitReply:
        """Handle an OffsetCommit. Without a generation it makes a group that has no members."""
        self.check_kind(request.group_id)
        group = self.groups.get(request.group_id)
        if group is None:
            if request.generation_id >= 0:
                message = f"there is no consumer group {request.group_id!r}, and so no generation: join it again"
                raise IllegalGenerationError(message)
            group = self._new_group(request.group_id)
        group.check_commit(request, now)
        offsets = self.offsets.get(request.group_id) or GroupOffsets(request.group_id, self.effects)
        results = []
        back = []
        limit = self.config.offset_metadata_max_bytes
        for entry in request.partitions:
            error = offsets.check(entry, limit, exists)
            if error is not None:
                results.append(g.PartitionCommitted(entry.topic, entry.partition, error.code, error.message))
                continue
            before = offsets.commit(entry, now.wall_ms)
            if self.pending:
                self.pending.overtaken(Place(request.group_id, entry.topic, entry.partition))
            if before is not None and entry.offset < before.offset:
                back.append((entry, before))
            results.append(g.PartitionCommitted(entry.topic, entry.partition))
        if offsets:
            self.offsets[request.group_id] = offsets
            self._keep(group)
        if back and request.generation_id < 0:
            cause = f"while the group had no members, {moves_text(back)} went back"
            group.event(events.OFFSETS_RESET, now, cause)
        return g.OffsetCommitReply(results)

    def commit_in_transaction(
        self, request: t.TxnOffsetCommitRequest, transaction: int, exists: Callable[[str, int], bool], now: Now
    ) -> t.TxnOffsetCommitReply:
        """Handle a TxnOffsetCommit of an open transaction. A producer that names no member may be none (KIP-447)."""
        self.check_kind(request.group_id)
        if NO_NUMBER != request.transaction != transaction:
            message = (
                f"transaction {request.transaction} is over: that of {request.transactional_id!r} is {transaction}"
            )
            raise InvalidTxnStateError(message)
        if self.pending.has_ended(request.producer_id, transaction):
            message = (
                f"transaction {transaction} of {request.transactional_id!r} has ended, and is called open: try again"
            )
            raise CoordinatorNotAvailableError(message)
        if request.generation_id >= 0 or request.member_id or request.group_instance_id is not None:
            group = self._known(request.group_id)
            member = (request.generation_id, request.member_id, request.group_instance_id)
            group.check_commit(g.OffsetCommitRequest(request.group_id, *member, request.partitions), now)
            self._keep(group)
        offsets = self.offsets.get(request.group_id) or GroupOffsets(request.group_id, self.effects)
        results = []
        for entry in request.partitions:
            error = offsets.check(entry, self.config.offset_metadata_max_bytes, exists)
            if error is None:
                place = Place(request.group_id, entry.topic, entry.partition)
                state = OffsetState(entry.offset, entry.leader_epoch, entry.metadata, now.wall_ms)
                self.pending.add(request.producer_id, transaction, place, state)
            code, text = (0, None) if error is None else (error.code, error.message)
            results.append(g.PartitionCommitted(entry.topic, entry.partition, code, text))
        return t.TxnOffsetCommitReply(results)

    def end_transaction(self, producer_id: int, transaction: int, now: Now, *, committed: bool) -> None:
        """A transaction has ended: its offsets count from now on, or do not."""
        for place, state in self.pending.end(producer_id, transaction, now.wall_ms):
            assert place.group not in self.shares, f"{place} is pending, and its group is a share group"
            if committed:
                self._offsets(place.group).set(place.topic, place.partition, state)
                self._keep(self.groups.get(place.group) or self._new_group(place.group))

    def fetch_offsets(self, request: g.OffsetFetchRequest) -> g.OffsetFetchReply:
        """Handle an OffsetFetch; a group that is not there has no offsets."""
        self.check_kind(request.group_id)
        offsets = self.offsets.get(request.group_id) or GroupOffsets(request.group_id, self.effects)
        reply = offsets.fetch(request.partitions)
        if request.require_stable and self.pending:
            for entry in reply.partitions:
                if self.pending.is_pending(Place(request.group_id, entry.topic, entry.partition)):
                    entry.error_code = UnstableOffsetCommitError.code
                    entry.error_message = (
                        f"the offset of {entry.topic}-{entry.partition} is part of a transaction that has not ended"
                    )
        return reply

    def delete_offsets(self, request: g.OffsetDeleteRequest, now: Now) -> g.OffsetDeleteReply:
        """Handle an OffsetDelete."""
        group = self._known(request.group_id, GroupIdNotFoundError)
        if group.state is not State.EMPTY and group.roster.protocol_type != PROTOCOL_TYPE:
            message = (
                f"group {group.group_id!r} has {len(group.roster.members)} members of protocol type "
                f"{group.roster.protocol_type!r}, which do not say what they are subscribed to: stop them first"
            )
            raise NonEmptyGroupError(message)
        offsets = self._offsets(group.group_id)
        reply, count = offsets.delete(request.partitions, lambda topic: is_subscribed(group, topic))
        if count:
            group.event(events.OFFSETS_DELETED, now, f"{count} offsets were deleted on request, {len(offsets)} remain")
        self._drop_if_nothing(group)
        return reply

    def topic_gone(self, topic: str, now: Now) -> None:
        """Forget the offsets of a topic that was deleted."""
        self.pending.drop(lambda place: place.topic == topic)
        for group_id, offsets in list(self.offsets.items()):
            count = offsets.forget(offsets.of_topic(topic))
            if count:
                group = self.groups[group_id]
                cause = f"topic {topic} was deleted, and the group's offsets of its {count} partitions with it"
                group.event(events.TOPIC_DELETED, now, cause)
                self._drop_if_nothing(group)

    def _drop_if_nothing(self, group: ClassicGroup) -> None:
        """A group that was nothing but its offsets is gone with the last of them."""
        if not self.offsets.get(group.group_id):
            self.offsets.pop(group.group_id, None)
            if group.is_simple and not group.roster.pending:
                self._drop(group)

    def _drop(self, group: ClassicGroup) -> None:
        group.delete()
        del self.groups[group.group_id]
        self._deadlines.cancel(group.group_id)

    # ---- administration

    def describe(self, group_id: str, node_id: int) -> g.GroupDescription:
        """Describe a group."""
        return self._known(group_id, GroupIdNotFoundError).describe(node_id)

    def list(self, request: g.ListGroupsRequest) -> g.ListGroupsReply:
        """List the groups of these states and kinds."""
        listed = [
            g.ListedGroup(group.group_id, group.roster.protocol_type, group.state, CLASSIC)
            for group in self.groups.values()
        ]
        listed += [g.ListedGroup(group_id, SHARE, "", SHARE) for group_id in sorted(self.shares)]
        states = {state.lower() for state in request.states}
        kinds = {kind.lower() for kind in request.kinds}
        # The state of a share group is known to its own coordinator only.
        found = [
            group
            for group in listed
            if (not kinds or group.kind in kinds)
            and (not states or group.kind == SHARE or group.state.lower() in states)
        ]
        return g.ListGroupsReply(found)

    def delete(self, group_id: str, now: Now) -> None:
        """Delete a group without members, with its offsets."""
        group = self._known(group_id, GroupIdNotFoundError)
        if group.state is not State.EMPTY:
            count = len(group.roster.members)
            message = f"group {group_id!r} is {group.state} with {count} members: stop them first"
            raise NonEmptyGroupError(message)
        self._delete(group, now, "on request")

    def _delete(self, group: ClassicGroup, now: Now, why: str) -> None:
        self.pending.drop(lambda place: place.group == group.group_id)
        offsets = self.offsets.pop(group.group_id, None)
        count = 0 if offsets is None else offsets.forget(list(offsets.by_partition))
        group.event(events.GROUP_DELETED, now, f"deleted {why}, with {count} offsets")
        self.effects.append(group_key(group.group_id), None)
        self._drop(group)

    def events(self, request: g.GroupEventsRequest) -> g.GroupEventsReply:
        """Read a flight recorder; it outlives its group."""
        recorder = self.recorders.get(request.group_id)
        if recorder is None or not recorder.events:
            self._known(request.group_id, GroupIdNotFoundError)
            return g.GroupEventsReply([])
        return g.GroupEventsReply(recorder.newest(request.limit))

    # ---- share groups

    def claim(self, group_id: str, now: Now) -> None:
        """Make an id a share group's, for good. Raises InconsistentGroupProtocolError if it is a consumer group's."""
        if group_id in self.shares:
            return
        self.check_kind(group_id)
        group = self.groups.get(group_id)
        if self.pending.has_group(group_id):
            message = f"{group_id!r} is a consumer group with offsets in an open transaction: use another group id"
            raise InconsistentGroupProtocolError(message)
        if group is not None:
            if group.state is not State.EMPTY or group.roster.pending or group_id in self.offsets:
                message = (
                    f"{group_id!r} is a consumer group ({group.state}), and no share group (queue): use another group "
                    "id, or delete that group first"
                )
                raise InconsistentGroupProtocolError(message)
            self._delete(group, now, "because a share group took its id")
        self.shares.add(group_id)
        claim = GroupState(SHARE, 0, None, None, now.wall_ms)
        self.effects.append(group_key(group_id), group_value(claim))

    def release(self, group_id: str) -> None:
        """The share group of this id is gone."""
        if group_id in self.shares:
            self.shares.remove(group_id)
            self.effects.append(group_key(group_id), None)

    # ---- time

    def deadline_ms(self) -> float:
        """When ``tick`` has something to do."""
        return min(self._deadlines.next_ms(), self._check_ms)

    def tick(self, now: Now) -> None:
        """Do what is due."""
        while (group_id := self._deadlines.pop_due(now.monotonic_ms)) is not None:
            group = self.groups[group_id]
            group.tick(now)
            self._keep(group)
        if now.monotonic_ms >= self._check_ms:
            self._check_ms = now.monotonic_ms + self.config.offsets_retention_check_interval_ms
            self._expire(now)

    def _expire(self, now: Now) -> None:
        """Forget offsets, empty groups and recorders of groups that are gone, once they are old enough."""
        self.pending.expire(now.wall_ms - self.config.producer_id_expiration_ms)
        minutes = self.config.offsets_retention_minutes
        before_ms = now.wall_ms - minutes * _MINUTE_MS
        for group in list(self.groups.values()):
            if self.pending.has_group(group.group_id):
                continue  # it is about to have offsets
            offsets = self.offsets.get(group.group_id)
            if offsets is not None:
                expired = expired_offsets(group, offsets, before_ms)
                if expired:
                    count = offsets.forget(expired)
                    since = "it had no members" if group.state is State.EMPTY else "they were committed, unsubscribed"
                    cause = f"{count} offsets, since {since} for the {minutes} minutes of offsets.retention.minutes"
                    group.event(events.OFFSETS_EXPIRED, now, cause)
                if not offsets:
                    del self.offsets[group.group_id]
            if group.state is State.EMPTY and group.group_id not in self.offsets and not group.roster.pending:
                if group.generation or group.recorder.events:
                    self._delete(group, now, "because it has neither members nor offsets")
                else:
                    self._drop(group)
        for group_id, recorder in list(self.recorders.items()):
            if group_id in self.groups:
                continue
            if not recorder.events or recorder.events[-1].time_ms < before_ms:
                recorder.forget()
                del self.recorders[group_id]


def is_subscribed(group: ClassicGroup, topic: str) -> bool:
    """Whether a group's members read a topic; if they do not say so, they may."""
    if group.state is State.EMPTY:
        return False
    return group.subscribed is None or topic in group.subscribed


def expired_offsets(group: ClassicGroup, offsets: GroupOffsets, before_ms: int) -> list[tuple[str, int]]:
    """The partitions whose offset has been of no use since before this time.

    Of a group that has become empty: all, since then. Of a group that never had members, and of topics that a stable
    group is not subscribed to: those that were committed before.
    """
    if group.state is State.EMPTY and not group.is_simple:
        since = group.state_time_ms
        old = [key for key, state in offsets.by_partition.items() if max(since, state.commit_time_ms) < before_ms]
    elif group.is_simple or group.state is State.STABLE:
        old = [key for key, state in offsets.by_partition.items() if state.commit_time_ms < before_ms]
    else:
        old = []
    return [key for key in old if not is_subscribed(group, key[0])]
