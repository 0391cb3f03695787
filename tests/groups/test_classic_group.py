"""Consumer groups: joining, syncing, heartbeats, leaving, time-outs; one rule of Kafka's each."""

import pytest


def told(waiting):
    return [member.member_id for member in waiting.body.members]


# ---- the first rebalance


def test_members_that_come_within_the_delay_get_one_generation(world):
    first = world.join()
    world.advance(60)
    second = world.join()
    assert world.state == "PreparingRebalance"
    world.advance(41)
    assert first.answer is None, "the second member made the delay longer"
    world.advance(100)
    assert (first.body.generation_id, second.body.generation_id) == (1, 1)
    assert first.body.leader == second.body.leader == first.body.member_id == "m1"
    assert told(first) == ["m1", "m2"]
    assert told(second) == []
    assert (first.body.protocol_type, first.body.protocol_name) == ("consumer", "range")
    assert world.state == "CompletingRebalance"


def test_the_delay_grows_to_the_rebalance_time_out_at_most(make_world):
    world = make_world(group_initial_rebalance_delay_ms=100)
    waiting = []
    for _ in range(10):
        waiting.append(world.join(rebalance_ms=250))
        world.advance(50)
    generations = [one.body.generation_id for one in waiting if one.answer is not None]
    assert generations.count(1) == 5, "those that came within the first 250 ms"


def test_no_delay_completes_at_once(make_world):
    world = make_world(group_initial_rebalance_delay_ms=0)
    waiting = world.join()
    world.advance(0)
    assert waiting.body.generation_id == 1


# ---- sync


def test_the_leaders_assignment_reaches_all(world):
    waiting = [world.join(), world.join()]
    world.advance(1000)
    leader, follower = (one.body for one in waiting)
    early = world.sync(follower)
    assert early.answer is None
    own = world.sync(leader, [("m1", b"one"), ("m2", b"two"), ("nobody", b"x")])
    assert (own.body.assignment, early.body.assignment) == (b"one", b"two")
    assert world.sync(follower).body.assignment == b"two", "a retry is answered from what is stored"
    assert world.sync(leader, [("m1", b"other")]).body.assignment == b"one"


def test_a_member_without_assignment_gets_an_empty_one(world):
    waiting = [world.join(), world.join()]
    world.advance(1000)
    world.sync(waiting[0].body, [("m1", b"one")])
    assert world.sync(waiting[1].body).body.assignment == b""


def test_sync_errors(world):
    leader, _ = world.stable()
    assert world.sync(leader, generation=5).error == "ILLEGAL_GENERATION"
    assert world.sync(leader, member_id="m9").error == "UNKNOWN_MEMBER_ID"
    assert world.sync(leader, group="none").error == "UNKNOWN_MEMBER_ID"
    assert world.sync(leader, type="connect").error == "INCONSISTENT_GROUP_PROTOCOL"
    assert world.sync(leader, protocol="sticky").error == "INCONSISTENT_GROUP_PROTOCOL"
    assert world.sync(leader, type="consumer", protocol="range").body
    world.join()
    assert world.sync(leader).error == "REBALANCE_IN_PROGRESS"


def test_members_that_never_sync_are_evicted(world):
    waiting = [world.join(), world.join(), world.join()]
    world.advance(1000)
    world.sync(waiting[0].body, [])
    world.sync(waiting[1].body)
    for _ in range(31):
        for one in waiting:
            world.heartbeat(one.body.member_id, 1)
        world.advance(1000)
    assert world.state == "PreparingRebalance"
    assert list(world.group().roster.members) == ["m1", "m2"]
    assert "no SyncGroup within 30000 ms" in next(e for e in world.events() if e.kind == "evicted").cause


def test_an_assignment_larger_than_a_record_is_refused(world):
    waiting = [world.join()]
    world.advance(1000)
    assert world.sync(waiting[0].body, [("m1", bytes(8 * 2**20))]).error == "MESSAGE_TOO_LARGE"
    assert world.sync(waiting[0].body, [("m1", b"small")]).body.assignment == b"small"


# ---- later rebalances


def test_a_new_member_makes_the_others_join_again(world):
    leader, follower = world.stable()
    new = world.join(reason="scaled up")
    assert world.heartbeat(leader.member_id, 1).error == "REBALANCE_IN_PROGRESS"
    again = [world.join(leader.member_id), world.join(follower.member_id)]
    assert [one.body.generation_id for one in (*again, new)] == [2, 2, 2]
    assert again[0].body.leader == leader.member_id
    assert (
        "scaled up" in next(e for e in world.events() if e.kind == "rebalance-started" and e.generation_id == 1).cause
    )


def test_members_that_do_not_join_again_are_evicted_after_the_largest_rebalance_time_out(world):
    joined = world.stable(3)
    world.join(joined[0].member_id, rebalance_ms=5_000)
    stays = world.join(joined[1].member_id)
    for _ in range(29):
        world.heartbeat(joined[2].member_id, 1)
        world.advance(1000)
    assert stays.answer is None
    world.heartbeat(joined[2].member_id, 1)
    world.advance(1001)
    assert stays.body.generation_id == 2
    assert world.heartbeat(joined[2].member_id, 2).error == "UNKNOWN_MEMBER_ID"
    evicted = next(e for e in world.events() if e.kind == "evicted")
    assert evicted.member_id == joined[2].member_id
    assert "did not join again within the rebalance time-out of 30000 ms" in evicted.cause


def test_the_leader_is_replaced_if_it_does_not_join_again(world):
    joined = world.stable(2)
    world.leave(joined[0].member_id)
    again = world.join(joined[1].member_id)
    assert again.body.leader == joined[1].member_id
    assert told(again) == [joined[1].member_id]


def test_the_leader_forces_a_rebalance_by_joining_again_and_a_follower_does_not(world):
    leader, follower = world.stable()
    same = world.join(follower.member_id)
    assert (same.body.generation_id, same.body.members) == (1, [])
    assert world.state == "Stable"
    world.join(leader.member_id)
    assert world.state == "PreparingRebalance"


def test_a_follower_with_other_metadata_makes_a_rebalance(world):
    _, follower = world.stable()
    assert world.join(follower.member_id, topics=("u",)).answer is None
    assert world.state == "PreparingRebalance"


def test_a_lost_join_answer_is_repeated(world):
    waiting = [world.join(), world.join()]
    world.advance(1000)
    again = world.join("m1")
    assert again.body == waiting[0].body
    assert world.state == "CompletingRebalance"


def test_a_rebalance_during_the_sync_sends_the_waiting_back(world):
    waiting = [world.join(), world.join()]
    world.advance(1000)
    held = world.sync(waiting[1].body)
    world.join()
    assert held.error == "REBALANCE_IN_PROGRESS"


def test_a_later_request_takes_the_place_of_an_earlier_one(world):
    leader, follower = world.stable()
    world.join()
    earlier, later = world.join(leader.member_id), world.join(leader.member_id)
    assert earlier.error == "REBALANCE_IN_PROGRESS"
    world.join(follower.member_id)
    assert later.body.generation_id == 2


# ---- what is refused


@pytest.mark.parametrize("session_ms", [0, 999, 30 * 60_000 + 1])
def test_session_time_outs_have_bounds(world, session_ms):
    refused = world.join(session_ms=session_ms)
    assert refused.error == "INVALID_SESSION_TIMEOUT"
    assert str(session_ms) in refused.answer.message
    assert not world.table.groups, "a refused join makes no group"
    assert not world.table.recorders


def test_a_group_has_a_name(world):
    assert world.join(group="").error == "INVALID_GROUP_ID"


def test_unknown_members_are_told_so(world):
    assert world.join("m7").error == "UNKNOWN_MEMBER_ID"
    world.stable()
    assert world.join("m7").error == "UNKNOWN_MEMBER_ID"
    assert world.heartbeat("m7", 1).error == "UNKNOWN_MEMBER_ID"
    assert world.heartbeat("m1", 2).error == "ILLEGAL_GENERATION"


def test_protocols_have_to_match(world):
    assert world.join(type="").error == "INCONSISTENT_GROUP_PROTOCOL"
    assert world.join(protocols=[]).error == "INCONSISTENT_GROUP_PROTOCOL"
    world.stable()
    other = world.join(protocols=[("sticky", b"")])
    assert other.error == "INCONSISTENT_GROUP_PROTOCOL"
    assert "sticky" in other.answer.message
    assert "range" in other.answer.message
    assert world.join(type="connect").error == "INCONSISTENT_GROUP_PROTOCOL"


def test_members_vote_among_the_protocols_that_all_know(world):
    waiting = [
        world.join(protocols=[("a", b""), ("b", b""), ("c", b"")]),
        world.join(protocols=[("c", b""), ("b", b"")]),
        world.join(protocols=[("b", b""), ("c", b"")]),
        world.join(protocols=[("c", b""), ("b", b""), ("d", b"")]),
    ]
    world.advance(1000)
    assert {one.body.protocol_name for one in waiting} == {"b"}, (
        "b and c have two votes each; the first member's counts"
    )


def test_a_group_has_a_largest_size(make_world):
    world = make_world(group_max_size=2)
    joined = world.stable(2)
    assert world.join().error == "GROUP_MAX_SIZE_REACHED"
    assert world.join(require_id=True).error == "GROUP_MAX_SIZE_REACHED"
    assert world.join(joined[1].member_id).body.generation_id == 1, "members may stay"
    world.leave(joined[1].member_id)
    new = world.join()
    world.join(joined[0].member_id)
    assert new.body.generation_id == 2


def test_metadata_have_a_largest_size(world):
    assert world.join(protocols=[("range", bytes(64 * 1024 + 1))]).error == "INVALID_REQUEST"
    assert world.join(protocols=[(str(number), b"") for number in range(65)]).error == "INVALID_REQUEST"
    for _ in range(63):
        assert world.join(protocols=[("range", bytes(64 * 1024))]).answer is None
    assert world.join(protocols=[("range", bytes(64 * 1024))]).error == "GROUP_MAX_SIZE_REACHED"


def test_a_rejoin_cannot_make_the_group_larger_than_its_record(world):
    joined = [world.join(protocols=[("range", bytes(10))]) for _ in range(70)]
    world.advance(200)
    again = [world.join(one.body.member_id, protocols=[("range", bytes(64 * 1024))]) for one in joined]
    refused = [one.error for one in again if one.answer is not None]
    assert refused == ["GROUP_MAX_SIZE_REACHED"] * 7
    assert world.group().roster.metadata_bytes <= 4 * 1024 * 1024


# ---- ids that are given out first (KIP-394)


def test_a_new_member_may_have_to_come_back_with_its_id(world):
    required = world.join(require_id=True)
    assert (required.body.error_code, required.body.member_id) == (79, "m1")
    assert world.state == "Empty"
    waiting = world.join("m1", require_id=True)
    world.advance(1000)
    assert waiting.body.member_id == "m1"


def test_an_id_that_is_not_used_expires(world):
    world.join(require_id=True, session_ms=5_000)
    world.advance(5_001)
    assert world.join("m1", require_id=True).error == "UNKNOWN_MEMBER_ID"


def test_a_rebalance_waits_for_an_id_that_was_given_out(world):
    leader, follower = world.stable()
    world.join(require_id=True, session_ms=2_000)
    waiting = [world.join(leader.member_id), world.join(follower.member_id)]
    assert waiting[0].answer is None
    world.advance(2_001)
    assert waiting[0].body.generation_id == 2


def test_a_given_id_can_leave(world):
    world.join(require_id=True)
    assert world.leave("m1").body.members[0].error_code == 0
    assert world.join("m1").error == "UNKNOWN_MEMBER_ID"


# ---- heartbeats


def test_silent_members_are_evicted(world):
    leader, follower = world.stable()
    for _ in range(11):
        world.heartbeat(leader.member_id, 1)
        world.advance(1000)
    assert world.state == "PreparingRebalance"
    evicted = next(e for e in world.events() if e.kind == "evicted")
    assert evicted.member_id == follower.member_id
    assert "said nothing for 10000 ms, and its session time-out is 10000 ms" in evicted.cause
    assert evicted.client_id == "client"


def test_a_heartbeat_is_held_until_its_time(world):
    leader, _ = world.stable()
    held = world.heartbeat(leader.member_id, 1, wait_ms=3_000)
    world.advance(2_999)
    assert held.answer is None
    world.advance(1)
    assert held.error == ""


def test_a_held_heartbeat_is_answered_as_the_rebalance_begins(world):
    leader, follower = world.stable()
    held = [world.heartbeat(one.member_id, 1, wait_ms=9_000) for one in (leader, follower)]
    world.advance(10)
    world.join()
    assert [one.error for one in held] == ["REBALANCE_IN_PROGRESS"] * 2


def test_a_held_heartbeat_is_a_sign_of_life_and_no_longer_than_the_session(world):
    leader, follower = world.stable()
    held = world.heartbeat(leader.member_id, 1, wait_ms=1_000_000)
    for _ in range(10):
        world.heartbeat(follower.member_id, 1)
        world.advance(1000)
    assert held.error == ""
    assert world.state == "Stable"
    for _ in range(9):
        world.heartbeat(follower.member_id, 1)
        world.advance(1000)
    assert world.state == "Stable"
    world.heartbeat(follower.member_id, 1)
    world.advance(1001)
    assert world.state == "PreparingRebalance"


def test_a_held_heartbeat_can_be_ended(world):
    leader, _ = world.stable()
    held = world.heartbeat(leader.member_id, 1, wait_ms=9_000)
    world.table.end_wait(held, "g", world.now)
    world.take()
    assert held.error == ""
    world.table.end_wait(held, "g", world.now)
    world.take()


def test_a_member_that_leaves_has_its_requests_answered(world):
    leader, follower = world.stable()
    held = world.heartbeat(follower.member_id, 1, wait_ms=9_000)
    world.leave(follower.member_id)
    assert held.error == "UNKNOWN_MEMBER_ID"
    again = world.join(leader.member_id)
    assert again.body.generation_id == 2


# ---- clients that go away


def test_a_new_member_whose_client_went_away_is_no_member(world):
    leader, follower = world.stable()
    gone = world.join()
    world.table.end_wait(gone, "g", world.now)
    world.take()
    assert gone.error == "COORDINATOR_NOT_AVAILABLE"
    waiting = [world.join(leader.member_id), world.join(follower.member_id)]
    assert [one.body.generation_id for one in waiting] == [2, 2]


def test_a_known_member_whose_client_went_away_has_its_session_time(world):
    leader, follower = world.stable()
    gone = world.join(leader.member_id)
    world.table.end_wait(gone, "g", world.now)
    world.take()
    assert gone.error == "COORDINATOR_NOT_AVAILABLE"
    waiting = world.join(follower.member_id)
    world.advance(9_999)
    assert waiting.answer is None
    world.advance(2)
    assert waiting.body.generation_id == 2


def test_a_sync_that_nobody_waits_for_may_come_again(world):
    waiting = [world.join(), world.join()]
    world.advance(1000)
    gone = world.sync(waiting[1].body)
    world.table.end_wait(gone, "g", world.now)
    world.take()
    assert gone.error == "COORDINATOR_NOT_AVAILABLE"
    again = world.sync(waiting[1].body)
    world.sync(waiting[0].body, [("m2", b"two")])
    assert again.body.assignment == b"two"


def test_a_new_member_does_not_wait_for_ever(world):
    """Its client may be gone, and nobody else knows its id."""
    leader, _ = world.stable(2, rebalance_ms=1_000_000)
    new = world.join(rebalance_ms=1_000_000)
    for _ in range(301):
        world.heartbeat(leader.member_id, 1)
        world.heartbeat("m2", 1)
        world.advance(1000)
    assert new.error == "UNKNOWN_MEMBER_ID"


# ---- leaving


def test_the_last_member_leaves_an_empty_group(world):
    joined = world.stable(2)
    results = world.leave("m9", joined[0].member_id).body.members
    assert [result.error_code for result in results] == [25, 0]
    assert world.state == "PreparingRebalance"
    world.leave(joined[1].member_id)
    assert world.state == "Empty"
    assert world.group().generation == 2
    assert world.kinds()[-2:] == ["left", "became-empty"]
    assert world.leave("m1", group="none").error == "UNKNOWN_MEMBER_ID"


def test_several_members_leave_at_once_for_one_rebalance(world):
    joined = world.stable(4)
    held = world.heartbeat(joined[0].member_id, 1, wait_ms=9_000)
    world.leave(*(one.member_id for one in joined[1:]))
    assert held.error == "REBALANCE_IN_PROGRESS"
    assert world.join(joined[0].member_id).body.generation_id == 2
    assert world.kinds().count("rebalance-started") == 2


def test_generations_of_an_empty_group_go_on(world):
    joined = world.stable(1)
    world.leave(joined[0].member_id)
    assert world.stable(1)[0].generation_id == 3


# ---- what happened


def test_the_flight_recorder_tells_the_story(world):
    joined = world.stable(2)
    world.advance(100)
    world.leave(joined[1].member_id)
    world.sync(world.join(joined[0].member_id).body, [])
    kinds = ["joined", "rebalance-started", "joined", "rebalance-completed", "left", "rebalance-started"]
    assert world.kinds() == [*kinds, "rebalance-completed"]
    events = world.events()
    assert [event.sequence for event in events] == list(range(7))
    assert "client 'client'" in events[0].cause
    assert "session time-out 10000 ms" in events[0].cause
    assert events[3].cause == "generation 1: 2 members, assignor range, after 1000 ms"
    assert "1 remain" in events[4].cause
    assert "left" in events[5].cause


def test_description(world):
    joined = world.stable(2)
    found = world.do(world.table.describe, "g", 7).body
    assert (found.state, found.protocol, found.generation_id, found.coordinator_id) == ("Stable", "range", 1, 7)
    assert found.leader == joined[0].member_id
    assert [member.assignment for member in found.members] == [b"for m1", b"for m2"]
    assert world.do(world.table.describe, "none", 7).error == "GROUP_ID_NOT_FOUND"
