"""A transaction over three nodes, in virtual time: its coordinator, or a partition's leader, dies before it has ended.

The coordinator, the leaders of the two partitions and the coordinator of the group are not all on one node. The node of
the coordinator is killed at each of the moments from the request to end the transaction to the last marker.
"""

from __future__ import annotations

from functools import cached_property

import pytest
from zmqbroker.groups.partitioning import group_partition
from zmqbroker.groups.transaction_records import State
from zmqbroker.log.batch import read_header
from zmqbroker.log.plain_records import decode_batch, encode_batch
from zmqbroker.log.transactions import read_marker
from zmqbroker.simulation.client import SimClient
from zmqbroker.simulation.cluster import Cluster
from zmqbroker.simulation.conditions import NetworkConditions
from zmqbroker.simulation.network import SimNetwork
from zmqbroker.simulation.world import World
from zmqbroker.transport import group_messages as g
from zmqbroker.transport import transaction_messages as t
from zmqbroker.transport.internal_topics import OFFSETS_TOPIC, TRANSACTION_STATE_TOPIC
from zmqbroker.transport.messages import (
    READ_COMMITTED,
    CreateTopicsRequest,
    FetchRequest,
    InitProducerIdRequest,
    NewTopic,
    PartitionData,
    PartitionFetch,
    ProduceRequest,
)

LIMIT_MS = 120_000.0
PLACES = (("a", 0), ("a", 1))
AGAIN = {14, 15, 16, 51, 5, 6, 19, 20}
"""Codes of errors that pass."""


class Machines:
    """Three nodes, and one producer with a transactional id."""

    def __init__(self, seed):
        self.world = World(seed)
        network = SimNetwork(self.world, NetworkConditions())
        settings = {"transaction_state_log_num_partitions": 3, "offsets_topic_num_partitions": 3}
        self.cluster = Cluster(self.world, network, 3, settings)
        self.client = SimClient(self.world, network, "client", self.cluster.addresses)
        self.cluster.start()
        self.run_until(lambda: all(node.ready for node in self.cluster) and len(self.image().nodes) == 3)
        self.run_until(lambda: not any(node.fenced for node in self.image().nodes.values()))
        topic = NewTopic("a", -1, -1, [], [[1, 2, 3], [2, 3, 1]])
        assert not self.ask(1, CreateTopicsRequest([topic], 5_000)).body.topics[0].error_code
        for key_type in (g.TRANSACTION_COORDINATOR, g.GROUP_COORDINATOR):
            self.patiently(g.FindCoordinatorRequest(["any"], key_type), lambda: 1)
        self.run_until(lambda: all(self.leader(name, 0) > 0 for name in (TRANSACTION_STATE_TOPIC, OFFSETS_TOPIC)))
        self.sequences = dict.fromkeys(PLACES, 0)

    # ---- time and requests

    def run_until(self, condition):
        assert self.world.run_while(lambda: not condition(), LIMIT_MS)

    def node(self, node_id):
        return next(node for node in self.cluster if node.node_id == node_id)

    def image(self):
        images = [node.life.context.image for node in self.cluster if node.life]
        return max(images, key=lambda image: image.end_offset)

    def leader(self, topic, partition):
        found = self.image().topics.get(topic)
        return -1 if found is None else found.partitions[partition].leader

    def ask(self, node_id, request, batches=(), done=None):
        """What became of a request, or nothing yet as soon as it is done with."""
        outcomes = []
        self.client.ask(self.node(node_id).address, request, outcomes.append, batches, 10_000.0)
        self.run_until(lambda: outcomes or (done is not None and done()))
        return outcomes[0] if outcomes else None

    def patiently(self, request, where, batches=()):
        """Ask, wherever the right node is, until it is answered; returns the body."""
        while True:
            node_id = where()
            outcome = self.ask(node_id, request, batches) if node_id > 0 and self.node(node_id).ready else None
            body = outcome and outcome.body
            entries = getattr(body, "partitions", [])
            if body is not None and not any(entry.error_code for entry in entries):
                return body
            codes = {outcome.error.code} if outcome and outcome.error else {entry.error_code for entry in entries}
            assert codes <= AGAIN, outcome
            self.world.run_until(self.world.now_ms + 20)

    # ---- the producer

    @cached_property
    def name(self):
        """A transactional id whose coordinator is not where the partitions are led."""
        return next(name for name in map(str, range(99)) if self.leader_of(name) == 3)

    @cached_property
    def group(self):
        """A group whose coordinator is on another node than the transaction's."""
        return next(
            name for name in map(str, range(99)) if self.group_leader(name) not in (-1, self.leader_of(self.name))
        )

    def leader_of(self, name):
        return self.leader(TRANSACTION_STATE_TOPIC, group_partition(name, 3))

    def group_leader(self, name):
        return self.leader(OFFSETS_TOPIC, group_partition(name, 3))

    def coordinated(self, request):
        return self.patiently(request, lambda: self.leader_of(self.name))

    def begin(self):
        reply = self.coordinated(InitProducerIdRequest(transactional_id=self.name))
        self.who = (reply.producer_id, reply.producer_epoch)

    def write(self, value, offset):
        """A transaction of a record in each partition and an offset, which is not ended yet."""
        entries = [g.TopicPartitionEntry(*place) for place in PLACES]
        self.coordinated(t.AddPartitionsToTxnRequest(self.name, *self.who, entries))
        self.number = self.coordinated(t.AddOffsetsToTxnRequest(self.name, *self.who, self.group)).transaction
        for place in PLACES:
            options = {"producer_id": self.who[0], "producer_epoch": self.who[1], "transactional": True}
            rows = [(1_700_000_000_000, None, value, ())]
            batch = encode_batch(rows, base_sequence=self.sequences[place], **options)
            self.sequences[place] += 1
            request = ProduceRequest(-1, 5_000, [PartitionData(*place)], self.name)
            self.patiently(request, lambda place=place: self.leader(*place), [batch])
        entries = [g.OffsetToCommit("a", 0, offset)]
        request = t.TxnOffsetCommitRequest(self.name, *self.who, self.group, entries)
        self.patiently(request, lambda: self.group_leader(self.group))

    def end_request(self, *, committed):
        return t.EndTxnRequest(self.name, *self.who, committed, self.number)

    # ---- what came out

    def coordinator(self, node_id):
        address = f"coordinator/{TRANSACTION_STATE_TOPIC}/{group_partition(self.name, 3)}"
        return self.node(node_id).life.runner.reactor._actors.get(address)

    def is_over(self):
        """Whether some coordinator has ended the transaction, and no partition has it open."""
        node_id = self.leader_of(self.name)
        coordinator = self.coordinator(node_id) if node_id > 0 and self.node(node_id).ready else None
        if coordinator is None or not coordinator.is_loaded:
            return False
        return coordinator._table.transactions[self.name].state in (State.COMPLETE_COMMIT, State.COMPLETE_ABORT)

    def read(self, place):
        """The values that are committed, and the outcome that each marker says."""
        entry = PartitionFetch(*place, 0, 1 << 20)
        request = FetchRequest(0, 0, 1 << 20, [entry], isolation=READ_COMMITTED)
        outcome = self.ask(self.leader(*place), request)
        (state,) = outcome.body.partitions
        assert state.error_code == 0, state
        assert state.last_stable_offset == state.high_watermark
        aborted = {(entry.producer_id, entry.first_offset) for entry in state.aborted}
        values, markers, left_out, data, position = [], [], set(), outcome.frames[0], 0
        while position < len(data):
            header = read_header(data, position)
            batch = data[position : position + header.size]
            position += header.size
            left_out |= {who for who, first in aborted if first == header.base_offset}
            if header.is_control:
                markers.append(read_marker(batch).committed)
                left_out.discard(header.producer_id)
            elif header.producer_id not in left_out:
                values += [record.value for record in decode_batch(batch)]
        return values, markers

    def committed(self):
        request = g.OffsetFetchRequest(self.group, [g.TopicPartitionEntry("a", 0)], require_stable=True)
        (entry,) = self.patiently(request, lambda: self.group_leader(self.group)).partitions
        return entry.offset

    def check(self, values, markers, offset):
        """All of it or nothing is there, everywhere, and each transaction has ended once."""
        self.run_until(self.is_over)
        self.run_until(lambda: all(self.leader(*place) > 0 for place in PLACES))
        for place in PLACES:
            assert self.read(place) == (values, markers), place
        assert self.committed() == offset


@pytest.fixture
def machines():
    made = Machines(7)
    made.begin()
    made.write(b"first", 1)
    made.coordinated(made.end_request(committed=True))
    made.check([b"first"], [True], 1)
    made.write(b"second", 2)
    places = (made.leader("a", 0), made.leader("a", 1), made.leader_of(made.name))
    assert (places, made.group_leader(made.group) == 3) == ((1, 2, 3), False)
    return made


def moments(machines, node_id):
    """Whether it has come to it: each moment between the request to end a transaction and its end."""
    coordinator = machines.coordinator(node_id)
    transaction = coordinator._table.transactions[machines.name]

    def markers_left():
        endings = list(coordinator._markers._endings.values())
        return [len(ending.left) for ending in endings]

    return {
        "it is written down": lambda: transaction.is_prepared,
        "it is decided": lambda: bool(markers_left()),
        "some have markers": lambda: transaction.is_prepared and markers_left() and max(markers_left()) < 3,
    }


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("moment", ["it is written down", "it is decided", "some have markers", "it is answered"])
def test_a_coordinator_that_dies_has_a_successor_that_ends_the_transaction(machines, moment, committed):
    old = machines.leader_of(machines.name)
    done = moments(machines, old).get(moment)
    request = machines.end_request(committed=committed)
    outcome = machines.ask(old, request, done=done)
    assert not machines.is_over()
    machines.node(old).kill(60_000.0)
    machines.run_until(lambda: machines.leader_of(machines.name) not in (old, -1))
    if outcome is None or outcome.body is None:
        machines.coordinated(request)  # the producer does not know, and asks the next one
    values, offset = ([b"first", b"second"], 2) if committed else ([b"first"], 1)
    machines.check(values, [True, committed], offset)
    machines.write(b"third", 3)
    machines.coordinated(machines.end_request(committed=True))
    machines.check([*values, b"third"], [True, committed, True], 3)


@pytest.mark.parametrize("place", PLACES)
def test_a_leader_that_dies_has_a_successor_that_gets_the_marker(machines, place):
    old, coordinator = machines.leader(*place), machines.leader_of(machines.name)
    machines.ask(
        coordinator, machines.end_request(committed=True), done=moments(machines, coordinator)["it is decided"]
    )
    machines.node(old).kill(60_000.0)
    machines.run_until(lambda: machines.leader(*place) not in (old, -1))
    machines.check([b"first", b"second"], [True, True], 2)
