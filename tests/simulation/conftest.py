"""Three nodes in the simulator, one topic with a replica on each, and a client."""

from __future__ import annotations

import pytest
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
    FetchRequest,
    NewTopic,
    PartitionData,
    PartitionDeletion,
    PartitionFetch,
    ProduceRequest,
)

LIMIT_MS = 60_000.0
COUNT = 3


class Machines:
    """Three nodes, a topic with a replica on each and ten batches of one record, and a client."""

    def __init__(self, topic_settings=(("flush", "os"),), replicas=(1, 2, 3), **settings):
        self.world = World(5)
        self.network = SimNetwork(self.world, NetworkConditions())
        self.cluster = Cluster(self.world, self.network, COUNT, settings)
        self.client = SimClient(self.world, self.network, "client", self.cluster.addresses)
        self.cluster.start()
        self.run_until(lambda: all(node.ready for node in self.cluster))
        self.run_until(lambda: len(self.image().nodes) == len(self.image().voters) == COUNT)
        self.run_until(lambda: not any(node.fenced for node in self.image().nodes.values()))
        (address,) = self.cluster.addresses[:1]
        self.replicas_count = len(replicas)
        topic = NewTopic("data", -1, -1, list(topic_settings), [list(replicas)])
        assert not self.ask(address, CreateTopicsRequest([topic], 5_000)).body.topics[0].error_code
        self.run_until(lambda: len(self.replicas()) == self.replicas_count)
        for number in range(10):
            assert self.produce(number).error_code == 0

    # ---- nodes

    def node(self, node_id):
        return next(node for node in self.cluster if node.life and node.life.context.config.node_id == node_id)

    def image(self):
        """The newest that any node has."""
        images = [node.life.context.image for node in self.cluster if node.life]
        return max(images, key=lambda image: image.end_offset)

    def state(self):
        return self.image().topics["data"].partitions[0]

    @property
    def leader(self):
        return self.node(self.state().leader)

    @property
    def followers(self):
        return [node for node in self.cluster if node is not self.leader]

    def hold(self, node):
        """Stop a node in good order, for now."""
        node.start = lambda: None
        node.stop()
        self.run_until(lambda: node.life is None)

    def let_go(self, node):
        """Start a node that was held, and wait until it is back."""
        del node.start
        node.start()
        self.run_until(lambda: node.ready)

    def restart(self, *nodes):
        """Stop nodes in good order, and wait until they are back."""
        lives = [(node, node.lives) for node in nodes]
        for node in nodes:
            node.stop()
        self.run_until(lambda: all(node.lives > before and node.ready for node, before in lives))

    # ---- replicas

    def replica(self, node):
        """The partition's actor on a node."""
        return node.life.runner.reactor._actors["partition/data/0"]

    def replicas(self):
        return {node: found for node in self.cluster for found in probe.replicas(node) if found.key.topic == "data"}

    def logs(self):
        """(start, end) of each log that is whole."""
        return [(found.log.log_start_offset, found.log.log_end_offset) for found in self.replicas().values()]

    def is_whole(self):
        """Whether all replicas are in sync and the same."""
        logs, count = self.logs(), self.replicas_count
        return len(logs) == count and len(set(logs)) == 1 and len(self.state().isr) == count

    # ---- time and requests

    def run_until(self, condition):
        assert self.world.run_while(lambda: not condition(), LIMIT_MS)

    def run_for(self, duration_ms):
        self.world.run_until(self.world.now_ms + duration_ms)

    def ask(self, address, request, batches=()):
        outcomes = []
        self.client.ask(address, request, outcomes.append, batches, LIMIT_MS / 2)
        self.run_until(lambda: outcomes)
        return outcomes[0]

    def produce(self, number, timeout_ms=5_000):
        _, batch = make_batch([number], value_bytes=10)
        request = ProduceRequest(-1, timeout_ms, [PartitionData("data", 0)])
        return self.ask(self.leader.address, request, [batch]).body.partitions[0]

    def fetch(self, offset, node=None, rack=""):
        request = FetchRequest(0, 1, 1 << 20, [PartitionFetch("data", 0, offset, 1 << 20)], rack=rack)
        outcome = self.ask((node or self.leader).address, request)
        return outcome.body.partitions[0], outcome.frames[0]

    def delete(self, offset, timeout_ms=20_000):
        request = DeleteRecordsRequest([PartitionDeletion("data", 0, offset)], timeout_ms)
        return self.ask(self.leader.address, request).body.partitions[0]


@pytest.fixture
def machines():
    return Machines
