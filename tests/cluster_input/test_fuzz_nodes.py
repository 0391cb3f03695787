"""Broken requests of nodes and operators, to every node of a live cluster: each is answered by a typed error, or did
no harm; the nodes live, and neither the metadata nor the records have changed.

Each request is wrong in more than one way before it is broken, so that no single change of it makes it right: none has
an epoch, an id and a disk that belong together. ZMQBROKER_FUZZ_SEED replays a run, ZMQBROKER_FUZZ_MUTATIONS makes it
longer.
"""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from zmqbroker.errors import BY_CODE
from zmqbroker.transport import cluster_messages as c
from zmqbroker.transport import peer_messages as p
from zmqbroker.transport import quorum_messages as q
from zmqbroker.transport.catalogue import REQUESTS
from zmqbroker.transport.envelope import convert_body, encode_request, split_reply

MUTATIONS = int(os.environ.get("ZMQBROKER_FUZZ_MUTATIONS", "3000")) // 2
NOBODY, FAR = 70_001, 2**40 + 12_345
DISK = q.Voter(NOBODY, "no disk of anybody's")
POSITION = p.ReplicaPosition("none", 0, 7, FAR, 7)
CHANGE = p.PartitionChange("none", 0, 7, 70_000, [(NOBODY, FAR)])
BROKEN = [
    p.ReplicaFetchRequest(NOBODY, FAR, FAR, 5, 0, 1000, [POSITION], [("none", 3)]),
    p.RegisterNodeRequest("no cluster", NOBODY, "d", "i", "h", 1, "r", clean=True, min_version=7, max_version=9),
    p.HeartbeatNodeRequest(NOBODY, FAR, FAR, want_shut_down=True),
    p.AlterPartitionRequest(NOBODY, FAR, [CHANGE]),
    p.ForwardRequest(63, [NOBODY, FAR, FAR, True]),
    p.ForwardRequest(56, [NOBODY, FAR, [["none", 0, 7, 70_000, [[NOBODY, FAR]]]]]),
    p.ForwardRequest(58, [58, [58, []]]),
    q.VoteRequest(DISK, DISK, 2**30 + 7, 7, FAR, pre_vote=False),
    q.BeginQuorumEpochRequest(DISK, NOBODY, 2**30 + 7),
    q.FetchSnapshotRequest(DISK, 0, FAR, 7, FAR, 1000),
    q.QuorumFetchRequest(DISK, 0, FAR, 7, FAR, 0, 1000),
    q.AddVoterRequest(NOBODY, "no disk of anybody's"),
    q.RemoveVoterRequest(NOBODY, "no disk of anybody's"),
    q.DescribeQuorumRequest(),
    c.DescribeClusterRequest(),
    c.DrainNodeRequest(NOBODY),
    c.RemoveNodeRequest(NOBODY),
    c.UpgradeClusterRequest(70_000),
    c.AlterPartitionReassignmentsRequest([c.Reassignment("none", 70_000, [NOBODY, NOBODY])], 1000),
    c.ListPartitionReassignmentsRequest(["none"]),
    c.RebalanceRequest(["none"], validate_only=True),
    c.ElectLeadersRequest([("none", 70_000)], unclean=True, timeout_ms=1000),
]


def _fuzz_of_the_broker_tests():
    path = Path(__file__).parent.parent / "broker" / "test_fuzz.py"
    spec = spec_from_file_location("zmqbroker_test_fuzz", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Run:
    """Messages to one node, each answered once."""

    def __init__(self, mutator, client):
        self._mutator = mutator
        self.client = client
        self.outcomes = Counter()
        self._open = 0

    def go(self, count):
        for number in range(10, 10 + count):
            envelope = encode_request(self._mutator.random.choice(BROKEN), number)
            broken = self._mutator.bytes_of if self._mutator.random.random() < 0.5 else self._mutator.values_of
            frames = [broken(envelope)]
            if self._mutator.random.random() < 0.1:
                frames.append(b"no batch belongs here")
            if self.may_be_silent(frames):
                continue
            self._open += 1
            self.client.socket.send_multipart(frames)
            while self._open > 100:
                self._take_reply()
        while self._open:
            self._take_reply()

    @staticmethod
    def may_be_silent(frames):
        """Whether the message has become a goodbye, or a produce: those are tried elsewhere."""
        api = frames[0][1:4]
        return not frames[0] or api.startswith((b"\x00", b"\xcd\x03\xe8")) or frames[0][:1] not in (b"\x94", b"\x95")

    def _take_reply(self):
        if not self.client.socket.poll(10_000):
            pytest.fail(f"{self._open} messages were not answered; {self.outcomes}")
        envelope, *_ = self.client.socket.recv_multipart()
        self._open -= 1
        reply = split_reply(envelope)
        if reply.error_code:
            assert reply.error_code in BY_CODE, reply
            assert reply.error_message, reply
            self.outcomes[BY_CODE[reply.error_code].name] += 1
        else:
            convert_body(reply.body, REQUESTS[reply.api].REPLY)
            self.outcomes["answered"] += 1


@pytest.mark.parametrize("as_node", [True, False])
def test_broken_requests_of_nodes_change_nothing(cluster, batch, capsys, as_node):
    seed = int(os.environ.get("ZMQBROKER_FUZZ_SEED", str(random.SystemRandom().randrange(2**32))))
    with capsys.disabled():
        sys.stdout.write(f"\nfuzz: ZMQBROKER_FUZZ_SEED={seed}, {MUTATIONS} mutations\n")
    mutator = _fuzz_of_the_broker_tests().Mutator(seed, batch)
    cluster.create("t")
    assert cluster.leader("t").client().produce("t", b"x").error_code == 0
    before = cluster.everything("t")
    outcomes = Counter()
    for node_id, node in cluster.nodes.items():
        client = cluster.voice(NOBODY, to=node_id) if as_node else node.client()
        run = Run(mutator, client)
        run.go(MUTATIONS // len(cluster.nodes))
        assert client.hears_nothing(), "a message was answered twice"
        outcomes += run.outcomes
    assert cluster.everything("t") == before
    assert outcomes["CLUSTER_AUTHORIZATION_FAILED"] > 0 or as_node
    assert len(outcomes) > 3, outcomes
    assert cluster.leader("t").client().produce("t", b"alive").error_code == 0
