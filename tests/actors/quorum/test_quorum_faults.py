"""The quorum's actors under random faults and questions: what is committed stays, and everybody is answered."""

from __future__ import annotations

from random import Random

import pytest
from zmqbroker.actors.context import QUORUM
from zmqbroker.actors.peer_commands import QuorumCall
from zmqbroker.quorum.records import SetConfig
from zmqbroker.transport.quorum_messages import (
    AddVoterRequest,
    BeginQuorumEpochRequest,
    DescribeQuorumRequest,
    EndQuorumEpochRequest,
    FetchSnapshotRequest,
    QuorumFetchRequest,
    Voter,
    VoteRequest,
)

CALLER = "caller"


def put(key):
    return SetConfig(2, "t", key, "v")


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_what_is_committed_stays(cluster, seed):
    """Random faults while decisions are made; never more than one node is down for good, and at the end all live."""
    random = Random(seed)
    cluster.seed = seed
    nodes = cluster.three(metadata_log_max_record_bytes_between_snapshots=1500)
    number = 0
    for _ in range(80):
        victim = random.choice(nodes)
        match random.randrange(8):
            case 0 if victim.alive:
                random.choice([victim.end, victim.power_cut])()
            case 1 if not victim.alive:
                victim.start()
            case 2:
                cluster.cut = set(random.sample([(1, 2), (1, 3), (2, 3)], random.choice([0, 0, 1, 2])))
            case 3:
                victim.flush_ms = random.choice([0.1, 1.0, 30.0])
            case _:
                pass
        for node in nodes:
            for _ in range(random.randrange(4)):
                if node.alive and node.controller.epoch >= 0:
                    number += 1
                    cluster.append_soon(node, f"k{number}", random.randrange(200))
        cluster.run_for(random.choice([0.3, 2, 20, 200, 1500]))
    cluster.cut = set()
    for node in nodes:
        if not node.alive:
            node.start()
    cluster.put("last")
    cluster.check_nothing_lost()
    assert len(cluster.put_keys) > 1
    assert [node.context.image.configs for node in nodes[1:]] == [nodes[0].context.image.configs] * 2


@pytest.mark.parametrize("seed", range(4))
def test_what_is_committed_survives_power_cuts_of_one_node_after_the_other(cluster, seed):
    cluster.seed = seed
    nodes = cluster.three(metadata_log_max_record_bytes_between_snapshots=1500)
    for turn in range(8):
        for number in range(4):
            cluster.put(f"k{turn}-{number}", size=50 + 40 * number)
        leader = cluster.leader()
        leader.controller.append(put(f"open{turn}"))
        cluster.run_for(0.7 * (turn % 4))
        victim = leader if turn % 2 else nodes[(seed + turn) % 3]
        victim.power_cut()
        cluster.put(f"without{turn}")
        victim.start()
        cluster.check_nothing_lost()
    assert len({node.context.image.end_offset for node in nodes}) == 1
    assert any(node.member._log.start_offset > 0 for node in nodes)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_asked_is_answered_once_and_harms_nothing(cluster, seed):
    random = Random(seed)
    nodes = cluster.three(metadata_log_max_record_bytes_between_snapshots=800)
    for number in range(12):
        cluster.put(f"k{number}", size=60)
    voters = [Voter(*node.voter) for node in nodes]

    def voter():
        known = random.choice(voters)
        return random.choice([known, known, Voter(7, known.directory_id), Voter(known.node_id, "x")])

    def epoch():
        return random.choice([1, 2, cluster.leader().controller.epoch, -1, 9, 2**31 - 1])

    def offset():
        return random.choice([-(2**63), -1, 0, 1, 12, 19, 20, 21, 22, 100, 2**63 - 1])

    def node_id():
        return random.choice([-1, 1, 2, 3, 4, 2**31 - 1])

    def limit():
        return random.choice([0, 1, 100, 2**31 - 1])

    requests = [
        lambda: VoteRequest(voter(), voter(), epoch(), epoch(), offset(), random.random() < 0.5),
        lambda: BeginQuorumEpochRequest(voter(), node_id(), epoch()),
        lambda: EndQuorumEpochRequest(node_id(), epoch(), [node_id(), node_id()]),
        lambda: QuorumFetchRequest(voter(), epoch(), offset(), epoch(), offset(), limit(), limit()),
        lambda: FetchSnapshotRequest(voter(), epoch(), offset(), epoch(), offset(), limit()),
        lambda: AddVoterRequest(node_id(), "z"),
        DescribeQuorumRequest,
    ]
    answers = []
    for _ in range(80):
        node = random.choice(nodes)
        request = random.choice(requests)()
        node.reactor.tell(QUORUM, QuorumCall(node.reactor.lookup(CALLER), answers.append, 0, request))
        cluster.run_for(random.choice([0.5, 5, 50]))
    cluster.run_for(6000)
    assert len(answers) == 80
    cluster.put("last")
    cluster.check_nothing_lost()
