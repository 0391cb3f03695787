"""Clients of several nodes: leaders that move, nodes that vanish, hang, or tell old news."""

import threading
import time

import pytest
from zmqbroker import Consumer, Producer, TopicPartition
from zmqbroker.client.backoff import retry_wait_s
from zmqbroker.client.options import CommonOptions
from zmqbroker.log.records import encode_batch
from zmqbroker.transport import messages as m

PRODUCE = m.ProduceRequest.API
FETCH = m.FetchRequest.API
METADATA = m.MetadataRequest.API
DROP = "drop"
T0 = TopicPartition("t", 0)


def producer_of(cluster, node=1, **settings) -> Producer:
    return Producer(bootstrap_servers=cluster.nodes[node - 1].servers, **settings)


def refusing(code):
    """A rule that refuses every batch of a request."""
    return lambda heard: m.ProduceReply(
        [m.PartitionProduced(e.topic, e.partition, code) for e in heard.body.partitions]
    )


def fill(cluster, count, first=0):
    """Store records with their numbers as values, one to a batch."""
    cluster.nodes[0].topics["t"] = 1
    leader = cluster.nodes[0].leaders.get(("t", 0), (1, 0))[0]
    for number in range(first, first + count):
        cluster.nodes[leader - 1]._append_one("t", 0, encode_batch([(1_000, None, b"%d" % number, [])]))


def read(consumer, count):
    """The offsets of so many records."""
    offsets = []
    deadline = time.monotonic() + 10
    while len(offsets) < count:
        assert time.monotonic() < deadline, f"{len(offsets)} of {count} records came"
        offsets += [record.offset for records in consumer.poll(200).values() for record in records]
    return offsets


def after(questions, change):
    """Rules for questions that are answered as usual; the last of them makes the change first."""

    def last(_):
        change()

    return [*[lambda _: None] * (questions - 1), last]


def test_a_wait_is_short_at_first_and_bounded():
    options = CommonOptions()
    waits = [retry_wait_s(options, failures) for failures in range(1, 100)]
    assert 0.04 <= waits[0] <= 0.05
    assert all(0.8 <= wait <= 1.0 for wait in waits[10:])
    assert sum(waits[:4]) < 0.41
    assert retry_wait_s(CommonOptions(retry_backoff_ms=3_000), 1) >= 2.4


def test_a_leader_that_stepped_down_costs_no_back_off(cluster):
    with producer_of(cluster, retry_backoff_ms=5_000) as producer:
        producer.send("t", b"0").get(5)
        cluster.lead(2, 1)
        producer.io.metadata._not_before = 0.0
        assert producer.send("t", b"1").get(2).offset == 1
        assert producer.metrics()["retries"] == 1
    assert len(cluster.nodes[1].requests(PRODUCE)) == 1


def test_a_leader_that_vanished_is_replaced_within_a_moment(cluster):
    with producer_of(cluster) as producer:
        producer.send("t", b"0").get(5)
        # It takes the others a while to notice; meanwhile they tell that the old one leads, or that nobody does.
        asked = []

        def notice(_):
            asked.append(time.monotonic())
            if len(asked) == 3:
                cluster.lead(-1, 1)
            if len(asked) == 5:
                cluster.lead(3, 2)

        for node in cluster.nodes[1:]:
            node.once(METADATA, *[notice] * 20)
        cluster.nodes[0].kill()
        began = time.monotonic()
        assert producer.send("t", b"1").get(5).offset == 1
        assert asked[2] - began < 3.0
        assert time.monotonic() - began < 5.0
    assert cluster.nodes[2].values("t") == [b"0", b"1"]


@pytest.mark.parametrize("code", [6, 7, 19, 20, 56])
def test_a_node_that_tells_old_news_is_not_asked_for_ever(cluster, code):
    old = cluster.nodes[0]
    with producer_of(cluster, retry_backoff_ms=5) as producer:
        producer.send("t", b"0").get(5)
        old.told = {}  # it has lost touch: to itself it leads still
        old.once(PRODUCE, *[refusing(code)] * 1_000)
        cluster.lead(2, 1)
        assert producer.send("t", b"1").get(5).offset == 1
        # Nor does its older knowledge bring the producer back.
        producer.io.metadata.refresh(at_once=True, besides=producer.io.connection(cluster.nodes[1].address))
        heard = len(old.requests(PRODUCE))
        assert producer.send("t", b"2").get(5).offset == 2
        assert len(old.requests(PRODUCE)) == heard


def test_a_node_that_keeps_silent_does_not_keep_the_others_from_being_asked(cluster):
    silent = cluster.nodes[1]
    silent.once(METADATA, *[lambda _: DROP] * 1_000)
    with producer_of(cluster) as producer:
        producer.send("t", b"0").get(5)
        connection = producer.io.connection(silent.address)
        producer.io.metadata.any_connection = lambda besides=(), usual=producer.io.metadata.any_connection: (
            connection if connection not in besides else usual(besides)
        )
        cluster.lead(3, 1)
        began = time.monotonic()
        assert producer.send("t", b"1").get(5).offset == 1
        assert time.monotonic() - began < 2


def test_a_node_that_knows_of_no_nodes_yet_is_not_believed(cluster):
    with producer_of(cluster, retry_backoff_ms=5) as producer:
        producer.send("t", b"0").get(5)
        for node in cluster.nodes[1:]:
            node.once(METADATA, lambda _: m.MetadataReply("scripted", -1, [], []))
        cluster.nodes[0].kill()
        cluster.lead(3, 1)
        assert producer.send("t", b"1").get(5).offset == 1


@pytest.mark.parametrize("idempotent", [False, True])
def test_nothing_overtakes_what_an_older_leader_may_still_store(cluster, idempotent):
    old, new = cluster.nodes[:2]
    with producer_of(cluster, enable_idempotence=idempotent, retry_backoff_ms=5, linger_ms=1) as producer:
        producer.send("t", b"0").get(5)
        old.once(PRODUCE, lambda _: DROP)
        first = producer.send("t", b"1")
        old.wait_for(lambda: len(old.requests(PRODUCE)) == 2)
        cluster.lead(2, 1)
        version = producer.io.metadata.version
        producer.io.metadata.refresh(at_once=True)
        second = producer.send("t", b"2")
        assert producer.io.wait_until(lambda: producer.io.metadata.version > version, time.monotonic() + 5)
        assert not producer.io.wait_until(lambda: new.requests(PRODUCE), time.monotonic() + 0.1)
        old.kill()
        assert [first.get(5).offset, second.get(5).offset] == [1, 2]
    assert new.values("t") == [b"0", b"1", b"2"]


def test_order_and_single_storage_survive_leaders_that_move_all_the_time(cluster):
    values = [b"%d" % number for number in range(3_000)]
    turns = iter(range(1, 1_000))

    def move(heard):
        """Every tenth request or so ends a reign: stored or not, answered or not."""
        turn = next(turns)
        if turn % 10:
            return None
        if turn % 20:
            cluster.nodes[0].append(heard) if cluster.nodes[0].leaders.get(("t", 0), (1, 0))[0] == 1 else None
        cluster.lead(turn // 10 % 3 + 1, turn)
        return [b"\xc1"] if turn % 30 else None

    for node in cluster.nodes:
        node.once(PRODUCE, *[move] * 1_000)
    with producer_of(cluster, retry_backoff_ms=1, reconnect_backoff_ms=1, batch_size=400) as producer:
        futures = [producer.send("t", value) for value in values]
        producer.flush(30)
        assert [future.get(0).offset for future in futures] == list(range(3_000))
    assert cluster.nodes[0].values("t") == values


def test_a_consumer_follows_its_leader_at_once(cluster):
    fill(cluster, 5)
    with Consumer(bootstrap_servers=cluster.nodes[0].servers, auto_offset_reset="earliest") as consumer:
        consumer.assign([T0])
        assert read(consumer, 5) == [0, 1, 2, 3, 4]
        cluster.lead(2, 1)
        fill(cluster, 5, 5)
        began = time.monotonic()
        assert read(consumer, 5) == [5, 6, 7, 8, 9]
        cluster.nodes[1].kill()
        cluster.lead(3, 2)
        fill(cluster, 5, 10)
        assert read(consumer, 5) == [10, 11, 12, 13, 14]
        assert time.monotonic() - began < 5.0


def test_an_offset_that_only_an_outdated_leader_misses_is_read_from_the_new_one(cluster):
    fill(cluster, 5)
    old = cluster.nodes[0]
    settings = {"auto_offset_reset": "earliest", "retry_backoff_ms": 5}
    with Consumer(bootstrap_servers=old.servers, **settings) as consumer:
        consumer.assign([T0])
        assert read(consumer, 5) == [0, 1, 2, 3, 4]
        missing = m.FetchReply([m.PartitionFetched("t", 0, 1, "not here")])
        old.once(FETCH, *[lambda _: missing] * 1_000)
        old.told = {}
        cluster.lead(2, 1)
        fill(cluster, 5, 5)
        assert read(consumer, 5) == [5, 6, 7, 8, 9]


def test_a_consumer_whose_leader_vanishes_before_it_has_a_position_starts_all_the_same(cluster):
    fill(cluster, 3)
    with Consumer(bootstrap_servers=cluster.nodes[0].servers, auto_offset_reset="earliest") as consumer:
        vanished = threading.Event()

        def vanish(_):
            vanished.set()
            return DROP

        cluster.nodes[0].once(m.ListOffsetsRequest.API, vanish)
        consumer.assign([T0])
        assert not consumer.poll(100)
        assert vanished.wait(5)
        cluster.nodes[0].kill()
        cluster.lead(2, 1)
        began = time.monotonic()
        assert read(consumer, 3) == [0, 1, 2]
        assert time.monotonic() - began < 5.0
