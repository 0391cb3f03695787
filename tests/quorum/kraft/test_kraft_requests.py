"""What a quorum's machine makes of single requests, wrong ones above all; its file, description and arithmetic."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zmqbroker.errors import BrokerError, CorruptMessageError, StorageError
from zmqbroker.quorum import kraft_types as k
from zmqbroker.quorum.kraft_core import EPOCHS_AHEAD_MAX, MAX_EPOCH
from zmqbroker.quorum.kraft_voters import VoterHistory, majority, reached_by_majority
from zmqbroker.transport import quorum_messages as m

ONE, TWO, THREE = (m.Voter(number, f"d{number}") for number in (1, 2, 3))


@pytest.fixture
def quorum(quorum_class: Any) -> Any:
    """Three voters, led by node 1."""
    quorum = quorum_class()
    for number in (1, 2, 3):
        quorum.add(number, [1, 2, 3])
    for node in quorum.alive or quorum.nodes.values():
        node.start()
    quorum.now_ms = quorum.nodes[1].machine.next_deadline()
    quorum.tick_due()
    settle(quorum)
    assert quorum.nodes[1].machine.is_leader
    return quorum


def settle(quorum: Any) -> None:
    while quorum.network:
        quorum.deliver(quorum.network[0])


def answers(effects: list[Any], token: Any = "token") -> list[Any]:
    return [
        effect.error if isinstance(effect, k.Refuse) else effect
        for effect in effects
        if isinstance(effect, k.Reply | k.Refuse | k.ReadSnapshot) and effect.token == token
    ]


def vote(**changes: Any) -> m.VoteRequest:
    request = m.VoteRequest(ONE, TWO, 2, 1, 2, pre_vote=False)
    for name, value in changes.items():
        setattr(request, name, value)
    return request


@pytest.mark.parametrize(
    ("method", "request_", "error"),
    [
        ("handle_vote", vote(epoch=-1), "INVALID_REQUEST"),
        ("handle_vote", vote(epoch=MAX_EPOCH + 1), "INVALID_REQUEST"),
        ("handle_vote", vote(candidate=ONE), "INVALID_REQUEST"),
        ("handle_vote", vote(voter=TWO), "INCONSISTENT_VOTER_SET"),
        ("handle_vote", vote(voter=m.Voter(1, "another disk")), "INCONSISTENT_VOTER_SET"),
        ("handle_begin_epoch", m.BeginQuorumEpochRequest(ONE, 2, 1), "INVALID_REQUEST"),
        ("handle_begin_epoch", m.BeginQuorumEpochRequest(ONE, 1, 9), "INVALID_REQUEST"),
        ("handle_begin_epoch", m.BeginQuorumEpochRequest(m.Voter(1, "x"), 2, 9), "INCONSISTENT_VOTER_SET"),
        ("handle_end_epoch", m.EndQuorumEpochRequest(2, 1, [1]), "INVALID_REQUEST"),
        ("handle_end_epoch", m.EndQuorumEpochRequest(2, -5, [1]), "INVALID_REQUEST"),
        ("handle_fetch", m.QuorumFetchRequest(TWO, 1, -1, 1, 0, 0, 0), "OFFSET_OUT_OF_RANGE"),
        ("handle_fetch", m.QuorumFetchRequest(ONE, 1, 0, 1, 0, 0, 0), "INVALID_REQUEST"),
        ("handle_fetch_snapshot", m.FetchSnapshotRequest(TWO, -1, 0, 0, 0, 0), "INVALID_REQUEST"),
    ],
)
def test_a_wrong_request_is_refused_and_changes_nothing(quorum: Any, method: str, request_: Any, error: str) -> None:
    machine = quorum.nodes[1].machine
    before = machine.state, machine.role, machine.high_watermark
    effects = getattr(machine, method)(request_, "token", quorum.now_ms)
    (answer,) = answers(effects)
    assert isinstance(answer, BrokerError)
    assert answer.name == error
    assert (machine.state, machine.role, machine.high_watermark) == before
    assert len(effects) == 1


TOO_FAR = 1 + EPOCHS_AHEAD_MAX + 1
"""For nodes in epoch 1."""


@pytest.mark.parametrize("epoch", [TOO_FAR, MAX_EPOCH, 2**31 - 1])
@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("handle_vote", m.VoteRequest(ONE, TWO, 0, 1, 2, pre_vote=False)),
        ("handle_vote", m.VoteRequest(ONE, TWO, 0, 1, 2, pre_vote=True)),
        ("handle_begin_epoch", m.BeginQuorumEpochRequest(ONE, 2, 0)),
        ("handle_end_epoch", m.EndQuorumEpochRequest(2, 0, [1])),
        ("handle_fetch", m.QuorumFetchRequest(TWO, 0, 0, 0, 0, 0, 0)),
        ("handle_fetch_snapshot", m.FetchSnapshotRequest(TWO, 0, 0, 0, 0, 0)),
    ],
)
def test_an_epoch_that_no_elections_have_led_to_does_not_end_the_quorum(
    quorum: Any, method: str, request_: Any, epoch: int
) -> None:
    """Epochs only grow: after one near the wire's end there could be no elections any more."""
    machine = quorum.nodes[1].machine
    request_.epoch = epoch
    (error,) = answers(getattr(machine, method)(request_, "token", quorum.now_ms))
    assert error.name == "INVALID_REQUEST"
    assert f"quorum epoch {epoch} is refused by node 1, which is in epoch 1" in error.message
    assert f"0 to {1 + EPOCHS_AHEAD_MAX}" in error.message
    assert (machine.epoch, machine.is_leader) == (1, True)


def test_the_highest_epoch_that_is_listened_to_leaves_room_for_elections(quorum: Any) -> None:
    for number in (1, 2, 3):
        quorum.nodes[number].tell("handle_end_epoch", m.EndQuorumEpochRequest(9, TOO_FAR - 1, []), "token")
        assert quorum.nodes[number].machine.epoch == TOO_FAR - 1
    for _ in range(100):
        quorum.now_ms = quorum.next_ms()
        quorum.tick_due()
        settle(quorum)
    (leader,) = [node for node in quorum.nodes.values() if node.machine.is_leader]
    assert {node.machine.epoch for node in quorum.nodes.values()} == {leader.machine.epoch}
    assert leader.machine.epoch >= TOO_FAR


def test_a_node_that_is_far_behind_learns_the_epoch_by_asking(quorum: Any) -> None:
    """Requests of the others are refused, but the answer to its own is believed: it can join a cluster of any age."""
    machine, now_ms = quorum.nodes[2].machine, quorum.now_ms
    asked = next(call.request for call in quorum.nodes[2].calls if isinstance(call.request, m.QuorumFetchRequest))
    machine.handle_reply(1, asked, m.QuorumFetchReply(MAX_EPOCH, 3), 0, now_ms)
    assert (machine.epoch, machine.leader_id) == (MAX_EPOCH, 3)


def test_the_last_leader_of_a_cluster_that_starts_anew_stands_before_an_election_time_out(quorum: Any) -> None:
    """Its log is the longest, so that nobody else can win."""
    for number in (1, 2, 3):
        quorum.nodes[number].crash()
    quorum.network.clear()
    for number in (1, 2, 3):
        quorum.nodes[number].start()
    begun_ms, election_ms = quorum.now_ms, quorum.config.election_timeout_ms
    while not quorum.nodes[1].machine.is_leader and quorum.now_ms < begun_ms + 10 * election_ms:
        quorum.now_ms = quorum.next_ms()
        quorum.tick_due()
        settle(quorum)
    assert quorum.nodes[1].machine.is_leader
    assert quorum.now_ms < begun_ms + election_ms / 2


def test_a_fetch_in_another_epoch_or_from_a_follower_says_who_leads(quorum: Any) -> None:
    leader, follower = quorum.nodes[1].machine, quorum.nodes[2].machine
    late = m.QuorumFetchRequest(THREE, 0, 0, 0, 0, 500, 100)
    for machine in (leader, follower):
        (answer,) = answers(machine.handle_fetch(late, "token", quorum.now_ms))
        assert answer.reply == m.QuorumFetchReply(1, 1)


def test_a_higher_epoch_ends_a_lead_before_the_answer_is_given(quorum: Any) -> None:
    effects = quorum.nodes[1].machine.handle_vote(vote(epoch=7, end_offset=0), "token", quorum.now_ms)
    assert effects[0] == k.SaveState(k.QuorumState(7))
    assert k.StoppedLeading(1) in effects
    (answer,) = answers(effects)
    assert answer.reply == m.VoteReply(7, k.NOBODY, granted=False)


def test_a_vote_is_saved_before_it_is_given(quorum: Any) -> None:
    effects = quorum.nodes[1].machine.handle_vote(vote(), "token", quorum.now_ms)
    assert effects[0] == k.SaveState(k.QuorumState(2, TWO))
    (answer,) = answers(effects)
    assert answer.reply.granted


def test_the_leader_describes_the_quorum(quorum: Any) -> None:
    reply = quorum.nodes[1].machine.describe(quorum.now_ms, 1_000_000)
    assert (reply.leader_id, reply.epoch, reply.high_watermark) == (1, 1, 2)
    assert [(voter.node_id, voter.end_offset, voter.last_fetch_ms) for voter in reply.voters] == [
        (1, 2, 1_000_000),
        (2, 2, 1_000_000),
        (3, 2, 1_000_000),
    ]
    with pytest.raises(BrokerError, match="node 1 does"):
        quorum.nodes[2].machine.describe(quorum.now_ms, 0)


def test_a_change_of_voters_that_the_disk_refuses_is_answered_and_another_can_be_tried(quorum: Any) -> None:
    machine, now_ms = quorum.nodes[1].machine, quorum.now_ms
    effects = machine.remove_voter(m.RemoveVoterRequest(3, "d3"), "token", now_ms)
    assert effects == [k.AppendVoters(1, [ONE, TWO])]
    (answer,) = answers(machine.voters_refused(StorageError("full"), now_ms))
    assert isinstance(answer, StorageError)
    assert machine.voters == [ONE, TWO, THREE]
    assert machine.remove_voter(m.RemoveVoterRequest(3, "d3"), "token", now_ms) == effects


int32, int64 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**63), 2**63 - 1)
some_int32 = st.integers(-2, 4) | int32
some_int64 = st.integers(-2, 6) | int64
voter = st.builds(m.Voter, some_int32, st.sampled_from(["d1", "d2", "d3", "d4", ""]))
count = st.integers(0, 2**31 - 1)
requests = st.one_of(
    st.tuples(
        st.just("handle_vote"),
        st.builds(m.VoteRequest, voter, voter, some_int32, some_int32, some_int64, st.booleans()),
    ),
    st.tuples(st.just("handle_begin_epoch"), st.builds(m.BeginQuorumEpochRequest, voter, some_int32, some_int32)),
    st.tuples(
        st.just("handle_end_epoch"),
        st.builds(m.EndQuorumEpochRequest, some_int32, some_int32, st.lists(some_int32, max_size=4)),
    ),
    st.tuples(
        st.just("handle_fetch"),
        st.builds(m.QuorumFetchRequest, voter, some_int32, some_int64, some_int32, some_int64, count, count),
    ),
    st.tuples(
        st.just("handle_fetch_snapshot"),
        st.builds(m.FetchSnapshotRequest, voter, some_int32, some_int64, some_int32, some_int64, count),
    ),
    st.tuples(st.just("add_voter"), st.builds(m.AddVoterRequest, some_int32, st.sampled_from(["d1", "d4"]))),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(node_id=st.integers(1, 3), asked=st.lists(requests, min_size=1, max_size=6))
def test_every_request_is_answered_once_whatever_it_says(
    quorum_class: Any, node_id: int, asked: list[tuple[str, Any]]
) -> None:
    quorum = quorum_class()
    for number in (1, 2, 3):
        quorum.add(number, [1, 2, 3])
        quorum.nodes[number].start()
    quorum.now_ms = 1500.0
    quorum.tick_due()
    settle(quorum)
    node = quorum.nodes[node_id]
    given_: list[Any] = []
    quorum.note = lambda _, effect: given_.append(effect)
    for token, (method, request) in enumerate(asked):
        node.tell(method, request, token)
    quorum.now_ms += 100_000
    node.tell("tick")
    for token in range(len(asked)):
        assert len(answers(given_, token)) == 1, asked[token]


def test_the_quorum_state_file() -> None:
    for state in (k.QuorumState(), k.QuorumState(3, TWO, 2)):
        assert k.QuorumState.decode(state.encode()) == state
    whole = k.QuorumState(3, TWO, 2).encode()
    for wrong in (b"", whole[: len(whole) // 2], whole.replace(b"3", b"-3"), b'{"epoch": 1}', b"\xff", b"[]"):
        with pytest.raises(CorruptMessageError):
            k.QuorumState.decode(wrong)


@pytest.mark.parametrize(("voters", "needed"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_majorities(voters: int, needed: int) -> None:
    assert majority(voters) == needed
    values = list(range(voters))
    assert sum(value >= reached_by_majority(values) for value in values) == needed


def test_the_history_of_voters() -> None:
    history = VoterHistory([(-1, [ONE])])
    assert history.latest == {1: "d1"}
    history.append(4, [ONE, TWO])
    history.append(9, [ONE])
    assert history.below(9) == (4, [ONE, TWO])
    assert history.below(4) == (-1, [ONE])
    assert history.may_stand(TWO, high_watermark=5)
    assert not history.may_stand(TWO, high_watermark=10)
    assert not history.may_stand(m.Voter(1, "another disk"), high_watermark=0)
    history.forget_before(9)
    assert history.below(4) == (-1, [])
    history.truncate(9)
    assert (history.latest_offset, history.latest) == (4, {1: "d1", 2: "d2"})
    history.install(7, [THREE])
    assert (history.latest_offset, history.latest) == (7, {3: "d3"})


def test_a_leader_that_stops_looks_for_the_next_one_though_it_hears_nobody(quorum: Any) -> None:
    """A node that stops reads no requests any more, but what its clients asked for is for the next leader."""
    resigned_ms = quorum.now_ms
    quorum.nodes[1].tell("resign")
    for _ in range(200):
        if quorum.nodes[1].machine.leader_id != k.NOBODY:
            break
        while quorum.network:
            packet = quorum.network[0]
            if packet.dst == 1 and packet.answer is None:
                quorum.network.remove(packet)
            else:
                quorum.deliver(packet)
        quorum.now_ms = quorum.next_ms()
        quorum.tick_due()
    assert quorum.nodes[1].machine.leader_id in (2, 3)
    assert quorum.now_ms - resigned_ms < k.KraftConfig().election_timeout_ms


def test_two_fetches_that_are_the_same_word_for_word_do_not_drive_each_other(quorum: Any) -> None:
    """Who stood for election, and hears of the leader again, asks anew while its first request still waits there."""
    follower = quorum.nodes[2]
    assert len(follower.calls) == 1
    follower.machine._enter(follower.machine._role, follower.machine.state)
    follower.tell("tick")
    assert [call.request for call in follower.calls] == [follower.calls[0].request] * 2
    for _ in range(20):
        if not quorum.network:
            break
        quorum.deliver(quorum.network[0])
    assert not quorum.network
    assert len(follower.calls) == 1
