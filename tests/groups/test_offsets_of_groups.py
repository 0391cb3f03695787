"""Committed offsets: who may commit, what is kept, and when it is forgotten."""

import pytest
from zmqbroker.transport import group_messages as g

MINUTE_MS = 60_000.0
WEEK_MINUTES = 7 * 24 * 60


def delete(world, *topics, group="g"):
    request = g.OffsetDeleteRequest(group, [g.TopicPartitionEntry(topic, 0) for topic in topics])
    return world.do(world.table.delete_offsets, request, world.now)


def codes(waiting):
    return [entry.error_code for entry in waiting.body.partitions]


# ---- who may commit


def test_a_member_of_the_present_generation_commits(world):
    leader, _ = world.stable()
    assert codes(world.commit(5, 1, leader.member_id)) == [0]
    assert world.committed() == {("t", 0): 5}


@pytest.mark.parametrize(
    ("generation", "member", "error"),
    [
        (0, "m1", "ILLEGAL_GENERATION"),
        (2, "m1", "ILLEGAL_GENERATION"),
        (-1, "m1", "ILLEGAL_GENERATION"),
        (1, "m9", "UNKNOWN_MEMBER_ID"),
        (1, "", "UNKNOWN_MEMBER_ID"),
        (-1, "", "UNKNOWN_MEMBER_ID"),
    ],
)
def test_nobody_else_commits(world, generation, member, error):
    world.stable()
    assert world.commit(5, generation, member).error == error
    assert world.committed() == {}


def test_during_a_rebalance_members_still_commit_until_the_next_generation(world):
    leader, follower = world.stable()
    world.join()
    assert codes(world.commit(5, 1, leader.member_id)) == [0]
    for one in (leader, follower):
        world.join(one.member_id)
    assert world.commit(6, 1, leader.member_id).error == "ILLEGAL_GENERATION"
    assert world.commit(6, 2, leader.member_id).error == "REBALANCE_IN_PROGRESS"


def test_without_members_anybody_commits(world):
    assert codes(world.commit(5)) == [0]
    assert world.state == "Empty"
    assert world.commit(5, 1, "m1", group="other").error == "ILLEGAL_GENERATION"
    assert world.commit(5, group="").error == "INVALID_GROUP_ID"
    assert "other" not in world.table.groups


def test_a_commit_is_a_sign_of_life(world):
    leader, follower = world.stable()
    for _ in range(15):
        world.commit(5, 1, leader.member_id)
        world.commit(5, 1, follower.member_id)
        world.advance(1000)
    assert world.state == "Stable"


# ---- what may be committed


def test_each_partition_has_its_own_result(make_world):
    world = make_world(offset_metadata_max_bytes=10)
    entries = [
        g.OffsetToCommit("t", 0, 3, 2, "ten bytes!"),
        g.OffsetToCommit("t", 1, 3, 2, "eleven byte"),
        g.OffsetToCommit("t", 1, 3, 2, "é" * 6),
        g.OffsetToCommit("t", 8, 3),
        g.OffsetToCommit("nothing", 0, 3),
        g.OffsetToCommit("t", 2, -2),
        g.OffsetToCommit("t", 3, -1),
    ]
    request = g.OffsetCommitRequest("g", -1, "", None, entries)
    done = world.do(world.table.commit, request, world.exists, world.now)
    assert codes(done) == [0, 12, 12, 3, 3, 42, 0]
    assert "offset.metadata.max.bytes allows 10" in done.body.partitions[1].error_message
    assert world.committed() == {("t", 0): 3, ("t", 3): -1}


def test_a_commit_of_nothing_makes_no_group(world):
    assert codes(world.commit(3, topic="nothing")) == [3]
    assert not world.table.groups


def test_metadata_never_outgrow_the_record(make_world):
    world = make_world(offset_metadata_max_bytes=2**20)
    assert codes(world.commit(1, metadata="x" * 32767)) == [0]
    assert codes(world.commit(1, metadata="x" * 32768)) == [12]
    world.restart()
    assert world.committed() == {("t", 0): 1}


def test_the_last_write_wins_and_all_of_it_comes_back(world):
    world.commit(5, leader_epoch=1, metadata="first")
    world.commit(3, leader_epoch=2, metadata="second")
    world.restart()
    asked = [g.TopicPartitionEntry("t", 0), g.TopicPartitionEntry("t", 1)]
    found = world.do(world.table.fetch_offsets, g.OffsetFetchRequest("g", asked)).body.partitions
    assert (found[0].offset, found[0].leader_epoch, found[0].metadata) == (3, 2, "second")
    assert found[0].commit_time_ms == world.now.wall_ms
    assert (found[1].offset, found[1].leader_epoch, found[1].metadata) == (-1, -1, "")
    assert world.committed("other") == {}


def test_going_back_without_members_is_an_event(world):
    world.commit(5)
    world.commit(9)
    assert world.events() == []
    world.commit(2)
    (event,) = world.events()
    assert event.kind == "offsets-reset"
    assert "t-0 from 9 to 2" in event.cause


# ---- deletion


def test_offsets_are_deleted_unless_the_group_is_subscribed(world):
    leader, _ = world.stable()
    world.commit(5, 1, leader.member_id)
    world.commit(6, 1, leader.member_id, topic="u")
    assert codes(delete(world, "t", "u", "nothing")) == [86, 0, 0]
    assert world.committed() == {("t", 0): 5}
    assert world.kinds()[-1] == "offsets-deleted"
    assert delete(world, "t", group="none").error == "GROUP_ID_NOT_FOUND"


def test_members_of_an_unknown_protocol_might_be_subscribed(world):
    world.stable(1, type="other", protocols=[("x", b"any")])
    assert delete(world, "t").error == "NON_EMPTY_GROUP"


def test_metadata_that_cannot_be_read_might_be_a_subscription(world):
    leader = world.stable(1, protocols=[("x", b"any")])[0]
    world.commit(5, 1, leader.member_id)
    assert codes(delete(world, "t")) == [86]


def test_a_group_that_is_only_offsets_goes_with_the_last_of_them(world):
    world.commit(5)
    delete(world, "t")
    assert not world.table.groups
    world.restart()
    assert not world.table.groups
    assert world.kinds() == ["offsets-deleted"]


def test_offsets_of_a_deleted_topic_go(world):
    leader, _ = world.stable()
    world.commit(5, 1, leader.member_id)
    world.commit(6, 1, leader.member_id, topic="u")
    world.commit(7, group="other")
    world.table.topic_gone("t", world.now)
    world.take()
    assert (world.committed(), world.committed("other")) == ({("u", 0): 6}, {})
    assert world.kinds()[-1] == "topic-deleted"
    del world.topics["u"]
    world.restart()
    assert world.committed() == {}, "a topic that went while nobody looked"
    assert world.group().generation == 1


def test_groups_are_deleted_with_their_offsets(world):
    leader, _ = world.stable()
    world.commit(5, 1, leader.member_id)
    assert world.do(world.table.delete, "g", world.now).error == "NON_EMPTY_GROUP"
    world.leave("m1", "m2")
    world.table.delete("g", world.now)
    world.take()
    assert world.do(world.table.delete, "g", world.now).error == "GROUP_ID_NOT_FOUND"
    assert world.kinds()[-1] == "group-deleted"
    world.restart()
    assert not world.table.groups
    assert world.committed() == {}
    assert world.kinds()[-1] == "group-deleted", "the recorder outlives its group"


# ---- expiry


def test_offsets_of_an_empty_group_expire_from_the_time_it_became_empty(world):
    leader = world.stable(1)[0]
    world.commit(5, 1, leader.member_id)
    for _ in range(3):
        world.advance(5_000)
        world.heartbeat(leader.member_id, 1)
    world.leave(leader.member_id)
    world.advance((WEEK_MINUTES - 1) * MINUTE_MS)
    assert world.committed() == {("t", 0): 5}
    world.advance(15 * MINUTE_MS)
    assert world.committed() == {}
    assert world.kinds()[-2:] == ["offsets-expired", "group-deleted"]
    assert not world.table.groups
    world.advance((WEEK_MINUTES + 20) * MINUTE_MS)
    assert not world.table.recorders
    world.restart()
    assert not world.table.recorders


def test_offsets_of_a_group_without_members_expire_from_their_commit(world):
    world.commit(5)
    world.advance(WEEK_MINUTES / 2 * MINUTE_MS)
    world.commit(6, partition=1)
    world.advance((WEEK_MINUTES / 2 + 15) * MINUTE_MS)
    assert world.committed() == {("t", 1): 6}
    world.restart()
    assert world.committed() == {("t", 1): 6}


def test_offsets_of_a_subscribed_topic_never_expire_and_others_do(make_world):
    world = make_world(offsets_retention_minutes=1, offsets_retention_check_interval_ms=1000)
    leader = world.stable(1)[0]
    world.commit(5, 1, leader.member_id)
    world.commit(6, 1, leader.member_id, topic="u")
    for _ in range(20):
        world.advance(5_000)
        world.heartbeat(leader.member_id, 1)
    assert world.committed() == {("t", 0): 5}
    assert world.kinds()[-1] == "offsets-expired"
    assert world.state == "Stable"


def test_groups_without_members_and_offsets_are_forgotten(world):
    leader = world.stable(1)[0]
    world.leave(leader.member_id)
    world.join(require_id=True, group="pending", session_ms=1000)
    world.advance(10 * MINUTE_MS)
    assert not world.table.groups
    assert world.kinds()[-1] == "group-deleted"
    world.restart()
    assert not world.table.groups


# ---- restarts


def test_a_restart_keeps_the_members(world):
    leader, follower = world.stable()
    world.commit(5, 1, leader.member_id)
    before = world.group().durable()
    world.restart()
    assert world.group().durable() == before
    assert world.state == "Stable"
    assert world.heartbeat(leader.member_id, 1).error == ""
    assert world.sync(follower).body.assignment == b"for m2"
    assert codes(world.commit(6, 1, follower.member_id)) == [0]
    world.advance(9_999)
    assert world.state == "Stable"
    world.advance(10)
    assert world.state == "Empty", "both had a fresh session time, and it is over"


def test_a_restart_amid_a_rebalance_goes_on_with_it(world):
    waiting = [world.join(), world.join()]
    world.advance(1000)
    leader, follower = (one.body for one in waiting)
    world.restart()
    assert world.state == "CompletingRebalance"
    held = world.sync(follower)
    world.sync(leader, [("m2", b"two")])
    assert held.body.assignment == b"two"
    assert world.group().generation == 1


def test_a_restart_before_the_first_generation_knows_no_member(world):
    world.join()
    world.restart()
    assert world.join("m1").error == "UNKNOWN_MEMBER_ID"
    assert world.kinds() == ["joined", "rebalance-started"]


def test_generations_never_go_back(world):
    leader, follower = world.stable()
    world.join()
    for one in (leader, follower):
        world.join(one.member_id)
    assert world.group().generation == 2
    world.restart()
    assert world.group().generation == 2


def test_an_empty_assignment_is_one(world):
    waiting = world.join()
    world.advance(1000)
    world.sync(waiting.body, [])
    world.restart()
    assert world.state == "Stable"


def test_the_newest_256_events_are_kept(world):
    world.commit(1000)
    for offset in range(999, 699, -1):
        world.commit(offset)
    world.restart()
    events = world.events()
    assert [event.sequence for event in events] == list(range(44, 300))
    assert "from 701 to 700" in events[-1].cause
    newest = world.do(world.table.events, g.GroupEventsRequest("g", 2)).body.events
    assert newest == events[-2:]
    assert world.do(world.table.events, g.GroupEventsRequest("g", 0)).body.events == []
    assert world.do(world.table.events, g.GroupEventsRequest("none")).error == "GROUP_ID_NOT_FOUND"


def test_records_of_others_are_counted(world):
    world.log.append((b"\x00\x11key", b"value"))
    world.restart()
    assert world.table.unknown_records == 1


# ---- the kind of a group


def test_an_id_is_a_consumer_groups_or_a_share_groups(world):
    world.table.claim("q", world.now)
    world.table.claim("q", world.now)
    world.take()
    world.restart()
    assert world.join(group="q").error == "INCONSISTENT_GROUP_PROTOCOL"
    assert world.commit(1, group="q").error == "INCONSISTENT_GROUP_PROTOCOL"
    assert "share group (a queue)" in world.join(group="q").answer.message
    assert world.do(world.table.describe, "q", 1).error == "INCONSISTENT_GROUP_PROTOCOL"
    world.table.release("q")
    world.take()
    world.restart()
    assert world.join(group="q").answer is None
    claimed = world.do(world.table.claim, "q", world.now)
    assert claimed.error == "INCONSISTENT_GROUP_PROTOCOL"
    assert "is a consumer group (PreparingRebalance)" in claimed.answer.message


def test_an_empty_group_without_offsets_gives_its_id_away(world):
    leader = world.stable(1)[0]
    world.commit(1, 1, leader.member_id)
    world.leave(leader.member_id)
    assert world.do(world.table.claim, "g", world.now).error == "INCONSISTENT_GROUP_PROTOCOL"
    delete(world, "t")
    world.table.claim("g", world.now)
    world.take()
    world.restart()
    assert world.table.shares == {"g"}


def test_groups_are_listed_by_state_and_kind(world):
    world.stable()
    world.commit(1, group="simple")
    world.table.claim("q", world.now)
    world.take()

    def listed(states=(), kinds=()):
        found = world.do(world.table.list, g.ListGroupsRequest(list(states), list(kinds))).body.groups
        return {(group.group_id, group.protocol_type, group.state, group.kind) for group in found}

    stable, simple = ("g", "consumer", "Stable", "classic"), ("simple", "", "Empty", "classic")
    queue = ("q", "share", "", "share")
    assert listed() == {stable, simple, queue}
    assert listed(states=["stable"]) == {stable, queue}
    assert listed(kinds=["classic"]) == {stable, simple}
    assert listed(states=["Empty"], kinds=["Classic"]) == {simple}
