"""Transactions in the simulator: what comes late, twice, or of one that has a successor changes nothing."""

from __future__ import annotations

import pytest
from zmqbroker.errors import (
    InvalidProducerEpochError,
    ProducerFencedError,
    error_for,
)
from zmqbroker.groups.partitioning import group_partition
from zmqbroker.log.plain_records import encode_batch
from zmqbroker.simulation import probe
from zmqbroker.simulation.client import SimClient
from zmqbroker.simulation.connection import Side
from zmqbroker.simulation.history import History
from zmqbroker.simulation.workloads import FinalReader
from zmqbroker.transport import transaction_messages as t
from zmqbroker.transport.group_messages import (
    TRANSACTION_COORDINATOR,
    FindCoordinatorRequest,
    TopicPartitionEntry,
)
from zmqbroker.transport.internal_topics import TRANSACTION_STATE_TOPIC
from zmqbroker.transport.messages import (
    READ_COMMITTED,
    InitProducerIdRequest,
    MetadataRequest,
    PartitionData,
    ProduceRequest,
)
from zmqbroker.transport.peer_messages import WriteTxnMarkersRequest

PARTITION = ("data", 0)
COUNT_BEFORE = 10
"""Records that no transaction has written."""
LATE_MS = 2_000.0
TIMEOUT_MS = 60_000


class Producer:
    """A transactional producer, step by step, whose coordinator is on a node of choice."""

    def __init__(self, cluster, name, transactional_id):
        self.cluster = cluster
        self.name = transactional_id
        self.client = SimClient(cluster.world, cluster.network, name, cluster.cluster.addresses)
        self.producer_id = self.epoch = -1
        self.number = -1
        self.sequence = 0

    @property
    def me(self):
        return self.name, self.producer_id, self.epoch

    @property
    def coordinator(self):
        state = coordinator_state(self.cluster, self.name)
        return self.cluster.node(state.leader)

    def once(self, request, address=None, batches=()):
        """Ask one time; the error, or the body."""
        outcomes = []
        self.client.ask(address or self.coordinator.address, request, outcomes.append, batches, 30_000.0)
        self.cluster.run_until(lambda: outcomes)
        return outcomes[0].error or outcomes[0].body

    def ask(self, request):
        """Ask again while the last transaction is being ended, and while there is no coordinator."""
        while True:
            found = self.once(request)
            if found is not None and not getattr(found, "retriable", False):
                return found
            self.cluster.run_for(20.0)

    def begin(self, *given):
        found = self.ask(InitProducerIdRequest(*given or (-1, -1), self.name, TIMEOUT_MS))
        self.producer_id, self.epoch = found.producer_id, found.producer_epoch
        self.sequence = 0
        return self

    def add(self):
        found = self.ask(t.AddPartitionsToTxnRequest(*self.me, [TopicPartitionEntry(*PARTITION)]))
        if isinstance(found, t.AddPartitionsToTxnReply):
            self.number = found.transaction
        return found

    def batch(self, value):
        producer_id, epoch = self.producer_id, self.epoch
        records = [(0, None, value, ())]
        data = encode_batch(
            records, producer_id=producer_id, producer_epoch=epoch, base_sequence=self.sequence, transactional=True
        )
        request = ProduceRequest(-1, 10_000, [PartitionData(*PARTITION)], self.name)
        return request, [data]

    def write(self, value):
        """Write one record; the error, or where it is."""
        request, batches = self.batch(value)
        found = self.once(request, self.cluster.leader.address, batches).partitions[0]
        if found.error_code:
            return error_for(found.error_code, found.error_message)
        self.sequence += 1
        return found.base_offset

    def end(self, *, committed, number=-1):
        return self.ask(t.EndTxnRequest(*self.me, committed=committed, transaction=number))


def coordinator_state(cluster, transactional_id):
    states = cluster.image().topics[TRANSACTION_STATE_TOPIC].partitions
    return states[group_partition(transactional_id, len(states))]


@pytest.fixture
def cluster(machines):
    cluster = machines((("flush", "ack"),), transaction_state_log_num_partitions=4, offsets_topic_num_partitions=1)
    cluster.ask(cluster.leader.address, FindCoordinatorRequest(["any"], TRANSACTION_COORDINATOR))
    cluster.run_until(lambda: coordinator_state(cluster, "any").leader > 0)
    return cluster


def id_coordinated(cluster, *, by_leader):
    """A transactional id that is coordinated on the node that leads the data, or on another one."""
    leader = cluster.state().leader
    names = (f"id{number}" for number in range(1000))
    return next(name for name in names if (coordinator_state(cluster, name).leader == leader) == by_leader)


def committed(cluster):
    """What a reader of committed records is given."""
    history = History(cluster.world)
    history.note_read = history.transactions.leave_out = lambda *_: None
    client = SimClient(cluster.world, cluster.network, "reader", cluster.cluster.addresses)
    reader = FinalReader(client, history, [PARTITION], READ_COMMITTED)
    reader.start()
    cluster.run_until(lambda: not reader.busy)
    return reader.found[PARTITION][COUNT_BEFORE:]


def stable(cluster):
    """(last stable offset, high watermark) of the leader."""
    replica = next(found for found in probe.replicas(cluster.leader) if found.key.topic == "data")
    return replica.log.stable_offset(replica.high_watermark), replica.high_watermark


def is_stable(cluster):
    offset, high_watermark = stable(cluster)
    return offset == high_watermark


def delay_next(cluster, request, late_ms=LATE_MS):
    """The next request of a kind comes late, on a connection that its sender has given up."""
    caught = []

    def let_go(connection):
        caught.append(connection)
        cluster.world.later(0.0, "late", lambda: connection.abandon(Side.CLIENT, late_ms))

    cluster.network.lie_in_wait("late", lambda sent: sent.api == request.API, let_go)
    return caught


# ---- scenarios


@pytest.mark.parametrize("by_leader", [True, False])
def test_who_has_a_successor_is_fenced_everywhere(cluster, by_leader):
    name = id_coordinated(cluster, by_leader=by_leader)
    old = Producer(cluster, "old", name).begin()
    old.add()
    assert old.write(b"of the old one") == 10
    new = Producer(cluster, "new", name).begin()
    assert (new.producer_id, new.epoch > old.epoch) == (old.producer_id, True)
    assert isinstance(old.write(b"more of it"), InvalidProducerEpochError)
    assert isinstance(old.end(committed=True), ProducerFencedError)
    assert isinstance(old.add(), ProducerFencedError)
    assert isinstance(old.ask(InitProducerIdRequest(*old.me[1:], name, TIMEOUT_MS)), ProducerFencedError)
    new.add()
    assert new.write(b"of the new one") > 10
    assert new.end(committed=True, number=new.number) == t.Body()
    assert committed(cluster) == [b"of the new one"]


def test_another_coordinator_goes_on_in_the_middle_of_markers(cluster):
    producer = Producer(cluster, "producer", id_coordinated(cluster, by_leader=False)).begin()
    producer.add()
    producer.write(b"committed")
    old, leader = producer.coordinator, cluster.leader
    caught = delay_next(cluster, WriteTxnMarkersRequest, late_ms=60_000.0)
    assert producer.end(committed=True, number=producer.number) == t.Body()
    cluster.run_until(lambda: caught)
    for pair in ((old.name, leader.name), (leader.name, old.name)):
        cluster.network.block(*pair)
    assert not is_stable(cluster), "its marker is on its way"
    old.kill(30_000.0)
    cluster.run_until(lambda: is_stable(cluster))
    assert producer.coordinator is not old
    assert committed(cluster) == [b"committed"]


def test_a_marker_that_comes_late_does_not_end_the_next_transaction(cluster):
    producer = Producer(cluster, "producer", id_coordinated(cluster, by_leader=False)).begin()
    producer.add()
    producer.write(b"first")
    delay_next(cluster, WriteTxnMarkersRequest)
    producer.end(committed=True, number=producer.number)
    late_at_ms = cluster.world.now_ms + LATE_MS
    producer.add()
    producer.write(b"second")
    assert cluster.world.now_ms < late_at_ms, "the marker was sent again before it came"
    cluster.run_for(2 * LATE_MS)
    assert not is_stable(cluster)
    assert producer.write(b"third") > 0
    producer.end(committed=False, number=producer.number)
    cluster.run_until(lambda: is_stable(cluster))
    assert committed(cluster) == [b"first"]


def test_an_end_that_comes_late_does_not_end_the_next_transaction(cluster):
    producer = Producer(cluster, "producer", id_coordinated(cluster, by_leader=False)).begin()
    producer.add()
    producer.write(b"first")
    delay_next(cluster, t.EndTxnRequest)
    assert producer.end(committed=True, number=producer.number) == t.Body()
    late_at_ms = cluster.world.now_ms + LATE_MS
    producer.add()
    producer.write(b"second")
    assert cluster.world.now_ms < late_at_ms, "it was sent again before it came"
    cluster.run_for(2 * LATE_MS)
    assert not is_stable(cluster)
    assert producer.end(committed=False, number=producer.number) == t.Body()
    cluster.run_until(lambda: is_stable(cluster))
    assert committed(cluster) == [b"first"]


def test_a_batch_that_comes_after_the_end_begins_nothing(cluster):
    producer = Producer(cluster, "producer", id_coordinated(cluster, by_leader=False)).begin()
    producer.add()
    producer.write(b"first")
    caught = delay_next(cluster, ProduceRequest)
    request, batches = producer.batch(b"late")
    assert producer.once(request, cluster.leader.address, batches) is None
    assert caught
    producer.end(committed=False, number=producer.number)
    cluster.run_for(2 * LATE_MS)
    assert is_stable(cluster)
    assert stable(cluster)[1] == 12, "ten records before, one in the transaction, and its marker"


def test_a_batch_that_comes_with_the_marker_begins_nothing(cluster):
    """The leader hangs, and finds both when it goes on, in one turn of the partition."""
    producer = Producer(cluster, "producer", id_coordinated(cluster, by_leader=False)).begin()
    producer.add()
    producer.write(b"first")
    other = SimClient(cluster.world, cluster.network, "other", cluster.cluster.addresses)
    leader, outcomes, greeted = cluster.leader, [], []
    other.ask(leader.address, MetadataRequest(None), greeted.append)
    cluster.run_until(lambda: greeted)
    end = t.EndTxnRequest(*producer.me, committed=False, transaction=producer.number)
    request, batches = producer.batch(b"late")
    caught = delay_next(cluster, WriteTxnMarkersRequest, late_ms=100.0)
    producer.client.ask(producer.coordinator.address, end, outcomes.append)
    cluster.run_until(lambda: caught)
    leader.pause()
    cluster.run_for(200.0)
    other.ask(leader.address, request, outcomes.append, batches)
    cluster.run_for(50.0)
    leader.resume()
    cluster.run_until(lambda: len(outcomes) == 2)
    cluster.run_for(1_000.0)
    assert is_stable(cluster)
    assert committed(cluster) == []
