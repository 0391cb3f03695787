"""Whatever happens to nodes and partitions, in any order: no acked record is lost that had to be kept.

Beside the metadata stands what it is about: which replicas hold everything that was committed. Each state of the
metadata is held against the invariants by conftest.py; here, each leader is held against the data.
"""

from __future__ import annotations

from random import Random

import pytest
from zmqbroker.errors import BrokerError
from zmqbroker.quorum import elections, partition_decisions

NODES = (1, 2, 3, 4)
SEEDS = 50
"""Histories of a block; each is made anew from its seed."""


class Data:
    """The records of one partition."""

    def __init__(self, holders):
        self.holders = set(holders)
        """The replicas that have all that is committed."""
        self.needed = 1
        """How many of them had to have it when it was committed, and since."""
        self.losses = 0
        """Of those, the unclean starts since then."""
        self.excused = False
        """A leader was asked for that may lack records."""


class World:
    """A cluster with a topic of two partitions, and the data in them."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.data = [Data(cluster.state(index).replicas) for index in range(2)]
        self.led = [cluster.state(index) for index in range(2)]

    def check(self):
        """Hold the leaders that were elected since the last time against the data."""
        for index, data in enumerate(self.data):
            old, new = self.led[index], self.cluster.state(index)
            self.led[index] = new
            if new.leader_epoch > old.leader_epoch and new.leader != -1 and new.leader not in data.holders:
                assert data.excused or data.losses >= data.needed, f"{data.__dict__} is lost: {old} to {new}"
                data.holders, data.losses = {new.leader}, 0
            data.needed = min(data.needed, self.min_isr(index))
            if new.leader != -1:
                data.excused = False

    def min_isr(self, index):
        rules = elections.rules_of(self.cluster.image, self.cluster.config, "a")
        return elections.min_insync_replicas(rules.min_insync_replicas, self.cluster.state(index))

    def commit(self, index, _):
        """The leader takes records with acks=all, if the ISR is large enough; all of the ISR have them then."""
        state, data = self.cluster.state(index), self.data[index]
        if state.leader != -1 and len(state.isr) >= self.min_isr(index):
            data.holders, data.needed, data.losses = set(state.isr), self.min_isr(index), 0

    def alter(self, index, node):
        """The leader lets a follower go, or takes in one that has caught up."""
        state = self.cluster.state(index)
        if state.leader in (-1, node) or node not in state.replicas:
            return
        leaves = node in state.isr
        if not leaves and state.leader in self.data[index].holders:
            self.data[index].holders.add(node)  # it has fetched all that the leader has, or it would not be proposed
        self.cluster.alter([*(set(state.isr) - {node})] if leaves else [*state.isr, node], partition=index)

    def restart(self, node, *, clean):
        if not clean:
            for data in self.data:
                data.losses += node in data.holders
                data.holders -= {node}
        self.cluster.register(node, clean=clean)

    def do(self, step):
        name, index, node, target = step
        match name:
            case "commit" | "alter":
                getattr(self, name)(index, node)
            case "beat" | "fence":
                getattr(self.cluster, name)(node)
            case "stop":
                self.cluster.beat(node, want_shut_down=True)
            case "start" | "crash":
                self.restart(node, clean=name == "start")
            case "drain" | "undrain":
                self.cluster.drain(node, cancel=name == "undrain")
            case "move":
                self.cluster.move(target, partition=index)
            case "cancel":
                self.cluster.move(None, partition=index)
            case "prefer":
                cluster = self.cluster
                cluster.commit(partition_decisions.preferred_elections(cluster.image, cluster.config))
            case "unclean":
                self.data[index].excused = self.cluster.state(index).leader == -1
                self.cluster.elect(index, unclean=True)


KINDS = ("alter", "beat", "fence", "start", "crash", "stop", "drain", "undrain", "move", "cancel", "prefer", "unclean")


def history(random):
    """Steps of a few kinds that happen to a few nodes: in a mixture of everything, chains of one kind are rare."""
    kinds = ["commit", *random.sample(KINDS, random.randint(3, 8))]
    nodes = random.sample(NODES, random.randint(2, 4))
    for _ in range(80):
        target = random.sample(NODES, random.randint(1, 3))
        yield random.choice(kinds), random.randint(0, 1), random.choice(nodes), target


@pytest.mark.parametrize("block", range(4))
def test_what_is_acked_stays_with_whoever_leads(metadata, block):
    for seed in range(block * SEEDS, (block + 1) * SEEDS):
        random = Random(seed)
        replicas = random.sample(NODES, random.choice([3, 3, 3, 2, 1]))
        world = World(metadata(4).topic(replicas, replicas))
        for step in history(random):
            try:
                world.do(step)
            except BrokerError:
                continue  # refused, as too few nodes are there: then nothing has changed
            finally:
                world.check()
        world.cluster.check_snapshot()
