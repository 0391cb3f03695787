"""How a producer that writes to many partitions puts them into few requests."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from zmqbroker import Producer, errors
from zmqbroker.client.accumulator import PartitionQueue, ProducerBatch
from zmqbroker.client.closing import due_time, is_due
from zmqbroker.client.pace import Pace
from zmqbroker.transport import messages as m

PRODUCE = m.ProduceRequest.API
PARTITIONS = 100
PATIENCE_S = 10
FAST = {"retry_backoff_ms": 5, "reconnect_backoff_ms": 5, "reconnect_backoff_max_ms": 20}


class HungBroker:
    """A scripted broker that hangs in its next request until it goes on."""

    def __init__(self, server, instead=None):
        self.is_hung, self._goes_on, self._instead = threading.Event(), threading.Event(), instead
        server.topics["t"] = PARTITIONS
        server.once(PRODUCE, self._hang)

    def _hang(self, _):
        self.is_hung.set()
        assert self._goes_on.wait(PATIENCE_S)
        return self._instead

    def go_on(self):
        self._goes_on.set()


@pytest.fixture
def make(server):
    def producer(**settings):
        return Producer(bootstrap_servers=server.servers, **{**FAST, **settings})

    return producer


def to_all(producer, rounds=3):
    return [
        producer.send("t", b"%d" % number, partition=partition)
        for number in range(rounds)
        for partition in range(PARTITIONS)
    ]


@pytest.mark.parametrize("linger_ms", [0, 1])
def test_what_is_sent_to_many_partitions_leaves_together(server, make, linger_ms):
    broker = HungBroker(server)
    with make(linger_ms=linger_ms) as producer:
        producer.send("t", b"first", partition=0)
        assert broker.is_hung.wait(PATIENCE_S)
        futures = to_all(producer)
        broker.go_on()
        producer.flush(PATIENCE_S)
        assert all(future.succeeded() for future in futures)
    assert server.values("t", 0) == [b"first", b"0", b"1", b"2"]
    for partition in range(1, PARTITIONS):
        assert server.values("t", partition) == [b"0", b"1", b"2"]
    under_way = 5  # a few leave one by one, then each answer lets all that has gathered go
    assert len(server.requests(PRODUCE)) <= 3 * under_way


def test_no_more_requests_are_under_way_than_may_be(server, make):
    broker = HungBroker(server)
    with make(max_in_flight_requests_per_connection=2, linger_ms=0) as producer:
        futures = to_all(producer, 1)
        assert broker.is_hung.wait(PATIENCE_S)
        assert producer.metrics()["requests_sent"] <= 2
        broker.go_on()
        producer.flush(PATIENCE_S)
        assert all(future.succeeded() for future in futures)


def test_what_is_held_goes_after_a_connection_that_breaks(server, make):
    broker = HungBroker(server, [b"\xc1"])  # not msgpack: the client gives the connection up
    with make(max_in_flight_requests_per_connection=1) as producer:
        futures = to_all(producer)
        assert broker.is_hung.wait(PATIENCE_S)
        broker.go_on()
        producer.flush(PATIENCE_S)
        assert all(future.succeeded() for future in futures)


def test_what_is_held_expires_in_its_time(server, make):
    broker = HungBroker(server)
    producer = make(max_in_flight_requests_per_connection=1, delivery_timeout_ms=200, request_timeout_ms=100)
    futures = to_all(producer, 1)
    assert broker.is_hung.wait(PATIENCE_S)
    for future in futures:
        with pytest.raises(errors.RequestTimedOutError, match="delivery_timeout_ms=200"):
            future.get(PATIENCE_S)
    broker.go_on()
    with pytest.raises(errors.RequestTimedOutError, match=r"^100 records failed"):
        producer.close()


def test_a_batch_is_held_until_its_time_is_up_and_asks_for_no_look_meanwhile():
    queue = PartitionQueue("t", 0)
    queue.open = batch = ProducerBatch(SimpleNamespace(), queue, 1_000, 10.0, 20.0)
    batch.records.append(0, None, b"x", ())
    for linger_s in (0.0, 1.0):
        assert not is_due(queue, 19.0, linger_s, crowded=False, held=True)
        assert not is_due(queue, 19.0, linger_s, crowded=True, held=True)
        assert is_due(queue, 19.0, linger_s, crowded=False, held=False)
        assert is_due(queue, 20.0, linger_s, crowded=False, held=True)
        assert due_time(queue, batch, linger_s, held=True) == 20.0


def test_only_a_fast_producer_waits_for_the_answer_to_something_else():
    leader, other = object(), object()
    pace = Pace(2)
    now = 100.0
    for _ in range(50):
        now += 0.002
        pace.closed(now)
    pace.sent(leader)
    assert not pace.holds(leader)
    for _ in range(100):
        now += 0.0005
        pace.closed(now)
    assert pace.holds(leader)
    assert not pace.holds(other)
    assert not pace.holds(None)
    pace.ended(leader)
    assert not pace.holds(leader)
    now += 1.0
    pace.closed(now)
    pace.sent(leader)
    assert not pace.holds(leader), "it was fast a second ago"


def test_a_leader_with_as_many_requests_as_may_be_gets_no_more():
    leader = object()
    pace = Pace(2)
    pace.sent(leader)
    assert not pace.is_full(leader)
    pace.sent(leader)
    assert pace.is_full(leader)
    assert pace.holds(leader)
    pace.ended(leader)
    assert not pace.is_full(leader)
    assert not pace.holds(leader)
