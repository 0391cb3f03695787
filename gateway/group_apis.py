"""Consumer groups: each request goes to the coordinator of its group, as a native one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import CoordinatorNotAvailableError, GroupIdNotFoundError
from ..transport import group_messages as g
from .shapes import NO_OPERATIONS, by_topic, error_of, failed, flat, results_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .decoding import Message
    from .exchange import Exchange, Outcome

_KNOWN_MEMBER_ID_FROM = 4
"""The version of JoinGroup from which on a new member has to come back with the id that it is given (KIP-394)."""
_BATCHED_FROM = 4
"""The version of FindCoordinator from which on it asks for several groups."""
_SEVERAL_GROUPS_FROM = 8
"""The version of OffsetFetch from which on it asks for several groups."""
_UNKNOWN_GROUP_FROM = 6
"""The version of DescribeGroups from which on a group that is not known is an error (KIP-1043)."""
_SEVERAL_MEMBERS_FROM = 3
"""The version of LeaveGroup from which on several members may leave at once."""


def find_coordinator(exchange: Exchange) -> None:
    """Name the coordinator of a group or of a transactional id, by its Kafka address."""
    request = exchange.request
    several = exchange.version >= _BATCHED_FROM
    keys: list[str] = request.coordinator_keys if several else [request.key]

    def found(outcome: Outcome) -> None:
        if outcome.error is not None:
            entries = [{"key": key, "node_id": -1, "host": "", "port": -1, **failed(outcome.error)} for key in keys]
        else:
            entries = [_coordinator(exchange, entry) for entry in outcome.body.coordinators]
        exchange.reply({"coordinators": entries} if several else entries[0])

    exchange.ask(g.FindCoordinatorRequest(keys, request.key_type), found)


def _coordinator(exchange: Exchange, entry: g.CoordinatorInfo) -> dict[str, Any]:
    host, port = exchange.context.kafka_address_of(entry.node_id)
    if not entry.error_code and not host:
        text = f"node {entry.node_id} coordinates {entry.key!r}, and has no listener for Kafka's clients"
        nobody = {"node_id": -1, "host": "", "port": -1}
        return {"key": entry.key, **nobody, **failed(CoordinatorNotAvailableError(text))}
    known = {"error_code": entry.error_code, "error_message": entry.error_message}
    return {"key": entry.key, "node_id": entry.node_id, "host": host, "port": port, **known}


def join_group(exchange: Exchange) -> None:
    """Join a group, or take part in its rebalance."""
    request = exchange.request
    rebalance_ms = request.rebalance_timeout_ms if exchange.version > 0 else request.session_timeout_ms
    native = g.JoinGroupRequest(
        request.group_id,
        request.session_timeout_ms,
        rebalance_ms,
        request.member_id,
        request.group_instance_id,
        request.protocol_type,
        [(protocol.name, protocol.metadata) for protocol in request.protocols],
        request.reason,
        exchange.version >= _KNOWN_MEMBER_ID_FROM,
    )

    def joined(outcome: Outcome) -> None:
        body: g.JoinGroupReply | None = outcome.body
        if body is None:
            exchange.reply({**error_of(outcome), "generation_id": -1, "member_id": request.member_id})
            return
        exchange.reply(
            {
                "error_code": body.error_code,
                "generation_id": body.generation_id,
                "protocol_type": body.protocol_type,
                "protocol_name": body.protocol_name,
                "leader": body.leader,
                "skip_assignment": body.skip_assignment,
                "member_id": body.member_id,
                "members": [
                    {
                        "member_id": member.member_id,
                        "group_instance_id": member.group_instance_id,
                        "metadata": member.metadata,
                    }
                    for member in body.members
                ],
            }
        )

    exchange.ask(native, joined)


def sync_group(exchange: Exchange) -> None:
    """Give and get the assignment."""
    request = exchange.request
    native = g.SyncGroupRequest(
        request.group_id,
        request.generation_id,
        request.member_id,
        request.group_instance_id,
        request.protocol_type,
        request.protocol_name,
        [(entry.member_id, entry.assignment) for entry in request.assignments],
    )

    def synced(outcome: Outcome) -> None:
        body: g.SyncGroupReply | None = outcome.body
        if body is None:
            exchange.reply(error_of(outcome))
            return
        exchange.reply(
            {
                "protocol_type": body.protocol_type,
                "protocol_name": body.protocol_name,
                "assignment": body.assignment,
            }
        )

    exchange.ask(native, synced)


def heartbeat(exchange: Exchange) -> None:
    """Say that a member lives."""
    request = exchange.request
    native = g.HeartbeatRequest(request.group_id, request.generation_id, request.member_id, request.group_instance_id)
    exchange.ask(native, lambda outcome: exchange.reply(error_of(outcome)))


def leave_group(exchange: Exchange) -> None:
    """Take members out of a group."""
    request = exchange.request
    several = exchange.version >= _SEVERAL_MEMBERS_FROM
    leaving = (
        [g.LeavingMember(entry.member_id, entry.group_instance_id, entry.reason) for entry in request.members]
        if several
        else [g.LeavingMember(request.member_id)]
    )

    def left(outcome: Outcome) -> None:
        body: g.LeaveGroupReply | None = outcome.body
        if body is None:
            exchange.reply(error_of(outcome))
        elif several:
            members = [
                {
                    "member_id": member.member_id,
                    "group_instance_id": member.group_instance_id,
                    "error_code": member.error_code,
                }
                for member in body.members
            ]
            exchange.reply({"members": members})
        else:
            exchange.reply({"error_code": body.members[0].error_code})

    exchange.ask(g.LeaveGroupRequest(request.group_id, leaving), left)


# ---- offsets


def offset_commit(exchange: Exchange) -> None:
    """Commit offsets; the metadata text comes back as it was sent."""
    request = exchange.request
    entries = offsets_to_commit(request.topics)
    native = g.OffsetCommitRequest(
        request.group_id,
        request.generation_id_or_member_epoch,
        request.member_id,
        request.group_instance_id,
        entries,
    )

    def committed(outcome: Outcome) -> None:
        results = results_of(outcome, entries, g.PartitionCommitted)
        topics = by_topic(results, lambda entry: {"partition_index": entry.partition, "error_code": entry.error_code})
        exchange.reply({"topics": topics})

    exchange.ask(native, committed)


def offsets_to_commit(topics: Iterable[Any]) -> list[g.OffsetToCommit]:
    """The offsets of a request, in or outside of a transaction."""
    return [
        g.OffsetToCommit(
            topic,
            partition.partition_index,
            partition.committed_offset,
            partition.committed_leader_epoch,
            partition.committed_metadata or "",
        )
        for topic, partition in flat(topics)
    ]


def offset_fetch(exchange: Exchange) -> None:
    """Read committed offsets, of one group or, in newer versions, of several."""
    request = exchange.request
    groups: list[Message] = request.groups if exchange.version >= _SEVERAL_GROUPS_FROM else [request]

    def fetched(outcomes: list[Outcome]) -> None:
        answers = [_offsets(group, outcome) for group, outcome in zip(groups, outcomes, strict=True)]
        exchange.reply(answers[0] if exchange.version < _SEVERAL_GROUPS_FROM else {"groups": answers})

    natives = [g.OffsetFetchRequest(group.group_id, _asked(group.topics), request.require_stable) for group in groups]
    exchange.ask_all(natives, fetched)


def _asked(topics: list[Any] | None) -> list[g.TopicPartitionEntry] | None:
    if topics is None:
        return None
    return [g.TopicPartitionEntry(topic.name, index) for topic in topics for index in topic.partition_indexes]


def _offsets(group: Message, outcome: Outcome) -> dict[str, Any]:
    body: g.OffsetFetchReply | None = outcome.body
    if body is None:
        code = error_of(outcome)["error_code"]
        entries = [
            g.CommittedOffset(entry.topic, entry.partition, error_code=code) for entry in _asked(group.topics) or ()
        ]
    else:
        code, entries = 0, body.partitions
    topics = by_topic(
        entries,
        lambda entry: {
            "partition_index": entry.partition,
            "committed_offset": entry.offset,
            "committed_leader_epoch": entry.leader_epoch,
            "metadata": entry.metadata,
            "error_code": entry.error_code,
        },
    )
    return {"group_id": group.group_id, "error_code": code, "topics": topics}


def offset_delete(exchange: Exchange) -> None:
    """Delete committed offsets (KIP-496)."""
    request = exchange.request
    entries = [g.TopicPartitionEntry(topic, entry.partition_index) for topic, entry in flat(request.topics)]

    def deleted(outcome: Outcome) -> None:
        results = [] if outcome.body is None else outcome.body.partitions
        topics = by_topic(results, lambda entry: {"partition_index": entry.partition, "error_code": entry.error_code})
        exchange.reply({**error_of(outcome), "topics": topics})

    exchange.ask(g.OffsetDeleteRequest(request.group_id, entries), deleted)


# ---- administration


def describe_groups(exchange: Exchange) -> None:
    """Describe groups whose coordinator is on this node."""
    names: list[str] = exchange.request.groups

    def described(outcome: Outcome) -> None:
        if outcome.body is None:
            groups = [{"group_id": name, "authorized_operations": NO_OPERATIONS, **error_of(outcome)} for name in names]
        else:
            groups = [_described(group, exchange.version) for group in outcome.body.groups]
        exchange.reply({"groups": groups})

    exchange.ask(g.DescribeGroupsRequest(names), described)


def _described(group: g.GroupDescription, version: int) -> dict[str, Any]:
    is_unknown = group.error_code == GroupIdNotFoundError.code and version < _UNKNOWN_GROUP_FROM
    return {
        "error_code": 0 if is_unknown else group.error_code,
        "error_message": group.error_message,
        "group_id": group.group_id,
        "group_state": "Dead" if is_unknown else group.state,
        "protocol_type": group.protocol_type,
        "protocol_data": group.protocol,
        "authorized_operations": NO_OPERATIONS,
        "members": [
            {
                "member_id": member.member_id,
                "group_instance_id": member.group_instance_id,
                "client_id": member.client_id,
                "client_host": member.client_host,
                "member_metadata": member.metadata,
                "member_assignment": member.assignment,
            }
            for member in group.members
        ],
    }


def list_groups(exchange: Exchange) -> None:
    """List the groups that this node coordinates. Queues are not Kafka's classic groups, and are left out."""

    def listed(outcome: Outcome) -> None:
        groups = [] if outcome.body is None else outcome.body.groups
        exchange.reply(
            {
                **error_of(outcome),
                "groups": [
                    {"group_id": group.group_id, "protocol_type": group.protocol_type, "group_state": group.state}
                    for group in groups
                ],
            }
        )

    exchange.ask(g.ListGroupsRequest(list(exchange.request.states_filter), ["classic"]), listed)


def delete_groups(exchange: Exchange) -> None:
    """Delete groups without members."""
    names: list[str] = exchange.request.groups_names

    def deleted(outcome: Outcome) -> None:
        if outcome.body is None:
            results = [{"group_id": name, **error_of(outcome)} for name in names]
        else:
            results = [{"group_id": group.group_id, "error_code": group.error_code} for group in outcome.body.groups]
        exchange.reply({"results": results})

    exchange.ask(g.DeleteGroupsRequest(names), deleted)
