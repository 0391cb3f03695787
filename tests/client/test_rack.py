"""Consumers that say their rack: they read from a follower there, and go back to the leader when it does not do."""

from __future__ import annotations

import asyncio
import time

import pytest
from zmqbroker import AsyncConsumer, Consumer, TopicPartition
from zmqbroker.errors import ConfigError
from zmqbroker.log.records import encode_batch
from zmqbroker.transport import messages as m

FETCH = m.FetchRequest.API
T0 = TopicPartition("t", 0)


@pytest.fixture
def racks(cluster):
    """Node 1 leads and sends consumers of rack `b` to node 2, which is asked about nothing else than records."""
    leader, follower = cluster.nodes[:2]
    leader.topics["t"] = 1
    usual = leader._fetch

    def lead(heard):
        if heard.body.rack != "b":
            return usual(heard)
        entries = [m.PartitionFetched(e.topic, e.partition, preferred_read_replica=2) for e in heard.body.partitions]
        entries[0].log_start_offset = 0
        return m.FetchReply(entries), [b""]

    leader.rules[FETCH] = _ForEver(lambda heard: lead(heard) if heard.body.rack == "b" else None)
    follower._refusal = lambda _topic, _partition, _epoch: 0
    return cluster


class _ForEver(list):
    """A list of rules that is never used up."""

    def __init__(self, rule):
        super().__init__([rule])

    def pop(self, _index):
        return self[0]


def fill(cluster, count):
    for number in range(count):
        cluster.nodes[0]._append_one("t", 0, encode_batch([(1_000, None, b"%d" % number, [])]))


def consumer_of(cluster, **settings):
    settings = {"client_rack": "b", "auto_offset_reset": "earliest", "retry_backoff_ms": 20, **settings}
    consumer = Consumer(bootstrap_servers=cluster.nodes[0].servers, **settings)
    consumer.assign([T0])
    return consumer


def read(consumer, count):
    offsets = []
    deadline = time.monotonic() + 10
    while len(offsets) < count:
        assert time.monotonic() < deadline, f"{len(offsets)} of {count} records came"
        offsets += [record.offset for records in consumer.poll(200).values() for record in records]
    return offsets


def error(code):
    return lambda _: (m.FetchReply([m.PartitionFetched("t", 0, code, "no")]), [b""])


def racks_heard(node):
    return [heard.body.rack for heard in node.requests(FETCH)]


def test_records_come_from_the_follower_that_the_leader_names(racks):
    fill(racks, 3)
    with consumer_of(racks) as consumer:
        assert read(consumer, 3) == [0, 1, 2]
        fill(racks, 2)
        assert read(consumer, 2) == [3, 4]
    assert len(racks_heard(racks.nodes[0])) == 1
    assert set(racks_heard(racks.nodes[1])) == {"b"}


def test_without_a_rack_the_leader_is_read(racks):
    fill(racks, 3)
    with consumer_of(racks, client_rack="") as consumer:
        assert read(consumer, 3) == [0, 1, 2]
    assert racks_heard(racks.nodes[1]) == []


@pytest.mark.parametrize("code", [1, 6, 56, 74, 75, 78], ids=lambda code: f"error-{code}")
def test_after_an_error_of_the_follower_the_leader_is_read_from_the_same_offset(racks, code):
    fill(racks, 2)
    racks.nodes[1].once(FETCH, error(code))
    with consumer_of(racks, auto_offset_reset="none") as consumer:
        consumer.seek(T0, 0)
        assert read(consumer, 2) == [0, 1]
    assert racks_heard(racks.nodes[0])[:2] == ["b", ""]


def test_the_follower_is_tried_again_after_a_while(racks):
    fill(racks, 1)
    racks.nodes[1].once(FETCH, error(78))
    with consumer_of(racks, fetch_max_wait_ms=50) as consumer:
        read(consumer, 1)
        consumer._fetcher.partitions[T0].far_until = 0.0
        fill(racks, 1)  # what the leader holds is answered: the next fetch says the rack again
        read(consumer, 1)
        racks.nodes[1].wait_for(lambda: len(racks_heard(racks.nodes[1])) == 2)


def test_a_follower_that_vanishes_is_replaced_by_the_leader_at_once(racks):
    fill(racks, 1)
    with consumer_of(racks) as consumer:
        read(consumer, 1)
        racks.nodes[1].kill()
        fill(racks, 1)
        began = time.monotonic()
        assert read(consumer, 1) == [1]
        assert time.monotonic() - began < 5.0


def test_a_follower_that_hangs_costs_one_time_out(racks):
    fill(racks, 1)
    racks.nodes[1].rules[FETCH] = _ForEver(lambda _: "drop")
    with consumer_of(racks, request_timeout_ms=300, fetch_max_wait_ms=100) as consumer:
        assert read(consumer, 1) == [0]
        for number in range(1, 4):
            fill(racks, 1)
            assert read(consumer, 1) == [number]
    assert len(racks_heard(racks.nodes[1])) == 1


def test_an_offset_that_is_nowhere_is_reset_by_the_leaders_word_only(racks):
    fill(racks, 3)
    with consumer_of(racks, auto_offset_reset="earliest") as consumer:
        consumer.seek(T0, 99)
        assert read(consumer, 3) == [0, 1, 2]


def test_the_leaders_choice_holds_no_longer_than_the_metadata(racks):
    fill(racks, 1)
    with consumer_of(racks, metadata_max_age_ms=100) as consumer:
        read(consumer, 1)
        state = consumer._fetcher.partitions[T0]
        assert state.near == 2
        while time.monotonic() < state.near_until:
            consumer.poll(20)
        fill(racks, 1)  # answers the fetch that waits; the next one asks the leader
        read(consumer, 1)
        racks.nodes[0].wait_for(lambda: len(racks_heard(racks.nodes[0])) >= 2)


def test_the_consumer_for_asyncio_does_the_same(racks):
    fill(racks, 3)

    async def go():
        settings = {"client_rack": "b", "auto_offset_reset": "earliest"}
        async with AsyncConsumer(bootstrap_servers=racks.nodes[0].servers, **settings) as consumer:
            consumer.assign([T0])
            return [(await consumer.getone()).offset for _ in range(3)]

    assert asyncio.run(go()) == [0, 1, 2]
    assert set(racks_heard(racks.nodes[1])) == {"b"}


def test_a_rack_is_a_text(racks):
    with pytest.raises(ConfigError, match="client_rack"):
        consumer_of(racks, client_rack=3)
