"""Coordinators and controllers that have a successor without knowing it say and do nothing that is no longer true."""

from __future__ import annotations

import pytest
from zmqbroker.errors import NotCoordinatorError
from zmqbroker.groups.partitioning import group_partition
from zmqbroker.simulation.client import SimClient
from zmqbroker.transport.group_messages import SHARE_COORDINATOR, FindCoordinatorRequest
from zmqbroker.transport.internal_topics import SHARE_STATE_TOPIC
from zmqbroker.transport.messages import CreateTopicsRequest, DeleteTopicsRequest, NewTopic
from zmqbroker.transport.share_messages import (
    ACK_ACCEPT,
    Acknowledgement,
    PartitionAcknowledgements,
    ShareAcknowledgeRequest,
    ShareFetchRequest,
)

FETCH_BYTES = 1 << 20


class Queue:
    """A share group whose coordinator is where its records are led, and one consumer on each side of the cut."""

    def __init__(self, machines):
        self.cluster = cluster = machines()
        self.old = cluster.leader
        cluster.ask(self.old.address, FindCoordinatorRequest(["any"], SHARE_COORDINATOR))
        cluster.run_until(lambda: all(state.leader > 0 for state in self.states()))
        me = self.old.life.context.config.node_id
        names = (f"g{number}" for number in range(1000))
        self.group = next(name for name in names if self.state_of(name).leader == me)
        self.near = SimClient(cluster.world, cluster.network, "near", [self.old.address])

    def states(self):
        return self.cluster.image().topics[SHARE_STATE_TOPIC].partitions

    def state_of(self, group):
        states = self.states()
        return states[group_partition(group, len(states))]

    def ask(self, client, node, request):
        outcomes = []
        client.ask(node.address, request, outcomes.append, (), 30_000.0)
        self.cluster.run_until(lambda: outcomes)
        return outcomes[0]

    def fetch(self, client, node, records_max):
        """What the coordinator on a node hands out: (first, last) of each range."""
        request = ShareFetchRequest(self.group, client.name, 1_000, records_max, FETCH_BYTES, ["data"])
        outcome = self.ask(client, node, request)
        if outcome.body is None:
            return outcome.error
        return [
            (found.first_offset, found.last_offset) for entry in outcome.body.partitions for found in entry.acquired
        ]

    def accept(self, client, node, first, last):
        acks = [PartitionAcknowledgements("data", 0, [Acknowledgement(first, last, ACK_ACCEPT)])]
        (entry,) = self.ask(client, node, ShareAcknowledgeRequest(self.group, client.name, acks)).body.acknowledged
        assert entry.error_code == 0, entry

    def cut_off(self):
        """Nothing passes between the old coordinator's node and the others, but its own consumer reaches it."""
        network = self.cluster.network
        for other in ("client", *(node.name for node in self.cluster.cluster if node is not self.old)):
            network.block(self.old.name, other)
            network.block(other, self.old.name)

    def successor(self):
        """The node whose coordinator has taken over."""
        before = self.old.life.context.config.node_id
        self.cluster.run_until(lambda: self.state_of(self.group).leader not in (before, -1))
        self.cluster.run_until(lambda: self.cluster.state().leader not in (before, -1))
        return self.cluster.node(self.state_of(self.group).leader)


@pytest.fixture
def queue(machines):
    return Queue(machines)


def test_what_a_successor_has_finished_is_not_delivered_by_the_coordinator_before_it(queue):
    assert queue.fetch(queue.near, queue.old, 1) == [(0, 0)]
    queue.accept(queue.near, queue.old, 0, 0)
    queue.cut_off()
    new = queue.successor()
    assert queue.old.life.context.image.topics["data"].partitions[0].leader == 1, "it has heard of nothing"
    client = queue.cluster.client
    queue.cluster.run_until(lambda: queue.fetch(client, new, 9) == [(1, 9)])
    queue.accept(client, new, 1, 9)
    found = queue.fetch(queue.near, queue.old, 9)
    assert found is None or isinstance(found, NotCoordinatorError), f"finished records were handed out: {found}"


def test_a_controller_that_hung_does_not_answer_by_what_it_knew(machines):
    # So fast an election that the client's connection has not been given up when the old controller goes on.
    cluster = machines(controller_quorum_fetch_timeout_ms=300, controller_quorum_election_timeout_ms=100)
    old = cluster.node(cluster.leader.life.context.controller_id)
    others = [node for node in cluster.cluster if node is not old]
    old.pause()
    outcomes = []
    cluster.client.ask(old.address, DeleteTopicsRequest(["new"], 20_000), outcomes.append, (), 60_000.0)
    cluster.run_until(lambda: all(node.life.context.controller_id not in (-1, old.node_id) for node in others))
    created = cluster.ask(others[0].address, CreateTopicsRequest([NewTopic("new", 1, 3)], 20_000))
    assert not created.body.topics[0].error_code
    old.resume()
    cluster.run_until(lambda: outcomes)
    (outcome,) = outcomes
    assert outcome.error is not None or not outcome.body.topics[0].error_code, "there is such a topic"
