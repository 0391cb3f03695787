"""Deleted records stay deleted whoever leads next: the answer waits for all that are in sync."""

from __future__ import annotations

import pytest
from zmqbroker.errors import RequestTimedOutError
from zmqbroker.simulation import probe
from zmqbroker.simulation.client import SimClient
from zmqbroker.simulation.cluster import Cluster
from zmqbroker.simulation.conditions import NetworkConditions
from zmqbroker.simulation.log_model import make_batch
from zmqbroker.simulation.network import SimNetwork
from zmqbroker.simulation.world import World
from zmqbroker.transport.messages import (
    CreateTopicsRequest,
    DeleteRecordsRequest,
    NewTopic,
    PartitionData,
    PartitionDeletion,
    ProduceRequest,
)

LIMIT_MS = 60_000.0
COUNT = 3


class Machines:
    """Three nodes, a topic with a replica on each, and a client."""

    def __init__(self, **settings):
        self.world = World(5)
        self.network = SimNetwork(self.world, NetworkConditions())
        self.cluster = Cluster(self.world, self.network, COUNT, settings)
        self.client = SimClient(self.world, self.network, "client", self.cluster.addresses)
        self.cluster.start()
        self.run_until(lambda: all(node.ready for node in self.cluster))
        self.run_until(lambda: len(self.image().nodes) == len(self.image().voters) == COUNT)
        self.run_until(lambda: not any(node.fenced for node in self.image().nodes.values()))
        (address,) = self.cluster.addresses[:1]
        topic = NewTopic("data", -1, -1, [("flush", "os")], [[1, 2, 3]])
        assert not self.ask(address, CreateTopicsRequest([topic], 5_000)).body.topics[0].error_code
        self.run_until(lambda: len(self.replicas()) == COUNT)
        self.leader = self.node(next(iter(self.replicas().values())).state.leader)
        for number in range(10):
            _, batch = make_batch([number], value_bytes=10)
            reply = self.ask(self.leader.address, ProduceRequest(-1, 5_000, [PartitionData("data", 0)]), [batch])
            assert not reply.body.partitions[0].error_code

    def node(self, node_id):
        return next(node for node in self.cluster if node.life.context.config.node_id == node_id)

    def image(self):
        return next(iter(self.cluster)).life.context.image

    def replicas(self):
        found = {}
        for node in self.cluster:
            for replica in probe.replicas(node):
                if replica.key.topic == "data":
                    found[node] = replica
        return found

    def starts(self):
        return [replica.log.log_start_offset for replica in self.replicas().values()]

    def run_until(self, condition):
        assert self.world.run_while(lambda: not condition(), LIMIT_MS)

    def ask(self, address, request, batches=()):
        outcomes = []
        self.client.ask(address, request, outcomes.append, batches, LIMIT_MS / 2)
        self.run_until(lambda: outcomes)
        return outcomes[0]

    def delete(self, offset, timeout_ms=20_000):
        request = DeleteRecordsRequest([PartitionDeletion("data", 0, offset)], timeout_ms)
        (result,) = self.ask(self.leader.address, request).body.partitions
        return result


@pytest.fixture
def machines():
    return Machines


def test_a_deletion_is_answered_once_all_in_sync_have_deleted(machines):
    cluster = machines()
    result = cluster.delete(5)
    assert (result.error_code, result.low_watermark) == (0, 5)
    assert cluster.starts() == [5, 5, 5]
    result = cluster.delete(3)
    assert (result.error_code, result.low_watermark) == (0, 5), "what is gone already is gone on all"


def test_a_follower_that_does_not_hear_of_it_holds_up_the_answer_as_long_as_it_is_in_sync(machines):
    cluster = machines(broker_session_timeout_ms=4_000)
    controller = cluster.leader.life.context.controller_id
    follower = next(node for node in cluster.cluster if node not in (cluster.leader, cluster.node(controller)))
    follower.pause()
    began_ms = cluster.world.now_ms
    result = cluster.delete(5, timeout_ms=1_000)
    assert result.error_code == RequestTimedOutError.code
    result = cluster.delete(5)
    assert (result.error_code, result.low_watermark) == (0, 5)
    assert cluster.world.now_ms - began_ms > 2_000
    follower.resume()
    cluster.run_until(lambda: cluster.starts() == [5, 5, 5])
