"""Static members (KIP-345): who has which member id, who is fenced, and when there is no rebalance."""

import pytest
from zmqbroker.transport.group_messages import LeaveGroupRequest, LeavingMember


@pytest.fixture
def joined(world):
    waiting = [world.join(instance="a"), world.join(instance="b")]
    world.advance(1000)
    found = [one.body for one in waiting]
    world.sync(found[1])
    world.sync(found[0], [("m1", b"one"), ("m2", b"two")])
    return found


@pytest.mark.usefixtures("joined")
def test_a_follower_that_comes_back_gets_its_assignment_without_a_rebalance(world):
    back = world.join(instance="b")
    assert (back.body.generation_id, back.body.member_id, back.body.members) == (1, "m3", [])
    assert not back.body.skip_assignment
    assert world.sync(back.body, instance="b").body.assignment == b"two"
    assert world.state == "Stable"
    assert world.kinds()[-1] == "member-replaced"
    assert world.heartbeat("m2", 1, instance="b").error == "FENCED_INSTANCE_ID"
    assert world.heartbeat("m2", 1).error == "UNKNOWN_MEMBER_ID"


@pytest.mark.usefixtures("joined")
def test_a_leader_that_comes_back_leads_and_assigns_nothing(world):
    back = world.join(instance="a").body
    assert back.leader == back.member_id == "m3"
    assert back.skip_assignment
    assert [member.member_id for member in back.members] == ["m3", "m2"]
    assert world.sync(back, instance="a").body.assignment == b"one"


@pytest.mark.usefixtures("joined")
def test_it_has_its_session_time_to_come_back(world):
    for _ in range(9):
        world.heartbeat("m1", 1, instance="a")
        world.advance(1000)
    assert world.join(instance="b").body.generation_id == 1
    for _ in range(11):
        world.heartbeat("m1", 1, instance="a")
        world.advance(1000)
    assert world.state == "PreparingRebalance"


def test_whoever_had_the_instance_is_fenced_at_once(world, joined):
    held = world.heartbeat("m2", 1, wait_ms=9_000, instance="b")
    world.join(instance="b")
    assert held.error == "FENCED_INSTANCE_ID"
    assert world.join("m2", instance="b").error == "FENCED_INSTANCE_ID"
    assert world.sync(joined[1], instance="b").error == "FENCED_INSTANCE_ID"
    assert world.commit(1, 1, "m2", instance="b").error == "FENCED_INSTANCE_ID"
    assert world.commit(1, 1, "m3", instance="b").body


@pytest.mark.usefixtures("joined")
def test_another_subscription_needs_a_rebalance(world):
    back = world.join(instance="b", topics=("u",))
    assert back.answer is None
    assert world.state == "PreparingRebalance"
    world.join("m1", instance="a")
    assert back.body.generation_id == 2


def test_another_assignor_needs_a_rebalance(world):
    both = [("a", b""), ("b", b"")]
    waiting = [world.join(instance="x", protocols=both), world.join(instance="y", protocols=both)]
    world.advance(1000)
    world.sync(waiting[0].body, [])
    assert waiting[0].body.protocol_name == "a"
    assert world.join(instance="y", protocols=[("b", b"")]).answer is None
    assert world.state == "PreparingRebalance"


def test_in_the_middle_of_a_sync_there_is_a_rebalance(world):
    waiting = [world.join(instance="a"), world.join(instance="b")]
    world.advance(1000)
    held = world.sync(waiting[1].body, instance="b")
    back = world.join(instance="b")
    assert held.error == "FENCED_INSTANCE_ID"
    assert back.answer is None
    world.join("m1", instance="a")
    assert back.body.generation_id == 2


@pytest.mark.usefixtures("joined")
def test_in_the_middle_of_a_rebalance_it_takes_its_place(world):
    world.join("m1", instance="a")
    old = world.join(instance="b")
    assert old.body.generation_id == 2
    world.join(instance="c")
    first, second = world.join(instance="b"), world.join(instance="b")
    assert first.error == "FENCED_INSTANCE_ID"
    world.join("m1", instance="a")
    assert second.body.generation_id == 3


def test_absent_ones_are_no_reason_to_wait_beyond_the_time_out_and_stay(world):
    waiting = [world.join(instance="a", session_ms=60_000), world.join(instance="b", session_ms=60_000)]
    world.advance(1000)
    world.sync(waiting[1].body)
    world.sync(waiting[0].body, [("m1", b"one"), ("m2", b"two")])
    again = world.join("m1", instance="a", session_ms=60_000)
    world.advance(30_001)
    assert [member.member_id for member in again.body.members] == ["m1", "m2"]
    world.sync(again.body, [("m2", b"new")])
    back = world.join(instance="b", session_ms=60_000)
    assert back.body.generation_id == 2
    assert world.sync(back.body, instance="b").body.assignment == b"new"


def test_they_are_let_in_although_the_group_is_full(make_world):
    world = make_world(group_max_size=1)
    waiting = world.join(instance="a")
    world.advance(1000)
    world.sync(waiting.body, [])
    assert world.join(instance="a").body.member_id == "m2"
    assert world.join(instance="b").error == "GROUP_MAX_SIZE_REACHED"


def test_they_are_never_asked_to_come_back_with_an_id(world):
    assert world.join(instance="a", require_id=True).answer is None


@pytest.mark.usefixtures("joined")
def test_an_administrator_removes_them_by_instance(world):
    request = LeaveGroupRequest("g", [LeavingMember("", "b"), LeavingMember("", "c"), LeavingMember("m9", "a")])
    results = world.do(world.table.leave, request, world.now).body.members
    assert [result.error_code for result in results] == [0, 25, 82]
    assert list(world.group().roster.members) == ["m1"]


@pytest.mark.usefixtures("joined")
def test_an_instance_that_is_not_there_is_unknown(world):
    assert world.heartbeat("m1", 1, instance="z").error == "UNKNOWN_MEMBER_ID"
    assert world.join("m1", instance="z").error == "UNKNOWN_MEMBER_ID"
