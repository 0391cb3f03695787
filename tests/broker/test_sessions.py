"""Sessions: credit, floods, slow readers, quotas, silence, goodbyes, other clusters. Others are never affected."""

from __future__ import annotations

import time

import pytest
from zmqbroker.actors.commands import Frames
from zmqbroker.errors import InconsistentClusterIdError
from zmqbroker.transport.catalogue import REQUESTS
from zmqbroker.transport.config_messages import CLIENT_RESOURCE, AlterConfigsRequest, ResourceChange
from zmqbroker.transport.envelope import encode_request
from zmqbroker.transport.messages import (
    ApiVersionsRequest,
    CloseRequest,
    FetchRequest,
    MetadataRequest,
    NodeStatusRequest,
    PartitionFetch,
    ProduceRequest,
)

FLOOD = 10_000


def sessions(node):
    return node.on_reactor(lambda: sum(address.startswith("session/") for address in node.node._reactor.addresses()))


def held(node):
    return node.on_reactor(lambda: (node.context.open_requests, node.context.queued_bytes))


def test_the_first_message_tells_what_the_broker_is(node):
    client = node.client()
    reply = client.call(ApiVersionsRequest("me", "test"))
    assert (reply.node_id, reply.software) == (1, "zmqbroker")
    assert len(reply.apis) == len(REQUESTS)
    assert reply.cluster_id == client.call(MetadataRequest()).cluster_id
    again = client.call(ApiVersionsRequest("me", "test", reply.cluster_id))
    assert again == reply
    with pytest.raises(InconsistentClusterIdError, match="and the client means cluster other"):
        client.call(ApiVersionsRequest("me", "test", "other"))


@pytest.mark.parametrize("request_", [NodeStatusRequest(), MetadataRequest(["flood"])], ids=["status", "metadata"])
def test_a_flood_from_one_client_is_answered_whole_and_others_meanwhile(make_node, request_):
    node = make_node(session_credit_bytes=1000)
    flooding, other = node.client(), node.client()
    other.create("flood")
    numbers = [flooding.send(request_) for _ in range(FLOOD)]
    assert other.produce("flood", b"x").error_code == 0
    assert held(node)[1] < 2_000_000
    for number in numbers:
        assert flooding.receive().correlation_id == number
    assert flooding.hears_nothing()
    assert held(node) == (0, 0)


def test_a_flood_of_produces_beyond_the_credit_keeps_its_order(make_node):
    node = make_node(session_credit_bytes=2000)
    client = node.client()
    client.create("a")
    numbers = [client.send_produce("a", b"%d" % index) for index in range(2000)]
    offsets = [client.body_of(client.reply_to(n), ProduceRequest).partitions[0].base_offset for n in numbers]
    assert offsets == list(range(2000))
    assert client.counters()["requests-parked"] > 0
    assert held(node) == (0, 0)


def test_a_slow_reader_of_big_fetches_stops_nobody(make_node, eventually):
    """What one client does not read must not make the node deaf to the others."""
    node = make_node(queued_max_request_bytes="1MiB", session_credit_bytes="256KiB")
    other = node.client()
    other.create("a")
    for _ in range(4):
        other.produce("a", b"x" * 100_000)
    slow = node.client(RCVHWM=1, RCVBUF=4096)
    request = FetchRequest(0, 1, 4_000_000, [PartitionFetch("a", 0, 0, 4_000_000)])
    numbers = [slow.send(request) for _ in range(180)]
    eventually(lambda: node.on_reactor(lambda: node.context.counters["replies-put-aside"]) > 0, "the reader is slow")
    for _ in range(20):
        assert other.produce("a", b"y", acks=1).error_code == 0
    assert node.on_reactor(lambda: node.context.unsent_bytes) < 1_500_000
    for number in numbers:
        assert slow.reply_to(number).error_code == 0
    eventually(lambda: held(node) == (0, 0), "nothing is held")
    assert node.on_reactor(lambda: node.context.unsent_bytes) == 0


def test_a_client_that_leaves_without_a_word_is_forgotten_with_all_it_had(make_node, eventually):
    node = make_node(connections_max_idle_ms=50)
    client, other = node.client(), node.client()
    other.create("a")
    for _ in range(20):
        client.send_fetch("a", wait_ms=100)
    eventually(lambda: held(node)[0] == 20, "they wait")
    client.socket.close(0)
    eventually(lambda: held(node) == (0, 0), "they are over")
    eventually(lambda: sessions(node) <= 1, "the session is gone")
    assert other.produce("a", b"x").error_code == 0


def test_a_silent_session_ends_and_begins_anew(make_node, eventually):
    node = make_node(connections_max_idle_ms=30)
    client = node.client()
    client.call(NodeStatusRequest())
    eventually(lambda: sessions(node) == 0, "the session has ended")
    assert client.call(NodeStatusRequest()).node_id == 1


def test_a_request_that_comes_as_a_silent_session_ends_is_answered_by_the_next_one(node):
    client = node.client()
    client.create("a")
    waiting = FetchRequest(50, 1, 1 << 20, [PartitionFetch("a", 0, 0, 1 << 20)])

    def end_with_requests_in_the_mailbox():
        (address,) = [address for address in node.node._reactor.addresses() if address.startswith("session/")]
        session = node.actor(address)
        for number, request in ((77, waiting), (78, NodeStatusRequest())):
            session.actor_ref.tell(Frames([encode_request(request, number)]))
        session._last_heard_ms -= node.context.config.connections_max_idle_ms
        session._check_idle()

    node.on_reactor(end_with_requests_in_the_mailbox)
    assert {client.receive().correlation_id for _ in range(2)} == {77, 78}
    assert node.context.counters["sessions-closed"] == 1
    assert held(node) == (0, 0)


def test_a_session_that_waits_for_something_is_not_silent(make_node):
    node = make_node(connections_max_idle_ms=20)
    client = node.client()
    client.create("a")
    reply = client.reply_to(client.send_fetch("a", wait_ms=200))
    assert reply.error_code == 0


def test_a_goodbye_ends_the_session(node, eventually):
    client = node.client()
    client.call(NodeStatusRequest())
    client.send(CloseRequest())
    eventually(lambda: sessions(node) == 0, "the session has ended")
    assert client.call(NodeStatusRequest()).node_id == 1


def set_quota(client, name, **rates):
    pairs = [(key, None if rate is None else str(rate)) for key, rate in rates.items()]
    (result,) = client.call(AlterConfigsRequest([ResourceChange(CLIENT_RESOURCE, name, pairs)])).resources
    assert result.error_code == 0, result


def test_a_producer_beyond_its_quota_is_throttled_and_others_are_not(node):
    greedy, other = node.client(), node.client()
    greedy.create("a")
    set_quota(other, "greedy", producer_byte_rate=10_000)
    greedy.call(ApiVersionsRequest("greedy", "test"))
    began = time.monotonic()
    first = greedy.reply_to(greedy.send_produce("a", b"x" * 12_000))
    assert 100 < first.throttle_time_ms < 2000
    number = greedy.send(NodeStatusRequest())
    assert other.reply_to(other.send_produce("a", b"x" * 12_000)).throttle_time_ms == 0
    greedy.reply_to(number)
    assert time.monotonic() - began > first.throttle_time_ms / 1000
    set_quota(other, "greedy", producer_byte_rate=None)
    assert greedy.reply_to(greedy.send_produce("a", b"x" * 12_000)).throttle_time_ms == 0


def test_a_consumer_beyond_its_quota_is_throttled(node):
    client = node.client()
    client.create("a")
    client.produce("a", b"x" * 12_000)
    set_quota(client, "", consumer_byte_rate=10_000)
    assert client.reply_to(client.send_fetch("a")).throttle_time_ms > 100


def test_the_longer_of_two_throttles_counts(make_node):
    node = make_node(quota_producer_default=10_000, quota_consumer_default=1_000_000)
    client = node.client()
    client.create("a")
    began = time.monotonic()
    number = client.send_produce("a", b"x" * 13_000)
    fetch = client.send_fetch("a", wait_ms=2000)
    waits = [client.reply_to(n).throttle_time_ms for n in (number, fetch)]
    client.call(NodeStatusRequest())
    assert max(waits) > 200
    assert time.monotonic() - began > max(waits) / 1000


def test_a_session_that_is_over_leaves_no_timer_behind(node, eventually):
    """A timer holds its session: thousands of short connections would be kept for as long as one may be idle."""
    before = None
    for _ in range(5):
        client = node.client()
        client.call(NodeStatusRequest())
        client.send(CloseRequest())
        eventually(lambda: sessions(node) == 0, "the session has ended")
        timers = node.on_reactor(lambda: sum(entry[2].active for entry in node.node._reactor._timers._heap))
        assert before in (None, timers)
        before = timers
