"""The verbs that move partitions and empty nodes, against an admin that is made up: what goes wrong in mid-course."""

from __future__ import annotations

import json

import pytest
from zmqbroker import errors
from zmqbroker.cli import nodes_drain, topics_describe, topics_reassign, topics_rebalance
from zmqbroker.client.admin_types import ConfigEntry, ConfigResource, PartitionDescription, TopicDescription
from zmqbroker.client.cluster_admin_types import Move, MoveUnderWay, NodeState, QuorumDescription, QuorumNode
from zmqbroker.client.types import OffsetAndTimestamp, TopicPartition

THROTTLE = "replication.throttled.rate"
T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)
STAYS = f"{THROTTLE}=1MB stays for the whole cluster; `zmqbroker topics reassign --topic t` waits"


class MadeUpAdmin:
    """A cluster with one topic, as its admin client shows it."""

    def __init__(self):
        self.leaders = [1, 1]
        self.rate: str | None = None
        self.rates: list[str | None] = []
        """All that were set."""
        self.moving: list[TopicPartition] = []
        self.refusal: BaseException | None = None
        """What the next call that may fail raises."""
        self.elected: list[list[TopicPartition]] = []
        self.states = {1: "active", 2: "active", 3: "drained"}
        self.voters: list[set[int]] = [{1, 2, 3}]
        """What one look after the other finds; the last stays."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def fail(self):
        refusal, self.refusal = self.refusal, None
        if refusal is not None:
            raise refusal

    def describe_topics(self, _names):
        partitions = [PartitionDescription(at, leader, 4, [1], [1]) for at, leader in enumerate(self.leaders)]
        return [TopicDescription("t", "id", is_internal=False, partitions=partitions)]

    def list_offsets(self, wanted):
        assert wanted, "nobody is asked for nothing"
        assert all(self.leaders[partition.partition] >= 0 for partition in wanted), "a partition without a leader"
        self.fail()
        return {partition: OffsetAndTimestamp(7 if at == -1 else 2, -1, 4) for partition, at in wanted.items()}

    def describe_configs(self, resources):
        rate = ConfigEntry(THROTTLE, self.rate or "0", "cluster" if self.rate else "default", "")
        return {resource: {THROTTLE: rate} for resource in resources}

    def alter_configs(self, changes):
        self.rate = changes[ConfigResource.all_brokers()][THROTTLE]
        self.rates.append(self.rate)

    def alter_partition_reassignments(self, moves, *, replication_factor):
        assert replication_factor >= 0
        self.moving += [] if self.refusal else list(moves)
        self.fail()

    def list_partition_reassignments(self, _topics=None):
        self.fail()
        return [MoveUnderWay(partition, [1, 2], [2], [1]) for partition in self.moving]

    def rebalance(self, _topics, *, validate_only):
        return [] if validate_only else [Move(T1, [2, 1])]

    def elect_leaders(self, partitions=None):
        self.elected.append(partitions)
        self.fail()

    def drain_node(self, _node_id, *, cancel):
        assert not cancel

    def list_nodes(self):
        return [
            NodeState(n, "h", 1, "", 0, state, is_voter=True, is_controller=n == 1, leaders=0, replicas=0)
            for n, state in self.states.items()
        ]

    def describe_quorum(self):
        voters = self.voters.pop(0) if len(self.voters) > 1 else self.voters[0]
        return QuorumDescription(1, 1, 0, [QuorumNode(node, 0, 0, 0) for node in sorted(voters)], [])


@pytest.fixture
def cluster(monkeypatch):
    made_up = MadeUpAdmin()
    for verb in (nodes_drain, topics_describe, topics_reassign, topics_rebalance):
        monkeypatch.setattr(verb, "admin", lambda _: made_up)
    return made_up


@pytest.fixture
def reassign(zmqbroker_command, cluster):
    """Run `topics reassign --topic t`; the admin is there so that it can be told what to answer."""
    assert cluster.rate is None
    return lambda *words: zmqbroker_command("topics", "reassign", "--topic", "t", *words)


# ---- topics describe


def described(zmqbroker_command):
    done = zmqbroker_command("topics", "describe", "--format", "json")
    assert done.returncode == 0, done.stderr
    (topic,) = json.loads(done.stdout)
    return [(found["leader"], found["first_offset"], found["end_offset"]) for found in topic["partitions"]]


def test_a_partition_without_a_leader_is_shown_without_offsets(zmqbroker_command, cluster):
    cluster.leaders = [1, -1]
    assert described(zmqbroker_command) == [(1, 2, 7), (-1, None, None)]
    rows = zmqbroker_command("topics", "describe").stdout.decode().splitlines()[-2:]
    assert [row.split() for row in rows] == [["0", "1", "4", "1", "1", "2", "7"], ["1", "-1", "4", "1", "1"]]
    cluster.leaders = [-1, -1]
    assert described(zmqbroker_command) == [(-1, None, None)] * 2


def test_a_leader_that_does_not_answer_keeps_nothing_else_from_being_shown(zmqbroker_command, cluster):
    cluster.refusal = errors.NotLeaderOrFollowerError("node 1 does not lead it")
    assert described(zmqbroker_command) == [(1, None, None)] * 2
    cluster.refusal = errors.NotLeaderOrFollowerError("node 1 does not lead it")
    assert b"node 1 does not lead it" in zmqbroker_command("topics", "describe").stderr
    cluster.refusal = errors.UnsupportedVersionError("too new")
    assert zmqbroker_command("topics", "describe").returncode == 1


# ---- topics rebalance


def test_only_what_was_moved_is_given_to_its_preferred_leader(zmqbroker_command, cluster):
    done = zmqbroker_command("topics", "rebalance")
    assert (done.returncode, done.stderr) == (0, b"")
    assert cluster.elected == [[T1]]


def test_a_preferred_leader_that_is_not_there_yet_is_a_remark(zmqbroker_command, cluster):
    cluster.refusal = None
    cluster.elect_leaders = refuse(errors.PreferredLeaderNotAvailableError("node 2 is not in sync with t-1"))
    done = zmqbroker_command("topics", "rebalance")
    assert done.returncode == 0
    assert done.stdout.decode().endswith("1 partitions are moved\n")
    assert done.stderr == b"some partitions keep another leader for now: node 2 is not in sync with t-1\n"
    cluster.elect_leaders = refuse(errors.NotControllerError("nobody leads"))
    assert zmqbroker_command("topics", "rebalance").returncode == 1


def refuse(error):
    def call(*_, **__):
        raise error

    return call


# ---- topics reassign --throttle


@pytest.mark.parametrize("before", [None, "5MB"])
def test_a_refused_move_leaves_the_limit_as_it_was(cluster, reassign, refused, before):
    cluster.rate = before
    cluster.refusal = errors.InvalidReplicaAssignmentError("node 9 is not in the cluster")
    assert refused(reassign("--to", "9", "--throttle", "1MB")) == "zmqbroker: node 9 is not in the cluster\n"
    assert cluster.rates == ["1MB", before]


def test_a_limit_is_set_before_the_moves_begin_and_taken_off_when_they_are_done(cluster, reassign):
    rates = []
    cluster.alter_partition_reassignments = lambda *_, **__: rates.append(cluster.rate)
    assert reassign("--to", "2", "--throttle", "1MB").returncode == 0
    assert rates == ["1MB"]
    assert cluster.rate is None


@pytest.mark.parametrize(
    ("refusal", "moving"),
    [
        (errors.RequestTimedOutError("whether it took effect is unknown"), []),
        (errors.ReassignmentInProgressError("t-1 is being moved already"), [T0]),
    ],
    ids=["unknown", "in part"],
)
def test_moves_that_may_have_begun_keep_their_limit_and_it_is_said(cluster, reassign, refused, refusal, moving):
    cluster.refusal, cluster.moving = refusal, moving
    why = refusal.message
    assert f"{why}; {STAYS}" in refused(reassign("--to", "2", "--throttle", "1MB"))
    assert cluster.rates == ["1MB"]


def test_a_limit_that_cannot_be_undone_is_said(cluster, reassign, refused):
    refusal = errors.InvalidReplicaAssignmentError("node 9 is not in the cluster")

    def refuse_moves(*_, **__):
        cluster.refusal = errors.NotControllerError("nobody leads")
        raise refusal

    cluster.alter_partition_reassignments = refuse_moves
    assert f"node 9 is not in the cluster; {STAYS}" in refused(reassign("--to", "9", "--throttle", "1MB"))


def test_a_limit_that_outlives_the_command_is_told_of(cluster, reassign, refused):
    done = reassign("--to", "2", "--throttle", "1MB", "--no-wait")
    first, second = done.stdout.decode().splitlines()
    assert first == "2 partitions of t are being moved"
    assert second.startswith(STAYS)
    assert STAYS in refused(reassign("--throttle", "1MB", "--wait-seconds", "0"))
    assert STAYS not in refused(reassign("--wait-seconds", "0"))
    cluster.list_partition_reassignments = refuse(KeyboardInterrupt())
    done = reassign("--throttle", "1MB")
    assert done.returncode == 130
    assert f"interrupted; {STAYS}" in done.stderr.decode()
    assert cluster.rate == "1MB"


def test_a_limit_does_not_go_with_cancelling(cluster, reassign, refused):
    assert "--cancel" in refused(reassign("--cancel", "--throttle", "1MB"))
    assert not cluster.rates


# ---- nodes drain


def test_a_drain_waits_for_the_vote_if_another_node_can_have_it(cluster, zmqbroker_command):
    cluster.states[4] = "active"
    cluster.voters = [{1, 2, 3}, {1, 2, 3, 4}, {1, 2, 4}]
    done = zmqbroker_command("nodes", "drain", "--node", "3")
    assert done.stdout == b"node 3 is drained\n"
    assert cluster.voters == [{1, 2, 4}]


def test_a_vote_that_stays_too_long_is_named(cluster, zmqbroker_command, refused):
    cluster.states[4] = "active"
    done = zmqbroker_command("nodes", "drain", "--node", "3", "--wait-seconds", "0")
    assert "node 3 still votes in the metadata quorum" in refused(done)


@pytest.mark.parametrize("state", ["fenced", "draining", "drained"])
def test_a_drain_does_not_wait_for_a_vote_that_nobody_else_can_have(cluster, zmqbroker_command, state):
    assert zmqbroker_command("nodes", "drain", "--node", "3").stdout == b"node 3 is drained\n", "all others vote"
    cluster.states[4] = state
    assert zmqbroker_command("nodes", "drain", "--node", "3").stdout == b"node 3 is drained\n"
