"""The admin calls about groups against a scripted broker: whom they ask, and what they make of the answers."""

import asyncio

import pytest
from zmqbroker import Admin, TopicPartition, errors
from zmqbroker.client.aio_admin import AsyncAdmin
from zmqbroker.client.group_admin_types import GroupEvent, GroupListing, ShareRecordState
from zmqbroker.client.types import OffsetAndMetadata
from zmqbroker.groups.consumer_protocol import Assignment, Subscription, encode_assignment, encode_subscription
from zmqbroker.transport import group_messages as g
from zmqbroker.transport import share_messages as s

FAST = {"retry_backoff_ms": 5, "reconnect_backoff_ms": 5, "reconnect_backoff_max_ms": 20}
PART = TopicPartition("t", 0)


@pytest.fixture
def admin(coordinator):
    with Admin(bootstrap_servers=coordinator.servers, **FAST) as client:
        yield client


@pytest.fixture
def coordinator(server):
    """The scripted broker, which says that it coordinates every group."""

    def found(heard):
        return g.FindCoordinatorReply([g.CoordinatorInfo(key, 1) for key in heard.body.keys])

    server.once(g.FindCoordinatorRequest.API, *[found] * 20)
    return server


def answers(server, reply):
    """Answer one request of a kind; the list returned gets the request's body."""
    heard = []
    request = next(
        kind for module in (g, s) for kind in vars(module).values() if getattr(kind, "REPLY", 0) is type(reply)
    )
    server.once(request.API, lambda one: heard.append(one.body) or reply)
    return heard


def test_groups_are_listed(coordinator, admin):
    heard = answers(coordinator, g.ListGroupsReply([g.ListedGroup(name, "", "", "share") for name in "ba"]))
    listed = admin.list_groups(kinds=["share"], states=["Empty"])
    assert listed == [GroupListing("a", "share", "", ""), GroupListing("b", "share", "", "")]
    assert (heard[0].kinds, heard[0].states) == (["share"], ["Empty"])

    answers(coordinator, g.ListGroupsReply([g.ListedGroup("a", "", "", "share")]))
    answers(coordinator, s.DescribeShareGroupsReply([s.ShareGroupDescription("a", state="Stable")]))
    assert admin.list_share_groups() == [GroupListing("a", "share", "", "Stable")]


def test_members_are_described_with_what_they_read(coordinator, admin):
    wants = encode_subscription(Subscription(("t", "u")))
    has = encode_assignment(Assignment((PART,)))
    members = [
        g.MemberDescription("m1", "i1", "c", "/h", wants, has),
        g.MemberDescription("m2", None, "c", "/h", b"none of ours", b""),
    ]
    group = g.GroupDescription("a", 0, None, "Stable", "consumer", "range", 3, "m1", 1, members)
    answers(coordinator, g.DescribeGroupsReply([group]))
    (found,) = admin.describe_consumer_groups(["a"])
    assert (found.state, found.protocol, found.generation, found.leader) == ("Stable", "range", 3, "m1")
    assert [(m.member_id, m.topics, m.partitions) for m in found.members] == [
        ("m1", ("t", "u"), (PART,)),
        ("m2", (), ()),
    ]


def test_a_group_that_moves_is_asked_for_again(coordinator, admin):
    moved = g.GroupDescription("a", errors.NotCoordinatorError.code, "not me")
    loading = errors.CoordinatorLoadInProgressError("I am reading")
    here = [g.GroupDescription(name, state="Empty") for name in "ba"]
    coordinator.once(
        g.DescribeGroupsRequest.API,
        lambda _: loading,
        lambda _: g.DescribeGroupsReply([moved, here[0]]),
        lambda heard: g.DescribeGroupsReply([here[1]] if heard.body.groups == ["a"] else []),
    )
    assert [group.group_id for group in admin.describe_consumer_groups(["a", "b"])] == ["a", "b"]
    assert len(coordinator.requests(g.FindCoordinatorRequest.API)) == 3


def test_no_coordinator_is_bounded_in_time_and_named(server):
    lost = g.CoordinatorInfo("a", error_code=15, error_message="__consumer_offsets has no leader")
    server.once(g.FindCoordinatorRequest.API, *[lambda _: g.FindCoordinatorReply([lost])] * 200)
    with (
        Admin(bootstrap_servers=server.servers, default_api_timeout_ms=100, **FAST) as admin,
        pytest.raises(errors.CoordinatorNotAvailableError, match="has no leader"),
    ):
        admin.group_events("a")


def test_offsets(coordinator, admin):
    entries = [g.CommittedOffset("t", 0, 5, 2, "note"), g.CommittedOffset("t", 1)]
    heard = answers(coordinator, g.OffsetFetchReply(entries))
    assert admin.list_consumer_group_offsets("a") == {PART: OffsetAndMetadata(5, "note", 2)}
    assert heard[0].partitions is None

    heard = answers(coordinator, g.OffsetCommitReply([g.PartitionCommitted("t", 0)]))
    admin.alter_consumer_group_offsets("a", {PART: 7, TopicPartition("t", 1): OffsetAndMetadata(8, "note", 2)})
    assert (heard[0].generation_id, heard[0].member_id) == (-1, "")
    assert heard[0].partitions == [g.OffsetToCommit("t", 0, 7), g.OffsetToCommit("t", 1, 8, 2, "note")]

    answers(coordinator, g.OffsetCommitReply([g.PartitionCommitted("t", 0, 25, "the group has members")]))
    with pytest.raises(errors.UnknownMemberIdError, match="has members"):
        admin.alter_consumer_group_offsets("a", {PART: 7})

    heard = answers(coordinator, g.OffsetDeleteReply([g.PartitionCommitted("t", 0)]))
    admin.delete_consumer_group_offsets("a", [PART])
    assert heard[0].partitions == [g.TopicPartitionEntry("t", 0)]


def test_groups_are_deleted_and_the_first_failure_raised(coordinator, admin):
    results = [g.DeletedGroup("a"), g.DeletedGroup("b", errors.NonEmptyGroupError.code, "b has 2 members")]
    answers(coordinator, g.DeleteGroupsReply(results))
    with pytest.raises(errors.NonEmptyGroupError, match="b has 2 members") as caught:
        admin.delete_consumer_groups(["a", "b"])
    assert "1 of 2 failed" in caught.value.__notes__[0]


def test_members_are_removed_by_id_by_instance_or_all(coordinator, admin):
    heard = answers(coordinator, g.LeaveGroupReply([g.LeftMember("m", None)]))
    admin.remove_members_from_consumer_group("a", member_ids=["m"], group_instance_ids=["i"], reason="why")
    assert heard[0].members == [g.LeavingMember("m", None, "why"), g.LeavingMember("", "i", "why")]

    members = [g.MemberDescription("m1", "i1", "c", "/h", b"", b"")]
    answers(coordinator, g.DescribeGroupsReply([g.GroupDescription("a", members=members)]))
    heard = answers(coordinator, g.LeaveGroupReply([g.LeftMember("m1", "i1")]))
    admin.remove_members_from_consumer_group("a")
    assert [(m.member_id, m.group_instance_id) for m in heard[0].members] == [("m1", "i1")]

    answers(coordinator, g.DescribeGroupsReply([g.GroupDescription("a")]))
    admin.remove_members_from_consumer_group("a")
    assert len(coordinator.requests(g.LeaveGroupRequest.API)) == 2


def test_events(coordinator, admin):
    heard = answers(coordinator, g.GroupEventsReply([g.GroupEvent(1, 2, "joined", 3, "m", "c", "it is new")]))
    assert admin.group_events("a", limit=9) == [GroupEvent(1, 2, "joined", 3, "m", "c", "it is new")]
    assert heard[0].limit == 9


def test_share_groups(coordinator, admin):
    member = s.ShareMember("m", "c", ["t"], 2, 5)
    partition = s.SharePartitionInfo("t", 0, 1, 9, 2, 1, 2, 8, 77, 3)
    group = s.ShareGroupDescription("q", 0, None, "Stable", 1, "dlq.q", [member], [partition])
    answers(coordinator, s.DescribeShareGroupsReply([group]))
    (found,) = admin.describe_share_groups(["q"])
    assert (found.state, found.dead_letter_topic, found.members[0].topics) == ("Stable", "dlq.q", ("t",))
    assert (found.partitions[0].lag, found.partitions[0].oldest_ms) == (8, 77)

    heard = answers(coordinator, s.AlterShareOffsetsReply([s.PartitionAcknowledged("t", 0)]))
    admin.alter_share_group_offsets("q", {PART: 4})
    assert heard[0].partitions == [s.ShareOffset("t", 0, 4)]

    answers(coordinator, s.DeleteShareGroupReply())
    admin.delete_share_groups(["q"])

    heard = answers(coordinator, s.ShareStatesReply(1, 9, [s.ShareRecordState(1, 3, "acquired", 2, "m", 55)]))
    states = admin.share_record_states("q", PART, limit=5)
    assert states.states == [ShareRecordState(1, 3, "acquired", 2, "m", 55)]
    assert (states.start_offset, states.next_offset, heard[0].limit) == (1, 9, 5)
    asked = {heard.body.key_type for heard in coordinator.requests(g.FindCoordinatorRequest.API)}
    assert asked == {g.SHARE_COORDINATOR}


def test_the_asyncio_twin(coordinator):
    async def main():
        async with AsyncAdmin(bootstrap_servers=coordinator.servers, **FAST) as admin:
            answers(coordinator, g.OffsetFetchReply([g.CommittedOffset("t", 0, 5)]))
            assert (await admin.list_consumer_group_offsets("a", [PART]))[PART].offset == 5
            answers(coordinator, g.GroupEventsReply([]))
            assert await admin.group_events("a") == []

    asyncio.run(main())
