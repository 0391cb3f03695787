"""Consumer groups end to end: through sessions, the coordinator and its log; restarts and crashes."""

from __future__ import annotations

from typing import Any

import pytest
from zmqbroker.actors.context import coordinator_address
from zmqbroker.errors import BrokerError
from zmqbroker.groups.consumer_protocol import Subscription, encode_subscription
from zmqbroker.groups.group_records import GroupRecord, OffsetRecord, decode
from zmqbroker.groups.partitioning import group_partition
from zmqbroker.transport import group_messages as g
from zmqbroker.transport.messages import CloseRequest, DeleteTopicsRequest

TOPIC = "__consumer_offsets"
METADATA = encode_subscription(Subscription(("t",)))


def settings(**more: Any) -> dict[str, Any]:
    return {"offsets_topic_num_partitions": 4, "group_initial_rebalance_delay_ms": 20, **more}


@pytest.fixture
def node(make_node):
    return make_node(**settings())


@pytest.fixture
def client(node):
    client = node.client()
    client.create("t", 4)
    find(client)
    return client


def find(client: Any, group: str = "g") -> Any:
    (found,) = client.call(g.FindCoordinatorRequest([group])).coordinators
    assert found.error_code == 0, found
    return found


def join_request(member_id: str = "", **options: Any) -> g.JoinGroupRequest:
    return g.JoinGroupRequest(
        options.pop("group", "g"),
        options.pop("session_ms", 10_000),
        30_000,
        member_id,
        options.pop("instance", None),
        "consumer",
        [("range", METADATA)],
        None,
        options.pop("require_id", False),
    )


def sync_request(joined: Any, assignments: Any = ()) -> g.SyncGroupRequest:
    return g.SyncGroupRequest("g", joined.generation_id, joined.member_id, None, "consumer", "range", list(assignments))


def heartbeat(joined: Any, wait_ms: int = 0) -> g.HeartbeatRequest:
    return g.HeartbeatRequest("g", joined.generation_id, joined.member_id, None, wait_ms)


def commit_request(offset: int, joined: Any = None, group: str = "g", topic: str = "t") -> g.OffsetCommitRequest:
    generation, member = (-1, "") if joined is None else (joined.generation_id, joined.member_id)
    return g.OffsetCommitRequest(group, generation, member, None, [g.OffsetToCommit(topic, 0, offset)])


def committed(client: Any, group: str = "g") -> dict[tuple[str, int], int]:
    reply = client.call(g.OffsetFetchRequest(group))
    return {(entry.topic, entry.partition): entry.offset for entry in reply.partitions}


def stable(clients: list[Any]) -> list[Any]:
    """Join with one member for each client, and assign; returns what they were told, the leader first."""
    numbers = [client.send(join_request()) for client in clients]
    joined = [
        client.body_of(client.reply_to(number), g.JoinGroupRequest)
        for client, number in zip(clients, numbers, strict=True)
    ]
    (leader,) = [one for one in joined if one.member_id == one.leader]
    parts = [(one.member_id, one.member_id.encode()) for one in joined]
    numbers = [
        client.send(sync_request(one, parts if one is leader else ()))
        for client, one in zip(clients, joined, strict=True)
    ]
    for client, number, one in zip(clients, numbers, joined, strict=True):
        assert client.body_of(client.reply_to(number), g.SyncGroupRequest).assignment == one.member_id.encode()
    return joined


def log_records(client: Any, group: str = "g") -> list[Any]:
    partition = group_partition(group, 4)
    _, records = client.fetch(TOPIC, partition=partition)
    return [decode(record.key, record.value) for record in records]


def test_a_group_from_its_first_member_to_its_last(node, client):
    clients = [client, node.client(), node.client()]
    joined = stable(clients)
    assert {one.generation_id for one in joined} == {1}
    assert len({one.member_id for one in joined}) == 3
    for one, connection in zip(joined, clients, strict=True):
        connection.call(heartbeat(one))
    held = clients[1].send(heartbeat(joined[1], 60_000))
    client.call(g.LeaveGroupRequest("g", [g.LeavingMember(joined[0].member_id)]))
    assert clients[1].reply_to(held).error_code == 27
    numbers = [
        connection.send(join_request(one.member_id)) for one, connection in zip(joined[1:], clients[1:], strict=True)
    ]
    again = [
        connection.body_of(connection.reply_to(number), g.JoinGroupRequest)
        for connection, number in zip(clients[1:], numbers, strict=True)
    ]
    assert {one.generation_id for one in again} == {2}
    client.call(g.LeaveGroupRequest("g", [g.LeavingMember(one.member_id) for one in again]))
    (group,) = client.call(g.DescribeGroupsRequest(["g"])).groups
    assert (group.state, group.members) == ("Empty", [])
    kinds = [event.kind for event in client.call(g.GroupEventsRequest("g")).events]
    assert kinds[-1] == "became-empty"
    assert kinds.count("joined") == kinds.count("left") == 3


def test_a_member_id_names_its_client(client):
    required = client.call(join_request(require_id=True))
    assert required.error_code == 79
    client_id, _, digest = required.member_id.rpartition("-")
    assert len(digest) == 32
    again = client.call(join_request(require_id=True))
    assert again.member_id.rpartition("-")[0] == client_id
    assert again.member_id != required.member_id
    joined = client.call(join_request(required.member_id))
    assert joined.member_id == required.member_id


def test_kafkas_records_stand_in_the_log(client):
    (joined,) = stable([client])
    client.call(commit_request(7, joined))
    found = log_records(client)
    (offset,) = [record for record in found if isinstance(record, OffsetRecord)]
    assert (offset.group, offset.topic, offset.partition, offset.state.offset) == ("g", "t", 0, 7)
    groups = [record.state for record in found if isinstance(record, GroupRecord)]
    assert [state.generation for state in groups] == [1, 1]
    assert groups[-1].members[0].assignment == joined.member_id.encode()


@pytest.mark.parametrize("end", ["stop", "crash"])
def test_members_go_on_after_a_restart_without_a_rebalance(make_node, end):
    node = make_node(**settings())
    client = node.client()
    client.create("t", 4)
    find(client)
    joined = stable([client, node.client()])
    client.call(commit_request(7, joined[0]))
    getattr(node, end)()
    node.start()
    client = node.client()
    find(client)
    for one in joined:
        client.call(heartbeat(one))
    assert committed(client) == {("t", 0): 7}
    client.call(commit_request(8, joined[0]))
    (group,) = client.call(g.DescribeGroupsRequest(["g"])).groups
    assert (group.state, group.generation_id, len(group.members)) == ("Stable", 1, 2)
    held = client.send(heartbeat(joined[0], 60_000))
    node.client().send(join_request())
    assert client.reply_to(held).error_code == 27


def test_a_failed_append_reads_the_log_again_and_members_stay(node, client, eventually):
    (joined,) = stable([client])
    client.call(commit_request(7, joined))
    held = client.send(heartbeat(joined, 60_000))
    waiting = node.client()
    coordinator = node.actor(coordinator_address(TOPIC, group_partition("g", 4)))
    eventually(lambda: node.on_reactor(lambda: len(coordinator._held)), "the heartbeat waits")
    node.on_reactor(lambda: coordinator._start_over(BrokerError("the test fails it")))
    reply = client.reply_to(held)
    assert reply.error_code == 15, reply
    assert committed(waiting) == {("t", 0): 7}
    waiting.call(heartbeat(joined))


def test_an_actor_that_fails_answers_who_waits_and_starts_again(node, client, eventually):
    (joined,) = stable([client])
    held = client.send(heartbeat(joined, 60_000))
    address = coordinator_address(TOPIC, group_partition("g", 4))
    eventually(lambda: node.on_reactor(lambda: node.actor(address)._held), "the heartbeat waits")
    other = node.client()

    def fail(*_: Any) -> None:
        message = "the test ends this actor"
        raise RuntimeError(message)

    node.on_reactor(lambda: setattr(node.actor(address)._table, "describe", fail))
    (described,) = other.call(g.DescribeGroupsRequest(["g"])).groups
    assert described.error_code == 15
    assert client.reply_to(held).error_code == 15

    def lives() -> bool:
        return other.ask(heartbeat(joined)).error_code == 0

    eventually(lives, "the coordinator is back, and knows the member")


def test_held_requests_are_answered_when_the_node_stops(node, client):
    (joined,) = stable([client])
    held = client.send(heartbeat(joined, 60_000))
    other = node.client()
    waiting = other.send(join_request())
    client.reply_to(held)
    node.node.stop()
    assert other.reply_to(waiting).error_code in (15, 7)


def test_a_client_that_went_away_leaves_no_ghost(node, client, eventually):
    (joined,) = stable([client])
    gone = node.client()
    gone.send(join_request())
    assert client.ask(heartbeat(joined, 60_000)).error_code == 27
    gone.send(CloseRequest())

    def events() -> list[str]:
        return [event.cause for event in client.call(g.GroupEventsRequest("g")).events if event.kind == "left"]

    assert "went away before its first generation" in eventually(events, "the member is gone")[0]
    assert client.call(join_request(joined.member_id)).generation_id == 2


def test_silent_members_are_evicted_in_real_time(make_node, eventually):
    node = make_node(**settings(group_min_session_timeout_ms=50))
    client = node.client()
    client.create("t")
    find(client)
    joined = client.call(join_request(session_ms=50))
    client.ask(sync_request(joined))  # on a busy machine this may be too late already

    def evicted() -> list[str]:
        return [event.cause for event in client.call(g.GroupEventsRequest("g")).events if event.kind == "evicted"]

    assert "session time-out is 50 ms" in eventually(evicted, "the member is evicted")[0]
    assert client.ask(heartbeat(joined)).error_code == 25


def test_errors_name_the_cause(client):
    for request, code in (
        (heartbeat(g.JoinGroupReply(1, "", "", "", "nobody", [])), 25),
        (join_request(session_ms=1), 26),
        (join_request(group=""), 24),
        (commit_request(1, g.JoinGroupReply(4, "", "", "", "nobody", [])), 22),
        (g.OffsetDeleteRequest("none", [g.TopicPartitionEntry("t", 0)]), 69),
        (g.GroupEventsRequest("none"), 69),
    ):
        reply = client.ask(request)
        assert reply.error_code == code, reply
        assert len(reply.error_message or "") > 20


def test_several_groups_are_described_and_deleted_at_once(client):
    stable([client])
    for group in ("a", "b", "c"):
        client.call(commit_request(1, group=group))
    described = client.call(g.DescribeGroupsRequest(["a", "none", "g"])).groups
    assert [(group.group_id, group.state, group.error_code) for group in described] == [
        ("a", "Empty", 0),
        ("none", "Dead", 69),
        ("g", "Stable", 0),
    ]
    listed = client.call(g.ListGroupsRequest()).groups
    assert [(group.group_id, group.kind) for group in listed] == [(name, "classic") for name in ("a", "b", "c", "g")]
    deleted = client.call(g.DeleteGroupsRequest(["a", "none", "g"])).groups
    assert [group.error_code for group in deleted] == [0, 69, 68]
    assert [group.group_id for group in client.call(g.ListGroupsRequest(["Empty"])).groups] == ["b", "c"]


def test_offsets_of_a_deleted_topic_are_gone(client, eventually):
    client.create("u")
    client.call(commit_request(5))
    client.call(commit_request(6, topic="u"))
    client.call(DeleteTopicsRequest(["u"], 10_000))
    eventually(lambda: committed(client) == {("t", 0): 5}, "the deleted topic's offset is gone")
    (result,) = client.call(commit_request(6, topic="u")).partitions
    assert result.error_code == 3


def test_offsets_expire(make_node, eventually):
    """The wall clock is moved by a week."""
    node = make_node(**settings(offsets_retention_check_interval_ms=10))
    client = node.client()
    client.create("t")
    find(client)
    client.call(commit_request(5))
    clock = node.context.clock
    week_ms = 7 * 24 * 3600 * 1000 + 1

    class Later:
        monotonic_ms = staticmethod(clock.monotonic_ms)

        @staticmethod
        def wall_ms() -> int:
            return clock.wall_ms() + week_ms

    node.on_reactor(lambda: setattr(node.context, "clock", Later()))
    eventually(lambda: committed(client) == {}, "the offset has expired")


def test_many_members_join_at_once(node, client):
    clients = [client, *(node.client() for _ in range(30))]
    joined = stable(clients)
    assert len({one.member_id for one in joined}) == 31
