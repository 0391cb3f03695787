"""The admin calls about groups as flows: asked of each group's coordinator, which is looked for anew in each call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import BrokerError, InconsistentGroupProtocolError, ZmqBrokerError, error_for
from ..groups.consumer_protocol import PROTOCOL_TYPE, decode_assignment, decode_subscription
from ..transport import group_messages as g
from ..transport import share_messages as s
from ..transport.message_base import Body, Request
from .admin_calls import AdminCalls, clearer, raise_first
from .group_admin_types import (
    CONSUMER_GROUP,
    SHARE_GROUP,
    GroupDescription,
    GroupEvent,
    GroupListing,
    GroupMember,
    ShareGroupDescription,
    ShareGroupMember,
    SharePartition,
    ShareRecordState,
    ShareRecordStates,
)
from .io import body_of
from .types import OffsetAndMetadata, TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from .io import Flow

B = TypeVar("B", bound=Body)

_NO_GENERATION = -1


class GroupAdminCalls(AdminCalls):
    """Each method is a flow; deadlines come from default_api_timeout_ms."""

    # ---- consumer groups

    def list_groups(self, kinds: Iterable[str], states: Iterable[str]) -> Flow[list[GroupListing]]:
        """Groups of all nodes."""
        request = g.ListGroupsRequest(list(states), list(kinds))
        cluster = yield from self.describe_cluster()
        found: list[GroupListing] = []
        for node in cluster.nodes:
            reply = yield from self._ask(request, g.ListGroupsReply, node_id=node.node_id)
            found += [GroupListing(o.group_id, o.kind, o.protocol_type, o.state) for o in reply.groups]
        return sorted(found, key=lambda group: group.group_id)

    def list_consumer_groups(self, states: Iterable[str]) -> Flow[list[GroupListing]]:
        """Consumer groups of all nodes."""
        return (yield from self.list_groups([CONSUMER_GROUP], states))

    def describe_consumer_groups(self, group_ids: Iterable[str]) -> Flow[list[GroupDescription]]:
        """Groups and their members."""
        found = yield from self._of_each(group_ids, g.GROUP_COORDINATOR, g.DescribeGroupsRequest, g.DescribeGroupsReply)
        return [_group(entry) for _, entry in found]

    def list_consumer_group_offsets(
        self, group_id: str, partitions: Iterable[TopicPartition] | None
    ) -> Flow[dict[TopicPartition, OffsetAndMetadata]]:
        """Committed offsets."""
        wanted = None if partitions is None else [g.TopicPartitionEntry(*partition) for partition in partitions]
        reply = yield from self._ask_coordinator(group_id, g.OffsetFetchRequest(group_id, wanted), g.OffsetFetchReply)
        raise_first(reply.partitions, "topic")
        return {
            TopicPartition(o.topic, o.partition): OffsetAndMetadata(o.offset, o.metadata, o.leader_epoch)
            for o in reply.partitions
            if o.offset >= 0
        }

    def alter_consumer_group_offsets(
        self, group_id: str, offsets: Mapping[TopicPartition, int | OffsetAndMetadata]
    ) -> Flow[None]:
        """Commit offsets for a group without members."""
        entries = []
        for (topic, partition), offset in offsets.items():
            commit = offset if isinstance(offset, OffsetAndMetadata) else OffsetAndMetadata(offset)
            entries.append(g.OffsetToCommit(topic, partition, commit.offset, commit.leader_epoch, commit.metadata))
        request = g.OffsetCommitRequest(group_id, _NO_GENERATION, "", None, entries)
        reply = yield from self._ask_coordinator(group_id, request, g.OffsetCommitReply)
        raise_first(reply.partitions, "topic")

    def delete_consumer_group_offsets(self, group_id: str, partitions: Iterable[TopicPartition]) -> Flow[None]:
        """Forget committed offsets."""
        request = g.OffsetDeleteRequest(group_id, [g.TopicPartitionEntry(*partition) for partition in partitions])
        reply = yield from self._ask_coordinator(group_id, request, g.OffsetDeleteReply)
        raise_first(reply.partitions, "topic")

    def delete_consumer_groups(self, group_ids: Iterable[str]) -> Flow[None]:
        """Delete groups and their offsets."""
        yield from self._of_each(group_ids, g.GROUP_COORDINATOR, g.DeleteGroupsRequest, g.DeleteGroupsReply)

    def remove_members_from_consumer_group(
        self,
        group_id: str,
        member_ids: Iterable[str] | None,
        group_instance_ids: Iterable[str] | None,
        reason: str,
    ) -> Flow[None]:
        """Take members out."""
        if member_ids is None and group_instance_ids is None:
            (group,) = yield from self.describe_consumer_groups([group_id])
            leaving = [g.LeavingMember(o.member_id, o.group_instance_id, reason) for o in group.members]
        else:
            leaving = [g.LeavingMember(member, None, reason) for member in member_ids or ()]
            leaving += [g.LeavingMember("", instance, reason) for instance in group_instance_ids or ()]
        if leaving:
            request = g.LeaveGroupRequest(group_id, leaving)
            reply = yield from self._ask_coordinator(group_id, request, g.LeaveGroupReply)
            raise_first(reply.members, "member_id")

    def group_events(self, group_id: str, limit: int) -> Flow[list[GroupEvent]]:
        """Read the flight recorder."""
        request = g.GroupEventsRequest(group_id, limit)
        reply = yield from self._ask_coordinator(group_id, request, g.GroupEventsReply)
        return [
            GroupEvent(o.sequence, o.time_ms, o.kind, o.generation_id, o.member_id, o.client_id, o.cause)
            for o in reply.events
        ]

    # ---- share groups

    def list_share_groups(self) -> Flow[list[GroupListing]]:
        """Share groups of all nodes, with their states."""
        listed = yield from self.list_groups([SHARE_GROUP], ())
        described = yield from self.describe_share_groups([group.group_id for group in listed])
        return [
            GroupListing(group.group_id, group.kind, group.protocol_type, more.state)
            for group, more in zip(listed, described, strict=True)
        ]

    def describe_share_groups(self, group_ids: Iterable[str]) -> Flow[list[ShareGroupDescription]]:
        """Share groups, their consumers and partitions."""
        found = yield from self._of_each(
            group_ids, g.SHARE_COORDINATOR, s.DescribeShareGroupsRequest, s.DescribeShareGroupsReply
        )
        return [_share_group(entry) for _, entry in found]

    def alter_share_group_offsets(self, group_id: str, offsets: Mapping[TopicPartition, int]) -> Flow[None]:
        """Set where a share group begins."""
        entries = [s.ShareOffset(topic, partition, offset) for (topic, partition), offset in offsets.items()]
        request = s.AlterShareOffsetsRequest(group_id, entries)
        reply = yield from self._ask_coordinator(group_id, request, s.AlterShareOffsetsReply, g.SHARE_COORDINATOR)
        raise_first(reply.partitions, "topic")

    def delete_share_groups(self, group_ids: Iterable[str]) -> Flow[None]:
        """Delete share groups and their state, one after the other."""
        for group_id in group_ids:
            request = s.DeleteShareGroupRequest(group_id)
            yield from self._ask_coordinator(group_id, request, s.DeleteShareGroupReply, g.SHARE_COORDINATOR)

    def share_record_states(self, group_id: str, partition: TopicPartition, limit: int) -> Flow[ShareRecordStates]:
        """Look at states without leasing anything."""
        request = s.ShareStatesRequest(group_id, partition.topic, partition.partition, limit)
        reply = yield from self._ask_coordinator(group_id, request, s.ShareStatesReply, g.SHARE_COORDINATOR)
        states = [
            ShareRecordState(o.first_offset, o.last_offset, o.state, o.delivery_count, o.member_id, o.until_ms)
            for o in reply.states
        ]
        return ShareRecordStates(reply.start_offset, reply.next_offset, states)

    # ---- asking coordinators

    def _coordinators(self, group_ids: Sequence[str], key_type: int, deadline: float) -> Flow[dict[int, list[str]]]:
        """The groups of each node that coordinates some of them. Raises the first error."""
        connection = yield from self._connection(None, deadline)
        request = g.FindCoordinatorRequest(list(group_ids), key_type)
        answer = yield from self._call(request, connection, deadline)
        coordinators = body_of(answer, g.FindCoordinatorReply).coordinators
        raise_first(coordinators, "key")
        found: dict[int, list[str]] = {}
        for coordinator in coordinators:
            found.setdefault(coordinator.node_id, []).append(coordinator.key)
        return found

    def _ask_coordinator(
        self, group_id: str, request: Request, reply: type[B], key_type: int = g.GROUP_COORDINATOR
    ) -> Flow[B]:
        """Ask the coordinator of one group, and look for it again while the error is one that passes."""
        deadline = self._io.now() + self._timeout_s
        why: ZmqBrokerError | None = None
        while True:
            try:
                (node_id,) = yield from self._coordinators([group_id], key_type, deadline)
                connection = yield from self._connection(node_id, deadline)
                answer = yield from self._call(request, connection, deadline)
                return body_of(answer, reply)
            except BrokerError as error:
                if not error.retriable:
                    raise
                why = clearer(why, error)
                yield from self._again(why, deadline)

    def _of_each(
        self,
        names: Iterable[str],
        key_type: int,
        request: Callable[[list[str]], Request],
        reply: type[Body],
        *,
        entries: str = "groups",
        key: str = "group_id",
    ) -> Flow[list[tuple[int, Any]]]:
        """One entry of a reply for each name, in order, with the node that said it; entries and key: where they stand.

        Raises the first error, when all have been done or failed.
        """
        wanted = list(dict.fromkeys(names))
        deadline = self._io.now() + self._timeout_s
        done: dict[str, tuple[int, Any]] = {}
        why: ZmqBrokerError | None = None
        while left := [name for name in wanted if name not in done]:
            try:
                coordinators = yield from self._coordinators(left, key_type, deadline)
                for node_id, theirs in coordinators.items():
                    connection = yield from self._connection(node_id, deadline)
                    answer = yield from self._call(request(theirs), connection, deadline)
                    for entry in getattr(body_of(answer, reply), entries):
                        failure = error_for(entry.error_code, entry.error_message) if entry.error_code else None
                        if failure is not None and failure.retriable:
                            why = clearer(why, failure)
                        else:
                            done[getattr(entry, key)] = (node_id, entry)
            except BrokerError as error:
                if not error.retriable:
                    raise
                why = clearer(why, error)
            if why is not None and len(done) < len(wanted):
                yield from self._again(why, deadline)
        found = [done[name] for name in wanted]
        raise_first([entry for _, entry in found], key)
        return found


def _group(entry: g.GroupDescription) -> GroupDescription:
    members = [_member(member, speaks=entry.protocol_type == PROTOCOL_TYPE) for member in entry.members]
    return GroupDescription(
        *(entry.group_id, entry.state, entry.protocol_type, entry.protocol),
        *(entry.generation_id, entry.leader, entry.coordinator_id),
        members,
    )


def _member(entry: g.MemberDescription, *, speaks: bool) -> GroupMember:
    """Show what a member's bytes mean, where they are the consumer protocol's."""
    topics: tuple[str, ...] = ()
    partitions: tuple[TopicPartition, ...] = ()
    try:
        if speaks:
            topics = decode_subscription(entry.metadata).topics if entry.metadata else ()
            partitions = tuple(TopicPartition(*found) for found in decode_assignment(entry.assignment).partitions)
    except InconsistentGroupProtocolError:  # a member that writes something else is to be seen all the same
        pass
    return GroupMember(entry.member_id, entry.group_instance_id, entry.client_id, entry.client_host, topics, partitions)


def _share_group(entry: s.ShareGroupDescription) -> ShareGroupDescription:
    return ShareGroupDescription(
        *(entry.group_id, entry.state, entry.coordinator_id, entry.dead_letter_topic),
        [ShareGroupMember(o.member_id, o.client_id, tuple(o.topics), o.leased, o.idle_ms) for o in entry.members],
        [
            SharePartition(
                *(o.topic, o.partition, o.start_offset, o.next_offset, o.available, o.delayed),
                *(o.leased, o.lag, o.oldest_ms, o.dead_lettered),
            )
            for o in entry.partitions
        ],
    )
